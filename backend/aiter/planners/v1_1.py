"""Planner v1_1, greedy: rows by descending cost, each tile to the compute unit that has the least to do.

Source: csrc/kernels/mla/metadata/v1_1_device.cuh and v1_comm.cuh (all three releases are the same). The kernel runs its loop
twice, to count and to write; both passes do the same, so here it runs once. Knows neither the host's rules nor what the plan
is used for.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from backend.aiter.planners.branches import Branch
from backend.aiter.planners.memory import (
    KV_INDPTR,
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
from backend.cxx.arithmetic import Marks, Table, Words, clear, divide, i32, store

PACKED_ROWS = 128
"""(head, query) rows of a tile (kPackedQoLenPerWg)."""
SPLIT_TOLERANCE = 16
"""KV tokens by which a piece may exceed its limit rather than leave a remainder (kSplitTolerance)."""
WAVE = 64


_NO_ENTRY = 0x7FFFFFFF


class GreedyTask(NamedTuple):
    """What v1_1 is launched with. Rows are planned rows.

    uniform_queries: query rows of a planned row, < 1 to read qo_indptr. sparse_queries: rows of a sequence under sparse
    attention, 1 otherwise. topk: tokens, < 0: not sparse. heads: after folding. granularity: KV tokens.
    reduce_indptr_words: of that buffer, which is filled to its end.
    """

    rows: int
    rows_per_sequence: int
    uniform_queries: int
    sparse_queries: int
    topk: int
    heads: int
    is_causal: bool
    granularity: int
    compute_units: int
    reduce_indptr_words: int


@inlined
def causal_length(queries: int, tokens: int, tile: int, packed_tile: int, tiles: int, heads: int, is_causal: bool) -> int:
    """KV tokens that the last query of a tile may see."""
    if not is_causal or tile >= tiles:
        return tokens
    return min(tokens - queries + divide_up((tile + 1) * packed_tile, heads), tokens)


@compiled
def workload_limit(rows: int, workload: int, units: int, row_queries: int, granularity: int) -> int:
    """Cost up to which a compute unit takes pieces; float32, each operation rounded (a fused multiply-add could differ)."""
    overhead = 2 * (2 * row_queries + 1) - (2 * row_queries + 2)
    average = max(divide_up(i32(workload - overhead * rows), units), 1)
    limit = average
    if average <= 8:
        limit = 32
    elif average <= 16:
        limit = 64
    elif average <= 32:
        limit = 128
    elif average <= 64:
        limit = 192
    hundredth = np.float32(0.01)
    amplifier = np.float32(rows) * hundredth + np.float32(average) * hundredth + np.float32(10.0)
    cost = np.float32(2 * row_queries + limit) + np.float32(overhead) * amplifier
    return divide_up(int(cost), granularity) * granularity


@inlined
def exchange(keys: Table, low: int, high: int, ascending: bool) -> None:
    """Put two rows in order by their cost, which is the upper half of a key; equal ones change places in descending order."""
    first, second = keys[low], keys[high]
    if ((first >> 32) > (second >> 32)) == ascending:
        keys[low], keys[high] = second, first


@compiled
def sort_rows(costs: Table, rows: int) -> npt.NDArray[np.int64]:
    """Order of the rows, dear ones first, by the kernel's bitonic network of one wave; its padding has cost 0.

    In the building stages a wave does all strides for its first 64 pairs before it turns to the next 64, although
    those strides cross: above 256 rows the result is not sorted, and what it is then is reproduced.
    """
    padded = WAVE
    while padded < rows:
        padded *= 2
    keys = np.empty(padded, np.int64)
    for row in range(padded):
        keys[row] = ((i32(costs[row]) << 32) if row < rows else 0) | row
    pairs = padded // 2
    size = 2
    while size < padded:
        for first in range(0, pairs, WAVE):
            stride = size // 2
            while stride > 0:
                for pair in range(first, min(first + WAVE, pairs)):
                    low = 2 * pair - (pair & (stride - 1))
                    exchange(keys, low, low + stride, (pair & (size // 2)) == 0)
                stride //= 2
        size *= 2
    stride = padded // 2
    while stride > 0:
        for pair in range(pairs):
            low = 2 * pair - (pair & (stride - 1))
            exchange(keys, low, low + stride, False)
        stride //= 2
    for row in range(padded):
        keys[row] &= 0xFFFFFFFF
    return keys


@compiled
def least_loaded_tree(loads: Table) -> npt.NDArray[np.int64]:
    """Tournament of idle compute units: element 1 is the least loaded one, the lowest number among equals.

    loads: cost of each unit; its size is a power of two, with _NO_ENTRY for units that there are not.
    """
    leaves = loads.size
    winners = np.empty(2 * leaves, np.int64)
    for unit in range(leaves):
        winners[leaves + unit] = unit
    for node in range(leaves - 1, 0, -1):
        play(winners, loads, node)
    return winners


@inlined
def play(winners: Table, loads: Table, node: int) -> None:
    """Decide one match of the tournament anew."""
    left, right = winners[2 * node], winners[2 * node + 1]
    winners[node] = left if loads[left] <= loads[right] else right


@inlined
def is_split(tokens: int, room: int) -> tuple[bool, int]:
    """Whether a tile is planned as split, judged before its first piece is cut; and the branch taken."""
    estimated = divide_up(tokens, room)
    if estimated == 2:
        tolerated = tokens - room <= SPLIT_TOLERANCE
        return not tolerated, (Branch.TWO_PIECES_TOLERATED.value if tolerated else 0)
    return estimated > 1, 0


@compiled
def grown(pieces: Table) -> npt.NDArray[np.int64]:
    """The same table with room for twice as many."""
    larger = np.empty((2 * pieces.shape[0], pieces.shape[1]), np.int64)
    for piece in range(pieces.shape[0]):
        for column in range(pieces.shape[1]):
            larger[piece, column] = pieces[piece, column]
    return larger


@compiled
def deal_tile(
    loads: Table,
    winners: Table,
    counts: Table,
    pieces: Table,
    first_piece: int,
    tokens: int,
    packed_tile: int,
    limit: int,
    units: int,
    granularity: int,
) -> tuple[int, bool, int]:
    """Cut a tile's KV into pieces for the least-loaded units.

    pieces: [capacity, 3] table of (unit, kv begin within the sequence, kv end), filled from first_piece on; a tile has at most
    `units` pieces, because none is shorter than its share. Returns the number after the last piece, whether the tile
    is split, branches.
    """
    floor = divide_up(divide_up(tokens, units), granularity) * granularity
    split, branches = is_split(tokens, max(limit - loads[winners[1]] - 2 * packed_tile, floor))
    piece = first_piece
    begin = 0
    left = tokens
    while True:
        unit = winners[1]
        room = limit - loads[unit] - 2 * packed_tile
        if room <= floor:
            room = floor
            branches |= Branch.FLOOR_BOUND
        if left > room and left - room <= SPLIT_TOLERANCE:
            room = left
            branches |= Branch.REMAINDER_ABSORBED
        taken = min(left, room)
        loads[unit] = i32(loads[unit] + 2 * packed_tile + taken)
        node = (loads.size + unit) >> 1
        while node > 0:
            play(winners, loads, node)
            node >>= 1
        pieces[piece, 0] = unit
        pieces[piece, 1] = begin
        pieces[piece, 2] = begin + taken
        counts[unit] += 1
        piece += 1
        left -= taken
        begin += taken
        if left <= 0:
            break
    if split != (piece - first_piece > 1):
        branches |= Branch.ESTIMATE_MISSED
    return piece, split, branches


@compiled
def measure_rows(
    strays: Table, qo_indptr: Words, kv_indptr: Words, task: GreedyTask
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """KV tokens and query rows of each row by the indptr arrays."""
    tokens = np.empty(task.rows, np.int64)
    queries = np.empty(task.rows, np.int64)
    for row in range(task.rows):
        sequence = divide(divide(row, task.sparse_queries), task.rows_per_sequence)
        kv_end = load(kv_indptr, sequence + 1, strays, KV_INDPTR)
        tokens[row] = i32(kv_end - load(kv_indptr, sequence, strays, KV_INDPTR))
        if task.topk >= 0:
            tokens[row] = min(tokens[row], task.topk)
        q_end = load(qo_indptr, sequence + 1, strays, QO_INDPTR)
        queries[row] = i32(q_end - load(qo_indptr, sequence, strays, QO_INDPTR))
    return tokens, queries


class Tile(NamedTuple):
    """Where a tile's pieces go. row: planned row; kv_first, kv_limit: its KV. partial: first partial row, -1: not split."""

    row: int
    q_begin: int
    q_end: int
    kv_first: int
    kv_limit: int
    partial: int


@inlined
def write_tile(
    words: Words, written: Marks, spans: Table, places: Table, pieces: Table, begin: int, end: int, tile: Tile
) -> None:
    """Work items of one tile: pieces [begin, end), each to the next free place of its unit."""
    for piece in range(begin, end):
        unit = pieces[piece, 0]
        kv_begin = tile.kv_first + pieces[piece, 1]
        kv_end = tile.kv_first + pieces[piece, 2]
        place = tile.partial + (piece - begin) * (tile.q_end - tile.q_begin) if tile.partial >= 0 else -1
        item = WorkItem(tile.row, place, tile.q_begin, tile.q_end, kv_begin, kv_end, tile.kv_limit - kv_end)
        store_work_item(words, written, spans, places[unit], item)
        places[unit] += 1


@compiled
def write_reduction(words: Words, written: Marks, spans: Table, tiles: Table, all_tiles: int, reduce_indptr_words: int) -> None:
    """What mla_reduce_v1 reads. tiles: [all_tiles, 4] of (q_begin, q_end, first partial row, end of partial rows)."""
    reduced = 0
    for tile in range(all_tiles):
        q_begin, q_end = tiles[tile, 0], tiles[tile, 1]
        rows = 0 if q_begin == -1 else q_end - q_begin
        entries = 0 if rows == 0 else divide(tiles[tile, 3] - tiles[tile, 2], rows)
        for entry in range(entries):
            store(words, written, spans, REDUCE_PARTIAL_MAP, reduced + entry, tiles[tile, 2] + entry * rows)
        reduced += entries
        store(words, written, spans, REDUCE_INDPTR, tile + 1, reduced)
        store(words, written, spans, REDUCE_FINAL_MAP, 2 * tile, q_begin)
        store(words, written, spans, REDUCE_FINAL_MAP, 2 * tile + 1, q_end)
    store_range(words, written, spans, REDUCE_INDPTR, all_tiles + 1, reduce_indptr_words, reduced)
    store(words, written, spans, REDUCE_INDPTR, 0, 0)


class PlannedRows(NamedTuple):
    """Planned rows. order: as they are dealt; tokens, queries: of each row; first_tile: number of each row's first tile, and of
    the one behind the last; packed_rows: (head, query) rows of a tile."""

    order: Table
    tokens: Table
    queries: Table
    first_tile: Table
    packed_rows: int


class DealtPieces(NamedTuple):
    """The tiles' pieces. counts: of each compute unit; pieces: see `deal_tile`; piece_end: number behind a tile's last piece,
    in dealing order, after a leading 0; split: whether the tile has several, in that order too."""

    counts: Table
    pieces: Table
    piece_end: Table
    split: npt.NDArray[np.bool_]


@inlined
def measure_tiles(tokens: Table, queries: Table, packed_rows: int, task: GreedyTask) -> tuple[Table, int]:
    """Number of each row's first tile (and of the one behind the last), and the cost of all tiles."""
    first_tile = np.empty(task.rows + 1, np.int64)
    first_tile[0] = 0
    workload = 0
    for row in range(task.rows):
        packed = queries[row] * task.heads
        tiles = divide_up(packed, packed_rows)
        packed_tile = min(packed, packed_rows)
        for tile in range(tiles):
            visible = causal_length(queries[row], tokens[row], tile, packed_tile, tiles, task.heads, task.is_causal)
            workload = i32(workload + 2 * packed_tile + visible)
        first_tile[row + 1] = first_tile[row] + max(tiles, 0)
    return first_tile, workload


@inlined
def deal_rows(rows: PlannedRows, units: int, limit: int, task: GreedyTask) -> tuple[DealtPieces, int]:
    """Each tile to the compute unit that has the least to do, cut where that is too much; and the branches taken."""
    all_tiles = rows.first_tile[task.rows]
    leaves = 1
    while leaves < units:
        leaves *= 2
    loads = np.zeros(leaves, np.int64)
    for absent in range(units, leaves):
        loads[absent] = _NO_ENTRY
    winners = least_loaded_tree(loads)
    counts = np.zeros(units, np.int64)
    pieces = np.empty((all_tiles + 2 * units, 3), np.int64)
    piece_end = np.empty(all_tiles + 1, np.int64)
    piece_end[0] = 0
    tiles_split = np.empty(all_tiles, np.bool_)
    dealt = branches = 0
    for row in rows.order[: task.rows]:
        queries, tokens = rows.queries[row], rows.tokens[row]
        packed_tile = min(queries * task.heads, rows.packed_rows)
        tiles = rows.first_tile[row + 1] - rows.first_tile[row]
        branches |= (Branch.EMPTY_SEQUENCE if tokens == 0 else 0) | (Branch.SEVERAL_QUERY_TILES if tiles > 1 else 0)
        for tile in range(tiles):
            visible = causal_length(queries, tokens, tile, packed_tile, tiles, task.heads, task.is_causal)
            if piece_end[dealt] + units > pieces.shape[0]:
                pieces = grown(pieces)
            end, split, taken = deal_tile(
                loads, winners, counts, pieces, piece_end[dealt], visible, packed_tile, limit, units, task.granularity
            )
            branches |= taken | (Branch.SPLIT if split else Branch.UNSPLIT) | (Branch.CAUSAL_TRIM if visible < tokens else 0)
            piece_end[dealt + 1] = end
            tiles_split[dealt] = split
            dealt += 1
    return DealtPieces(counts, pieces, piece_end, tiles_split), branches


@inlined
def write_work_indptr(words: Words, written: Marks, spans: Table, counts: Table) -> tuple[Table, int]:
    """First work item of each compute unit, written and given back; and the branches taken."""
    units = counts.size
    store(words, written, spans, WORK_INDPTR, 0, 0)
    places = np.empty(units, np.int64)
    items = branches = 0
    for unit in range(units):
        places[unit] = items
        items += counts[unit]
        store(words, written, spans, WORK_INDPTR, unit + 1, items)
        branches |= Branch.COMPUTE_UNITS_LEFT_IDLE if counts[unit] == 0 else 0
    return places, branches


@compiled
def plan_v1_1(
    words: Words, written: Marks, spans: Table, strays: Table, qo_indptr: Words, kv_indptr: Words, task: GreedyTask
) -> int:
    """Run the planner; returns the branches taken, or -1 where the sort hands out a row that does not exist."""
    clear(words, written, spans, strays)
    rows, heads, uniform_queries, sparse = task.rows, task.heads, task.uniform_queries, task.topk >= 0
    branches = 0
    tokens, queries = measure_rows(strays, qo_indptr, kv_indptr, task)
    all_queries = 0
    for row in range(rows):
        all_queries = i32(all_queries + queries[row])
    cluster = min(divide_up(divide(all_queries, rows), PACKED_ROWS), 1)
    units = divide(task.compute_units, cluster)
    packed_rows = cluster * PACKED_ROWS
    if cluster == 0:
        branches |= Branch.DIVISION_BY_ZERO
    order = sort_rows(2 * queries + tokens, rows)
    if rows > 4 * WAVE:
        branches |= Branch.UNSORTED
    for place in range(rows):
        if order[place] >= rows:
            return -1
        if uniform_queries > 0:
            queries[place] = uniform_queries  # the sort goes by qo_indptr, all else by the uniform length

    first_tile, workload = measure_tiles(tokens, queries, packed_rows, task)
    limit_queries = uniform_queries if uniform_queries > 0 else packed_rows
    limit = workload_limit(rows, workload, units, limit_queries, task.granularity)
    found, taken = deal_rows(PlannedRows(order, tokens, queries, first_tile, packed_rows), units, limit, task)
    places, idle = write_work_indptr(words, written, spans, found.counts)
    branches |= taken | idle

    reductions = np.empty((first_tile[rows], 4), np.int64)
    partial = 0
    dealt = 0
    for row in order[:rows]:
        sequence = divide(row, task.rows_per_sequence)
        kv_first = sequence * task.topk if sparse else load(kv_indptr, sequence, strays, KV_INDPTR)
        if uniform_queries > 0:
            q_first = uniform_queries * row
        else:
            q_first = load(qo_indptr, divide(row, task.sparse_queries), strays, QO_INDPTR)
        tile_queries = divide_up(min(queries[row] * heads, packed_rows), heads)
        for tile in range(first_tile[row + 1] - first_tile[row]):
            q_begin = q_first + tile * tile_queries
            q_end = min(q_begin + tile_queries, q_first + queries[row])
            branches |= Branch.SHORTER_LAST_TILE if q_end - q_begin < tile_queries else 0
            begin, end = found.piece_end[dealt], found.piece_end[dealt + 1]
            place = partial if found.split[dealt] else -1
            dealt_tile = Tile(row, q_begin, q_end, kv_first, kv_first + tokens[row], place)
            write_tile(words, written, spans, places, found.pieces, begin, end, dealt_tile)
            entry = reductions[first_tile[row] + tile]
            entry[0], entry[1], entry[2], entry[3] = -1, -2, -1, -2
            if found.split[dealt]:
                entry[0], entry[1], entry[2] = q_begin, q_end, partial
                partial += (end - begin) * (q_end - q_begin)
                entry[3] = partial
            else:
                branches |= Branch.FINAL_MAP_UNSPLIT
            dealt += 1
    write_reduction(words, written, spans, reductions, first_tile[rows], task.reduce_indptr_words)
    return branches
