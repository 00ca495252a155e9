"""`aiterfuzz nightly`: the former name of `aiterfuzz campaign --nightly`."""

from __future__ import annotations

import argparse

from fuzz.commands.campaign import add_config_flags, night_of


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declares the command and its flags."""
    command = commands.add_parser(
        "nightly",
        help="campaign --nightly",
        description="Runs a campaign over TP2 and TP4 of DeepSeek-R1 and says what is new, still there and gone.",
    )
    add_config_flags(command)
    command.set_defaults(command=night_of, with_ray=True)
