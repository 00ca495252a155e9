"""What a region asks for besides its bounds: written and touched bytes, each byte's writer, pages and who may touch them.

All lanes that come here are inside the region. Runs of lanes that continue one another, and groups of 16 lanes inside one page,
are settled at once; the results are those of lane after lane.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from backend.cdna.execute import layout as at
from backend.cdna.execute.lanes import ALL_LANES, bytes_at, unsigned_words_at, words_at
from backend.cdna.execute.native import bits_double, inlined, view_i32

ONE = np.uint64(1)
GROUP = 16


@inlined
def region_row(context: Any, index: int) -> Any:
    """Views one region's row, int64 [REGION_WORDS]."""
    return words_at(context[at.CTX_REGIONS] + index * at.REGION_WORDS * 8, at.REGION_WORDS)


@inlined
def mark_bits(bitmap: int, first: int, count: int) -> None:
    """Set `count` bits from bit `first`; bitmaps are bytes in little bit order."""
    whole = bytes_at(bitmap, (first + count + 7) >> 3)
    if (first | count) & 7 == 0:
        for index in range(first >> 3, (first + count) >> 3):
            whole[index] = np.uint8(0xFF)
    else:
        for bit in range(first, first + count):
            whole[bit >> 3] |= np.uint8(1 << (bit & 7))


@inlined
def all_marked(bitmap: int, first: int, count: int) -> bool:
    """Tells whether `count` bits from bit `first` on are all set."""
    whole = bytes_at(bitmap, (first + count + 7) >> 3)
    if (first | count) & 7 == 0:
        for index in range(first >> 3, (first + count) >> 3):
            if whole[index] != np.uint8(0xFF):
                return False
        return True
    for bit in range(first, first + count):
        if not (whole[bit >> 3] >> (bit & 7)) & 1:
            return False
    return True


@inlined
def note_bad(context: Any, kind: int, lane: int, address: int, size: int, region: int) -> None:
    """One lane of the running access is bad; lanes are noted in ascending order."""
    bad = words_at(context[at.CTX_BAD] + kind * at.BAD_WORDS * 8, at.BAD_WORDS)
    if bad[at.BAD_COUNT] == 0:
        bad[at.BAD_ADDRESS] = address
        bad[at.BAD_LOWEST] = address
        bad[at.BAD_HIGHEST_END] = address + size
        bad[at.BAD_REGION] = region
    bad[at.BAD_LANES] |= np.int64(ONE << np.uint64(lane))
    bad[at.BAD_LOWEST] = min(bad[at.BAD_LOWEST], address)
    bad[at.BAD_HIGHEST_END] = max(bad[at.BAD_HIGHEST_END], address + size)
    bad[at.BAD_COUNT] += 1
    context[at.CTX_ANY_BAD] = 1


@inlined
def page_allowed(region: Any, page: int, requester: int) -> bool:
    """Tells whether the requester may touch the page."""
    if requester < 0 or requester >= region[at.REGION_REQUESTER_COUNT]:
        return False
    row = region[at.REGION_ALLOWED] + requester * region[at.REGION_ALLOWED_STRIDE]
    return (bytes_at(row, (page >> 3) + 1)[page >> 3] >> (page & 7)) & 1 != 0


@inlined
def page_of(region: Any, offset: int) -> int:
    """offset // page_bytes for offsets below 2^53: the product with the inverse is off by one at most, a division is slow."""
    page_bytes = region[at.REGION_PAGE_BYTES]
    page = np.int64(np.float64(offset) * bits_double(np.uint64(region[at.REGION_PAGE_INVERSE])))
    if page * page_bytes > offset:
        return page - 1
    return page + 1 if (page + 1) * page_bytes <= offset else page


@inlined
def pages_fine(context: Any, region: Any, first: int, last: int, requester: int) -> bool:
    """Record pages first..last of one access (at most two), and whether the requester may touch them."""
    if region[at.REGION_PAGES_TOUCHED]:
        row = region[at.REGION_PAGES_TOUCHED] + context[at.CTX_WORKGROUP] * region[at.REGION_PAGES_STRIDE]
        mark_bits(row, first, last - first + 1)
    if not region[at.REGION_ALLOWED]:
        return True
    return page_allowed(region, first, requester) and (first == last or page_allowed(region, last, requester))


@inlined
def pages_of_lane(context: Any, region: Any, index: int, lane: int, offset: int, size: int, requester: int) -> int:
    """Pages of one lane. Returns the end of its page where it lies in one that is allowed, else 0."""
    page_bytes = region[at.REGION_PAGE_BYTES]
    first = page_of(region, offset)
    end = (first + 1) * page_bytes
    last = first if offset + size <= end else page_of(region, offset + size - 1)
    if not pages_fine(context, region, first, last, requester):
        note_bad(context, at.KIND_PAGE_NOT_ALLOWED, lane, region[at.REGION_BASE] + offset, size, index)
        return 0
    return end if first == last else 0


@inlined
def pages_of_wave(context: Any, region: Any, index: int, mask: Any, size: int, requester: int) -> None:
    """Records the pages of every lane of `mask`, and notes lanes that may not touch theirs."""
    addresses = unsigned_words_at(context[at.CTX_ADDRESSES], at.LANES)
    base, page_bytes = region[at.REGION_BASE], region[at.REGION_PAGE_BYTES]
    page_start, page_end = 0, 0
    for group in range(0, at.LANES, GROUP):
        if mask == ALL_LANES:
            lowest, highest = ALL_LANES, np.uint64(0)
            for lane in range(GROUP):
                lowest, highest = min(lowest, addresses[group + lane]), max(highest, addresses[group + lane])
            low, end = np.int64(lowest) - base, np.int64(highest) - base + size
            if page_start <= low and end <= page_end:
                continue
            first = page_of(region, low)
            if end <= (first + 1) * page_bytes and pages_fine(context, region, first, first, requester):
                page_start, page_end = first * page_bytes, (first + 1) * page_bytes
                continue
        for lane in range(group, group + GROUP):
            offset = np.int64(addresses[lane]) - base
            if not (mask >> np.uint64(lane)) & ONE or (page_start <= offset and offset + size <= page_end):
                continue
            page_end = pages_of_lane(context, region, index, lane, offset, size, requester)
            page_start = page_end - page_bytes


@inlined
def groups_on_pages(context: Any, region: Any, offsets: Any, start: int, size: int, requester: int) -> bool:
    """Whether each group of lanes lies inside one page that the requester may touch. Offsets are uint32 [64], from `start`."""
    page_start, page_end = 0, 0
    for group in range(0, at.LANES, GROUP):
        least, most = np.uint32(0xFFFF_FFFF), np.uint32(0)
        for lane in range(GROUP):
            least, most = min(least, offsets[group + lane]), max(most, offsets[group + lane])
        low, end = start + np.int64(least), start + np.int64(most) + size
        if page_start <= low and end <= page_end:
            continue
        first = page_of(region, low)
        page_start = first * region[at.REGION_PAGE_BYTES]
        page_end = page_start + region[at.REGION_PAGE_BYTES]
        if end > page_end or not pages_fine(context, region, first, first, requester):
            return False
    return True


@inlined
def note_writers(context: Any, region: Any, index: int, lane: int, offset: int, size: int) -> None:
    """Remember which workgroup wrote each byte; another one's byte is an event."""
    writers = view_i32(region[at.REGION_WRITER], (offset + size,))
    me = context[at.CTX_WORKGROUP] + 1
    overlap = False
    for byte in range(offset, offset + size):
        if writers[byte] != 0 and writers[byte] != me:
            overlap = True
        writers[byte] = me
    if overlap:
        note_bad(context, at.KIND_WRITE_OVERLAP, lane, region[at.REGION_BASE] + offset, size, index)


@inlined
def mark_units(bitmap: int, shift: int, start: int, end: int) -> None:
    """Mark bytes start..end in a bitmap with one bit for 2 ** shift bytes."""
    first = start >> shift
    mark_bits(bitmap, first, ((end - 1) >> shift) - first + 1)


@inlined
def mark_runs(context: Any, region: Any, bitmap: int, shift: int, mask: Any, size: int) -> None:
    """Mark what the lanes of `mask` access; lanes that continue one another in one go."""
    addresses = unsigned_words_at(context[at.CTX_ADDRESSES], at.LANES)
    base = region[at.REGION_BASE]
    start, end = 0, 0
    for lane in range(at.LANES):
        if not (mask >> np.uint64(lane)) & ONE:
            continue
        offset = np.int64(addresses[lane]) - base
        if offset != end:
            if end > start:
                mark_units(bitmap, shift, start, end)
            start = offset
        end = offset + size
    if end > start:
        mark_units(bitmap, shift, start, end)


@inlined
def attributes_of_wave(context: Any, scalars: Any, index: int, mask: Any, size: int, is_write: bool) -> None:
    """Everything that region `index` asks for of the lanes of `mask`."""
    region = region_row(context, index)
    addresses = unsigned_words_at(context[at.CTX_ADDRESSES], at.LANES)
    checks_lanes = region[at.REGION_WRITER] if is_write else region[at.REGION_WRITTEN]
    if is_write and context[at.CTX_ATOMIC]:
        checks_lanes = 0
    if checks_lanes:
        for lane in range(at.LANES):
            if (mask >> np.uint64(lane)) & ONE:
                offset = np.int64(addresses[lane]) - region[at.REGION_BASE]
                if is_write:
                    note_writers(context, region, index, lane, offset, size)
                elif not all_marked(region[at.REGION_WRITTEN], offset, size):
                    note_bad(context, at.KIND_UNWRITTEN_READ, lane, np.int64(addresses[lane]), size, index)
    if is_write and region[at.REGION_WRITTEN]:
        mark_runs(context, region, region[at.REGION_WRITTEN], 0, mask, size)
    touched = region[at.REGION_TOUCHED_WRITE] if is_write else region[at.REGION_TOUCHED_READ]
    if touched:
        mark_runs(context, region, touched, region[at.REGION_TOUCH_SHIFT], mask, size)
    if region[at.REGION_PAGE_BYTES]:
        pages_of_wave(context, region, index, mask, size, np.int64(np.int32(scalars[at.REQUESTER])))
