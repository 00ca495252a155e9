"""Random lives of a serving process: backends, then steps that leave their buffers to the next ones. And the smallest of them.

Sequences are plain data, so that a seed gives the same ones in any process and a faulty one can be cut down step by step.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable, Iterator, Sequence

from hypothesis import strategies as st

from backend.errors import UsageError
from backend.real.frameworks.scenarios import BackendConfig, Scenario, Step, StepKind
from fuzz.gate.sweep import MAX_REQUESTS, Tensors
from fuzz.generate import examples

CHUNK = 20
"""Scenarios a draw: one takes the CPU for a tenth of a second, so a budget of seconds stays exact enough."""

KV_EDGES = (1, 15, 16, 17, 20, 33, 64, 195, 197, 400, 1000, 5000)
"""Lengths around kv_granularity, tiles, the 196 tokens of a split, and some that split widely."""

MAX_STEPS = 6

CAPTURES = ((), (1,), (1, 4, 8), (2, 16), (32, 64))


@st.composite
def lives(draw: st.DrawFn, tensors: Sequence[Tensors], heads: Sequence[int], release: str) -> Scenario:
    """One process: one or two backends, up to MAX_STEPS steps in any order."""
    one = draw(st.sampled_from(tensors))
    configs = tuple(draw(_config(one, heads)) for _ in range(draw(st.sampled_from((1, 1, 2)))))
    steps = tuple(draw(_step(configs)) for _ in range(draw(st.integers(1, MAX_STEPS))))
    return Scenario("random life", configs, steps, arch=one.arch, release=release)


@st.composite
def _config(draw: st.DrawFn, tensors: Tensors, heads: Sequence[int]) -> BackendConfig:
    return BackendConfig(
        draw(st.sampled_from(heads)),
        tensors.kv_dtype,
        tensors.q_dtype,
        page_size=draw(st.sampled_from((1, 1, 1, 16, 64))),
        draft_tokens=draw(st.sampled_from((None, None, 2, 3, 4))),
        max_requests=MAX_REQUESTS,
        graph_batches=draw(st.sampled_from(CAPTURES)),
        dp_attention=draw(st.booleans()),
    )


@st.composite
def _step(draw: st.DrawFn, configs: Sequence[BackendConfig]) -> Step:
    index = draw(st.integers(0, len(configs) - 1))
    config = configs[index]
    speculative = config.draft_tokens is not None
    kind = draw(st.sampled_from((StepKind.TARGET_VERIFY, StepKind.DRAFT_EXTEND) if speculative else (StepKind.DECODE,)))
    graph = config.max_batch > 0 and kind is not StepKind.DRAFT_EXTEND and draw(st.booleans())
    batch = draw(st.integers(1, min(config.max_batch, 16) if graph else 16))
    least = config.draft_tokens or 1
    edge = draw(st.sampled_from(KV_EDGES))
    spread = draw(st.sampled_from((0, 0, 1, 37)))
    lengths = tuple(max(least, edge + spread * i) for i in range(batch))
    return Step(kind, lengths, graph=graph, backend=index)


def random_lives(tensors: Sequence[Tensors], heads: Sequence[int], release: str, seed: int) -> Iterator[Scenario]:
    """Scenarios without end, the same for the same arguments."""
    strategy = lives(tensors, heads, release)
    chunk = 0
    while True:
        digest = hashlib.sha256(f"gate/{seed}/{chunk}".encode()).digest()
        yield from examples(strategy, CHUNK, int.from_bytes(digest[:8], "little"))
        chunk += 1


def shrink(scenario: Scenario, shows: Callable[[Scenario], bool], budget: int = 200) -> Scenario:
    """A scenario that still `shows` the fault and none of whose single reductions does, unless the budget of runs is spent.

    Order: fewer steps, fewer backends that no step uses, fewer requests, shorter requests, no graphs, defaults.
    """
    left = budget
    progress = True
    while progress and left > 0:
        progress = False
        for smaller in _smaller(scenario):
            if left <= 0:
                break
            left -= 1
            if shows(smaller):
                scenario, progress = smaller, True
                break
    return scenario


def _smaller(scenario: Scenario) -> Iterator[Scenario]:
    steps = scenario.steps
    for i in range(len(steps)):
        yield from _valid(scenario, steps=steps[:i] + steps[i + 1 :])
    yield from _fewer_backends(scenario)
    for i, step in enumerate(steps):
        for lens in _shorter(step.kv_lens):
            changed = dataclasses.replace(step, kv_lens=lens, query_lens=step.query_lens[: len(lens)])
            yield from _valid(scenario, steps=(*steps[:i], changed, *steps[i + 1 :]))
        if step.graph:
            yield from _valid(scenario, steps=(*steps[:i], dataclasses.replace(step, graph=False), *steps[i + 1 :]))
    for i, config in enumerate(scenario.backends):
        for changes in ({"dp_attention": False}, {"page_size": 1}, {"graph_batches": ()}, {"draft_tokens": None}):
            changed_config = dataclasses.replace(config, **changes)
            if changed_config != config:
                yield from _valid(scenario, backends=(*scenario.backends[:i], changed_config, *scenario.backends[i + 1 :]))


def _fewer_backends(scenario: Scenario) -> Iterator[Scenario]:
    for unused in range(len(scenario.backends)):
        if len(scenario.backends) > 1 and all(step.backend != unused for step in scenario.steps):
            kept = scenario.backends[:unused] + scenario.backends[unused + 1 :]
            moved = tuple(dataclasses.replace(s, backend=s.backend - (s.backend > unused)) for s in scenario.steps)
            yield from _valid(scenario, backends=kept, steps=moved)


def _shorter(lens: tuple[int, ...]) -> Iterator[tuple[int, ...]]:
    if len(lens) > 1:
        yield lens[: len(lens) // 2]
        yield lens[1:]
        yield lens[:-1]
    for i, length in enumerate(lens):
        for smaller in dict.fromkeys((1, length // 2, length - 1)):
            if 1 <= smaller < length:
                yield (*lens[:i], smaller, *lens[i + 1 :])


def _valid(scenario: Scenario, **changes: object) -> Iterator[Scenario]:
    """The changed scenario, if it is one."""
    try:
        yield dataclasses.replace(scenario, **changes)  # type: ignore[arg-type]
    except UsageError:
        return
