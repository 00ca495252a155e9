"""Lists of tokens a row (topk): laid out as AITER's planner takes them, judged by the list, refused by who has none."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from backend.call import Call
from backend.case import Case, DType, MetadataMode, OutputType
from backend.decision import Decision
from backend.fate import Fate
from backend.findings import FindingKind, Party
from backend.host import BuiltIn
from backend.outcome import Outcome
from backend.path import Path, judge
from backend.serving.sparse import chosen_tokens
from reprod.script import script_text

SPARSE = Case(16, (1, 2047, 2048, 2049), topk=2048, backend="direct", release="2026-08")


def decided(case: Case) -> Decision:
    made = Path().call(case)
    assert isinstance(made, Call)
    return made.decision


def run(decision: Decision) -> Outcome:
    return judge(BuiltIn().call(decision), Path().device)


@pytest.mark.parametrize("heads", [16, 32, 64, 128])
@pytest.mark.parametrize("dtype", list(DType))
@pytest.mark.parametrize("rows", [1, 2])
def test_lists_around_their_length_are_clean(heads: int, dtype: DType, rows: int) -> None:
    outcome = Path().run(SPARSE.replace(num_head=heads, q_dtype=dtype, kv_dtype=dtype, max_seqlen_q=rows))
    assert (outcome.fate, outcome.findings) == (Fate.CLEAN, ())
    assert outcome.call is not None
    assert outcome.call.decision.kv_lens == tuple(n for n in (1, 2047, 2048, 2048) for _ in range(rows))


def test_each_row_has_room_for_topk_tokens() -> None:
    decision = decided(SPARSE.replace(max_seqlen_q=2))
    lists = decision.decode.kv_indices.reshape(8, 2048)
    assert (lists >= 0).sum(axis=1).tolist() == [1, 1, 2047, 2047, 2048, 2048, 2048, 2048]
    assert lists[6].tolist() == (1 + 2047 + 2048 + chosen_tokens(2049, 2048)).tolist()
    assert np.array_equal(decision.held_pages, lists[lists >= 0])
    assert decision.decode.kv_indptr.tolist() == [0, 1, 2048, 4096, 6145]


@pytest.mark.parametrize("topk", [1, 2047, 4096])
def test_a_plan_for_lists_of_another_length_is_found(topk: int) -> None:
    decision = decided(SPARSE.replace(kv_lens=(3000, 3000)))
    assert decision.planning is not None
    wrong = dataclasses.replace(decision, planning=dataclasses.replace(decision.planning, topk=topk))
    assert run(wrong).faulty


def test_a_hole_in_a_list_is_a_page_of_nobody() -> None:
    decision = decided(SPARSE)
    indices = decision.decode.kv_indices.copy()
    indices[2048 + 5] = -1
    outcome = run(dataclasses.replace(decision, decode=dataclasses.replace(decision.decode, kv_indices=indices)))
    assert outcome.cause is not None
    assert (outcome.cause.kind, outcome.cause.party) == (FindingKind.BAD_PAGE_ID, Party.CALLER)


def test_a_token_twice_in_a_list_is_no_fault() -> None:
    decision = decided(SPARSE)
    indices = decision.decode.kv_indices.copy()
    indices[2048 + 5] = indices[2048 + 4]
    assert run(dataclasses.replace(decision, decode=dataclasses.replace(decision.decode, kv_indices=indices))).findings == ()


@pytest.mark.parametrize(
    "changes", [{"mode": MetadataMode.GREEDY}, {"page_size": 16}, {"query_lens": (1, 1, 1, 2), "max_seqlen_q": 2}]
)
def test_what_has_no_lists_is_refused(changes: dict[str, object]) -> None:
    assert str(Path().run(SPARSE.replace(**changes)).refused).startswith("topk: ")


@pytest.mark.parametrize("backend", ["sglang-27188", "vllm"])
@pytest.mark.parametrize("field", ["topk", "spare_indices"])
def test_frameworks_that_do_not_use_it_refuse(backend: str, field: str) -> None:
    case = Case(16, (300,), backend=backend, release="2026-08", **{field: 64})  # type: ignore[arg-type]
    assert str(Path().run(case).refused).startswith(field)


@pytest.mark.parametrize("mode", [MetadataMode.FAST, MetadataMode.NON_PERSISTENT])
def test_entries_that_nobody_uses_are_no_page_ids(mode: MetadataMode) -> None:
    outcome = Path().run(Case(16, (300, 20), backend="direct", release="2026-08", mode=mode, spare_indices=100))
    assert outcome.call is not None
    assert len(outcome.call.decode.kv_indices) == 420
    assert outcome.findings == ()


def test_the_script_builds_the_lists() -> None:
    outcome = Path().run(SPARSE.replace(kv_lens=(10, 20), o_dtype=OutputType.FP8))
    text = script_text(outcome, None)
    compile(text, "repro.py", "exec")
    assert "TOPK = 2048" in text
    assert "KV_LENS = [10, 20]" in text
    assert "topk=TOPK," in text
    assert "is_sparse=True" in text
    plain = script_text(Path().run(Case(16, (10,), backend="direct", o_dtype=OutputType.FP8, spare_indices=3)), None)
    compile(plain, "repro.py", "exec")
    assert "chosen" not in plain
    assert "SPARE_INDICES = 3" in plain


def test_lists_of_a_batch_that_leaves_persistent_mode() -> None:
    """2026-08 drops the metadata of 32 requests of 16 heads in bf16, and runs over all their tokens."""
    many = SPARSE.replace(kv_lens=(3000,) * 32, q_dtype=DType.BF16, kv_dtype=DType.BF16)
    outcome = Path().run(many)
    assert outcome.cause is not None
    assert (outcome.cause.kind, outcome.cause.party) == (FindingKind.PLAN_DROPPED, Party.LAUNCHER)
    assert {f.party for f in outcome.findings} == {Party.LAUNCHER}
    for kept in ({"kv_lens": (3000,) * 31}, {"num_kv_splits": 16}, {"num_head": 32}, {"release": "2026-06"}):
        assert Path().run(many.replace(**kept)).findings == ()
