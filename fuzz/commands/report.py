"""`aiterfuzz report`: the page of a campaign, with JSON, JUnit XML and a job summary beside it."""

from __future__ import annotations

import argparse
from pathlib import Path


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declares the command and its flags."""
    command = commands.add_parser(
        "report",
        help="write the page of a campaign",
        description="Writes report.html (one file, no network), report.json, report.xml (JUnit) and summary.md (for a CI job's "
        "page) of a campaign's store, also while the campaign runs. Exit codes as of `aiterfuzz campaign`.",
    )
    command.add_argument("store", type=Path, metavar="STORE", help="a campaign's folder, or its campaign.sqlite")
    command.add_argument("--out", type=Path, metavar="DIR", help="folder of the four files (that of the store)")
    command.set_defaults(command=run)


def run(arguments: argparse.Namespace) -> int:
    """Writes the files; the exit code is that of the campaign."""
    from fuzz.report.write import write_report

    report = write_report(arguments.store, arguments.out)
    for path in (report.page, report.json, report.junit, report.markdown):
        print(path)
    return report.summary.exit_code
