"""A rule gated before there is a source file: random cases and the head table through it, and through the base's rule."""

from __future__ import annotations

import dataclasses
import itertools
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from backend.case import Case
from backend.codec import to_plain
from backend.devices.kinds import notice
from backend.fate import Fate
from backend.findings import worst
from backend.outcome import Outcome
from backend.path import STANDS_IN, Path
from backend.serving.bounds import SGLANG
from backend.serving.registry import named_policy
from fuzz.campaign.outcomes import WithinSpace
from fuzz.gate.headline import headline, question_tests
from fuzz.gate.judge import Shape
from fuzz.gate.sweep import HEADS, Tensors
from fuzz.generate import chunk_cases
from fuzz.interruption import checkpoint
from fuzz.report.model import Code, Report, Result, Section, Test
from fuzz.space import CaseSpace, space
from fuzz.spec import Spec
from fuzz.verdict import Counts, Verdict
from reprod.case_line import case_line
from reprod.shrink import shrink
from reprod.text import one_line

HEADER = ("worst", "smallest case", "fault", "standing")


@dataclass(frozen=True, slots=True)
class RuleFault:
    """A fault of a rule, or a shape that it refuses and its base does not. severity: its name, in small letters.

    in_base: whether the base's rule shows it for the same smallest case.
    """

    signature: str
    severity: str
    message: str
    smallest: Case
    in_base: bool


@dataclass(frozen=True, slots=True)
class GatedRule:
    """What a rule brings. cases: counts of all. refused_shapes: what of the sweep never ran, each in words.

    basis: what a revision of AITER rests on, None for the built-in rules.
    """

    rule: str
    base: str | None
    device: str
    faults: tuple[RuleFault, ...]
    cases: Counts
    refused_shapes: tuple[str, ...]
    basis: str | None = None


def report(gated: GatedRule) -> Report:
    """For people and machines."""
    blamed = [fault for fault in gated.faults if not fault.in_base]
    file = gated.rule.partition(":")[0]
    counts, verdict = gated.cases, Verdict(gated.cases, len(blamed), gated.refused_shapes)
    place = (file, 1) if file.endswith((".py", ".toml")) else ("", 1)
    rows = tuple(
        (
            fault.severity,
            case_line(fault.smallest),
            Code(fault.signature),
            "in the base too" if fault.in_base else "new" if gated.base else "found",
        )
        for fault in gated.faults
    )
    tests = (
        Test(
            fault.signature,
            case_line(fault.smallest),
            Result.SKIPPED if fault.in_base else Result.FAILURE,
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
            f"rule: {gated.rule}{f', against {gated.base}' if gated.base else ''}; {counts.cases:,} cases: {counts.ran:,} ran, "
            f"{counts.refused:,} refused by the rule or AITER, {counts.unjudged:,} not judged",
            *((gated.basis,) if gated.basis is not None else ()),
        ),
        sections=(Section("", HEADER, rows),) if rows else (),
        explained=tuple(f"{case_line(fault.smallest)}: {one_line(fault.message)}" for fault in blamed),
        notes=(),
        tests=(*tests, *question_tests(verdict)),
        plain={
            "rule": gated.rule,
            "base": gated.base,
            "cases": counts.cases,
            "faults": [to_plain(fault) | {"blamed": not fault.in_base} for fault in gated.faults],
        },
    )


@dataclass(slots=True)
class _Seen:
    """What became of the cases of one shape. refusal: the first that did not run, and why."""

    ran: int = 0
    refusal: tuple[Case, str] | None = None


@dataclass(slots=True)
class _Tally:
    """Cases by their fate, and by shape."""

    fates: Counter[Fate] = field(default_factory=Counter)
    shapes: dict[Shape, _Seen] = field(default_factory=dict)
    stood_in: list[str] = field(default_factory=list)

    def add(self, case: Case, outcome: Outcome) -> None:
        """Counts what became of one case."""
        self.fates[outcome.fate] += 1
        if outcome.unknown and (outcome.reason or "").startswith(STANDS_IN):
            self.stood_in.append(one_line(str(outcome.reason)))
        seen = self.shapes.setdefault(_shape(case), _Seen())
        if outcome.observation is not None:
            seen.ran += 1
        elif seen.refusal is None:
            seen.refusal = case, one_line(str(outcome.reason or outcome.cause))


def gate_policy(
    rule: str,
    base: str | None,
    path: Path,
    tensors: Sequence[Tensors],
    heads: Sequence[int],
    seconds: float,
    seed: int,
) -> GatedRule:
    """Searches with the rule until time is up, each head count and tensor type first; then tries each fault on the base."""
    for given in (rule, base):
        if given is not None:
            named_policy(given)
    found: dict[str, RuleFault] = {}
    tally = _Tally()
    chosen = tuple(heads) or tuple(h for h in HEADS if h in SGLANG.heads)
    spaces = [_space(rule, one, chosen) for one in tensors]
    for one in spaces:  # compiles what a first case has to, which is no part of the search's time
        path.run(next(_each_shape(one)))
    ends = time.monotonic() + seconds
    for number, one in enumerate(spaces):
        for case in _each_shape(one):
            checkpoint()
            tally.add(case, path.run(case))
        left = max((ends - time.monotonic()) / (len(spaces) - number), 0.5)
        until = time.monotonic() + left
        for case in _drawn(one, seed):
            checkpoint()
            outcome = path.run(case)
            tally.add(case, outcome)
            cause = outcome.cause
            if outcome.faulty and cause is not None and cause.signature not in found:
                found[cause.signature] = _rule_fault(case, cause.signature, one, path, base)
            if time.monotonic() >= until:
                break
    refused = [*_refused(path, base, tally)]
    faults = (*found.values(), *(each for each in refused if isinstance(each, RuleFault)))
    missing = tuple(each for each in refused if isinstance(each, str))
    if tally.stood_in:
        missing = (*missing, f"{len(tally.stood_in):,} cases are not judged: {tally.stood_in[0]}")
    return GatedRule(rule, base, path.device.name, faults, Counts.of(tally.fates), missing, path.host.warning())


def _drawn(one: CaseSpace, seed: int) -> Iterator[Case]:
    """Random cases of a space, without end."""
    for chunk in itertools.count():
        yield from chunk_cases(one, seed, chunk)


def _rule_fault(case: Case, signature: str, one: CaseSpace, path: Path, base: str | None) -> RuleFault:
    """The fault by its smallest case, which is tried on the base's rule too."""
    shrunk = shrink(case, WithinSpace(path, one), signature)
    cause, severity = shrunk.outcome.cause, worst(shrunk.outcome.findings)
    assert cause is not None
    assert severity is not None
    in_base = base is not None and path.run(dataclasses.replace(shrunk.case, backend=base)).shows(signature)
    return RuleFault(signature, severity.name.lower(), cause.message, shrunk.case, in_base)


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


def _space(rule: str, tensors: Tensors, heads: tuple[int, ...]) -> CaseSpace:
    return space(Spec(backend=rule, heads=heads, archs=(tensors.arch,), q_dtype=tensors.q_dtype, kv_dtype=tensors.kv_dtype))


def _shape(case: Case) -> Shape:
    return Shape(case.num_head, case.arch, case.q_dtype, case.kv_dtype)
