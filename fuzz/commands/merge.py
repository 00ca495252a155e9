"""`aiterfuzz merge`: the stores of several campaigns as one."""

from __future__ import annotations

import argparse
from pathlib import Path

from fuzz.commands.printing import add_amounts
from fuzz.commands.report import entries_written


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declares the command and its flags."""
    command = commands.add_parser(
        "merge",
        help="make one store of several campaigns",
        description="Merges the stores of campaigns (several machines, several nights) into a new one, and says what it holds. "
        "With --corpus, writes what they found as corpus entries.",
    )
    command.add_argument("stores", nargs="+", type=Path, metavar="STORE", help="a campaign's folder, or its campaign.sqlite")
    command.add_argument("--out", type=Path, required=True, metavar="DIR", help="folder of the merged store")
    command.add_argument("--corpus", type=Path, metavar="DIR", help="write each finding there as a corpus entry")
    add_amounts(command)
    command.set_defaults(command=run)


def run(arguments: argparse.Namespace) -> int:
    """Merges; prints the summary of the whole; its exit code."""
    from fuzz.campaign.merge import merge
    from fuzz.campaign.read_summary import load_summary
    from fuzz.commands.campaign import finish
    from reprod.folder import prepare_folder

    prepare_folder(arguments.out)
    merge(arguments.stores, arguments.out)
    summary = load_summary(arguments.out)
    return finish(summary, str(arguments.out), arguments, entries_written(summary, arguments.corpus))
