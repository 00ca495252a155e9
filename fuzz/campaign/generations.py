"""Which generation a chunk belongs to, by its number alone: 1, 1, 1, 1, 2, 3, 4, 6, ... chunks, then full ones of equal size.

Guidance sets in early, because the first generations are small; each grows by half of what there is, so that what one is made
from is never much older than that; and few are made over a long campaign.
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass
from functools import lru_cache

LAG = 2
"""A generation is made from what the generations before the one before it reached, so that nobody waits for its stragglers."""


@dataclass(frozen=True, slots=True)
class Generations:
    """The partition of chunks 0, 1, 2, ... most: chunks of a full generation, at least 1."""

    most: int

    def of(self, chunk: int) -> int:
        """The generation of a chunk."""
        starts = _starts(self.most)
        beyond = chunk - starts[-1]
        return bisect_right(starts, chunk) - 1 if beyond < 0 else len(starts) - 1 + beyond // self.most

    def first_chunk(self, generation: int) -> int:
        """Number of the first chunk of a generation."""
        starts = _starts(self.most)
        beyond = generation - (len(starts) - 1)
        return starts[generation] if beyond < 0 else starts[-1] + beyond * self.most

    def made_from(self, generation: int) -> int:
        """How many chunks, counted from 0, a generation is made from; 0: it is not guided."""
        return self.first_chunk(generation - LAG + 1) if generation >= LAG else 0


@lru_cache(maxsize=16)
def _starts(most: int) -> tuple[int, ...]:
    """First chunks of the growing generations and of the first full one."""
    starts = [0]
    while (size := max(1, starts[-1] // 2)) < most:
        starts.append(starts[-1] + size)
    return tuple(starts)
