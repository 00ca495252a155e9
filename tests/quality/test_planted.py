"""Planted faults are met in at least 95 % of runs of the stated length, and shrunk to exactly the stated minimum.

Each is a real, publicly reported fault of a caller (or one that was found here), in the space in which a person would look.
"""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from hunting import first_fault

from backend.case import Arch, Case, DType
from fuzz.spec import Spec
from tests.tiers import one_of_each

LEAST_SHARE = 0.95

BF16, FP8 = DType.BF16, DType.FP8


@dataclass(frozen=True)
class Planted:
    """kind: what its signature begins with; cases: of a run; smallest: what each run must shrink it to."""

    spec: Spec
    kind: str
    cases: int
    smallest: Case


PLANTED = {
    "F1 gate without 64": Planted(
        Spec("sglang-before-27188", q_dtype=FP8, kv_dtype=FP8),  # all head counts, so that the first case does not have it
        "head-width",
        100,
        Case(num_head=64, kv_lens=(1,), backend="sglang-before-27188"),
    ),
    "F2 gate without 32, for draft tokens": Planted(
        Spec("sglang-before-20399", shapes=("tp4",), q_dtype=FP8, kv_dtype=FP8),
        "head-width",
        50,
        Case(num_head=32, kv_lens=(2,), max_seqlen_q=2, backend="sglang-before-20399"),
    ),
    "F3 sized below the captured batch": Planted(
        Spec("vllm-before-41016", shapes=("tp8",), q_dtype=FP8, kv_dtype=FP8, archs=(Arch.GFX950,)),
        "buffer-too-small",
        50,
        Case(num_head=16, kv_lens=(1,), graph_batch=2, max_batch=1, backend="vllm-before-41016"),
    ),
    "F10 padding rows shorter than the draft tokens": Planted(
        Spec("sglang-before-20841", shapes=("tp4",), q_dtype=FP8, kv_dtype=FP8),
        "short-sequence",
        50,
        Case(num_head=32, kv_lens=(2,), max_seqlen_q=2, graph_batch=2, backend="sglang-before-20841"),
    ),
    "F11 last page longer than a page": Planted(
        Spec("vllm-before-31282", shapes=("tp8",), q_dtype=FP8, kv_dtype=FP8, archs=(Arch.GFX950,)),
        "bad-last-page-len",
        20,
        Case(num_head=16, kv_lens=(2,), backend="vllm-before-31282"),
    ),
    "bf16 KV in fake mode": Planted(
        Spec("sglang-27188", heads=(48, 80, 96, 112), kv_dtype=BF16),
        "head-width",
        50,
        Case(num_head=48, kv_lens=(1,), q_dtype=BF16, kv_dtype=BF16),
    ),
}


@pytest.mark.parametrize("runs", [25, pytest.param(100, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", one_of_each(PLANTED, lambda name: PLANTED[name].kind))
def test_found_and_shrunk(name: str, runs: int) -> None:
    planted = PLANTED[name]
    found = [first_fault(planted.spec, planted.kind, planted.cases, seed) for seed in range(1, runs + 1)]
    smallest = {fault.case for fault in found if fault is not None}
    assert sum(fault is not None for fault in found) >= LEAST_SHARE * runs
    assert smallest == {planted.smallest}
    assert all(fault.minimal for fault in found if fault is not None)
