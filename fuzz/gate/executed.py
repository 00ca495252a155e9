"""What of the judged file was executed, and whether a change's own lines were. Words and sets of lines; runs nothing."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from backend.real.python.outline import Outline, PackageCall, text_change
from backend.words import counted
from reprod.text import some

PACKAGE = "aiter"

NAMED = 3
"""Functions that a headline names of those that did not run; the page and gate.json have all."""

MOST = 8
"""Functions of a change, and stretches of lines of one, that a sentence names."""


@dataclass(frozen=True, slots=True)
class Executed:
    """What of a file ran. text: the file's; lines: that ran, of those that `outline` has."""

    file: str
    text: str
    outline: Outline
    lines: frozenset[int]

    @property
    def percent(self) -> int:
        """Whole per cent of the executable lines, rounded down: 100 means all."""
        return 100 * len(self.lines & self.outline.lines) // max(len(self.outline.lines), 1)

    @property
    def calls_not_run(self) -> tuple[PackageCall, ...]:
        """Calls into AITER that no scenario reached, in the order of their lines."""
        return tuple(each for each in self.outline.calls if each.line not in self.lines)

    @property
    def least_run(self) -> tuple[tuple[str, int, int], ...]:
        """(function, lines that ran, lines) of those that did not run whole, by the number of lines that did not."""
        rows = [(each.name, len(each.lines & self.lines), len(each.lines)) for each in self.outline.functions]
        return tuple(sorted((row for row in rows if row[1] < row[2]), key=lambda row: (row[1] - row[2], row[0])))

    def says(self) -> str:
        """One line of figures."""
        lines, functions, calls = self.outline.lines, self.outline.functions, self.outline.calls
        with_code = [each for each in functions if each.lines]
        ran = sum(bool(each.lines & self.lines) for each in with_code)
        made = len(calls) - len(self.calls_not_run)
        return (
            f"executed: {self.percent} % of the file: {len(self.lines & lines):,} of {counted(len(lines), 'line')}, "
            f"{ran} of {counted(len(with_code), 'function')}, {made} of {counted(len(calls), 'call')} into AITER"
        )

    def headline_says(self) -> tuple[str, str]:
        """How a headline limits itself, and what it names: "in the 62 % of the file that ran", "not run: init (...)"."""
        missing = [f"{_short(name)} ({of - ran} of {counted(of, 'line')})" for name, ran, of in self.least_run]
        more = f" and more of {counted(len(missing) - NAMED, 'function')}" if len(missing) > NAMED else ""
        said = f"not run: {', '.join(missing[:NAMED])}{more}" if missing else ""
        return f"in the {self.percent} % of the file that ran", said

    def as_data(self) -> dict[str, Any]:
        """For programs: every function with its lines, and every call."""
        calls = [{"line": each.line, "name": each.name, "ran": each.line in self.lines} for each in self.outline.calls]
        functions = [
            {"name": each.name, "line": each.first, "lines": len(each.lines), "ran": len(each.lines & self.lines)}
            for each in self.outline.functions
        ]
        whole = {"ran": len(self.lines & self.outline.lines), "of": len(self.outline.lines)}
        return {"file": self.file, "lines": whole, "percent": self.percent, "functions": functions, "calls": calls}


@dataclass(frozen=True, slots=True)
class ChangeRun:
    """How much of a change ran. lines: changed ones with code; ran: of these; idle: functions none of whose changed lines ran,
    each in words."""

    lines: frozenset[int]
    ran: frozenset[int]
    idle: tuple[str, ...]
    not_run: tuple[str, ...]

    def says(self) -> str:
        """One line on the changed lines."""
        if not self.lines and not self.idle:
            return "no line with code is changed, beside lines that are gone"
        left = f"; not run: {some(self.not_run, MOST)}" if self.not_run else ""
        return f"{len(self.ran):,} of {counted(len(self.lines), 'changed line')} ran{left}"


def change_run(change: Executed, base: Executed) -> ChangeRun:
    """Which lines that differ from the base's were executed; lines that are gone count as run where the base ran them."""
    differs = text_change(base.text, change.text)
    lines = differs.lines & change.outline.lines
    gone = frozenset(differs.removed) & base.outline.lines
    ran, ran_before = lines & change.lines, gone & base.lines
    touched = _by_function(change.outline, lines) | {
        name: numbers for name, numbers in _by_function(base.outline, gone).items() if not _has(change.outline, lines, name)
    }
    awake = {*_by_function(change.outline, ran), *_by_function(base.outline, ran_before)}
    idle = tuple(_in_words(name, numbers) for name, numbers in touched.items() if name not in awake)
    not_run = tuple(_in_words(name, numbers) for name, numbers in _by_function(change.outline, lines - change.lines).items())
    return ChangeRun(lines, ran, idle, not_run)


def _has(outline: Outline, lines: Iterable[int], name: str) -> bool:
    return name in _by_function(outline, lines)


def _by_function(outline: Outline, lines: Iterable[int]) -> dict[str, list[int]]:
    """Lines by the function that they are of, in the order of the file."""
    owner = {line: each.name for each in outline.functions for line in each.lines}
    made: dict[str, list[int]] = {}
    for line in sorted(lines):
        made.setdefault(owner.get(line, ""), []).append(line)
    return made


def _in_words(name: str, lines: list[int]) -> str:
    return f"{some(list(_ranges(lines)), MOST)} ({_short(name) or 'outside of functions'})"


def _ranges(lines: list[int]) -> Iterator[str]:
    """Lines as people write them: 12-15, 20."""
    start = last = lines[0]
    for line in [*lines[1:], None]:
        if line is not None and line == last + 1:
            last = line
            continue
        yield str(start) if start == last else f"{start}-{last}"
        if line is not None:
            start = last = line


def _short(name: str) -> str:
    """A function's name without its class."""
    return name.rpartition(".")[2]
