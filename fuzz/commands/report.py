"""`aiterfuzz report`: the page of a campaign, with JSON, JUnit XML and a job summary beside it."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from backend.errors import UsageError

if TYPE_CHECKING:
    from fuzz.campaign.summary import CampaignSummary


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declares the command and its flags."""
    command = commands.add_parser(
        "report",
        help="write the page of a campaign",
        description="Writes report.html (one file, no network), report.json, report.xml (JUnit) and summary.md (for a CI job's "
        "page) of a campaign's store, also while the campaign runs. Exit codes as of `aiterfuzz campaign`.",
    )
    command.add_argument(
        "stores",
        nargs="+",
        type=Path,
        metavar="STORE",
        help="a run's or campaign's folder, or its campaign.sqlite; several (machines, nights) become one store in --out first",
    )
    command.add_argument("--out", type=Path, metavar="DIR", help="folder of the four files (that of the store)")
    command.add_argument("--corpus", type=Path, metavar="DIR", help="write each finding there as a corpus entry")
    command.set_defaults(command=run)


def run(arguments: argparse.Namespace) -> int:
    """Writes the files; the exit code is that of the campaign."""
    from fuzz.campaign.merge import merge
    from fuzz.report.write import write_report

    store = arguments.stores[0]
    if len(arguments.stores) > 1:
        if arguments.out is None:
            raise UsageError("report: several stores become one in a folder of its own; give --out DIR")
        store = merge(arguments.stores, arguments.out)
    report = write_report(store, arguments.out)
    write_entries(report.summary, arguments.corpus)
    for path in (report.page, report.json, report.junit, report.markdown):
        print(path)
    return report.summary.exit_code


def write_entries(summary: CampaignSummary, folder: Path | None) -> None:
    """Writes each finding as a corpus entry and says where, if a folder is given."""
    from fuzz.campaign.merge import export

    for path in () if folder is None else export(summary, folder):
        print(f"entry: {path}")
