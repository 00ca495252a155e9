"""A plan of another call than the one that is launched with it, an output of another type: the caller's; silent controls."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import numpy as np
import pytest

from backend.aiter.arguments import PlanArguments
from backend.aiter.planners.result import launched_plan
from backend.call import Call
from backend.case import Case, DType, MetadataMode, OutputType
from backend.checks.coverage import check_coverage
from backend.checks.planned_for import differences
from backend.decision import Decision
from backend.fate import Fate
from backend.findings import FindingKind, Party
from backend.host import BuiltIn
from backend.path import Path, judge

BASE = Case(16, (700, 330, 90), backend="direct", mode=MetadataMode.FAST)


def decided(case: Case) -> Decision:
    made = Path().call(case)
    assert isinstance(made, Call)
    return made.decision


def planned_as(change: Callable[[PlanArguments], PlanArguments], case: Case = BASE) -> Call:
    """The case's call with the metadata of a planning call that was changed."""
    decision = decided(case)
    assert decision.planning is not None
    return BuiltIn().call(dataclasses.replace(decision, planning=change(decision.planning)))


def indptr(*lengths: int) -> np.ndarray:
    return np.cumsum((0, *lengths), dtype=np.int32)


@pytest.mark.parametrize(
    ("change", "subject"),
    [
        (lambda p: dataclasses.replace(p, kv_indptr=indptr(2000, 2000, 2000)), "kv_indptr"),
        (lambda p: dataclasses.replace(p, kv_indptr=indptr(700, 300, 90)), "kv_indptr"),
        (lambda p: dataclasses.replace(p, qo_indptr=indptr(1, 1), kv_indptr=indptr(700, 330)), "qo_indptr, kv_indptr"),
        (lambda p: dataclasses.replace(p, max_seqlen_qo=2, uni_seqlen_qo=2), "max_seqlen_q, uni_seqlen_qo"),
    ],
    ids=["dense", "stale", "shorter batch", "width"],
)
def test_a_plan_of_another_call_is_the_callers(change: Callable[[PlanArguments], PlanArguments], subject: str) -> None:
    outcome = judge(planned_as(change), Path().device)
    first = outcome.cause
    assert first is not None
    assert (first.kind, first.party, first.discriminator) == (FindingKind.PLAN_MISMATCH, Party.CALLER, subject)
    followers = {f.party for f in outcome.findings if f.kind not in (FindingKind.PLANNER_OVERRUN, FindingKind.PLANNER_READ)}
    assert followers == {Party.CALLER}


@pytest.mark.parametrize("queries", [1, 4])
def test_what_only_pads_an_indptr_is_no_other_call(queries: int) -> None:
    def padded(planning: PlanArguments) -> PlanArguments:
        return dataclasses.replace(planning, kv_indptr=np.append(planning.kv_indptr, planning.kv_indptr[-1:]))

    case = BASE.replace(max_seqlen_q=queries)
    assert FindingKind.PLAN_MISMATCH not in {f.kind for f in judge(planned_as(padded, case), Path().device).findings}


def test_rows_without_tokens_at_the_end_need_no_plan() -> None:
    """Padding of a graph in which each row is a request: the real ones are planned, all are launched; tokens need a plan."""
    padded = decided(BASE.replace(kv_lens=(*BASE.kv_lens, 0)))
    assert padded.planning is not None
    shorter = dataclasses.replace(
        padded.planning, **{name: getattr(padded.planning, name)[:-1] for name in ("qo_indptr", "kv_indptr")}
    )
    assert not list(differences(shorter, padded.decode))
    with_tokens = dataclasses.replace(padded.decode, kv_indptr=indptr(*BASE.kv_lens, 1))
    assert [each.subject for each in differences(shorter, with_tokens)] == ["qo_indptr", "kv_indptr"]


def test_rows_of_padding_may_be_planned_where_q_has_them() -> None:
    """uni_seqlen_qo gives each request as many rows; at the end of a graph's batch qo_indptr gives it none."""
    decode = decided(BASE.replace(kv_lens=(*BASE.kv_lens, 0))).decode
    decode = dataclasses.replace(decode, qo_indptr=indptr(1, 1, 1, 0))
    planning = decided(BASE).planning
    assert planning is not None
    planning = dataclasses.replace(planning, uni_seqlen_qo=1, qo_indptr=decode.qo_indptr, kv_indptr=decode.kv_indptr)
    assert not list(differences(planning, decode))
    for without in ({"q_rows": 3}, {"qo_indptr": indptr(1, 0, 1, 1)}):
        shorter = dataclasses.replace(decode, **without)
        seen = differences(dataclasses.replace(planning, qo_indptr=shorter.qo_indptr), shorter)
        assert [each.subject for each in seen] == ["uni_seqlen_qo"]


@pytest.mark.parametrize("topk", [-1, 32])
def test_lists_for_which_something_else_was_planned(topk: int) -> None:
    """All tokens of a request, as a dense layer's plan has them, or lists of another length."""
    lists = BASE.replace(topk=64, release="2026-08")
    outcome = judge(planned_as(lambda p: dataclasses.replace(p, topk=topk), lists), Path().device)
    assert outcome.cause is not None
    assert (outcome.cause.kind, outcome.cause.discriminator) == (FindingKind.PLAN_MISMATCH, "topk")
    assert {found.party for found in outcome.findings} == {Party.CALLER}
    assert judge(planned_as(lambda planning: planning, lists), Path().device).findings == ()


def test_a_plan_of_another_element_type_is_the_callers() -> None:
    """Heads that are taken whole in fp8 are folded where the planner is told of a bf16 q (entry O2)."""
    whole = Case(32, (40, 20), backend="direct", mode=MetadataMode.FAST, release="2026-08")
    told = planned_as(lambda p: dataclasses.replace(p, q_dtype=DType.BF16), whole)
    outcome = judge(told, Path().device)
    assert outcome.cause is not None
    assert (outcome.cause.kind, outcome.cause.party) == (FindingKind.HEAD_WIDTH, Party.CALLER)
    sixteen = planned_as(lambda p: dataclasses.replace(p, q_dtype=DType.BF16), whole.replace(num_head=16))
    assert judge(sixteen, Path().device).findings == ()


def test_a_plan_of_more_requests_than_there_are_is_the_callers() -> None:
    """kv_indptr of a whole pool: zeros behind the batch, by which v1_2 counts its requests."""
    made = planned_as(lambda p: dataclasses.replace(p, kv_indptr=np.append(p.kv_indptr, np.zeros(3, np.int32))))
    outcome = judge(made, Path().device)
    first = outcome.cause
    assert first is not None
    assert (first.kind, first.party, first.discriminator) == (
        FindingKind.PLAN_MISMATCH,
        Party.CALLER,
        "requests of kv_indptr",
    )


def launched_with(made: Call, edit: Callable[[dict[str, np.ndarray]], None]) -> Call:
    """The call after somebody wrote into its metadata buffers."""
    assert made.plan is not None
    words = {name: buffer.words.copy() for name, buffer in made.plan.buffers.items()}
    edit(words)
    return dataclasses.replace(made, plan=launched_plan(made.plan, words, made.launched.heads_in_kernel))


def test_metadata_that_was_edited_is_what_is_judged() -> None:
    made = planned_as(lambda planning: planning)

    def longer(words: dict[str, np.ndarray]) -> None:
        words["work_info_set"][5] += 64  # kv_end of the first work item

    untouched = launched_with(made, lambda words: None)
    assert untouched.plan is made.plan
    assert check_coverage(untouched) == []
    found = check_coverage(launched_with(made, longer))
    assert {(f.kind, f.party) for f in found} >= {(FindingKind.COVERED_TWICE, Party.CALLER)}
    assert {f.stage for f in found} == {"metadata, not as planned"}


def test_what_follows_from_edited_metadata_is_the_callers() -> None:
    def beyond(words: dict[str, np.ndarray]) -> None:
        words["work_info_set"][4:6] += 4000  # KV of the first work item, past kv_indices

    found = judge(launched_with(planned_as(lambda planning: planning), beyond), Path().device).findings
    assert {each.kind for each in found} >= {FindingKind.BEYOND_SEQUENCE, FindingKind.OUT_OF_BOUNDS_READ}
    assert {each.party for each in found} == {Party.CALLER}


def test_a_plan_that_was_refreshed_for_the_call_is_of_the_call() -> None:
    """Planned for other lengths, and then written over with the plan of the lengths that are decoded."""
    stale = planned_as(lambda p: dataclasses.replace(p, kv_indptr=indptr(2000, 2000, 2000)))
    fresh = planned_as(lambda planning: planning)
    assert fresh.plan is not None
    source = {name: buffer.words for name, buffer in fresh.plan.buffers.items()}
    refreshed = launched_with(stale, lambda words: words.update(source))
    assert judge(refreshed, Path().device).findings == ()


@pytest.mark.parametrize("release", ["2026-06", "2026-08"])
def test_an_output_that_no_reduction_takes(release: str) -> None:
    """Rows that are not split are stored by the kernel, 2 bytes an element, before the reduction refuses."""
    short = BASE.replace(kv_lens=(16, 16), release=release, o_dtype=OutputType.FP8)
    outcome = Path().run(short)
    assert outcome.cause is not None
    assert (outcome.cause.kind, outcome.cause.party, outcome.cause.tensor) == (FindingKind.WRONG_TYPE, Party.CALLER, "o")
    assert FindingKind.OUT_OF_BOUNDS_WRITE in {f.kind for f in outcome.findings}
    assert {f.party for f in outcome.findings} == {Party.CALLER}
    for inside in (short.replace(kv_lens=(100_000,)), short.replace(o_dtype=OutputType.FP32)):
        refused = Path().run(inside)
        assert (refused.fate, refused.findings) == (Fate.REFUSED, ())
        assert refused.refused is not None
        assert "doesn't support output type" in refused.refused


def test_bf16_is_what_the_kernel_stores() -> None:
    assert Path().run(BASE).fate is Fate.CLEAN
    half = BASE.replace(kv_lens=(100_000,), o_dtype=OutputType.FP16)
    assert Path().run(half).fate is Fate.CLEAN  # all rows are split, and the reduction is compiled for fp16
    assert {f.kind for f in Path().run(half.replace(kv_lens=(16,))).findings} == {FindingKind.WRONG_TYPE}


def test_a_merge_in_triton_converts() -> None:
    split = Case(16, (5000,), backend="direct", q_dtype=DType.BF16, kv_dtype=DType.BF16, mode=MetadataMode.NON_PERSISTENT)
    assert Path().run(split.replace(o_dtype=OutputType.FP32)).fate is Fate.CLEAN
