"""The search: cases of a space, run one after the other on one path, each new fault shrunk and reported once.

A generator of events that knows nothing of how they are shown or stored. It is deterministic from the seed: cases come in
chunks, each a function of (space, seed, index of the chunk), so that chunks may be spread over workers and give the same.

A fault is named by the signature of an outcome's cause. When a signature is met again it is counted and set aside, and the
search goes on for others; a second fault that only shows together with a known cause is found by cases that show it alone.
"""

from __future__ import annotations

import hashlib
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Protocol

from backend.case import Case
from backend.codec import dumps
from backend.errors import UsageError
from backend.fate import Fate
from backend.findings import Severity, worst
from backend.outcome import Outcome, not_run
from fuzz.generate import examples
from fuzz.space import CaseSpace
from fuzz.strategies import cases
from reprod.shrink import ShrinkResult, shrink

CHUNK = 250
"""Cases a chunk: a tenth of a second of work, so that `--seconds` and Ctrl-C need not wait; a Hypothesis run costs 1 ms."""


class Runner(Protocol):
    """What the search needs of a backend.path.Path."""

    def run(self, case: Case) -> Outcome:
        """The outcome of a case."""
        ...


@dataclass(frozen=True, slots=True)
class Budget:
    """When to stop: after `cases` cases or `seconds` seconds, whichever comes first; at least one of them is given."""

    cases: int | None = None
    seconds: float | None = None

    def __post_init__(self) -> None:
        if self.cases is None and self.seconds is None:
            raise UsageError("budget of the search: given neither cases nor seconds; give one of them")
        for what, given in (("cases", self.cases), ("seconds", self.seconds)):
            if given is not None and not given > 0:
                raise UsageError.not_allowed(f"{what} of the search", given, "more than 0")


@dataclass(frozen=True, slots=True)
class Started:
    """A case is about to run. number: from 1 over the whole search; chunk, position: from 0, what `case_at` finds it by."""

    number: int
    chunk: int
    position: int
    case: Case


@dataclass(frozen=True, slots=True, eq=False)
class Ran:
    """A case has been tried; its outcome says what became of it."""

    number: int
    outcome: Outcome

    @property
    def signature(self) -> str | None:
        """Of the fault that it shows, None for none."""
        cause = self.outcome.cause if self.outcome.faulty else None
        return cause.signature if cause is not None else None

    @property
    def refused(self) -> str | None:
        """Why backend or AITER do not take it, None where they do."""
        return self.outcome.reason if self.outcome.fate is Fate.REFUSED else None

    @property
    def unmodelled(self) -> str | None:
        """What of it this project does not model, so that nothing is known of it; None where all of it is."""
        return self.outcome.reason if self.outcome.fate is Fate.UNMODELLED else None


@dataclass(slots=True, eq=False)
class Fault:
    """One distinct fault. number: of the first case that showed it; count: of all cases that did; shrunk: the smallest."""

    signature: str
    number: int
    first: Case
    shrunk: ShrinkResult
    count: int = 1

    @property
    def severity(self) -> Severity:
        """The worst of what the smallest case shows."""
        severity = worst(self.shrunk.outcome.findings)
        assert severity is not None
        return severity


@dataclass(frozen=True, slots=True, eq=False)
class Found:
    """A fault that was not known before."""

    fault: Fault


@dataclass(slots=True)
class Tally:
    """What a search came to so far. refused, unmodelled: reasons with counts. faults: by signature, as they were met."""

    cases: int = 0
    refused: Counter[str] = field(default_factory=Counter)
    unmodelled: Counter[str] = field(default_factory=Counter)
    faults: dict[str, Fault] = field(default_factory=dict)

    @property
    def ran(self) -> int:
        """Cases of which something is known: neither refused by backend or AITER, nor unmodelled."""
        return self.cases - self.refused.total() - self.unmodelled.total()


Event = Started | Ran | Found

Shrink = Callable[[Case, Runner, str], ShrinkResult]


def chunk_cases(space: CaseSpace, seed: int, chunk: int, count: int = CHUNK) -> list[Case]:
    """The cases of one chunk, the first being the simplest of the space; of two counts, the smaller gives the first of them."""
    digest = hashlib.sha256(f"{seed}/{chunk}".encode()).digest()
    return examples(cases(space), count, int.from_bytes(digest[:8], "little"))


def case_at(space: CaseSpace, seed: int, chunk: int, position: int) -> Case:
    """The case that a Started event with these figures stood for."""
    return chunk_cases(space, seed, chunk)[position]


@dataclass(frozen=True, slots=True)
class WithinSpace:
    """A path that takes the cases of a space only, for shrinking: whoever asks for TP2 wants to read of 64 heads."""

    path: Runner
    space: CaseSpace

    def run(self, case: Case) -> Outcome:
        """The outcome of a case of the space; any other is not run."""
        if not self.space.holds(case):
            return not_run(case, "not a case that the search was asked for")
        return self.path.run(case)


class Search:
    """One search. `tally` is up to date between any two events."""

    def __init__(self, space: CaseSpace, path: Runner, seed: int, shrinker: Shrink = shrink) -> None:
        self.space = space
        self.path = path
        self.seed = seed
        self.tally = Tally()
        self._shrink = shrinker

    def events(self, budget: Budget) -> Iterator[Event]:
        """Runs cases until the budget is spent. A fault's shrinking is not counted as cases, but its time is."""
        ends = None if budget.seconds is None else time.monotonic() + budget.seconds
        for started in self._starts():
            if budget.cases is not None and self.tally.cases >= budget.cases:
                return
            if ends is not None and time.monotonic() >= ends:
                return
            yield started
            ran = self._run(started)
            yield ran
            if ran.signature is not None:
                new = self._count(started, ran.signature)
                if new is not None:
                    yield Found(new)

    def _starts(self) -> Iterator[Started]:
        number = chunk = 0
        while True:
            for position, case in enumerate(chunk_cases(self.space, self.seed, chunk)):
                number += 1
                yield Started(number, chunk, position, case)
            chunk += 1

    def _run(self, started: Started) -> Ran:
        try:
            ran = Ran(started.number, self.path.run(started.case))
        except Exception as error:
            error.add_note(f"while running case {started.number}: {dumps(started.case)}")
            raise
        self.tally.cases += 1
        if ran.refused is not None:
            self.tally.refused[ran.refused] += 1
        if ran.unmodelled is not None:
            self.tally.unmodelled[ran.unmodelled] += 1
        return ran

    def _count(self, started: Started, signature: str) -> Fault | None:
        """The fault where it is new."""
        known = self.tally.faults.get(signature)
        if known is not None:
            known.count += 1
            return None
        shrunk = self._shrink(started.case, WithinSpace(self.path, self.space), signature)
        fault = Fault(signature, started.number, started.case, shrunk)
        self.tally.faults[signature] = fault
        return fault
