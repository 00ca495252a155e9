"""`aiterfuzz replay`: run corpus entries again and say which are found, which silent, which changed."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from backend.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from reprod.corpus import CorpusEntry, OpenPaths, ReplayStatus

DOCUMENT_COMMAND = "aiterfuzz replay corpus/ --aiter CHECKOUT --markdown docs/corpus.md"


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declares the command and its flags."""
    command = commands.add_parser(
        "replay",
        help="run known faults and controls again",
        description="Runs each entry of a corpus on its faulty and on its fixed side. Exits 1 where one has changed.",
    )
    command.add_argument("corpus", nargs="+", type=Path, metavar="CORPUS", help="folder of entries, or one entry's file")
    command.add_argument("--aiter", metavar="PATH", help="checkout of ROCm/aiter, for entries that name a revision")
    command.add_argument("--matrix", action="store_true", help="every entry at every release: found, fixed or silent")
    command.add_argument("--markdown", type=Path, metavar="FILE", help="write that matrix as a document, as docs/corpus.md is")
    command.set_defaults(command=run)


def run(arguments: argparse.Namespace) -> int:
    """Prints a line for each entry as it is known, or the matrix; 1 where one has changed, 3 where one could not run."""
    from fuzz.compiling import announced
    from reprod.corpus import OpenPaths, load_corpus

    entries = [entry for path in arguments.corpus for entry in load_corpus(path)]
    paths = OpenPaths(arguments.aiter)
    with announced():
        if arguments.matrix or arguments.markdown is not None:
            found = _matrix(entries, paths, arguments.markdown)
        else:
            found = _replayed(entries, paths)
    return _exit_code(found)


def _replayed(entries: Sequence[CorpusEntry], paths: OpenPaths) -> list[ReplayStatus]:
    from reprod.corpus import ReplayStatus, replay_all

    found: list[ReplayStatus] = []
    for verdict in replay_all(entries, paths):
        found.append(verdict.status)
        reason = f"  ({verdict.reason})" if verdict.reason else ""
        print(f"{verdict.entry:5} {verdict.status.value:10} {verdict.title}{reason}", flush=True)
    print(", ".join(f"{found.count(status)} {status.value}" for status in ReplayStatus if status in found))
    return found


def _matrix(entries: Sequence[CorpusEntry], paths: OpenPaths, file: Path | None) -> list[ReplayStatus]:
    from reprod.matrix import document, matrix, matrix_lines

    rows = matrix(entries, paths)
    print("\n".join(matrix_lines(rows)))
    if file is not None:
        try:
            file.write_text(document(rows, DOCUMENT_COMMAND), encoding="utf-8")
        except OSError as error:
            raise UsageError(f"--markdown {file}: cannot be written ({error.strerror or error})") from error
        print(f"written: {file}")
    return [row.replayed for row in rows]


def _exit_code(found: Sequence[ReplayStatus]) -> int:
    from reprod.corpus import ReplayStatus

    if ReplayStatus.CHANGED in found:
        return 1
    return 3 if ReplayStatus.CANNOT_RUN in found else 0
