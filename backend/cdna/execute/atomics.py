"""Atomics on global memory, buffers and LDS: lane after lane, in ascending order, each reads, computes and writes.

The documents give each operation as a few lines; they say nothing of the order of lanes, which no right program depends on.
Floating-point additions round to nearest even. fp32 in memory flushes denormals, in LDS as MODE says; fp64 and the packed forms
keep them. An access out of bounds gives poison and changes nothing, as a load and a store would; one that a descriptor
cuts off gives 0. Two workgroups may write one byte by atomics. An address that is no multiple of the value's size has no model.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Any

import numpy as np

from backend.cdna.execute import layout as at
from backend.cdna.execute.access import emit_events, nearest_region, resolve
from backend.cdna.execute.attributes import all_marked, note_bad, region_row
from backend.cdna.execute.flat import fill_flat_addresses
from backend.cdna.execute.float_values import NAN, SMALLEST_NORMAL, flushed
from backend.cdna.execute.half import bf16_to_float, double_to_half, float_to_bf16, half_overflow_saturates, half_to_double
from backend.cdna.execute.lanes import (
    context_of,
    record_of,
    rows_of,
    scalar_pair,
    scalars_of,
    unsigned_words_at,
    value64,
)
from backend.cdna.execute.lds import place_lanes
from backend.cdna.execute.native import (
    bits_double,
    bits_float,
    double_bits,
    float_bits,
    handler,
    inlined,
    quieted,
    view_u32,
)
from backend.cdna.execute.pending import postpone
from backend.cdna.execute.transfer import deliver

R = at.RESULT_ROWS
ONE = np.uint64(1)
ADDRESS_MASK = np.uint64((1 << 48) - 1)
WIDE = 64
"""OPCODE of an atomic is its `Atomic`, plus this for 64 bits."""

Atomic = IntEnum(
    "Atomic",
    """
    SWAP CMPSWAP ADD SUB RSUB SMIN UMIN SMAX UMAX AND OR XOR INC DEC MSKOR WRAP ADD_F MIN_F MAX_F CMPSWAP_F PK_ADD_F16
    PK_ADD_BF16
    """,
    start=0,
)
"""What becomes of the old value and the data."""


@inlined
def integer_result(kind: int, old: Any, data: Any, second: Any) -> Any:
    """The new value of the operations on unsigned integers, in uint64 for both widths; its lowest bits count."""
    one, zero = np.uint64(1), np.uint64(0)
    if kind == Atomic.SWAP:
        return data
    if kind == Atomic.CMPSWAP:
        return data if old == second else old
    if kind == Atomic.ADD:
        return old + data
    if kind == Atomic.SUB:
        return old - data
    if kind == Atomic.RSUB:
        return data - old
    if kind == Atomic.UMIN:
        return min(old, data)
    if kind == Atomic.UMAX:
        return max(old, data)
    if kind == Atomic.AND:
        return old & data
    if kind == Atomic.OR:
        return old | data
    if kind == Atomic.XOR:
        return old ^ data
    if kind == Atomic.INC:
        return zero if old >= data else old + one
    if kind == Atomic.DEC:
        return data if old == zero or old > data else old - one
    if kind == Atomic.MSKOR:
        return (old & ~data) | second
    return old - data if old >= data else old + second


@inlined
def sum32(old: Any, data: Any) -> Any:
    """The sum of two float32: of operands that are NaN the first, quieted, whichever way round the host adds."""
    if old != old:
        return quieted(old)
    if data != data:
        return quieted(data)
    total = old + data
    return NAN if total != total else total


@inlined
def sum64(old: Any, data: Any) -> Any:
    """Adds two float64, given and returned by their bits, as sum32 does two float32."""
    if old != old:
        return quieted(old)
    if data != data:
        return quieted(data)
    total = old + data
    return bits_double(np.uint64(0xFFF8_0000_0000_0000)) if total != total else total


@inlined
def result32(kind: int, old: Any, data: Any, second: Any, keep: Any, saturate: bool) -> Any:
    """The new 32 bits. keep: the fp32 magnitude below which numbers are flushed."""
    if kind == Atomic.SMIN:
        return np.uint32(min(np.int32(old), np.int32(data)))
    if kind == Atomic.SMAX:
        return np.uint32(max(np.int32(old), np.int32(data)))
    if kind == Atomic.PK_ADD_F16:
        low = sum64(half_to_double(np.int64(old) & 0xFFFF), half_to_double(np.int64(data) & 0xFFFF))
        high = sum64(half_to_double(np.int64(old) >> 16), half_to_double(np.int64(data) >> 16))
        return np.uint32(double_to_half(low, saturate) | double_to_half(high, saturate) << 16)
    if kind == Atomic.PK_ADD_BF16:
        low = float_to_bf16(sum32(bf16_to_float(np.int64(old) & 0xFFFF), bf16_to_float(np.int64(data) & 0xFFFF)))
        high = float_to_bf16(sum32(bf16_to_float(np.int64(old) >> 16), bf16_to_float(np.int64(data) >> 16)))
        return np.uint32((low & 0xFFFF) | (high & 0xFFFF) << 16)
    x, y = bits_float(old), bits_float(data)
    if kind == Atomic.ADD_F:
        return float_bits(flushed(sum32(flushed(x, keep), flushed(y, keep)), keep))
    if kind == Atomic.MIN_F:
        return data if y < x else old
    if kind == Atomic.MAX_F:
        return data if y > x else old
    if kind == Atomic.CMPSWAP_F:
        return data if x == bits_float(second) else old
    return np.uint32(integer_result(kind, np.uint64(old), np.uint64(data), np.uint64(second)) & np.uint64(0xFFFF_FFFF))


@inlined
def result64(kind: int, old: Any, data: Any, second: Any) -> Any:
    """The new 64 bits."""
    if kind == Atomic.SMIN:
        return np.uint64(min(np.int64(old), np.int64(data)))
    if kind == Atomic.SMAX:
        return np.uint64(max(np.int64(old), np.int64(data)))
    x, y = bits_double(old), bits_double(data)
    if kind == Atomic.ADD_F:
        return double_bits(sum64(x, y))
    if kind == Atomic.MIN_F:
        return data if y < x else old
    if kind == Atomic.MAX_F:
        return data if y > x else old
    if kind == Atomic.CMPSWAP_F:
        return data if x == bits_double(second) else old
    return integer_result(kind, old, data, second)


@inlined
def exchange(wave: int, record: int, context_address: int, good: Any, keep: Any) -> None:
    """Do it in the lanes of `good`, at their host addresses; the old values go to the result rows. Lanes without data and lanes
    outside of `good` keep what is in the result rows.

    DESTINATION_2: row of the data, TARGET: row of the second operand (what is compared with, what is or'ed or added).
    """
    context, fields, rows = context_of(context_address), record_of(record), rows_of(wave)
    host = unsigned_words_at(context[at.CTX_HOST], at.LANES)
    wide = fields[at.OPCODE] & WIDE
    kind = fields[at.OPCODE] & (WIDE - 1)
    data, second = fields[at.DESTINATION_2], fields[at.TARGET]
    saturate = half_overflow_saturates(scalars_of(wave))
    for lane in range(at.LANES):
        if not (good >> np.uint64(lane)) & ONE or host[lane] == np.uint64(0):
            continue
        words = view_u32(np.int64(host[lane]), (2,))
        if wide:
            old = np.uint64(words[0]) | np.uint64(words[1]) << np.uint64(32)
            new = result64(kind, old, value64(rows, data, lane), value64(rows, second, lane))
            words[0], words[1] = np.uint32(new & np.uint64(0xFFFF_FFFF)), np.uint32(new >> np.uint64(32))
            rows[R, lane], rows[R + 1, lane] = np.uint32(old & np.uint64(0xFFFF_FFFF)), np.uint32(old >> np.uint64(32))
        else:
            old_word = words[0]
            words[0] = result32(kind, old_word, rows[data, lane], rows[second, lane], keep, saturate)
            rows[R, lane] = old_word


@inlined
def stop(context: Any, scalars: Any, fields: Any) -> None:
    """Ends the run here, as not modelled: what is asked for has no model."""
    context[at.CTX_UNMODELLED] = fields[at.ORIGINAL]
    scalars[at.STATUS] = at.STATUS_UNMODELLED


@inlined
def all_aligned(addresses: Any, base: int, mask: Any, size: int) -> bool:
    """Whether the lanes' addresses, counted from `base`, are multiples of `size`."""
    low = np.uint64(0)
    for lane in range(at.LANES):
        if (mask >> np.uint64(lane)) & ONE:
            low |= addresses[lane] - np.uint64(base)
    return low & np.uint64(size - 1) == np.uint64(0)


@inlined
def unwritten_lanes(context: Any, mask: Any, size: int) -> Any:
    """Lanes whose bytes lie in a region that remembers what was written, and were not."""
    addresses = unsigned_words_at(context[at.CTX_ADDRESSES], at.LANES)
    found = np.uint64(0)
    for lane in range(at.LANES):
        if not (mask >> np.uint64(lane)) & ONE:
            continue
        address = np.int64(addresses[lane])
        index = nearest_region(context, address)
        if index < 0:
            continue
        region = region_row(context, index)
        offset = address - region[at.REGION_BASE]
        inside = region[at.REGION_WRITTEN] != 0 and offset >= 0 and address + size <= region[at.REGION_END]
        if inside and not all_marked(region[at.REGION_WRITTEN], offset, size):
            found |= ONE << np.uint64(lane)
    return found


@inlined
def note_stale(context: Any, fields: Any, good: Any) -> None:
    """What an executed atomic reads must not be what an access stored without data (see access.note_staleness)."""
    addresses = unsigned_words_at(context[at.CTX_ADDRESSES], at.LANES)
    for lane in range(at.LANES):
        if (good >> np.uint64(lane)) & ONE:
            index = nearest_region(context, np.int64(addresses[lane]))
            if region_row(context, index)[at.REGION_STORED]:
                context[at.CTX_STALE_READ] = fields[at.ORIGINAL]


@inlined
def atomic_at_addresses(wave: int, record: int, context_address: int, mask: Any, clamped: Any) -> None:
    """Judge the working addresses of the lanes of `mask` and do the atomic there; lanes of `clamped` give 0.

    COUNT: dwords of the value | RETURNS where the old value is wanted.
    """
    context, scalars, fields = context_of(context_address), scalars_of(wave), record_of(record)
    rows = rows_of(wave)
    dwords = fields[at.COUNT] & 0xFF
    if not all_aligned(unsigned_words_at(context[at.CTX_ADDRESSES], at.LANES), 0, mask, 4 * dwords):
        stop(context, scalars, fields)
        return
    unwritten = unwritten_lanes(context, mask, 4 * dwords)
    context[at.CTX_ATOMIC] = 1
    good = resolve(wave, record, context_address, mask, 4 * dwords, True, False)
    context[at.CTX_ATOMIC] = 0
    unwritten &= good
    if unwritten:
        addresses = unsigned_words_at(context[at.CTX_ADDRESSES], at.LANES)
        for lane in range(at.LANES):
            if (unwritten >> np.uint64(lane)) & ONE:
                address = np.int64(addresses[lane])
                note_bad(context, at.KIND_UNWRITTEN_READ, lane, address, 4 * dwords, nearest_region(context, address))
        emit_events(context, scalars, fields, 4 * dwords, False, False)
    if fields[at.COUNT] & at.ADDRESSES_ONLY:
        return
    note_stale(context, fields, good)
    poison = np.uint32(context[at.CTX_POISON] * 0x0101_0101)
    for index in range(dwords):
        for lane in range(at.LANES):
            rows[R + index, lane] = np.uint32(0) if (clamped >> np.uint64(lane)) & ONE else poison
    exchange(wave, record, context_address, good, SMALLEST_NORMAL)
    finish(wave, context, fields, scalar_pair(scalars, at.EXEC), at.QUEUE_VM)


@inlined
def finish(wave: int, context: Any, fields: Any, exec_mask: Any, queue: int) -> None:
    """Deliver the old values where they are wanted; in the timed schedule count the atomic in any case."""
    dwords = fields[at.COUNT] & 0xFF
    if fields[at.COUNT] & at.RETURNS:
        deliver(wave, context, fields[at.DESTINATION], dwords, exec_mask, queue)
    elif context[at.CTX_FLAGS] & at.RUN_TIMED:
        postpone(wave, context, queue, at.PENDING_TO_NOTHING, 0, dwords, exec_mask)


@handler
def global_atomic(wave: int, record: int, context_address: int) -> None:
    """Runs GLOBAL atomics; their addresses are made as in global_memory.global_access."""
    context, scalars, fields = context_of(context_address), scalars_of(wave), record_of(record)
    rows = rows_of(wave)
    addresses = unsigned_words_at(context[at.CTX_ADDRESSES], at.LANES)
    offset = np.uint64(np.int64(fields[at.IMMEDIATE]))
    row = fields[at.SOURCE_0]
    if fields[at.SOURCE_1] >= 0:
        base = scalar_pair(scalars, fields[at.SOURCE_1]) + offset
        for lane in range(at.LANES):
            addresses[lane] = base + np.uint64(rows[row, lane])
    else:
        for lane in range(at.LANES):
            addresses[lane] = value64(rows, row, lane) + offset
    atomic_at_addresses(wave, record, context_address, scalar_pair(scalars, at.EXEC), np.uint64(0))


@handler
def buffer_atomic(wave: int, record: int, context_address: int) -> None:
    """MUBUF atomics; addresses and range check as in global_memory.buffer_access, and for all bytes of a value together."""
    context, scalars, fields = context_of(context_address), scalars_of(wave), record_of(record)
    rows = rows_of(wave)
    descriptor = fields[at.SOURCE_1]
    if scalars[descriptor + 1] >> np.uint32(31) or (scalars[descriptor + 3] >> np.uint32(23)) & np.uint32(1):
        stop(context, scalars, fields)
        return
    exec_mask = scalar_pair(scalars, at.EXEC)
    base = scalar_pair(scalars, descriptor) & ADDRESS_MASK
    soffset, offset = np.uint64(scalars[fields[at.SOURCE_2]]), np.uint32(fields[at.IMMEDIATE])
    limit, size = np.uint64(scalars[descriptor + 2]), np.uint64(4 * (fields[at.COUNT] & 0xFF))
    addresses = unsigned_words_at(context[at.CTX_ADDRESSES], at.LANES)
    row = fields[at.SOURCE_0]
    clamped = np.uint64(0)
    for lane in range(at.LANES):
        voffset = rows[row, lane] if row >= 0 else np.uint32(0)
        place = soffset + np.uint64(np.uint32(voffset + offset))
        addresses[lane] = (base + place) & ADDRESS_MASK
        if place + size > limit and (exec_mask >> np.uint64(lane)) & ONE:
            clamped |= ONE << np.uint64(lane)
            note_bad(context, at.KIND_CLAMPED, lane, np.int64(base + place), size, nearest_region(context, np.int64(base)))
    if clamped:
        emit_events(context, scalars, fields, np.int64(size), True, False)
    atomic_at_addresses(wave, record, context_address, exec_mask & ~clamped, clamped)


@handler
def lds_atomic(wave: int, record: int, context_address: int) -> None:
    """DS atomics. SOURCE_0: row of the address, IMMEDIATE: byte offset. Out of range they give 0 and change nothing."""
    context, scalars, fields = context_of(context_address), scalars_of(wave), record_of(record)
    rows = rows_of(wave)
    dwords = fields[at.COUNT] & 0xFF
    good = place_lanes(wave, record, context_address, np.int64(fields[at.IMMEDIATE]), 4 * dwords, True)
    if not all_aligned(unsigned_words_at(context[at.CTX_HOST], at.LANES), context[at.CTX_LDS], good, 4 * dwords):
        stop(context, scalars, fields)
        return
    for index in range(dwords):
        for lane in range(at.LANES):
            rows[R + index, lane] = np.uint32(0)
    exchange(wave, record, context_address, good, bits_float(scalars[at.DENORMAL_F32]))
    finish(wave, context, fields, scalar_pair(scalars, at.EXEC), at.QUEUE_LDS)


@handler
def flat_atomic(wave: int, record: int, context_address: int) -> None:
    """FLAT atomics on global memory; an address in an aperture of LDS or scratch has no model."""
    context, scalars, fields = context_of(context_address), scalars_of(wave), record_of(record)
    if fill_flat_addresses(wave, record, context_address):
        stop(context, scalars, fields)
        return
    atomic_at_addresses(wave, record, context_address, scalar_pair(scalars, at.EXEC), np.uint64(0))
