"""The sweep, random lives and their shrinking: the same in any process, valid, and down to the exact minimum."""

from __future__ import annotations

import dataclasses
import itertools
import subprocess
import sys
from collections.abc import Iterator

import pytest

from backend.codec import dumps
from backend.real.frameworks.scenarios import BackendConfig, Scenario, Step, StepKind
from fuzz.gate.life import EVERYTHING, Abilities, probes
from fuzz.gate.scenarios import random_lives, shrink
from fuzz.gate.sweep import GFX942, GFX950, HEADS, scenarios

LIVES = """
import itertools
from backend.codec import dumps
from fuzz.gate.scenarios import random_lives
from fuzz.gate.sweep import GFX950, HEADS
print("".join(dumps(life) for life in itertools.islice(random_lives(GFX950, HEADS, "2026-06", 7), 10)))
"""


def some_lives(seed: int, count: int = 30) -> list[Scenario]:
    return list(itertools.islice(random_lives(GFX950, HEADS, "2026-06", seed), count))


def test_the_sweep_is_the_same_each_time_and_has_every_shape() -> None:
    swept = list(scenarios((*GFX950, *GFX942), HEADS, "2026-06"))
    assert swept == list(scenarios((*GFX950, *GFX942), HEADS, "2026-06"))
    assert len({scenario.name for scenario in swept}) == len(swept)
    for kind, drafts in ((StepKind.DECODE, None), (StepKind.TARGET_VERIFY, 2), (StepKind.DRAFT_EXTEND, 3)):
        shapes = {
            (config.num_head, config.q_dtype, config.kv_dtype, scenario.arch)
            for scenario in swept
            for step in scenario.steps
            for config in [scenario.backends[step.backend]]
            if step.kind is kind and config.draft_tokens == drafts
        }
        assert len(shapes) == len(HEADS) * 4
    replayed = [s for scenario in swept for s in scenario.steps if s.graph]
    assert any(len(step.kv_lens) not in (1, 4, 8) for step in replayed), "some replays pad"


def test_random_lives_are_a_function_of_their_seed() -> None:
    assert some_lives(7) == some_lives(7)
    assert some_lives(7) != some_lives(8)
    there = subprocess.run([sys.executable, "-c", LIVES], capture_output=True, text=True, check=True).stdout
    assert there.strip() == "".join(dumps(life) for life in some_lives(7, 10)).strip()


def test_random_lives_do_everything_a_process_does() -> None:
    lives = some_lives(0, 200)
    steps = [step for life in lives for step in life.steps]
    configs = [config for life in lives for config in life.backends]
    assert {step.kind for step in steps} == set(StepKind)
    assert {len(life.backends) for life in lives} == {1, 2, 3}
    assert {step.graph for step in steps} == {config.dp_attention for config in configs} == {True, False}
    assert {config.page_size for config in configs} == {1, 16, 64}
    assert {config.num_head for config in configs} == set(HEADS)
    assert any(not step.kv_lens for step in steps), "idle ranks"
    assert any(len({config.kv_dtype for config in life.backends}) == 2 for life in lives), "a draft model of another type"


def replays(life: Scenario) -> Iterator[tuple[Step, int]]:
    """Of the first backend, with the requests of the graph that each takes."""
    sizes = life.backends[0].graph_batches
    for step in life.steps:
        if step.backend == 0 and step.graph:
            yield step, min(size for size in sizes if size >= len(step.kv_lens))


def test_every_life_has_the_largest_captured_batch_full_contexts_and_a_page_that_ends() -> None:
    padded = 0
    for life in some_lives(1, 100):
        target = life.backends[0]
        of_it = [step for step in life.steps if step.backend == 0 and step.kind is not StepKind.PREFILL]
        full = [
            step
            for step in of_it
            if {length + (target.draft_tokens or 0) for length in step.kv_lens} == {life.context + target.past_context}
        ]
        assert any(len(step.kv_lens) == (target.max_batch or 4) for step in full)
        page = max(target.page_size, 16)
        if page < life.context + target.past_context - (target.draft_tokens or 1):
            ends = [length for step in of_it for length in step.kv_lens]
            assert any(length % page in (0, page - 1) for length in ends)
        padded += any(0 < len(step.kv_lens) < size for step, size in replays(life))
    assert padded > 40, "batches shrink below what was captured"


def test_requests_of_a_life_are_who_they_were() -> None:
    """A request of a step goes on where it was: none comes back once it was gone, nor is shorter but for rejected drafts."""
    rows_free = 0
    for life in some_lives(2, 60):
        for at in range(len(life.backends)):
            before: dict[int, int] = {}
            alive: frozenset[int] = frozenset()
            for number, step in enumerate(life.steps):
                if step.backend != at:
                    continue
                for request, length in zip(step.requests, step.kv_lens, strict=True):
                    assert length >= before.get(request, 0)
                    before[request] = length if step.kind is not StepKind.DRAFT_EXTEND else 0
                gone = alive - life.alive(at, number)
                assert not gone & set(step.requests)
                rows_free += len(gone)
                alive |= set(step.requests)
    assert rows_free > 200


SETTINGS = (("SGLANG_ONE", "1"), ("SGLANG_OTHER", "0"))


def test_some_lives_are_under_variables_and_all_else_of_them_is_as_it_was() -> None:
    """A variable is set in some, two in a few; which ones those are follows from the seed."""
    lives = list(itertools.islice(random_lives(GFX950, HEADS, "2026-06", 0, EVERYTHING, SETTINGS), 60))
    assert [dataclasses.replace(life, environment=()) for life in lives] == some_lives(0, 60)
    under = [life.environment for life in lives]
    assert {(), SETTINGS[:1], SETTINGS[1:], SETTINGS} == set(under)
    assert 10 <= sum(map(bool, under)) <= 30


def test_a_variable_is_kept_where_the_fault_needs_it() -> None:
    life = next(
        each for each in random_lives(GFX950, HEADS, "2026-06", 0, EVERYTHING, SETTINGS) if each.environment == SETTINGS
    )
    smallest = shrink(life, lambda each: SETTINGS[1] in each.environment and bool(each.steps))
    assert smallest.environment == SETTINGS[1:]


def test_what_a_framework_has_no_step_for_is_in_no_life() -> None:
    nothing = Abilities(*(False,) * len(dataclasses.fields(Abilities)))
    lives = list(itertools.islice(random_lives(GFX950, HEADS, "2026-06", 0, nothing), 50))
    assert {step.kind for life in lives for step in life.steps} == {StepKind.DECODE}
    assert all(step.kv_lens for life in lives for step in life.steps)
    assert Abilities.common([EVERYTHING, dataclasses.replace(EVERYTHING, ragged=False)]) == Abilities(ragged=False)
    assert set(probes(GFX950[0], 16, "2026-06")) == {each.name for each in dataclasses.fields(Abilities)}


def replays_after_an_eager_step(life: Scenario) -> bool:
    """A planted fault: a graph under DP attention, replayed with at least 3 requests of 20 tokens after an eager step of its
    backend."""
    for before, after in itertools.combinations(life.steps, 2):
        config = life.backends[after.backend]
        same = before.backend == after.backend and not before.graph
        if same and after.graph and config.dp_attention and sum(n >= 20 for n in after.kv_lens) >= 3:
            return True
    return False


@pytest.mark.parametrize("seed", range(3))
def test_a_planted_fault_shrinks_to_the_minimum(seed: int) -> None:
    found = next(filter(replays_after_an_eager_step, random_lives(GFX950, HEADS, "2026-06", seed)))
    smallest = shrink(found, replays_after_an_eager_step, budget=2000)
    (config,) = smallest.backends
    assert (config.dp_attention, config.page_size, config.graph_batches) == (True, 1, (3,))
    eager, replay = smallest.steps
    drafts = config.draft_tokens if eager.kind is StepKind.DRAFT_EXTEND else 1
    least = max(eager.query_lens, default=drafts)
    assert (eager.kv_lens, eager.graph) == ((least,), False)
    assert (replay.kv_lens, replay.graph) == ((20, 20, 20), True)
    assert (smallest.context, {each.requests for each in smallest.steps}) == (0, {()})


def takes_a_row_that_was_another_s(life: Scenario) -> bool:
    """A planted fault: a request that comes after another one was gone, with as many tokens."""
    for before, after in itertools.combinations(life.steps, 2):
        had = dict(zip(before.requests, before.kv_lens, strict=True) if before.requests else ())
        for request, length in zip(after.requests, after.kv_lens, strict=True) if after.requests else ():
            if request not in had and length in had.values() and not set(had) & set(after.requests):
                return True
    return False


def test_requests_keep_their_numbers_where_the_fault_is_whose_row_it_is() -> None:
    found = next(filter(takes_a_row_that_was_another_s, random_lives(GFX950, HEADS, "2026-06", 0)))
    smallest = shrink(found, takes_a_row_that_was_another_s, budget=2000)
    one, other = smallest.steps
    assert one.kv_lens == other.kv_lens == (1,)
    assert one.requests != other.requests


def fills_the_largest_graph(life: Scenario) -> bool:
    """A planted fault: as many tokens as the largest captured batch can have in its context, all but one a request."""
    return any(
        step.graph
        and len(step.kv_lens) == life.backends[step.backend].max_batch
        and sum(step.kv_lens) > len(step.kv_lens) * (life.context - 1)
        for step in life.steps
        if step.kind is StepKind.DECODE and life.context
    )


def test_a_context_gets_shorter_with_the_requests_that_fill_it() -> None:
    found = next(filter(fills_the_largest_graph, random_lives(GFX950, HEADS, "2026-06", 0)))
    smallest = shrink(found, fills_the_largest_graph, budget=2000)
    (step,) = smallest.steps
    assert (smallest.context, step.kv_lens, smallest.backends[0].graph_batches) == (1, (1,), (1,))


def test_a_draft_extension_is_not_shrunk_below_its_own_rows() -> None:
    """A request with fewer tokens than the step has rows is what no server has, and a fault of its own."""
    config = BackendConfig(48, draft_tokens=3)
    for asked, left in (((), (3,)), ((2, 1), (1,))):
        life = Scenario("extend", (config,), (Step(StepKind.DRAFT_EXTEND, (40, 9), query_lens=asked),))
        smallest = shrink(life, lambda each: bool(each.steps) and each.backends[0].draft_tokens == 3)
        assert smallest.steps[0].kv_lens == left


def test_shrinking_keeps_to_its_budget() -> None:
    life = Scenario("long", (BackendConfig(64),), (Step(StepKind.DECODE, (500,) * 16),) * 6)
    tried = []

    def shows(candidate: Scenario) -> bool:
        tried.append(candidate)
        return True

    shrink(life, shows, budget=4)
    assert len(tried) == 4
