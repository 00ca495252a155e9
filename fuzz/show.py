"""What a person sees of a running search: a progress bar in a terminal, now and then a plain line elsewhere.

All of it goes to standard error; standard output is for results.
"""

from __future__ import annotations

import sys
import time
from contextlib import ExitStack
from typing import TextIO

from fuzz.search import Budget, Tally

PLAIN_INTERVAL = 5.0
"""Seconds between two plain lines; a log of a nightly run stays readable."""

BAR_INTERVAL = 0.1
"""Seconds between two updates of the bar; a case takes less than a millisecond."""


class Progress:
    """Progress of one search on one stream. Use as a context manager; `update` is cheap and may be called for every case."""

    def __init__(self, budget: Budget, stream: TextIO | None = None) -> None:
        stream = stream or sys.stderr
        self._budget = budget
        self._stream = stream
        self._started = time.monotonic()
        self._next = self._started + (BAR_INTERVAL if stream.isatty() else PLAIN_INTERVAL)
        self._bar = _Bar(budget, stream) if stream.isatty() else None
        self._stack = ExitStack()

    def __enter__(self) -> Progress:
        if self._bar is not None:
            self._stack.enter_context(self._bar.progress)
        return self

    def __exit__(self, *exception: object) -> None:
        self._stack.close()

    @property
    def seconds(self) -> float:
        """Since this progress was made."""
        return time.monotonic() - self._started

    def update(self, tally: Tally) -> None:
        """Shows the tally where it is time to."""
        now = time.monotonic()
        if now < self._next:
            return
        if self._bar is not None:
            self._bar.show(tally, self.seconds)
            self._next = now + BAR_INTERVAL
        else:
            self._line(status(tally, self.seconds))
            self._next = now + PLAIN_INTERVAL

    def say(self, text: str) -> None:
        """One line above the bar, or among the plain lines."""
        if self._bar is not None:
            self._bar.progress.console.print(text, markup=False, highlight=False)
        else:
            self._line(text)

    def finish(self, tally: Tally) -> None:
        """The last state, whatever the time."""
        if self._bar is not None:
            self._bar.show(tally, self.seconds)
        else:
            self._line(status(tally, self.seconds))

    def _line(self, text: str) -> None:
        print(text, file=self._stream, flush=True)


def status(tally: Tally, seconds: float) -> str:
    """One line: cases, rate, faults, refusals."""
    rate = tally.cases / seconds if seconds > 0 else 0.0
    return f"{tally.cases:,} cases, {rate:,.0f}/s, {_plural(len(tally.faults), 'fault')}, {tally.refused.total():,} refused"


def _plural(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


class _Bar:
    """The bar, by cases where they are limited, else by seconds."""

    def __init__(self, budget: Budget, stream: TextIO) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

        self._by_cases = budget.cases is not None
        self.progress = Progress(
            BarColumn(bar_width=None),
            TextColumn("{task.percentage:>3.0f}%"),
            TextColumn("{task.description}"),
            TimeRemainingColumn(),
            console=Console(file=stream),
            transient=True,
        )
        self._task = self.progress.add_task("starting", total=budget.cases if self._by_cases else budget.seconds)

    def show(self, tally: Tally, seconds: float) -> None:
        done = tally.cases if self._by_cases else seconds
        self.progress.update(self._task, completed=done, description=status(tally, seconds))
