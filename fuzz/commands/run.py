"""`aiterfuzz run`: a campaign of one worker on this machine, without Ray, that says what it found in one table."""

from __future__ import annotations

import argparse
import contextlib
import itertools
import time
from pathlib import Path
from typing import TYPE_CHECKING

from fuzz.commands.flags import add_flags, given
from fuzz.commands.printing import add_amounts, print_report

if TYPE_CHECKING:
    from backend.child.process import ChildProcess
    from fuzz.campaign.config import CampaignConfig

DEFAULT_CASES = 1000
"""Half a second on the model; the historic faults show within the first hundred cases."""

DEFAULT_ROOT = "findings"
"""Where a run's folder is made that is not named."""

EPILOG = """\
Cases are a function of the flags and the seed: those of a campaign with the same. OUT/campaign.sqlite is written as chunks of
cases are done, OUT/results.jsonl says the same in lines of JSON; each distinct fault gets a folder there with its smallest
case, an explanation, a script and an issue text. OUT is one run's alone. `aiterfuzz report OUT` makes a page of it."""

WITHOUT = ("workers", "address", "verify", "corpus", "compare")
"""Fields of a campaign's configuration that a run has no flags for."""


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declares the command and its flags."""
    from fuzz.campaign.config import CampaignConfig

    command = commands.add_parser(
        "run",
        help="search for faults",
        description="Searches a space of cases for faults, shrinks and reports each once.",
        epilog=EPILOG,
    )
    add_flags(command, CampaignConfig, WITHOUT, {"cases": DEFAULT_CASES, "out": f"{DEFAULT_ROOT}/<time>, or one that is new"})
    add_amounts(command)
    command.add_argument("--verify", action="store_true", help="run each script on the simulated GPU (some seconds each)")
    command.set_defaults(command=run)


def run(arguments: argparse.Namespace) -> int:
    """Searches; prints the table of faults."""
    from fuzz.campaign.case_process import case_process

    with contextlib.closing(case_process()) as ahead:
        return _searched(arguments, ahead)


def _searched(arguments: argparse.Namespace, ahead: ChildProcess) -> int:
    from fuzz.campaign.pool import Local
    from fuzz.campaign.session import Manner, begin, stopped
    from fuzz.provenance import Provenance
    from fuzz.report.results import Results

    logs: list[Results] = []

    def log(config: CampaignConfig, made_by: Provenance) -> Results:
        logs.append(Results(config, made_by))
        return logs[0]

    config = _config(arguments)
    manner = Manner(lambda _: Local(ahead=ahead), log, "", f"aiterfuzz {arguments.typed}")
    summary = begin(config, manner)
    logs[0].finished(summary)
    from fuzz.report.campaign import campaign_report  # not before there is something to report
    from fuzz.report.figures import from_here

    report = campaign_report(summary, at=from_here(config.out))
    print_report(arguments, report, [f"results: {from_here(logs[0].path)}", *stopped(summary, from_here(config.out))])
    return summary.exit_code


def _new_folder() -> str:
    """A folder for this run alone, named by the time."""
    named = Path(DEFAULT_ROOT, time.strftime("%Y-%m-%d-%H%M%S"))
    others = (named.with_name(f"{named.name}-{number}") for number in itertools.count(2))
    return str(next(folder for folder in itertools.chain((named,), others) if not folder.exists()))


def _config(arguments: argparse.Namespace) -> CampaignConfig:
    """What was asked for; of the release nearest to the code source where none is named."""
    from fuzz.campaign.config import CampaignConfig, of_its_release

    fields = given(arguments, CampaignConfig) | {"verify": arguments.verify}
    fields.setdefault("out", _new_folder())
    if "cases" not in fields and "seconds" not in fields:
        fields["cases"] = DEFAULT_CASES
    return of_its_release(CampaignConfig(**fields))
