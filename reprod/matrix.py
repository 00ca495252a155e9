"""The corpus against the releases: for each entry, where its fault is found, where it is fixed and where it never was.

Knows entries and outcomes; how the faults are found is the path's business.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from backend.aiter.release import release
from backend.case import RELEASES
from backend.errors import CannotRunError
from reprod.corpus import CorpusEntry, PathFactory, ReplayStatus, Side, replay
from reprod.shrink import Runner
from reprod.text import markdown_table, table


class MatrixCell(StrEnum):
    """How the first case of an entry's faulty side stands at a release."""

    FOUND = "found"
    PLANTED = "found (planted)"  # by a stand-in for a kernel of which there is no code object
    FIXED = "fixed"  # silent, and found at an earlier release
    SILENT = "silent"
    OTHER = "another fault"
    REFUSED = "refused"
    CANNOT_RUN = "cannot run"


@dataclass(frozen=True, slots=True)
class MatrixRow:
    """One entry. cells: by release, in the order of RELEASES. replayed: how the entry as a whole stands (reprod.corpus)."""

    entry: CorpusEntry
    cells: tuple[MatrixCell, ...]
    replayed: ReplayStatus


def matrix(entries: Sequence[CorpusEntry], paths: PathFactory) -> tuple[MatrixRow, ...]:
    """A row for each entry. An entry of a device that runs code objects is run with those of each release's own commit."""
    return tuple(_row(entry, paths) for entry in entries)


def _row(entry: CorpusEntry, paths: PathFactory) -> MatrixRow:
    _, side = next(entry.sides())
    cells: list[MatrixCell] = []
    for name in RELEASES:
        cell = _cell(side, name, paths)
        cells.append(MatrixCell.FIXED if cell is MatrixCell.SILENT and MatrixCell.FOUND in cells else cell)
    return MatrixRow(entry, tuple(cells), replay(entry, paths).status)


def _cell(side: Side, name: str, paths: PathFactory) -> MatrixCell:
    try:
        outcome = _opened(side, name, paths).run(next(side.cases()).replace(release=name))
    except CannotRunError:
        return MatrixCell.CANNOT_RUN
    if outcome.unknown:
        return MatrixCell.CANNOT_RUN
    cause = outcome.cause
    if cause is not None and side.expect and side.expect[0].same_place(cause):
        return MatrixCell.PLANTED if side.planted else MatrixCell.FOUND
    if outcome.refused is not None:
        return MatrixCell.REFUSED
    return MatrixCell.OTHER if outcome.findings else MatrixCell.SILENT


def _opened(side: Side, name: str, paths: PathFactory) -> Runner:
    if side.needs:
        raise CannotRunError(side.needs)
    revision = release(name).commit if side.revision is not None else None
    return paths(dataclasses.replace(side.machine, revision=revision))


HEADER = ("entry", "what", "class", "verdict", *RELEASES, "its own sides")


def matrix_lines(rows: Sequence[MatrixRow]) -> list[str]:
    """The matrix as text."""
    shown = [(row.entry.id, row.entry.title, *row.cells, row.replayed) for row in rows]
    return table(("entry", "what", *RELEASES, "its own sides"), shown, indent="")


def matrix_markdown(rows: Sequence[MatrixRow]) -> list[str]:
    """The matrix as a table in GitHub's markdown, entries linked to their upstream references."""
    shown = [
        (row.entry.id, _linked(row.entry), row.entry.fault_class, row.entry.verdict, *row.cells, row.replayed) for row in rows
    ]
    return markdown_table(HEADER, shown)


def _linked(entry: CorpusEntry) -> str:
    references = ", ".join(_link(reference) for reference in entry.references)
    return f"{entry.title} ({references})" if references else entry.title


def _link(reference: str) -> str:
    repository, _, number = reference.partition("#")
    return f"[{repository.rpartition('/')[2]}#{number}](https://github.com/{repository}/issues/{number})"


DOCUMENT = """\
# The corpus against the releases of AITER

Written by `{command}`; a test says when it is out of date.

The first case of each entry, at each release that is built in. **found**: shows what the entry expects first (planted: by a
stand-in for a kernel that no release ships); **fixed**: silent, and found at an earlier release; **silent**: never was there,
or a control; **another fault**: shows something else first; **refused**: AITER or the backend raises; **cannot run**: needs
what was not there when this was written. The last column is `aiterfuzz replay`: whether the entry's faulty sides show what
they should and its fixed sides nothing. An entry of machine code is run with the code objects of each release's own commit;
a caller's fault stays found at every release whose kernels have the shape, because it is the caller who has mended it.

{table}
"""


def document(rows: Sequence[MatrixRow], command: str) -> str:
    """docs/corpus.md. command: that writes it."""
    return DOCUMENT.format(command=command, table="\n".join(matrix_markdown(rows)))
