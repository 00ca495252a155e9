"""The memory that planners of one thread share: allocated once, grown when a planner writes farther than it reaches."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from backend.aiter.arguments import BufferSizes
from backend.aiter.planners.memory import BUFFER_NAMES
from backend.aiter.planners.result import PlannedBuffer
from backend.cxx.memory import Spaces

_WORDS_BEFORE = 4096
_WORDS_AFTER = (8192, 1 << 19, 1 << 16, 1 << 17, 1 << 17)
"""First windows, in the order of BUFFER_NAMES: a batch of 64 fits with room to spare (about 4 MiB in all)."""

Kernel = Callable[..., int]


class Arena(Spaces):
    """The five buffers of a planner; see memory.py."""

    def __init__(self) -> None:
        super().__init__([_WORDS_BEFORE] * len(_WORDS_AFTER), _WORDS_AFTER)

    def plan(self, kernel: Kernel, arguments: tuple[Any, ...]) -> int:
        """Let `kernel` clear the buffers and write, by (words, written, spans, strays, *arguments); returns what it returns.

        Runs it again with more memory as long as it wrote or noted past what there is.
        """
        while True:
            branches = kernel(self.words, self.written, self.spans, self.strays, *arguments)
            if not self.grown():
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


_LOCAL = threading.local()


def thread_arena() -> Arena:
    """The calling thread's arena."""
    arena: Arena | None = getattr(_LOCAL, "arena", None)
    if arena is None:
        arena = _LOCAL.arena = Arena()
    return arena
