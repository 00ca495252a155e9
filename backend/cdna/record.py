"""What a run is asked to record, and the memory that the compiled code records it in.

Bitmaps are as large as tensors and mostly all 0 or all 1, bits in little order: `marked_runs` gives the runs of set bits.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numba import njit
from numpy.typing import NDArray

from backend.cdna.execute import layout as at
from backend.cdna.memory import AddressSpace, Region, RegionTable, region_table
from backend.cdna.program import Program
from backend.cdna.result import AccessLog
from backend.errors import UsageError


@njit(cache=True, nogil=True)
def marked_runs(bitmap: NDArray[np.uint8], count: int) -> NDArray[np.int64]:
    """[begin, end) of each stretch of set bits among the first `count`, int64 [stretches, 2], in order."""
    found = np.empty((16, 2), np.int64)
    stretches = 0
    begin = -1
    words = bitmap[: len(bitmap) // 8 * 8].view(np.uint64)
    position = 0
    while position < count:
        byte = position >> 3
        if position & 63 == 0 and byte >> 3 < len(words):
            word = words[byte >> 3]
            whole = np.uint64(0) if begin < 0 else ~np.uint64(0)
            if word == whole:
                position += 64
                continue
        marked = (bitmap[byte] >> (position & 7)) & 1
        if marked and begin < 0:
            begin = position
        elif not marked and begin >= 0:
            found, stretches = _append(found, stretches, begin, position)
            begin = -1
        position += 1
    if begin >= 0:
        found, stretches = _append(found, stretches, begin, count)
    return found[:stretches].copy()


@njit(cache=True, nogil=True)
def _append(found: NDArray[np.int64], stretches: int, begin: int, end: int) -> tuple[NDArray[np.int64], int]:
    if stretches == len(found):
        larger = np.empty((2 * stretches, 2), np.int64)
        larger[:stretches] = found
        found = larger
    found[stretches, 0], found[stretches, 1] = begin, end
    return found, stretches + 1


BITMAP_LIMIT = 1 << 31
"""Bytes up to which a region's touched bytes are kept one by one; beyond, a bit stands for more of them."""

OVERLAP_LIMIT = 1 << 30
"""Bytes of a region up to which each byte's writer is kept (four times as many bytes of memory)."""

TRACE_CAPACITY = 1 << 22
RACE_CAPACITY = 1024
LDS_DWORDS = (160 << 10) // 4


@dataclass(frozen=True, slots=True)
class RecordOptions:
    """What to keep besides bad accesses, totals and branch counts, which are always kept.

    hashes: per instruction the number of accesses and a hash of their addresses. touched: which bytes of each region were read
    and written, or the names of the regions for which that is kept. pages: which pages each workgroup touched, of paged
    regions. overlaps: two workgroups writing one byte (an event). hazards: LDS races. trace: (workgroup, wave) whose
    instructions to keep. max_events: events kept in full, at most events_each in a row of one instruction, kind and region, so
    that what happens often does not crowd out what happens once.
    slow_path: take the per-lane path for every access; for tests of the fast one. unchecked: nothing is judged, for measuring
    what judging costs; only for launches known to be clean.
    """

    hashes: bool = False
    touched: bool | frozenset[str] = False
    pages: bool = False
    overlaps: bool = False
    hazards: bool = False
    trace: tuple[int, int] | None = None
    max_events: int = 4096
    events_each: int = 16
    slow_path: bool = False
    unchecked: bool = False


NOTHING = RecordOptions()


@dataclass(slots=True)
class RecordArrays:
    """Arrays of one run; addresses of them are in the context, so they must live until it has ended."""

    record: RecordOptions
    table: RegionTable
    events: NDArray[np.int64]
    totals: NDArray[np.int64]
    edges: NDArray[np.int64]
    races: NDArray[np.int64]
    trace: NDArray[np.int32]
    counts: NDArray[np.int64]
    hashes: NDArray[np.uint64]
    last_region: NDArray[np.int32]
    shadow: NDArray[np.int64]
    units: dict[str, int] = field(default_factory=dict)

    @property
    def regions(self) -> tuple[Region, ...]:
        """By index, as events name them."""
        return self.table.regions

    def log(self, program: Program) -> AccessLog:
        """The log in terms of pcs and region names."""
        log = AccessLog()
        for access, original in enumerate(program.accesses):
            if self.counts[access]:
                pc = program.instructions[original].pc
                log.counts[pc] = int(self.counts[access])
                log.hashes[pc] = int(self.hashes[access])
        for region in self.regions:
            if region.name in self.units:
                unit = self.units[region.name]
                count = -(-region.size // unit)
                log.unit_bytes[region.name] = unit
                for kept, bitmaps in (
                    (log.touched_read, self.table.touched_read),
                    (log.touched_write, self.table.touched_write),
                ):
                    if region.name in bitmaps:
                        kept[region.name] = np.minimum(marked_runs(bitmaps[region.name], count) * unit, region.size)
                    else:
                        kept[region.name] = np.empty((0, 2), np.int64)
            if region.name in self.table.pages_touched:
                pages = np.unpackbits(self.table.pages_touched[region.name], axis=1, count=region.pages, bitorder="little")
                log.pages[region.name] = pages.view(np.bool_)
        return log


def recording(
    record: RecordOptions, program: Program, space: AddressSpace, workgroups: int, context: NDArray[np.int64]
) -> RecordArrays:
    """Allocate what `record` asks for and tell the context."""
    if record.max_events < 0:
        raise UsageError.not_allowed("max_events", record.max_events, "0 or more")
    accesses = max(len(program.accesses), 1)
    table = region_table(space)
    kept = RecordArrays(
        record,
        table,
        events=np.zeros((record.max_events, at.EVENT_WORDS), np.int64),
        totals=np.zeros((accesses, at.KINDS, at.TOTAL_WORDS), np.int64),
        edges=np.zeros((len(program.records), 2), np.int64),
        races=np.zeros((RACE_CAPACITY if record.hazards else 0, at.RACE_WORDS), np.int64),
        trace=np.zeros(TRACE_CAPACITY if record.trace else 0, np.int32),
        counts=np.zeros(accesses, np.int64),
        hashes=np.zeros(accesses, np.uint64),
        last_region=np.full(accesses, -1, np.int32),
        shadow=np.zeros(LDS_DWORDS * at.SHADOW_WORDS if record.hazards else 0, np.int64),
    )
    _ask_regions(kept, workgroups)
    for slot, array in (
        (at.CTX_EVENTS, kept.events),
        (at.CTX_TOTALS, kept.totals),
        (at.CTX_EDGES, kept.edges),
        (at.CTX_RACES, kept.races),
        (at.CTX_TRACE, kept.trace),
        (at.CTX_ACCESS_COUNTS, kept.counts),
        (at.CTX_ACCESS_HASHES, kept.hashes),
        (at.CTX_LAST_REGION, kept.last_region),
        (at.CTX_LDS_SHADOW, kept.shadow),
        (at.CTX_REGIONS, table.rows),
    ):
        context[slot] = array.ctypes.data
    context[at.CTX_REGION_COUNT] = len(table.regions)
    context[at.CTX_EVENT_CAPACITY] = record.max_events
    context[at.CTX_EVENTS_EACH] = record.events_each
    context[at.CTX_RACE_CAPACITY] = len(kept.races)
    context[at.CTX_TRACE_CAPACITY] = len(kept.trace)
    context[at.CTX_TRACE_WORKGROUP], context[at.CTX_TRACE_WAVE] = record.trace or (-1, -1)
    context[at.CTX_FLAGS] |= (
        at.RUN_HASHES * record.hashes
        | at.RUN_SLOW_PATH * record.slow_path
        | at.RUN_HAZARDS * record.hazards
        | at.RUN_UNCHECKED * record.unchecked
    )
    return kept


def _ask_regions(kept: RecordArrays, workgroups: int) -> None:
    record, table = kept.record, kept.table
    for row, region in zip(table.rows, table.regions, strict=True):
        if record.touched is True or (record.touched and region.name in record.touched):
            _ask_touched(kept, row, region)
        if record.overlaps and region.writable and region.size <= OVERLAP_LIMIT:
            writers = np.zeros(region.size, np.int32)
            table.keep.append(writers)
            row[at.REGION_WRITER] = writers.ctypes.data
        if record.pages and region.paging is not None:
            pages = np.zeros((workgroups, -(-region.pages // 8)), np.uint8)
            table.pages_touched[region.name] = pages
            row[at.REGION_PAGES_TOUCHED], row[at.REGION_PAGES_STRIDE] = pages.ctypes.data, pages.shape[1]
        if not row[at.REGION_PAGES_TOUCHED] and not row[at.REGION_ALLOWED]:
            row[at.REGION_PAGE_BYTES] = 0
        asked = (at.REGION_WRITTEN, at.REGION_TOUCHED_READ, at.REGION_TOUCHED_WRITE, at.REGION_WRITER)
        if any(row[word] for word in asked):
            row[at.REGION_ATTRIBUTES] = at.ATTRIBUTES_ANY
        elif row[at.REGION_PAGE_BYTES]:
            row[at.REGION_ATTRIBUTES] = at.ATTRIBUTES_PAGES


def _ask_touched(kept: RecordArrays, row: NDArray[np.int64], region: Region) -> None:
    shift = 0
    while region.size >> shift > BITMAP_LIMIT:
        shift += 1
    units = (region.size + (1 << shift) - 1) >> shift
    for bitmaps, word in (
        (kept.table.touched_read, at.REGION_TOUCHED_READ),
        (kept.table.touched_write, at.REGION_TOUCHED_WRITE),
    ):
        if word == at.REGION_TOUCHED_WRITE and not region.writable:
            continue  # such a write is a finding and touches nothing
        bitmap = np.zeros(-(-units // 8), np.uint8)
        bitmaps[region.name] = bitmap
        row[word] = bitmap.ctypes.data
    row[at.REGION_TOUCH_SHIFT] = shift
    kept.units[region.name] = 1 << shift
