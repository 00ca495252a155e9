"""Planner v1_2, "fast": all rows laid end to end and cut into equal shares, one wave, one compute unit after the other.

Source: csrc/kernels/mla/metadata/v1_2_device.cuh of 2026-06, and the sequential path of 2026-08. The parallel path of
2026-08 is in v1_2_parallel.py, 2025-11 in v1_2_first.py. Knows neither the host's rules nor what the plan is used for.
"""

from __future__ import annotations

import numpy as np

from backend.aiter.planners.branches import Branch
from backend.aiter.planners.memory import (
    KV_INDPTR,
    KV_LAST_PAGE_LENS,
    LDS_QUERY_LENGTHS,
    POISON,
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
    inlined,
    load,
    note_stray_read,
    remainder,
    store,
    store_range,
    store_work_item,
)

_EMPTY_SEQUENCE = int(Branch.EMPTY_SEQUENCE)
_DIVISION_BY_ZERO = int(Branch.DIVISION_BY_ZERO)
_SPLIT = int(Branch.SPLIT)
_UNSPLIT = int(Branch.UNSPLIT)
_SEVERAL_QUERY_TILES = int(Branch.SEVERAL_QUERY_TILES)
_SHORTER_LAST_TILE = int(Branch.SHORTER_LAST_TILE)
_GLUED = int(Branch.GLUED)
_TAIL_TAKEN = int(Branch.TAIL_TAKEN)
_NO_ROOM = int(Branch.NO_ROOM)
_CAUSAL_TRIM = int(Branch.CAUSAL_TRIM)
_PAGED = int(Branch.PAGED)
_ROWS_LEFT_OVER = int(Branch.ROWS_LEFT_OVER)
_COMPUTE_UNITS_LEFT_IDLE = int(Branch.COMPUTE_UNITS_LEFT_IDLE)
_NO_WORK_LEFT_TO_TAKE = int(Branch.NO_WORK_LEFT_TO_TAKE)

_WAVE = 64


@inlined
def query_tiles(queries: int, heads: int, packed_rows: int, packed_log2: int, cuts_queries: bool) -> int:
    """Tiles that a row is cut into along its queries."""
    if not cuts_queries:
        return 1
    if 2 * heads > packed_rows:
        return queries  # only one query fits, and ceil(packed / packed_rows) would be too few for 96 or 112 heads
    return (as_int32(queries * heads) + packed_rows - 1) >> packed_log2


@compiled
def measure_rows(
    strays: Table,
    lengths: Table,
    qo_indptr: Words,
    kv_indptr: Words,
    rows: int,
    rows_per_sequence: int,
    uniform_queries: int,
    sparse_queries: int,
    topk: int,
    heads: int,
    packed_rows: int,
    packed_log2: int,
    cuts_queries: bool,
    granularity_log2: int,
    overhead: int,
) -> int:
    """KV and query length of each row into lengths[row] and lengths[rows + row]; returns the blocks of all rows.

    Where query lengths are read from qo_indptr, the kernel asks for a row's tiles before it has stored the row's length: the
    64 rows of one step read local memory that nobody wrote.
    """
    blocks_of_all = 0
    for row in range(rows):
        sequence = divide(divide(row, sparse_queries), rows_per_sequence)
        kv_end = load(kv_indptr, sequence + 1, strays, KV_INDPTR)
        tokens = kv_end - load(kv_indptr, sequence, strays, KV_INDPTR)
        if topk >= 0:
            tokens = min(tokens, topk)
        queries = uniform_queries
        if uniform_queries <= 0:
            lengths[rows + row] = load(qo_indptr, sequence + 1, strays, QO_INDPTR) - load(
                qo_indptr, sequence, strays, QO_INDPTR
            )
            if cuts_queries:
                entry = divide(row, sparse_queries)
                queries = lengths[rows + entry]
                if entry >= row // _WAVE * _WAVE:
                    note_stray_read(strays, LDS_QUERY_LENGTHS, entry)
                    queries = POISON
        lengths[row] = tokens
        blocks = (tokens + (1 << granularity_log2) - 1) >> granularity_log2
        tiles = query_tiles(queries, heads, packed_rows, packed_log2, cuts_queries)
        blocks_of_all = as_int32(blocks_of_all + (blocks + overhead) * tiles)
    return blocks_of_all


@inlined
def causal_distance(
    tile: int, tiles: int, q_begin: int, rows_per_sequence: int, queries: int, sparse: bool, trims: bool
) -> int:
    """KV tokens between the end that a tile's last query may see and the sequence's end."""
    if not trims:
        return 0
    distance = tiles - 1 - tile
    if not sparse and rows_per_sequence != 1:
        distance = tiles - remainder(divide(q_begin, rows_per_sequence), queries) - 1
    return max(distance, 0)


@inlined
def query_span(
    strays: Table, qo_indptr: Words, row: int, entry: int, tile: int, tile_queries: int, uniform_queries: int
) -> tuple[int, int]:
    """Query rows [begin, end) of a tile. entry: of qo_indptr, where lengths are read from it: the row, not its sequence."""
    if uniform_queries > 0:
        first, limit = uniform_queries * row, uniform_queries * (row + 1)
    else:
        first = load(qo_indptr, entry, strays, QO_INDPTR)
        limit = load(qo_indptr, entry + 1, strays, QO_INDPTR)
    begin = first + tile * tile_queries
    return begin, min(begin + tile_queries, limit)


@inlined
def piece_end(
    begin: int, length: int, kv_end: int, distance: int, takes_rest: bool, glued: bool, tail_threshold: int
) -> tuple[int, bool, int]:
    """Where a piece ends at page size 1, whether it is not recorded because its remainder is too short, the branch."""
    end = min(begin + length, kv_end - distance)
    remaining = kv_end - end
    if not takes_rest:
        return (end, True, _GLUED) if remaining < tail_threshold else (end, False, 0)
    if 0 < remaining < tail_threshold or glued:
        return min(kv_end - distance, kv_end), False, _TAIL_TAKEN
    return end, False, 0


@inlined
def offset_in_tokens(strays: Table, kv_last_page_lens: Words, sequence: int, end: int, kv_end: int, page_size: int) -> int:
    """kv_offset where kv_indptr counts pages. `sequence` is a row where heads are folded: more of them than last pages."""
    if end == kv_end:
        return 0
    return (kv_end - end - 1) * page_size + load(kv_last_page_lens, sequence, strays, KV_LAST_PAGE_LENS)


@inlined
def write_reduction(
    words: Words,
    written: Marks,
    spans: Table,
    tile: int,
    q_begin: int,
    q_end: int,
    first_entry: int,
    entries: int,
    last_partial: int,
    tile_queries: int,
) -> None:
    """A split tile's entries: where its rows end up, and the partial rows of its pieces, which follow one another."""
    store(words, written, spans, REDUCE_FINAL_MAP, 2 * tile, q_begin)
    store(words, written, spans, REDUCE_FINAL_MAP, 2 * tile + 1, q_end)
    for entry in range(entries):
        place = last_partial - (entries - 1 - entry) * tile_queries
        store(words, written, spans, REDUCE_PARTIAL_MAP, first_entry + entry, place)


@compiled
def plan_v1_2(
    words: Words,
    written: Marks,
    spans: Table,
    strays: Table,
    qo_indptr: Words,
    kv_indptr: Words,
    kv_last_page_lens: Words,
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
    page_size: int,
    overhead: int,
    tail_threshold: int,
    trims_causal: bool,
    first_end_from_indptr: bool,
) -> int:
    """Run the planner; returns the branches taken.

    uniform_queries: query rows of a planned row, < 1 to read qo_indptr.
    sparse_queries: rows of a sequence under sparse attention, 1 otherwise. heads: after folding. topk: in pages, < 0: not
    sparse. first_end_from_indptr: the lengths do not fit local memory, and the first end is kv_indptr[1].
    """
    clear(words, written, spans)
    strays[0, 0] = 0
    branches = 0
    lengths = np.empty(2 * rows, np.int64)  # KV tokens of each row, then query rows of each row
    sparse = topk >= 0
    packed_rows = 1 << packed_log2
    granularity = 1 << granularity_log2
    blocks_of_all = measure_rows(
        strays,
        lengths,
        qo_indptr,
        kv_indptr,
        rows,
        rows_per_sequence,
        uniform_queries,
        sparse_queries,
        topk,
        heads,
        packed_rows,
        packed_log2,
        cuts_queries,
        granularity_log2,
        overhead,
    )
    store(words, written, spans, REDUCE_INDPTR, 0, 0)
    store(words, written, spans, WORK_INDPTR, 0, 0)
    if shares == 0:
        branches |= _DIVISION_BY_ZERO
    payload = divide_up(blocks_of_all, shares) + overhead

    row = 0
    row_in_sequence = 0  # position of row in its group of rows_per_sequence rows
    tile = 0
    done_blocks = 0
    pieces = 0  # pieces of this tile recorded so far
    glued = False
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
            tiles = query_tiles(queries, heads, packed_rows, packed_log2, cuts_queries)
            tile_queries = divide_up(queries, tiles)
            left = ((tokens + granularity - 1) >> granularity_log2) - done_blocks
            takes_rest = room >= left + overhead or glued
            if not takes_rest and room <= overhead:
                branches |= _NO_ROOM
                break
            taken = left if takes_rest else room - overhead

            q_begin, q_end = query_span(strays, qo_indptr, row, entry, tile, tile_queries, uniform_queries)
            sequence = divide(entry, rows_per_sequence) if sparse else row
            begin = kv_begin + done_blocks * granularity
            if page_size == 1:
                distance = causal_distance(tile, tiles, q_begin, rows_per_sequence, uniform_queries, sparse, trims_causal)
                end, too_short, taken_branch = piece_end(
                    begin, taken * granularity, kv_end, distance, takes_rest, glued, tail_threshold
                )
                branches |= taken_branch | (_CAUSAL_TRIM if distance > 0 else 0)
                if too_short:
                    glued = True
                    continue  # this compute unit takes the remainder as well, in the next turn
                offset = kv_end - end
                if sparse and rows_per_sequence == 1:
                    offset += sparse_queries - 1 - remainder(row, sparse_queries)
            else:
                branches |= _PAGED
                end = min(begin + taken * granularity, kv_end)
                offset = offset_in_tokens(strays, kv_last_page_lens, sequence, end, kv_end, page_size)
            branches |= _NO_WORK_LEFT_TO_TAKE if end <= begin else 0
            place = -1 if takes_rest and pieces == 0 else partial
            store_work_item(words, written, spans, items, sequence, place, q_begin, q_end, begin, end, offset)
            items += 1
            if not takes_rest:
                partial += tile_queries
                done_blocks += taken
                pieces += 1
                break

            branches |= (_SPLIT if pieces > 0 else _UNSPLIT) | (_EMPTY_SEQUENCE if tokens == 0 else 0)
            if tiles > 1:
                branches |= _SEVERAL_QUERY_TILES | (_SHORTER_LAST_TILE if q_end - q_begin < tile_queries else 0)
            if pieces > 0:
                write_reduction(words, written, spans, tiles_done, q_begin, q_end, reduced, pieces + 1, partial, tile_queries)
                partial += tile_queries
                reduced += pieces + 1
            store(words, written, spans, REDUCE_INDPTR, tiles_done + 1, reduced)
            tiles_done += 1
            room -= left + overhead
            done_blocks = 0
            tile = 0 if tile == tiles - 1 else tile + 1
            if not cuts_queries or tile == 0:
                row += 1
                row_in_sequence = 0 if row_in_sequence == rows_per_sequence - 1 else row_in_sequence + 1
                if row >= rows:
                    break  # pieces and glued stay, as in the kernel: nothing reads them any more
                if row_in_sequence == 0:
                    tokens = lengths[row]
                    kv_begin = kv_begin + topk if sparse else kv_end
                    kv_end = kv_begin + tokens
            pieces = 0
            glued = False
        store(words, written, spans, WORK_INDPTR, unit + 1, items)

    if row < rows:
        branches |= _ROWS_LEFT_OVER
    store_range(words, written, spans, REDUCE_INDPTR, tiles_done, reduce_indptr_words, reduced)
    return branches
