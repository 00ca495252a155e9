"""Cases by a seed, the same ones in every process: a function of the space, the seed and the number of the chunk."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from itertools import islice
from random import Random

from backend.case import Case
from fuzz.space import CaseSpace
from fuzz.strategies import Draw, Tables, chosen_case

CHUNK = 250
"""Cases a chunk where nobody says otherwise: a tenth of a second of work on the model."""


def generator(name: str) -> Random:
    """A generator of random numbers that is a function of a name."""
    return Random(int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "little"))


def uniform(random: Random) -> Draw:
    """Uniform choices by a generator."""
    number = random.random
    return lambda count: int(number() * count)


def simplest(count: int) -> int:
    """The first of `count` entries."""
    del count
    return 0


def drawn_cases(space: CaseSpace, seed: int, chunk: int) -> Iterator[Case]:
    """The cases of one chunk, without end, each made when it is asked for; the first one is the simplest of the space.

    They repeat themselves where the space holds few.
    """
    tables = Tables.of(space)
    yield chosen_case(simplest, tables)
    draw = uniform(generator(f"{seed}/{chunk}"))
    while True:
        yield chosen_case(draw, tables)


def chunk_cases(space: CaseSpace, seed: int, chunk: int, count: int = CHUNK) -> list[Case]:
    """The first cases of one chunk."""
    return list(islice(drawn_cases(space, seed, chunk), count))
