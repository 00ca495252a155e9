"""What guidance keeps: the best case to breed from for each feature, and what a generation of chunks is made from.

How cases are made from it: fuzz.campaign.maker. This module is what the process that hands out chunks needs of guidance; it
imports nothing slow, and knows neither workers nor where any of it is kept.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field

from backend.codec import from_plain, to_plain
from fuzz.campaign.features import better
from fuzz.campaign.report import NO_PARENT, Parent, Reached

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
