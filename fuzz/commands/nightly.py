"""`aiterfuzz nightly`: a campaign over TP2 and TP4 of DeepSeek-R1, compared with the night before."""

from __future__ import annotations

import argparse
from pathlib import Path

from fuzz.commands.campaign import add_config_flags, config_from, given_fields, searched

DEFAULTS = {"shapes": ("tp2", "tp4"), "seconds": 3600.0}
"""Unless file or flags say otherwise: DeepSeek-R1 on two and on four GPUs, for an hour."""

DEFAULT_ROOT = "nightly"

EPILOG = """\
Each night gets a folder of its own below --out, named by the time it began; the newest one before it that ran to its end is
what it is compared with (or that of --compare). The seed is the date unless one is given, so that every night tries other
cases.
Exit codes as of `aiterfuzz campaign`: faults that --expect names do not fail a night."""


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declares the command and its flags."""
    command = commands.add_parser(
        "nightly",
        help="a campaign a night, compared with the last",
        description="Runs a campaign over TP2 and TP4 of DeepSeek-R1 and says what is new, still there and gone.",
        epilog=EPILOG,
    )
    add_config_flags(command)
    command.set_defaults(command=run, with_ray=True)


def run(arguments: argparse.Namespace) -> int:
    """Runs the night's campaign; prints what it came to."""
    from fuzz.campaign.config import config_lines
    from fuzz.campaign.session import night

    given = given_fields(arguments)
    if {"heads", "shapes"} & set(given):
        defaults = {name: value for name, value in DEFAULTS.items() if name != "shapes"}
    else:
        defaults = dict(DEFAULTS)
    if "cases" in given:
        defaults.pop("seconds")
    config = config_from({"out": DEFAULT_ROOT} | defaults | given)
    if arguments.print_config:
        print("\n".join(config_lines(config)))
        return 0
    folder, summary = night(config, seeded="seed" in given)
    return searched(summary, str(Path(folder)), arguments)
