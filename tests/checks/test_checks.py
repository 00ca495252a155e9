"""Each check sees its class of fault on a doctored call, and is silent on the call as it was."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
import pytest

from backend.call import Call
from backend.case import Case, DType, MetadataMode
from backend.checks.check import check, check_call
from backend.checks.coverage import check_coverage
from backend.decision import Decision
from backend.devices.model.device import ModelDevice
from backend.findings import FindingKind, Party, in_causal_order
from backend.host import BuiltIn
from backend.path import Path
from backend.serving.policy import decide
from backend.serving.registry import policy


def decided(case: Case) -> Decision:
    decision = decide(policy(case.backend), case)
    assert isinstance(decision, Decision)
    return decision


CLEAN = Case(num_head=32, kv_lens=(5, 300, 64), max_seqlen_q=4)


def made(case: Case = CLEAN, **decode_changes: object) -> Call:
    decision = decided(case)
    decode = dataclasses.replace(decision.decode, **decode_changes)  # type: ignore[arg-type]
    return BuiltIn().call(dataclasses.replace(decision, decode=decode))


def kinds(one: Call) -> set[FindingKind]:
    return {finding.kind for finding in check_call(one)}


def test_clean_call_is_silent() -> None:
    assert check(ModelDevice().observe(made())) == ()


def ints(*values: int) -> np.ndarray:
    return np.array(values, np.int32)


@pytest.mark.parametrize(
    ("changes", "kind", "told"),
    [
        ({"kv_indptr": ints(0, 300, 5, 369)}, FindingKind.BAD_INDPTR, "kv_indptr falls at 2: 300 then 5"),
        ({"kv_indptr": ints(5, 300, 364, 369)}, FindingKind.BAD_INDPTR, "kv_indptr[0] is 5"),
        ({"kv_indptr": ints(0, 5, 305, 370)}, FindingKind.BAD_INDPTR, "kv_indptr ends at 370, kv_indices has 369 entries"),
        ({"qo_indptr": ints(0, 4, 8, 13)}, FindingKind.BAD_INDPTR, "qo_indptr ends at 13, q has 12 rows"),
        ({"kv_last_page_lens": ints(1, 300, 1)}, FindingKind.BAD_LAST_PAGE_LEN, "kv_last_page_lens[1] is 300"),
        ({"kv_pages": 368}, FindingKind.BAD_PAGE_ID, "page ids 0..368, the pool has 368 pages"),
        ({"kv_indptr": ints(0, 5, 305)}, FindingKind.BUFFER_TOO_SMALL, "kv_indptr needs 4 rows and has 3"),
    ],
)
def test_caller_contract(changes: dict[str, object], kind: FindingKind, told: str) -> None:
    found = [finding for finding in check_call(made(**changes)) if finding.kind is kind]
    assert any(told in finding.message for finding in found), [finding.message for finding in found]


@pytest.mark.parametrize(
    ("page", "length", "last", "bad"),
    [
        (64, 0, 0, False),  # a request without pages has no last one
        (64, 0, 64, False),
        (64, 0, -1, True),
        (64, 0, 65, True),
        (64, 9, 0, True),
        (64, 9, 64, False),
        (1, 9, 0, False),  # of a page of one token nobody asks
        (1, 9, -1, False),
        (1, 9, 2, True),
        (1, 0, 2, True),
    ],
)
def test_lengths_of_last_pages(page: int, length: int, last: int, bad: bool) -> None:
    case = CLEAN.replace(kv_lens=(5, 300, length), max_seqlen_q=1, backend="direct", mode=MetadataMode.FAST, page_size=page)
    found = kinds(made(case, kv_last_page_lens=ints(1, 1, last)))
    assert (FindingKind.BAD_LAST_PAGE_LEN in found) is bad


@pytest.mark.parametrize(
    ("field", "value", "short"),
    [("batch", 2, "reduce_indptr"), ("max_seqlen_q", 1, "reduce_indptr"), ("num_head", 16, "work_info_set")],
)
def test_sizing_arguments_must_be_the_planning_arguments(field: str, value: int, short: str) -> None:
    decision = decided(Case(num_head=128, kv_lens=(5, 300, 64), max_seqlen_q=4))
    assert decision.sizing is not None
    wrong = dataclasses.replace(decision, sizing=dataclasses.replace(decision.sizing, **{field: value}))
    found = [f for f in check_call(BuiltIn().call(wrong)) if f.kind is FindingKind.BUFFER_TOO_SMALL]
    assert len(found) == 1
    assert f"{short}_needed" in found[0].evidence
    assert found[0].discriminator == f"sized for another {field}"


def test_short_sequence_tells_padding_from_request() -> None:
    padded = Path().run(Case(num_head=32, kv_lens=(9,), max_seqlen_q=4, graph_batch=2, backend="sglang-before-20841"))
    assert padded.cause is not None
    assert padded.cause.kind is FindingKind.SHORT_SEQUENCE
    assert padded.cause.discriminator == "padding"
    direct = Path().run(Case(num_head=32, kv_lens=(3,), max_seqlen_q=4, backend="direct"))
    assert direct.cause is not None
    assert direct.cause.discriminator == "request"


def drop_item(items: np.ndarray) -> np.ndarray:
    return items[1:]


def repeat_item(items: np.ndarray) -> np.ndarray:
    return np.concatenate((items[:1], items))


def shift_tokens(items: np.ndarray) -> np.ndarray:
    shifted = items.copy()
    shifted[-1, 4:6] -= 65  # the last request has 64 tokens
    return shifted


def cut_tokens(items: np.ndarray) -> np.ndarray:
    cut = items.copy()
    cut[-1, 5] -= 20
    return cut


def other_row(items: np.ndarray) -> np.ndarray:
    swapped = items.copy()
    swapped[0, 2:4], swapped[-1, 2:4] = items[-1, 2:4], items[0, 2:4]
    return swapped


@pytest.mark.parametrize(
    ("doctor", "kind"),
    [
        (drop_item, FindingKind.NOT_COVERED),
        (repeat_item, FindingKind.COVERED_TWICE),
        (shift_tokens, FindingKind.BEYOND_SEQUENCE),
        (cut_tokens, FindingKind.NOT_COVERED),
        (other_row, FindingKind.BEYOND_SEQUENCE),
    ],
)
def test_coverage_sees_a_doctored_plan(
    doctor: Callable[[np.ndarray], np.ndarray], kind: FindingKind, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = made(Case(num_head=32, kv_lens=(100, 3000, 64), backend="direct", mode=MetadataMode.FAST))
    assert check_coverage(one) == []
    assert one.plan is not None
    items = doctor(one.plan.work_items)
    monkeypatch.setattr(type(one.plan), "work_items", property(lambda _: items))
    assert kind in {finding.kind for finding in check_coverage(one)}


def test_what_a_kernel_reads_as_planned_is_the_planners(monkeypatch: pytest.MonkeyPatch) -> None:
    """A piece that ends behind the last request's tokens: the kernel reads kv_indices past its end because it is told to."""
    one = made(Case(num_head=32, kv_lens=(100, 3000, 64), backend="direct", mode=MetadataMode.FAST))
    assert one.plan is not None
    items = one.plan.work_items.copy()
    items[-1, 5] += 2
    monkeypatch.setattr(type(one.plan), "work_items", property(lambda _: items))
    found = in_causal_order(check(ModelDevice().observe(one)))
    assert (FindingKind.OUT_OF_BOUNDS_READ, "kv_indices") in {(each.kind, each.tensor) for each in found}
    assert (found[0].kind, found[0].party) == (FindingKind.BEYOND_SEQUENCE, Party.PLANNER)


def test_refusals_are_no_faults() -> None:
    outcome = Path().run(Case(num_head=16, kv_lens=(9,), max_seqlen_q=5, q_dtype=DType.BF16, backend="direct"))
    assert outcome.refused is not None
    assert "qSeqLen=5" in outcome.refused or "qType=bf16" in outcome.refused
    assert not outcome.faulty
    assert [finding.kind for finding in outcome.findings if finding.kind is FindingKind.NO_KERNEL]
