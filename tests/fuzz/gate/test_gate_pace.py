"""How a gate spends its time: what is compiled before its children begin, and batches that two sides run at their own paces."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from fuzz.gate.gate import Turns
from fuzz.gate.order import batches, everything
from fuzz.gate.sweep import GFX950

ASKED = everything(GFX950, (16,), "2026-08")

SIGNATURES = """
import gc

from backend.case import RELEASES
from backend.devices.registry import open_searching
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
