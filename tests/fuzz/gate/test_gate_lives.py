"""The sweep, random lives and their shrinking: the same in any process, valid, and down to the exact minimum."""

from __future__ import annotations

import itertools
import subprocess
import sys

import pytest

from backend.codec import dumps
from backend.real.frameworks.scenarios import BackendConfig, Scenario, Step, StepKind
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
    assert {step.kind for step in steps} == {StepKind.DECODE, StepKind.TARGET_VERIFY, StepKind.DRAFT_EXTEND}
    assert {len(life.backends) for life in lives} == {1, 2}
    assert {step.graph for step in steps} == {config.dp_attention for config in configs} == {True, False}
    assert {config.page_size for config in configs} == {1, 16, 64}
    assert {config.num_head for config in configs} == set(HEADS)


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
    assert (config.dp_attention, config.page_size) == (True, 1)
    eager, replay = smallest.steps
    least = config.draft_tokens if eager.kind is StepKind.DRAFT_EXTEND else 1
    assert (eager.kv_lens, eager.graph) == ((least,), False)
    assert (replay.kv_lens, replay.graph) == ((20, 20, 20), True)


def test_a_draft_extension_is_not_shrunk_below_its_own_rows() -> None:
    """A request with fewer tokens than the step has rows is what no server has, and a fault of its own."""
    config = BackendConfig(48, draft_tokens=3)
    for asked, left in (((), (3,)), ((2, 1), (2,))):
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
