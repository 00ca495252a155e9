"""Which generation a chunk belongs to, by its number alone: 1, 1, 2, 4, ... chunks, then full generations of equal size.

Guidance sets in early, because the first generations are small, and few generations are made over a long campaign.
"""

from __future__ import annotations

from dataclasses import dataclass

LAG = 2
"""A generation is made from what the generations before the one before it reached, so that nobody waits for its stragglers."""


@dataclass(frozen=True, slots=True)
class Generations:
    """The partition of chunks 0, 1, 2, ... most: chunks of a full generation, at least 1."""

    most: int

    @property
    def _doublings(self) -> int:
        """Number of the last generation that is a power of two, that of its chunks at most `most`."""
        return self.most.bit_length()

    def of(self, chunk: int) -> int:
        """The generation of a chunk."""
        full_from = 1 << self._doublings
        if chunk < full_from:
            return chunk.bit_length()
        return self._doublings + 1 + (chunk - full_from) // self.most

    def first_chunk(self, generation: int) -> int:
        """Number of the first chunk of a generation."""
        if generation <= self._doublings:
            return 1 << (generation - 1) if generation else 0
        return (1 << self._doublings) + (generation - self._doublings - 1) * self.most

    def made_from(self, generation: int) -> int:
        """How many chunks, counted from 0, a generation is made from; 0: it is not guided."""
        return self.first_chunk(generation - LAG + 1) if generation >= LAG else 0
