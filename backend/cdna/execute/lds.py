"""LDS instructions (DS): reads, writes, transposing reads, and the lane permutations that share the encoding.

An address is vaddr + offset in 32 bits. LDS belongs to a workgroup and ends at what its launch allocated: beyond, reads give 0
and writes are dropped (ISA documents, "LDS address range"), and each is an event. Whether waves race for a dword is for
races.py, where a run asks for it.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Any

import numpy as np

from backend.cdna.execute import layout as at
from backend.cdna.execute.access import emit_events
from backend.cdna.execute.attributes import note_bad
from backend.cdna.execute.lanes import (
    context_of,
    record_of,
    rows_of,
    scalar_pair,
    scalars_of,
    unsigned_words_at,
)
from backend.cdna.execute.native import handler, inlined
from backend.cdna.execute.pending import postpone
from backend.cdna.execute.races import note_lds_read, note_lds_write
from backend.cdna.execute.transfer import access_bytes, deliver, load_lanes, redirect, store_lanes

R = at.RESULT_ROWS
ONE = np.uint64(1)


Lds = IntEnum("Lds", "READ WRITE READ2 WRITE2 READ_TR_B8 READ_TR_B16 READ_TR_B4 BPERMUTE PERMUTE SWIZZLE", start=0)
"""OPCODE of a DS instruction is its transfer.Width plus 16 times this."""


@inlined
def place_lanes(wave: int, record: int, context_address: int, offset: int, size: int, is_write: bool) -> Any:
    """Host addresses of every active lane's `size` bytes of LDS; returns the lanes that are inside."""
    context, scalars, fields = context_of(context_address), scalars_of(wave), record_of(record)
    rows = rows_of(wave)
    host = unsigned_words_at(context[at.CTX_HOST], at.LANES)
    exec_mask = scalar_pair(scalars, at.EXEC)
    limit, lds = context[at.CTX_LDS_BYTES], context[at.CTX_LDS]
    row = fields[at.SOURCE_0]
    highest = np.uint32(0)
    for lane in range(at.LANES):
        highest = max(highest, rows[row, lane])
    if np.int64(highest) + offset + size <= limit:  # nothing wraps
        for lane in range(at.LANES):
            host[lane] = np.uint64(lds + offset) + np.uint64(rows[row, lane])
        return exec_mask
    good = np.uint64(0)
    for lane in range(at.LANES):
        if not (exec_mask >> np.uint64(lane)) & ONE:
            continue
        address = (np.int64(rows[row, lane]) + offset) & 0xFFFF_FFFF
        if address + size <= limit:
            good |= ONE << np.uint64(lane)
            host[lane] = np.uint64(lds + address)
        else:
            note_bad(context, at.KIND_LDS_OUT_OF_BOUNDS, lane, address, size, -1)
    emit_events(context, scalars, fields, size, is_write, False)
    return good


@inlined
def read_part(wave: int, record: int, context_address: int, offset: int, dwords: int, target: int) -> None:
    """Read `dwords` (or the record's width) of every lane at its address plus `offset` into rows from `target`."""
    context, fields = context_of(context_address), record_of(record)
    width = fields[at.OPCODE] & 15
    size = access_bytes(width, dwords)
    good = place_lanes(wave, record, context_address, offset, size, False)
    if context[at.CTX_FLAGS] & at.RUN_HAZARDS:
        note_lds_read(wave, record, context_address, good, size)
    redirect(context, good, context[at.CTX_ZERO_BLOCK])
    load_lanes(wave, context, width, dwords, target, fields[at.DESTINATION])


@inlined
def write_part(wave: int, record: int, context_address: int, offset: int, dwords: int, source: int) -> None:
    """Write `dwords` (or the record's width) of every lane from rows `source`."""
    context, fields = context_of(context_address), record_of(record)
    width = fields[at.OPCODE] & 15
    size = access_bytes(width, dwords)
    good = place_lanes(wave, record, context_address, offset, size, True)
    if context[at.CTX_FLAGS] & at.RUN_HAZARDS:
        note_lds_write(wave, record, context_address, good, size)
    redirect(context, good, context[at.CTX_SINK_BLOCK])
    store_lanes(wave, context, width, dwords, source)


@inlined
def transpose_nibbles(rows: Any, source: int, target: int) -> None:
    """DS_READ_B64_TR_B4: within 16 lanes that loaded 16 nibbles each, lane c's nibble j is nibble c of lane j."""
    for lane in range(at.LANES):
        group, column = lane & 48, lane & 15
        for word in range(2):
            value = np.uint32(0)
            for nibble in range(8):
                part = rows[source + (column >> 3), group + 8 * word + nibble] >> np.uint32(4 * (column & 7))
                value |= np.uint32((part & np.uint32(15)) << np.uint32(4 * nibble))
            rows[target + word, lane] = value


@inlined
def transpose(rows: Any, source: int, target: int, byte_elements: bool) -> None:
    """DS_READ_B64_TR: within 16 lanes that loaded 64 bits each, exchange rows of the tile for columns.

    b8: lane c's byte j is byte c & 7 of lane 2j + (c >> 3). b16: lane c's half j is half c & 3 of lane 4j + (c >> 2).
    """
    for lane in range(at.LANES):
        group, column = lane & 48, lane & 15
        for word in range(2):
            value = np.uint32(0)
            if byte_elements:
                for byte in range(4):
                    place = group + 2 * (4 * word + byte) + (column >> 3)
                    index = column & 7
                    part = (rows[source + (index >> 2), place] >> np.uint32(8 * (index & 3))) & np.uint32(0xFF)
                    value |= np.uint32(part << np.uint32(8 * byte))
            else:
                for half in range(2):
                    place = group + 4 * (2 * word + half) + (column >> 2)
                    index = column & 3
                    part = (rows[source + (index >> 1), place] >> np.uint32(16 * (index & 1))) & np.uint32(0xFFFF)
                    value |= np.uint32(part << np.uint32(16 * half))
            rows[target + word, lane] = value


@inlined
def swizzled_lane(pattern: int, lane: int) -> int:
    """The lane that DS_SWIZZLE reads: quad permutation (bit 15) or and/or/xor masks within 32 lanes."""
    if pattern & 0x8000:
        return (lane & 60) | ((pattern >> (2 * (lane & 3))) & 3)
    inner = (((lane & 31) & (pattern & 31)) | ((pattern >> 5) & 31)) ^ ((pattern >> 10) & 31)
    return (lane & 32) | inner


@inlined
def permute_lanes(wave: int, record: int, context_address: int) -> None:
    """DS_BPERMUTE (pull), DS_PERMUTE (push, the highest lane wins) and DS_SWIZZLE; a lane that EXEC disables gives 0."""
    fields, rows = record_of(record), rows_of(wave)
    kind = fields[at.OPCODE] >> 4
    exec_mask = scalar_pair(scalars_of(wave), at.EXEC)
    offset = np.int64(fields[at.IMMEDIATE])
    address, data = fields[at.SOURCE_0], fields[at.SOURCE_1]
    for lane in range(at.LANES):
        rows[R, lane] = np.uint32(0)
    for lane in range(at.LANES):
        if kind == Lds.PERMUTE:
            if (exec_mask >> np.uint64(lane)) & ONE:
                rows[R, ((np.int64(rows[address, lane]) + offset) >> 2) & 63] = rows[data, lane]
            continue
        source = swizzled_lane(offset, lane)
        if kind == Lds.BPERMUTE:
            source = ((np.int64(rows[address, lane]) + offset) >> 2) & 63
        if (exec_mask >> np.uint64(source)) & ONE:
            rows[R, lane] = rows[data, source]


@inlined
def count_write(wave: int, context: Any, dwords: int, exec_mask: Any) -> None:
    """Counts an LDS write for s_waitcnt, in the timed schedule."""
    if context[at.CTX_FLAGS] & at.RUN_TIMED:
        postpone(wave, context, at.QUEUE_LDS, at.PENDING_TO_NOTHING, 0, dwords, exec_mask)


@handler
def lds_access(wave: int, record: int, context_address: int) -> None:
    """DS. SOURCE_0: row of the address, SOURCE_1, SOURCE_2: rows of the data, DESTINATION: row of the result.

    COUNT: dwords of one element. IMMEDIATE: byte offset; of the two-address forms the first, TARGET the second.
    """
    context, scalars, fields = context_of(context_address), scalars_of(wave), record_of(record)
    kind, dwords = fields[at.OPCODE] >> 4, fields[at.COUNT] & 0xFF
    offset = np.int64(fields[at.IMMEDIATE])
    exec_mask = scalar_pair(scalars, at.EXEC)
    rows = rows_of(wave)
    if kind == Lds.READ:
        read_part(wave, record, context_address, offset, dwords, R)
    elif kind == Lds.WRITE:
        write_part(wave, record, context_address, offset, dwords, fields[at.SOURCE_1])
        count_write(wave, context, dwords, exec_mask)
        return
    elif kind == Lds.READ2:
        read_part(wave, record, context_address, offset, dwords, R)
        read_part(wave, record, context_address, np.int64(fields[at.TARGET]), dwords, R + dwords)
        dwords *= 2
    elif kind == Lds.WRITE2:
        write_part(wave, record, context_address, offset, dwords, fields[at.SOURCE_1])
        write_part(wave, record, context_address, np.int64(fields[at.TARGET]), dwords, fields[at.SOURCE_2])
        count_write(wave, context, 2 * dwords, exec_mask)
        return
    elif kind == Lds.READ_TR_B8 or kind == Lds.READ_TR_B16:
        read_part(wave, record, context_address, offset, 2, R + 2)
        transpose(rows, R + 2, R, kind == Lds.READ_TR_B8)
    elif kind == Lds.READ_TR_B4:
        read_part(wave, record, context_address, offset, 2, R + 2)
        transpose_nibbles(rows, R + 2, R)
    else:
        permute_lanes(wave, record, context_address)
    deliver(wave, context, fields[at.DESTINATION], dwords, exec_mask, at.QUEUE_LDS)
