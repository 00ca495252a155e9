"""Random lives of a serving process, the same by a seed in any process, and the smallest of them: plain data, cut down step by
step.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence

from backend.errors import UsageError
from backend.real.frameworks.scenarios import BackendConfig, Scenario, Step, StepKind
from fuzz.gate.life import EVERYTHING, Abilities, Setting, life
from fuzz.gate.sweep import Tensors
from fuzz.strategies import generator, uniform


def random_lives(
    tensors: Sequence[Tensors],
    heads: Sequence[int],
    release: str,
    seed: int,
    can: Abilities = EVERYTHING,
    settings: Sequence[Setting] = (),
) -> Iterator[Scenario]:
    """Scenarios without end, each a function of the arguments and its number."""
    for number in itertools.count():
        draw = uniform(generator(f"gate/{seed}/{number}"))
        yield life(draw, tensors, heads, release, f"life {number} of seed {seed}", can, settings)


def shrink(scenario: Scenario, shows: Callable[[Scenario], bool], budget: int = 400) -> Scenario:
    """A scenario that still `shows` the fault and none of whose single reductions does, unless the budget of runs is spent.

    Order: fewer steps (many at once first), fewer backends that no step uses, no variable that need not be set, fewer requests,
    shorter requests, no graphs, requests without numbers, a context that just holds them, fewer captured sizes, defaults.
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
    for few in _fewer(len(steps)):
        yield from _valid(scenario, steps=tuple(steps[at] for at in few))
    yield from _fewer_backends(scenario)
    for few in _fewer(len(scenario.environment)):
        yield from _valid(scenario, environment=tuple(scenario.environment[at] for at in few))
    for everywhere in _in_all_steps(scenario):
        if everywhere != steps:
            yield from _valid(scenario, steps=everywhere)
    for i, step in enumerate(steps):
        for smaller in _smaller_step(step, scenario.backends[step.backend]):
            yield from _valid(scenario, steps=(*steps[:i], smaller, *steps[i + 1 :]))
    if any(step.requests for step in steps):
        yield from _valid(scenario, steps=tuple(dataclasses.replace(step, requests=()) for step in steps))
    yield from _shorter_contexts(scenario)
    yield from _smaller_graphs(scenario)
    for i, config in enumerate(scenario.backends):
        for changed in _simpler(config):
            yield from _valid(scenario, backends=(*scenario.backends[:i], changed, *scenario.backends[i + 1 :]))


def _fewer(count: int) -> Iterator[list[int]]:
    """Places of a list without a run of them: half of it first, then shorter ones down to one."""
    size = count // 2 or count
    while size:
        for begin in range(0, count, size):
            yield [at for at in range(count) if not begin <= at < begin + size]
        size //= 2


def _fewer_backends(scenario: Scenario) -> Iterator[Scenario]:
    for unused in range(len(scenario.backends)):
        if len(scenario.backends) > 1 and all(step.backend != unused for step in scenario.steps):
            kept = scenario.backends[:unused] + scenario.backends[unused + 1 :]
            moved = tuple(dataclasses.replace(s, backend=s.backend - (s.backend > unused)) for s in scenario.steps)
            yield from _valid(scenario, backends=kept, steps=moved)


def _least(step: Step, config: BackendConfig) -> int:
    """KV tokens that a request has at least: where the step's own rows are among them, as many."""
    if step.kind is StepKind.DRAFT_EXTEND:
        return max(step.query_lens or (config.draft_tokens or 1,))
    return max(step.query_lens, default=1)


def _in_all_steps(scenario: Scenario) -> Iterator[tuple[Step, ...]]:
    """What has to become smaller in several steps at once: all lengths, a request that they share, or a length."""
    steps, backends = scenario.steps, scenario.backends
    yield tuple(_with_lengths(step, dict.fromkeys(step.kv_lens, 1), backends[step.backend]) for step in steps)
    for place in range(max((len(step.kv_lens) for step in steps), default=0)):
        yield tuple(
            _of(step, [at for at in range(len(step.kv_lens)) if at != place or len(step.kv_lens) < 2]) for step in steps
        )
    for length in sorted({length for step in steps for length in step.kv_lens}, reverse=True):
        for shorter in dict.fromkeys((1, length // 2, length - 1)):
            yield tuple(_with_lengths(step, {length: shorter}, backends[step.backend]) for step in steps)


def _shorter_contexts(scenario: Scenario) -> Iterator[Scenario]:
    """No context, one that just holds the steps, and shorter ones together with the requests that reach beyond them."""
    if not scenario.context:
        return
    yield from _valid(scenario, context=0)
    for context in dict.fromkeys((scenario.needed_context, scenario.context // 2, scenario.context - 1)):
        if 0 < context < scenario.context:
            less = scenario.context - context
            steps = tuple(
                _with_lengths(step, {had: had - less for had in step.kv_lens}, scenario.backends[step.backend])
                if scenario.backends[step.backend].longest(step) > context
                else step
                for step in scenario.steps
            )
            made = _valid(scenario, context=context, steps=steps)
            yield from (one for one in made if one.needed_context <= context + max(each.past_context for each in one.backends))


def _smaller_graphs(scenario: Scenario) -> Iterator[Scenario]:
    """A backend's largest captured batch with fewer requests, and its replays with no more than that."""
    for i, config in enumerate(scenario.backends):
        for most in dict.fromkeys((config.max_batch // 2, config.max_batch - 1)):
            if most < 1:
                continue
            sizes = tuple(dict.fromkeys(min(size, most) for size in config.graph_batches))
            smaller = dataclasses.replace(config, graph_batches=sizes)
            steps = (
                _of(step, range(min(most, len(step.kv_lens)))) if step.graph and step.backend == i else step
                for step in scenario.steps
            )
            backends = (*scenario.backends[:i], smaller, *scenario.backends[i + 1 :])
            yield from _valid(scenario, backends=backends, steps=tuple(steps))


def _with_lengths(step: Step, shorter: Mapping[int, int], config: BackendConfig) -> Step:
    """The step with some lengths shorter, none below what the step needs."""
    least = _least(step, config)
    lens = tuple(min(had, max(shorter.get(had, had), least)) for had in step.kv_lens)
    return dataclasses.replace(step, kv_lens=lens)


def _of(step: Step, few: Sequence[int]) -> Step:
    """The step with the requests at some places alone."""
    kv_lens, rows, numbers = (
        tuple(part[at] for at in few) if part else () for part in (step.kv_lens, step.query_lens, step.requests)
    )
    return dataclasses.replace(step, kv_lens=kv_lens, query_lens=rows, requests=numbers)


def _smaller_step(step: Step, config: BackendConfig) -> Iterator[Step]:
    for few in _fewer(len(step.kv_lens)):
        if few or (step.graph and step.kv_lens):
            yield _of(step, few)
    least = _least(step, config)
    for i, length in enumerate(step.kv_lens):
        for shorter in dict.fromkeys((least, length // 2, length - 1)):
            if least <= shorter < length:
                yield dataclasses.replace(step, kv_lens=(*step.kv_lens[:i], shorter, *step.kv_lens[i + 1 :]))
    usual = dataclasses.replace(step, query_lens=())
    if step.query_lens and min(step.kv_lens) >= _least(usual, config):
        yield usual
    for i, count in enumerate(step.query_lens):
        if count > 1:
            yield dataclasses.replace(step, query_lens=(*step.query_lens[:i], count - 1, *step.query_lens[i + 1 :]))
    if step.graph and step.kv_lens:
        yield dataclasses.replace(step, graph=False)


def _simpler(config: BackendConfig) -> Iterator[BackendConfig]:
    sizes = config.graph_batches
    fewer = [{"graph_batches": tuple(sizes[at] for at in few)} for few in _fewer(len(sizes))]
    for changes in ({"dp_attention": False}, {"page_size": 1}, {"branches": 1}, {"draft_tokens": None}, *fewer):
        changed = dataclasses.replace(config, **changes)  # type: ignore[arg-type]
        if changed != config:
            yield changed


def _valid(scenario: Scenario, **changes: object) -> Iterator[Scenario]:
    """The changed scenario, if it is one."""
    try:
        yield dataclasses.replace(scenario, **changes)  # type: ignore[arg-type]
    except UsageError:
        return
