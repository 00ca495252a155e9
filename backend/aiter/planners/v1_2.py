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
def packed_tiles(task: FastTask, queries: int) -> int:
    """Tiles that a row is cut into along its queries, (head, query) rows packed."""
    return (i32(queries * task.heads) + (1 << task.packed_log2) - 1) >> task.packed_log2 if task.cuts_queries else 1


@inlined
def query_tiles(task: FastTask, queries: int) -> int:
    """The same from 2026-06 on: where two queries are more than a tile, one fits, and packing would give too few for 96 or 112
    heads."""
    if task.cuts_queries and 2 * task.heads > 1 << task.packed_log2:
        return queries
    return packed_tiles(task, queries)


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
def next_row(task: FastTask, lengths: Table, row: int, in_sequence: int, kv_begin: int, kv_end: int) -> tuple[int, int, int]:
    """Position of `row` in its group of rows_per_sequence rows, and its KV; those of the row before are given."""
    if in_sequence < task.rows_per_sequence - 1 or row >= task.rows:
        return in_sequence + 1, kv_begin, kv_end
    begin = kv_begin + task.topk if task.topk >= 0 else kv_end
    return 0, begin, begin + lengths[row]


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
def query_rows(strays: Table, qo_indptr: Words, task: FastTask, row: int, entry: int) -> tuple[int, int]:
    """Query rows [begin, end) of a row. entry: of qo_indptr, where they are read from it: the row, not its sequence."""
    if task.uniform_queries > 0:
        return task.uniform_queries * row, task.uniform_queries * (row + 1)
    return load(qo_indptr, entry, strays, QO_INDPTR), load(qo_indptr, entry + 1, strays, QO_INDPTR)


class QueryTile(NamedTuple):
    """A tile of a row that is being planned.

    sequence: whose KV it is, as a work item says it. tiles: of the row. rows: query rows of a whole tile; q_begin, q_end: those
    of this one, end exclusive.
    """

    row: int
    sequence: int
    number: int
    tiles: int
    rows: int
    q_begin: int
    q_end: int


@inlined
def open_plan(words: Words, written: Marks, spans: Table, task: FastTask, blocks: int) -> tuple[int, int]:
    """Begin both index lists; the blocks that a compute unit takes, overhead included, and the branches taken."""
    store(words, written, spans, REDUCE_INDPTR, 0, 0)
    store(words, written, spans, WORK_INDPTR, 0, 0)
    branches = Branch.DIVISION_BY_ZERO.value if task.shares == 0 else 0
    return divide_up(blocks, task.shares) + task.overhead, branches


@inlined
def queries_of(task: FastTask, lengths: Table, row: int) -> int:
    """Query rows of a planned row; `lengths` as measure_row left it."""
    return task.uniform_queries if task.uniform_queries > 0 else lengths[task.rows + divide(row, task.sparse_queries)]


@inlined
def tile_of(strays: Table, qo_indptr: Words, task: FastTask, row: int, number: int, queries: int, tiles: int) -> QueryTile:
    """QueryTile `number` of the `tiles` that a row of `queries` query rows is cut into."""
    entry, rows = divide(row, task.sparse_queries), divide_up(queries, tiles)
    first, limit = query_rows(strays, qo_indptr, task, row, entry)
    begin = first + number * rows
    sequence = divide(entry, task.rows_per_sequence) if task.topk >= 0 else row
    return QueryTile(row, sequence, number, tiles, rows, begin, min(begin + rows, limit))


@inlined
def ran_out(task: FastTask, row: int) -> int:
    """The branch of a plan that ends at `row`, for want of compute units where that is not behind the last."""
    return Branch.ROWS_LEFT_OVER.value if row < task.rows else 0


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
def end_and_offset(
    strays: Table,
    kv_last_page_lens: Words,
    task: FastTask,
    tile: QueryTile,
    begin: int,
    length: int,
    kv_end: int,
    takes_rest: bool,
    glued: bool,
) -> tuple[int, int, bool, int]:
    """Where a piece of at most `length` tokens ends, its kv_offset, whether it is too short to be recorded, the branches."""
    if task.page_size != 1:
        end = min(begin + length, kv_end)
        offset = offset_in_tokens(strays, kv_last_page_lens, tile.sequence, end, kv_end, task.page_size)
        return end, offset, False, Branch.PAGED.value
    distance = causal_distance(task, tile.number, tile.tiles, tile.q_begin)
    end, too_short, branches = piece_end(begin, length, kv_end, distance, takes_rest, glued, task.tail_threshold)
    offset = kv_end - end
    if task.topk >= 0 and task.rows_per_sequence == 1:
        offset += task.sparse_queries - 1 - remainder(tile.row, task.sparse_queries)
    return end, offset, too_short, branches | (Branch.CAUSAL_TRIM.value if distance > 0 else 0)


@inlined
def row_branches(pieces: int, tokens: int) -> int:
    """The branches of what is done. pieces: that were recorded before the last; tokens: KV tokens of its row."""
    return (Branch.SPLIT.value if pieces > 0 else Branch.UNSPLIT.value) | (Branch.EMPTY_SEQUENCE.value if tokens == 0 else 0)


@inlined
def cut_branches(tile: QueryTile) -> int:
    """The branches of a tile that is done, where its row is cut into several."""
    shorter = Branch.SHORTER_LAST_TILE.value if tile.q_end - tile.q_begin < tile.rows else 0
    return Branch.SEVERAL_QUERY_TILES.value | shorter if tile.tiles > 1 else 0


@inlined
def write_reduction(
    words: Words,
    written: Marks,
    spans: Table,
    number: int,
    tile: QueryTile,
    first: int,
    entries: int,
    last_partial: int,
    apart: int,
) -> None:
    """A split tile's entries: where its rows end up, and the partial rows of its pieces, `apart` rows from each other.

    number: of the tile among all; first: of its `entries` entries; last_partial: the partial row of the last piece.
    """
    store(words, written, spans, REDUCE_FINAL_MAP, 2 * number, tile.q_begin)
    store(words, written, spans, REDUCE_FINAL_MAP, 2 * number + 1, tile.q_end)
    for entry in range(entries):
        row = last_partial - (entries - 1 - entry) * apart
        store(words, written, spans, REDUCE_PARTIAL_MAP, first + entry, row)


@inlined
def finish_tile(
    words: Words, written: Marks, spans: Table, number: int, tile: QueryTile, pieces: int, reduced: int, partial: int
) -> tuple[int, int]:
    """The entries of a tile whose last piece, behind `pieces` others, is recorded; entries and partial rows there are then."""
    if pieces > 0:
        write_reduction(words, written, spans, number, tile, reduced, pieces + 1, partial, tile.rows)
        partial += tile.rows
        reduced += pieces + 1
    store(words, written, spans, REDUCE_INDPTR, number + 1, reduced)
    return reduced, partial


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
    rows, overhead = task.rows, task.overhead
    lengths = np.empty(2 * rows, np.int64)  # KV tokens of each row, then query rows of each row
    blocks_of_all = measure_rows(strays, lengths, qo_indptr, kv_indptr, task)
    payload, branches = open_plan(words, written, spans, task, blocks_of_all)

    row = 0
    row_in_sequence = 0  # position of row in its group of rows_per_sequence rows
    number = 0  # of the tile that is next, within its row
    done_blocks = 0
    pieces = 0  # pieces of this tile recorded so far
    glued = False
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
            tiles = query_tiles(task, queries)
            if task.cuts_queries and tiles == 0:
                return ENDLESS
            left = kv_blocks(task, kv_end - kv_begin) - done_blocks
            takes_rest = room >= left + overhead or glued
            if not takes_rest and room <= overhead:
                branches |= Branch.NO_ROOM
                break
            taken = left if takes_rest else room - overhead

            tile = tile_of(strays, qo_indptr, task, row, number, queries, tiles)
            begin = kv_begin + (done_blocks << task.granularity_log2)
            end, offset, too_short, taken_branches = end_and_offset(
                strays, kv_last_page_lens, task, tile, begin, taken << task.granularity_log2, kv_end, takes_rest, glued
            )
            branches |= taken_branches
            if too_short:
                glued = True
                continue  # this compute unit takes the remainder as well, in the next turn
            branches |= Branch.NO_WORK_LEFT_TO_TAKE if end <= begin else 0
            place = -1 if takes_rest and pieces == 0 else partial
            item = WorkItem(tile.sequence, place, tile.q_begin, tile.q_end, begin, end, offset)
            store_work_item(words, written, spans, items, item)
            items += 1
            if not takes_rest:
                partial += tile.rows
                done_blocks += taken
                pieces += 1
                break

            branches |= row_branches(pieces, kv_end - kv_begin) | cut_branches(tile)
            reduced, partial = finish_tile(words, written, spans, tiles_done, tile, pieces, reduced, partial)
            tiles_done += 1
            room -= left + overhead
            done_blocks = 0
            number = 0 if number == tiles - 1 else number + 1
            if not task.cuts_queries or number == 0:
                row += 1
                row_in_sequence, kv_begin, kv_end = next_row(task, lengths, row, row_in_sequence, kv_begin, kv_end)
            pieces = 0
            glued = False
        store(words, written, spans, WORK_INDPTR, unit + 1, items)

    store_range(words, written, spans, REDUCE_INDPTR, tiles_done, task.reduce_indptr_words, reduced)
    return branches | ran_out(task, row)
