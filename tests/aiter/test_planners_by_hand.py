"""Plans small enough to be worked out on paper, and what AITER refuses."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from planner_cases import BF16, FP8, MI300X, MI355X, indptr, planned, planning, sizing

from backend.aiter.arguments import BufferSizes, TargetGpu
from backend.aiter.planners import POISON, Branch, PlannerName, StrayRead, plan, planner_for
from backend.aiter.release import release as named
from backend.aiter.sizing import buffer_sizes
from backend.case import Arch
from backend.errors import UnmodelledError, UsageError

V1_0, V1_1, V1_2 = PlannerName.V1_0, PlannerName.V1_1, PlannerName.V1_2


@pytest.mark.parametrize(
    ("batch", "kv_len", "items", "items_past"),
    [(1, 1, 4, 0), (1, 400, 8, 0), (1, 4096, 80, 16), (1, 32768, 256, 192), (256, 1, 1024, 0), (256, 4096, 1024, 0)],
)
def test_founding_fault(batch: int, kv_len: int, items: int, items_past: int) -> None:
    """aiter#3496: 64 heads are sized as native (one row a sequence) and planned by v1_0 as four groups of 16."""
    plan = planned("2026-06", MI355X, planning(V1_0, 64, [kv_len] * batch))
    assert (plan.fold, plan.head_width, plan.rows) == (4, 16, 4 * batch)
    assert len(plan.work_items) == items
    past = {overrun.buffer: overrun for overrun in plan.overruns}
    indptr_past = past["reduce_indptr"]
    assert (indptr_past.first_word, indptr_past.last_word, indptr_past.words) == (batch + 1, 4 * batch, 3 * batch)
    assert indptr_past.values[-1] == items
    map_past = past["reduce_final_map"]
    assert (map_past.first_word, map_past.words) == (2 * batch, 2 * 3 * batch)
    assert np.array_equal(map_past.values, [value for row in range(batch, 4 * batch) for value in (row, row + 1)])
    assert (past["work_info_set"].words if "work_info_set" in past else 0) == 8 * items_past


def test_founding_fault_work_items() -> None:
    """kv 400: 400 // 196 = 2 pieces; 25 blocks of 16, 13 a piece; row v is taken for sequence v // 4."""
    items = planned("2026-06", MI355X, planning(V1_0, 64, [400])).work_items
    expected = []
    for row in range(4):
        expected.append([row, 2 * row, row, row + 1, 0, 208, 192, 0])
        expected.append([row, 2 * row + 1, row, row + 1, 208, 400, 0, 0])
    assert items.tolist() == expected


@pytest.mark.parametrize(("batch", "kv_len", "items"), [(1, 1, 1), (1, 4096, 52), (256, 4096, 256)])
def test_founding_case_in_fast_mode(batch: int, kv_len: int, items: int) -> None:
    plan = planned("2026-06", MI355X, planning(V1_2, 64, [kv_len] * batch))
    assert (plan.fold, plan.rows, len(plan.work_items), plan.overruns) == (1, batch, items, ())


def test_fast_shares_by_hand() -> None:
    """2 CUs, lengths 64 and 32 in blocks of 16: (4 + 16 + 2 + 16) / 2 = 19, + 16 = 35 blocks of room.

    The first sequence takes 4 + 16 of CU 0's 35; 15 are left, not more than the overhead, so the second goes to CU 1.
    """
    device = TargetGpu(Arch.GFX950, 2)
    plan = planned("2026-06", device, planning(V1_2, 16, [64, 32]))
    assert plan.work_items.tolist() == [[0, -1, 0, 1, 0, 64, 0, 0], [1, -1, 1, 2, 64, 96, 0, 0]]
    assert plan.buffers["work_indptr"].words.tolist() == [0, 1, 2]
    assert plan.buffers["reduce_indptr"].words.tolist() == [0, 0, 0]
    assert not plan.buffers["reduce_final_map"].written.any()


@pytest.mark.parametrize("release", ["2026-06", "2026-08"])
def test_fast_split_by_hand(release: str) -> None:
    """2 CUs, one sequence of 640 = 40 blocks: (40 + 16) / 2 + 16 = 44 of room, 28 blocks, then the other 12.

    2026-08 comes to the same by its parallel path.
    """
    plan = planned(release, TargetGpu(Arch.GFX950, 2), planning(V1_2, 16, [640]))
    assert plan.work_items.tolist() == [[0, 0, 0, 1, 0, 448, 192, 0], [0, 1, 0, 1, 448, 640, 0, 0]]
    assert plan.buffers["work_indptr"].words.tolist() == [0, 1, 2]
    assert plan.buffers["reduce_indptr"].words.tolist() == [0, 2]
    assert plan.buffers["reduce_final_map"].words.tolist() == [0, 1]
    assert plan.buffers["reduce_partial_map"].reading(0, 1).tolist() == [0, 1]
    assert bool(plan.branches & Branch.PARALLEL) == (release == "2026-08")


def test_fast_takes_over_a_remainder_shorter_than_the_queries() -> None:
    """274 tokens = 18 blocks on 2 CUs: (18 + 16) / 2 = 17 blocks a CU, which leaves 2 tokens, fewer than the 4 queries."""
    device = TargetGpu(Arch.GFX950, 2)
    glued = planned("2026-06", device, planning(V1_2, 16, [274], queries=4))
    assert glued.work_items.tolist() == [[0, -1, 0, 4, 0, 274, 0, 0]]
    assert glued.branches & Branch.GLUED
    two_queries = planned("2026-06", device, planning(V1_2, 16, [274], queries=2))
    assert two_queries.work_items[:, 4:7].tolist() == [[0, 272, 2], [272, 274, 0]]


@pytest.mark.parametrize(
    ("release", "is_causal", "ends"), [("2026-06", False, 49), ("2026-08", False, 50), ("2026-08", True, 49)]
)
def test_fast_ends_a_query_tile_at_what_it_may_see(release: str, is_causal: bool, ends: int) -> None:
    """128 heads, 2 queries: a tile each, and the first may not see the last token. 2026-08 goes by is_causal."""
    items = planned(release, MI355X, planning(V1_2, 128, [50], queries=2, is_causal=is_causal)).work_items
    first = items[items[:, 2] == 0][-1]
    assert (first[5], first[6]) == (ends, 50 - ends)


def test_greedy_by_hand() -> None:
    """2 CUs, lengths 100 and 20, 16 heads, one query: each row is a tile of 16 packed rows, cost 2 * 16 + kv.

    Workload 132 + 52 = 184, less 2 * 1 * 2 = 180, / 2 CUs = 90 = limit; amplifier 0.01 * 2 + 0.01 * 90 + 10 = 10.92,
    limit 2 + 90 + 2 * 10.92 = 113.84 -> 113 -> 128. Room 128 - 32 = 96 < 100 and 4 left over: within the tolerance of 16.
    The dear row goes to CU 0, the other one to CU 1, which has nothing to do yet.
    """
    plan = planned("2026-06", TargetGpu(Arch.GFX950, 2), planning(V1_1, 16, [20, 100]))
    assert plan.work_items.tolist() == [[1, -1, 1, 2, 20, 120, 0, 0], [0, -1, 0, 1, 0, 20, 0, 0]]
    assert plan.buffers["work_indptr"].words.tolist() == [0, 1, 2]
    assert plan.buffers["reduce_final_map"].words.tolist() == [-1, -2, -1, -2]
    assert plan.branches & Branch.TWO_PIECES_TOLERATED


def test_first_release_takes_query_tiles_together() -> None:
    """2025-11, 128 heads, 2 queries: two tiles of one query; the first ends one token before the sequence does."""
    plan = planned("2025-11", TargetGpu(Arch.GFX950, 1), planning(V1_2, 128, [50], queries=2))
    assert plan.work_items.tolist() == [[0, -1, 0, 1, 0, 49, 1, 0], [0, -1, 1, 2, 0, 50, 0, 0]]


def test_empty_sequence_costs_the_next_one_a_token() -> None:
    """v1_0, lengths 50, 0, 100: the empty sequence ends at max(50, 50 + 1), and the third begins there."""
    items = planned("2026-06", MI355X, planning(V1_0, 16, [50, 0, 100])).work_items
    assert items[:, [0, 4, 5]].tolist() == [[0, 0, 50], [1, 50, 51], [2, 51, 150]]


def test_parallel_path_drops_an_empty_sequence_on_a_full_unit() -> None:
    """2026-08: an empty sequence is planned where its overhead fits, and dropped where the unit is full."""
    device = TargetGpu(Arch.GFX950, 2)
    fits = planned("2026-08", device, planning(V1_2, 16, [16, 0]))
    assert fits.work_items[:, 0].tolist() == [0, 1]
    # (16 + 16) + 16 + 16 + (1 + 16) = 81 blocks, / 2 -> 41, + 16 = 57: 25 left after the first, 9 after the second.
    plan = planned("2026-08", device, planning(V1_2, 16, [256, 0, 0, 16]))
    assert plan.work_items[:, 0].tolist() == [0, 1, 3]
    assert plan.branches & Branch.EMPTY_DROPPED


def test_cap_of_minus_one_writes_before_the_start() -> None:
    """v1_0, max_split_per_batch -1, 40 tokens = 3 blocks: (3 - 1 - 1) / -1 = -1 block a piece, (3 - 1 - 1) / -1 = -1 piece."""
    plan = planned_with_splits(16, [40], -1)
    (overrun,) = plan.overruns
    assert (overrun.buffer, overrun.first_word, overrun.last_word) == ("work_indptr", -1, -1)
    assert overrun.values.tolist() == [-1]
    assert len(plan.work_items) == 0
    assert plan.branches & Branch.NO_PIECE


@pytest.mark.parametrize("kv_len", [1, 16, 17, 195])
def test_division_by_zero_makes_one_piece(kv_len: int) -> None:
    """Below 196 tokens no piece is wanted: x / 0 = x + 1 (2 for 0) blocks a piece on the GPU, so one piece takes all."""
    plan = planned("2026-06", MI355X, planning(V1_0, 16, [kv_len]))
    assert plan.branches & Branch.DIVISION_BY_ZERO
    assert plan.work_items.tolist() == [[0, -1, 0, 1, 0, kv_len, 0, 0]]


def test_short_tail_joins_the_piece_before_it() -> None:
    """MI300X wants 16 pieces: 260 tokens = 17 blocks, 2 a piece, 9 pieces, the last of 4 tokens: 8 pieces."""
    items = planned("2026-06", MI300X, planning(V1_0, 16, [260])).work_items
    assert len(items) == 8
    assert items[-1, 4:7].tolist() == [224, 260, 0]


@pytest.mark.parametrize(("kv_len", "planned_end"), [(16, 16), (17, 16), (20, 16), (21, 21)])
def test_short_tail_of_a_second_block_is_lost(kv_len: int, planned_end: int) -> None:
    """v1_0 on MI300X, two blocks of one piece each: joining the tail leaves one piece, which ends after its own block.

    The kernel extends the last piece only where a row still has several: a sequence of 17 to 20 tokens loses its
    newest ones.
    """
    items = planned("2026-06", MI300X, planning(V1_0, 16, [kv_len])).work_items
    assert items[-1, 5] == planned_end
    assert items[-1, 6] == kv_len - planned_end


def test_local_memory_past_its_end_reads_as_zero() -> None:
    """MI300X has 16,384 words: 7 x 2,048 rows keep their piece counts from word 14,336 on, so 2,048 of them."""
    plan = planned("2026-06", MI300X, planning(V1_0, 112, [1] * 2048))
    assert plan.rows == 14336
    assert plan.branches & Branch.LDS_OVERFLOW
    assert len(plan.work_items) == 16384 - 14336


def test_paged_plan_with_folded_heads_reads_past_last_page_lens() -> None:
    """v1_2, page 16, 48 heads on MI300X: rows 0..2 of one sequence, and row v asks for kv_last_page_lens[v]."""
    lens = np.array([7], np.int32)
    call = planning(V1_2, 48, [4000], page_size=16, kv_granularity=16, kv_last_page_lens=lens)
    plan = planned("2026-06", MI300X, call)
    assert {read.index for read in plan.reads_past_end} == {1, 2}
    assert {read.array for read in plan.reads_past_end} == {"kv_last_page_lens"}
    for row, _, _, _, _, end, offset, _ in plan.work_items.tolist():
        if end == 4000:
            assert offset == 0
        else:
            assert offset == (4000 - end - 1) * 16 + (7 if row == 0 else POISON)


def test_ragged_query_splitting_reads_lengths_before_they_are_stored() -> None:
    call = planning(V1_2, 128, [100, 100], query_lens=[1, 2], queries=2, uni_seqlen_qo=-1)
    plan = planned("2026-06", MI355X, call)
    assert plan.reads_past_end == (StrayRead("shared memory", 0), StrayRead("shared memory", 1))


def test_last_page_lens_shorter_than_the_batch() -> None:
    call = planning(V1_2, 16, [4000, 4000], page_size=64, kv_last_page_lens=np.array([9], np.int32))
    assert StrayRead("kv_last_page_lens", 1) in planned("2026-06", MI355X, call).reads_past_end


def test_qo_indptr_shorter_than_the_sequences() -> None:
    """v1_2 counts sequences by kv_indptr."""
    call = planning(V1_2, 16, [100, 100], uni_seqlen_qo=-1, qo_indptr=indptr([1]))
    assert StrayRead("qo_indptr", 2) in planned("2026-06", MI355X, call).reads_past_end


def test_greedy_sort_with_negative_costs_is_not_guessed() -> None:
    """v1_1 counts sequences by qo_indptr; what lies past kv_indptr makes a length that the padding's cost 0 exceeds."""
    call = planning(V1_1, 16, [100, 100], qo_indptr=indptr([1, 1, 1]))
    with pytest.raises(UnmodelledError, match="row that does not exist"):
        planned("2026-06", MI355X, call)


def test_buffers_of_a_smaller_batch_are_overrun() -> None:
    """vllm#41016: sized for 16 sequences, planned for 32."""
    call = planning(V1_2, 16, [1] * 32)
    small = buffer_sizes(named("2026-06").sizing, MI355X, sizing(call, batch=16))
    (overrun,) = plan(named("2026-06").planners, MI355X, call, small).overruns
    assert (overrun.buffer, overrun.first_word, overrun.last_word) == ("reduce_indptr", 17, 32)


@pytest.mark.parametrize(
    ("release", "arch", "heads", "queries", "dtypes", "fold"),
    [
        ("2025-11", Arch.GFX950, 64, 1, (FP8, FP8), 4),
        ("2026-06", Arch.GFX950, 64, 1, (FP8, FP8), 1),
        ("2026-06", Arch.GFX950, 64, 1, (BF16, FP8), 4),
        ("2026-06", Arch.GFX950, 64, 1, (BF16, BF16), 1),
        ("2026-06", Arch.GFX950, 48, 1, (BF16, BF16), 1),
        ("2026-06", Arch.GFX950, 48, 1, (FP8, FP8), 3),
        ("2026-06", Arch.GFX950, 32, 2, (FP8, FP8), 1),
        ("2026-06", Arch.GFX950, 32, 3, (FP8, FP8), 2),
        ("2026-06", Arch.GFX950, 32, 4, (FP8, FP8), 1),
        ("2026-06", Arch.GFX942, 64, 1, (FP8, FP8), 4),
        ("2026-06", Arch.GFX942, 128, 1, (FP8, FP8), 1),
        ("2026-06", Arch.GFX942, 128, 1, (BF16, BF16), 8),
        ("2026-08", Arch.GFX942, 64, 1, (FP8, FP8), 1),
        ("2026-08", Arch.GFX942, 64, 2, (FP8, FP8), 4),
        ("2026-08", Arch.GFX950, 32, 3, (FP8, FP8), 1),
    ],
)
def test_fast_mode_folds_what_is_not_native(
    release: str, arch: Arch, heads: int, queries: int, dtypes: tuple[Any, Any], fold: int
) -> None:
    call = planning(V1_2, heads, [100], queries=queries, q_dtype=dtypes[0], kv_dtype=dtypes[1])
    got = planned(release, TargetGpu(arch, 256), call)
    assert (got.fold, got.head_width) == (fold, heads // fold)


@pytest.mark.parametrize("planner", [V1_0, V1_1])
@pytest.mark.parametrize("dtype", [FP8, BF16])
def test_other_planners_fold_by_the_head_count_alone(planner: PlannerName, dtype: Any) -> None:
    call = planning(planner, 64, [100], q_dtype=dtype, kv_dtype=dtype)
    assert planned("2026-06", MI355X, call).fold == 4


def test_planner_by_flags() -> None:
    assert [planner_for(True, True), planner_for(True, False), planner_for(False, True), planner_for(False, False)] == [
        V1_2,
        V1_2,
        V1_0,
        V1_1,
    ]


@pytest.mark.parametrize(
    ("release", "call", "reason"),
    [
        ("2026-06", planning(V1_0, 24, [1]), "#heads"),
        ("2026-06", planning(V1_1, 144, [1]), "#heads"),
        ("2026-06", planning(V1_2, 8, [1]), "8 heads"),
        ("2025-11", planning(V1_2, 144, [1]), "#heads"),
        ("2025-11", planning(V1_0, 16, [1]), "intra_batch_mode"),
        ("2026-06", planning(V1_1, 112, [1] * 1000), "LDS"),
        ("2026-06", planning(V1_2, 16, [1], kv_granularity=24), "power of 2"),
        ("2026-06", planning(V1_2, 16, [1], page_size=24), "power of 2"),
    ],
)
def test_what_aiter_refuses(release: str, call: Any, reason: str) -> None:
    got = plan(named(release).planners, MI300X, call, BufferSizes(305, 800, 100, 200, 100))
    assert got.rejected is not None
    assert reason in got.rejected
    assert got.overruns == ()
    assert got.work_items.shape == (0, 8)
    assert not any(buffer.written.any() for buffer in got.buffers.values())


@pytest.mark.parametrize(
    "call",
    [
        planning(V1_0, 16, []),
        planning(V1_0, 16, [1], kv_granularity=0),
        planning(V1_0, 16, [1], kv_indptr=np.array([0, 1])),
        planning(V1_0, 16, [1], kv_indptr=np.zeros(4, np.int32)[::2]),
    ],
)
def test_misuse_is_a_usage_error(call: Any) -> None:
    with pytest.raises(UsageError, match="given"):
        plan(named("2026-06").planners, MI355X, call, BufferSizes(257, 800, 100, 200, 100))


def test_what_hardware_would_do_is_not_guessed() -> None:
    call = planning(V1_2, 16, [1] * 20000, queries=2, uni_seqlen_qo=-1)
    with pytest.raises(UnmodelledError, match="local memory"):
        plan(named("2026-06").planners, MI300X, call, BufferSizes(305, 800, 100, 200, 100))


def planned_with_splits(heads: int, kv_lens: list[int], splits: int) -> Any:
    """v1_0 with a cap that its sizing call cannot have been given."""
    call = planning(V1_0, heads, kv_lens, max_split_per_batch=splits)
    return plan(
        named("2026-06").planners, MI355X, call, buffer_sizes(named("2026-06").sizing, MI355X, sizing(call, num_kv_splits=64))
    )
