"""One run of the gate: the table sweep on change and base side by side, the corpus, then random lives until time is up.

The sources run in child processes of their own (backend/real/frameworks/session.py), so that base and change keep both
cores of a small runner busy; devices and checks run here.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from threading import Lock

from backend.aiter.codefiles import open_source as open_code_source
from backend.case import RELEASES
from backend.devices.registry import open_searching
from backend.errors import CannotRunError, NoSuchStepError
from backend.fate import Fate
from backend.real.frameworks.fetch import open_source
from backend.real.frameworks.record import DecisionRow, Recording
from backend.real.frameworks.scenarios import HEADS as DECIDED_HEADS
from backend.real.frameworks.scenarios import Scenario, StepKind
from backend.real.frameworks.session import SourceSession
from backend.real.python.outline import outline, text_change
from backend.revision.revision import host_of
from fuzz.gate.compiled import compile_once
from fuzz.gate.executed import PACKAGE, Executed
from fuzz.gate.frameworks import identity
from fuzz.gate.judge import Judge, Judged, Sighting, Work
from fuzz.gate.life import Abilities, probes
from fuzz.gate.order import (
    batches,
    decided_otherwise,
    everything,
    first_of_each,
    in_words,
    likely_first,
    otherwise_first,
    touched_first,
    what,
)
from fuzz.gate.scenarios import random_lives, shrink
from fuzz.gate.sweep import HEADS, Tensors, scenarios
from fuzz.interruption import checkpoint
from fuzz.verdict import Counts

Say = Callable[[str], None]

Blamed = Callable[["Examined", "Examined | None"], Sequence[Sighting]]
"""What a change is blamed for beside its base, worst first: of each fault the sighting in its smallest life."""

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


LAST_LIVES, COMPARISON = 0.05, 0.1
"""Shares of the time that are kept: for lives under way at its end; with a base, for trying on each side what the other
showed."""


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
        self.asked = everything(plan.tensors, plan.heads, EVERY_RELEASE)
        self._done: set[Scenario] = set()
        self._swept_in = 0.0
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
        start = {(row.num_head, row.kv_dtype) for row in self._decisions if row.refused is None}
        shapes = [(one, num_head) for one in self._plan.tensors for num_head in self._plan.heads]
        one, num_head = next((each for each in shapes if (each[1], each[0].kv_dtype) in start), shapes[0])
        tried = probes(one, num_head, EVERY_RELEASE)
        return Abilities(**{name: self._run_all([probe])[0] is not None for name, probe in tried.items()})

    def shows_more(self, seen: Examined) -> set[Scenario]:
        """Of scenarios that were not kept, those that show a fault of which nothing is kept."""
        known = {identity(each) for each in self._sightings}
        return {each.scenario for each in seen.sightings if identity(each) not in known}

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
        )

    def alone(self, *scenarios: Scenario, are_random: bool = False) -> Examined:
        """What some scenarios show, which is not kept."""
        self._random += len(scenarios) if are_random else 0
        made = [judged for judged in self._run_all(scenarios) if judged is not None]
        sightings = tuple(sighting for judged in made for sighting in judged.sightings)
        return dataclasses.replace(self.examined(), swept=tuple(made), sightings=sightings, executed=None)

    def _keep(self, judged: Judged | None) -> None:
        if judged is not None and judged.scenario not in self._swept:
            self._swept[judged.scenario] = judged
            self._sightings += judged.sightings

    def _run_all(self, scenarios: Sequence[Scenario]) -> list[Judged | None]:
        """What becomes of each scenario, in their order, None where the framework has no such step; workers take shares."""
        count = len(self._workers)
        self._scenarios += len(scenarios)
        shares = [self._pool.submit(worker.run_all, scenarios[at::count]) for at, worker in enumerate(self._workers)]
        made: list[Judged | None] = [None] * len(scenarios)
        for at, share in enumerate(shares):
            made[at::count] = share.result()
        for judged in made:
            if judged is not None:
                self._not_run.update(judged.not_run)
                self._fates.update(judged.fates)
                self._executed |= judged.executed
                self._by_arguments.update(judged.by_arguments)
        return made


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


def run(
    stack: Stack, base: Stack | None, plan: GatePlan, say: Say, blamed: Blamed = lambda change, base: ()
) -> tuple[Examined, Examined | None]:
    """Examines a change and, where there is one, its base. What one of them shows is tried on the other too.

    Either may be the change: the source, or the AITER below it. blamed: then the worst fault of the sweep is shown in the
    smallest life that time allows to find.
    """
    if base is not None and _is_untouched(stack, base):
        with Examination(stack, plan, workers=1) as same:
            same.glance()
            seen = dataclasses.replace(same.examined(), is_the_base=True)
            return seen, seen
    until = time.monotonic() + (1 - (LAST_LIVES if base is None else COMPARISON)) * plan.seconds
    for each in dict.fromkeys((one.aiter, one.release) for one in (stack, base) if one is not None):
        compile_once(*each)
    with Examination(stack, plan, workers=CORES if base is None else 1) as change, ThreadPoolExecutor(CORES) as both:
        if base is None:
            change.sweep(until)
            say(_sweep_says(change))
            cut_down((change,), both, blamed, until)
            live((change,), both, blamed, plan, until)
            return change.examined(), None
        with Examination(base, plan, workers=1) as before:
            _sweep_both(change, before, both, until)
            say(f"{_sweep_says(change)} on each side")
            cut_down((change, before), both, blamed, until + COMPARISON / 2 * plan.seconds)
            live((change, before), both, blamed, plan, until)
            return change.examined(), before.examined()


def _is_untouched(stack: Stack, base: Stack) -> bool:
    """Whether both sides run the same files on the same AITER; nothing else can make them differ."""
    return (stack.aiter, stack.release) == (base.aiter, base.release) and open_source(stack.source).same_as(
        open_source(base.source)
    )


def _sweep_both(change: Examination, before: Examination, both: Executor, until: float) -> None:
    """The same scenarios on both sides: one of everything that is done, then what executed a changed line, then the rest.

    In each of the three, shapes that the two sides decide otherwise come first.
    """

    def each(action: Callable[..., None], *given: Turns) -> None:
        for done in [both.submit(action, side, *given) for side in (change, before)]:
            done.result()

    def run_until(asked: Sequence[Scenario]) -> None:
        each(Examination.run_in_turn, Turns(tuple(batches(asked, workers=1)), until))

    each(Examination.decide)
    otherwise = decided_otherwise(change.decided, before.decided)
    asked = otherwise_first(change.asked, {(row.num_head, row.kv_dtype) for _, row in otherwise})
    first = first_of_each(asked)
    run_until(first)
    touched = {what(scenario) for scenario, did in _touching(change, before).items() if did}
    run_until(touched_first([one for one in asked if one not in first], touched))


def _touching(change: Examination, before: Examination) -> dict[Scenario, bool]:
    """The scenarios that are kept, and whether each executed a changed line on either side."""
    differs = text_change(before.executed.text, change.executed.text)
    new, old = change.doing(differs.lines), before.doing(differs.removed)
    return {each: new.get(each, False) or old.get(each, False) for each in new | old}


def cut_down(sides: Sequence[Examination], both: Executor, blamed: Blamed, until: float) -> None:
    """The worst fault in the smallest life found until then in which it is still the change's, which both sides keep.

    sides: the change and, where there is one, its base.
    """
    worst = next(iter(blamed(*_pair([side.examined() for side in sides]))), None)
    if worst is None:
        return
    smallest = _smallest(worst, sides, both, blamed, until)
    for side in sides if smallest != worst.scenario else ():
        side.run([smallest])


def live(sides: Sequence[Examination], both: Executor, blamed: Blamed, plan: GatePlan, until: float) -> None:
    """Random lives, the same on all sides, until the monotonic clock says so; what may execute changed lines first.

    A fault that the change is to blame for, and was not before, is kept in its smallest life; what else a side did not show
    before in the life that shows it.
    """
    if time.monotonic() >= until:
        return
    can = Abilities.common(both.map(Examination.abilities, sides))
    drawn = itertools.islice(random_lives(plan.tensors, plan.heads, EVERY_RELEASE, plan.seed, can), plan.lives)
    lives = likely_first(drawn, _touching(*sides) if len(sides) > 1 else {})
    told = {identity(each) for each in blamed(*_pair([side.examined() for side in sides]))}
    while time.monotonic() < until and (together := tuple(itertools.islice(lives, CORES // len(sides)))):
        seen = list(both.map(lambda side: side.alone(*together, are_random=True), sides))
        for fault in [each for each in blamed(*_pair(seen)) if identity(each) not in told]:
            told.add(identity(fault))
            smallest = _smallest(fault, sides, both, blamed, until)
            for side in sides:
                side.run([smallest])
        more = set().union(*(side.shows_more(each) for side, each in zip(sides, seen, strict=True)))
        for side in sides if more else ():
            side.run([life for life in together if life in more])


def _pair(seen: Sequence[Examined]) -> tuple[Examined, Examined | None]:
    return seen[0], seen[1] if len(seen) > 1 else None


def _smallest(fault: Sighting, sides: Sequence[Examination], both: Executor, blamed: Blamed, until: float) -> Scenario:
    """The smallest life found until then in which the change is to blame for a fault."""

    def shows(candidate: Scenario) -> bool:
        if time.monotonic() >= until:
            return False
        there = blamed(*_pair(list(both.map(lambda side: side.alone(candidate), sides))))
        return any((each.signature, each.shape) == (fault.signature, fault.shape) for each in there)

    return shrink(fault.scenario, shows)


def _sweep_says(side: Examination) -> str:
    seen = side.examined()
    left = in_words(seen.left_out, seen.asked)
    return f"swept {seen.scenarios} scenarios{f'; time was over before {left}' if left else ''}"


def swept(stack: Stack, plan: GatePlan) -> Examined:
    """What the sweep alone, whole and without random lives, shows of one stack."""
    with Examination(stack, plan, workers=CORES) as one:
        one.sweep(math.inf)
        return one.examined()
