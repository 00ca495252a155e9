"""The shrinker: planted faults whose exact minimum is stated, and the local-minimum law."""

from __future__ import annotations

import random

import pytest
from planted import FIRST, SECOND, PlantedPath, Predicate

from backend.case import Arch, Case, DType, MetadataMode, PageOrder
from backend.errors import UnmodelledError, UsageError
from backend.outcome import Outcome
from reprod.shrink import measure, shrink, smaller_numbers, steps

LARGE = Case(
    num_head=64,
    kv_lens=(590, 17, 4096, 333, 1, 2048, 64, 65),
    max_seqlen_q=4,
    query_lens=(4, 3, 4, 1, 2, 4, 4, 4),
    page_size=16,
    q_dtype=DType.BF16,
    kv_dtype=DType.BF16,
    arch=Arch.GFX950,
    num_cu=100,
    backend="direct",
    mode=MetadataMode.FAKE,
    graph_batch=16,
    max_batch=31,
    first_page=1 << 25,
    page_order=PageOrder.REVERSED,
)

SMALLEST = Case(num_head=1, kv_lens=(0,), backend="direct")
"""What remains of LARGE where nothing about it matters."""

PLANTED: tuple[tuple[str, Predicate, Case], ...] = (
    ("nothing matters", lambda case: True, SMALLEST),
    ("one long request", lambda case: max(case.kv_lens) >= 197, SMALLEST.replace(kv_lens=(197,))),
    ("three requests", lambda case: case.batch >= 3, SMALLEST.replace(kv_lens=(0, 0, 0))),
    ("tokens of the batch", lambda case: sum(case.kv_lens) > 1000, SMALLEST.replace(kv_lens=(1001,))),
    (
        "tokens of two requests",
        lambda case: case.batch >= 2 and sum(case.kv_lens) > 1000,
        SMALLEST.replace(kv_lens=(0, 1001)),
    ),
    (
        "a remainder, not monotonic",
        lambda case: any(n % 196 in (1, 2, 3, 4) and n > 196 for n in case.kv_lens),
        SMALLEST.replace(kv_lens=(197,)),
    ),
    ("heads", lambda case: case.num_head >= 48 and case.num_head != 96, SMALLEST.replace(num_head=48)),
    ("rows", lambda case: case.max_seqlen_q >= 3, SMALLEST.replace(max_seqlen_q=3)),
    (
        "ragged rows",
        lambda case: case.query_lens is not None and min(case.query_lens) < max(case.query_lens),
        SMALLEST.replace(kv_lens=(0, 0), max_seqlen_q=2, query_lens=(1, 2)),
    ),
    ("graph padding", lambda case: (case.graph_batch or 0) > case.batch, SMALLEST.replace(graph_batch=2)),
    (
        "allocated for fewer than run",
        lambda case: case.max_batch is not None and case.max_batch < (case.graph_batch or case.batch) + 16,
        SMALLEST.replace(max_batch=1),
    ),
    ("address wrap", lambda case: case.first_page * case.page_size > 1 << 24, SMALLEST.replace(first_page=(1 << 24) + 1)),
    ("pages", lambda case: case.page_size > 2, SMALLEST.replace(page_size=4)),
    ("reversed", lambda case: case.page_order is PageOrder.REVERSED, SMALLEST.replace(page_order=PageOrder.REVERSED)),
    ("few compute units", lambda case: 0 < case.num_cu <= 100, SMALLEST.replace(num_cu=1)),
    ("bf16 KV", lambda case: case.kv_dtype is DType.BF16, SMALLEST.replace(kv_dtype=DType.BF16)),
    (
        "both dtypes alike and a forced mode",
        lambda case: case.q_dtype is case.kv_dtype and case.mode is MetadataMode.FAKE,
        SMALLEST.replace(mode=MetadataMode.FAKE),
    ),
)


@pytest.mark.parametrize(("fault", "minimum"), [p[1:] for p in PLANTED], ids=[p[0] for p in PLANTED])
def test_exact_minimum(fault: Predicate, minimum: Case) -> None:
    result = shrink(LARGE, PlantedPath(fault))
    assert result.minimal
    assert result.case == minimum
    assert result.outcome.case == minimum


@pytest.mark.parametrize(("fault", "minimum"), [p[1:] for p in PLANTED], ids=[p[0] for p in PLANTED])
def test_no_single_step_shrinks_further(fault: Predicate, minimum: Case) -> None:
    result = shrink(LARGE, PlantedPath(fault))
    assert not [step for step in steps(result.case) if fault(step)]


def test_random_predicates_end_at_a_local_minimum() -> None:
    """A predicate that is any function of the case at all, fixed by a hash: no structure for a pass to rely on."""
    for seed in range(20):

        def fault(case: Case, seed: int = seed) -> bool:
            return case == LARGE or random.Random(f"{seed} {case}").random() < 0.3

        result = shrink(LARGE, PlantedPath(fault))
        assert result.minimal
        assert fault(result.case)
        assert not [step for step in steps(result.case) if fault(step)], seed


def test_every_step_is_smaller_and_valid() -> None:
    given = list(steps(LARGE))
    assert len(given) == len(set(given)) > 100
    assert all(measure(step) < measure(LARGE) for step in given)
    assert {(s.release, s.arch, s.backend) for s in given} == {(LARGE.release, LARGE.arch, LARGE.backend)}


def test_no_case_is_run_twice() -> None:
    path = PlantedPath(lambda case: sum(case.kv_lens) > 3000 and case.max_seqlen_q > 1)
    result = shrink(LARGE, path)
    assert len(path.runs) == len(set(path.runs)) == result.tried


def test_keeps_the_signature_of_the_cause() -> None:
    """The second fault has a smaller minimum; a case that shows it as its cause is another fault."""
    path = PlantedPath(lambda case: case.batch >= 2, lambda case: True)
    result = shrink(LARGE, path)
    assert result.signature == FIRST
    assert result.case == SMALLEST.replace(kv_lens=(0, 0))


def test_a_named_signature_must_be_the_cause() -> None:
    path = PlantedPath(lambda case: case.batch >= 2, lambda case: True)
    with pytest.raises(UsageError, match="does not show the fault"):
        shrink(LARGE, path, SECOND)
    small = LARGE.replace(kv_lens=(5,), query_lens=None)
    assert shrink(small, path, SECOND).case == SMALLEST


def test_refused_cases_are_not_the_fault() -> None:
    path = PlantedPath(lambda case: True, refuse=lambda case: min(case.kv_lens) < case.max_seqlen_q)
    assert shrink(LARGE.replace(kv_lens=(4096,), query_lens=None), path).case == SMALLEST.replace(kv_lens=(1,))


def test_cases_that_the_device_cannot_run_are_not_the_fault() -> None:
    class Partial(PlantedPath):
        def run(self, case: Case) -> Outcome:
            if case.num_head < 32:
                raise UnmodelledError(f"{case.num_head} heads")
            return super().run(case)

    result = shrink(LARGE, Partial(lambda case: True))
    assert result.case == SMALLEST.replace(num_head=32)
    assert result.minimal


def test_nothing_to_shrink_is_a_usage_error() -> None:
    with pytest.raises(UsageError, match="nothing to shrink"):
        shrink(LARGE, PlantedPath(lambda case: False))
    with pytest.raises(UsageError, match="at least 1"):
        shrink(LARGE, PlantedPath(lambda case: True), budget=0)


def test_budget_ends_with_the_best_so_far() -> None:
    path = PlantedPath(lambda case: sum(case.kv_lens) > 1000)
    result = shrink(LARGE, path, budget=4)
    assert result.tried == len(path.runs) == 4
    assert not result.minimal
    assert sum(result.case.kv_lens) > 1000
    assert measure(result.case) <= measure(LARGE)


def test_same_case_same_result() -> None:
    def fault(case: Case) -> bool:
        return sum(case.kv_lens) % 7 == 3 or case == LARGE

    assert shrink(LARGE, PlantedPath(fault)).case == shrink(LARGE, PlantedPath(fault)).case


@pytest.mark.parametrize("threshold", [0, 1, 2, 63, 64, 511, 512, 513, 5000, 65535, (1 << 24) + 1, (1 << 31) - 1])
def test_numbers_are_exact_where_the_fault_is_monotonic(threshold: int) -> None:
    current, tries = (1 << 31) - 1, 0
    while True:
        for value in smaller_numbers(current, 0):
            tries += 1
            if value >= threshold:
                current = value
                break
        else:
            break
    assert current == threshold
    assert tries < 2000
