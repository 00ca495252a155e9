"""Planner v1_2, parallel path of release 2026-08: one wave scans the rows, eight waves write them.

Source: kn_get_mla_metadata_v1_2_parallel in csrc/kernels/mla/metadata/v1_2_device.cuh. It runs for one query a row, page
size 1, no folding, no sparse attention. Its waves never write different values to one word, so that their order does not
matter; here one row is scanned and written after the other.
"""

from __future__ import annotations

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
    load,
    store_range,
    store_work_item,
)
from backend.aiter.planners.v1_2 import FastTask, kv_blocks, open_plan, query_rows
from backend.cxx.arithmetic import Marks, Table, Words, clear, i32, store


@compiled
def plan_v1_2_parallel(
    words: Words, written: Marks, spans: Table, strays: Table, qo_indptr: Words, kv_indptr: Words, task: FastTask
) -> int:
    """Run the planner; returns the branches taken."""
    clear(words, written, spans, strays)
    rows, overhead, compute_units = task.rows, task.overhead, task.compute_units
    granularity = 1 << task.granularity_log2
    start = load(kv_indptr, 0, strays, KV_INDPTR)
    blocks_of_all = 0
    for row in range(rows):
        tokens = load(kv_indptr, row + 1, strays, KV_INDPTR) - load(kv_indptr, row, strays, KV_INDPTR)
        blocks_of_all = i32(blocks_of_all + kv_blocks(task, tokens) + overhead)
    payload, branches = open_plan(words, written, spans, task, blocks_of_all)
    branches |= Branch.PARALLEL
    share = payload - overhead  # blocks that a compute unit of its own takes

    unit = 0
    room = payload
    items = 0
    reduced = 0
    partial = 0
    closed = 0  # entries of work_indptr that a closed unit has set; they follow one another from entry 1 on
    for row in range(rows):
        begin = load(kv_indptr, row, strays, KV_INDPTR) - start
        end = load(kv_indptr, row + 1, strays, KV_INDPTR) - start
        blocks = kv_blocks(task, end - begin)
        q_begin, q_end = query_rows(strays, qo_indptr, task, row, row)
        branches |= Branch.EMPTY_SEQUENCE if end == begin else 0

        fits = blocks + overhead <= room
        wasted = not fits and room <= overhead  # nothing fits: the row starts on the next unit
        first_blocks = blocks if fits else (0 if wasted else room - overhead)
        fresh = 0 if fits else divide_up(blocks - first_blocks, share)  # pieces on units of their own
        pieces = fresh if wasted else fresh + 1
        if wasted:
            branches |= Branch.NO_ROOM
            if unit < compute_units:
                store(words, written, spans, WORK_INDPTR, unit + 1, items)
                closed = unit + 1
        branches |= Branch.EMPTY_DROPPED if pieces <= 0 else (Branch.SPLIT if pieces > 1 else Branch.UNSPLIT)

        done = 0
        for piece in range(pieces):
            last = piece == pieces - 1
            taken = blocks - done if last else (first_blocks if piece == 0 and not wasted else share)
            kv_begin = begin + done * granularity
            kv_end = min(begin + (done + taken) * granularity, end)
            place = partial + piece * (q_end - q_begin) if pieces > 1 else -1
            store_work_item(
                words, written, spans, items + piece, WorkItem(row, place, q_begin, q_end, kv_begin, kv_end, end - kv_end)
            )
            if pieces > 1:
                store(words, written, spans, REDUCE_PARTIAL_MAP, reduced + piece, place)
            on_unit = unit + piece + (1 if wasted else 0)
            if not last and on_unit < compute_units:
                store(words, written, spans, WORK_INDPTR, on_unit + 1, items + piece + 1)
                closed = on_unit + 1
            done += taken

        items += pieces
        if pieces > 1:
            reduced += pieces
            partial += pieces * (q_end - q_begin)
            store(words, written, spans, REDUCE_FINAL_MAP, 2 * row, q_begin)
            store(words, written, spans, REDUCE_FINAL_MAP, 2 * row + 1, q_end)
        store(words, written, spans, REDUCE_INDPTR, row + 1, reduced)
        unit += fresh
        if fits:
            room -= blocks + overhead
        else:
            room = payload - (blocks - first_blocks - (fresh - 1) * share + overhead)

    store_range(words, written, spans, WORK_INDPTR, closed + 1, compute_units + 1, items)
    store_range(words, written, spans, REDUCE_INDPTR, rows, task.reduce_indptr_words, reduced)
    if unit >= compute_units:
        branches |= Branch.ROWS_LEFT_OVER
    elif unit < compute_units - 1:
        branches |= Branch.COMPUTE_UNITS_LEFT_IDLE
    return branches
