"""Laws that every plan keeps, on arguments that a careful caller could hand over."""

from __future__ import annotations

import os
from itertools import pairwise
from typing import Any

import numpy as np
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from planner_cases import BF16, FP8, planned, planning

from backend.aiter.arguments import PlanArguments, TargetGpu
from backend.aiter.planners import POISON, Branch, Plan, PlannerName
from backend.case import Arch

EXAMPLES = 300 if os.environ.get("AITERFUZZ_SLOW") else 100

EDGES = [1, 2, 4, 5, 15, 16, 17, 20, 195, 196, 197, 391, 392, 393, 1000, 4096, 20000]
kv_lengths = st.one_of(st.sampled_from(EDGES), st.integers(1, 3000))


@st.composite
def calls(draw: st.DrawFn, planners: tuple[PlannerName, ...] = tuple(PlannerName)) -> tuple[str, TargetGpu, PlanArguments]:
    """A release, a device and the arguments of a planner of that release: page 1, no empty sequence, uniform queries."""
    release = draw(st.sampled_from(["2025-11", "2026-06", "2026-08"]))
    planner = draw(st.sampled_from([p for p in planners if release != "2025-11" or p is not PlannerName.V1_0]))
    device = TargetGpu(draw(st.sampled_from(Arch)), draw(st.sampled_from([20, 80, 256, 304])))
    dtypes = draw(st.sampled_from([(FP8, FP8), (BF16, FP8), (BF16, BF16)]))
    changes: dict[str, Any] = {
        "queries": draw(st.sampled_from([1, 1, 1, 2, 3, 4, 8])),
        "kv_granularity": draw(st.sampled_from([16, 32, 64])),
        "max_split_per_batch": draw(st.sampled_from([1, 2, 8, 32, 64])),
        "q_dtype": dtypes[0],
        "kv_dtype": dtypes[1],
        "is_causal": draw(st.booleans()),
    }
    heads = draw(st.sampled_from([16, 32, 48, 64, 96, 112, 128]))
    kv_lens = draw(st.lists(kv_lengths, min_size=1, max_size=24))
    return release, device, planning(planner, heads, kv_lens, **changes)


def pieces_by_tile(plan: Plan) -> dict[tuple[int, int], np.ndarray]:
    """Work items of each (row, first query), by ascending KV begin."""
    tiles: dict[tuple[int, int], list[np.ndarray]] = {}
    for item in plan.work_items:
        tiles.setdefault((int(item[0]), int(item[2])), []).append(item)
    return {key: np.array(sorted(items, key=lambda item: int(item[4]))) for key, items in tiles.items()}


@given(calls())
@settings(max_examples=EXAMPLES, deadline=None)
def test_work_indptr_deals_every_item_once(call: tuple[str, TargetGpu, PlanArguments]) -> None:
    plan = planned(*call)
    buffer = plan.buffers["work_indptr"]
    assert buffer.overrun == ()
    assert buffer.written.all()
    entries = buffer.words
    assert entries.size == plan.compute_units + 1
    assert entries[0] == 0
    assert entries[-1] == len(plan.work_items)
    assert (np.diff(entries) >= 0).all()


@given(calls())
@settings(max_examples=EXAMPLES, deadline=None)
def test_pieces_of_a_tile_join_up_and_reach_its_end(call: tuple[str, TargetGpu, PlanArguments]) -> None:
    """From the sequence's first token to the tile's end, each piece begins where the one before it ends."""
    release, device, arguments = call
    plan = planned(release, device, arguments)
    assume(not plan.branches & (Branch.ROWS_LEFT_OVER | Branch.NO_WORK_LEFT_TO_TAKE | Branch.KV_END_FORCED))
    tiles = pieces_by_tile(plan)
    assert {row for row, _ in tiles} == set(range(plan.rows))
    for (row, _), items in tiles.items():
        sequence = row // plan.rows_per_sequence
        begin, end = arguments.kv_indptr[sequence : sequence + 2]
        assert items[0, 4] == begin
        assert all(left[5] == right[4] for left, right in pairwise(items))
        last = items[-1]
        assert last[5] + last[6] == end - causal_shift(plan, arguments, row)
        assert last[5] > last[4] or last[6] > 0
        if arguments.max_seqlen_qo == 1:
            lost = lost_tail(plan, device, arguments, int(end - begin))
            assert (last[5], last[6]) == (end - lost, lost)


def lost_tail(plan: Plan, device: TargetGpu, arguments: PlanArguments, tokens: int) -> int:
    """Tokens that v1_0 of MI300X drops from a sequence of two blocks, see test_short_tail_of_a_second_block_is_lost."""
    if plan.planner is not PlannerName.V1_0 or device.arch is not Arch.GFX942:
        return 0
    granularity = arguments.kv_granularity
    return tokens - granularity if granularity < tokens <= granularity + 4 else 0


def causal_shift(plan: Plan, arguments: PlanArguments, row: int) -> int:
    """Tokens by which v1_0's row of one query ends before its sequence, which kv_offset does not count."""
    if plan.planner is not PlannerName.V1_0 or not plan.branches & Branch.PER_QUERY_ENDS:
        return 0
    return arguments.max_seqlen_qo - 1 - row % arguments.max_seqlen_qo


@given(calls())
@settings(max_examples=EXAMPLES, deadline=None)
def test_queries_are_covered_once(call: tuple[str, TargetGpu, PlanArguments]) -> None:
    """2025-11 also plans tiles without any query, where its ceilings give more tiles than a row has queries for."""
    plan = planned(*call)
    assume(not plan.branches & Branch.ROWS_LEFT_OVER)
    spans = sorted({(int(item[2]), int(item[3])) for item in plan.work_items})
    if call[0] == "2025-11":
        spans = [(begin, end) for begin, end in spans if begin < end]
    assert spans[0][0] == 0
    assert all(left[1] == right[0] for left, right in pairwise(spans))
    assert spans[-1][1] == plan.fold * int(call[2].qo_indptr[-1])


@given(calls())
@settings(max_examples=EXAMPLES, deadline=None)
def test_reduction_lists_the_partial_rows_of_split_tiles(call: tuple[str, TargetGpu, PlanArguments]) -> None:
    """Each split tile is listed with just the places that its pieces wrote, and no place is used twice."""
    plan = planned(*call)
    assume(not plan.branches & Branch.ROWS_LEFT_OVER)
    indptr = plan.buffers["reduce_indptr"]
    entries = indptr.reading(0, indptr.last)
    assert entries[0] == 0
    assert (np.diff(entries) >= 0).all()
    split = {key: items for key, items in pieces_by_tile(plan).items() if items[0, 1] != -1}
    listed = {}
    for tile in range(entries.size - 1):
        begin, end = int(entries[tile]), int(entries[tile + 1])
        q_begin, q_end = plan.buffers["reduce_final_map"].reading(2 * tile, 2 * tile + 1).tolist()
        places = plan.buffers["reduce_partial_map"].reading(begin, end - 1).tolist()
        if places and places != [-1]:
            listed[q_begin] = (q_end, places)
    assert {q_begin: (int(items[0, 3]), items[:, 1].tolist()) for (_, q_begin), items in split.items()} == listed
    used = sorted((place, q_end - q_begin) for q_begin, (q_end, places) in listed.items() for place in places)
    assert all(place + rows <= after for (place, rows), (after, _) in pairwise(used))


@given(calls((PlannerName.V1_2,)))
@settings(max_examples=EXAMPLES, deadline=None)
def test_fast_plans_of_supported_heads_fit_their_buffers(call: tuple[str, TargetGpu, PlanArguments]) -> None:
    """With heads that are native to planner and sizing alike, buffers sized by AITER's rule are never overrun."""
    release, device, arguments = call
    plan = planned(release, device, arguments)
    native = arguments.num_heads_per_head_k == 16 and arguments.q_dtype is FP8
    assume(native or (plan.fold > 1 and arguments.max_seqlen_qo == 1 and release != "2025-11"))
    assert plan.overruns == ()
    assert plan.reads_past_end == ()


@given(st.lists(calls(), min_size=2, max_size=4))
@settings(max_examples=EXAMPLES // 5, deadline=None)
def test_a_plan_does_not_depend_on_the_plans_before_it(several: list[tuple[str, TargetGpu, PlanArguments]]) -> None:
    """The memory that planners share is given back: the first plan comes out the same after the others."""
    first = planned(*several[0])
    for call in several[1:]:
        planned(*call)
    again = planned(*several[0])
    assert again.branches == first.branches
    for name, buffer in first.buffers.items():
        assert buffer.first == again.buffers[name].first
        assert np.array_equal(buffer.image, again.buffers[name].image)
        assert np.array_equal(buffer.marks, again.buffers[name].marks)


@given(calls())
@settings(max_examples=100, deadline=None)
def test_words_and_overrun_are_all_that_was_written(call: tuple[str, TargetGpu, PlanArguments]) -> None:
    for buffer in planned(*call).buffers.values():
        outside = sum(overrun.words for overrun in buffer.overrun)
        assert int(buffer.written.sum()) + outside == int(buffer.marks.sum())
        assert (buffer.words[buffer.written == 0] == POISON).all()
        for overrun in buffer.overrun:
            assert overrun.last_word < 0 or overrun.first_word >= buffer.allocated
            assert np.array_equal(buffer.reading(overrun.first_word, overrun.last_word), overrun.values)
