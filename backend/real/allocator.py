"""torch's caching allocator on ROCm, as far as it decides what lies behind a tensor. Knows sizes; no tensor's meaning.

Sources: c10/cuda/CUDACachingAllocator.cpp (round_size, get_allocation_size, should_split, get_free_block, free_block,
try_allocate_expandable_block) and c10/core/AllocatorConfig.h, whose constants are below, both of PyTorch 2.x with the default
PYTORCH_CUDA_ALLOC_CONF (2.13 lets large_segment_size be set; 20 MiB is its default); libhsakmt/src/fmm.c
(mmap_aperture_allocate_aligned) for what lies between two segments. Left out: roundup_power2_divisions,
max_split_size, garbage collection and giving segments back to the driver.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from dataclasses import dataclass

MIB = 1 << 20

MIN_BLOCK = 512
"""kMinBlockSize: every size is rounded up to a multiple of it."""

SMALL_SIZE = MIB
"""kSmallSize: the largest request that is served from the pool of small blocks."""

SMALL_SEGMENT = 2 * MIB
"""kSmallBuffer: what is asked of the driver for a small request."""

LARGE_SEGMENT = 20 * MIB
"""kLargeBuffer: what is asked of the driver for a request above SMALL_SIZE and below MIN_LARGE."""

MIN_LARGE = 10 * MIB
"""kMinLargeAlloc: from here on a request gets a segment of its own size, rounded up to ROUND_LARGE."""

ROUND_LARGE = 2 * MIB
"""kRoundLarge."""

GAP = 2 * MIB
"""Unmapped bytes between two segments. The driver's thunk leaves a guard page of 4 KiB on both sides of every allocation
(HSA_SVM_GUARD_PAGES, 1 by default) and aligns those of 2 MiB and more to 2 MiB at least; as segments are multiples of 2 MiB,
the next one begins 2 MiB on or later."""


@dataclass(slots=True, eq=False)
class Segment:
    """Memory that the driver mapped as a whole: [base, base + size), both in bytes and multiples of 2 MiB."""

    base: int
    size: int

    @property
    def end(self) -> int:
        """First byte past it, which is unmapped."""
        return self.base + self.size


@dataclass(slots=True, eq=False)
class Block:
    """A piece of a segment: [address, address + size). before, after: its neighbours in the segment, None at the ends."""

    segment: Segment
    address: int
    size: int
    is_used: bool = False
    before: Block | None = None
    after: Block | None = None

    @property
    def end(self) -> int:
        """First byte past it."""
        return self.address + self.size


class BlockPool:
    """Free blocks of one kind (small or large; the default pool or a graph's private one), and the segments they are cut from.

    Best fit: the smallest free block that is large enough, the lowest address among equals.
    """

    def __init__(self, space: ProcessAddresses, is_small: bool, expandable: bool) -> None:
        self._space = space
        self._is_small = is_small
        self._expandable = expandable
        # should_split: what is left over in a large block of its own segment stays with it up to 1 MiB
        self._least_rest = MIN_BLOCK if is_small or expandable else SMALL_SIZE + 1
        self._free: list[tuple[int, int, Block]] = []  # in order; no two have one address, so blocks are never compared
        self._last: Block | None = None  # of an expandable segment: the block at its end

    def allocate(self, size: int) -> Block:
        """A block for `size` bytes, which are a multiple of MIN_BLOCK."""
        at = bisect_left(self._free, (size,))
        if at < len(self._free):
            block = self._free.pop(at)[2]
        else:
            block = self._extended(size) if self._expandable else self._new_segment(size)
        block.is_used = True
        if block.size - size >= self._least_rest:
            self._split(block, size)
        return block

    def free(self, block: Block) -> None:
        """Gives a block back; it is joined with free neighbours of its segment."""
        block.is_used = False
        for neighbour in (block.before, block.after):
            if neighbour is not None and not neighbour.is_used:
                self._forget(neighbour)
                _join(*((neighbour, block) if neighbour is block.before else (block, neighbour)))
                block = neighbour if neighbour.address < block.address else block
        if self._last is not None and self._last.end == block.end:
            self._last = block
        self._remember(block)

    def _new_segment(self, size: int) -> Block:
        segment = self._space.map(segment_size(size))
        return Block(segment, segment.base, segment.size)

    def _extended(self, size: int) -> Block:
        """The free end of the expandable segment, made longer by whole granules until it takes `size`."""
        granule = SMALL_SEGMENT if self._is_small else LARGE_SEGMENT
        if self._last is None:
            segment = self._space.map(0)
            block = Block(segment, segment.base, 0)
        elif self._last.is_used:
            block = Block(self._last.segment, self._last.end, 0, before=self._last)
            self._last.after = block
        else:
            block = self._last
            self._forget(block)
        grown = -(-(size - block.size) // granule) * granule
        block.size += grown
        block.segment.size += grown
        self._last = block
        return block

    def _split(self, block: Block, size: int) -> None:
        rest = Block(block.segment, block.address + size, block.size - size, False, block, block.after)
        if block.after is not None:
            block.after.before = rest
        block.after, block.size = rest, size
        if self._last is block:
            self._last = rest
        self._remember(rest)

    def _remember(self, block: Block) -> None:
        insort(self._free, (block.size, block.address, block))

    def _forget(self, block: Block) -> None:
        at = bisect_left(self._free, (block.size, block.address))
        del self._free[at]


class ProcessAddresses:
    """The GPU's addresses of one process: segments from the top down, as the kernel's mmap hands them out, GAP apart."""

    TOP = 1 << 46
    EXPANDABLE = 1 << 40
    """Bytes reserved for an expandable segment, of which only what is in use is mapped."""

    def __init__(self) -> None:
        self.segments: list[Segment] = []
        self._next = self.TOP

    def map(self, size: int) -> Segment:
        """A segment of `size` bytes; 0 for an expandable one, which begins empty."""
        self._next -= (size or self.EXPANDABLE) + GAP
        segment = Segment(self._next, size)
        self.segments.append(segment)
        return segment

    def is_mapped(self, begin: int, end: int) -> bool:
        """Whether all of [begin, end) is; the bytes between two segments never are."""
        return any(segment.base <= begin and end <= segment.end for segment in self.segments)


class CachingAllocator:
    """Both pools of one kind of memory: the default one, or a graph's private one in the same address space."""

    def __init__(self, space: ProcessAddresses, expandable: bool = False) -> None:
        self._small = BlockPool(space, True, expandable)
        self._large = BlockPool(space, False, expandable)

    def allocate(self, size: int) -> Block:
        """A block for a tensor of `size` bytes."""
        rounded = max(-(-size // MIN_BLOCK), 1) * MIN_BLOCK
        return self._pool(rounded).allocate(rounded)

    def free(self, block: Block, size: int) -> None:
        """Gives back what `allocate(size)` returned."""
        self._pool(size).free(block)

    def _pool(self, size: int) -> BlockPool:
        return self._small if size <= SMALL_SIZE else self._large


def segment_size(size: int) -> int:
    """get_allocation_size: what is asked of the driver for a request of `size` bytes that no free block takes."""
    if size <= SMALL_SIZE:
        return SMALL_SEGMENT
    return LARGE_SEGMENT if size < MIN_LARGE else -(-size // ROUND_LARGE) * ROUND_LARGE


def _join(first: Block, second: Block) -> None:
    """Makes `first` cover `second`, its neighbour to the right, too."""
    first.size += second.size
    first.after = second.after
    if second.after is not None:
        second.after.before = first
