"""Every planner gives what the real one gave: values, words written, words outside of the buffers, refusals."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
from planner_cases import Recorded, recorded, sizing

from backend.aiter.planners import Plan, PlannedBuffer, plan
from backend.aiter.planners.run import plan_by_rules
from backend.aiter.planning import BuiltInPlanning
from backend.aiter.sizing import buffer_sizes

GOLDEN = "planner_golden.jsonl.gz"
MORE = "planner_golden_more.jsonl.gz"


def differences(call: Recorded, got: Plan) -> list[str]:
    """What differs between a recorded call and a plan of the same arguments, in words."""
    if call.rejected or got.rejected:
        return [] if call.rejected == bool(got.rejected) else [f"rejected: {got.rejected}"]
    found = []
    for name, runs in call.written.items():
        buffer = got.buffers[name]
        if not same_words(buffer, runs):
            found.append(f"{name}: other words written")
        outside = Counter(overrun.first_word < 0 for overrun in buffer.overrun for _ in range(overrun.words))
        if outside[False] != call.past_end.get(name, 0) or outside[True] != call.before_start.get(name, 0):
            found.append(f"{name}: {outside[False]} words past the end, {outside[True]} before the start")
    return found


def same_words(buffer: PlannedBuffer, runs: list[tuple[int, list[int]]]) -> bool:
    words = [(first + place, value) for first, values in runs for place, value in enumerate(values)]
    places = np.flatnonzero(buffer.marks)
    written = list(zip((places + buffer.first).tolist(), buffer.image[places].tolist(), strict=True))
    return written == sorted(words)


@pytest.mark.parametrize(("file", "calls"), [(GOLDEN, 1800), (MORE, 550)])
def test_recorded_calls_are_reproduced(file: str, calls: int) -> None:
    wrong = []
    seen = 0
    for number, call in enumerate(recorded(file)):
        seen += 1
        found = differences(call, plan(call.release.planners, call.device, call.arguments, call.allocated))
        if found:
            wrong.append((number, call.release.name, str(call.planner), found))
    assert seen == calls
    assert wrong == []


def test_recorded_buffers_are_sized_alike() -> None:
    for call in recorded(GOLDEN):
        if not call.rejected:
            cap = call.arguments.max_split_per_batch
            got = buffer_sizes(call.release.sizing, call.device, sizing(call.arguments, max_split_per_batch=cap))
            assert got == call.allocated, call.arguments


def test_plain_python_gives_the_same() -> None:
    """The uncompiled planners are the same code: a sample of every planner and release, small batches."""
    budget: Counter[tuple[str, str]] = Counter()
    for file in (GOLDEN, MORE):
        for call in recorded(file):
            key = (call.release.name, str(call.planner))
            if call.rejected or len(call.arguments.kv_indptr) > 4 or budget[key] == 8:
                continue
            budget[key] += 1
            planning = call.release.planners
            assert isinstance(planning, BuiltInPlanning)
            plain = plan_by_rules(planning.rules, call.device, call.arguments, call.allocated, compiled=False)
            assert differences(call, plain) == []
            assert plain.branches == plan(call.release.planners, call.device, call.arguments, call.allocated).branches
    assert set(budget.values()) == {8}
    assert len(budget) == 8
