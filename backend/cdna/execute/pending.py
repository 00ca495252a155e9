"""Answers of memory on their way, for the timed schedule: queued when an instruction issues, delivered when they are due.

A queue keeps its order, as LDS and vector memory do, and counts what s_waitcnt counts: stores too. Data are taken when the
instruction issues; registers and, for LDS-DMA, LDS change when the answer arrives.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from backend.cdna.execute import layout as at
from backend.cdna.execute.lanes import (
    rows_of,
    scalar_pair,
    scalars_of,
    set_scalar_pair,
    unsigned_words_at,
    words_at,
)
from backend.cdna.execute.native import inlined, view_u32

R = at.RESULT_ROWS


@inlined
def dma_stride(dwords: int) -> int:
    """Bytes of LDS from one lane's dwords of an LDS-DMA to the next lane's."""
    return 16 if dwords == 3 else 4 * dwords


@inlined
def queue_number(scalars: Any, queue: int) -> int:
    """Gives the index of a wave's queue among all queues."""
    return np.int64(scalars[at.WAVE_INDEX]) * at.QUEUES + queue


@inlined
def queue_head(context: Any, number: int) -> Any:
    """Views the head of a queue, uint64 [2]: first entry, number of entries."""
    return unsigned_words_at(context[at.CTX_PENDING_HEADS] + number * at.PENDING_HEAD_BYTES, 2)


@inlined
def queue_entry(context: Any, number: int, slot: int) -> Any:
    """Views one entry, uint64 [PENDING_WORDS]."""
    place = number * at.PENDING_ENTRIES + slot
    return unsigned_words_at(context[at.CTX_PENDING] + place * at.PENDING_WORDS * 8, at.PENDING_WORDS)


@inlined
def queue_data(context: Any, number: int, slot: int) -> Any:
    """Views the data of one entry, uint32 [16, 64]."""
    place = number * at.PENDING_ENTRIES + slot
    return view_u32(context[at.CTX_PENDING_ROWS] + place * at.PENDING_DATA_BYTES, (16, at.LANES))


@inlined
def answer_time(context: Any, scalars: Any, queue: int, dwords: int) -> int:
    """When memory answers what a wave issues now: after the latency and after everything that it issued before."""
    ready = at.ANSWERED + 2 * queue
    latency = words_at(context[at.CTX_LATENCIES], at.QUEUES)[queue]
    answered = max(np.int64(scalar_pair(scalars, at.CLOCK)) + latency, np.int64(scalar_pair(scalars, ready)))
    if queue == at.QUEUE_LDS:
        answered += context[at.CTX_LDS_CYCLES] * dwords
    set_scalar_pair(scalars, ready, np.uint64(answered))
    return answered


@inlined
def postpone(wave: int, context: Any, queue: int, kind: int, place: int, dwords: int, mask: Any) -> None:
    """Queues an answer whose data are in the result rows."""
    rows, scalars = rows_of(wave), scalars_of(wave)
    number = queue_number(scalars, queue)
    head = queue_head(context, number)
    wait_until(wave, context, queue, at.LDS_LIMIT - 1 if queue == at.QUEUE_LDS else at.VM_LIMIT - 1)
    slot = np.int64(head[0] + head[1]) % at.PENDING_ENTRIES
    head[1] += np.uint64(1)
    answered = answer_time(context, scalars, queue, dwords)
    entry = queue_entry(context, number, slot)
    entry[at.PENDING_TIME] = np.uint64(answered)
    entry[at.PENDING_KIND] = np.uint64(kind)
    entry[at.PENDING_PLACE] = np.uint64(place)
    entry[at.PENDING_DWORDS] = np.uint64(dwords)
    entry[at.PENDING_MASK] = mask
    if kind != at.PENDING_TO_NOTHING:
        data = queue_data(context, number, slot)
        for row in range(dwords):
            for lane in range(at.LANES):
                data[row, lane] = rows[R + row, lane]


@inlined
def arrive(wave: int, context: Any, queue: int) -> None:
    """Delivers the oldest entry of a queue."""
    rows, scalars = rows_of(wave), scalars_of(wave)
    number = queue_number(scalars, queue)
    head = queue_head(context, number)
    slot = np.int64(head[0])
    entry, data = queue_entry(context, number, slot), queue_data(context, number, slot)
    dwords, place, mask = np.int64(entry[at.PENDING_DWORDS]), np.int64(entry[at.PENDING_PLACE]), entry[at.PENDING_MASK]
    if entry[at.PENDING_KIND] == np.uint64(at.PENDING_TO_ROWS):
        for row in range(dwords):
            for lane in range(at.LANES):
                if (mask >> np.uint64(lane)) & np.uint64(1):
                    rows[place + row, lane] = data[row, lane]
    elif entry[at.PENDING_KIND] == np.uint64(at.PENDING_TO_LDS):
        for lane in range(at.LANES):
            if (mask >> np.uint64(lane)) & np.uint64(1):
                words = view_u32(context[at.CTX_LDS] + place + lane * dma_stride(dwords), (4,))
                for index in range(dwords):
                    words[index] = data[index, lane]
    head[0] = np.uint64((slot + 1) % at.PENDING_ENTRIES)
    head[1] -= np.uint64(1)


@inlined
def wait_for_one(wave: int, context: Any, queue: int) -> None:
    """Let the wave's clock reach the oldest entry's answer, and deliver it."""
    scalars = scalars_of(wave)
    number = queue_number(scalars, queue)
    due = queue_entry(context, number, np.int64(queue_head(context, number)[0]))[at.PENDING_TIME]
    set_scalar_pair(scalars, at.CLOCK, max(scalar_pair(scalars, at.CLOCK), due))
    arrive(wave, context, queue)


@inlined
def wait_until(wave: int, context: Any, queue: int, allowed: int) -> None:
    """s_waitcnt: wait until at most `allowed` answers of a queue are outstanding."""
    head = queue_head(context, queue_number(scalars_of(wave), queue))
    while np.int64(head[1]) > allowed:
        wait_for_one(wave, context, queue)


@inlined
def arrivals(wave: int, context: Any) -> None:
    """Deliver everything that is due at the wave's clock, or will be within the slack."""
    scalars = scalars_of(wave)
    clock = scalar_pair(scalars, at.CLOCK) + np.uint64(context[at.CTX_SLACK])
    for queue in range(at.QUEUES):
        number = queue_number(scalars, queue)
        head = queue_head(context, number)
        while head[1] and queue_entry(context, number, np.int64(head[0]))[at.PENDING_TIME] <= clock:
            arrive(wave, context, queue)
