"""The memory that planners of one thread share: allocated once, grown when a planner writes farther than it reaches."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import numpy as np

from backend.aiter.arguments import BufferSizes
from backend.aiter.planners.memory import (
    BUFFER_NAMES,
    FIRST,
    HIGH,
    LIMIT,
    LOW,
    NOTHING_HIGH,
    NOTHING_LOW,
    ORIGIN,
    POISON,
)
from backend.aiter.planners.result import PlannedBuffer
from backend.errors import UnmodelledError

_WORDS_BEFORE = 4096
_WORDS_AFTER = (8192, 1 << 19, 1 << 16, 1 << 17, 1 << 17)
"""First windows, in the order of BUFFER_NAMES: a batch of 64 fits with room to spare (about 4 MiB in all)."""

_MOST_WORDS = 1 << 29
"""2 GiB of int32: a planner that writes farther is not followed."""

_STRAY_READS = 1024

Kernel = Callable[..., int]


class Arena:
    """Five windows of poisoned words, with marks of what was written and the table of stray reads; see memory.py."""

    def __init__(self) -> None:
        self._lay_out([_WORDS_BEFORE] * len(_WORDS_AFTER), list(_WORDS_AFTER))
        self.strays = np.zeros((_STRAY_READS, 2), np.int64)

    def run(self, kernel: Kernel, arguments: tuple[Any, ...]) -> int:
        """Let `kernel` write, by (words, written, spans, strays, *arguments); returns what it returns (branches).

        Runs it again with more memory as long as it wrote or noted past what there is; raises UnmodelledError where a planner
        writes gigabytes.
        """
        while True:
            branches = kernel(self.words, self.written, self.spans, self.strays, *arguments)
            if not self._grown():
                return branches

    def collect(self, allocated: BufferSizes) -> dict[str, PlannedBuffer]:
        """Copy out what the last planner left."""
        sizes = (
            allocated.work_indptr,
            allocated.work_info_set,
            allocated.reduce_indptr,
            allocated.reduce_final_map,
            allocated.reduce_partial_map,
        )
        buffers = {}
        for name, size, (origin, _, _, low, high) in zip(BUFFER_NAMES, sizes, self.spans.tolist(), strict=True):
            if low > high:
                low, high = 0, -1
            begin, end = origin + low, origin + high + 1
            buffers[name] = PlannedBuffer(name, size, low, self.words[begin:end].copy(), self.written[begin:end].copy())
        return buffers

    def stray_reads(self) -> list[tuple[int, int]]:
        """(array, index) of each stray read of the last planner."""
        count = int(self.strays[0, 0])
        return [(array, index) for array, index in self.strays[1 : count + 1].tolist()] if count else []

    def _grown(self) -> bool:
        spans = self.spans.tolist()
        grown = False
        if self.strays[0, 0] >= len(self.strays):
            self.strays = np.zeros((2 * int(self.strays[0, 0]) + 1, 2), np.int64)
            grown = True
        if any(low < first or high >= limit for _, first, limit, low, high in spans if low <= high):
            before = [max(-first, 2 * -low if low < first else 0) for _, first, _, low, _ in spans]
            after = [max(limit, 2 * high if limit <= high else 0) for _, _, limit, _, high in spans]
            self._lay_out(before, after)
            grown = True
        return grown

    def _lay_out(self, before: list[int], after: list[int]) -> None:
        total = sum(before) + sum(after)
        if total > _MOST_WORDS:
            raise UnmodelledError(f"planner writes over {total} words, more than the {_MOST_WORDS} that are followed")
        self.words = np.full(total, POISON, np.int32)
        self.written = np.zeros(total, np.uint8)
        self.spans = np.zeros((len(before), 5), np.int64)
        begin = 0
        for row, words_before, words_after in zip(self.spans, before, after, strict=True):
            row[ORIGIN] = begin + words_before
            row[FIRST], row[LIMIT] = -words_before, words_after
            row[LOW], row[HIGH] = NOTHING_LOW, NOTHING_HIGH
            begin += words_before + words_after


_LOCAL = threading.local()


def thread_arena() -> Arena:
    """The calling thread's arena."""
    arena: Arena | None = getattr(_LOCAL, "arena", None)
    if arena is None:
        arena = _LOCAL.arena = Arena()
    return arena
