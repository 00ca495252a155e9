"""One run of the gate: the table sweep on change and base side by side, the corpus, then random lives until time is up.

The sources run in child processes of their own (backend/serving/source/session.py), so that base and change keep both
cores of a small runner busy; devices and checks run here.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from backend.aiter.codefiles import CodeSource
from backend.case import DType
from backend.devices.registry import open_device
from backend.serving.source.record import DecisionRow
from backend.serving.source.scenarios import HEADS as DECIDED_HEADS
from backend.serving.source.scenarios import Scenario
from backend.serving.source.session import SourceSession
from fuzz.gate.corpus import corpus_scenarios
from fuzz.gate.judge import Judge, Sighting
from fuzz.gate.scenarios import random_lives, shrink
from fuzz.gate.sweep import HEADS, Tensors, scenarios

Say = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Plan:
    """What the gate is asked to do. seconds: for everything; the sweep is never cut short. seed: of the random lives."""

    tensors: tuple[Tensors, ...]
    heads: tuple[int, ...] = HEADS
    seconds: float = 60.0
    seed: int = 0
    device: str = "model"


@dataclass(frozen=True, slots=True)
class Examined:
    """What one source did. scenarios: run in all, random ones among them; steps: that reached AITER and were judged."""

    label: str
    release: str
    decisions: tuple[DecisionRow, ...]
    sightings: tuple[Sighting, ...]
    scenarios: int
    random: int
    steps: int
    refused: int
    unmodelled: tuple[str, ...]
    warning: str | None
    peak_memory: int


class Examination:
    """One source under examination; a context manager. aiter: PATH[@REVISION] of the AITER whose Python and kernels run."""

    def __init__(self, source: str, plan: Plan, aiter: str | None, code: CodeSource | None) -> None:
        self._plan = plan
        self._session = SourceSession(source, aiter=aiter)
        self._judge = Judge(open_device(plan.device, code), code)
        self._sightings: list[Sighting] = []
        self._scenarios = 0
        self._random = 0
        self._decisions: tuple[DecisionRow, ...] = ()

    def __enter__(self) -> Examination:
        return self

    def __exit__(self, *exception: object) -> None:
        self._session.close()

    def sweep(self) -> None:
        """The constructor's decisions, the table sweep and the corpus."""
        kv_dtypes = tuple(dict.fromkeys(one.kv_dtype for one in self._plan.tensors))
        self._decisions = tuple(self._session.decide(self._plan.tensors[0].arch, DECIDED_HEADS, kv_dtypes))
        release = self._session.release
        for scenario in scenarios(self._plan.tensors, self._plan.heads, release):
            self._sightings += self._run(scenario)
        for scenario in corpus_scenarios(self._plan.tensors, self._plan.heads, release):
            self._sightings += self._run(scenario)

    def live(self, until: float) -> None:
        """Random lives until the monotonic clock says so; a new fault is cut down to its smallest life."""
        known = {(each.signature, each.shape) for each in self._sightings}
        for scenario in random_lives(self._plan.tensors, self._plan.heads, self._session.release, self._plan.seed):
            if time.monotonic() >= until:
                return
            self._random += 1
            for sighting in self._run(scenario):
                key = sighting.signature, sighting.shape
                if key not in known:
                    known.add(key)
                    self._sightings += self._smallest(scenario, key)

    def examined(self) -> Examined:
        """What was seen so far."""
        return Examined(
            label=self._session.source.label,
            release=self._session.release,
            decisions=self._decisions,
            sightings=tuple(self._sightings),
            scenarios=self._scenarios,
            random=self._random,
            steps=self._judge.seen,
            refused=self._judge.refused,
            unmodelled=tuple(sorted(self._judge.unmodelled)),
            warning=self._session.warning,
            peak_memory=self._session.peak_memory,
        )

    def note(self, sightings: Sequence[Sighting]) -> None:
        """Sightings from a scenario that the other source's random lives met."""
        self._sightings += sightings

    def shows(self, scenario: Scenario, key: tuple[str, object]) -> list[Sighting]:
        """Sightings of that signature and shape in one scenario."""
        return [each for each in self._run(scenario) if (each.signature, each.shape) == key]

    def _smallest(self, scenario: Scenario, key: tuple[str, object]) -> list[Sighting]:
        smallest = shrink(scenario, lambda candidate: bool(self.shows(candidate, key)))
        return self.shows(smallest, key)

    def _run(self, scenario: Scenario) -> list[Sighting]:
        self._scenarios += 1
        return list(self._judge.sightings(scenario, self._session.run(scenario)))


def run(
    source: str, base: str | None, plan: Plan, aiter: str | None, code: CodeSource | None, say: Say
) -> tuple[Examined, Examined | None]:
    """Examines a change and, where there is one, its base. What random lives show of the change is tried on the base too."""
    until = time.monotonic() + plan.seconds
    with Examination(source, plan, aiter, code) as change:
        if base is None:
            change.sweep()
            say(f"swept {change.examined().scenarios} scenarios")
            change.live(until)
            return change.examined(), None
        with Examination(base, plan, aiter, code) as before, ThreadPoolExecutor(2) as both:
            for done in [both.submit(change.sweep), both.submit(before.sweep)]:
                done.result()
            say(f"swept {change.examined().scenarios} scenarios on each side")
            for done in [both.submit(change.live, until), both.submit(before.live, until)]:
                done.result()
            _try_on_base(change.examined().sightings, before)
            return change.examined(), before.examined()


def _try_on_base(sightings: Sequence[Sighting], before: Examination) -> None:
    """A fault that only random lives of the change met may be the base's as well: its own scenario decides."""
    seen = {(each.signature, each.shape) for each in before.examined().sightings}
    for sighting in sightings:
        key = sighting.signature, sighting.shape
        if key not in seen:
            seen.add(key)
            before.note(before.shows(sighting.scenario, key))


def only(tensors: Sequence[Tensors], kv_dtypes: Sequence[DType] | None) -> Iterator[Tensors]:
    """The tensor types whose KV cache is one of those asked for; all of them for None."""
    return (one for one in tensors if kv_dtypes is None or one.kv_dtype in kv_dtypes)
