"""Shrinking: from a case that shows a fault to the smallest case that shows the same fault.

Knows the Case and the signature of a finding; not what a fault is, nor which device runs a case.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from backend.case import FIELDS, MAX_KV_LEN, Case, DType
from backend.case_fields import REQUIRED, CaseField
from backend.errors import CannotRunError, UsageError

if TYPE_CHECKING:
    from backend.outcome import Outcome

EXHAUSTIVE = 512
"""Values tried one by one, from the smallest, before a number counts as minimal. Planners change their minds at 16, 64,
128, 196 and 256 tokens and at 256 compute units, in ways that are not monotonic (a tail of 1 to 4 tokens, a remainder
by the granularity), so that bisection alone would stop at whatever such a step left it on."""

DEFAULT_TRIES = 20_000
"""Cases tried at most: 4 s on the model at 5,000 cases a second, some minutes on a machine that runs code objects."""


class Runner(Protocol):
    """What the shrinker needs of a backend.path.Path."""

    def run(self, case: Case) -> Outcome:
        """The outcome of a case."""
        ...


@dataclass(frozen=True, slots=True)
class ShrinkResult:
    """The smallest case found.

    outcome: of `case`. signature: the fault that was kept. tried: cases run, the first included.
    accepted: steps that made progress. minimal: False where the budget ended before every pass was out of steps.
    """

    case: Case
    outcome: Outcome
    signature: str
    tried: int
    accepted: int
    minimal: bool


def shrink(case: Case, path: Runner, signature: str | None = None, budget: int = DEFAULT_TRIES) -> ShrinkResult:
    """The smallest case with the same fault, by the order that Shrinker documents.

    signature: of the cause to keep; None: that of the case's own cause. budget: cases run at most, at least 1.
    Raises UsageError where the case does not show that fault.
    """
    if budget < 1:
        raise UsageError.not_allowed("shrink budget", budget, "at least 1 case")
    outcome = path.run(case)
    shown = _cause(outcome)
    wanted = signature or shown
    if shown is None or shown != wanted:
        fault = f"the fault {signature!r}" if signature else "a fault"
        raise UsageError(
            f"nothing to shrink: the case does not show {fault} (its cause: {shown or 'none'}); give a case that does"
        )
    return Shrinker(path, case, outcome, shown, budget).run()


def _cause(outcome: Outcome) -> str | None:
    """Signature of the cause of an outcome; None where nothing worse than a refusal was found."""
    cause = outcome.cause
    return cause.signature if outcome.faulty and cause is not None else None


class Shrinker:
    """One shrink of one case.

    **Invariants.** `self.case` always shows `self.signature` as its cause (not merely among its findings: a case that
    fails for another reason is another fault, however much it looks alike). `measure(self.case)` only ever falls. A case is
    run at most once.

    **Progress** is a smaller `measure`, a tuple compared from its left, most important first: requests; graph and
    allocation batch; query rows; KV tokens; then every other field by its distance from neutral, in the order that the rows
    of backend/case.py give (`ONE_BY_ONE`): dtypes (fp8 first, which is what MLA is served with), heads, page size, page
    order, first page, compute units, a forced mode, the log-sum-exp asked for, and what has been added since. A step that
    makes an earlier entry smaller may make later ones larger, never the other way round. Release, architecture and backend
    are what is under test and never change.

    **Passes** each list smaller candidates of a case, boldest first (`PASSES`, in the order of the measure). A pass is
    repeated while one of its candidates is accepted; after the last pass all begin again, because a later step may have
    opened an earlier one. The run ends when a whole round accepts nothing. So the result is a local minimum of *every* pass
    by construction: each of `steps(case)` was run and does not show the fault, which a test checks from outside.
    Numbers are exact: the smallest values are tried one by one up to EXHAUSTIVE, above that by bisection, which is exact
    where the fault is monotonic in the number.

    **How it stalls.** Two fields that must change together (more heads but fewer rows) when no pass changes both. Pairs of
    lengths are redistributed, both dtypes change at once, and lengths fall together before they fall alone; other
    pairs do not, on purpose: a fault that needs them is better read with both visible.

    **Budget** counts cases run. When it ends, the best case so far is returned and marked as not minimal.
    """

    def __init__(self, path: Runner, case: Case, outcome: Outcome, signature: str, budget: int) -> None:
        self.path = path
        self.case = case
        self.outcome = outcome
        self.signature = signature
        self.budget = budget
        self.tried = 1
        self.accepted = 0
        self._failed: set[Case] = set()

    def run(self) -> ShrinkResult:
        """Rounds of all passes until one accepts nothing or the budget ends."""
        minimal = True
        try:
            while self._round():
                pass
        except _OutOfBudgetError:
            minimal = False
        return ShrinkResult(self.case, self.outcome, self.signature, self.tried, self.accepted, minimal)

    def _round(self) -> bool:
        before = self.accepted
        for candidates in PASSES:
            while any(self._accept(candidate) for candidate in candidates(self.case)):
                pass
        return self.accepted > before

    def _accept(self, candidate: Case) -> bool:
        if measure(candidate) >= measure(self.case) or candidate in self._failed:
            return False
        if self.tried >= self.budget:
            raise _OutOfBudgetError
        self.tried += 1
        outcome = self._outcome(candidate)
        if outcome is None or _cause(outcome) != self.signature:
            self._failed.add(candidate)
            return False
        self.case, self.outcome = candidate, outcome
        self.accepted += 1
        return True

    def _outcome(self, candidate: Case) -> Outcome | None:
        """None where the device cannot run the candidate: what is not known to show the fault does not show it."""
        try:
            return self.path.run(candidate)
        except CannotRunError:
            return None


class _OutOfBudgetError(Exception):
    """Ends a shrink from wherever it is."""


def measure(case: Case) -> tuple[int, ...]:
    """How large a case is; smaller is simpler, compared from the left. The order is Shrinker's."""
    return (
        case.batch,
        case.graph_batch or 0,
        case.max_batch or 0,
        case.max_seqlen_q,
        0 if case.query_lens is None else sum(case.query_lens),
        sum(case.kv_lens),
        *(field.size(getattr(case, field.name)) for field in ONE_BY_ONE),
        *case.kv_lens,
        *(case.query_lens or ()),
    )


def steps(case: Case) -> Iterator[Case]:
    """Every candidate that the passes would try from a case, without duplicates; none shows the fault at a minimum."""
    seen: set[Case] = set()
    for candidates in PASSES:
        for candidate in candidates(case):
            if measure(candidate) < measure(case) and candidate not in seen:
                seen.add(candidate)
                yield candidate


def smaller_numbers(current: int, floor: int) -> Iterator[int]:
    """Values in [floor, current), boldest first: the floor, halves of the way to it, then one by one up to EXHAUSTIVE."""
    distance = current - floor
    if distance <= 0:
        return
    yield floor
    step = distance // 2
    while step:
        yield current - step
        step //= 2
    yield from range(floor + 1, min(current, floor + EXHAUSTIVE))


def _delete_requests(case: Case) -> Iterator[Case]:
    """Runs of requests, the longest first; single requests last."""
    size = case.batch - 1
    while size:
        for start in range(case.batch - size, -1, -1):  # from the end: padding and tails matter less often than heads
            yield _keep(case, [i for i in range(case.batch) if not start <= i < start + size])
        size //= 2


def _merge_requests(case: Case) -> Iterator[Case]:
    """Two neighbours as one request with the tokens of both."""
    for i in range(case.batch - 1):
        shorter = _keep(case, [j for j in range(case.batch) if j != i])
        lens = (*case.kv_lens[:i], case.kv_lens[i] + case.kv_lens[i + 1], *case.kv_lens[i + 2 :])
        if lens[i] <= MAX_KV_LEN:
            yield shorter.replace(kv_lens=lens)


def _graph(case: Case) -> Iterator[Case]:
    if case.graph_batch is not None:
        yield case.replace(graph_batch=None)
        for value in smaller_numbers(case.graph_batch, case.batch):
            yield case.replace(graph_batch=value)


def _allocation(case: Case) -> Iterator[Case]:
    if case.max_batch is not None:
        yield case.replace(max_batch=None)
        for value in smaller_numbers(case.max_batch, 1):
            yield case.replace(max_batch=value)


def _query_rows(case: Case) -> Iterator[Case]:
    """Fewer rows a request, then uniform rows, then fewer rows of single requests."""
    for rows in smaller_numbers(case.max_seqlen_q, 1):
        lens = case.query_lens and tuple(min(n, rows) for n in case.query_lens)
        yield case.replace(max_seqlen_q=rows, query_lens=lens)
    if case.query_lens is not None:
        yield case.replace(query_lens=None)
        for i, current in enumerate(case.query_lens):
            for rows in smaller_numbers(current, 1):
                yield case.replace(query_lens=_with(case.query_lens, i, rows))


def _lengths_together(case: Case) -> Iterator[Case]:
    """All requests cut to one length, then all halved."""
    for length in smaller_numbers(max(case.kv_lens), 0):
        yield case.replace(kv_lens=tuple(min(n, length) for n in case.kv_lens))


def _lengths_alone(case: Case) -> Iterator[Case]:
    for i, current in enumerate(case.kv_lens):
        for length in smaller_numbers(current, 0):
            yield case.replace(kv_lens=_with(case.kv_lens, i, length))


def _dtypes(case: Case) -> Iterator[Case]:
    for q_dtype, kv_dtype in ((DType.FP8, DType.FP8), (case.q_dtype, DType.FP8), (DType.FP8, case.kv_dtype)):
        yield case.replace(q_dtype=q_dtype, kv_dtype=kv_dtype)


def _smaller(field: CaseField, case: Case) -> Iterator[Case]:
    """The neutral value, then values nearer to it."""
    value = getattr(case, field.name)
    if field.size(value) == 0:
        return
    yield from (case.with_field(field.name, each) for each in _nearer(field, value))


def _nearer(field: CaseField, value: Any) -> Iterator[Any]:
    if field.steps:
        yield from (each for each in field.steps if each < value)
        return
    if field.neutral is not REQUIRED:
        yield field.neutral
    if field.kind is int:
        origin = field.neutral if isinstance(field.neutral, int) else field.least or 0
        sign = 1 if value > origin else -1
        numbers = (origin + sign * distance for distance in smaller_numbers(abs(value - origin), 0))
        yield from (number for number in numbers if number != field.neutral and field.holds(number))


ONE_BY_ONE: tuple[CaseField, ...] = tuple(
    sorted((field for field in FIELDS if field.shrunk is not None), key=lambda field: field.shrunk or 0)
)
"""Fields that are made smaller by themselves, in the order of the measure."""


def _redistribute(case: Case) -> Iterator[Case]:
    """Tokens handed to the next request, and neighbours in ascending order: the same tokens, told more simply."""
    for i in range(case.batch - 1):
        first, second = case.kv_lens[i], case.kv_lens[i + 1]
        if first > second:
            yield case.replace(kv_lens=_with(_with(case.kv_lens, i, second), i + 1, first))
        for length in smaller_numbers(first, 0):
            if first + second - length <= MAX_KV_LEN:
                yield case.replace(kv_lens=_with(_with(case.kv_lens, i, length), i + 1, first + second - length))


PASSES: tuple[Callable[[Case], Iterator[Case]], ...] = (
    _delete_requests,
    _merge_requests,
    _graph,
    _allocation,
    _query_rows,
    _lengths_together,
    _lengths_alone,
    _dtypes,
    *(functools.partial(_smaller, field) for field in ONE_BY_ONE),
    _redistribute,
)
"""In the order of the measure; redistribution last, because it only settles what the others left equal."""


def _keep(case: Case, indices: list[int]) -> Case:
    query_lens = case.query_lens and tuple(case.query_lens[i] for i in indices)
    return case.replace(
        kv_lens=tuple(case.kv_lens[i] for i in indices), query_lens=query_lens if any(query_lens or ()) else None
    )


def _with(values: tuple[int, ...], index: int, value: int) -> tuple[int, ...]:
    return (*values[:index], value, *values[index + 1 :])
