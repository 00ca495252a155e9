"""`aiterfuzz corpus replay`: run corpus entries again and say which are found, which silent, which changed."""

from __future__ import annotations

import argparse
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

from backend.errors import UsageError
from backend.words import counted
from fuzz.commands.printing import Rows, add_lengths, concluded

if TYPE_CHECKING:
    from collections.abc import Sequence

    from backend.fate import Fate
    from fuzz.verdict import Verdict
    from reprod.corpus import CorpusEntry, OpenPaths, ReplayStatus
    from reprod.matrix import Column

DOCUMENT_COMMAND = "aiterfuzz corpus replay corpus/ --aiter CHECKOUT --markdown docs/corpus.md"


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declares the command and its flags."""
    command = commands.add_parser(
        "replay",
        help="run known faults and controls again",
        description="Runs each entry of a corpus on its faulty and on its fixed side: what an entry records is expected, so "
        "that it exits 0 where every entry stands as recorded, and 1 where one has changed. Of a finding (nothing is expected "
        "of its case), and of entries at one revision of AITER (--aiter PATH@REV), it exits 1 where a fault is found.",
    )
    command.add_argument(
        "corpus",
        nargs="*",
        type=Path,
        metavar="CORPUS",
        help="folder of entries, one entry's file, or a known fault's id, as F1 (all that come with aiterfuzz); or a finding's "
        "folder or case.json",
    )
    command.add_argument(
        "--aiter",
        metavar="PATH[@REV]",
        help="a revision of ROCm/aiter that every entry is run at; without REV the checkout with the revisions that entries "
        "name",
    )
    command.add_argument("--matrix", action="store_true", help="every entry at every release: found, fixed or silent")
    command.add_argument(
        "--markdown",
        type=Path,
        metavar="FILE",
        help="write that matrix, and the one of what frameworks ship, as a document",
    )
    add_lengths(command)
    command.set_defaults(command=run)


def run(arguments: argparse.Namespace) -> int:
    """Prints a line for each entry as it is known, or the matrix; 1 where one has changed, 3 where one could not run."""
    from backend.git import path_and_revision
    from fuzz.compiling import announced
    from reprod.corpus import OpenPaths, load_corpus, shipped_corpus
    from reprod.entry import is_finding
    from reprod.folder import prepare_file
    from reprod.matrix import Column

    told = Rows(arguments)
    if arguments.json and (arguments.matrix or arguments.markdown is not None):
        raise UsageError("replay: a matrix has no JSON; leave out --json, or --matrix and --markdown")
    findings = [path for path in arguments.corpus if is_finding(path)]
    if findings:
        return _findings(findings, arguments, told)
    prepare_file("--markdown", arguments.markdown)
    entries = [entry for path in arguments.corpus or [shipped_corpus()] for entry in load_corpus(path)]
    checkout, revision = (None, "") if arguments.aiter is None else path_and_revision(arguments.aiter)
    if revision and (arguments.matrix or arguments.markdown is not None):
        raise UsageError.not_allowed("--aiter", arguments.aiter, "PATH, whose revisions the matrix has")
    paths = OpenPaths(checkout)
    with announced():
        if revision:
            return _at_revision(entries, paths, Column(revision, revision), told)
        if arguments.matrix or arguments.markdown is not None:
            found, missing = _matrix(entries, paths, arguments.markdown)
        else:
            found, missing = _replayed(entries, paths, told), []
    return concluded(_verdict(found, missing))


def _findings(paths: Sequence[Path], arguments: argparse.Namespace, told: Rows) -> int:
    """The case of each finding; 1 where one shows a fault, 3 where none does and one did not run."""
    from backend.aiter.codefiles import open_source
    from backend.path import Path as CasePath
    from backend.revision.revision import host_of
    from fuzz.compiling import announced
    from fuzz.verdict import Counts, Verdict
    from reprod.case_line import case_line
    from reprod.entry import given_case, is_finding

    if arguments.matrix or arguments.markdown is not None or not all(map(is_finding, arguments.corpus)):
        others = "--matrix, --markdown or entries of a corpus"
        raise UsageError(f"replay: findings are run for themselves; leave out {others}")
    path = CasePath(host_of(open_source(arguments.aiter) if arguments.aiter is not None else None))
    fates: Counter[Fate] = Counter()
    missing: list[str] = []
    with announced():
        for each in paths:
            outcome = path.run(given_case(each))
            fates[outcome.fate] += 1
            if outcome.reason is not None:
                missing.append(f"{each}: {outcome.reason}")
            cause = outcome.cause
            said = "silent" if cause is None and outcome.observation is not None else str(outcome.reason)
            signature = cause.signature if cause is not None else None
            told.add(
                f"{f'found  {signature}' if cause is not None else said}  {case_line(outcome.case)}  {each}",
                {"finding": str(each), "fate": outcome.fate.value, "reason": outcome.reason, "signature": signature},
            )
    counts = Counts.of(fates)
    told.end(", ".join(f"{number} {fate.value}" for fate, number in fates.items()))
    return concluded(Verdict(counts, counts.faulty + counts.died, tuple(missing)))


def _at_revision(entries: Sequence[CorpusEntry], paths: OpenPaths, column: Column, told: Rows) -> int:
    """Each entry at one revision; 1 where a fault is found, 3 where none is and something could not run."""
    from backend.aiter.codefiles import open_source
    from fuzz.verdict import Counts, Verdict
    from reprod.matrix import MatrixCell, matrix

    open_source(f"{paths.checkout}@{column.revision}")
    found: list[MatrixCell] = []
    for entry in entries:
        (row,) = matrix([entry], paths, (column,), replays=False)
        found.append(row.cells[0])
        cell = row.cells[0].value
        told.add(f"{entry.id:5} {cell:15} {entry.title}", {"entry": entry.id, "title": entry.title, "status": cell})
    each = ", ".join(f"{found.count(cell)} {cell.value}" for cell in MatrixCell if cell in found)
    told.end(f"at {paths.checkout}@{column.revision}: {each}")
    faulty = found.count(MatrixCell.FOUND) + found.count(MatrixCell.OTHER)
    silent = found.count(MatrixCell.SILENT) + found.count(MatrixCell.FIXED)
    unknown = [each for each in found if each in (MatrixCell.CANNOT_RUN, MatrixCell.PLANTED)]
    counts = Counts(clean=silent, faulty=faulty, refused=found.count(MatrixCell.REFUSED), not_run=len(unknown))
    return concluded(
        Verdict(
            counts,
            faulty,
            (f"{counted(len(unknown), 'entry does', 'entries do')} not run at {column.name}",) if unknown else (),
        )
    )


def _replayed(entries: Sequence[CorpusEntry], paths: OpenPaths, told: Rows) -> list[ReplayStatus]:
    from reprod.corpus import ReplayStatus, replay_all

    found: list[ReplayStatus] = []
    for verdict in replay_all(entries, paths):
        found.append(verdict.status)
        reason = f"  ({verdict.reason})" if verdict.reason else ""
        told.add(
            f"{verdict.entry:5} {verdict.status.value:10} {verdict.title}{reason}",
            {"entry": verdict.entry, "title": verdict.title, "status": verdict.status.value, "reason": verdict.reason},
        )
    each = ", ".join(f"{found.count(status)} {status.value}" for status in ReplayStatus if status in found)
    told.end(each if {ReplayStatus.CHANGED, ReplayStatus.CANNOT_RUN} & {*found} else f"{each}: all as recorded")
    return found


def _matrix(entries: Sequence[CorpusEntry], paths: OpenPaths, file: Path | None) -> tuple[list[ReplayStatus], list[str]]:
    """How the entries stand, and the revisions at which none of them ran."""
    from reprod.folder import unwritable
    from reprod.matrix import MatrixCell, document, matrix, matrix_lines, pinned_columns

    rows = matrix(entries, paths)
    print("\n".join(matrix_lines(rows)))
    columns, absent = pinned_columns(paths.checkout) if paths.checkout is not None else ((), ())
    pinned = matrix(entries, paths, columns, replays=False)
    if columns:
        print("\n".join(("", *matrix_lines(pinned, columns))))
    missing = [f"not in {paths.checkout}: {column.name}, which is in {column.users}" for column in absent]
    for column, cells in zip(columns, zip(*(row.cells for row in pinned), strict=True), strict=True):
        if {*cells} <= {MatrixCell.CANNOT_RUN}:
            missing.append(f"no entry runs at {column.name}, which is in {column.users}")
    if file is not None:
        try:
            file.write_text(document(rows, DOCUMENT_COMMAND, pinned, columns), encoding="utf-8")
        except OSError as error:
            raise unwritable("--markdown", file, error, "file") from error
        print(f"written: {file}")
    return [row.replayed for row in rows if row.replayed is not None], missing


def _verdict(found: Sequence[ReplayStatus], missing: Sequence[str]) -> Verdict:
    """Of entries replayed: a changed one is blamed, one that does not run is missing."""
    from fuzz.verdict import Counts, Verdict
    from reprod.corpus import ReplayStatus

    changed, idle = found.count(ReplayStatus.CHANGED), found.count(ReplayStatus.CANNOT_RUN)
    counts = Counts(clean=len(found) - changed - idle, faulty=changed, not_run=idle)
    return Verdict(counts, changed, (*missing, *((f"{counted(idle, 'entry does', 'entries do')} not run",) if idle else ())))
