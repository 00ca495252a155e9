"""The founding case (sglang#27188, aiter#3496) along the whole path: figures are derived, never stored."""

from __future__ import annotations

import pytest

from backend.case import Arch, Case, DType
from backend.findings import Finding, FindingKind, Severity
from backend.outcome import Outcome
from backend.path import Path

PATH = Path()
Q_ROW = 64 * 576  # bytes of one fp8 q row of 64 heads
O_ROW = 64 * 512 * 2
PARTIAL_ROW = 64 * 512 * 4


def before(kv_lens: tuple[int, ...]) -> Outcome:
    return PATH.run(Case(num_head=64, kv_lens=kv_lens, backend="sglang-before-27188"))


def find(outcome: Outcome, kind: FindingKind, tensor: str) -> Finding | None:
    return next((f for f in outcome.findings if f.kind is kind and f.tensor == tensor), None)


@pytest.mark.parametrize("batch", [1, 2, 7, 64, 256])
def test_every_batch_overruns_by_three_rows_a_request(batch: int) -> None:
    outcome = before((1,) * batch)
    overrun = {f.tensor: f.evidence for f in outcome.findings if f.kind is FindingKind.PLANNER_OVERRUN}
    assert overrun["reduce_indptr"]["words"] == 3 * batch
    assert overrun["reduce_final_map"]["rows"] == 3 * batch
    read = find(outcome, FindingKind.OUT_OF_BOUNDS_READ, "q")
    written = find(outcome, FindingKind.OUT_OF_BOUNDS_WRITE, "o")
    assert read is not None
    assert written is not None
    assert read.evidence["bytes_outside"] == 3 * batch * Q_ROW
    assert written.evidence["bytes_outside"] == 3 * batch * O_ROW


@pytest.mark.parametrize(
    ("kv_len", "items", "extra_items", "logits_past"),
    [(1, 4, 0, 0), (400, 8, 0, 0), (4096, 80, 16, 16), (32768, 256, 192, 192)],
)
def test_splits_overrun_work_info_and_logits_too(kv_len: int, items: int, extra_items: int, logits_past: int) -> None:
    outcome = before((kv_len,))
    assert outcome.call is not None
    assert outcome.call.plan is not None
    assert len(outcome.call.plan.work_items) == items
    info = find(outcome, FindingKind.PLANNER_OVERRUN, "work_info_set")
    assert (info.evidence["rows"] if info else 0) == extra_items
    logits = find(outcome, FindingKind.OUT_OF_BOUNDS_WRITE, "logits")
    assert (logits.evidence["bytes_outside"] if logits else 0) == logits_past * PARTIAL_ROW


def test_cause_is_the_head_width() -> None:
    cause = before((1,)).cause
    assert cause is not None
    assert cause.kind is FindingKind.HEAD_WIDTH
    assert (cause.evidence["planned_heads"], cause.evidence["launched_heads"]) == (16, 64)
    assert cause.severity is Severity.WRITE


def test_request_of_row_r_is_read_by_row_4r_only() -> None:
    """Real row r is given the KV of sequence r // 4: wrong values even where nothing faults."""
    outcome = before((100, 200, 300, 400, 500))
    beyond = [f for f in outcome.findings if f.kind is FindingKind.BEYOND_SEQUENCE]
    assert len(beyond) == 1
    assert beyond[0].evidence["row"] == 1


@pytest.mark.parametrize("kv_lens", [(1,), (400,), (4096,), (32768,), (4096,) * 256])
def test_fixed_rule_is_silent(kv_lens: tuple[int, ...]) -> None:
    outcome = PATH.run(Case(num_head=64, kv_lens=kv_lens, backend="sglang-27188"))
    assert outcome.refused is None
    assert outcome.findings == ()


@pytest.mark.parametrize("num_head", [48, 80, 96, 112])
def test_bf16_kv_keeps_the_fault_for_other_head_counts(num_head: int) -> None:
    """AITER plans folded rows for them, the bf16 launcher of gfx950 takes them as they are."""
    case = Case(num_head=num_head, kv_lens=(7,), q_dtype=DType.BF16, kv_dtype=DType.BF16, backend="sglang-27188")
    outcome = PATH.run(case)
    assert outcome.cause is not None
    assert outcome.cause.kind is FindingKind.HEAD_WIDTH
    assert outcome.cause.evidence["launched_heads"] == num_head


def test_fault_is_of_gfx950_only() -> None:
    """On gfx942 the launcher folds 64 heads as the planner does."""
    outcome = PATH.run(Case(num_head=64, kv_lens=(40,), q_dtype=DType.BF16, arch=Arch.GFX942, backend="sglang-before-27188"))
    assert outcome.refused is None
    assert not any(f.kind is FindingKind.HEAD_WIDTH for f in outcome.findings)
