"""What a person sees of a running campaign, on stderr: a bar in a terminal, now and then a plain line elsewhere."""

from __future__ import annotations

import math
import sys
import time
from collections import deque
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TextIO

from backend.words import counted

PLAIN_INTERVAL = 5.0
BAR_INTERVAL = 0.2
QUIET_INTERVAL = 60.0
"""Seconds between two plain lines: where there is news, in a terminal, and where only time went by."""

RATE_WINDOW = 10.0
"""Seconds over which the rate is taken: long enough to be calm, short enough to show a worker lost."""


@dataclass(frozen=True, slots=True)
class Status:
    """Of a campaign at one moment. seconds: of running, all sessions; what is left is of the limits, None without one.

    cases: those that ran, of the chunks that run now too. shrinking: findings that are shrunk beside drawing. doing: what is
    done in place of drawing, and for how long at most.
    """

    seconds: float
    cases: int
    features: int
    findings: int
    refused: int
    losses: int
    seconds_left: float | None
    cases_left: int | None
    shrinking: int = 0
    doing: str = ""


class Live:
    """Shows statuses. Use as a context manager; `update` is cheap."""

    def __init__(self, stream: TextIO | None = None) -> None:
        stream = stream or sys.stderr
        self._stream = stream
        self._terminal = stream.isatty()
        self._next = time.monotonic() + (0.0 if self._terminal else PLAIN_INTERVAL)
        self._window: deque[tuple[float, int]] = deque()
        self._said: tuple[int, int, str] | None = None
        self._silent_until = 0.0
        self._stack = ExitStack()
        self._bar: _Bar | None = None

    def __enter__(self) -> Live:
        if self._terminal:
            self._bar = _Bar(self._stream)
            self._stack.enter_context(self._bar.progress)
        return self

    def __exit__(self, *exception: object) -> None:
        self._stack.close()

    def update(self, status: Status) -> None:
        """Shows a status where it is time to."""
        now = time.monotonic()
        self._window.append((status.seconds, status.cases))
        if now < self._next:
            return
        self._next = now + (BAR_INTERVAL if self._bar is not None else PLAIN_INTERVAL)
        news = (status.cases, status.findings, status.doing.partition(",")[0])
        if self._bar is not None or news != self._said or now >= self._silent_until:
            self._said, self._silent_until = news, now + QUIET_INTERVAL
            self._show(status)

    def finish(self, status: Status) -> None:
        """Shows the last status."""
        self._show(status)

    def say(self, text: str) -> None:
        """One line for good."""
        if self._bar is not None:
            self._bar.progress.console.print(text, markup=False, highlight=False)
            self._next = 0.0
        else:
            print(text, file=self._stream, flush=True)

    def _show(self, status: Status) -> None:
        rate = self._rate(status)
        if self._bar is not None:
            self._bar.show(status, line(status, rate))
        else:
            print(line(status, rate), file=self._stream, flush=True)

    def _rate(self, status: Status) -> float:
        while len(self._window) > 2 and self._window[0][0] < status.seconds - RATE_WINDOW:
            self._window.popleft()
        if not self._window:
            return 0.0
        (began, cases), (now, last) = self._window[0], self._window[-1]
        return (last - cases) / (now - began) if now > began else 0.0


def line(status: Status, rate: float) -> str:
    """One line: what is done now, how far it is and how long it takes yet; then what came of it."""
    seen = [counted(status.findings, "finding"), f"{status.refused:,} refused", f"coverage {status.features:,}"]
    if status.losses:
        seen.append(f"{counted(status.losses, 'worker')} lost")
    if status.doing:
        return ", ".join([status.doing, *([counted(status.cases, "case"), *seen] if status.cases else ())])
    beside = f" and shrinking {counted(status.shrinking, 'finding')}" if status.shrinking else ""
    of = f"{status.cases:,} of " if status.cases_left is not None else ""
    cases = of + counted(status.cases + (status.cases_left or 0), "case")
    return ", ".join([f"drawing{beside}: {cases}", f"{rate:,.0f}/s", *_left(status, rate), *seen])


def _left(status: Status, rate: float) -> list[str]:
    """What time leaves, a promise, or what cases leave at this rate, where that is shorter; nothing where nobody knows."""
    by_cases = status.cases_left / rate if status.cases_left is not None and rate > 0 else math.inf
    by_time = math.inf if status.seconds_left is None else status.seconds_left
    if math.isinf(min(by_cases, by_time)):
        return []
    return [f"about {in_minutes(by_cases)} left" if by_cases < by_time else f"at most {in_minutes(by_time)} left"]


def in_minutes(seconds: float) -> str:
    """Seconds as people read them: `1:40`, `2:05:00`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


class _Bar:
    def __init__(self, stream: TextIO) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn
        from rich.table import Column

        text = TextColumn("{task.description}", table_column=Column(ratio=1, no_wrap=True, overflow="ellipsis"))
        self.progress = Progress(BarColumn(bar_width=10), text, console=Console(file=stream), transient=True, expand=True)
        self._task = self.progress.add_task("starting", total=None)

    def show(self, status: Status, text: str) -> None:
        by_time = None if status.seconds_left is None else status.seconds / max(1e-9, status.seconds + status.seconds_left)
        by_cases = None if status.cases_left is None else status.cases / max(1, status.cases + status.cases_left)
        shares = [share for share in (by_time, by_cases) if share is not None]
        self.progress.update(self._task, description=text, total=1.0, completed=min(1.0, max(shares)) if shares else 0.0)
