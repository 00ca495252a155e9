"""Random lives of a serving process: backends, then steps that leave their buffers to the next ones. And the smallest of them.

Sequences are plain data, so that a seed gives the same ones in any process and a faulty one can be cut down step by step.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from itertools import count

from backend.errors import UsageError
from backend.real.frameworks.scenarios import BackendConfig, Scenario, Step, StepKind
from fuzz.gate.sweep import MAX_REQUESTS, Tensors
from fuzz.generate import generator, uniform
from fuzz.strategies import Draw, pick

CHUNK = 19
"""Scenarios by one generator."""

KV_EDGES = (1, 15, 16, 17, 20, 33, 64, 195, 197, 400, 1000, 5000)
"""Lengths around kv_granularity, tiles, the 196 tokens of a split, and some that split widely."""

MAX_STEPS = 6

CAPTURES = ((), (1,), (1, 4, 8), (2, 16), (32, 64))


def life(draw: Draw, tensors: Sequence[Tensors], heads: Sequence[int], release: str) -> Scenario:
    """One process: one or two backends, up to MAX_STEPS steps in any order."""
    one = pick(draw, tensors)
    configs = tuple(_config(draw, one, heads) for _ in range(pick(draw, (1, 1, 2))))
    steps = tuple(_step(draw, configs) for _ in range(1 + draw(MAX_STEPS)))
    return Scenario("random life", configs, steps, arch=one.arch, release=release)


def _config(draw: Draw, tensors: Tensors, heads: Sequence[int]) -> BackendConfig:
    return BackendConfig(
        pick(draw, heads),
        tensors.kv_dtype,
        tensors.q_dtype,
        page_size=pick(draw, (1, 1, 1, 16, 64)),
        draft_tokens=pick(draw, (None, None, 2, 3, 4)),
        max_requests=MAX_REQUESTS,
        graph_batches=pick(draw, CAPTURES),
        dp_attention=pick(draw, (True, False)),
    )


def _step(draw: Draw, configs: Sequence[BackendConfig]) -> Step:
    index = draw(len(configs))
    config = configs[index]
    speculative = config.draft_tokens is not None
    kind = pick(draw, (StepKind.TARGET_VERIFY, StepKind.DRAFT_EXTEND) if speculative else (StepKind.DECODE,))
    graph = config.max_batch > 0 and kind is not StepKind.DRAFT_EXTEND and pick(draw, (True, False))
    batch = 1 + draw(min(config.max_batch, 16) if graph else 16)
    least = config.draft_tokens or 1
    edge = pick(draw, KV_EDGES)
    spread = pick(draw, (0, 0, 1, 37))
    lengths = tuple(max(least, edge + spread * i) for i in range(batch))
    return Step(kind, lengths, graph=graph, backend=index)


def random_lives(tensors: Sequence[Tensors], heads: Sequence[int], release: str, seed: int) -> Iterator[Scenario]:
    """Scenarios without end, the same for the same arguments."""
    for chunk in count():
        draw = uniform(generator(f"gate/{seed}/{chunk}"))
        yield from (life(draw, tensors, heads, release) for _ in range(CHUNK))


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
        for lens in _shorter(step.kv_lens, _least(step, scenario.backends[step.backend])):
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


def _least(step: Step, config: BackendConfig) -> int:
    """KV tokens that a request has at least: in a draft extension those of the step's own rows, which are among them."""
    return max(step.query_lens or (config.draft_tokens or 1,)) if step.kind is StepKind.DRAFT_EXTEND else 1


def _shorter(lens: tuple[int, ...], least: int) -> Iterator[tuple[int, ...]]:
    if len(lens) > 1:
        yield lens[: len(lens) // 2]
        yield lens[1:]
        yield lens[:-1]
    for i, length in enumerate(lens):
        for smaller in dict.fromkeys((least, length // 2, length - 1)):
            if least <= smaller < length:
                yield (*lens[:i], smaller, *lens[i + 1 :])


def _valid(scenario: Scenario, **changes: object) -> Iterator[Scenario]:
    """The changed scenario, if it is one."""
    try:
        yield dataclasses.replace(scenario, **changes)  # type: ignore[arg-type]
    except UsageError:
        return
