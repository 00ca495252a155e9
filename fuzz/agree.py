"""The agreement run: the same calls on several devices, and who differs from whom in what. Knows devices by their name only.

Two devices that follow AITER's own kernels (model, cdna) must see the same bytes and the same violations. A GPU is asked less,
because it shows less: stores that its red zones catch must be those foretold, a wrong result must have been foretold, and a
result that was foretold to be wrong must not be right. A read outside that changes no number leaves no trace there.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from backend.aiter.codefiles import CodeSource
from backend.call import Call
from backend.case import Case
from backend.checks.check import check
from backend.child.process_end import EndKind
from backend.devices.device import Device
from backend.devices.kinds import device_kind
from backend.devices.two_devices import Difference, differences, incomparable
from backend.errors import CannotRunError
from backend.fate import Fate
from backend.findings import Severity
from backend.observation import DeviceEnd, Numbers, Observation, Violation, ViolationKind
from backend.outcome import Outcome
from backend.path import Path, faults_before_launch, judge
from backend.revision.revision import host_of
from backend.words import counted, number_of
from fuzz.asked import facts, never_ran
from fuzz.space import CaseSpace
from fuzz.spec import Spec
from fuzz.strategies import chunk_cases
from fuzz.verdict import Counts, Verdict

MAX_EXTENT = 64 << 10
"""Bytes past a tensor that every red zone reaches (backend/devices/gpu/memory.py); farther stores may miss it in part."""


@dataclass(frozen=True, slots=True)
class Seen:
    """What a device saw of a case, without footprints: as it is written down on one machine and read on another."""

    violations: tuple[Violation, ...]
    numbers: Numbers | None
    end: DeviceEnd | None
    notes: tuple[str, ...]
    own_kernel: str = ""

    @classmethod
    def of(cls, observation: Observation) -> Seen:
        """Takes what is written down of an observation."""
        return cls(
            violations=observation.violations,
            numbers=observation.numbers,
            end=observation.end,
            notes=observation.notes,
            own_kernel=observation.own_kernel,
        )

    def observation(self, made: Call, device: str) -> Observation:
        """Back to one, of the same call."""
        return Observation(
            made,
            device,
            self.violations,
            notes=self.notes,
            numbers=self.numbers,
            end=self.end,
            own_kernel=self.own_kernel,
        )


@dataclass(frozen=True, slots=True)
class Written:
    """A case and what each device saw of it; None: it could not be run there."""

    case: Case
    seen: Mapping[str, Seen | None]


@dataclass(frozen=True, slots=True)
class AgreementAsked:
    """What an agreement run is to cover. cases: launched; None for as many as there is time for, or as are written down.

    spec: what is drawn; None where cases that are written down are run.
    """

    devices: tuple[str, ...]
    backends: tuple[str, ...] = ()
    spec: Spec | None = None
    cases: int | None = None


@dataclass(slots=True)
class DisagreeingCases:
    """Cases in which one thing differs between two devices. first: the first such case, with what each saw in it."""

    first: Case
    difference: Difference
    count: int = 0


@dataclass(slots=True)
class Agreement:
    """What an agreement run came to.

    cases: launched. ran: cases by device; not_run: reasons by (device, reason), by ("planner", reason) for cases that came to
    no launch without being refused.
    compared: by pair of devices; not_compared: by (pair, reason); differing: cases with any difference, by pair.
    found, apart: by (left, right, what); `apart` holds what is no disagreement (see Compared). faulty: cases in which a fault
    was foretold.
    reached: facts (fuzz.asked) of cases launched, by heads a rank, and their backends, by name. nowhere: cases that came to no
    launch, by (heads a rank, fate).
    rows: output rows that a device compared with the float64 reference; worst: its largest error over the budget in cases
    where nobody foretold anything.
    """

    cases: int = 0
    ran: Counter[str] = field(default_factory=Counter)
    not_run: Counter[tuple[str, str]] = field(default_factory=Counter)
    compared: Counter[tuple[str, str]] = field(default_factory=Counter)
    not_compared: Counter[tuple[tuple[str, str], str]] = field(default_factory=Counter)
    differing: Counter[tuple[str, str]] = field(default_factory=Counter)
    found: dict[tuple[str, str, str], DisagreeingCases] = field(default_factory=dict)
    apart: dict[tuple[str, str, str], DisagreeingCases] = field(default_factory=dict)
    faulty: int = 0
    rows: Counter[str] = field(default_factory=Counter)
    worst: dict[str, float] = field(default_factory=dict)
    reached: dict[int, set[str]] = field(default_factory=dict)
    backends: set[str] = field(default_factory=set)
    nowhere: Counter[tuple[int, Fate]] = field(default_factory=Counter)

    def verdict(self, asked: AgreementAsked) -> Verdict:
        """Differences are blamed; a device, two of them, a backend or a value that was asked for and never ran is missing."""
        idle = [f"no case ran on {name}" for name in asked.devices if name not in self.ran]
        pairs = itertools.combinations([name for name in asked.devices if name in self.ran], 2)
        apart = [
            f"nothing that {a} and {b} saw was compared" for a, b in pairs if not self.compared[a, b] + self.compared[b, a]
        ]
        nowhere = [f"no case of backend {name} was launched" for name in asked.backends if name not in self.backends]
        values = (
            () if asked.spec is None or not self.cases else never_ran(asked.spec, self.reached, *self._unlaunched_of_heads())
        )
        short = (
            [f"{counted(self.cases, 'case')} launched, and {asked.cases:,} asked for"]
            if self.cases < (asked.cases or 0)
            else []
        )
        lost = self.unlaunched[Fate.DIED] + self.unlaunched[Fate.NOT_RUN]
        short += [f"{counted(lost, 'case')} came to no end before any device had them"] if lost else []
        compared = max(self.compared.values(), default=0)
        different = max(self.differing.values(), default=0)
        fates = Counter({Fate.CLEAN: compared - different, Fate.FAULTY: different, Fate.NOT_RUN: self.cases - compared})
        return Verdict(Counts.of(fates + self.unlaunched), len(self.found), (*short, *idle, *apart, *nowhere, *values))

    @property
    def unlaunched(self) -> Counter[Fate]:
        """Cases that came to no launch, by fate."""
        fates = Counter[Fate]()
        for (_, fate), count in self.nowhere.items():
            fates[fate] += count
        return fates

    def _unlaunched_of_heads(self) -> tuple[Counter[int], Counter[int]]:
        """Cases that came to no launch, and those of them that were refused, by heads a rank."""
        drawn, refused = Counter[int](), Counter[int]()
        for (heads, fate), count in self.nowhere.items():
            drawn[heads] += count
            refused[heads] += count if fate is Fate.REFUSED else 0
        return drawn, refused

    def launched_nothing(self, outcome: Outcome) -> None:
        """Count a case that comes to no launch."""
        self.nowhere[outcome.case.num_head, outcome.fate] += 1
        if outcome.fate is not Fate.REFUSED:
            self.not_run["planner", _why(outcome)] += 1


def drawn_calls(spaces: Sequence[CaseSpace], seed: int, source: CodeSource | None) -> Iterator[Call | Outcome]:
    """Calls of the spaces in turn, without end; an Outcome of a case that comes to no launch."""
    drawn = [_cases(space, seed) for space in spaces]
    path = Path(host_of(source))
    for each in itertools.cycle(drawn):
        yield path.launched(next(each))


def examine(made: Call, devices: Sequence[Device], before: Mapping[str, Seen | None], agreement: Agreement) -> Written:
    """Runs a call on each device and compares each two; `before`: what other devices saw of it on another machine."""
    agreement.cases += 1
    case = made.decision.case
    agreement.reached.setdefault(case.num_head, set()).update(facts(case))
    agreement.backends.add(case.backend)
    observed = {device.name: _observed(device, made, agreement) for device in devices}
    observed |= {name: None if seen is None else seen.observation(made, name) for name, seen in before.items()}
    there = {name: one for name, one in observed.items() if one is not None}
    agreement.ran.update(list(there))
    foretold = any(_faulty(one) for name, one in there.items() if not device_kind(name).is_hardware)
    agreement.faulty += foretold
    for left, right in itertools.combinations(there.values(), 2):
        _note(made.decision.case, left, right, agreement)
    for name, one in there.items():
        if one.numbers is not None:
            agreement.rows[name] += one.numbers.compared
            if not foretold:
                agreement.worst[name] = max(agreement.worst.get(name, 0.0), one.numbers.worst)
    return Written(made.decision.case, {name: None if one is None else Seen.of(one) for name, one in observed.items()})


@dataclass(frozen=True, slots=True)
class Compared:
    """differences: what two observations of one call disagree in. apart: what AITER's own kernel is foretold to do and `cuda`
    does not show, because it runs another kernel; no disagreement. not_compared: why nothing can be said, "" where it can.
    """

    differences: tuple[Difference, ...]
    apart: tuple[Difference, ...] = ()
    not_compared: str = ""


def compare(left: Observation, right: Observation) -> Compared:
    """Everything in which two observations of one call differ."""
    sides = [device_kind(one.device).is_hardware for one in (left, right)]
    if not any(sides):
        reason = incomparable(left.call)
        if reason is not None:
            return Compared((), not_compared=reason)
        return Compared(tuple(differences(left, right)))
    if all(sides):
        texts = [_result(one) for one in (left, right)]
        same = _came_out_right(left) is _came_out_right(right)
        return Compared(() if same else (Difference("result", *texts),))
    if sides[1]:
        return _against_hardware(left, right)
    other = _against_hardware(right, left)
    return Compared(_turned(other.differences), _turned(other.apart))


def _turned(found: tuple[Difference, ...]) -> tuple[Difference, ...]:
    return tuple(Difference(one.what, one.right, one.left) for one in found)


def _cases(space: CaseSpace, seed: int) -> Iterator[Case]:
    for chunk in itertools.count():
        yield from chunk_cases(space, seed, chunk)


def _observed(device: Device, made: Call, agreement: Agreement) -> Observation | None:
    try:
        outcome = judge(made, device)
        said = _why(outcome)
    except CannotRunError as error:
        outcome, said = None, str(error)
    if outcome is None or outcome.observation is None:
        agreement.not_run[device.name, said.strip().splitlines()[-1]] += 1
        return None
    return outcome.observation


def _why(outcome: Outcome) -> str:
    """Of a case that did not come to be observed: the words of its fate, or of what took its process."""
    return outcome.reason or (outcome.fate if outcome.cause is None else outcome.cause.message)


def _note(case: Case, left: Observation, right: Observation, agreement: Agreement) -> None:
    pair = left.device, right.device
    compared = compare(left, right)
    if compared.not_compared:
        agreement.not_compared[pair, compared.not_compared] += 1
        return
    agreement.compared[pair] += 1
    agreement.differing[pair] += bool(compared.differences)
    for found, part in ((agreement.found, compared.differences), (agreement.apart, compared.apart)):
        for difference in {one.what: one for one in part}.values():
            known = found.setdefault((*pair, difference.what), DisagreeingCases(case, difference))
            known.count += 1


def _against_hardware(foretold: Observation, seen: Observation) -> Compared:
    """A GPU's run against what was foretold. On `cuda`, where AITER's kernel does not run, a sound plan leads to no more than
    the plan itself says, and what AITER's kernel would do with it is set apart."""
    findings = [finding for finding in check(foretold) if finding.severity > Severity.REFUSED]
    right = _came_out_right(seen)
    found = [Difference("result", "nothing wrong", _result(seen))] if not right and not findings else []
    stores, apart = ([], []) if not seen.own_kernel else _stores(foretold, seen)
    if right:
        code_object = foretold.call.launched.code_object
        for own in (False, True):
            certain = {
                one.kind.value for one in findings if one.kind.row.wrong_for_certain and own is (one.stage == code_object)
            }
            if certain:
                to = apart if own and seen.own_kernel else found
                to.append(Difference("result", ", ".join(sorted(certain)), _result(seen)))
    return Compared((*found, *stores), tuple(apart))


def _stores(foretold: Observation, seen: Observation) -> tuple[list[Difference], list[Difference]]:
    """Stores outside of tensors, and those that AITER's kernel makes alone: not seen, and the plan is sound. Nothing is said
    of a run that did not come to its end, nor where rows are counted by memory that is nobody's, which differs by device."""
    found: list[Difference] = []
    apart: list[Difference] = []
    if (seen.end is not None and seen.end.kind is not EndKind.COMPLETED) or incomparable(foretold.call) is not None:
        return found, apart
    sound = not faults_before_launch(foretold.call)
    sides = [_stores_outside(one) for one in (foretold, seen)]
    # A store that goes on beyond the red zone behind its tensor lands in the tensors after it.
    beyond = any(0 < sides[1].get(tensor, 0) < extent for tensor, extent in sides[0].items())
    for tensor in sorted({*sides[0], *sides[1]}):
        extents = [side.get(tensor, 0) for side in sides]
        if beyond and not extents[0]:
            continue
        if extents[0] == extents[1] or (min(extents) and max(extents) > MAX_EXTENT):
            continue
        texts = (f"{number_of(extent, 'byte')} outside" if extent else "not seen" for extent in extents)
        difference = Difference(f"write of {tensor}, {ViolationKind.OUT_OF_BOUNDS.value}", *texts)
        (apart if sound and not extents[1] else found).append(difference)
    return found, apart


def _stores_outside(observation: Observation) -> dict[str, int]:
    """The farthest store outside of each tensor, bytes, whichever stage made it."""
    farthest: dict[str, int] = {}
    for violation in observation.violations:
        if violation.is_write and violation.kind is ViolationKind.OUT_OF_BOUNDS:
            farthest[violation.tensor] = max(farthest.get(violation.tensor, 0), violation.extent)
    return farthest


def _faulty(observation: Observation) -> bool:
    return any(finding.severity > Severity.REFUSED for finding in check(observation))


def _came_out_right(observation: Observation) -> bool:
    numbers, end = observation.numbers, observation.end
    ended = end is None or end.kind is EndKind.COMPLETED
    return ended and (numbers is None or not numbers.not_a_number + numbers.unwritten + numbers.outside)


def _result(observation: Observation) -> str:
    end, numbers = observation.end, observation.numbers
    if end is not None and end.kind is not EndKind.COMPLETED:
        return f"{end.kind.value}: {end.message}"
    if numbers is None:
        return "no numbers"
    wrong = ((numbers.outside, "outside the budget"), (numbers.not_a_number, "NaN"), (numbers.unwritten, "not written"))
    rows_wrong = ", ".join(f"{counted(count, 'row')} {what}" for count, what in wrong if count)
    return rows_wrong or f"{counted(numbers.compared, 'row')} within the budget (worst {numbers.worst:.2f})"
