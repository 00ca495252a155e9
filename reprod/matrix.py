"""The corpus against revisions of AITER: for each entry, where its fault is found, where it is fixed and where it never was.

Columns are the built-in releases, or any revisions of a checkout, such as those that serving frameworks are built with.
Knows entries and outcomes; how the faults are found is the path's business.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from backend.aiter.release import release
from backend.call import Call
from backend.case import RELEASES, Case
from backend.errors import CannotRunError
from backend.findings import Finding
from backend.git import git
from backend.outcome import Outcome
from backend.path import Path
from backend.serving.frameworks import Pin, pins
from reprod.corpus import CorpusEntry, Expected, OpenPaths, ReplayStatus, Side, replay
from reprod.text import markdown_table, table


class MatrixCell(StrEnum):
    """How the first case of an entry's faulty side stands at a revision."""

    FOUND = "found"
    PLANTED = "found (planted)"  # by a stand-in for a kernel of which there is no code object
    FIXED = "fixed"  # silent, and found in an earlier column
    SILENT = "silent"
    OTHER = "another fault"
    REFUSED = "refused"
    CANNOT_RUN = "cannot run"


@dataclass(frozen=True, slots=True)
class Column:
    """One AITER. name: for people. revision: of a checkout; None: the built-in release of that name.

    users: releases of serving frameworks that are built with it, in words.
    """

    name: str
    revision: str | None = None
    users: str = ""


BUILT_IN = tuple(Column(name) for name in RELEASES)


@dataclass(frozen=True, slots=True)
class MatrixRow:
    """One entry. cells: in the order of the columns. replayed: how the entry as a whole stands (reprod.corpus), where asked."""

    entry: CorpusEntry
    cells: tuple[MatrixCell, ...]
    replayed: ReplayStatus | None


def shipped_columns() -> tuple[Column, ...]:
    """A column for each revision that a framework's release is built with, in the order of the pins."""
    users: dict[str, list[Pin]] = {}
    for pin in pins():
        users.setdefault(pin.aiter, []).append(pin)
    return tuple(Column(using[0].short, revision, _users(using)) for revision, using in users.items())


def pinned_columns(checkout: str) -> tuple[tuple[Column, ...], tuple[Column, ...]]:
    """Those of them that a checkout has, oldest first, and those that it has not."""
    dated, absent = [], []
    for column in shipped_columns():
        shown = git(checkout, "log", "-1", "--format=%ct", "--end-of-options", str(column.revision))
        if shown is None:
            absent.append(column)
        else:
            dated.append((int(shown), column))
    return tuple(column for _, column in sorted(dated, key=lambda each: each[0])), tuple(absent)


def _users(using: Sequence[Pin]) -> str:
    named: dict[str, list[str]] = {}
    for pin in using:
        named.setdefault(pin.framework, []).append(pin.release + ("?" if pin.doubt else ""))
    return "; ".join(f"{framework} {', '.join(releases)}" for framework, releases in named.items())


def matrix(
    entries: Sequence[CorpusEntry], paths: OpenPaths, columns: Sequence[Column] = BUILT_IN, replays: bool = True
) -> tuple[MatrixRow, ...]:
    """A row for each entry. An entry of a device that runs code objects is run with those of each column's own commit.

    replays: whether each entry's own sides are run too.
    """
    return tuple(_row(entry, paths, columns, replays) for entry in entries)


def _row(entry: CorpusEntry, paths: OpenPaths, columns: Sequence[Column], replays: bool) -> MatrixRow:
    _, side = next(entry.sides())
    cells: list[MatrixCell] = []
    seen: dict[str, MatrixCell] = {}
    for column in columns:
        cell = _cell(side, column, paths, seen)
        cells.append(MatrixCell.FIXED if cell is MatrixCell.SILENT and MatrixCell.FOUND in cells else cell)
    return MatrixRow(entry, tuple(cells), replay(entry, paths).status if replays else None)


def _cell(side: Side, column: Column, paths: OpenPaths, seen: dict[str, MatrixCell]) -> MatrixCell:
    """seen: by calls that were run before: revisions that make the same call of the same code object are run once."""
    case = next(side.cases())
    try:
        path = _opened(side, column, paths)
        case = case.replace(release=column.name) if column.revision is None else case
        made = path.launched(case)
        known = _same_call(made) if isinstance(made, Call) else None
        if known is not None and known in seen:
            return seen[known]
        cell = _stands(side, path, case, made)
    except CannotRunError:
        return MatrixCell.CANNOT_RUN
    if known is not None:
        seen[known] = cell
    return cell


def _stands(side: Side, path: Path, case: Case, made: Call | Outcome) -> MatrixCell:
    outcome = path.run(case) if isinstance(made, Call) or not made.unknown else made
    if outcome.unknown:
        return MatrixCell.CANNOT_RUN
    cause = outcome.cause
    if cause is not None and side.expect and _is_expected(side.expect[0].whatever_kernel(cause), cause):
        return MatrixCell.PLANTED if side.planted else MatrixCell.FOUND
    if outcome.refused is not None:
        return MatrixCell.REFUSED
    return MatrixCell.OTHER if outcome.findings else MatrixCell.SILENT


def _is_expected(expected: Expected, cause: Finding) -> bool:
    """Whether it is that fault, grave or not: two faults of one kind at one place differ in what figures they have."""
    return expected.same_place(cause) and expected.figures.keys() <= cause.evidence.keys()


def _same_call(made: Call) -> str | None:
    """All that a device runs of a call, None where its code object is not known."""
    launch = made.launched
    if launch.blob_id is None:
        return None
    words = () if made.plan is None else tuple((n, b.first, b.image.tobytes()) for n, b in made.plan.buffers.items())
    kept = (launch.blob_id, launch.grid, launch.block, launch.kernargs, launch.tensors, launch.second_stage)
    return repr((kept, launch.release.name, made.allocated, made.needed, words))


def _opened(side: Side, column: Column, paths: OpenPaths) -> Path:
    if side.needs:
        raise CannotRunError(side.needs)
    revision = column.revision
    if revision is None and side.revision is not None:
        revision = release(column.name).commit
    return paths(dataclasses.replace(side.machine, revision=revision))


def matrix_lines(rows: Sequence[MatrixRow], columns: Sequence[Column] = BUILT_IN) -> list[str]:
    """The matrix as text."""
    own = any(row.replayed is not None for row in rows)
    shown = [(row.entry.id, row.entry.title, *row.cells, *((row.replayed,) if own else ())) for row in rows]
    header = ("entry", "what", *(column.name for column in columns), *(("its own sides",) if own else ()))
    return table(header, shown, indent="")


HEADER = ("entry", "what", "class", "verdict", *RELEASES, "its own sides")


def matrix_markdown(rows: Sequence[MatrixRow]) -> list[str]:
    """The matrix as a table in GitHub's markdown, entries linked to their upstream references."""
    shown = [
        (row.entry.id, _linked(row.entry), row.entry.fault_class, row.entry.verdict, *row.cells, row.replayed) for row in rows
    ]
    return markdown_table(HEADER, shown)


def pinned_markdown(rows: Sequence[MatrixRow], columns: Sequence[Column]) -> list[str]:
    """Who is built with which revision, and the matrix of those."""
    users = markdown_table(("AITER", "in"), [(column.name, column.users) for column in columns])
    header = ("shipped", *(column.name for column in columns))
    return [*users, "", *markdown_table(header, [(row.entry.id, *row.cells) for row in rows])]


def _linked(entry: CorpusEntry) -> str:
    references = ", ".join(_link(reference) for reference in entry.references)
    return f"{entry.title} ({references})" if references else entry.title


def _link(reference: str) -> str:
    repository, _, number = reference.partition("#")
    return f"[{repository.rpartition('/')[2]}#{number}](https://github.com/{repository}/issues/{number})"


SHIPPED = "## Who ships what"
"""Heading of the part about pinned revisions."""

DOCUMENT = """\
# The corpus against AITER

Written by `{command}`; a test says when it is out of date.

The first case of each entry, at each revision. **found**: shows what the entry expects first (planted: by a stand-in for a
kernel that no release ships); **fixed**: silent, and found in an earlier column; **silent**: never was there, or a control;
**another fault**: shows something else first; **refused**: AITER or the backend raises; **cannot run**: needs what was not
there when this was written. An entry of machine code is run with the code objects of each revision's own commit; a caller's
fault stays found wherever the kernels have the shape, because it is the caller who has mended it.

## At the built-in releases

The last column is `aiterfuzz corpus replay`: whether its faulty sides show what they should and its fixed sides nothing.

{built_in}

{shipped}

At each revision that a release of sglang or vLLM is built with (backend/serving/pins.csv has the sources; `?`: it may be built
with another), oldest first. Rules of callers (head width, buffers sized too small ...) are those that the entry names;
whether a release of a framework still has them says `aiterfuzz gate sglang==X --aiter CHECKOUT`.

{pinned}
"""


def document(rows: Sequence[MatrixRow], command: str, pinned: Sequence[MatrixRow], columns: Sequence[Column]) -> str:
    """docs/corpus.md. command: that writes it. pinned: rows of `columns`."""
    parts = {
        "shipped": SHIPPED,
        "built_in": "\n".join(matrix_markdown(rows)),
        "pinned": "\n".join(pinned_markdown(pinned, columns)),
    }
    return DOCUMENT.format(command=command, **parts)
