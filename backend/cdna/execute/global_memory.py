"""Memory instructions: SMEM, MUBUF, GLOBAL and SCRATCH, LDS-DMA included. Addresses here, judgement in access.py.

The buffer range rule (CDNA3 and CDNA4 ISA documents, "Range checking"): a descriptor that is not swizzled is *raw* whatever
its stride; vaddr + inst_offset wraps at 32 bits, and each dword of an access is out of range by itself when its end, counted
from soffset + that sum, passes num_records. Such a load gives 0, such a store is dropped, and it never reaches memory: an
event of its own (KIND_CLAMPED). That soffset counts is what gfx950 does (ROCm/rocm-systems#10928, measured), and what AITER's
fmha_v3_fwd kernels rely on: they move through k and v by soffset and let the descriptor cut the last tile.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Any

import numpy as np

from backend.cdna.execute import layout as at
from backend.cdna.execute.access import emit_events, nearest_region, resolve
from backend.cdna.execute.attributes import groups_on_pages, note_bad, region_row
from backend.cdna.execute.lanes import (
    ALL_LANES,
    bytes_at,
    commit_masked,
    context_of,
    record_of,
    rows_of,
    scalar_pair,
    scalars_of,
    unsigned_words_at,
    value64,
)
from backend.cdna.execute.native import handler, inlined, view_i32, view_u32
from backend.cdna.execute.pending import dma_stride, postpone
from backend.cdna.execute.races import note_lds_dma
from backend.cdna.execute.transfer import (
    access_bytes,
    deliver,
    load_lanes,
    private_address,
    redirect,
    redirect_lanes,
    store_lanes,
)

R = at.RESULT_ROWS
CUT_ROWS = at.RESULT_ROWS + 16
ONE = np.uint64(1)
ADDRESS_MASK = np.uint64((1 << 48) - 1)


Direction = IntEnum("Direction", "LOAD STORE LOAD_TO_LDS", start=0)
"""OPCODE of a vector memory instruction is its transfer.Width plus 16 times this."""


@handler
def scalar_load(wave: int, record: int, context_address: int) -> None:
    """S_LOAD and S_BUFFER_LOAD: COUNT dwords to DESTINATION from the base pair or descriptor at SOURCE_0.

    The offset is IMMEDIATE plus, where SOURCE_1 is not -1, that scalar; the two lowest address bits are ignored. OPCODE 1:
    S_BUFFER_LOAD, whose dwords beyond num_records give 0. With a stride num_records counts strides here (ISA documents, "Scalar
    memory reads"), as vector accesses do not: what lies between the two limits stops the run.
    """
    context, scalars, fields = context_of(context_address), scalars_of(wave), record_of(record)
    count = fields[at.COUNT] & 0xFF
    offset = np.int64(fields[at.IMMEDIATE])
    if fields[at.SOURCE_1] >= 0:
        offset += np.int64(scalars[fields[at.SOURCE_1]])
    base = scalar_pair(scalars, fields[at.SOURCE_0])
    kept = count
    if fields[at.OPCODE] == 1:
        base &= ADDRESS_MASK
        records = np.int64(scalars[fields[at.SOURCE_0] + 2])
        kept = min(max((records - (offset & ~3)) // 4, 0), count)
        if kept < count and (scalars[fields[at.SOURCE_0] + 1] >> np.uint32(16)) & np.uint32(0x3FFF):
            context[at.CTX_UNMODELLED] = fields[at.ORIGINAL]
            scalars[at.STATUS] = at.STATUS_UNMODELLED
            return
    address = ((np.int64(base) + offset) & ~3) & np.int64(ADDRESS_MASK)
    addresses = unsigned_words_at(context[at.CTX_ADDRESSES], at.LANES)
    host = unsigned_words_at(context[at.CTX_HOST], at.LANES)
    addresses[0] = np.uint64(address)
    host[0] = np.uint64(0)
    good = np.uint64(0)
    if kept:
        good = resolve(wave, record, context_address, ONE, 4 * kept, False, True)
    if kept < count:
        region = nearest_region(context, address)
        note_bad(context, at.KIND_CLAMPED, 0, address + 4 * kept, 4 * (count - kept), region)
        emit_events(context, scalars, fields, 4 * (count - kept), False, True)
    if fields[at.COUNT] & at.ADDRESSES_ONLY:
        return
    destination = fields[at.DESTINATION]
    poison = np.uint32(context[at.CTX_POISON] * 0x0101_0101)
    data = bytes_at(np.int64(host[0]), 64)
    for index in range(count):
        value = np.uint32(0)
        if index < kept:
            value = poison
            if good and host[0]:
                value = np.uint32(data[4 * index]) | np.uint32(data[4 * index + 1]) << np.uint32(8)
                value |= np.uint32(data[4 * index + 2]) << np.uint32(16) | np.uint32(data[4 * index + 3]) << np.uint32(24)
        scalars[destination + index] = np.uint32(value)


@inlined
def transfer(
    wave: int, record: int, context_address: int, mask: Any, clamped: Any, first: int, dwords: int, target: int
) -> None:
    """Judge and move dwords `first`... of every lane of `mask`; lanes of `clamped` load 0. Loads go to rows `target` + first.

    The working addresses are those of dword `first`; first and dwords are 0 and the whole access except where a descriptor cuts
    an access short.
    """
    context, fields = context_of(context_address), record_of(record)
    width, direction = fields[at.OPCODE] & 15, fields[at.OPCODE] >> 4
    size = access_bytes(width, dwords)
    is_write = direction == Direction.STORE
    good = resolve(wave, record, context_address, mask, size, is_write, False)
    if fields[at.COUNT] & at.ADDRESSES_ONLY:
        return
    if is_write:
        redirect(context, good, context[at.CTX_SINK_BLOCK])
        store_lanes(wave, context, width, dwords, fields[at.DESTINATION] + first)
        return
    redirect(context, good, context[at.CTX_POISON_BLOCK])
    if clamped:
        redirect_lanes(context, clamped, context[at.CTX_ZERO_BLOCK])
    load_lanes(wave, context, width, dwords, target + first, fields[at.DESTINATION])


@inlined
def finish_load(wave: int, record: int, context_address: int, exec_mask: Any) -> None:
    """Delivers the loaded rows to registers or to LDS."""
    context, fields = context_of(context_address), record_of(record)
    direction, count = fields[at.OPCODE] >> 4, fields[at.COUNT] & 0xFF
    if direction == Direction.STORE:
        if context[at.CTX_FLAGS] & at.RUN_TIMED:
            postpone(wave, context, at.QUEUE_VM, at.PENDING_TO_NOTHING, 0, count, exec_mask)
        return
    if fields[at.COUNT] & at.ADDRESSES_ONLY:
        return
    if direction == Direction.LOAD:
        deliver(wave, context, fields[at.DESTINATION], count, exec_mask, at.QUEUE_VM)
    else:
        store_to_lds(wave, record, context_address, count, exec_mask)


@inlined
def store_to_lds(wave: int, record: int, context_address: int, dwords: int, exec_mask: Any) -> None:
    """LDS-DMA: lane n's dwords go to M0 + inst_offset + n * size; three dwords lie 16 bytes apart (CDNA4 ISA, 9.1.9)."""
    context, scalars, fields = context_of(context_address), scalars_of(wave), record_of(record)
    rows = rows_of(wave)
    base = np.int64(scalars[at.M0]) + np.int64(fields[at.IMMEDIATE])
    size, limit = 4 * dwords, context[at.CTX_LDS_BYTES]
    apart = dma_stride(dwords)
    good = np.uint64(0)
    for lane in range(at.LANES):
        if not (exec_mask >> np.uint64(lane)) & ONE:
            continue
        address = base + lane * apart
        if address < 0 or address + size > limit:
            note_bad(context, at.KIND_LDS_OUT_OF_BOUNDS, lane, address, size, -1)
        else:
            good |= ONE << np.uint64(lane)
    if context[at.CTX_ANY_BAD]:
        emit_events(context, scalars, fields, size, True, False)
    if context[at.CTX_FLAGS] & at.RUN_HAZARDS:
        note_lds_dma(wave, record, context_address, good, base, size, apart)
    if context[at.CTX_FLAGS] & at.RUN_TIMED:
        postpone(wave, context, at.QUEUE_VM, at.PENDING_TO_LDS, base, dwords, good)
        return
    for lane in range(at.LANES):
        if (good >> np.uint64(lane)) & ONE:
            words = view_u32(context[at.CTX_LDS] + base + lane * apart, (4,))
            for index in range(dwords):
                words[index] = rows[R + index, lane]


@inlined
def descriptor_is_raw(scalars: Any, descriptor: int) -> bool:
    """Neither swizzled (dword 1 bit 31) nor adding the thread id (dword 3 bit 23)."""
    return not (scalars[descriptor + 1] >> np.uint32(31)) & np.uint32(1) and not (
        scalars[descriptor + 3] >> np.uint32(23)
    ) & np.uint32(1)


@handler
def buffer_access(wave: int, record: int, context_address: int) -> None:
    """MUBUF. SOURCE_0: row of vaddr, -1 without offen. SOURCE_1: descriptor. SOURCE_2: soffset. DESTINATION: row of vdata."""
    context, scalars, fields = context_of(context_address), scalars_of(wave), record_of(record)
    rows = rows_of(wave)
    descriptor = fields[at.SOURCE_1]
    if not descriptor_is_raw(scalars, descriptor):
        context[at.CTX_UNMODELLED] = fields[at.ORIGINAL]
        scalars[at.STATUS] = at.STATUS_UNMODELLED
        return
    exec_mask = scalar_pair(scalars, at.EXEC)
    base = scalar_pair(scalars, descriptor) & ADDRESS_MASK
    soffset = np.uint64(scalars[fields[at.SOURCE_2]])
    offset = np.uint64(fields[at.IMMEDIATE])
    limit = np.uint64(scalars[descriptor + 2])
    addresses = unsigned_words_at(context[at.CTX_ADDRESSES], at.LANES)
    dwords = fields[at.COUNT] & 0xFF
    size = np.uint64(access_bytes(fields[at.OPCODE] & 15, dwords))
    highest = np.uint64(0)
    row = fields[at.SOURCE_0]
    if row >= 0 and fields[at.COUNT] & at.ADDRESSES_ONLY and exec_mask == ALL_LANES:
        least, most = np.uint32(0xFFFF_FFFF), np.uint32(0)
        for lane in range(at.LANES):
            least, most = min(least, rows[row, lane]), max(most, rows[row, lane])
        start = base + soffset + offset
        if np.uint64(most) + offset + soffset + size <= limit and settled(
            wave, record, context_address, start, least, most, size
        ):
            return
    if row >= 0:
        for lane in range(at.LANES):
            place = soffset + np.uint64(np.uint32(rows[row, lane] + np.uint32(offset)))
            highest = max(highest, place)
            addresses[lane] = (base + place) & ADDRESS_MASK
    else:
        highest = soffset + offset
        for lane in range(at.LANES):
            addresses[lane] = (base + soffset + offset) & ADDRESS_MASK
    if highest + size <= limit:
        transfer(wave, record, context_address, exec_mask, np.uint64(0), 0, dwords, R)
    else:
        transfer_by_dword(wave, record, context_address, exec_mask, limit)
    finish_load(wave, record, context_address, exec_mask)


@inlined
def settled(wave: int, record: int, context_address: int, start: Any, least: Any, most: Any, size: Any) -> bool:
    """Whether an access of which only the addresses matter is right without a look at each lane.

    All of it, from start + least to start + most + size, must lie in the region that this instruction accessed last, which
    asks for nothing but its bounds, or for pages of which each group of lanes lies in an allowed one; and no log is kept.
    """
    context, scalars, fields = context_of(context_address), scalars_of(wave), record_of(record)
    index = np.int64(view_i32(context[at.CTX_LAST_REGION], (fields[at.ACCESS] + 1,))[fields[at.ACCESS]])
    if index < 0 or context[at.CTX_FLAGS] & (at.RUN_HASHES | at.RUN_SLOW_PATH):
        return False
    region = region_row(context, index)
    writes = fields[at.OPCODE] >> 4 == Direction.STORE
    if (
        region[at.REGION_ATTRIBUTES] == at.ATTRIBUTES_ANY
        or region[at.REGION_ELEMENT_BYTES]
        or (writes and not region[at.REGION_FLAGS] & at.FLAG_WRITABLE)
    ):
        return False
    base, end = np.uint64(region[at.REGION_BASE]), np.uint64(region[at.REGION_END])
    if start + np.uint64(least) < base or start + np.uint64(most) + size > end:
        return False
    if region[at.REGION_ATTRIBUTES] == at.ATTRIBUTES_PAGES:
        requester = np.int64(np.int32(scalars[at.REQUESTER]))
        offsets = rows_of(wave)[fields[at.SOURCE_0]]
        if not groups_on_pages(context, region, offsets, np.int64(start - base), np.int64(size), requester):
            return False
    if writes:
        region[at.REGION_STORED] = 1
    return True


@inlined
def transfer_by_dword(wave: int, record: int, context_address: int, exec_mask: Any, limit: Any) -> None:
    """An access of which the descriptor lets some dwords through and cuts off others.

    Lanes that are wholly inside go on in one piece; the others go dword by dword.
    """
    context, scalars, fields = context_of(context_address), scalars_of(wave), record_of(record)
    rows = rows_of(wave)
    addresses = unsigned_words_at(context[at.CTX_ADDRESSES], at.LANES)
    dwords = fields[at.COUNT] & 0xFF
    width = fields[at.OPCODE] & 15
    base = scalar_pair(scalars, fields[at.SOURCE_1]) & ADDRESS_MASK
    whole, none, some = np.uint64(0), np.uint64(0), np.uint64(0)
    size = np.uint64(access_bytes(width, dwords))
    unit = np.uint64(access_bytes(width, 1))
    for lane in range(at.LANES):
        bit = ONE << np.uint64(lane)
        if not exec_mask & bit:
            continue
        place = (addresses[lane] - base) & ADDRESS_MASK
        if place + size <= limit:
            whole |= bit
        elif place + unit > limit:
            none |= bit
            note_bad(
                context,
                at.KIND_CLAMPED,
                lane,
                np.int64(addresses[lane]),
                np.int64(size),
                clamp_region(context, scalars, fields),
            )
        else:
            some |= bit
            cut = (limit - place) // unit * unit
            note_bad(
                context, at.KIND_CLAMPED, lane, np.int64(addresses[lane] + cut), np.int64(size - cut),
                clamp_region(context, scalars, fields),
            )  # fmt: skip
    if none | some:
        emit_events(context, scalars, fields, np.int64(size), fields[at.OPCODE] >> 4 == Direction.STORE, False)
    transfer(wave, record, context_address, whole, none, 0, dwords, R)
    if some == np.uint64(0):
        return
    for index in range(dwords):
        mask = np.uint64(0)
        for lane in range(at.LANES):
            bit = ONE << np.uint64(lane)
            place = (addresses[lane] - base) & ADDRESS_MASK
            if some & bit and place + np.uint64(4) <= limit:
                mask |= bit
        transfer(wave, record, context_address, mask, some & ~mask, index, 1, CUT_ROWS)
        for lane in range(at.LANES):
            addresses[lane] = (addresses[lane] + np.uint64(4)) & ADDRESS_MASK
    commit_masked(rows, R, CUT_ROWS, dwords, some)


@inlined
def clamp_region(context: Any, scalars: Any, fields: Any) -> int:
    """The region that a clamped access belongs to: the descriptor's base is what it is about."""
    return nearest_region(context, np.int64(scalar_pair(scalars, fields[at.SOURCE_1]) & ADDRESS_MASK))


@handler
def global_access(wave: int, record: int, context_address: int) -> None:
    """GLOBAL. SOURCE_0: row of vaddr (a pair without saddr), SOURCE_1: scalar pair of saddr or -1. DESTINATION: row of the
    data."""
    context, scalars, fields = context_of(context_address), scalars_of(wave), record_of(record)
    rows = rows_of(wave)
    exec_mask = scalar_pair(scalars, at.EXEC)
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
    transfer(wave, record, context_address, exec_mask, np.uint64(0), 0, fields[at.COUNT] & 0xFF, R)
    finish_load(wave, record, context_address, exec_mask)


@handler
def scratch_access(wave: int, record: int, context_address: int) -> None:
    """SCRATCH: a lane's private memory, of which nobody else knows. SOURCE_0: row of vaddr or -1, SOURCE_1: saddr or -1.

    An access outside the lane's private segment stops the run: it is the compiler's code, not a finding.
    """
    context, scalars, fields = context_of(context_address), scalars_of(wave), record_of(record)
    rows = rows_of(wave)
    exec_mask = scalar_pair(scalars, at.EXEC)
    host = unsigned_words_at(context[at.CTX_HOST], at.LANES)
    width, count = fields[at.OPCODE] & 15, fields[at.COUNT] & 0xFF
    size, limit = access_bytes(width, count), context[at.CTX_SCRATCH_BYTES]
    base = np.int64(fields[at.IMMEDIATE])
    if fields[at.SOURCE_1] >= 0:
        base += np.int64(scalars[fields[at.SOURCE_1]])
    for lane in range(at.LANES):
        offset = base + (np.int64(rows[fields[at.SOURCE_0], lane]) if fields[at.SOURCE_0] >= 0 else 0)
        if (offset < 0 or offset + size > limit) and (exec_mask >> np.uint64(lane)) & ONE:
            context[at.CTX_UNMODELLED] = fields[at.ORIGINAL]
            scalars[at.STATUS] = at.STATUS_UNMODELLED
            return
        host[lane] = private_address(context, scalars, lane, offset)
    if fields[at.OPCODE] >> 4 == Direction.STORE:
        redirect(context, exec_mask, context[at.CTX_SINK_BLOCK])
        store_lanes(wave, context, width, count, fields[at.DESTINATION])
        if context[at.CTX_FLAGS] & at.RUN_TIMED:
            postpone(wave, context, at.QUEUE_VM, at.PENDING_TO_NOTHING, 0, count, exec_mask)
    else:
        redirect(context, exec_mask, context[at.CTX_SINK_BLOCK])
        load_lanes(wave, context, width, count, R, fields[at.DESTINATION])
        deliver(wave, context, fields[at.DESTINATION], count, exec_mask, at.QUEUE_VM)
