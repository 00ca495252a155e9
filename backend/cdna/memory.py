"""The address space in which machine code runs: byte-exact regions, far apart, each with what may be done to it.

Knows neither instructions nor what a region means to its owner. A region is a *logical* tensor, not an allocation: its end
is the tensor's last byte. Regions lie a terabyte apart, so an overrun of any size below that hits nothing and names the region
it left. The machine's checks are in backend/cdna/execute/access.py; here is what they are checked against.
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from backend.cdna.execute import layout as at
from backend.errors import UsageError

ADDRESS_BITS = 48
SPACING = 1 << 40
LOW_BITS = 0xFFE0_0000
"""Low 32 bits of a base that is not asked for. Close below 4 GiB, so that a 32-bit carry that code drops shows, as it may on a
GPU."""

DEFAULT_POISON = 0xFF
"""Repeated it is NaN as fp8, bf16 and fp32 and -1 as an index: whatever is made of it shows."""


@dataclass(frozen=True, slots=True)
class Paging:
    """A region is made of pages, and a requester may touch some of them only.

    page_bytes: bytes of a page; the last one may be cut short. allowed: bool [requesters, pages], or the same as uint8
    [requesters,
    ceil(pages / 8)] with one bit a page in little bit order, or None when every page is everybody's. Who the requester is, is
    told by the last element that the wave read from a `Queue`, before that by the launch (`MachineLaunch.requester_axis`).
    """

    page_bytes: int
    allowed: NDArray[np.bool_] | NDArray[np.uint8] | None = None


@dataclass(frozen=True, slots=True)
class Queue:
    """A region is a list of work: the element that a wave read last is what it works on, and every event says so.

    element_bytes: bytes of an element. requesters: int32 [elements], who owns the work, or None: the element's own number.
    """

    element_bytes: int
    requesters: NDArray[np.int32] | None = None


@dataclass(slots=True)
class Region:
    """One logical tensor.

    base: address of its first byte; size: bytes, exact. contents: uint8 [size + spill], or None for a region without data,
    whose
    reads give poison (that is no finding). written: one bit a byte (numpy's little bit order) where reads of what nobody wrote
    are looked for,
    else None. spill: bytes behind the end that hold data all the same, because somebody wrote past the end before: reads of
    them are out of bounds and get these data.
    """

    name: str
    base: int
    size: int
    contents: NDArray[np.uint8] | None
    written: NDArray[np.uint8] | None = None
    readable: bool = True
    writable: bool = True
    paging: Paging | None = None
    queue: Queue | None = None
    spill: int = 0
    _packed_allowed: NDArray[np.uint8] | None = field(default=None, repr=False)

    @property
    def end(self) -> int:
        """Address behind the last byte."""
        return self.base + self.size

    @property
    def pages(self) -> int:
        """Number of pages, 0 for a region without paging."""
        return -(-self.size // self.paging.page_bytes) if self.paging else 0

    def packed_allowed(self) -> NDArray[np.uint8] | None:
        """`paging.allowed` with one bit a page, rows padded to whole bytes."""
        if self.paging is None or self.paging.allowed is None:
            return None
        if self._packed_allowed is None:
            allowed = self.paging.allowed
            packed = allowed if allowed.dtype == np.uint8 else np.packbits(allowed, axis=1, bitorder="little")
            self._packed_allowed = np.ascontiguousarray(packed)
        return self._packed_allowed


class AddressSpace:
    """Regions in one 48-bit address space.

    A region that is added without a base lies `SPACING` behind the one before, so that neither 64 GiB pools nor wild offsets
    meet a neighbour; a base may be given to lay regions out as an allocator would. `poison` is the byte of everything nobody
    wrote.
    """

    def __init__(self, poison: int = DEFAULT_POISON) -> None:
        if not 0 <= poison <= 0xFF:
            raise UsageError.not_allowed("poison", poison, "a byte, 0..255")
        self.poison = poison
        self._regions: list[Region] = []  # by base

    def __iter__(self):  # type: ignore[no-untyped-def]
        return iter(self._regions)

    def __len__(self) -> int:
        return len(self._regions)

    def __getitem__(self, name: str) -> Region:
        for region in self._regions:
            if region.name == name:
                return region
        raise UsageError.not_allowed("region", name, [region.name for region in self._regions])

    def add_array(
        self,
        name: str,
        array: NDArray[np.generic],
        *,
        writable: bool = False,
        base: int | None = None,
        paging: Paging | None = None,
        queue: Queue | None = None,
        spill: int = 0,
    ) -> Region:
        """A region over the memory of `array`, which is used in place and counts as written.

        spill: how many of its last bytes lie behind the region's end (`Region.spill`).
        Raises UsageError for an array that is not contiguous, or is written to but read-only.
        """
        if not array.flags.c_contiguous or (writable and not array.flags.writeable):
            raise UsageError.not_allowed(
                f"array of region {name!r}", array.flags, "contiguous, and writeable where it is written"
            )
        contents = array.reshape(-1).view(np.uint8)
        size = contents.size - spill
        return self._insert(Region(name, 0, size, contents, None, True, writable, paging, queue, spill), base)

    def add_blank(self, name: str, size: int, *, has_data: bool = True) -> Region:
        """A region of `size` bytes that nobody has written: poisoned, and a read before a write is a finding.

        has_data: False keeps the written-bitmap only (an eighth of the size), for runs that ask for addresses alone.
        """
        contents = np.full(size, self.poison, np.uint8) if has_data else None
        written = np.zeros(-(-size // 8), np.uint8)
        return self._insert(Region(name, 0, size, contents, written, True, True, None, None), None)

    def add_bounds(
        self,
        name: str,
        size: int,
        *,
        writable: bool = False,
        base: int | None = None,
        paging: Paging | None = None,
        queue: Queue | None = None,
    ) -> Region:
        """A region without data: its bounds are checked and nothing else, so 64 GiB cost nothing. It counts as written."""
        return self._insert(Region(name, 0, size, None, None, True, writable, paging, queue), base)

    def remove(self, name: str) -> None:
        """Take a region out; its addresses belong to nobody from then on."""
        self._regions.remove(self[name])

    def locate(self, address: int) -> tuple[Region, int] | None:
        """The region nearest to `address` and the signed offset in bytes.

        Inside a region the offset counts from its base; behind its end it is how far behind (0: the first byte outside), before
        its base how far before, negative. None for an empty space.
        """
        if not self._regions:
            return None
        index = bisect_right([region.base for region in self._regions], address) - 1
        candidates = list(self._regions[max(index, 0) : index + 2])
        nearest = min(candidates, key=lambda region: distance(region, address))
        return nearest, signed_offset(nearest, address)

    def read(self, address: int, size: int) -> int | None:
        """`size` bytes at an address as an unsigned little-endian integer, spilled ones included; None where no data are."""
        found = self.locate(address)
        if found is None:
            return None
        region = found[0]
        offset = address - region.base
        if region.contents is None or offset < 0 or offset + size > region.size + region.spill:
            return None
        return int.from_bytes(region.contents[offset : offset + size].tobytes(), "little")

    def _insert(self, region: Region, base: int | None) -> Region:
        if region.size < 0:
            raise UsageError.not_allowed(f"size of region {region.name!r}", region.size, "0 bytes or more")
        if any(other.name == region.name for other in self._regions):
            raise UsageError.not_allowed("region name", region.name, "a name that no other region has")
        _check_paging(region)
        region.base = self._free_base(region.size) if base is None else base
        if not 0 < region.base <= region.end <= 1 << ADDRESS_BITS:
            raise UsageError.not_allowed(
                f"addresses of region {region.name!r}", hex(region.base), f"0 < address < 2^{ADDRESS_BITS}"
            )
        for other in self._regions:
            if region.base < other.end and other.base < region.end:
                raise UsageError.not_allowed(
                    f"base of region {region.name!r}", hex(region.base), f"no overlap with {other.name!r}"
                )
        self._regions.append(region)
        self._regions.sort(key=lambda r: r.base)
        return region

    def _free_base(self, size: int) -> int:
        top = max((region.end for region in self._regions), default=0)
        base = -(-top // SPACING) * SPACING + LOW_BITS
        if base - top < SPACING // 2:
            base += SPACING
        return base


def distance(region: Region, address: int) -> int:
    """Bytes between `address` and the region, 0 inside."""
    return max(region.base - address, address - region.end + 1, 0)


def signed_offset(region: Region, address: int) -> int:
    """Offset of `address` as `AddressSpace.locate` counts it."""
    if address >= region.end:
        return address - region.end
    return address - region.base


def _check_paging(region: Region) -> None:
    if region.paging is None:
        return
    if region.paging.page_bytes <= 0:
        raise UsageError.not_allowed(f"page_bytes of region {region.name!r}", region.paging.page_bytes, "at least 1")
    allowed = region.paging.allowed
    if allowed is None:
        return
    columns = -(-region.pages // 8) if allowed.dtype == np.uint8 else region.pages
    if allowed.ndim != 2 or allowed.shape[1] != columns:
        raise UsageError.not_allowed(f"allowed pages of region {region.name!r}", allowed.shape, f"[requesters, {columns}]")


@dataclass(slots=True)
class RegionTable:
    """The regions as the compiled code reads them: int64 [regions, REGION_WORDS] by base, and the bitmaps that a run asked for.

    Bitmaps are uint8 with one bit a unit, little bit order. `keep` holds on to the memory whose addresses are in the table.
    """

    rows: NDArray[np.int64]
    regions: tuple[Region, ...]
    touched_read: dict[str, NDArray[np.uint8]] = field(default_factory=dict)
    touched_write: dict[str, NDArray[np.uint8]] = field(default_factory=dict)
    pages_touched: dict[str, NDArray[np.uint8]] = field(default_factory=dict)
    keep: list[NDArray[np.generic]] = field(default_factory=list)


def region_table(space: AddressSpace) -> RegionTable:
    """The table of `space` with nothing asked for; RegionTable's other fields are filled by `backend.cdna.record`."""
    regions = tuple(space)
    rows = np.zeros((len(regions), at.REGION_WORDS), np.int64)
    table = RegionTable(rows, regions)
    for row, region in zip(rows, regions, strict=True):
        row[at.REGION_BASE] = region.base
        row[at.REGION_END] = region.end
        row[at.REGION_SPILL_END] = region.end + region.spill
        row[at.REGION_FLAGS] = at.FLAG_READABLE * region.readable + at.FLAG_WRITABLE * region.writable
        row[at.REGION_DATA] = _address(region.contents)
        row[at.REGION_WRITTEN] = _address(region.written)
        if region.paging is not None:
            row[at.REGION_PAGE_BYTES] = region.paging.page_bytes
            row[at.REGION_PAGE_INVERSE] = np.float64(1 / region.paging.page_bytes).view(np.int64)
            allowed = region.packed_allowed()
            if allowed is not None:
                row[at.REGION_ALLOWED] = _address(allowed)
                row[at.REGION_ALLOWED_STRIDE] = allowed.shape[1]
                row[at.REGION_REQUESTER_COUNT] = allowed.shape[0]
        if region.queue is not None:
            row[at.REGION_ELEMENT_BYTES] = region.queue.element_bytes
            row[at.REGION_REQUESTERS] = _address(region.queue.requesters)
            row[at.REGION_ELEMENTS] = -(-(region.size + region.spill) // region.queue.element_bytes)
    return table


def _address(array: NDArray[np.generic] | None) -> int:
    return 0 if array is None else array.ctypes.data
