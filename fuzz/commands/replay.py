"""`aiterfuzz replay`: run corpus entries again and say which are found, which silent, which changed."""

from __future__ import annotations

import argparse
from pathlib import Path


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declares the command."""
    command = commands.add_parser(
        "replay",
        help="run known faults and controls again",
        description="Runs each entry of a corpus on its faulty and on its fixed side. Exits 1 where one has changed.",
    )
    command.add_argument("corpus", nargs="+", type=Path, metavar="CORPUS", help="folder of entries, or one entry's file")
    command.add_argument("--aiter", metavar="PATH", help="checkout of ROCm/aiter, for entries that name a revision")
    command.set_defaults(command=run)


def run(arguments: argparse.Namespace) -> int:
    """Prints a line for each entry as it is known; 1 where one has changed, 3 where one could not run."""
    from fuzz.compiling import announced
    from reprod.corpus import OpenPaths, Status, load_corpus, replay_all

    entries = [entry for path in arguments.corpus for entry in load_corpus(path)]
    found: list[Status] = []
    with announced():
        for verdict in replay_all(entries, OpenPaths(arguments.aiter)):
            found.append(verdict.status)
            reason = f"  ({verdict.reason})" if verdict.reason else ""
            print(f"{verdict.entry:5} {verdict.status.value:10} {verdict.title}{reason}", flush=True)
    print(", ".join(f"{found.count(status)} {status.value}" for status in Status if status in found))
    if Status.CHANGED in found:
        return 1
    return 3 if Status.CANNOT_RUN in found else 0
