"""A rule gated before there is a source file: what a search draws for it and the head table, through it and the base's rule."""

from __future__ import annotations

import dataclasses
import itertools
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass, field

from backend.case import Case
from backend.codec import to_plain
from backend.devices.kinds import notice
from backend.fate import Fate
from backend.findings import worst
from backend.git import path_and_revision
from backend.outcome import Outcome
from backend.path import STANDS_IN, Path
from backend.serving.registry import named_policy
from backend.words import counted
from fuzz.campaign.outcomes import WithinSpace
from fuzz.gate.headline import headline, question_tests, what_ids_stand_for
from fuzz.gate.judge import Shape
from fuzz.own_process import checkpoint
from fuzz.report.report import Code, Report, Result, Section, Test
from fuzz.space import CaseSpace, not_drawn
from fuzz.strategies import chunk_cases
from fuzz.verdict import Counts, Verdict
from reprod.case_line import case_line
from reprod.corpus import shipped_corpus
from reprod.known import KnownFaults
from reprod.reference import KnownReference
from reprod.shrink import DEFAULT_TRIES, measure, shrink
from reprod.text import one_line

SHRINK_SECONDS = 10.0
"""For the smallest case of one fault, which is not counted against the search's time."""

HEADER = ("worst", "smallest case", "fault", "standing")


@dataclass(frozen=True, slots=True)
class RuleFault:
    """A fault of a rule, or a shape that it refuses and its base does not. severity: its name, in small letters.

    in_base: whether the base's rule shows it for the same smallest case. known: the corpus entry of it, None for none.
    expected: whether --expect names it.
    """

    signature: str
    severity: str
    message: str
    smallest: Case
    in_base: bool
    known: KnownReference | None = None
    expected: bool = False

    @property
    def blamed(self) -> bool:
        """Whether the rule is to blame for it."""
        return not (self.in_base or self.expected)


@dataclass(frozen=True, slots=True)
class GatedRule:
    """What a rule brings. cases: counts of all. refused_shapes: what of the sweep never ran, each in words.

    basis: what a revision of AITER rests on, None for the built-in rules. drawn_from: what cases were drawn from.
    aiter: whose text cases ran by, "" for the release that they name.
    """

    rule: str
    base: str | None
    device: str
    faults: tuple[RuleFault, ...]
    cases: Counts
    refused_shapes: tuple[str, ...]
    drawn_from: CaseSpace
    basis: str | None = None
    aiter: str = ""


def report(gated: GatedRule, again: Callable[[Case], str] = lambda _: "") -> Report:
    """For people and machines. again: the command that shows a case again, "" for none."""
    blamed = [fault for fault in gated.faults if fault.blamed]
    file = gated.rule.partition(":")[0]
    counts, verdict = gated.cases, Verdict(gated.cases, len(blamed), gated.refused_shapes)
    place = (file, 1) if file.endswith((".py", ".toml")) else ("", 1)
    tried_on = [f"{arch} q {q} KV {kv}" for arch, q, kv in gated.drawn_from.tensor_types]
    rows = tuple(
        (
            fault.severity,
            case_line(fault.smallest, gated.aiter),
            Code(fault.signature),
            _standing(fault, gated),
        )
        for fault in gated.faults
    )
    tests = (
        Test(
            fault.signature,
            case_line(fault.smallest, gated.aiter),
            Result.FAILURE if fault.blamed else Result.SKIPPED,
            fault.message,
            place=place,
        )
        for fault in gated.faults
    )
    has = "the rule brings" if gated.base else "the rule has"
    return Report(
        title=f"aiterfuzz gate {gated.rule}",
        verdict=verdict,
        headline=headline(verdict, "rule is to blame for", has, len(gated.faults) - len(blamed)),
        notice=notice(gated.device),
        about=(
            f"rule: {gated.rule}{f', against {gated.base}' if gated.base else ''}; {counted(counts.cases, 'case')}: "
            f"{counts.ran:,} ran, "
            f"{counts.refused:,} refused by the rule or AITER, {counts.unjudged:,} not judged",
            f"tried on: {', '.join(tried_on)}",
            *((gated.basis,) if gated.basis is not None else ()),
        ),
        sections=(
            *((Section("", HEADER, rows),) if rows else ()),
            *what_ids_stand_for(fault.known for fault in gated.faults),
            *_not_drawn(gated.drawn_from),
        ),
        explained=tuple(line for fault in blamed for line in _explained(fault, gated.aiter, again(fault.smallest))),
        notes=(),
        tests=(*tests, *question_tests(verdict)),
        data={
            "rule": gated.rule,
            "base": gated.base,
            "cases": counts.cases,
            "tried_on": tried_on,
            "faults": [to_plain(fault) | {"blamed": fault.blamed} for fault in gated.faults],
        },
    )


def _explained(fault: RuleFault, aiter: str, command: str) -> Iterator[str]:
    yield f"{case_line(fault.smallest, aiter)}: {one_line(fault.message)}"
    if command:
        yield f"  again: {command}"


def _standing(fault: RuleFault, gated: GatedRule) -> str:
    stands = "in the base too" if fault.in_base else "expected" if fault.expected else "new" if gated.base else "found"
    return f"{stands} ({fault.known.entry})" if fault.known is not None else stands


def _not_drawn(space: CaseSpace) -> Iterator[Section]:
    left = not_drawn(space)
    if left:
        yield Section("Not drawn, though the framework sends it (flags are those of run):", (), tuple((each,) for each in left))


@dataclass(slots=True)
class _Seen:
    """What became of the cases of one shape. refusal: the first that did not run, and why."""

    ran: int = 0
    refusal: tuple[Case, str] | None = None


@dataclass(slots=True)
class _Tally:
    """Cases by their fate, and by shape. faulty: the smallest case seen of each fault."""

    fates: Counter[Fate] = field(default_factory=Counter)
    shapes: dict[Shape, _Seen] = field(default_factory=dict)
    stood_in: list[str] = field(default_factory=list)
    faulty: dict[str, Case] = field(default_factory=dict)

    def add(self, case: Case, outcome: Outcome) -> None:
        """Counts what became of one case."""
        self.fates[outcome.fate] += 1
        cause = outcome.cause
        if outcome.faulty and cause is not None:
            self.faulty[cause.signature] = min(case, self.faulty.get(cause.signature, case), key=measure)
        if outcome.unknown and (outcome.reason or "").startswith(STANDS_IN):
            self.stood_in.append(one_line(str(outcome.reason)))
        seen = self.shapes.setdefault(_shape(case), _Seen())
        if outcome.observation is not None:
            seen.ran += 1
        elif seen.refusal is None:
            seen.refusal = case, one_line(str(outcome.reason or outcome.cause))


def gate_policy(
    asked: CaseSpace, base: str | None, path: Path, seconds: float, seed: int, expected: Collection[str] = ()
) -> GatedRule:
    """Searches a rule's space until time is up, each head count and tensor types first; then makes each fault small and tries
    it on the base. expected: entries and signatures that nobody is blamed for."""
    for given in (asked.backend, base):
        if given is not None:
            named_policy(given)
    tally = _Tally()
    spaces = [dataclasses.replace(asked, tensor_types=(types,)) for types in asked.tensor_types]
    for one in spaces:  # compiles what a first case has to, which is no part of the search's time
        path.run(next(_each_shape(one)))
    ends = time.monotonic() + seconds
    for number, one in enumerate(spaces):
        until = time.monotonic() + max((ends - time.monotonic()) / (len(spaces) - number), 0.5)
        first = list(_each_shape(one))
        for at, case in enumerate(itertools.chain(first, _drawn(one, seed))):
            if at >= len(first) and time.monotonic() >= until:
                break
            checkpoint()
            tally.add(case, path.run(case))
    known = KnownFaults(shipped_corpus())
    found = tuple(_rule_fault(case, signature, asked, path, base, known) for signature, case in tally.faulty.items())
    refused = [*_refused(path, base, tally)]
    faults = tuple(
        dataclasses.replace(each, expected=bool(_names(each) & {*expected}))
        for each in (*found, *(each for each in refused if isinstance(each, RuleFault)))
    )
    missing = tuple(each for each in refused if isinstance(each, str))
    if tally.stood_in:
        missing = (*missing, f"{counted(len(tally.stood_in), 'case is', 'cases are')} not judged: {tally.stood_in[0]}")
    counts, basis = Counts.of(tally.fates), path.host.warning()
    aiter = path_and_revision(path.host.label)[1]
    return GatedRule(asked.backend, base, path.device.name, faults, counts, missing, asked, basis, aiter)


def _names(fault: RuleFault) -> set[str]:
    """By which --expect may name it."""
    return {fault.signature, *((fault.known.entry,) if fault.known is not None else ())}


def _rule_fault(case: Case, signature: str, asked: CaseSpace, path: Path, base: str | None, known: KnownFaults) -> RuleFault:
    """The fault by its smallest case, which is tried on the base's rule too."""
    began = time.perf_counter()
    path.run(case)
    tries = max(1, min(DEFAULT_TRIES, int(SHRINK_SECONDS / (time.perf_counter() - began))))
    shrunk = shrink(case, WithinSpace(path, asked), signature, tries)
    cause, severity = shrunk.outcome.cause, worst(shrunk.outcome.findings)
    assert cause is not None
    assert severity is not None
    in_base = base is not None and path.run(dataclasses.replace(shrunk.case, backend=base)).shows(signature)
    reference = known.reference(cause, shrunk.case)
    return RuleFault(signature, severity.name.lower(), cause.message, shrunk.case, in_base, reference)


def _drawn(one: CaseSpace, seed: int) -> Iterator[Case]:
    """Random cases of a space, without end."""
    for chunk in itertools.count():
        yield from chunk_cases(one, seed, chunk)


def _refused(path: Path, base: str | None, tally: _Tally) -> Iterator[RuleFault | str]:
    """Each shape of which nothing ran: a fault of the rule where the base takes it, a question without a base."""
    for shape, seen in tally.shapes.items():
        if seen.ran or seen.refusal is None:
            continue
        case, reason = seen.refusal
        if base is None:
            yield f"{shape}: {reason}"
        elif path.run(dataclasses.replace(case, backend=base)).observation is not None:
            yield RuleFault("refuses", "refused", f"{shape}: {reason}; the base takes it", case, in_base=False)


def _each_shape(one: CaseSpace) -> Iterator[Case]:
    """The smallest case of each head count and types, so that none is left to chance."""
    for heads in one.heads:
        for arch, q_dtype, kv_dtype in one.tensor_types:
            yield Case(
                num_head=heads,
                kv_lens=(33, 1),
                q_dtype=q_dtype,
                kv_dtype=kv_dtype,
                arch=arch,
                release=one.releases[0],
                backend=one.backend,
                mode=one.modes[0],
            )


def _shape(case: Case) -> Shape:
    return Shape(case.num_head, case.arch, case.q_dtype, case.kv_dtype)
