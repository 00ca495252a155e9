"""One source under examination: what it does in scenarios, kept or only looked at.

The sources run in child processes of their own (backend/real/frameworks/session.py), so that base and change keep both
cores of a small runner busy; devices and checks run here.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from threading import Lock

from backend.aiter.codefiles import open_source as open_code_source
from backend.case import RELEASES
from backend.devices.kinds import open_searching
from backend.errors import CannotRunError, NoSuchStepError
from backend.fate import Fate
from backend.real.frameworks.record import DecisionRow, Recording
from backend.real.frameworks.scenarios import HEADS as DECIDED_HEADS
from backend.real.frameworks.scenarios import Scenario, StepKind
from backend.real.frameworks.session import SourceSession
from backend.real.frameworks.switches import switches_of
from backend.real.python.outline import outline
from backend.revision.revision import host_of
from fuzz.gate.executed import PACKAGE, Executed
from fuzz.gate.frameworks import identity
from fuzz.gate.judge import Judge, Judged, Sighting, Work
from fuzz.gate.life import Abilities, Setting, probes
from fuzz.gate.order import (
    batches,
    everything,
)
from fuzz.gate.sweep import HEADS, Tensors, scenarios
from fuzz.own_process import checkpoint
from fuzz.verdict import Counts

EVERY_RELEASE = RELEASES[-1]
"""Written in the scenarios of both sides, which are one scenario whatever AITER they run on; each runs it on its own."""

CORES = 2
"""Child processes that run sources at a time: what the small runners of a CI have, and 0.6 GB each."""


@dataclass(frozen=True, slots=True)
class Stack:
    """A serving framework on an AITER. source: what `open_source` of backend.real.frameworks understands.

    aiter: PATH[@REVISION] of a checkout, whose Python and kernels run; None: what is built in. release: then, which; None:
    the default one, of a checkout the nearest.
    """

    source: str
    aiter: str | None = None
    release: str | None = None


@dataclass(frozen=True, slots=True)
class GatePlan:
    """What the gate is asked to do.

    seconds: for everything, from the start of the first child process. seed: of the random lives; lives: at most so many,
    None: as many as time allows.
    """

    tensors: tuple[Tensors, ...]
    heads: tuple[int, ...] = HEADS
    seconds: float = 60.0
    seed: int = 0
    device: str = "model"
    lives: int | None = None


@dataclass(frozen=True, slots=True)
class Examined:
    """What one source did.

    aiter: which AITER, for people. device: what its calls to AITER ran on. swept: the table, the corpus, what the other
    side showed, and the smallest lives of what random lives showed besides, each scenario once. scenarios: run in all, random
    ones among them. counts: steps of all of them. sightings: of what was swept. not_run: reasons why steps of any scenario
    were not judged, with their number.
    executed: of the file, by all scenarios; None where nobody measured it. by_arguments: functions of AITER of which only the
    arguments were judged, with the number of calls. is_the_base: file and package are the base's, so that nothing was swept.
    asked: scenarios of a whole sweep; left_out: those of them that time was over for; swept_in: seconds that the others took.
    lived_in: the same of the random lives; seed, lives: as the plan asked for them; no_life_under: settings of variables that
    the file reads and no life has, and why.
    """

    label: str
    aiter: str
    device: str
    decisions: tuple[DecisionRow, ...]
    sightings: tuple[Sighting, ...]
    swept: tuple[Judged, ...]
    scenarios: int
    random: int
    counts: Counts
    not_run: Mapping[str, int]
    warning: str | None
    peak_memory: int
    executed: Executed | None = None
    by_arguments: Mapping[str, int] = field(default_factory=dict)
    is_the_base: bool = False
    asked: int = 0
    left_out: tuple[Scenario, ...] = ()
    swept_in: float = 0.0
    lived_in: float = 0.0
    seed: int = 0
    lives: int | None = None
    no_life_under: Mapping[Setting, str] = field(default_factory=dict)

    @property
    def ran(self) -> set[Work]:
        """What steps of what was swept did."""
        return {work for judged in self.swept for work, _ in judged.ran}


class Turns:
    """Batches for several sides, each at its own pace: whoever comes to one first looks at the clock for all of them."""

    def __init__(self, every: Sequence[Sequence[Scenario]], until: float) -> None:
        self._every = every
        self._until = until
        self._begun = 0
        self._lock = Lock()

    def __iter__(self) -> Iterator[Sequence[Scenario]]:
        for at, batch in enumerate(self._every):
            with self._lock:
                if at == self._begun and time.monotonic() >= self._until:
                    return
                self._begun = max(self._begun, at + 1)
            yield batch


class Examination:
    """One source under examination; a context manager.

    workers: child processes that run the source. A scenario starts from a fresh framework process wherever it runs, so
    that what is seen does not depend on them.
    """

    def __init__(self, stack: Stack, plan: GatePlan, workers: int) -> None:
        self._plan = plan
        self._pool = ThreadPoolExecutor(workers)
        opening = [self._pool.submit(StackRunner, stack, plan) for _ in range(workers)]
        wait(opening)
        self._workers = [one.result() for one in opening if one.exception() is None]
        if len(self._workers) < workers:
            self.close()
            for one in opening:
                one.result()
        self._session = self._workers[0].session
        self._swept: dict[Scenario, Judged] = {}
        self._sightings: list[Sighting] = []
        self._fates: Counter[Fate] = Counter()
        self._not_run: Counter[str] = Counter()
        self._scenarios = 0
        self._random = 0
        self._no_life_under: dict[Setting, str] = {}
        self.asked = self._session.taken(everything(plan.tensors, plan.heads, EVERY_RELEASE))
        self._done: set[Scenario] = set()
        self._swept_in = self._lived_in = 0.0
        self._decisions: tuple[DecisionRow, ...] = ()
        self._executed: set[int] = set()
        self._by_arguments: Counter[str] = Counter()
        self._outline = outline(self._session.source.target, PACKAGE)

    def __enter__(self) -> Examination:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """End the child processes."""
        for worker in self._workers:
            worker.close()
        self._pool.shutdown()

    def sweep(self, until: float) -> None:
        """The constructor's decisions, then everything that is asked, until the monotonic clock says so."""
        self.decide()
        for batch in batches(self.asked, len(self._workers)):
            if time.monotonic() >= until:
                break
            self.run(batch)

    @property
    def executed(self) -> Executed:
        """What of the file ran so far."""
        target = self._session.source.target
        return Executed(target.filename, target.text, self._outline, frozenset(self._executed))

    def run(self, scenarios: Sequence[Scenario]) -> None:
        """Some of what is asked."""
        began = time.monotonic()
        self._done.update(scenarios)
        for judged in self._run_all(scenarios):
            self._keep(judged)
        self._swept_in += time.monotonic() - began

    def run_in_turn(self, turns: Turns) -> None:
        """The batches that time is left for, which the other side runs too."""
        for batch in turns:
            self.run(batch)

    def doing(self, lines: Collection[int]) -> dict[Scenario, bool]:
        """The scenarios that are kept, and whether each executed one of the lines."""
        return {scenario: not judged.executed.isdisjoint(lines) for scenario, judged in self._swept.items()}

    @property
    def decided(self) -> tuple[DecisionRow, ...]:
        """What the constructor decides, once it was asked."""
        return self._decisions

    def decide(self) -> None:
        """What the constructor decides for each head count and KV dtype."""
        kv_dtypes = tuple(dict.fromkeys(one.kv_dtype for one in self._plan.tensors))
        self._decisions = tuple(self._session.decide(self._plan.tensors[0].arch, DECIDED_HEADS, kv_dtypes))

    def glance(self) -> None:
        """Decisions, and scenarios of the table until one of them ran: what is said of a source that nothing changed in.

        No sweep is asked for, so that nothing of one is left out. Prompts come first: no planner has to be compiled for them.
        """
        self.asked = ()
        self.decide()
        every = scenarios(self._plan.tensors, self._plan.heads, EVERY_RELEASE)
        for scenario in sorted(every, key=lambda each: any(step.kind is not StepKind.PREFILL for step in each.steps)):
            (judged,) = self._run_all([scenario])
            self._keep(judged)
            if judged is not None and judged.ran:
                return

    def abilities(self) -> Abilities:
        """What the framework has steps for, tried with one of each on a shape that starts."""
        tried = probes(*self.starts(), EVERY_RELEASE)
        return Abilities(**{name: self._run_all([probe])[0] is not None for name, probe in tried.items()})

    @property
    def settings(self) -> tuple[Setting, ...]:
        """What the variables that the file reads may be set to besides what they are."""
        return tuple((switch.name, value) for switch in switches_of(self._session.source) for value in switch.values)

    def starts(self) -> tuple[Tensors, int]:
        """A shape that the constructor takes: tensors, and the head count nearest to 16; any where it takes none."""
        start = {(row.num_head, row.kv_dtype) for row in self._decisions if row.refused is None}
        shapes = [(one, num_head) for one in self._plan.tensors for num_head in self._plan.heads]
        taken = [each for each in shapes if (each[1], each[0].kv_dtype) in start]
        return min(taken or shapes, key=lambda each: abs(each[1] - 16))

    def can_be_under(self, setting: Setting, shown: Examined, needs_to_be_right: bool) -> bool:
        """Whether lives can be under a variable, by what a scenario under it shows: some step has to run, or all be right."""
        (judged,) = shown.swept or (None,)
        why = "no such steps" if judged is None else next(iter((*_signatures(judged), *judged.not_run)), "")
        if judged is not None and judged.ran and not (why and needs_to_be_right):
            return True
        self._no_life_under[setting] = why or "nothing runs"
        return False

    def shows_more(self, seen: Examined) -> set[Scenario]:
        """Of scenarios that were not kept, those that show a fault of which nothing is kept.

        That a step is refused while some variable is set is none: lives are under any that the file reads.
        """
        known = {identity(each) for each in self._sightings}
        shown = [each for each in seen.sightings if not (each.did_not_run and each.scenario.environment)]
        return {each.scenario for each in shown if identity(each) not in known}

    def examined(self) -> Examined:
        """What was seen so far."""
        return Examined(
            label=self._session.source.label,
            aiter=self._session.aiter,
            device=self._plan.device,
            decisions=self._decisions,
            sightings=tuple(self._sightings),
            swept=tuple(self._swept.values()),
            scenarios=self._scenarios,
            random=self._random,
            counts=Counts.of(self._fates),
            not_run=dict(self._not_run),
            warning=self._workers[0].basis or self._session.warning,
            peak_memory=sum(worker.session.peak_memory for worker in self._workers),
            executed=self.executed,
            by_arguments=dict(self._by_arguments),
            asked=len(self.asked),
            left_out=tuple(each for each in self.asked if each not in self._done),
            swept_in=self._swept_in,
            lived_in=self._lived_in,
            seed=self._plan.seed,
            lives=self._plan.lives,
            no_life_under=dict(self._no_life_under),
        )

    def alone(self, *scenarios: Scenario, are_random: bool = False) -> Examined:
        """What some scenarios show, which is not kept."""
        began = time.monotonic()
        made = [judged for judged in self._run_all(scenarios, are_kept=False) if judged is not None]
        if are_random:
            self._random += len(scenarios)
            self._lived_in += time.monotonic() - began
        sightings = tuple(sighting for judged in made for sighting in judged.sightings)
        return dataclasses.replace(self.examined(), swept=tuple(made), sightings=sightings, executed=None)

    def _keep(self, judged: Judged | None) -> None:
        if judged is not None and judged.scenario not in self._swept:
            self._swept[judged.scenario] = judged
            self._sightings += judged.sightings

    def _run_all(self, scenarios: Sequence[Scenario], are_kept: bool = True) -> list[Judged | None]:
        """What becomes of each scenario, in their order, None where the framework has no such step; workers take shares.

        What cannot be judged leaves a question open, but for what is not kept and runs under variables, which nobody asked for.
        """
        count = len(self._workers)
        self._scenarios += len(scenarios)
        shares = [self._pool.submit(worker.run_all, scenarios[at::count]) for at, worker in enumerate(self._workers)]
        made: list[Judged | None] = [None] * len(scenarios)
        for at, share in enumerate(shares):
            made[at::count] = share.result()
        for judged in made:
            if judged is not None:
                self._not_run.update(judged.not_run if are_kept or not judged.scenario.environment else {})
                self._fates.update(judged.fates)
                self._executed |= judged.executed
                self._by_arguments.update(judged.by_arguments)
        return made


def _signatures(judged: Judged) -> Iterator[str]:
    return (each.signature for each in judged.sightings)


class StackRunner:
    """One child process with the source, and the judge of what it does; a context manager.

    basis: what is to be said of AITER's host side, None for what is built in.
    """

    def __init__(self, stack: Stack, plan: GatePlan) -> None:
        code = open_code_source(stack.aiter) if stack.aiter is not None else None
        host = host_of(code)
        self.basis = host.warning()
        self.judge = Judge(open_searching(plan.device, code), host)
        self.session = SourceSession(stack.source, aiter=stack.aiter, release=stack.release)
        self._child = ThreadPoolExecutor(1)

    def __enter__(self) -> StackRunner:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """End the child process."""
        self.session.close()
        self._child.shutdown(cancel_futures=True)

    def record(self, scenario: Scenario) -> Recording:
        """What the source does in a scenario, on this stack's own release; raises what SourceSession.run raises."""
        return self.session.run(dataclasses.replace(scenario, release=self.session.release))

    def run_all(self, scenarios: Sequence[Scenario]) -> list[Judged | None]:
        """What becomes of each scenario, in their order, None where the framework has no such step.

        The child is at the next one while this process judges.
        """
        recordings = [self._child.submit(self.record, scenario) for scenario in scenarios]
        try:
            return [self._judged(*each) for each in zip(scenarios, recordings, strict=True)]
        finally:
            wait([each for each in recordings if not each.cancel()])

    def _judged(self, scenario: Scenario, recording: Future[Recording]) -> Judged | None:
        checkpoint()
        try:
            return self.judge.judged(scenario, recording.result())
        except NoSuchStepError:
            return None
        except CannotRunError as error:
            if not any(scenario.path(at) for at in range(len(scenario.backends))):
                raise
            return self.judge.not_driven(scenario, str(error))


def swept(stack: Stack, plan: GatePlan) -> Examined:
    """What the sweep alone, whole and without random lives, shows of one stack."""
    with Examination(stack, plan, workers=CORES) as one:
        one.sweep(math.inf)
        return one.examined()
