"""Guidance: what counts as new, what is kept, and which cases are made from it. Deterministic, whoever runs them and when.

**Generations** (fuzz.campaign.generations). A chunk of generation g is a function of (space, seed, its number, what the chunks
of generations 0 .. g-2 reached), nothing else. So the set of cases does not depend on how many workers there are or how fast
they are, a killed campaign goes on with the same cases, and any case can be drawn again from the store.

**Features.** Identifiers of an observation's coverage (branches of the planner, the dispatched kernel, edges of machine code),
and besides, so that combinations count as new too: the set of planner branches with the kernel, the fault, and the set of
findings. A refusal is a feature of its own.

**Parents.** The first case, in the order of chunks and positions, to have a feature is kept as its parent for as long as the
campaign runs. Half of the mutations start from a feature drawn by rarity (1 / hits), the other half from any feature with equal
chance: that is the floor of the rare, without which a few thousand hits would make a feature as good as forgotten. Where faults
are known, half of all mutations start from the parent of one and mostly change its shape: heads, dtypes, rows, mode, release.

**Floor of the fresh.** A FRESH share of each chunk is drawn from the space as an unguided chunk would be: what coverage cannot
see is still met at a known rate.

This module knows outcomes and cases; not workers, and not where any of it is kept.
"""

from __future__ import annotations

import hashlib
import json
import zlib
from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import accumulate
from random import Random

from backend.aiter.launch import Refusal
from backend.case import Case
from backend.codec import from_plain, to_plain
from backend.path import Outcome
from fuzz.campaign.mutate import Mutator
from fuzz.campaign.report import Reached
from fuzz.search import chunk_cases
from fuzz.space import CaseSpace

FRESH = 0.25
"""Share of a chunk that is drawn afresh. Costs a quarter of the guidance at most, and bounds what guidance can lose."""

SIBLINGS = 0.5
"""Share of the mutations that start from the parent of a fault, where one is known: faults come in families (the same slip for
another kernel, dtype or planner), and a step away from one of them its siblings are more frequent than anywhere else."""

COMMON = 1000
"""Hits from which a feature is no longer reported: by then its rarity is as good as nothing, and reports stay small."""

KEPT = 2
"""Generations before the newest one that are held frozen: chunks of two run at once, and one may have to be run again."""

_COMBINATION = 1 << 40
"""Added to hashes of combinations, which keeps them apart from the identifiers of devices, whose hashes have 33 bits."""

_FAULT = 1 << 41
"""Added to hashes of a fault's signature."""


def features(outcome: Outcome) -> list[int]:
    """Identifiers of what a case reached, the same in every process."""
    found = list(outcome.observation.coverage) if outcome.observation is not None else []
    call = outcome.call
    branches = call.plan.branches if call is not None and call.plan is not None else 0
    if call is None:
        found.append(_hash("refused by the backend"))
    elif isinstance(call.launch, Refusal):
        # Who refuses, not why: reasons name the case's own figures, which would make every refusal a new one.
        found.append(_hash(f"refused by {call.launch.raised_by}, {branches}"))
    else:
        found.append(_hash(f"{branches} {call.launch.code_object} {call.launch.fold} {call.launch.second_stage.kind}"))
    if outcome.findings:
        found.append(_hash(" ".join(sorted({finding.signature for finding in outcome.findings}))))
    if outcome.faulty and outcome.cause is not None:
        found.append(_FAULT + _hash(outcome.cause.signature))
    return found


def _hash(text: str) -> int:
    return _COMBINATION + zlib.crc32(text.encode())


@dataclass(frozen=True, slots=True, eq=False)
class Frozen:
    """What a generation is made from. hits: by feature; parents: cases to mutate; parent_of: index of a feature's parent.

    A generation without anything to mutate is drawn afresh throughout.
    """

    generation: int = 0
    hits: Mapping[int, int] = field(default_factory=dict)
    parents: tuple[Case, ...] = ()
    parent_of: Mapping[int, int] = field(default_factory=dict)

    def to_text(self) -> str:
        """As JSON, for the processes that run chunks."""
        plain = [self.generation, list(self.hits.items()), to_plain(self.parents), list(self.parent_of.items())]
        return json.dumps(plain, separators=(",", ":"))

    @classmethod
    def from_text(cls, text: str) -> Frozen:
        """Of `to_text`."""
        generation, hits, parents, parent_of = json.loads(text)
        return cls(generation, dict(hits), tuple(from_plain(Case, plain) for plain in parents), dict(parent_of))


class FeatureMap:
    """What chunks have reached so far, taken in by order of their numbers; `freeze` gives what a generation is made from."""

    def __init__(self) -> None:
        self.chunks = 0
        self._hits: dict[int, int] = {}
        self._parents: list[Case] = []
        self._parent_of: dict[int, int] = {}

    def take(self, chunk: int, reached: Reached, kept: Mapping[int, Case]) -> None:
        """Takes in the next chunk. reached, kept: of its report."""
        assert chunk == self.chunks, (chunk, self.chunks)
        self.chunks += 1
        index_at: dict[int, int] = {}
        for feature, count, position in zip(
            reached.ids.tolist(), reached.counts.tolist(), reached.positions.tolist(), strict=True
        ):
            new = feature not in self._hits
            self._hits[feature] = self._hits.get(feature, 0) + count
            if new and position in kept:
                if position not in index_at:
                    index_at[position] = len(self._parents)
                    self._parents.append(kept[position])
                self._parent_of[feature] = index_at[position]

    def freeze(self, generation: int) -> Frozen:
        """What a generation is made from, which later chunks do not change."""
        return Frozen(generation, dict(self._hits), tuple(self._parents), dict(self._parent_of))


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
        if not frozen.parent_of:
            return chunk_cases(self.space, self.seed, chunk, self.count)
        if self._wheel is None or self._wheel.frozen is not frozen:
            self._wheel = _Wheel(frozen)
        fresh = chunk_cases(self.space, self.seed, chunk, max(1, int(self.count * FRESH)))
        digest = hashlib.sha256(f"{self.seed}/{chunk}/mutations".encode()).digest()
        random = Random(int.from_bytes(digest[:8], "little"))
        return fresh + [self._mutated(self._wheel, random) for _ in range(self.count - len(fresh))]

    def _mutated(self, wheel: _Wheel, random: Random) -> Case:
        parent, of_fault = wheel.draw(random)
        return self._mutator.mutate(parent, lambda: wheel.draw(random)[0], random, sibling=of_fault)


class _Wheel:
    """Draws parents of one generation: by rarity of the feature, or any feature alike."""

    def __init__(self, frozen: Frozen) -> None:
        self.frozen = frozen
        everything = list(frozen.parent_of)
        self._any = _Rarity(everything, frozen)
        faults = [feature for feature in everything if feature & _FAULT]
        self._faults = _Rarity(faults, frozen) if faults else None

    def draw(self, random: Random) -> tuple[Case, bool]:
        """A parent, and whether it is one of the family of a fault."""
        of_fault = self._faults is not None and random.random() < SIBLINGS
        wheel = self._faults if of_fault and self._faults is not None else self._any
        return self.frozen.parents[self.frozen.parent_of[wheel.draw(random)]], of_fault


class _Rarity:
    """Draws features by rarity half of the time, and all alike the other half."""

    def __init__(self, features: list[int], frozen: Frozen) -> None:
        self._features = features
        self._sums = list(accumulate(1 / frozen.hits[feature] for feature in features))

    def draw(self, random: Random) -> int:
        """A feature."""
        if random.random() < 0.5:
            return self._features[int(random.random() * len(self._features))]
        return self._features[bisect_right(self._sums, random.random() * self._sums[-1], hi=len(self._sums) - 1)]
