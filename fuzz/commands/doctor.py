"""`aiterfuzz doctor`: what this machine has of what aiterfuzz can use, and what to do about what is missing."""

from __future__ import annotations

import argparse

from fuzz.commands.printing import Rows, add_lengths

EPILOG = """\
Exit codes: 0 cases can be run on device model at least, 3 they cannot. What is missing beside that is no failure: it says which
devices and commands cannot be used here."""


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declares the command and its flags."""
    command = commands.add_parser("doctor", help="what this machine has, and what to do about what is missing", epilog=EPILOG)
    add_lengths(command)
    command.set_defaults(command=run)


def run(arguments: argparse.Namespace) -> int:
    """Prints a line for each thing, and one below for what to do."""
    from backend.codec import to_plain
    from fuzz.machine_facts import FactState, facts

    told = Rows(arguments)
    needed = False
    for fact in facts():
        mark = "ok" if fact.state is FactState.HERE else "--"
        advice = f"\n   {'':19} -> {fact.advice}" if fact.advice else ""
        told.add(f"{mark} {fact.name:19} {fact.found}{advice}", to_plain(fact))
        needed = needed or fact.state is FactState.NEEDED
    told.end("cases cannot be run here" if needed else "cases can be run here")
    return 3 if needed else 0
