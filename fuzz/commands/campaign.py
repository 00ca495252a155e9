"""`aiterfuzz campaign`: a search over every core or GPU, steered by coverage, that survives what cases do and can go on."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from backend.errors import UsageError
from fuzz.commands.flags import add_flags, given
from fuzz.commands.printing import add_amounts, print_report

if TYPE_CHECKING:
    from fuzz.campaign.config import CampaignConfig
    from fuzz.campaign.summary import CampaignSummary

NIGHT = {"shapes": ("tp2", "tp4"), "seconds": 3600.0}
"""Unless file or flags say otherwise: DeepSeek-R1 on two and on four GPUs, for an hour."""

NIGHTS = "nightly"

EPILOG = """\
A flag overrides the same field of --config. The store (OUT/campaign.sqlite) is written as chunks are done; after Ctrl-C, a
crash or a kill, `aiterfuzz campaign --resume --out OUT` goes on, with nothing lost or done twice."""


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declares the command and its flags."""
    command = commands.add_parser(
        "campaign",
        help="search on every core or GPU, for hours",
        description="Searches for faults on all cores or GPUs of a machine or a Ray cluster.",
        epilog=EPILOG,
    )
    command.add_argument("--resume", action="store_true", help="go on with the campaign of --out")
    command.add_argument(
        "--nightly",
        action="store_true",
        help="a night: TP2 and TP4 for an hour unless said otherwise, in a folder of its own below --out (nightly), compared "
        "with the night before, by another seed",
    )
    command.add_argument("--case", metavar="CHUNK/POSITION", help="print one case of the campaign of --out, and do no more")
    add_config_flags(command)
    command.set_defaults(command=run, with_ray=True)


def add_config_flags(command: argparse.ArgumentParser) -> None:
    """A flag for each field of the configuration, explained as there."""
    from fuzz.campaign.config import CampaignConfig

    add_amounts(command)
    command.add_argument("--config", type=Path, metavar="FILE.toml", help="fields of the configuration")
    command.add_argument("--print-config", action="store_true", help="print the configuration as TOML, and do no more")
    add_flags(command.add_argument_group("fields of the configuration"), CampaignConfig)


def given_fields(arguments: argparse.Namespace) -> dict[str, Any]:
    """What file and flags set, flags first."""
    from fuzz.campaign.config import CampaignConfig, read_config

    fields = dict(read_config(arguments.config)) if arguments.config is not None else {}
    return fields | given(arguments, CampaignConfig)


def config_from(fields: dict[str, Any]) -> CampaignConfig:
    """The configuration with these fields, as a file or flags give them."""
    from backend.codec import to_plain
    from fuzz.campaign.config import config_of

    return config_of(to_plain(fields))


def run(arguments: argparse.Namespace) -> int:
    """Runs or resumes; prints what it came to."""
    from fuzz.campaign.config import config_lines

    if arguments.nightly:
        if arguments.resume or arguments.case is not None:
            raise UsageError("campaign: a night is begun and not gone on with; give --resume or --case without --nightly")
        return night_of(arguments)
    fields = given_fields(arguments)
    config = config_from(fields)
    if arguments.print_config:
        print("\n".join(config_lines(config)))
        return 0
    if arguments.case is not None:
        return _print_case(arguments.case, config.out)
    from fuzz.campaign.config import of_its_release
    from fuzz.campaign.session import begin, resume

    if arguments.resume:
        changes = {name: getattr(config, name) for name in fields if name != "out"}
        return searched(resume(Path(config.out), changes), config.out, arguments)
    return searched(begin(of_its_release(config)), config.out, arguments)


def night_of(arguments: argparse.Namespace) -> int:
    """Runs the night's campaign; prints what it came to."""
    from fuzz.campaign.config import config_lines, of_its_release
    from fuzz.campaign.session import night

    given = given_fields(arguments)
    if {"heads", "shapes"} & set(given):
        defaults = {name: value for name, value in NIGHT.items() if name != "shapes"}
    else:
        defaults = dict(NIGHT)
    if "cases" in given:
        defaults.pop("seconds")
    config = of_its_release(config_from({"out": NIGHTS} | defaults | given))
    if arguments.print_config:
        print("\n".join(config_lines(config)))
        return 0
    folder, summary = night(config, seeded="seed" in given)
    return searched(summary, str(Path(folder)), arguments)


def finish(summary: CampaignSummary, out: str, arguments: argparse.Namespace, after: Sequence[str] = ()) -> int:
    """Prints a summary and writes its page; its exit code."""
    from fuzz.campaign.store import FILE_NAME
    from fuzz.report.campaign import campaign_report
    from fuzz.report.figures import from_here
    from fuzz.report.write import report_of

    here = Path(from_here(out))
    page = report_of(summary, Path(out), here).page
    print_report(arguments, campaign_report(summary, at=str(here)), [f"store: {here / FILE_NAME}", f"page: {page}", *after])
    return summary.exit_code


def searched(summary: CampaignSummary, out: str, arguments: argparse.Namespace) -> int:
    """The same of a campaign that has just ended; where somebody stopped it, with what goes on."""
    from fuzz.campaign.session import stopped

    return finish(summary, out, arguments, stopped(summary, out))


def _print_case(place: str, out: str) -> int:
    from backend.codec import dumps
    from fuzz.campaign.read_summary import read_case

    chunk, slash, position = place.partition("/")
    if not (slash and chunk.isdecimal() and position.isdecimal()):
        raise UsageError.not_allowed("--case", place, "CHUNK/POSITION, two whole numbers, as a loss or a finding names them")
    print(dumps(read_case(Path(out), int(chunk), int(position))))
    return 0
