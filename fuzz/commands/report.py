"""`aiterfuzz report`: the page of a campaign, with JSON, JUnit XML and a job summary beside it."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from backend.errors import UsageError
from fuzz.commands.printing import add_amounts, print_report

if TYPE_CHECKING:
    from fuzz.campaign.summary import CampaignSummary


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declares the command and its flags."""
    command = commands.add_parser(
        "report",
        help="write the page of a campaign",
        description="Writes report.html (one file, no network), report.json, report.xml (JUnit) and summary.md (for a CI job's "
        "page) of a campaign's store, also while the campaign runs.",
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
    add_amounts(command)
    command.set_defaults(command=run)


def run(arguments: argparse.Namespace) -> int:
    """Writes the files and prints what they tell; the exit code is that of the campaign."""
    from fuzz.campaign.merge import merge
    from fuzz.report.campaign import campaign_report
    from fuzz.report.figures import from_here
    from fuzz.report.write import write_report

    store = arguments.stores[0]
    if len(arguments.stores) > 1:
        if arguments.out is None:
            raise UsageError("report: several stores become one in a folder of its own; give --out DIR")
        store = merge(arguments.stores, arguments.out)
    written = write_report(store, arguments.out)
    entries = entries_written(written.summary, arguments.corpus)
    report = campaign_report(written.summary, at=from_here(str(written.page.parent)))
    files = (str(path) for path in (written.page, written.json, written.junit, written.markdown))
    print_report(arguments, report, (*entries, *files))
    return written.summary.exit_code


def entries_written(summary: CampaignSummary, folder: Path | None) -> list[str]:
    """Writes each finding as a corpus entry, if a folder is given; a line for each, which says where."""
    from fuzz.campaign.merge import export

    return [f"entry: {path}" for path in (() if folder is None else export(summary, folder))]
