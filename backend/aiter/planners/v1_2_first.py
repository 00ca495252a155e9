"""Planner v1_2 of release 2025-11: shares of KV blocks as in v1_2.py, but all query tiles of a row go together.

Source: csrc/kernels/mla/metadata/v1_2_device.cuh in the wheel amd-aiter 0.1.7.post2.dev18. It knows no page size, charges 16
blocks a piece, folds by the head count alone, and counts a folded row's query tiles by the heads before folding.
"""

from __future__ import annotations

import numpy as np

from backend.aiter.planners.branches import Branch
from backend.aiter.planners.memory import (
    KV_INDPTR,
    QO_INDPTR,
    REDUCE_FINAL_MAP,
    REDUCE_INDPTR,
    REDUCE_PARTIAL_MAP,
    WORK_INDPTR,
    Marks,
    Table,
    Words,
    as_int32,
    clear,
    compiled,
    divide,
    divide_up,
    load,
    store,
    store_range,
    store_work_item,
)
from backend.aiter.planners.v1_2 import query_span

_EMPTY_SEQUENCE = int(Branch.EMPTY_SEQUENCE)
_DIVISION_BY_ZERO = int(Branch.DIVISION_BY_ZERO)
_SPLIT = int(Branch.SPLIT)
_UNSPLIT = int(Branch.UNSPLIT)
_SEVERAL_QUERY_TILES = int(Branch.SEVERAL_QUERY_TILES)
_SHORTER_LAST_TILE = int(Branch.SHORTER_LAST_TILE)
_NO_ROOM = int(Branch.NO_ROOM)
_CAUSAL_TRIM = int(Branch.CAUSAL_TRIM)
_ROWS_LEFT_OVER = int(Branch.ROWS_LEFT_OVER)
_COMPUTE_UNITS_LEFT_IDLE = int(Branch.COMPUTE_UNITS_LEFT_IDLE)
_NO_WORK_LEFT_TO_TAKE = int(Branch.NO_WORK_LEFT_TO_TAKE)


@compiled
def plan_v1_2_first(
    words: Words,
    written: Marks,
    spans: Table,
    strays: Table,
    qo_indptr: Words,
    kv_indptr: Words,
    reduce_indptr_words: int,
    rows: int,
    rows_per_sequence: int,
    uniform_queries: int,
    sparse_queries: int,
    topk: int,
    heads: int,
    packed_log2: int,
    cuts_queries: bool,
    granularity_log2: int,
    compute_units: int,
    shares: int,
    overhead: int,
    first_end_from_indptr: bool,
) -> int:
    """Run the planner; returns the branches taken.

    uniform_queries: query rows of a planned row, < 1 to read qo_indptr.
    sparse_queries: rows of a sequence under sparse attention, 1 otherwise. heads: before folding. topk: in tokens, < 0: not
    sparse. first_end_from_indptr: the lengths do not fit local memory, and the first end is kv_indptr[1].
    """
    clear(words, written, spans)
    strays[0, 0] = 0
    branches = 0
    lengths = np.empty(2 * rows, np.int64)  # KV tokens of each row, then query rows of each row
    sparse = topk >= 0
    packed_rows = 1 << packed_log2
    granularity = 1 << granularity_log2
    blocks_of_all = 0
    for row in range(rows):
        sequence = divide(divide(row, sparse_queries), rows_per_sequence)
        kv_limit = load(kv_indptr, sequence + 1, strays, KV_INDPTR)
        lengths[row] = kv_limit - load(kv_indptr, sequence, strays, KV_INDPTR)
        if sparse:
            lengths[row] = min(lengths[row], topk)
        blocks_of_all += (lengths[row] + granularity - 1) >> granularity_log2
        if uniform_queries <= 0:
            q_limit = load(qo_indptr, sequence + 1, strays, QO_INDPTR)
            lengths[rows + row] = q_limit - load(qo_indptr, sequence, strays, QO_INDPTR)
    store(words, written, spans, REDUCE_INDPTR, 0, 0)
    store(words, written, spans, WORK_INDPTR, 0, 0)
    if shares == 0:
        branches |= _DIVISION_BY_ZERO
    payload = divide_up(as_int32(blocks_of_all + rows * overhead), shares) + overhead

    row = 0
    row_in_sequence = 0
    done_blocks = 0
    pieces = 0  # pieces of this row recorded so far
    kv_begin = 0
    kv_end = lengths[0]
    if first_end_from_indptr:
        kv_end = load(kv_indptr, 1, strays, KV_INDPTR)
        kv_end = min(kv_end, topk) if sparse else kv_end
    tokens = kv_end - kv_begin
    items = 0
    partial = 0
    tiles_done = 0
    reduced = 0

    for unit in range(compute_units):
        room = payload
        if row >= rows:
            branches |= _COMPUTE_UNITS_LEFT_IDLE
        while row < rows:
            entry = divide(row, sparse_queries)
            queries = uniform_queries if uniform_queries > 0 else lengths[rows + entry]
            tiles = (as_int32(queries * heads) + packed_rows - 1) >> packed_log2 if cuts_queries else 1
            tile_queries = divide_up(queries, tiles)
            left = ((tokens + granularity - 1) >> granularity_log2) - done_blocks
            takes_rest = room >= left + overhead
            if not takes_rest and room <= overhead:
                branches |= _NO_ROOM
                break
            taken = left if takes_rest else room - overhead
            begin = kv_begin + done_blocks * granularity
            for tile in range(tiles):
                q_begin, q_end = query_span(strays, qo_indptr, row, entry, tile, tile_queries, uniform_queries)
                distance = tiles - 1 - tile
                end = min(begin + taken * granularity, kv_end - distance)
                place = partial + tile * tile_queries
                if takes_rest and pieces == 0:
                    place = -1
                store_work_item(words, written, spans, items + tile, row, place, q_begin, q_end, begin, end, kv_end - end)
                branches |= (_CAUSAL_TRIM if distance > 0 else 0) | (_NO_WORK_LEFT_TO_TAKE if end <= begin else 0)
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
                    branches |= _SEVERAL_QUERY_TILES | (_SHORTER_LAST_TILE if q_end - q_begin < tile_queries else 0)
            items += tiles
            if not takes_rest:
                partial += tiles * tile_queries
                done_blocks += taken
                pieces += 1
                break
            branches |= (_SPLIT if pieces > 0 else _UNSPLIT) | (_EMPTY_SEQUENCE if tokens == 0 else 0)
            if pieces > 0:
                partial += tiles * tile_queries
                reduced += tiles * (pieces + 1)
            tiles_done += tiles
            room -= left + overhead
            row += 1
            row_in_sequence = 0 if row_in_sequence == rows_per_sequence - 1 else row_in_sequence + 1
            if row < rows:
                if row_in_sequence == 0:
                    tokens = lengths[row]
                    kv_begin = kv_begin + topk if sparse else kv_end
                    kv_end = kv_begin + tokens
                done_blocks = 0
                pieces = 0
        store(words, written, spans, WORK_INDPTR, unit + 1, items)

    if row < rows:
        branches |= _ROWS_LEFT_OVER
    store_range(words, written, spans, REDUCE_INDPTR, tiles_done, reduce_indptr_words, reduced)
    return branches
