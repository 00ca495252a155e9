"""Guidance: what is kept, and which cases are made from it. Deterministic, whoever runs them and when.

**Generations** (fuzz.campaign.guidance). A chunk of generation g is a function of (space, seed, its number, what the
chunks of generations 0 .. g-2 reached), nothing else. So the set of cases does not depend on how many workers there are or
how fast they are, a killed campaign goes on with the same cases, and any case can be drawn again from the store.

**Parents.** Each feature (fuzz.campaign.features) has one case to breed from, the best that the campaign has met. A parent is
drawn by the kernel that it reached, every kernel of a release with the same chance, because some are dispatched for one shape
in a thousand and no less likely to be wrong for it; among those of a kernel half of the draws go by rarity (1 / hits) and half
give every feature the same chance, without which a few thousand hits would make one as good as forgotten. Of two draws the
cheaper parent is taken: a few long batches would otherwise take most of the time.

**Crossings.** Most cases are the shape of a parent (what decides its kernel) with the rest of another case: batch, lengths,
graph, where its pages lie. That is either the parent of a known fault, every family of faults for the same time, since the same
slip is often there for another kernel, dtype or planner; or a case that is drawn afresh, the cheaper one of two.

**Mutations.** The others differ from a parent in one thing or a few (fuzz.campaign.mutate).

**Floor of the fresh.** A FRESH share of each chunk is drawn from the space as an unguided chunk would be: what coverage cannot
see is still met at a known rate.

This module knows parents and cases; not workers, and not where any of it is kept.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import accumulate, chain, islice
from random import Random

from backend.case import Case
from fuzz.campaign.features import cost, names_fault
from fuzz.campaign.guidance import Frozen, Guide
from fuzz.campaign.mutate import Mutator, pick
from fuzz.campaign.report import Parent
from fuzz.campaign.store_blobs import StoredChunk
from fuzz.space import CaseSpace
from fuzz.strategies import chunk_cases, drawn_cases, generator

FRESH = 0.25
"""Share of a chunk that is drawn afresh. Costs a quarter of the guidance at most, and bounds what guidance can lose."""

CROSSED = 0.7
"""Share of the rest that are crossings. The shares were chosen by `python -m benchmarks.campaign --only guidance`; between 0.4
and 0.8 this one makes no difference beyond the noise of its seeds, nor does FAMILY between 0.5 and 0.9. What matters is that
kernels are drawn alike, that parents are sound ones, and that there are crossings at all."""

FAMILY = 0.7
"""Share of the crossings that take the rest from the parent of a fault, where one is known."""


class Maker:
    """Makes the cases of chunks of one campaign. count: of every chunk."""

    def __init__(self, space: CaseSpace, seed: int, count: int) -> None:
        self.space = space
        self.seed = seed
        self.count = count
        self._mutator = Mutator(space)
        self._wheel: _Wheel | None = None

    def cases(self, chunk: int, frozen: Frozen) -> list[Case]:
        """The cases of a chunk, those drawn afresh first."""
        return list(self.drawn(chunk, frozen))

    def drawn(self, chunk: int, frozen: Frozen) -> Iterator[Case]:
        """The same, each made when it is asked for: the first fault need not wait for the last case."""
        if not frozen.parent_of:
            return islice(drawn_cases(self.space, self.seed, chunk), self.count)
        if self._wheel is None or self._wheel.frozen is not frozen:
            self._wheel = _Wheel(frozen)
        wheel = self._wheel
        fresh = chunk_cases(self.space, self.seed, chunk, max(1, int(self.count * FRESH)))
        random = generator(f"{self.seed}/{chunk}/bred")
        return chain(fresh, (self._bred(wheel, fresh, random) for _ in range(self.count - len(fresh))))

    def _bred(self, wheel: _Wheel, fresh: Sequence[Case], random: Random) -> Case:
        parent = wheel.parent(random)
        if random.random() >= CROSSED:
            return self._mutator.mutate(parent, lambda: wheel.parent(random), random)
        if wheel.knows_faults and random.random() < FAMILY:
            rest = wheel.faulty(random)
        else:
            rest = min(pick(random, fresh), pick(random, fresh), key=cost)
        return self._mutator.cross(parent, rest, random)


class _Wheel:
    """Draws parents of one generation."""

    def __init__(self, frozen: Frozen) -> None:
        self.frozen = frozen
        kernels: defaultdict[str, list[int]] = defaultdict(list)
        families: defaultdict[str, list[int]] = defaultdict(list)
        for feature, index in frozen.parent_of.items():
            kernels[frozen.parents[index].kernel].append(feature)
            if names_fault(feature):
                families[frozen.parents[index].family].append(feature)
        self._kernels = [_Rarity(known, frozen.hits) for known in kernels.values()]
        self._families = list(families.values())
        cheapest = (min(self._parent(fault).cost for fault in faults) for faults in self._families)
        self._shares = list(accumulate(1 / cost for cost in cheapest))

    @property
    def knows_faults(self) -> bool:
        """Whether `faulty` has anything to draw from."""
        return bool(self._families)

    def parent(self, random: Random) -> Case:
        """A parent: any kernel, and of its features any or a rare one."""
        features = pick(random, self._kernels)
        return self._cheaper(features.draw(random), features.draw(random))

    def faulty(self, random: Random) -> Case:
        """The parent of a fault: families by what they cost, so that each gets the same time, and any fault of it."""
        faults = self._families[_place(random, self._shares)]
        return self._cheaper(pick(random, faults), pick(random, faults))

    def _cheaper(self, *features: int) -> Case:
        return min(map(self._parent, features), key=lambda parent: parent.cost).case

    def _parent(self, feature: int) -> Parent:
        return self.frozen.parents[self.frozen.parent_of[feature]]


def case_at(
    space: CaseSpace, seed: int, count: int, guide: Guide, chunks: Mapping[int, StoredChunk], chunk: int, position: int
) -> Case | None:
    """The case at a place of a campaign, drawn again; None where what it was made from is not there. guide: a fresh one."""
    for number in sorted(chunks):
        guide.take(chunks[number])
    frozen = guide.frozen(chunk)
    return None if frozen is None else Maker(space, seed, count).cases(chunk, frozen)[position]


class _Rarity:
    """Draws features by rarity half of the time, and all alike the other half."""

    def __init__(self, features: Iterable[int], hits: Mapping[int, int]) -> None:
        self._features = list(features)
        self._sums = list(accumulate(1 / hits[feature] for feature in self._features))

    def draw(self, random: Random) -> int:
        """Draws a feature by its weight."""
        if random.random() < 0.5:
            return pick(random, self._features)
        return self._features[_place(random, self._sums)]


def _place(random: Random, sums: Sequence[float]) -> int:
    """An index, drawn by weights whose running sums are given."""
    return bisect_right(sums, random.random() * sums[-1], hi=len(sums) - 1)
