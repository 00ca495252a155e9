"""Memory of a virtual GPU that is really there: segments mapped where torch's caching allocator would have them.

An address of the virtual GPU is an address of this process, so that kernels, host code and torch's own CPU operations meet in
the same bytes: what is written past a tensor lands in its neighbour, and what no segment covers is not mapped. Pages are
backed only where they are touched. This module knows no tensor's meaning.
"""

from __future__ import annotations

import ctypes
import mmap
import os
import weakref
from bisect import bisect_right
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from backend.errors import CannotRunError
from backend.real.allocator import Block, CachingAllocator, ProcessAddresses, Segment
from backend.real.theirs import says
from backend.words import number_of

Bytes = npt.NDArray[np.uint8]

MAP_NORESERVE, MAP_FIXED_NOREPLACE = 0x4000, 0x10_0000
"""Linux (asm-generic/mman-common.h, x86 and arm64 alike); Python's mmap module has no name for the second and no address."""

NULL_PAGE = 4096
"""Bytes from address 0 on: an access there went through a null pointer."""


class UnmappedError(Exception):
    """An access to memory that is not mapped. address: of its first byte that is not."""

    def __init__(self, address: int) -> None:
        super().__init__(f"address {address:#x} is not mapped")
        self.address = address


@dataclass(frozen=True, slots=True)
class Mapped:
    """One segment with its bytes."""

    segment: Segment
    content: Bytes


class DeviceMemory:
    """All memory of one GPU in one process. `capacity`: bytes that may be allocated; beyond, MemoryError as from the driver.

    pool: what is allocated now comes from; torch gives each stream blocks of its own, and each graph.
    """

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.pool: object = 0
        self.allocated = 0
        self.peak = 0
        self._space = ProcessAddresses()
        self._allocators: dict[object, CachingAllocator] = {}
        self._mapped: list[Mapped] = []  # by base
        self._mmap = _libc_mmap()

    def allocate(self, nbytes: int) -> Any:
        """A buffer of `nbytes` (at least 1) for torch.frombuffer or numpy; its block is given back when nobody holds it."""
        if self.allocated + nbytes > self.capacity:
            says(
                MemoryError(
                    f"HIP out of memory: {number_of(nbytes, 'byte')} asked for, {self.allocated} of {self.capacity} in use"
                )
            )
        if self.pool not in self._allocators:
            self._allocators[self.pool] = CachingAllocator(self._space)
        allocator = self._allocators[self.pool]
        block = allocator.allocate(nbytes)
        self._map_new_segments()
        buffer = (ctypes.c_ubyte * nbytes).from_address(block.address)
        self.allocated += block.size
        self.peak = max(self.peak, self.allocated)
        weakref.finalize(buffer, self._free, allocator, block, nbytes).atexit = False
        return buffer

    def segments(self) -> tuple[Mapped, ...]:
        """Everything that is mapped, by address."""
        return tuple(self._mapped)

    def holds(self, address: int) -> bool:
        """Whether the address lies in a segment."""
        return self._segment_of(address) is not None

    def bytes_at(self, address: int, nbytes: int) -> Bytes:
        """The bytes [address, address + nbytes), to read and to write; UnmappedError where one of them is not mapped."""
        found = self._segment_of(address)
        if found is None:
            raise UnmappedError(address)
        offset = address - found.segment.base
        if offset + nbytes > found.content.size:
            raise UnmappedError(found.segment.end)
        return found.content[offset : offset + nbytes]

    def bytes_from(self, address: int) -> Bytes:
        """The bytes from a mapped address to the end of its segment."""
        found = self._segment_of(address)
        if found is None:
            raise UnmappedError(address)
        return found.content[address - found.segment.base :]

    def _segment_of(self, address: int) -> Mapped | None:
        at = bisect_right(self._mapped, address, key=lambda mapped: mapped.segment.base) - 1
        if at < 0 or address >= self._mapped[at].segment.end:
            return None
        return self._mapped[at]

    def _map_new_segments(self) -> None:
        for segment in self._space.segments[len(self._mapped) :]:
            flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED_NOREPLACE
            given = self._mmap(segment.base, segment.size, mmap.PROT_READ | mmap.PROT_WRITE, flags, -1, 0)
            if given != segment.base:
                raise CannotRunError(
                    f"memory of the virtual GPU: {number_of(segment.size, 'byte')} at {segment.base:#x} cannot be mapped "
                    f"({os.strerror(ctypes.get_errno())}); give the process more address space (ulimit -v)"
                )
            memory = (ctypes.c_ubyte * segment.size).from_address(segment.base)
            self._mapped.append(Mapped(segment, np.ctypeslib.as_array(memory)))
        self._mapped.sort(key=lambda mapped: mapped.segment.base)

    def _free(self, allocator: CachingAllocator, block: Block, nbytes: int) -> None:
        self.allocated -= block.size
        allocator.free(block, nbytes)


def _libc_mmap() -> Any:
    function = ctypes.CDLL(None, use_errno=True).mmap
    function.restype = ctypes.c_size_t
    function.argtypes = [
        ctypes.c_void_p,
        ctypes.c_size_t,
        ctypes.c_int,
        ctypes.c_int,
        ctypes.c_int,
        ctypes.c_long,
    ]
    return function
