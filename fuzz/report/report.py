"""The Report: what any search or gate says of itself. Data only; render.py and page/ give it its forms.

Makers: campaign.py (run, campaign, nightly), agreement.py, accuracy.py, gsm8k.py, fuzz.gate.source_report, fuzz.gate.policy.
Texts in it may be a stranger's; whoever renders folds them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum, StrEnum, auto
from typing import Any

from fuzz.verdict import Verdict
from reprod.text import one_line


class Code(str):
    """A cell that is a name of ours (a signature, a path): Markdown sets it as code."""

    __slots__ = ()


class Room(Enum):
    """Where a section has room."""

    EVERYWHERE = auto()
    PAGES = auto()  # not on a terminal
    SMALL_PRINT = auto()  # not on a terminal, folded away on a page


@dataclass(frozen=True, slots=True)
class Section:
    """A table, or a list where header is empty (then a row is one text). heading: a sentence or a title, "" for none.

    left_out: rows that are not among `rows` because there are too many.
    """

    heading: str
    header: tuple[str, ...]
    rows: tuple[tuple[object, ...], ...]
    left_out: int = 0
    room: Room = Room.EVERYWHERE


class Result(StrEnum):
    """What became of a test; the values are JUnit's elements."""

    PASSED = "system-out"
    FAILURE = "failure"
    ERROR = "error"
    SKIPPED = "skipped"


@dataclass(frozen=True, slots=True)
class Test:
    """One test of a CI's test tab. message: in a few words; text: at length, of a test that passed what it says.

    seconds: that it took. place: (FILE, line) to annotate, ("", 1) where nobody knows.
    """

    name: str
    classname: str
    result: Result = Result.PASSED
    message: str = ""
    text: str = ""
    seconds: float | None = None
    place: tuple[str, int] = ("", 1)


@dataclass(frozen=True, slots=True)
class Report:
    """What a run came to.

    title: names the JUnit suite. headline: one sentence, without the notice. notice: what the device is worth. about: what was
    examined, one line each. explained: faults in words; notes: what else is said, one line each. data: what only programs
    read, besides what the verdict says. seconds: of running time; began: ISO 8601, "" for not said.
    """

    title: str
    verdict: Verdict
    headline: str
    notice: str
    about: tuple[str, ...]
    sections: tuple[Section, ...]
    explained: tuple[str, ...]
    notes: tuple[str, ...]
    tests: tuple[Test, ...]
    data: Mapping[str, Any] = field(default_factory=dict)
    seconds: float | None = None
    began: str = ""

    @property
    def left_to_say(self) -> tuple[str, ...]:
        """What did not run, one line each, where the headline does not say it already: a person reads it once."""
        said = one_line(self.headline)
        return tuple(each for each in map(one_line, self.verdict.open_questions) if each not in said)
