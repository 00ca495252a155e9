"""Examples of a Hypothesis strategy, the same ones in every process: a function of the strategy and a seed.

Hypothesis' own provider of choices mixes in constants that it reads from whichever modules happen to be imported, so one
seed would give other cases in another process. The provider here depends on its seed alone and costs two thirds of the time.
It serves generation only; tests draw from the same strategies with Hypothesis' own provider and shrinker.
"""

from __future__ import annotations

import hashlib
from random import Random
from typing import Any, TypeVar

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.internal.conjecture.providers import AVAILABLE_PROVIDERS, PrimitiveProvider
from hypothesis.strategies import SearchStrategy, tuples

from backend.case import Case
from fuzz.space import CaseSpace
from fuzz.strategies import cases

T = TypeVar("T")

PROVIDER = "aiterfuzz"
"""Value of Hypothesis' setting `backend` that selects SeededProvider, by its documented extension point."""


class SeededProvider(PrimitiveProvider):
    """Uniform choices from one seeded generator; integers and booleans, which is all that our strategies draw.

    next_seed: of the instance that Hypothesis, which passes no arguments of ours, makes at the start of the next run.
    """

    lifetime = "test_function"
    next_seed: int = 0

    def __init__(self, conjecturedata: Any, /) -> None:
        super().__init__(conjecturedata)
        self._random = Random(self.next_seed)

    def draw_integer(
        self,
        min_value: int | None = None,
        max_value: int | None = None,
        *,
        weights: dict[int, float] | None = None,
        shrink_towards: int = 0,
    ) -> int:
        assert min_value is not None
        assert max_value is not None
        assert weights is None
        return min_value + int(self._random.random() * (max_value - min_value + 1))

    def draw_boolean(self, p: float = 0.5) -> bool:
        return self._random.random() < p

    def draw_float(self, **constraints: Any) -> float:
        raise NotImplementedError("a strategy of the search draws a float")

    def draw_string(self, *arguments: Any, **constraints: Any) -> str:
        raise NotImplementedError("a strategy of the search draws a string")

    def draw_bytes(self, *arguments: Any, **constraints: Any) -> bytes:
        raise NotImplementedError("a strategy of the search draws bytes")


AVAILABLE_PROVIDERS[PROVIDER] = SeededProvider


CHUNK = 250
"""Cases a chunk where nobody says otherwise: a tenth of a second of work on the model."""

BUNDLE = 25
"""Examples that Hypothesis draws as one, because its book-keeping costs 130 us each time, more than most cases do."""


def examples(strategy: SearchStrategy[T], count: int, seed: int) -> list[T]:
    """`count` examples, the simplest one first; they repeat themselves where the strategy has fewer."""
    bundles: list[tuple[T, ...]] = []

    @settings(
        backend=PROVIDER,
        max_examples=1 + -(-(count - 1) // BUNDLE),
        phases=[Phase.generate],
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(tuples(*[strategy] * BUNDLE))
    def collect(bundle: tuple[T, ...]) -> None:
        bundles.append(bundle)

    SeededProvider.next_seed = seed
    collect()
    # Hypothesis begins with the simplest choices throughout: a bundle of equals, of which one will do.
    simplest, *drawn = bundles
    return [simplest[0], *(example for bundle in drawn for example in bundle)][:count]


def chunk_cases(space: CaseSpace, seed: int, chunk: int, count: int = CHUNK) -> list[Case]:
    """The cases of one chunk, the first being the simplest of the space; of two counts, the smaller gives the first of them."""
    digest = hashlib.sha256(f"{seed}/{chunk}".encode()).digest()
    return examples(cases(space), count, int.from_bytes(digest[:8], "little"))
