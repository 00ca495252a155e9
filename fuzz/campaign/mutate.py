"""Mutation of cases within a space: the next case to try near one that reached something, or between two.

A crossing has the shape of one case and the rest of another. A mutation differs in one thing or a few: each operator changes
one thing that planners, kernels or callers look at (a length, the batch, heads, dtypes, rows, the graph it is replayed in,
where its pages lie) to a neighbouring value or to one that the strategies know as an edge. What either breaks, the rule of the
space puts right again: lengths at least the request's rows, batch and tokens within bounds, compute units of the GPU. Draws
from a `random.Random` alone. Knows nothing of coverage.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Sequence
from functools import partial
from random import Random
from typing import Any, TypeVar

from backend.case import Case, PageOrder, keep_below
from backend.serving.bounds import AllocatedFor
from fuzz.space import CaseSpace
from fuzz.strategies import COMPUTE_UNITS, LENGTH_EDGES, OFFSETS, batches, graph_batches, pool_limit, pool_starts

T = TypeVar("T")

AGAIN = 0.4
"""Chance of one more operator on top: most children differ in one thing, one in six in three or more."""

AFTER_CROSSING = 0.3
"""Chance of an operator on top of a crossing, and of one more on top of that."""

SHAPE = ("num_head", "arch", "q_dtype", "kv_dtype", "mode", "release", "page_size", "max_seqlen_q")
"""Fields that decide which planner and which kernel a case reaches."""

STEPS = (1, 1, 1, 2, 2, 3, 4, 5, 8, 16, 17, 32, 64, 128, 196, 256)
"""What is added to or taken from a length: off by a few, by tiles and pages, by a split of planner v1_0."""

Lens = tuple[int, ...]
Fields = dict[str, Any]
Draw = Callable[[], Case]
Operator = Callable[[Fields, Random, Draw], None]


def pick(random: Random, entries: Sequence[T]) -> T:
    """One of the entries, all alike; there is at least one."""
    return entries[int(random.random() * len(entries))]


def _page_bytes(fields: Fields) -> int:
    tokens: int = fields["page_size"]
    return tokens * int(fields["kv_lora_rank"] + fields["qk_rope_head_dim"]) * int(fields["kv_dtype"].itemsize)


def _set_option(fields: Fields, random: Random, other: Draw, *, name: str, values: Sequence[object]) -> None:
    """Another value of a field that is drawn by itself."""
    del other
    fields[name] = pick(random, values)


def _fields(case: Case) -> Fields:
    return {name: getattr(case, name) for name in case.__dataclass_fields__}


class Mutator:
    """Mutates cases of one space."""

    def __init__(self, space: CaseSpace) -> None:
        self.space = space
        self._batches = batches(space.max_batch)
        edges = LENGTH_EDGES[: bisect_right(LENGTH_EDGES, space.max_kv_len)]
        self._edges = edges or (space.max_kv_len,)
        shape: tuple[tuple[Sequence[object], Operator], ...] = (
            (space.heads, self._heads),
            (space.tensor_types, self._types),
            (space.query_rows, self._rows),
            (space.page_sizes, self._page_size),
            (space.releases, self._release),
            (space.modes, self._mode),
        )
        shapes = tuple(operator for values, operator in shape if len(values) > 1)
        lengths = (self._one_length, self._one_length, self._all_lengths, self._edge_length, self._edge_lengths, self._scale)
        requests = (self._drop, self._repeat, self._tile)
        callers = [self._graph] * space.graphs + [self._allocation] * (space.allocation is not AllocatedFor.RUNNING)
        callers += [self._ragged] * space.ragged_rows
        drawn = [(name, values) for name, values in space.options if len(values) > 1]
        options: tuple[Operator, ...] = tuple(partial(_set_option, name=name, values=values) for name, values in drawn)
        self._taken_over = tuple(name for name, _ in drawn)
        self._operators: tuple[Operator, ...] = (
            *lengths,
            *requests,
            self._splice,
            *shapes,
            *shapes,
            *callers,
            self._pool,
            self._units,
            *options,
        )

    def mutate(self, parent: Case, other: Draw, random: Random) -> Case:
        """A case near `parent`, of the space. other: draws a second parent, for what is taken over from one."""
        fields = _fields(parent)
        pick(random, self._operators)(fields, random, other)
        return self._finished(fields, other, random, AGAIN)

    def cross(self, shape: Case, rest: Case, random: Random) -> Case:
        """A case of the space with the shape of one and everything else of another: batch, lengths, graph, pool."""
        fields = _fields(rest) | {name: getattr(shape, name) for name in (*SHAPE, *self._taken_over)}
        return self._finished(fields, lambda: shape, random, AFTER_CROSSING)

    def _finished(self, fields: Fields, other: Draw, random: Random, again: float) -> Case:
        while random.random() < again:
            pick(random, self._operators)(fields, random, other)
        self._fit(fields)
        return Case(**fields)

    def _fit(self, fields: Fields) -> None:
        """Puts right what an operator broke."""
        space, rows = self.space, fields["max_seqlen_q"]
        lens: Lens = fields["kv_lens"][: space.max_batch]
        longest = min(space.max_kv_len, space.max_tokens // len(lens))
        fields["kv_lens"] = tuple(0 if n <= 0 and space.empty_requests else min(max(n, rows), longest) for n in lens)
        batch = len(lens)
        if fields["query_lens"] is not None:
            known = fields["query_lens"]
            fitted = tuple(min(known[i % len(known)], rows) for i in range(batch))
            fields["query_lens"] = fitted if rows > 1 and any(fitted) else None
        keep_below(fields)
        if fields["num_cu"] not in COMPUTE_UNITS[fields["arch"]]:
            fields["num_cu"] = 0
        if fields["first_page"] * _page_bytes(fields) >= pool_limit(space.far_pools):
            fields["first_page"] = 0
        self._fit_graph(fields, batch)

    def _fit_graph(self, fields: Fields, batch: int) -> None:
        """Keeps graph and allocation to what the framework could bring about, as the strategies do."""
        if fields["graph_batch"] is not None and fields["graph_batch"] < batch:
            fields["graph_batch"] = batch
        graph = fields["graph_batch"]
        if self.space.allocation is AllocatedFor.RUNNING or (
            self.space.allocation is AllocatedFor.LARGEST_GRAPH and graph is None
        ):
            fields["max_batch"] = None
        elif fields["max_batch"] is not None:
            least = batch if self.space.allocation is AllocatedFor.MAX_BATCH else graph
            fields["max_batch"] = max(fields["max_batch"], least)

    def _one_length(self, fields: Fields, random: Random, other: Draw) -> None:
        lens = fields["kv_lens"]
        at = int(random.random() * len(lens))
        step = pick(random, STEPS) * (1 if random.random() < 0.5 else -1)
        fields["kv_lens"] = (*lens[:at], lens[at] + step, *lens[at + 1 :])

    def _all_lengths(self, fields: Fields, random: Random, other: Draw) -> None:
        step = pick(random, STEPS) * (1 if random.random() < 0.5 else -1)
        fields["kv_lens"] = tuple(n + step for n in fields["kv_lens"])

    def _edge(self, random: Random) -> int:
        return pick(random, self._edges) + pick(random, OFFSETS)

    def _edge_length(self, fields: Fields, random: Random, other: Draw) -> None:
        lens = fields["kv_lens"]
        at = int(random.random() * len(lens))
        fields["kv_lens"] = (*lens[:at], self._edge(random), *lens[at + 1 :])

    def _edge_lengths(self, fields: Fields, random: Random, other: Draw) -> None:
        fields["kv_lens"] = (self._edge(random),) * len(fields["kv_lens"])

    def _scale(self, fields: Fields, random: Random, other: Draw) -> None:
        if random.random() < 0.5:
            fields["kv_lens"] = tuple(n // 2 for n in fields["kv_lens"])
        else:
            fields["kv_lens"] = tuple(n * 2 for n in fields["kv_lens"])

    def _drop(self, fields: Fields, random: Random, other: Draw) -> None:
        lens = fields["kv_lens"]
        if len(lens) == 1:
            return
        if random.random() < 0.5:
            at = int(random.random() * len(lens))
            fields["kv_lens"] = lens[:at] + lens[at + 1 :]
        else:
            fields["kv_lens"] = lens[: max(1, len(lens) // 2)]

    def _repeat(self, fields: Fields, random: Random, other: Draw) -> None:
        lens = fields["kv_lens"]
        if random.random() < 0.5:
            at = int(random.random() * len(lens))
            fields["kv_lens"] = (*lens[: at + 1], lens[at], *lens[at + 1 :])
        else:
            fields["kv_lens"] = lens * 2

    def _tile(self, fields: Fields, random: Random, other: Draw) -> None:
        """The same lengths over another batch."""
        lens, batch = fields["kv_lens"], pick(random, self._batches)
        fields["kv_lens"] = (lens * -(-batch // len(lens)))[:batch]

    def _splice(self, fields: Fields, random: Random, other: Draw) -> None:
        """Lengths of another parent, or everything but the lengths."""
        donor = other()
        if random.random() < 0.5:
            fields["kv_lens"] = donor.kv_lens
            fields["query_lens"] = None
        else:
            for name in ("num_head", "arch", "q_dtype", "kv_dtype", "mode", "release", "num_cu", *self._taken_over):
                fields[name] = getattr(donor, name)

    def _heads(self, fields: Fields, random: Random, other: Draw) -> None:
        fields["num_head"] = pick(random, self.space.heads)

    def _types(self, fields: Fields, random: Random, other: Draw) -> None:
        fields["arch"], fields["q_dtype"], fields["kv_dtype"] = pick(random, self.space.tensor_types)

    def _rows(self, fields: Fields, random: Random, other: Draw) -> None:
        fields["max_seqlen_q"] = pick(random, self.space.query_rows)

    def _page_size(self, fields: Fields, random: Random, other: Draw) -> None:
        fields["page_size"] = pick(random, self.space.page_sizes)

    def _release(self, fields: Fields, random: Random, other: Draw) -> None:
        fields["release"] = pick(random, self.space.releases)

    def _mode(self, fields: Fields, random: Random, other: Draw) -> None:
        fields["mode"] = pick(random, self.space.modes)

    def _graph(self, fields: Fields, random: Random, other: Draw) -> None:
        fields["graph_batch"] = pick(
            random, graph_batches(min(len(fields["kv_lens"]), self.space.max_batch), self.space.max_batch)
        )

    def _allocation(self, fields: Fields, random: Random, other: Draw) -> None:
        """What buffers are allocated for."""
        batch = len(fields["kv_lens"])
        run = fields["graph_batch"] or batch
        choices = [None, run, 2 * run]
        if self.space.allocation is AllocatedFor.MAX_BATCH:
            choices.append(batch)
        fields["max_batch"] = pick(random, choices)

    def _ragged(self, fields: Fields, random: Random, other: Draw) -> None:
        rows = fields["max_seqlen_q"]
        if fields["query_lens"] is not None or rows == 1:
            fields["query_lens"] = None
            return
        least = 0 if self.space.empty_requests else 1
        fields["query_lens"] = tuple(int(least + random.random() * (rows + 1 - least)) for _ in fields["kv_lens"])

    def _pool(self, fields: Fields, random: Random, other: Draw) -> None:
        if fields["first_page"] or fields["page_order"] is not PageOrder.SEQUENTIAL:
            fields["first_page"], fields["page_order"] = 0, PageOrder.SEQUENTIAL
            return
        starts = pool_starts(_page_bytes(fields), self.space.far_pools)
        fields["first_page"], fields["page_order"] = pick(random, starts)

    def _units(self, fields: Fields, random: Random, other: Draw) -> None:
        fields["num_cu"] = pick(random, COMPUTE_UNITS[fields["arch"]])
