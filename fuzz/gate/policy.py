"""A rule gated before there is a source file: random cases and the head table through it, and through the base's rule."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from backend.case import Case
from backend.codec import to_plain
from backend.errors import CannotRunError
from backend.fate import Fate
from backend.findings import FindingKind, Severity, worst
from backend.path import Path
from backend.serving.bounds import SGLANG
from backend.serving.registry import named_policy
from fuzz.campaign.chunks import drawn_chunks
from fuzz.campaign.outcomes import WithinSpace
from fuzz.gate.sweep import HEADS, Tensors
from fuzz.space import CaseSpace, space
from fuzz.spec import Spec
from reprod.explain import told
from reprod.shrink import ShrinkResult, shrink
from reprod.text import table


@dataclass(frozen=True, slots=True, eq=False)
class RuleFault:
    """One distinct fault of a rule. shrunk: its smallest case."""

    signature: str
    shrunk: ShrinkResult

    @property
    def severity(self) -> Severity:
        """The worst of what the smallest case shows."""
        severity = worst(self.shrunk.outcome.findings)
        assert severity is not None
        return severity


@dataclass(frozen=True, slots=True)
class PolicyOutcome:
    """What a rule brings. faults: of the rule; in_base: signatures that the base's rule shows for the same smallest case."""

    rule: str
    base: str | None
    faults: tuple[RuleFault, ...]
    in_base: frozenset[str]
    cases: int

    @property
    def blamed(self) -> tuple[RuleFault, ...]:
        """Faults that the base does not have."""
        return tuple(fault for fault in self.faults if fault.signature not in self.in_base)

    def lines(self) -> Iterator[str]:
        """For a terminal."""
        rows = [
            (
                fault.severity.name.lower(),
                told(fault.shrunk.case),
                fault.signature,
                "in the base too" if fault.signature in self.in_base else "new" if self.base else "found",
            )
            for fault in self.faults
        ]
        if rows:
            yield from table(("worst", "smallest case", "fault", "standing"), rows)
        count = len(self.blamed)
        said = "FAULTY" if count else "clean"
        yield f"{said}: {count} to blame the rule for, in {self.cases:,} cases (simulated; not run on a GPU)"

    def plain(self) -> dict[str, Any]:
        """For machines."""
        return {
            "verdict": "faulty" if self.blamed else "clean",
            "rule": self.rule,
            "base": self.base,
            "cases": self.cases,
            "faults": [
                {
                    "signature": fault.signature,
                    "severity": fault.severity.name.lower(),
                    "smallest": to_plain(fault.shrunk.case),
                    "blamed": fault.signature not in self.in_base,
                }
                for fault in self.faults
            ],
        }


class Service:
    """Gates rules in a child process: a rule is a stranger's code."""

    def gate(
        self, rule: str, base: str | None, tensors: tuple[Tensors, ...], heads: tuple[int, ...], seconds: float, seed: int
    ) -> tuple[list[str], dict[str, Any], bool]:
        """Lines for a terminal, plain data, and whether something is blamed on the rule."""
        outcome = gate_policy(rule, base, tensors, heads, seconds, seed)
        return list(outcome.lines()), outcome.plain(), bool(outcome.blamed)


def gate_policy(
    rule: str, base: str | None, tensors: Sequence[Tensors], heads: Sequence[int], seconds: float, seed: int
) -> PolicyOutcome:
    """Searches with the rule until time is up, each head count and tensor type first; then tries each fault on the base."""
    for given in (rule, base):
        if given is not None:
            named_policy(given)
    path = Path()
    ends = time.monotonic() + seconds
    found: dict[str, RuleFault] = {}
    cases = 0
    chosen = tuple(heads) or tuple(h for h in HEADS if h in SGLANG.heads)
    spaces = [_space(rule, one, chosen) for one in tensors]
    for number, one in enumerate(spaces):
        left = max((ends - time.monotonic()) / (len(spaces) - number), 0.5)
        until = time.monotonic() + left
        for report in drawn_chunks(one, path, "model", seed):
            cases += report.cases
            if report.fates()[Fate.DIED]:
                died = next(shown for shown in report.shown if shown.finding.kind is FindingKind.DIED)
                raise CannotRunError(f"rule {rule}: {died.finding.message}; its case: {told(died.case)}")
            for shown in report.shown:
                if shown.signature not in found:
                    smallest = shrink(shown.case, WithinSpace(path, one), shown.signature)
                    found[shown.signature] = RuleFault(shown.signature, smallest)
            if time.monotonic() >= until:
                break
    in_base = frozenset(s for s, fault in found.items() if base is not None and _shows(path, base, fault.shrunk.case, s))
    return PolicyOutcome(rule, base, tuple(found.values()), in_base, cases)


def _space(rule: str, tensors: Tensors, heads: tuple[int, ...]) -> CaseSpace:
    spec = Spec(backend=rule, heads=heads, archs=(tensors.arch,), q_dtype=tensors.q_dtype, kv_dtype=tensors.kv_dtype)
    return space(spec)


def _shows(path: Path, base: str, case: Case, signature: str) -> bool:
    outcome = path.run(dataclasses.replace(case, backend=base))
    return outcome.cause is not None and outcome.cause.signature == signature
