"""Base and change beside each other: what the change brings, what it mends, what was there before and what is known.

A fault of a source is a signature at a shape. Blame is by scenario: a fault is the change's where the base, in the same
scenario, does not show it; that the base shows it elsewhere excuses nothing, nor where its steps of the same kind and phase
were all right. How many steps showed it is only evidence.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from backend.findings import Severity
from backend.real.frameworks.record import DecisionRow, Phase
from backend.real.frameworks.scenarios import Scenario
from backend.real.python.outline import TextChange, text_change
from backend.words import counted
from fuzz.gate.corpus import is_of_corpus
from fuzz.gate.executed import MOST, ChangeRun, change_run
from fuzz.gate.frameworks import Identity, identity, whoever_shows_it
from fuzz.gate.gate import Examined
from fuzz.gate.judge import Judged, NotDone, Shape, Sighting, Work, works_of
from fuzz.gate.order import decided_otherwise
from fuzz.verdict import Verdict
from reprod.reference import KnownReference
from reprod.text import some


class FaultStanding(StrEnum):
    """How a fault of the change stands."""

    NEW = "new"  # the base does not have it in the same scenario: blamed on the change
    FOUND = "found"  # there is no base to compare with
    BEFORE = "in the base too"
    HIDDEN = "in the base too, behind another"  # of the same step, whose first fault it is not there
    REFUSED = "did not run"  # the file or AITER says no, and there is no base that did not
    EXPECTED = "expected"  # by --expect
    KNOWN = "known, open"  # an entry of the corpus that nothing mends yet


BLAMED = frozenset({FaultStanding.NEW, FaultStanding.FOUND})


@dataclass(frozen=True, slots=True)
class Fault:
    """One signature at one shape. rows: query rows a request that showed it; phases: eager, capture, replay.

    line: FILE:LINE of the call that reaches AITER. edited: lines of the file that differ from the base's and ran where the
    smallest sighting was seen, which is where the edit decides; of lines that are gone, what stands there now.
    hidden_by: the signature of the base's fault that comes first in the same step, where the standing is HIDDEN.
    """

    signature: str
    shape: Shape
    severity: Severity
    rows: tuple[int, ...]
    phases: tuple[Phase, ...]
    message: str
    line: str | None
    smallest: Sighting
    known: KnownReference | None
    standing: FaultStanding
    edited: tuple[int, ...] = ()
    hidden_by: str = ""

    @property
    def blamed(self) -> bool:
        """Whether it fails the gate."""
        return self.standing in BLAMED

    @property
    def decided_at(self) -> str | None:
        """FILE:LINE of the change that ran there, or of the call where nothing was compared."""
        if not self.edited or self.line is None:
            return self.line
        return f"{self.line.rpartition(':')[0]}:{self.edited[0]}"


@dataclass(frozen=True, slots=True)
class Comparison:
    """What the gate says. faults: of the change, worst first; mended: of the base that the change does not have any more.

    verdict: conclusion and exit code, with what was asked for and did not run.
    decisions: the change's decision table; changed: rows that differ from the base's as (base, change), None without a base.
    change_run: how much of what differs from the base's file was executed; None without a base, where nobody measured it,
    and where the file is the base's.
    refused: without a base, the switches under which AITER or the file refuses what it takes without them.
    not_its: without a base, what a case of the corpus alone asks for and AITER or the file refuses, in words: what the file is
    asked for is the table's, so that it leaves no question open.
    """

    verdict: Verdict
    faults: tuple[Fault, ...]
    mended: tuple[Fault, ...]
    decisions: tuple[DecisionRow, ...]
    changed: tuple[tuple[DecisionRow, DecisionRow], ...] | None
    change_run: ChangeRun | None = None
    refused: tuple[str, ...] = ()
    not_its: tuple[str, ...] = ()

    @property
    def blamed(self) -> tuple[Fault, ...]:
        """The faults that fail the gate."""
        return tuple(fault for fault in self.faults if fault.blamed)


Reference = Callable[[Sighting], KnownReference | None]
"""The corpus entry of a sighting, if there is one."""


def compared(
    change: Examined,
    base: Examined | None,
    known: Reference,
    is_open: Callable[[KnownReference], bool],
    expected: Collection[str] = (),
) -> Comparison:
    """What is said of a change. is_open: whether a known fault has no remedy yet, so that nobody can be asked for one.

    expected: signatures and entries of faults that nobody is blamed for.
    """
    before = None if base is None else Before(base.swept, base.sightings)

    def standing(sighting: Sighting, reference: KnownReference | None) -> FaultStanding:
        stands = compared_standing(sighting, reference)
        names = {sighting.signature, "" if reference is None else reference.entry}
        return FaultStanding.EXPECTED if stands in BLAMED and names & set(expected) else stands

    def compared_standing(sighting: Sighting, reference: KnownReference | None) -> FaultStanding:
        excused = reference is not None and is_open(reference)
        if before is None and sighting.did_not_run:
            return FaultStanding.REFUSED
        if before is None:
            return FaultStanding.KNOWN if excused else FaultStanding.FOUND
        if before.shows(sighting) or (sighting.did_not_run and not before.ran(sighting)):
            return FaultStanding.BEFORE
        if before.hider(sighting):
            return FaultStanding.HIDDEN
        return FaultStanding.KNOWN if excused and before.hides(sighting) else FaultStanding.NEW

    found = _folded(change.sightings, standing, known)
    if before is not None:
        hidden = FaultStanding.HIDDEN
        found = tuple(
            dataclasses.replace(each, hidden_by=before.hider(each.smallest)) if each.standing is hidden else each
            for each in found
        )
    if base is not None and change.executed is not None and base.executed is not None:
        found = tuple(_with_edits(found, change, base, text_change(base.executed.text, change.executed.text)))
    blamed = tuple(fault for fault in found if fault.blamed)
    mended = () if base is None else _mended(change, base, known)
    of_blamed = {(fault.signature, fault.shape) for fault in blamed}
    explained = {each.scenario for each in change.sightings if (each.signature, each.shape) in of_blamed}
    alone = _alone(change) if base is None else _Alone()
    missing = alone.missing if base is None else tuple(_missing_beside(change, base, explained))
    ran = None
    measured, there = change.executed, base.executed if base is not None else None
    if measured is not None and there is not None and measured.text != there.text:
        ran = change_run(measured, there)
    idle = () if ran is None else tuple(f"changed lines that no scenario reached: {each}" for each in ran.idle)
    if not idle and ran is not None and ran.not_run and change.left_out:
        idle = (f"changed lines that did not run, of a sweep that time was over for: {some(ran.not_run, MOST)}",)
    verdict = Verdict(change.counts, len(blamed), (*missing, *_left_out(change), *_not_judged(change, base), *idle))
    changed = None if base is None else decided_otherwise(change.decisions, base.decisions)
    return Comparison(verdict, found, mended, change.decisions, changed, ran, alone.refused, alone.not_its)


def _left_out(change: Examined) -> Iterator[str]:
    """What a sweep was to do, that did not run at all because time was over."""
    known = {*change.ran, *(work for judged in change.swept for work in judged.asked)}
    missing = {work: TIME_IS_OVER for each in change.left_out for work in works_of(each) if work not in known}
    yield from _in_words(missing, {work.shape for work in change.ran})


TIME_IS_OVER = "time was over before it (--seconds)"


class Before:
    """What the base shows, by scenario. sightings: of what was swept."""

    def __init__(self, swept: Iterable[Judged], sightings: Iterable[Sighting]) -> None:
        self._swept = {judged.scenario: judged for judged in swept}
        every = [each for judged in self._swept.values() for each in judged.behind]
        self._behind = {(whoever_shows_it(each), each.scenario): each.behind for each in every}
        self._seen: set[tuple[Identity, Scenario]] = set()
        self._at: dict[tuple[Scenario, Shape], list[Sighting]] = {}
        for each in sightings:
            self._seen.add((whoever_shows_it(each), each.scenario))
            self._at.setdefault((each.scenario, each.shape), []).append(each)

    def shows(self, sighting: Sighting) -> bool:
        """Whether the same scenario shows the same, and not where what shows it now ran without any fault."""
        return (whoever_shows_it(sighting), sighting.scenario) in self._seen and not self._was_right(sighting)

    def _was_right(self, sighting: Sighting) -> bool:
        """Whether steps of the same kind and phase ran in the scenario, and nothing was wrong with one of them."""
        step = sighting.kind, sighting.phase
        there = self._at.get((sighting.scenario, sighting.shape), ())
        return self.ran(sighting) and not any((each.kind, each.phase) == step or each.before_steps for each in there)

    def hider(self, sighting: Sighting) -> str:
        """The signature of the first fault of a step of the same scenario that has the same behind it, "" for none."""
        return self._behind.get((whoever_shows_it(sighting), sighting.scenario), "")

    def ran(self, sighting: Sighting) -> bool:
        """Whether what the sighting says did not run did so in the same scenario."""
        judged = self._swept.get(sighting.scenario)
        if judged is None:
            return False
        if sighting.before_steps:
            return bool(judged.ran)
        return any(
            (work.shape, work.kind, phase) == (sighting.shape, sighting.kind, sighting.phase) for work, phase in judged.ran
        )

    def hides(self, sighting: Sighting) -> bool:
        """A step is judged by its first cause, a backend that does not start has none: what these hid shows once they go."""
        there = self._at.get((sighting.scenario, sighting.shape), ())
        return any(each.did_not_run or each.severity > sighting.severity for each in there)


def _folded(
    sightings: Iterable[Sighting], standing: Callable[[Sighting, KnownReference | None], FaultStanding], known: Reference
) -> tuple[Fault, ...]:
    """Sightings folded by identity, as the sighting with the weakest excuse stands.

    In order: what the source is to blame for first, then the worst, then what shows in the simplest batch: a slip that every
    decode step has stands before what needs a life of many steps.

    A fault is known only where every sighting of it is: a known fault needs a certain life, and one seen without it is another.
    """
    grouped: dict[Identity, list[Sighting]] = {}
    for sighting in sightings:
        grouped.setdefault(identity(sighting), []).append(sighting)
    made = []
    for (signature, shape, _), group in grouped.items():
        references = {scenario: known(each) for scenario, each in {each.scenario: each for each in group}.items()}
        standings = [standing(each, references[each.scenario]) for each in group]
        blamed = [each for each, stands in zip(group, standings, strict=True) if stands in BLAMED]
        unknown = [each for each in blamed or group if references[each.scenario] is None]
        smallest = min(unknown or blamed or group, key=_size)
        reference = references[smallest.scenario]
        made.append(
            Fault(
                signature=signature,
                shape=shape,
                severity=max(each.severity for each in group),
                rows=tuple(sorted({each.rows for each in group})),
                phases=tuple(phase for phase in Phase if phase in {each.phase for each in group}),
                message=smallest.message,
                line=smallest.line,
                smallest=smallest,
                known=reference,
                standing=standing(smallest, reference),
            )
        )
    simplest: dict[str, tuple[int, ...]] = {}
    for fault in made:
        size = _size(fault.smallest)
        simplest[fault.signature] = min(size, simplest.get(fault.signature, size))

    def order(fault: Fault) -> tuple[Any, ...]:
        return fault.standing not in BLAMED, -fault.severity, simplest[fault.signature], fault.signature, fault.shape

    return tuple(sorted(made, key=order))


def _with_edits(faults: Sequence[Fault], change: Examined, base: Examined, differs: TextChange) -> Iterator[Fault]:
    """New faults with the changed lines that ran in their scenario; of one that was not swept, with those that ran at all."""

    def ran(side: Examined, scenario: Scenario) -> frozenset[int]:
        everywhere = side.executed.lines if side.executed is not None else frozenset()
        return next((judged.executed for judged in side.swept if judged.scenario == scenario), everywhere)

    for fault in faults:
        if fault.standing is not FaultStanding.NEW:
            yield fault
            continue
        there = ran(base, fault.smallest.scenario)
        gone = {at for old, at in differs.removed.items() if old in there}
        edited = gone | (differs.lines & ran(change, fault.smallest.scenario))
        yield dataclasses.replace(fault, edited=tuple(sorted(edited)))


def _mended(change: Examined, base: Examined, known: Reference) -> tuple[Fault, ...]:
    """Faults of the base that the change shows nowhere, in scenarios that it ran and in which no worse one of it hides them."""
    behind = [each for judged in change.swept for each in judged.behind]
    after = {whoever_shows_it(each) for each in (*change.sightings, *behind)}
    before = Before(base.swept, base.sightings)
    ran = {(judged.scenario, work.shape) for judged in change.swept for work, _ in judged.ran}
    new: dict[tuple[Scenario, Shape], list[Sighting]] = {}
    for each in change.sightings:
        if not before.shows(each):
            new.setdefault((each.scenario, each.shape), []).append(each)

    def is_gone(old: Sighting) -> bool:
        place = old.scenario, old.shape
        return place in ran and not any(_hides(each, old) for each in new.get(place, ()))

    gone: dict[Identity, list[Sighting]] = {}
    for each in base.sightings:
        if not each.did_not_run and whoever_shows_it(each) not in after:
            gone.setdefault(identity(each), []).append(each)
    mended = [each for group in gone.values() if all(is_gone(old) for old in group) for each in group]
    return _folded(mended, lambda *_: FaultStanding.BEFORE, known)


def _hides(new: Sighting, old: Sighting) -> bool:
    """Whether a step that shows one fault may have the other too: it is judged by its first cause, and asked for
    contradictions only where nothing else is wrong."""
    return new.did_not_run or new.severity >= old.severity or old.finding is None


@dataclass(frozen=True, slots=True)
class _Alone:
    """What the sweep asks of a source without a base and no step of it did.

    missing: in words, with the first reason. refused: switches under which something is refused that runs without them; the
    headline names them. not_its: what cases of the corpus alone ask for and was refused, for the fault that they had where it
    ran.
    """

    missing: tuple[str, ...] = ()
    refused: tuple[str, ...] = ()
    not_its: tuple[str, ...] = ()


def _alone(change: Examined) -> _Alone:
    undone, running = _not_done(change), {work.shape for work in change.ran}
    without_switch = {(work.shape, work.kind) for work in change.ran if not work.path}
    every = (*(judged.scenario for judged in change.swept), *change.left_out)  # also where time was over before it
    asked = {work for scenario in every if not is_of_corpus(scenario) for work in works_of(scenario)}
    under_switch = {w for w, why in undone.items() if why.refused and w.path and (w.shape, w.kind) in without_switch}
    of_corpus = {work for work, why in undone.items() if why.refused and work not in asked}
    missing = {work: why.reason for work, why in undone.items() if work not in under_switch | of_corpus}
    not_its = {work: why.reason for work, why in undone.items() if work in of_corpus}
    refused = dict.fromkeys(work.path for work in undone if work in under_switch)
    return _Alone(tuple(_in_words(missing, running)), tuple(refused), tuple(_in_words(not_its, running)))


def _not_done(change: Examined) -> Mapping[Work, NotDone]:
    """What the sweep asks of a source and no step of it did."""
    asked: dict[Work, NotDone] = {}
    for judged in change.swept:
        for work in judged.asked:
            first = asked.get(work)
            asked[work] = first if first is not None and first.reason else judged.not_done.get(work, NotDone())
    return {work: why for work, why in asked.items() if work not in change.ran}


def _missing_beside(change: Examined, base: Examined, explained: set[Scenario]) -> Iterator[str]:
    """What steps of the base did in a scenario and none of the change did in it. explained: scenarios with a blamed fault."""
    after = {judged.scenario: judged for judged in change.swept}
    missing: dict[Work, str] = {}
    for judged in base.swept:
        mine = after.get(judged.scenario)
        for work, phase in judged.ran if judged.scenario not in explained else ():
            if mine is None or not mine.did(work, phase):
                reason = "" if mine is None else mine.not_done.get(work, NotDone()).reason
                missing[work] = missing.get(work, "") or reason
    yield from _in_words(missing, {work.shape for work in change.ran})


def _in_words(missing: Mapping[Work, str], running: set[Shape]) -> Iterator[str]:
    """One line for all shapes that differ in their heads; tasks are named where others of the same shape ran."""
    tasks: dict[tuple[Shape, str], list[str]] = {}
    for work, reason in missing.items():
        tasks.setdefault((work.shape, reason), []).append(work.task)
    heads: dict[tuple[str, str, str], list[int]] = {}
    for (shape, reason), names in tasks.items():
        what = f" {some(names, MOST)}" if shape in running else ""
        heads.setdefault((shape.tensors, what, reason), []).append(shape.num_head)
    for (tensors, what, reason), numbers in heads.items():
        counted_heads = ", ".join(str(number) for number in sorted(set(numbers)))
        because = reason or "no step of it reached mla_decode_fwd"
        yield f"{counted_heads} heads, {tensors}{',' if what else ''}{what}: {because}"


def _not_judged(change: Examined, base: Examined | None) -> Iterator[str]:
    """What this project has no model of, where it has one of what the base does instead."""
    known = base.not_run if base is not None else {}
    for reason, count in change.not_run.items():
        if reason not in known:
            yield f"{counted(count, 'step')} not judged: {reason}"


def _size(sighting: Sighting) -> tuple[int, ...]:
    """By which sightings of one fault are ordered: the case, then the life up to it."""
    case, steps = sighting.case, sighting.scenario.steps
    tokens = sum(case.kv_lens) if case is not None else 0
    batch = len(case.kv_lens) if case is not None else 0
    return batch, sighting.rows, tokens, len(steps), len(sighting.scenario.backends), sum(sum(step.kv_lens) for step in steps)
