"""A rule gated before there is a source file: random cases and the head table through it, and through the base's rule."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from backend.case import Case
from backend.codec import to_plain
from backend.path import Path
from backend.serving.bounds import SGLANG
from backend.serving.registry import named_policy
from fuzz.gate.sweep import HEADS, Tensors
from fuzz.search import Budget, Fault, Search
from fuzz.space import CaseSpace, space
from fuzz.spec import Spec
from reprod.explain import told
from reprod.text import table


@dataclass(frozen=True, slots=True)
class PolicyOutcome:
    """What a rule brings. faults: of the rule; in_base: signatures that the base's rule shows for the same smallest case."""

    rule: str
    base: str | None
    faults: tuple[Fault, ...]
    in_base: frozenset[str]
    cases: int

    @property
    def blamed(self) -> tuple[Fault, ...]:
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
    found: dict[str, Fault] = {}
    cases = 0
    chosen = tuple(heads) or tuple(h for h in HEADS if h in SGLANG.heads)
    spaces = [_space(rule, one, chosen) for one in tensors]
    for number, one in enumerate(spaces):
        left = max((ends - time.monotonic()) / (len(spaces) - number), 0.5)
        search = Search(one, path, seed)
        for _ in search.events(Budget(seconds=left)):
            pass
        cases += search.tally.cases
        found |= {s: f for s, f in search.tally.faults.items() if s not in found}
    in_base = frozenset(s for s, fault in found.items() if base is not None and _shows(path, base, fault.shrunk.case, s))
    return PolicyOutcome(rule, base, tuple(found.values()), in_base, cases)


def _space(rule: str, tensors: Tensors, heads: tuple[int, ...]) -> CaseSpace:
    spec = Spec(backend=rule, heads=heads, archs=(tensors.arch,), q_dtype=tensors.q_dtype, kv_dtype=tensors.kv_dtype)
    return space(spec)


def _shows(path: Path, base: str, case: Case, signature: str) -> bool:
    outcome = path.run(dataclasses.replace(case, backend=base))
    return outcome.cause is not None and outcome.cause.signature == signature
