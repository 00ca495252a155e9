"""What a case must have for a fault to be that of an entry: the general rule, at whatever heads, rows and types it was met.

A signature says who did what to which tensor; a Condition, what kind of batch the fault takes. Knows Cases; nothing of
planners, kernels or of how a finding is made.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from fnmatch import fnmatchcase

from backend.case import Case
from backend.errors import UsageError
from backend.findings import Finding
from backend.serving.policy import of_rank

Figure = int | str


@dataclass(frozen=True, slots=True)
class FigureRange:
    """A figure between two bounds, both inclusive; None: open."""

    at_least: int | None = None
    at_most: int | None = None

    def holds(self, value: Figure) -> bool:
        """Whether a figure lies within; never for a string."""
        if isinstance(value, str):
            return False
        return (self.at_least is None or value >= self.at_least) and (self.at_most is None or value <= self.at_most)


def _tokens_and_rows(case: Case) -> list[tuple[int, int]]:
    """KV tokens that the case's rank holds, and query rows, of each request."""
    return list(zip(of_rank(case.kv_lens, case), case.rows(), strict=True))


def _empty(case: Case) -> list[bool]:
    return [rows > 0 and tokens == 0 for tokens, rows in _tokens_and_rows(case)]


def _behind_an_empty_one(case: Case) -> int:
    first = _empty(case).index(True) if any(_empty(case)) else case.batch
    return sum(tokens > 0 for tokens, _ in _tokens_and_rows(case)[first:])


def _fewer_tokens_than_rows(case: Case) -> int:
    return sum(rows > 0 and tokens < case.max_seqlen_q for tokens, rows in _tokens_and_rows(case))


FACTS: Mapping[str, Callable[[Case], int]] = {
    "empty_requests": lambda case: sum(_empty(case)),
    "requests_behind_an_empty_one": _behind_an_empty_one,
    "requests_of_fewer_tokens_than_rows": _fewer_tokens_than_rows,
    "requests_of_fewer_rows": lambda case: sum(rows < case.max_seqlen_q for rows in case.rows()),
    "requests_beyond_rows": lambda case: max(case.batch - sum(case.rows()), 0),
    "tokens_of_the_pool": lambda case: case.page_size * (case.first_page + sum(-(-n // case.page_size) for n in case.kv_lens)),
}
"""Of a batch, requests that have query rows and no KV tokens (of those that the rank holds); that have tokens and stand
behind such a one; that have rows and fewer tokens than max_seqlen_q; that have fewer rows than max_seqlen_q; how many more
requests than query rows there are; tokens of a KV pool that ends behind the last page held.
"""


@dataclass(frozen=True, slots=True)
class Condition:
    """What each case of a fault has, whatever else it has.

    case: by name of a field of Case that is a number, a bool or a word, or of FACTS, the values or the range that it lies in.
    kernels: patterns (as of a shell) of the code objects that have the fault; empty: those that the entry's sides name.
    """

    case: Mapping[str, FigureRange | tuple[bool | int | str, ...]] = field(default_factory=dict)
    kernels: tuple[str, ...] = ()

    def fits(self, case: Case) -> bool:
        """Whether a case has all of it."""
        return all(_lies_in(_figure_of(name, case), allowed) for name, allowed in self.case.items())

    def has_kernel(self, finding: Finding) -> bool:
        """Whether a finding is of one of the kernels that have the fault."""
        return any(fnmatchcase(finding.stage, pattern) for pattern in self.kernels)

    def check(self, where: str) -> None:
        """Raises UsageError for a name that is no figure of a Case."""
        allowed = [*(name for name in Case.__dataclass_fields__ if name not in ("kv_lens", "query_lens")), *FACTS]
        for name in self.case:
            if name not in allowed:
                raise UsageError.not_allowed(f"{where}.case", name, ", ".join(allowed))


def _figure_of(name: str, case: Case) -> bool | int | str | None:
    value = FACTS[name](case) if name in FACTS else getattr(case, name)
    return value.value if isinstance(value, Enum) else value


def _lies_in(value: bool | int | str | None, allowed: FigureRange | tuple[bool | int | str, ...]) -> bool:
    if isinstance(allowed, FigureRange):
        return value is not None and allowed.holds(value)
    return value in allowed
