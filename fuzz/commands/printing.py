"""What a command prints at its end: a Report, in the form and to the length that is asked for, or what is open of a Verdict."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from fuzz.report.report import Report
    from fuzz.verdict import Verdict


def add_amounts(command: argparse.ArgumentParser) -> None:
    """`--json`, `--quiet` and `--verbose`, of which one may be given."""
    how = command.add_mutually_exclusive_group()
    how.add_argument("--json", action="store_true", help="print the report as JSON and nothing else")
    how.add_argument("--quiet", "-q", action="store_true", help="print what did not run and the conclusion alone")
    how.add_argument("--verbose", "-v", action="store_true", help="print what else a page says: shapes, scope, limits")


def print_report(arguments: argparse.Namespace, report: Report, after: Sequence[str] = (), annotate: bool = False) -> None:
    """Prints a report as it was asked for. after: lines that say where things are, for a person."""
    from fuzz.report import render

    if arguments.json:
        print(render.json_text(report), end="")
        return
    amount = render.Amount.QUIET if arguments.quiet else render.Amount.ALL if arguments.verbose else render.Amount.USUAL
    print("\n".join((*render.printed(report, annotate, amount), *(() if arguments.quiet else after))))


def concluded(verdict: Verdict) -> int:
    """The exit code of a command that prints no Report; what is open is said, apart from what it found."""
    for question in verdict.open_questions:
        print(f"open: {question}", file=sys.stderr)
    return verdict.exit_code
