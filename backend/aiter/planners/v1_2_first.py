"""Planner v1_2 of release 2025-11: shares of KV blocks as in v1_2.py, but all query tiles of a row go together.

Source: csrc/kernels/mla/metadata/v1_2_device.cuh in the wheel amd-aiter 0.1.7.post2.dev18. It knows no page size, charges 16
blocks a piece, folds by the head count alone, and counts a folded row's query tiles by the heads before folding.
"""

from __future__ import annotations

import numpy as np

from backend.aiter.planners.branches import Branch
from backend.aiter.planners.memory import (
    REDUCE_INDPTR,
    WORK_INDPTR,
    WorkItem,
    compiled,
    divide_up,
    store_range,
    store_work_item,
)
from backend.aiter.planners.v1_2 import (
    FastTask,
    cut_branches,
    first_kv_end,
    kv_blocks,
    measure_row,
    next_row,
    open_plan,
    packed_tiles,
    queries_of,
    ran_out,
    row_branches,
    tile_of,
    write_reduction,
)
from backend.cxx.arithmetic import Marks, Table, Words, clear, i32, store


@compiled
def plan_v1_2_first(
    words: Words, written: Marks, spans: Table, strays: Table, qo_indptr: Words, kv_indptr: Words, task: FastTask
) -> int:
    """Run the planner; returns the branches taken. task.heads: before folding; task.topk: in tokens."""
    clear(words, written, spans, strays)
    rows, overhead = task.rows, task.overhead
    lengths = np.empty(2 * rows, np.int64)  # KV tokens of each row, then query rows of each row
    granularity = 1 << task.granularity_log2
    blocks_of_all = 0
    for row in range(rows):
        blocks_of_all += kv_blocks(task, measure_row(strays, lengths, qo_indptr, kv_indptr, task, row))
    payload, branches = open_plan(words, written, spans, task, i32(blocks_of_all + rows * overhead))

    row = 0
    row_in_sequence = 0
    done_blocks = 0
    pieces = 0  # pieces of this row recorded so far
    kv_begin = 0
    kv_end = first_kv_end(strays, lengths, kv_indptr, task)
    items = 0
    partial = 0
    tiles_done = 0
    reduced = 0

    for unit in range(task.compute_units):
        room = payload
        if row >= rows:
            branches |= Branch.COMPUTE_UNITS_LEFT_IDLE
        while row < rows:
            queries = queries_of(task, lengths, row)
            tiles = packed_tiles(task, queries)
            left = kv_blocks(task, kv_end - kv_begin) - done_blocks
            takes_rest = room >= left + overhead
            if not takes_rest and room <= overhead:
                branches |= Branch.NO_ROOM
                break
            taken = left if takes_rest else room - overhead
            begin = kv_begin + done_blocks * granularity
            for number in range(tiles):
                tile = tile_of(strays, qo_indptr, task, row, number, queries, tiles)
                distance = tiles - 1 - number
                end = min(begin + taken * granularity, kv_end - distance)
                place = -1 if takes_rest and pieces == 0 else partial + number * tile.rows
                item = WorkItem(row, place, tile.q_begin, tile.q_end, begin, end, kv_end - end)
                store_work_item(words, written, spans, items + number, item)
                branches |= (Branch.CAUSAL_TRIM if distance > 0 else 0) | (Branch.NO_WORK_LEFT_TO_TAKE if end <= begin else 0)
                if not takes_rest:
                    continue
                branches |= cut_branches(tile)
                entries, number_of_all = (pieces + 1 if pieces > 0 else 0), tiles_done + number
                store(words, written, spans, REDUCE_INDPTR, number_of_all + 1, reduced + (number + 1) * entries)
                if pieces > 0:
                    first, apart = reduced + number * entries, tiles * tile.rows
                    write_reduction(words, written, spans, number_of_all, tile, first, entries, place, apart)
            items += tiles
            tile_queries = divide_up(queries, tiles)
            if not takes_rest:
                partial += tiles * tile_queries
                done_blocks += taken
                pieces += 1
                break
            branches |= row_branches(pieces, kv_end - kv_begin)
            if pieces > 0:
                partial += tiles * tile_queries
                reduced += tiles * (pieces + 1)
            tiles_done += tiles
            room -= left + overhead
            row += 1
            row_in_sequence, kv_begin, kv_end = next_row(task, lengths, row, row_in_sequence, kv_begin, kv_end)
            done_blocks = 0
            pieces = 0
        store(words, written, spans, WORK_INDPTR, unit + 1, items)

    store_range(words, written, spans, REDUCE_INDPTR, tiles_done, task.reduce_indptr_words, reduced)
    return branches | ran_out(task, row)
