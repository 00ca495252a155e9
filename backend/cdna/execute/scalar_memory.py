"""Scalar stores and atomics: S_STORE, S_BUFFER_STORE and S_ATOMIC. Scalar loads are in global_memory.py.

Addresses are those of scalar loads: the two lowest bits are ignored. A store beyond a descriptor's num_records is dropped.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from backend.cdna.execute import layout as at
from backend.cdna.execute.access import emit_events, nearest_region, resolve
from backend.cdna.execute.atomics import ADDRESS_MASK, ONE, WIDE, note_stale, result32, result64, stop, unwritten_lanes
from backend.cdna.execute.attributes import note_bad
from backend.cdna.execute.float_values import SMALLEST_NORMAL
from backend.cdna.execute.lanes import context_of, record_of, scalar_pair, scalars_of, set_scalar_pair, unsigned_words_at
from backend.cdna.execute.native import handler, inlined, view_u32


@inlined
def fill_address(scalars: Any, fields: Any, context: Any, base: Any) -> int:
    """Put the address into lane 0 of the working addresses; returns it."""
    offset = np.int64(fields[at.IMMEDIATE])
    if fields[at.SOURCE_1] >= 0:
        offset += np.int64(scalars[fields[at.SOURCE_1]])
    address = ((np.int64(base) + offset) & ~3) & np.int64(ADDRESS_MASK)
    unsigned_words_at(context[at.CTX_ADDRESSES], at.LANES)[0] = np.uint64(address)
    unsigned_words_at(context[at.CTX_HOST], at.LANES)[0] = np.uint64(0)
    return address


@handler
def scalar_store(wave: int, record: int, context_address: int) -> None:
    """COUNT dwords from DESTINATION on. SOURCE_0: base pair, or descriptor (OPCODE 1). SOURCE_1: scalar offset or -1."""
    context, scalars, fields = context_of(context_address), scalars_of(wave), record_of(record)
    count = fields[at.COUNT] & 0xFF
    base = scalar_pair(scalars, fields[at.SOURCE_0])
    kept = count
    if fields[at.OPCODE] == 1:
        base &= ADDRESS_MASK
    address = fill_address(scalars, fields, context, base)
    if fields[at.OPCODE] == 1:
        records = np.int64(scalars[fields[at.SOURCE_0] + 2])
        kept = min(max((records - (address - np.int64(base))) // 4, 0), count)
        if kept < count and (scalars[fields[at.SOURCE_0] + 1] >> np.uint32(16)) & np.uint32(0x3FFF):
            stop(context, scalars, fields)
            return
    good = np.uint64(0)
    if kept:
        good = resolve(wave, record, context_address, ONE, 4 * kept, True, True)
    if kept < count:
        note_bad(context, at.KIND_CLAMPED, 0, address + 4 * kept, 4 * (count - kept), nearest_region(context, address))
        emit_events(context, scalars, fields, 4 * (count - kept), True, True)
    host = unsigned_words_at(context[at.CTX_HOST], at.LANES)[0]
    if good and host and not fields[at.COUNT] & at.ADDRESSES_ONLY:
        words = view_u32(np.int64(host), (16,))
        for index in range(kept):
            words[index] = scalars[fields[at.DESTINATION] + index]


@handler
def scalar_atomic(wave: int, record: int, context_address: int) -> None:
    """S_ATOMIC. OPCODE: Atomic, plus WIDE. COUNT: dwords | RETURNS. DESTINATION: the data, and the old value where it returns;
    what a compare-and-swap compares with lies behind the data."""
    context, scalars, fields = context_of(context_address), scalars_of(wave), record_of(record)
    dwords, data = fields[at.COUNT] & 0xFF, fields[at.DESTINATION]
    address = fill_address(scalars, fields, context, scalar_pair(scalars, fields[at.SOURCE_0]))
    if address & (4 * dwords - 1):
        stop(context, scalars, fields)
        return
    unwritten = unwritten_lanes(context, ONE, 4 * dwords)
    context[at.CTX_ATOMIC] = 1
    good = resolve(wave, record, context_address, ONE, 4 * dwords, True, True)
    context[at.CTX_ATOMIC] = 0
    if unwritten and good:
        note_bad(context, at.KIND_UNWRITTEN_READ, 0, address, 4 * dwords, nearest_region(context, address))
        emit_events(context, scalars, fields, 4 * dwords, False, True)
    if fields[at.COUNT] & at.ADDRESSES_ONLY:
        return
    note_stale(context, fields, good)
    host = unsigned_words_at(context[at.CTX_HOST], at.LANES)[0]
    poison = np.uint64(context[at.CTX_POISON]) * np.uint64(0x0101_0101_0101_0101)
    old = poison
    kind = fields[at.OPCODE] & (WIDE - 1)
    if good and host:
        words = view_u32(np.int64(host), (2,))
        if dwords == 2:
            old = np.uint64(words[0]) | np.uint64(words[1]) << np.uint64(32)
            new = result64(kind, old, scalar_pair(scalars, data), scalar_pair(scalars, data + 2))
            words[1] = np.uint32(new >> np.uint64(32))
            words[0] = np.uint32(new & np.uint64(0xFFFF_FFFF))
        else:
            old = np.uint64(words[0])
            words[0] = result32(kind, words[0], scalars[data], scalars[data + 1], SMALLEST_NORMAL, False)
    if fields[at.COUNT] & at.RETURNS:
        if dwords == 2:
            set_scalar_pair(scalars, data, old)
        else:
            scalars[data] = np.uint32(old & np.uint64(0xFFFF_FFFF))
