"""What a command prints at its end: a Report, in the form and to the length that is asked for, or what is open of a Verdict."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterable, Mapping, Sequence
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


def add_lengths(command: argparse.ArgumentParser) -> None:
    """`--json` and `--quiet` of a command that prints no Report, of which one may be given."""
    how = command.add_mutually_exclusive_group()
    how.add_argument("--json", action="store_true", help="print what it comes to as JSON and nothing else")
    how.add_argument("--quiet", "-q", action="store_true", help="print the conclusion alone")


def print_text(
    arguments: argparse.Namespace, lines: Iterable[str], conclusion: Iterable[str], plain: Mapping[str, object]
) -> None:
    """Prints what a command without a Report comes to: all lines, those that conclude, or plain, of values with JSON forms."""
    if arguments.json:
        from fuzz.report.render import parts_text

        print(parts_text(plain), end="")
        return
    for line in conclusion if arguments.quiet else lines:
        print(line)


class Rows:
    """The same line by line as it comes: a row each, which is one of a JSON array at the end."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self._as_json: bool = arguments.json
        self._quiet: bool = arguments.quiet
        self._rows: list[Mapping[str, object]] = []

    def add(self, line: str, row: Mapping[str, object]) -> None:
        """Prints the line, or keeps the row, whose values are JSON's."""
        if self._as_json:
            self._rows.append(row)
        elif not self._quiet:
            print(line, flush=True)

    def end(self, *conclusion: str) -> None:
        """Prints the lines that conclude, or the rows."""
        if self._as_json:
            print(json.dumps(self._rows, indent=2))
        else:
            print("\n".join(conclusion))


def concluded(verdict: Verdict) -> int:
    """The exit code of a command that prints no Report; what is open is said, apart from what it found."""
    for question in verdict.open_questions:
        print(f"open: {question}", file=sys.stderr)
    return verdict.exit_code
