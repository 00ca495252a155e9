"""`aiterfuzz selftest`: how far devices and kernels can be believed. Only a name for its parts."""

from __future__ import annotations

import argparse

from fuzz.commands import accuracy, agree


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declares the command and its parts."""
    command = commands.add_parser(
        "selftest",
        help="hold devices and kernels against each other",
        description="Holds the devices of aiterfuzz against each other, and kernels and a server against exact answers.",
    )
    parts = command.add_subparsers(title="parts", metavar="PART", required=True)
    agree.add(parts)
    accuracy.add(parts)
