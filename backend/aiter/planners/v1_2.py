"""Planner v1_2, "fast": all rows laid end to end and cut into equal shares, one wave, one compute unit after the other.

Source: csrc/kernels/mla/metadata/v1_2_device.cuh of 2026-06, and the sequential path of 2026-08. The parallel path of
2026-08 is in v1_2_parallel.py, 2025-11 in v1_2_first.py. Knows neither the host's rules nor what the plan is used for.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from backend.aiter.planners.branches import Branch
from backend.aiter.planners.memory import (
    KV_INDPTR,
    KV_LAST_PAGE_LENS,
    LDS_QUERY_LENGTHS,
    QO_INDPTR,
    REDUCE_FINAL_MAP,
    REDUCE_INDPTR,
    REDUCE_PARTIAL_MAP,
    WORK_INDPTR,
    WorkItem,
    compiled,
    divide_up,
    inlined,
    load,
    store_range,
    store_work_item,
)
from backend.cxx.arithmetic import POISON, Marks, Table, Words, clear, divide, i32, note_stray_read, remainder, store

ENDLESS = -2
"""Of plan_v1_2: a request without query rows in a plan that is cut in tiles. It has none, so none of them is its last."""

_WAVE = 64


class FastTask(NamedTuple):
    """What v1_2 is launched with. Rows are planned rows.

    uniform_queries: query rows of a planned row, < 1 to read qo_indptr. sparse_queries: rows of a sequence under sparse
    attention, 1 otherwise. topk: as KV is counted, < 0: not sparse. heads: of a planned row (2025-11: before folding).
    packed_log2: of the (head, query) rows of a tile. cuts_queries: whether rows are cut along their queries. granularity_log2:
    of KV tokens a block. shares: parts that all blocks are divided into. overhead: blocks charged for a piece.
    tail_threshold: a remainder of fewer tokens is taken over. trims_causal: whether a tile ends at what its last query may see.
    first_end_from_indptr: the lengths do not fit local memory, and the first end is kv_indptr[1].
    reduce_indptr_words: of that buffer, which is filled to its end.
    """

    rows: int
    rows_per_sequence: int
    uniform_queries: int
    sparse_queries: int
    topk: int
    page_size: int
    heads: int
    packed_log2: int
    cuts_queries: bool
    granularity_log2: int
    compute_units: int
    shares: int
    overhead: int
    tail_threshold: int
    trims_causal: bool
    first_end_from_indptr: bool
    reduce_indptr_words: int


@inlined
def kv_blocks(task: FastTask, tokens: int) -> int:
    """Blocks that some KV tokens take."""
    return (tokens + (1 << task.granularity_log2) - 1) >> task.granularity_log2


@inlined
def query_tiles(task: FastTask, queries: int) -> int:
    """Tiles that a row is cut into along its queries."""
    if not task.cuts_queries:
        return 1
    packed_rows = 1 << task.packed_log2
    if 2 * task.heads > packed_rows:
        return queries  # only one query fits, and ceil(packed / packed_rows) would be too few for 96 or 112 heads
    return (i32(queries * task.heads) + packed_rows - 1) >> task.packed_log2


@inlined
def measure_row(strays: Table, lengths: Table, qo_indptr: Words, kv_indptr: Words, task: FastTask, row: int) -> int:
    """KV and query length of a row into lengths[row] and lengths[rows + row]; returns its KV tokens."""
    sequence = divide(divide(row, task.sparse_queries), task.rows_per_sequence)
    kv_end = load(kv_indptr, sequence + 1, strays, KV_INDPTR)
    tokens = kv_end - load(kv_indptr, sequence, strays, KV_INDPTR)
    if task.topk >= 0:
        tokens = min(tokens, task.topk)
    if task.uniform_queries <= 0:
        q_end = load(qo_indptr, sequence + 1, strays, QO_INDPTR)
        lengths[task.rows + row] = q_end - load(qo_indptr, sequence, strays, QO_INDPTR)
    lengths[row] = tokens
    return tokens


@compiled
def measure_rows(strays: Table, lengths: Table, qo_indptr: Words, kv_indptr: Words, task: FastTask) -> int:
    """Lengths of all rows (see `measure_row`); returns their blocks.

    Where query lengths are read from qo_indptr, the kernel asks for a row's tiles before it has stored the row's length: the
    64 rows of one step read local memory that nobody wrote.
    """
    blocks_of_all = 0
    for row in range(task.rows):
        tokens = measure_row(strays, lengths, qo_indptr, kv_indptr, task, row)
        queries = task.uniform_queries
        if queries <= 0 and task.cuts_queries:
            entry = divide(row, task.sparse_queries)
            queries = lengths[task.rows + entry]
            if entry >= row // _WAVE * _WAVE:
                note_stray_read(strays, LDS_QUERY_LENGTHS, entry)
                queries = POISON
        blocks = kv_blocks(task, tokens)
        blocks_of_all = i32(blocks_of_all + (blocks + task.overhead) * query_tiles(task, queries))
    return blocks_of_all


@inlined
def first_kv_end(strays: Table, lengths: Table, kv_indptr: Words, task: FastTask) -> int:
    """Where the first row's KV ends."""
    if not task.first_end_from_indptr:
        return int(lengths[0])
    kv_end = load(kv_indptr, 1, strays, KV_INDPTR)
    return min(kv_end, task.topk) if task.topk >= 0 else kv_end


@inlined
def next_in_sequence(task: FastTask, row_in_sequence: int) -> int:
    """Position of the next row in its group of rows_per_sequence rows."""
    return 0 if row_in_sequence == task.rows_per_sequence - 1 else row_in_sequence + 1


@inlined
def causal_distance(task: FastTask, tile: int, tiles: int, q_begin: int) -> int:
    """KV tokens between the end that a tile's last query may see and the sequence's end."""
    if not task.trims_causal:
        return 0
    distance = tiles - 1 - tile
    if task.topk < 0 and task.rows_per_sequence != 1:
        distance = tiles - remainder(divide(q_begin, task.rows_per_sequence), task.uniform_queries) - 1
    return max(distance, 0)


@inlined
def query_span(
    strays: Table, qo_indptr: Words, task: FastTask, row: int, entry: int, tile: int, tile_queries: int
) -> tuple[int, int]:
    """Query rows [begin, end) of a tile. entry: of qo_indptr, where lengths are read from it: the row, not its sequence."""
    if task.uniform_queries > 0:
        first, limit = task.uniform_queries * row, task.uniform_queries * (row + 1)
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
        return (end, True, Branch.GLUED.value) if remaining < tail_threshold else (end, False, 0)
    if 0 < remaining < tail_threshold or glued:
        return min(kv_end - distance, kv_end), False, Branch.TAIL_TAKEN.value
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
    task: FastTask,
) -> int:
    """Run the planner; returns the branches taken, or ENDLESS. task.heads: after folding; task.topk: in pages."""
    clear(words, written, spans, strays)
    branches = 0
    rows, overhead, page_size, sparse = task.rows, task.overhead, task.page_size, task.topk >= 0
    lengths = np.empty(2 * rows, np.int64)  # KV tokens of each row, then query rows of each row
    granularity = 1 << task.granularity_log2
    blocks_of_all = measure_rows(strays, lengths, qo_indptr, kv_indptr, task)
    store(words, written, spans, REDUCE_INDPTR, 0, 0)
    store(words, written, spans, WORK_INDPTR, 0, 0)
    if task.shares == 0:
        branches |= Branch.DIVISION_BY_ZERO
    payload = divide_up(blocks_of_all, task.shares) + overhead

    row = 0
    row_in_sequence = 0  # position of row in its group of rows_per_sequence rows
    tile = 0
    done_blocks = 0
    pieces = 0  # pieces of this tile recorded so far
    glued = False
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
            tiles = query_tiles(task, queries)
            if task.cuts_queries and tiles == 0:
                return ENDLESS
            tile_queries = divide_up(queries, tiles)
            left = kv_blocks(task, tokens) - done_blocks
            takes_rest = room >= left + overhead or glued
            if not takes_rest and room <= overhead:
                branches |= Branch.NO_ROOM
                break
            taken = left if takes_rest else room - overhead

            q_begin, q_end = query_span(strays, qo_indptr, task, row, entry, tile, tile_queries)
            sequence = divide(entry, task.rows_per_sequence) if sparse else row
            begin = kv_begin + done_blocks * granularity
            if page_size == 1:
                distance = causal_distance(task, tile, tiles, q_begin)
                end, too_short, taken_branch = piece_end(
                    begin, taken * granularity, kv_end, distance, takes_rest, glued, task.tail_threshold
                )
                branches |= taken_branch | (Branch.CAUSAL_TRIM if distance > 0 else 0)
                if too_short:
                    glued = True
                    continue  # this compute unit takes the remainder as well, in the next turn
                offset = kv_end - end
                if sparse and task.rows_per_sequence == 1:
                    offset += task.sparse_queries - 1 - remainder(row, task.sparse_queries)
            else:
                branches |= Branch.PAGED
                end = min(begin + taken * granularity, kv_end)
                offset = offset_in_tokens(strays, kv_last_page_lens, sequence, end, kv_end, page_size)
            branches |= Branch.NO_WORK_LEFT_TO_TAKE if end <= begin else 0
            place = -1 if takes_rest and pieces == 0 else partial
            store_work_item(words, written, spans, items, WorkItem(sequence, place, q_begin, q_end, begin, end, offset))
            items += 1
            if not takes_rest:
                partial += tile_queries
                done_blocks += taken
                pieces += 1
                break

            branches |= (Branch.SPLIT if pieces > 0 else Branch.UNSPLIT) | (Branch.EMPTY_SEQUENCE if tokens == 0 else 0)
            if tiles > 1:
                branches |= Branch.SEVERAL_QUERY_TILES | (Branch.SHORTER_LAST_TILE if q_end - q_begin < tile_queries else 0)
            if pieces > 0:
                write_reduction(words, written, spans, tiles_done, q_begin, q_end, reduced, pieces + 1, partial, tile_queries)
                partial += tile_queries
                reduced += pieces + 1
            store(words, written, spans, REDUCE_INDPTR, tiles_done + 1, reduced)
            tiles_done += 1
            room -= left + overhead
            done_blocks = 0
            tile = 0 if tile == tiles - 1 else tile + 1
            if not task.cuts_queries or tile == 0:
                row += 1
                row_in_sequence = next_in_sequence(task, row_in_sequence)
                if row >= rows:
                    break  # pieces and glued stay, as in the kernel: nothing reads them any more
                if row_in_sequence == 0:
                    tokens = lengths[row]
                    kv_begin = kv_begin + task.topk if sparse else kv_end
                    kv_end = kv_begin + tokens
            pieces = 0
            glued = False
        store(words, written, spans, WORK_INDPTR, unit + 1, items)

    if row < rows:
        branches |= Branch.ROWS_LEFT_OVER
    store_range(words, written, spans, REDUCE_INDPTR, tiles_done, task.reduce_indptr_words, reduced)
    return branches
