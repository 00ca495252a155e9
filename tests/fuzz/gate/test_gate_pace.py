"""How a gate spends its time: what is compiled before its children begin, batches that two sides run at their own paces, and
what the sweep leaves to random lives."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from backend.real.frameworks.scenarios import Scenario
from fuzz.gate.gate import GatePlan, Stack, Turns
from fuzz.gate.life import EVERYTHING, Abilities, Setting
from fuzz.gate.order import batches, everything, first_of_each
from fuzz.gate.run import run
from fuzz.gate.sweep import GFX950, Tensors

ASKED = everything(GFX950, (16,), "2026-08")
FIRST = first_of_each(ASKED)

SIGNATURES = """
import gc

from backend.case import RELEASES
from backend.devices.kinds import open_searching
from backend.real.frameworks.worker import ScenarioWorker
from backend.revision.revision import host_of
from fuzz.gate.compiled import compile_once
from fuzz.gate.gate import EVERY_RELEASE
from fuzz.gate.judge import Judge
from fuzz.gate.order import everything
from fuzz.gate.sweep import GFX950
from numba.core.dispatcher import Dispatcher


def compiled():
    gc.unfreeze()
    every = [each for each in gc.get_objects() if isinstance(each, Dispatcher)]
    mine = [each for each in every if (each.py_func.__module__ or "").startswith("backend.")]
    return {f"{each.py_func.__module__}.{each.py_func.__qualname__} {kind}" for each in mine for kind in each.signatures}


compile_once(None, RELEASES[-1])
before = compiled()
worker, judge = ScenarioWorker("sglang==0.5.13", None, None, None), Judge(open_searching("model", None), host_of(None))
asked = "decode, 16 ", "decode, 64 ", "verify 4 rows, 16 ", "long requests, 16 ", "SGLANG_AITER_MLA_PERSIST=0"
steps = 0
for scenario in everything(GFX950, (16, 64), EVERY_RELEASE):
    if scenario.name.startswith(asked):
        steps += judge.judged(scenario, worker.run(scenario, {})).ran.total()
print("steps", steps, "before", len(before), "lacking", sorted(compiled() - before))
"""
"""What numba holds after everything was compiled, and what steps of both planners and of none need besides."""


@pytest.mark.slow(guard="fuzz/test_commands.py::test_compiling_is_said_once_and_only_when_it_happens")
def test_what_a_sweep_needs_is_compiled_before_it() -> None:
    program = [sys.executable, "-c", SIGNATURES]
    variables = {**os.environ, "TRITON_INTERPRET": "1"}
    seen = subprocess.run(program, env=variables, cwd=Path(__file__).parents[3], capture_output=True, text=True, check=True)
    words = seen.stdout.split()
    assert int(words[1]) > 40
    assert seen.stdout.rstrip().endswith("lacking []"), seen.stdout


def test_sides_run_the_same_batches_at_their_own_paces(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever comes to a batch first looks at the clock: the other runs it too, however late it is, and nothing beyond."""
    now = 0.0
    monkeypatch.setattr("fuzz.gate.gate.time.monotonic", lambda: now)
    every = tuple(batches(ASKED, 1))
    turns = Turns(every, until=10.0)
    ahead, behind = iter(turns), iter(turns)
    first = [next(ahead) for _ in range(3)]
    assert next(behind) == first[0]
    now = 10.0
    assert next(ahead, None) is None
    assert [*behind] == first[1:]
    assert [*Turns(every, until=10.0)] == []
    assert [*Turns(every, until=10.5)] == list(every)


class Side:
    """Stands for an Examination whose sweep takes all the time there is; a life takes `pace` seconds, abilities two.

    Each test has a subclass of its own. made: what was opened.
    """

    now = 0.0
    pace = 1.0
    settings: tuple[Setting, ...] = ()
    swept: Sequence[Scenario] = ASKED[:40]
    made: list[Side]

    def __init__(self, *_: object, **__: object) -> None:
        self.made.append(self)
        self.asked, self.lives = ASKED, list[Scenario]()
        self.executed, self.decided = SimpleNamespace(text=""), ()
        self.swept_until = 0.0

    def __enter__(self) -> Side:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def sweep(self, until: float) -> None:
        type(self).now = self.swept_until = until

    def decide(self) -> None:
        pass

    def run_in_turn(self, turns: Turns) -> None:
        self.sweep(turns._until)

    def abilities(self) -> Abilities:
        type(self).now += 2
        return EVERYTHING

    def starts(self) -> tuple[Tensors, int]:
        return GFX950[0], 16

    def doing(self, lines: object) -> dict[Scenario, bool]:
        return {each: each not in FIRST or any(one.dp_attention for one in each.backends) for each in self.swept}

    def alone(self, *lives: Scenario, are_random: bool = False) -> Any:
        assert are_random
        self.lives += lives
        type(self).now += self.pace * len(lives)
        return SimpleNamespace(sightings=())

    def examined(self) -> Any:
        return SimpleNamespace(scenarios=0, left_out=ASKED[len(self.swept) :], asked=len(ASKED))

    def shows_more(self, seen: object) -> set[Scenario]:
        return set()


def gate_of(monkeypatch: pytest.MonkeyPatch, plan: GatePlan, base: Stack | None = None, **how: Any) -> list[Side]:
    """The sides of a run that stand for Examinations. how: their pace, and what they swept."""
    kind = type("Side", (Side,), {"made": [], **how})
    monkeypatch.setattr("fuzz.gate.run.time.monotonic", lambda: kind.now)  # type: ignore[attr-defined]
    monkeypatch.setattr("fuzz.gate.run.Examination", kind)
    monkeypatch.setattr("fuzz.gate.run.compile_once", lambda *_: None)
    monkeypatch.setattr("fuzz.gate.run._is_untouched", lambda *_: False)
    run(Stack("new"), base, plan, say=lambda _: None)
    return kind.made  # type: ignore[attr-defined, no-any-return]


@pytest.mark.parametrize(("lives", "sweep_ends", "tried"), [(None, 51, 4), (3, 51, 3), (0, 57, 0)])
def test_a_tenth_of_the_time_is_the_lives(
    monkeypatch: pytest.MonkeyPatch, lives: int | None, sweep_ends: float, tried: int
) -> None:
    """A sweep that would take all of it ends before; without lives nothing is kept for them."""
    (side,) = gate_of(monkeypatch, GatePlan(GFX950, seconds=60, lives=lives))
    assert side.swept_until == pytest.approx(sweep_ends)
    assert len(side.lives) == tried


def test_some_lives_are_tried_however_slow_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    (side,) = gate_of(monkeypatch, GatePlan(GFX950, seconds=60), pace=100.0)
    assert len(side.lives) == 2


def test_which_lives_are_tried_does_not_depend_on_where_a_sweep_was_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only how many: beside a base those come first that do what executed changed lines, by what any machine swept."""
    rest = [each for each in ASKED if each not in FIRST]
    tried = []
    for swept, pace in ((FIRST, 0.5), ((*FIRST, *rest[:30]), 0.25)):
        mine, theirs = gate_of(monkeypatch, GatePlan(GFX950, seconds=60), Stack("old"), swept=swept, pace=pace)
        assert mine.lives == theirs.lives
        tried.append(mine.lives)
    few, more = tried
    assert 1 < len(few) < len(more)
    assert more[: len(few)] == few
