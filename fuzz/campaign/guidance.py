"""The driver's side of guidance: the best case to breed from for each feature, and the frozen state that chunks are made from.

A chunk's generation follows from its number alone: 1, 1, 1, 1, 2, 3, 4, 6, ... chunks, then full ones of equal size. Guidance
sets in early, because the first generations are small; each grows by half of what there is, so that what one is made from is
never much older than that; and few are made over a long campaign.

How cases are made from it: fuzz.campaign.maker. This module imports nothing slow, and knows neither workers nor where any of it
is kept.
"""

from __future__ import annotations

import json
from bisect import bisect_right
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np

from backend.codec import from_plain, to_plain
from fuzz.campaign.features import better
from fuzz.campaign.report import NO_PARENT, Parent, Reached
from fuzz.campaign.store_blobs import StoredChunk

COMMON = 1000
"""Hits from which a feature is no longer reported: by then its rarity is as good as nothing, and reports stay small."""

KEPT = 2
"""Generations before the newest one that are held frozen: chunks of two run at once, and one may have to be run again."""


@dataclass(frozen=True, slots=True, eq=False)
class Frozen:
    """What a generation is made from. hits: by feature; parents: to breed from; parent_of: index of a feature's parent.

    A generation without any parent is drawn afresh throughout.
    """

    generation: int = 0
    hits: Mapping[int, int] = field(default_factory=dict)
    parents: tuple[Parent, ...] = ()
    parent_of: Mapping[int, int] = field(default_factory=dict)

    def parent(self, feature: int) -> Parent | None:
        """The parent of a feature, None where it has none."""
        index = self.parent_of.get(feature)
        return None if index is None else self.parents[index]

    def to_text(self) -> str:
        """Writes it as JSON, for the processes that run chunks."""
        plain = [self.generation, list(self.hits.items()), to_plain(self.parents), list(self.parent_of.items())]
        return json.dumps(plain, separators=(",", ":"))

    @classmethod
    def from_text(cls, text: str) -> Frozen:
        """Reads what `to_text` wrote."""
        generation, hits, parents, parent_of = json.loads(text)
        return cls(generation, dict(hits), tuple(from_plain(Parent, plain) for plain in parents), dict(parent_of))


class FeatureMap:
    """What chunks have reached so far, taken in by order of their numbers; `freeze` gives what a generation is made from."""

    def __init__(self) -> None:
        self.chunks = 0
        self._hits: dict[int, int] = {}
        self._parents: dict[int, Parent] = {}

    def take(self, chunk: int, reached: Reached, kept: Mapping[int, Parent]) -> None:
        """Takes in the next chunk. reached, kept: of its report."""
        assert chunk == self.chunks, (chunk, self.chunks)
        self.chunks += 1
        for feature, count, position in zip(
            reached.ids.tolist(), reached.counts.tolist(), reached.positions.tolist(), strict=True
        ):
            self._hits[feature] = self._hits.get(feature, 0) + count
            if position != NO_PARENT:
                known = self._parents.get(feature)
                if known is None or better(kept[position], known):
                    self._parents[feature] = kept[position]

    def freeze(self, generation: int) -> Frozen:
        """What a generation is made from, which later chunks do not change."""
        unique = {id(parent): parent for parent in self._parents.values()}
        index_of = {name: index for index, name in enumerate(unique)}
        parent_of = {feature: index_of[id(parent)] for feature, parent in self._parents.items()}
        return Frozen(generation, dict(self._hits), tuple(unique.values()), parent_of)


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


NOTHING = Reached(np.zeros(0, np.int64), np.zeros(0, np.uint32), np.zeros(0, np.uint16))


class Guide:
    """Takes in chunks as they are done, in any order, and freezes generations when their turn comes.

    guided: False keeps every generation at nothing, so that all chunks are drawn afresh. `features` counts distinct ones.
    """

    def __init__(self, generation_chunks: int, guided: bool) -> None:
        self._generations = Generations(generation_chunks)
        self._guided = guided
        self._map = FeatureMap()
        self._waiting: dict[int, StoredChunk] = {}
        self._frozen: dict[int, Frozen] = {}
        self._seen: set[int] = set()

    @property
    def features(self) -> int:
        """Distinct features of all chunks taken in."""
        return len(self._seen)

    def take(self, chunk: StoredChunk) -> None:
        """Takes in a chunk that is done."""
        self._seen.update(chunk.reached.ids.tolist())
        if self._guided:
            self._waiting[chunk.chunk] = chunk

    def take_nothing(self, chunk: int) -> None:
        """A chunk that was set aside: guidance goes on without it."""
        self.take(StoredChunk(chunk, NOTHING, {}))

    def take_all(self, chunks: Iterable[StoredChunk], set_aside: Iterable[int]) -> None:
        """Those of a campaign that goes on."""
        for number in set_aside:
            self.take_nothing(number)
        for chunk in chunks:
            if chunk.chunk not in self._waiting:
                self.take(chunk)

    def frozen(self, chunk: int) -> Frozen | None:
        """What a chunk is made from; None where a chunk that it is made from is not done yet."""
        generation = self._generations.of(chunk)
        needed = self._generations.made_from(generation)
        if not self._guided or not needed:
            return Frozen(generation)
        if generation not in self._frozen and not self._freeze_up_to(generation):
            return None
        return self._frozen[generation]

    def _freeze_up_to(self, generation: int) -> bool:
        """Freezes every generation that is not frozen yet up to this one, where the chunks that it is made from are there."""
        first = max(self._frozen, default=-1) + 1
        assert first <= generation, "a generation that was dropped is asked for again"
        for number in range(first, generation + 1):
            if not self._advance(self._generations.made_from(number)):
                return False
            self._frozen[number] = self._map.freeze(number)
        # Two generations run at once at most; an older one is asked for only where a worker was lost over it.
        self._frozen = {number: frozen for number, frozen in self._frozen.items() if number >= generation - KEPT}
        return True

    def _advance(self, chunks: int) -> bool:
        """Takes in chunks up to a number, where all of them are there."""
        while self._map.chunks < chunks:
            chunk = self._waiting.pop(self._map.chunks, None)
            if chunk is None:
                return False
            self._map.take(chunk.chunk, chunk.reached, chunk.kept)
        return True
