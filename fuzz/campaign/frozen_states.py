"""The driver's side of guidance: which frozen state a chunk is made from, and whether it is there yet. Knows no worker."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import numpy as np

from backend.case import Case
from fuzz.campaign.best_cases import KEPT, FeatureMap, Frozen
from fuzz.campaign.generations import Generations
from fuzz.campaign.report import Reached
from fuzz.campaign.store_blobs import StoredChunk
from fuzz.space import CaseSpace

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


def case_at(
    space: CaseSpace, seed: int, count: int, guide: Guide, chunks: Mapping[int, StoredChunk], chunk: int, position: int
) -> Case | None:
    """The case at a place of a campaign, drawn again; None where what it was made from is not there. guide: a fresh one."""
    from fuzz.campaign.maker import Maker

    for number in sorted(chunks):
        guide.take(chunks[number])
    frozen = guide.frozen(chunk)
    return None if frozen is None else Maker(space, seed, count).cases(chunk, frozen)[position]
