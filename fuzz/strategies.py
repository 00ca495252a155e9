"""How a case is chosen: valid by construction, dense where planners, kernels and their callers change their minds.

A case is about ten choices whatever its batch, because a batch is drawn as a pattern (all equal, one long and the rest
short, a ramp, ...) and not request by request. Each choice is an index below a count, and lists stand simplest first: the
choice of 0 throughout is plain decode of one short request. Cases by a seed are the same ones in every process: a function of
the space, the seed and the number of the chunk. Knows the Case and the space, not what runs a case.
"""

from __future__ import annotations

import hashlib
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from itertools import islice, product
from random import Random
from typing import Any, TypeVar

from backend.case import NUM_CU, QK_HEAD_DIM, V_HEAD_DIM, Arch, Case, MetadataMode, PageOrder, keep_below
from backend.serving.bounds import AllocatedFor, TensorTypes
from fuzz.space import CaseSpace

T = TypeVar("T")

Draw = Callable[[int], int]
"""Chooses an index from 0 below a count, which is at least 1."""

WARP_AND_PACKING = (1, 2, 4, 8, 16, 32, 64, 128)
"""KV granularities, pages, kernel tiles and packed query rows are all powers of two up to 128."""

SPLIT_TOKENS = 196
"""Planner v1_0 gives a request one more split for every 196 tokens (AITER csrc/kernels/mla/metadata/v1_0)."""

LENGTH_EDGES: tuple[int, ...] = tuple(
    sorted(
        {
            *WARP_AND_PACKING,
            48,
            *(192 * k for k in (1, 2, 4)),
            *(SPLIT_TOKENS * k for k in (1, 2, 3, 4, 8, 16, 32, 64)),
            *(2**k for k in range(8, 23)),
            *(2**k + 2 ** (k - 1) for k in range(8, 17)),
            1000,
            10_000,
            100_000,
        }
    )
)
"""Lengths around which something changes; drawn with an offset of OFFSETS."""

OFFSETS = (0, 0, 0, -1, 1, -2, 2, 3, 4, 5)
"""Around an edge: planner v1_0 treats a tail of 1 to 4 tokens apart, so 5 is the first past it."""

ROWS_WEIGHT = {1: 6, 2: 2, 4: 3}
"""Plain decode, and the draft tokens that models are served with, come more often than other row counts."""

CAPTURED = (1, 2, 4, 8, 16, 24, 32, 48, 64, 96, 128, 160, 192, 256, 320, 512)
"""Batches that frameworks capture graphs for."""

MEMORY = 256 << 30
"""Bytes of a pool at most: an MI355X has 288 GB, weights included."""

NEAR_POOL = (1 << 31) + (1 << 20)
"""First byte of a near pool's requests at most: with the tokens of a whole batch behind it, it stays below 4 GiB."""

FOLDS = (1, 2, 3, 4, 5, 6, 7, 8)
"""Groups of 16 heads that planners fold a request into, so that batch x fold is what meets the number of CUs."""


def chosen_case(draw: Draw, tables: Tables) -> Case:
    """A case of the space that these are the tables of."""
    space = tables.space
    release, heads, (arch, q_dtype, kv_dtype), page_size, mode = pick(draw, tables.shapes)
    rows = pick(draw, tables.rows)
    batch = pick(draw, tables.batches)
    kv_lens = _lengths(draw, tables, batch, rows)
    graph_batch = pick(draw, tables.graphs_from(batch)) if space.graphs else None
    num_cu = pick(draw, COMPUTE_UNITS[arch])
    options: dict[str, Any] = {name: pick(draw, values) for name, values in space.options}
    keep_below(options)
    latent, rope = options.get("kv_lora_rank", V_HEAD_DIM), options.get("qk_rope_head_dim", QK_HEAD_DIM - V_HEAD_DIM)
    first_page, page_order = pick(draw, pool_starts(page_size * (latent + rope) * kv_dtype.itemsize, space.far_pools))
    return Case(
        num_head=heads,
        kv_lens=kv_lens,
        max_seqlen_q=rows,
        query_lens=_query_lens(draw, space, rows, batch) if space.ragged_rows and rows > 1 else None,
        page_size=page_size,
        q_dtype=q_dtype,
        kv_dtype=kv_dtype,
        arch=arch,
        num_cu=num_cu,
        release=release,
        backend=space.backend,
        mode=mode,
        graph_batch=graph_batch,
        max_batch=_max_batch(draw, space, batch, graph_batch),
        first_page=first_page,
        page_order=page_order,
        **options,
    )


@dataclass(frozen=True)
class Tables:
    """What the choices of a space index, computed once a space."""

    space: CaseSpace
    shapes: tuple[tuple[str, int, TensorTypes, int, MetadataMode | None], ...] = field(repr=False)
    rows: tuple[int, ...] = field(repr=False)
    batches: tuple[int, ...] = field(repr=False)

    @classmethod
    def of(cls, space: CaseSpace) -> Tables:
        shapes = tuple(product(space.releases, space.heads, space.tensor_types, space.page_sizes, space.modes))
        rows = tuple(n for n in space.query_rows for _ in range(ROWS_WEIGHT.get(n, 1)))
        return cls(space, shapes, rows, batches(space.max_batch))

    def graphs_from(self, batch: int) -> tuple[int | None, ...]:
        return graph_batches(batch, self.space.max_batch)


COMPUTE_UNITS: dict[Arch, tuple[int, ...]] = {Arch.GFX950: (0,), Arch.GFX942: (0, 0, 0, 80)}
"""The whole GPU; an MI308X is a gfx942 with 80 CUs."""


def batches(most: int) -> tuple[int, ...]:
    """Batch sizes as often as they shall come: mostly small, all up to 64, and edges where batch x fold meets the CUs."""
    edges = {units // fold + off for units in NUM_CU.values() for fold in FOLDS for off in (-1, 0, 1)}
    edges |= {captured + off for captured in CAPTURED for off in (0, 1)}
    small = [n for n in range(1, 17) for _ in range(6)]
    return tuple(n for n in (*small, *range(17, 65), *sorted(n for n in edges if n > 16)) if n <= most)


@lru_cache(maxsize=1024)
def graph_batches(batch: int, most: int) -> tuple[int | None, ...]:
    """Eager, or the captured batch that this one is replayed in: the next sizes, itself, one more."""
    captured = [n for n in CAPTURED if batch <= n <= most]
    return (None, None, None, *captured[:2], batch, *([batch + 1] if batch < most else []))


def pool_limit(far: bool) -> int:
    """Byte before which a pool's requests begin; `far`: whether the pool may pass 4 GiB."""
    return MEMORY if far else NEAR_POOL


@lru_cache(maxsize=64)
def pool_starts(page_bytes: int, far: bool) -> tuple[tuple[int, PageOrder], ...]:
    """(first page, order): mostly a pool from 0; where `far`, also pages where a product of 24 or 32 bits wraps."""
    sequential = [(0, PageOrder.SEQUENTIAL)] * 24
    edges = {
        1,
        1 << 24,
        (1 << 24) - 2,
        *((1 << bits) // page_bytes + off for bits in (31, 32, 33) for off in (-2, 1)),
    }
    starts = [(page, PageOrder.SEQUENTIAL) for page in sorted(edges) if page * page_bytes < pool_limit(far)]
    return (*sequential, (0, PageOrder.REVERSED), *starts)


def pick(draw: Draw, entries: Sequence[T]) -> T:
    """One of the entries; of a single one nothing is chosen."""
    return entries[draw(len(entries))] if len(entries) > 1 else entries[0]


def _lengths(draw: Draw, tables: Tables, batch: int, rows: int) -> tuple[int, ...]:
    """KV tokens of every request by one of PATTERNS, each length at least the request's own rows (0 where empty is allowed)."""
    space = tables.space
    longest = min(space.max_kv_len, space.max_tokens // batch)
    pattern = pick(draw, PATTERNS)
    main = _length(draw, rows, longest)
    if batch == 1 and not space.empty_requests:
        return (main,)
    other = _length(draw, rows, longest)
    salt = draw(256)
    lens = pattern(batch, main, other, salt)
    if space.empty_requests and salt % 4 == 3:
        lens = tuple(0 if (i + salt) % (2 + salt % 5) == 0 else n for i, n in enumerate(lens))
    return lens


def _length(draw: Draw, rows: int, longest: int) -> int:
    """A length in [rows, longest], near an edge; short edges come as often as long ones although they are fewer."""
    edge = pick(draw, LENGTH_EDGES[: bisect_right(LENGTH_EDGES, longest)])
    return min(max(edge + pick(draw, OFFSETS), rows), longest)


Pattern = Callable[[int, int, int, int], tuple[int, ...]]
"""(batch, main, other, salt) -> lengths; every length lies between main and other."""


def all_equal(batch: int, main: int, other: int, salt: int) -> tuple[int, ...]:
    """Every request has `main` tokens."""
    del other, salt
    return (main,) * batch


def one_apart(batch: int, main: int, other: int, salt: int) -> tuple[int, ...]:
    """One request differs: the long one among short ones, or the reverse."""
    position = salt % batch
    return (main,) * position + (other,) + (main,) * (batch - position - 1)


def ramp(batch: int, main: int, other: int, salt: int) -> tuple[int, ...]:
    """From main to other in equal steps."""
    del salt
    return tuple(main + (other - main) * i // max(1, batch - 1) for i in range(batch))


def two_blocks(batch: int, main: int, other: int, salt: int) -> tuple[int, ...]:
    """The first requests are `main` long, the rest `other`."""
    cut = 1 + salt % batch
    return (main,) * cut + (other,) * (batch - cut)


def alternating(batch: int, main: int, other: int, salt: int) -> tuple[int, ...]:
    """`other` at every (2 + salt % 7)-th request."""
    period = 2 + salt % 7
    return tuple(other if i % period == period - 1 else main for i in range(batch))


def scattered(batch: int, main: int, other: int, salt: int) -> tuple[int, ...]:
    """Anywhere between main and other, by a Weyl sequence that the salt starts."""
    low, high = min(main, other), max(main, other)
    span = high - low + 1
    return tuple(low + ((i + salt + 1) * 2654435761 % 4294967296) * span // 4294967296 for i in range(batch))


PATTERNS: tuple[Pattern, ...] = (all_equal, one_apart, ramp, two_blocks, alternating, scattered)


def _query_lens(draw: Draw, space: CaseSpace, rows: int, batch: int) -> tuple[int, ...] | None:
    """Uniform rows, or rows between 1 and the most that differ between requests; of some none where a request may be empty."""
    salt = draw(32)
    if salt < 16:
        return None
    lens = tuple(1 + (i * (2 * salt + 1) + salt) % rows for i in range(batch))
    if space.empty_requests and salt % 4 == 3:
        lens = tuple(0 if (i + salt) % (2 + salt % 5) == 0 else n for i, n in enumerate(lens))
    return lens if any(lens) else None


def _max_batch(draw: Draw, space: CaseSpace, batch: int, graph_batch: int | None) -> int | None:
    """The batch that buffers are allocated for, where that can differ from the one that runs."""
    if space.allocation is AllocatedFor.RUNNING or (space.allocation is AllocatedFor.LARGEST_GRAPH and graph_batch is None):
        return None
    run = graph_batch or batch
    choices = [None, None, run, 2 * run]
    if space.allocation is AllocatedFor.MAX_BATCH:
        choices.append(batch)
    return pick(draw, choices)


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
