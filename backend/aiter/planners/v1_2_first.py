"""Planner v1_2 of release 2025-11: shares of KV blocks as in v1_2.py, but all query tiles of a row go together.

Source: csrc/kernels/mla/metadata/v1_2_device.cuh in the wheel amd-aiter 0.1.7.post2.dev18. It knows no page size, charges 16
blocks a piece, folds by the head count alone, and counts a folded row's query tiles by the heads before folding.
"""

from __future__ import annotations

import numpy as np

from backend.aiter.planners.branches import Branch
from backend.aiter.planners.memory import (
    REDUCE_FINAL_MAP,
    REDUCE_INDPTR,
    REDUCE_PARTIAL_MAP,
    WORK_INDPTR,
    WorkItem,
    compiled,
    divide_up,
    store_range,
    store_work_item,
)
from backend.aiter.planners.v1_2 import FastTask, first_kv_end, kv_blocks, measure_row, next_in_sequence, query_span
from backend.cxx.arithmetic import Marks, Table, Words, clear, divide, i32, store


@compiled
def plan_v1_2_first(
    words: Words, written: Marks, spans: Table, strays: Table, qo_indptr: Words, kv_indptr: Words, task: FastTask
) -> int:
    """Run the planner; returns the branches taken. task.heads: before folding; task.topk: in tokens."""
    clear(words, written, spans, strays)
    branches = 0
    rows, overhead, sparse = task.rows, task.overhead, task.topk >= 0
    lengths = np.empty(2 * rows, np.int64)  # KV tokens of each row, then query rows of each row
    packed_rows = 1 << task.packed_log2
    granularity = 1 << task.granularity_log2
    blocks_of_all = 0
    for row in range(rows):
        blocks_of_all += kv_blocks(task, measure_row(strays, lengths, qo_indptr, kv_indptr, task, row))
    store(words, written, spans, REDUCE_INDPTR, 0, 0)
    store(words, written, spans, WORK_INDPTR, 0, 0)
    if task.shares == 0:
        branches |= Branch.DIVISION_BY_ZERO
    payload = divide_up(i32(blocks_of_all + rows * overhead), task.shares) + overhead

    row = 0
    row_in_sequence = 0
    done_blocks = 0
    pieces = 0  # pieces of this row recorded so far
    kv_begin = 0
    kv_end = first_kv_end(strays, lengths, kv_indptr, task)
    tokens = kv_end - kv_begin
    items = 0
    partial = 0
    tiles_done = 0
    reduced = 0

    for unit in range(task.compute_units):
        room = payload
        if row >= rows:
            branches |= Branch.COMPUTE_UNITS_LEFT_IDLE
        while row < rows:
            entry = divide(row, task.sparse_queries)
            queries = task.uniform_queries if task.uniform_queries > 0 else lengths[rows + entry]
            tiles = (i32(queries * task.heads) + packed_rows - 1) >> task.packed_log2 if task.cuts_queries else 1
            tile_queries = divide_up(queries, tiles)
            left = kv_blocks(task, tokens) - done_blocks
            takes_rest = room >= left + overhead
            if not takes_rest and room <= overhead:
                branches |= Branch.NO_ROOM
                break
            taken = left if takes_rest else room - overhead
            begin = kv_begin + done_blocks * granularity
            for tile in range(tiles):
                q_begin, q_end = query_span(strays, qo_indptr, task, row, entry, tile, tile_queries)
                distance = tiles - 1 - tile
                end = min(begin + taken * granularity, kv_end - distance)
                place = partial + tile * tile_queries
                if takes_rest and pieces == 0:
                    place = -1
                store_work_item(
                    words, written, spans, items + tile, WorkItem(row, place, q_begin, q_end, begin, end, kv_end - end)
                )
                branches |= (Branch.CAUSAL_TRIM if distance > 0 else 0) | (Branch.NO_WORK_LEFT_TO_TAKE if end <= begin else 0)
                if not takes_rest:
                    continue
                if pieces > 0:
                    store(words, written, spans, REDUCE_INDPTR, tiles_done + tile + 1, reduced + (tile + 1) * (pieces + 1))
                    store(words, written, spans, REDUCE_FINAL_MAP, 2 * (tiles_done + tile), q_begin)
                    store(words, written, spans, REDUCE_FINAL_MAP, 2 * (tiles_done + tile) + 1, q_end)
                    for piece in range(pieces + 1):
                        of_piece = place - (pieces - piece) * tiles * tile_queries
                        store(words, written, spans, REDUCE_PARTIAL_MAP, reduced + tile * (pieces + 1) + piece, of_piece)
                else:
                    store(words, written, spans, REDUCE_INDPTR, tiles_done + tile + 1, reduced)
                if tiles > 1:
                    branches |= Branch.SEVERAL_QUERY_TILES | (Branch.SHORTER_LAST_TILE if q_end - q_begin < tile_queries else 0)
            items += tiles
            if not takes_rest:
                partial += tiles * tile_queries
                done_blocks += taken
                pieces += 1
                break
            branches |= (Branch.SPLIT if pieces > 0 else Branch.UNSPLIT) | (Branch.EMPTY_SEQUENCE if tokens == 0 else 0)
            if pieces > 0:
                partial += tiles * tile_queries
                reduced += tiles * (pieces + 1)
            tiles_done += tiles
            room -= left + overhead
            row += 1
            row_in_sequence = next_in_sequence(task, row_in_sequence)
            if row < rows:
                if row_in_sequence == 0:
                    tokens = lengths[row]
                    kv_begin = kv_begin + task.topk if sparse else kv_end
                    kv_end = kv_begin + tokens
                done_blocks = 0
                pieces = 0
        store(words, written, spans, WORK_INDPTR, unit + 1, items)

    if row < rows:
        branches |= Branch.ROWS_LEFT_OVER
    store_range(words, written, spans, REDUCE_INDPTR, tiles_done, task.reduce_indptr_words, reduced)
    return branches
