"""Planner v1_0, "fake non-persistent": every row is cut into the same number of pieces, as far as its length allows.

Source: csrc/kernels/mla/metadata/v1_0_device.cuh of 2026-06 (2026-08 is the same). Knows neither the host's rules nor what the
plan is used for; see planners/rules.py and planners/__init__.py.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from backend.aiter.planners.branches import Branch
from backend.aiter.planners.memory import (
    KV_INDPTR,
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
from backend.cxx.arithmetic import Marks, Table, Words, clear, divide, remainder, store


class EvenTask(NamedTuple):
    """What v1_0 is launched with. Rows are planned rows; all counts are positive unless said otherwise.

    queries: query rows of a sequence; row_queries: of a planned row. granularity_log2: of KV tokens a block.
    max_split: pieces of a row at most, by the caller. per_query_ends: each row is one query position, with a causal end of its
    own. fixed_pieces: of each row, 0 where its length decides, by tokens_per_piece. short_tail: tokens of a last piece that
    go to the piece before it, at most. lds_words: size of local memory. reduce_indptr_words: of that buffer, which is filled.
    """

    rows: int
    rows_per_sequence: int
    row_queries: int
    queries: int
    granularity_log2: int
    compute_units: int
    max_split: int
    per_query_ends: bool
    fixed_pieces: int
    tokens_per_piece: int
    short_tail: int
    lds_words: int
    reduce_indptr_words: int


@inlined
def lds_read(lds: Table, word: int, lds_words: int) -> int:
    """Local memory past its end reads as 0 (CDNA3 ISA, LDS: out-of-range addresses)."""
    return lds[word] if word < lds_words else 0


@inlined
def row_kv_end(end: int, causal_tail: int, begin: int) -> int:
    """Where a row's KV ends: at its own causal end (causal_tail <= 0), and never before one token."""
    return max(end + causal_tail, begin + 1)


@inlined
def causal_tail(row: int, queries: int, per_query_ends: bool) -> int:
    """Tokens (<= 0) that a row's KV ends before its sequence's, when each row is one query position."""
    return remainder(row, queries) - queries + 1 if per_query_ends else 0


@inlined
def wanted_pieces(tokens: int, per_unit: int, task: EvenTask) -> tuple[int, int]:
    """Pieces that a row is wanted in, and the branch that decided; 0 is possible and divides by zero later."""
    if task.fixed_pieces:
        return task.fixed_pieces, Branch.CAP_FIXED.value
    by_length = divide(tokens, task.tokens_per_piece)
    if by_length <= per_unit and by_length <= task.max_split:
        return by_length, Branch.CAP_BY_LENGTH.value
    if per_unit <= task.max_split:
        return per_unit, Branch.CAP_BY_COMPUTE_UNITS.value
    return task.max_split, Branch.CAP_BY_ARGUMENT.value


@compiled
def cut_rows(strays: Table, lds: Table, kv_indptr: Words, task: EvenTask) -> int:
    """First pass: pieces and blocks a piece of each row, end of each sequence, into local memory; returns branches."""
    rows = task.rows
    granularity = 1 << task.granularity_log2
    per_unit = divide(task.compute_units + rows - 1, rows)
    branches = 0
    for row in range(rows):
        sequence = divide(row, task.rows_per_sequence)
        begin = load(kv_indptr, sequence, strays, KV_INDPTR)
        end = load(kv_indptr, sequence + 1, strays, KV_INDPTR)
        tail_shift = causal_tail(row, task.queries, task.per_query_ends)
        if end == begin:
            branches |= Branch.EMPTY_SEQUENCE
        if end + tail_shift < begin + 1:
            branches |= Branch.KV_END_FORCED
        end = row_kv_end(end, tail_shift, begin)
        tokens = end - begin
        blocks = (tokens + granularity - 1) >> task.granularity_log2
        wanted, decided = wanted_pieces(tokens, per_unit, task)
        branches |= decided
        piece_blocks = divide_up(blocks, wanted)
        if wanted == 0 or piece_blocks == 0:
            branches |= Branch.DIVISION_BY_ZERO
        pieces = divide_up(blocks, piece_blocks)
        tail = remainder(tokens, piece_blocks * granularity)
        if tail <= task.short_tail and tail != 0 and pieces > 1:
            pieces -= 1
            branches |= Branch.SHORT_TAIL_JOINED
        branches |= Branch.NO_PIECE if pieces <= 0 else (Branch.UNSPLIT if pieces == 1 else Branch.SPLIT)
        lds[rows + row] = pieces
        lds[2 * rows + row] = piece_blocks
        lds[3 * rows + sequence + 1] = end
    lds[0] = 0
    lds[3 * rows] = 0
    for row in range(1, rows):
        lds[row] = lds_read(lds, row - 1, task.lds_words) + lds_read(lds, rows + row - 1, task.lds_words)
    return branches


@compiled
def write_row(words: Words, written: Marks, spans: Table, lds: Table, task: EvenTask, row: int) -> None:
    """Second pass for one row: its work items and its entries for the reduction."""
    rows, lds_words = task.rows, task.lds_words
    sequence = divide(row, task.rows_per_sequence)
    begin = lds_read(lds, 3 * rows + sequence, lds_words)
    end_of_sequence = lds_read(lds, 3 * rows + sequence + 1, lds_words)
    end = row_kv_end(end_of_sequence, causal_tail(row, task.queries, task.per_query_ends), begin)
    first_item, pieces = lds_read(lds, row, lds_words), lds_read(lds, rows + row, lds_words)
    piece_tokens = lds_read(lds, 2 * rows + row, lds_words) << task.granularity_log2
    row_queries = task.row_queries
    q_begin, q_end = 0, 0  # what a row without any piece leaves in final_map
    for piece in range(pieces):
        item = first_item + piece
        partial = -1 if pieces == 1 else item * row_queries
        q_begin = row * row_queries
        q_end = q_begin + row_queries
        kv_begin = begin + piece * piece_tokens
        kv_end = min(kv_begin + piece_tokens, end)
        offset = end - kv_end
        if offset <= task.short_tail and pieces > 1:
            kv_end, offset = end, 0
        store_work_item(words, written, spans, item, WorkItem(row, partial, q_begin, q_end, kv_begin, kv_end, offset))
        store(words, written, spans, REDUCE_PARTIAL_MAP, item, partial)
    store(words, written, spans, REDUCE_INDPTR, row + 1, first_item + pieces)
    store(words, written, spans, REDUCE_FINAL_MAP, 2 * row, q_begin)
    store(words, written, spans, REDUCE_FINAL_MAP, 2 * row + 1, q_end)


@compiled
def deal_work(words: Words, written: Marks, spans: Table, total: int, compute_units: int) -> int:
    """Deal `total` work items to the compute units, one more to each of the first ones; returns branches."""
    each, rest = divide(total, compute_units), remainder(total, compute_units)
    for unit in range(1, rest):
        store(words, written, spans, WORK_INDPTR, unit, min(unit * (each + 1), total))
    dealt = rest * (each + 1)
    for unit in range(rest, compute_units + 1):
        store(words, written, spans, WORK_INDPTR, unit, dealt + (unit - rest) * each)
    return Branch.DEALT_EVENLY.value if rest == 0 else Branch.DEALT_UNEVENLY.value


@compiled
def plan_v1_0(words: Words, written: Marks, spans: Table, strays: Table, kv_indptr: Words, task: EvenTask) -> int:
    """Run the planner; returns the branches taken."""
    clear(words, written, spans, strays)
    rows, lds_words = task.rows, task.lds_words
    lds = np.empty(4 * rows + 2, np.int64)  # first item, pieces, blocks a piece for each row; end of each sequence
    store(words, written, spans, REDUCE_INDPTR, 0, 0)
    store(words, written, spans, WORK_INDPTR, 0, 0)
    branches = cut_rows(strays, lds, kv_indptr, task)
    if 3 * rows + divide(rows - 1, task.rows_per_sequence) + 2 > lds_words:
        branches |= Branch.LDS_OVERFLOW
    total = lds_read(lds, rows - 1, lds_words) + lds_read(lds, 2 * rows - 1, lds_words)
    for row in range(rows):
        write_row(words, written, spans, lds, task, row)
    branches |= deal_work(words, written, spans, total, task.compute_units)
    store_range(words, written, spans, REDUCE_INDPTR, rows, task.reduce_indptr_words, total)
    return branches
