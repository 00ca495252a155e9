"""Context parallelism whose ranks hold every n-th token: v1_2 as built in, against recordings and against its own text."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import revision_recordings as recordings

from backend.aiter.arguments import BufferSizes, PlanArguments, TargetGpu
from backend.aiter.codefiles import open_source
from backend.aiter.planners import Plan, plan
from backend.aiter.release import release
from backend.aiter.text.planners import Planners, Switches
from backend.case import Arch, DType

MI355X = TargetGpu(Arch.GFX950, 256)
SIZES = BufferSizes(257, 8 * 4096, 513, 1024, 4096)
REVISION = "e4048607a5"


def arguments(heads: int, queries: int, dtype: DType, *, causal: bool, topk: int = -1) -> PlanArguments:
    """Three requests, the second of which has no token on this rank."""
    indptr = np.array([0, 700, 700, 777], np.int32)
    rows = np.arange(4, dtype=np.int32) * queries
    ones = np.ones(3, np.int32)
    flags = {"q_dtype": dtype, "kv_dtype": dtype, "is_cp_round_robin": True}
    return PlanArguments(rows, indptr, ones, heads, 1, causal, 1, 16, queries, queries, topk, True, 32, False, **flags)


def words(made: Plan) -> dict[str, object]:
    return {name: (buffer.first, buffer.image.tolist(), buffer.marks.tolist()) for name, buffer in made.buffers.items()}


def test_recorded_calls() -> None:
    """Every recorded call of it that the built-in planner is the planner of."""
    lines = [line for line in recordings.of("planners", "9127c94a1") if "allocated" in line]
    asked = [line for line in lines if line["args"].get("is_cp_round_robin")]
    assert asked
    for line in asked:
        allocated = BufferSizes(**line["allocated"])
        made = plan(release("2026-08").planners, recordings.device(line["args"]), recordings.plan_arguments(line), allocated)
        for name, buffer in made.buffers.items():
            pairs = zip(buffer.image.tolist(), buffer.marks.tolist(), strict=True)
            found = {buffer.first + place: word for place, (word, mark) in enumerate(pairs) if mark}
            assert found == recordings.written(line, name), name


def test_a_rank_keeps_its_tokens_for_every_tile() -> None:
    """Sixteen query rows of 16 heads are two tiles; the first would leave out a token without the argument."""
    given = arguments(16, 16, DType.FP8, causal=True)
    made = plan(release("2026-08").planners, MI355X, given, SIZES)
    other = plan(release("2026-08").planners, MI355X, dataclasses.replace(given, is_cp_round_robin=False), SIZES)
    assert not made.work_items[:, 6][made.work_items[:, 5] == 700].any()
    assert words(made) != words(other)


def test_earlier_releases_have_no_such_argument() -> None:
    made = plan(release("2026-06").planners, MI355X, arguments(16, 1, DType.FP8, causal=True), SIZES)
    assert made.rejected == "get_mla_metadata_v1 has no argument is_cp_round_robin"


@pytest.mark.checkout
@pytest.mark.parametrize(
    ("heads", "queries", "dtype", "topk"), [(16, 16, DType.FP8, -1), (48, 4, DType.FP8, -1), (16, 4, DType.FP8, 64)]
)
@pytest.mark.parametrize("causal", [True, False])
def test_built_in_as_its_text(aiter_checkout: Path, heads: int, queries: int, dtype: DType, topk: int, causal: bool) -> None:
    """Folded heads are trimmed all the same, and so the text has it."""
    source = open_source(f"{aiter_checkout}@{REVISION}")
    planners = Planners(lambda path: content.decode() if (content := source.read(path)) is not None else None)
    given = arguments(heads, queries, dtype, causal=causal, topk=topk)
    evaluated = planners.plan(MI355X, given, SIZES, Switches({}, {}))
    assert words(plan(release("2026-08").planners, MI355X, given, SIZES)) == words(evaluated)
