"""Every access to global memory is judged here: which region, allowed or not, what is recorded, where the data are.

Knows no instruction. A handler puts 64 addresses into the context's working array and calls `resolve`; it gets the mask of
lanes that may go on and, per lane, a host address (0 where there are no data: reads then give poison, writes are dropped).
Most accesses lie in one region that asks for nothing but its bounds: a test of the wave's lowest and highest address settles
those. Everything else goes lane by lane, and both ways record the same (tests/devices/test_machine_logs.py).
"""

from __future__ import annotations

from typing import Any

import numpy as np

from backend.cdna.execute import layout as at
from backend.cdna.execute.attributes import ONE, attributes_of_wave, note_bad, region_row
from backend.cdna.execute.lanes import (
    ALL_LANES,
    context_of,
    record_of,
    scalar_pair,
    scalars_of,
    unsigned_words_at,
    words_at,
)
from backend.cdna.execute.native import inlined, view_i32

NO_REGION = -1
HASH_FACTOR = np.uint64(0x9E37_79B9_7F4A_7C15)


@inlined
def nearest_region(context: Any, address: int) -> int:
    """The region that contains `address`, else the nearest one; NO_REGION in an empty space."""
    count = context[at.CTX_REGION_COUNT]
    low, high = 0, count  # the last region whose base is not above the address is at low - 1
    while low < high:
        middle = (low + high) >> 1
        if region_row(context, middle)[at.REGION_BASE] <= address:
            low = middle + 1
        else:
            high = middle
    below = low - 1
    if below < 0:
        return 0 if count else NO_REGION
    if low < count:
        behind = address - region_row(context, below)[at.REGION_END] + 1
        if behind > 0 and region_row(context, low)[at.REGION_BASE] - address < behind:
            return low
    return below


@inlined
def note_element(scalars: Any, region: Any, address: int) -> None:
    """A wave has read a queue region: remember the element, and who it belongs to."""
    element = (address - region[at.REGION_BASE]) // region[at.REGION_ELEMENT_BYTES]
    scalars[at.ELEMENT] = np.uint32(element)
    requester = element
    if region[at.REGION_REQUESTERS]:
        requester = np.int64(view_i32(region[at.REGION_REQUESTERS], (element + 1,))[element])
    scalars[at.REQUESTER] = np.uint32(np.int32(requester))


@inlined
def bounds_kind(region: Any, address: int, size: int, is_write: bool) -> int:
    """What is wrong with an access that `region` is nearest to; -1 for nothing."""
    if address < region[at.REGION_BASE] or address + size > region[at.REGION_END]:
        return at.KIND_NULL if 0 <= address < at.NULL_END else at.KIND_OUT_OF_BOUNDS
    if is_write and not region[at.REGION_FLAGS] & at.FLAG_WRITABLE:
        return at.KIND_READ_ONLY_WRITE
    return -1


@inlined
def reads_spill(region: Any, kind: int, address: int, size: int, is_write: bool) -> bool:
    """Whether a bad access finds data nevertheless: somebody wrote behind the region's end, and that is what is read."""
    past_end = kind == at.KIND_OUT_OF_BOUNDS and address >= region[at.REGION_BASE]
    return past_end and not is_write and address + size <= region[at.REGION_SPILL_END]


@inlined
def resolve_lanes(context: Any, scalars: Any, fields: Any, mask: Any, size: int, is_write: bool) -> Any:
    """The way lane by lane: any region, any fault. Returns the lanes that may go on."""
    addresses = unsigned_words_at(context[at.CTX_ADDRESSES], at.LANES)
    host = unsigned_words_at(context[at.CTX_HOST], at.LANES)
    good = np.uint64(0)
    for lane in range(at.LANES):
        host[lane] = np.uint64(0)
        bit = ONE << np.uint64(lane)
        if not mask & bit:
            continue
        address = np.int64(addresses[lane])
        index = nearest_region(context, address)
        if index == NO_REGION:
            note_bad(context, at.KIND_OUT_OF_BOUNDS, lane, address, size, index)
            continue
        region = region_row(context, index)
        kind = bounds_kind(region, address, size, is_write)
        if kind >= 0:
            note_bad(context, kind, lane, address, size, index)
            if not reads_spill(region, kind, address, size, is_write):
                continue
        good |= bit
        note_staleness(context, fields, index, is_write)
        if region[at.REGION_ELEMENT_BYTES] and not is_write:
            note_element(scalars, region, address)
        if region[at.REGION_ATTRIBUTES] and kind < 0:
            attributes_of_wave(context, scalars, index, bit, size, is_write)
        if region[at.REGION_DATA]:
            host[lane] = np.uint64(region[at.REGION_DATA] + address - region[at.REGION_BASE])
    return good


@inlined
def resolve_in_region(context: Any, scalars: Any, index: int, mask: Any, size: int, is_write: bool, moves_data: bool) -> None:
    """All lanes of `mask` are inside region `index` and may do what they do."""
    region = region_row(context, index)
    addresses = unsigned_words_at(context[at.CTX_ADDRESSES], at.LANES)
    host = unsigned_words_at(context[at.CTX_HOST], at.LANES)
    if region[at.REGION_ELEMENT_BYTES] and not is_write:
        for lane in range(at.LANES):
            if (mask >> np.uint64(lane)) & ONE:
                note_element(scalars, region, np.int64(addresses[lane]))
    if region[at.REGION_ATTRIBUTES]:
        attributes_of_wave(context, scalars, index, mask, size, is_write)
    shift = np.uint64(region[at.REGION_DATA] - region[at.REGION_BASE])
    if not moves_data:
        return
    if region[at.REGION_DATA]:
        for lane in range(at.LANES):
            host[lane] = addresses[lane] + shift
    else:
        for lane in range(at.LANES):
            host[lane] = np.uint64(0)


@inlined
def wave_range(addresses: Any, mask: Any) -> tuple[Any, Any]:
    """Gives the lowest and the highest address (inclusive) of the lanes of `mask`."""
    lowest, highest = ALL_LANES, np.uint64(0)
    if mask == ALL_LANES:
        for lane in range(at.LANES):
            lowest = min(lowest, addresses[lane])
            highest = max(highest, addresses[lane])
    else:
        for lane in range(at.LANES):
            if (mask >> np.uint64(lane)) & ONE:
                lowest = min(lowest, addresses[lane])
                highest = max(highest, addresses[lane])
    return lowest, highest


@inlined
def hash_access(context: Any, scalars: Any, access: int, mask: Any) -> None:
    """Add the access to its instruction's count and hash; the hash does not depend on the order of waves."""
    addresses = unsigned_words_at(context[at.CTX_ADDRESSES], at.LANES)
    counts = words_at(context[at.CTX_ACCESS_COUNTS], access + 1)
    hashes = unsigned_words_at(context[at.CTX_ACCESS_HASHES], access + 1)
    who = np.uint64(context[at.CTX_WORKGROUP] << 16 | np.int64(scalars[at.WAVE_INDEX]) << 8)
    total = np.uint64(0)
    lanes = 0
    for lane in range(at.LANES):
        if (mask >> np.uint64(lane)) & ONE:
            mixed = (addresses[lane] ^ (who + np.uint64(lane)) * HASH_FACTOR) * HASH_FACTOR
            total += mixed ^ (mixed >> np.uint64(29))
            lanes += 1
    counts[access] += lanes
    hashes[access] += total


@inlined
def emit_events(context: Any, scalars: Any, fields: Any, size: int, is_write: bool, is_scalar: bool) -> None:
    """Turn what the running access found into events and totals, and clear it."""
    totals = context[at.CTX_TOTALS] + fields[at.ACCESS] * at.KINDS * at.TOTAL_WORDS * 8
    for kind in range(at.KINDS):
        bad = words_at(context[at.CTX_BAD] + kind * at.BAD_WORDS * 8, at.BAD_WORDS)
        if bad[at.BAD_COUNT] == 0:
            continue
        total = words_at(totals + kind * at.TOTAL_WORDS * 8, at.TOTAL_WORDS)
        if total[at.TOTAL_LANES] == 0:
            total[at.TOTAL_LOWEST] = bad[at.BAD_LOWEST]
            total[at.TOTAL_HIGHEST_END] = bad[at.BAD_HIGHEST_END]
        total[at.TOTAL_LANES] += bad[at.BAD_COUNT]
        total[at.TOTAL_WAVES] += 1
        total[at.TOTAL_LOWEST] = min(total[at.TOTAL_LOWEST], bad[at.BAD_LOWEST])
        total[at.TOTAL_HIGHEST_END] = max(total[at.TOTAL_HIGHEST_END], bad[at.BAD_HIGHEST_END])
        total[at.TOTAL_RUN] = total[at.TOTAL_RUN] + 1 if bad[at.BAD_REGION] == total[at.TOTAL_REGION] else 1
        total[at.TOTAL_REGION] = bad[at.BAD_REGION]
        position = context[at.CTX_EVENTS_KEPT]
        if position < context[at.CTX_EVENT_CAPACITY] and total[at.TOTAL_RUN] <= context[at.CTX_EVENTS_EACH]:
            event = words_at(context[at.CTX_EVENTS] + position * at.EVENT_WORDS * 8, at.EVENT_WORDS)
            event[at.EVENT_KIND] = kind
            event[at.EVENT_ORIGINAL] = fields[at.ORIGINAL]
            event[at.EVENT_WORKGROUP] = context[at.CTX_WORKGROUP]
            event[at.EVENT_WAVE] = scalars[at.WAVE_INDEX]
            event[at.EVENT_LANES] = 0 if is_scalar else bad[at.BAD_LANES]
            event[at.EVENT_ADDRESS] = bad[at.BAD_ADDRESS]
            event[at.EVENT_LOWEST] = bad[at.BAD_LOWEST]
            event[at.EVENT_HIGHEST_END] = bad[at.BAD_HIGHEST_END]
            event[at.EVENT_REGION] = bad[at.BAD_REGION]
            event[at.EVENT_ELEMENT] = np.int64(np.int32(scalars[at.ELEMENT]))
            event[at.EVENT_BYTES] = size
            event[at.EVENT_WRITE] = 1 if is_write else 0
            event[at.EVENT_REQUESTER] = np.int64(np.int32(scalars[at.REQUESTER]))
            event[at.EVENT_EXECUTED] = np.int64(scalar_pair(scalars, at.EXECUTED))
            context[at.CTX_EVENTS_KEPT] = position + 1
        context[at.CTX_EVENT_COUNT] += 1
        bad[at.BAD_COUNT] = 0
        bad[at.BAD_LANES] = 0
    context[at.CTX_ANY_BAD] = 0


@inlined
def note_staleness(context: Any, fields: Any, index: int, is_write: bool) -> None:
    """Watch the slice's one assumption: nothing that it executes loads from a region that it stored to without data."""
    region = region_row(context, index)
    if is_write:
        if fields[at.COUNT] & at.ADDRESSES_ONLY:
            region[at.REGION_STORED] = 1
    elif region[at.REGION_STORED] and not fields[at.COUNT] & at.ADDRESSES_ONLY:
        context[at.CTX_STALE_READ] = fields[at.ORIGINAL]


@inlined
def resolve_unchecked(context: Any, access: int, mask: Any) -> None:
    """Host addresses as if every lane were in the region of the first; for measuring what judging costs."""
    addresses = unsigned_words_at(context[at.CTX_ADDRESSES], at.LANES)
    host = unsigned_words_at(context[at.CTX_HOST], at.LANES)
    last = view_i32(context[at.CTX_LAST_REGION], (access + 1,))
    if last[access] < 0:
        lowest, _ = wave_range(addresses, mask)
        last[access] = nearest_region(context, np.int64(lowest))
    region = region_row(context, np.int64(last[access]))
    shift = np.uint64(region[at.REGION_DATA] - region[at.REGION_BASE])
    for lane in range(at.LANES):
        host[lane] = addresses[lane] + shift if region[at.REGION_DATA] else np.uint64(0)


@inlined
def resolve(wave: int, record: int, context_address: int, mask: Any, size: int, is_write: bool, is_scalar: bool) -> Any:
    """Judge the access of `size` bytes at the working addresses of the lanes in `mask`; returns the lanes that may go on."""
    context, scalars, fields = context_of(context_address), scalars_of(wave), record_of(record)
    flags = context[at.CTX_FLAGS]
    access = fields[at.ACCESS]
    if mask == np.uint64(0):
        return mask
    if flags & at.RUN_UNCHECKED:
        resolve_unchecked(context, access, mask)
        return mask
    if flags & at.RUN_HASHES:
        hash_access(context, scalars, access, mask)
    if not flags & at.RUN_SLOW_PATH:
        addresses = unsigned_words_at(context[at.CTX_ADDRESSES], at.LANES)
        last = view_i32(context[at.CTX_LAST_REGION], (access + 1,))
        lowest, highest = wave_range(addresses, mask)
        index = np.int64(last[access])
        for attempt in range(2):
            if index >= 0:
                region = region_row(context, index)
                inside = np.uint64(region[at.REGION_BASE]) <= lowest and highest + np.uint64(size) <= np.uint64(
                    region[at.REGION_END]
                )
                if inside and not (is_write and not region[at.REGION_FLAGS] & at.FLAG_WRITABLE):
                    last[access] = index
                    note_staleness(context, fields, index, is_write)
                    moves_data = not fields[at.COUNT] & at.ADDRESSES_ONLY
                    resolve_in_region(context, scalars, index, mask, size, is_write, moves_data)
                    if context[at.CTX_ANY_BAD]:
                        emit_events(context, scalars, fields, size, is_write, is_scalar)
                    return mask
            if attempt == 0:
                index = nearest_region(context, np.int64(lowest))
    good = resolve_lanes(context, scalars, fields, mask, size, is_write)
    emit_events(context, scalars, fields, size, is_write, is_scalar)
    return good
