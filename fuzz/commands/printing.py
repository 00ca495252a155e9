"""What a command prints at its end: a Report, in the form and to the length that is asked for, or what is open of a Verdict."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
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


def add_json(command: argparse.ArgumentParser) -> None:
    """`--json` of a command that prints no Report."""
    command.add_argument("--json", action="store_true", help="print what it comes to as JSON and nothing else")


class Rows:
    """What a command without a Report says: a line at a time as it comes, or one JSON array at the end."""

    def __init__(self, as_json: bool) -> None:
        self._as_json = as_json
        self._rows: list[Mapping[str, object]] = []

    def add(self, line: str, row: Mapping[str, object]) -> None:
        """Prints the line, or keeps the row, whose values are JSON's."""
        if self._as_json:
            self._rows.append(row)
        else:
            print(line, flush=True)

    def end(self, line: str = "") -> None:
        """Prints a last line, or the rows."""
        if self._as_json:
            print(json.dumps(self._rows, indent=2))
        elif line:
            print(line)


def concluded(verdict: Verdict) -> int:
    """The exit code of a command that prints no Report; what is open is said, apart from what it found."""
    for question in verdict.open_questions:
        print(f"open: {question}", file=sys.stderr)
    return verdict.exit_code
