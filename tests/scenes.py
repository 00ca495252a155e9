"""Scenarios that many tests ask a framework's file to go through."""

from __future__ import annotations

from backend.case import DType
from backend.real.frameworks.scenarios import BackendConfig, Scenario, Step, StepKind

BUFFER_ROLES = ("work_metadata", "work_indptr", "work_info_set", "reduce_indptr", "reduce_final_map", "reduce_partial_map")
"""The six metadata buffers, by what they are for."""


def eager_decode(
    num_head: int, kv_lens: tuple[int, ...], kv_dtype: DType = DType.FP8, q_dtype: DType | None = None
) -> Scenario:
    """One plain decode step without graphs."""
    config = BackendConfig(num_head, kv_dtype, kv_dtype if q_dtype is None else q_dtype, max_requests=max(16, len(kv_lens)))
    return Scenario("eager decode", (config,), (Step(StepKind.DECODE, kv_lens),))


def graph_decode(config: BackendConfig, batches: tuple[tuple[int, ...], ...], kind: StepKind = StepKind.DECODE) -> Scenario:
    """Every captured size, then a replay for each of the batches (kv_lens), in order, with padding."""
    return Scenario(f"graph {kind}", (config,), tuple(Step(kind, kv_lens, graph=True) for kv_lens in batches))


def data_parallel(config: BackendConfig, batches: tuple[tuple[int, ...], ...]) -> Scenario:
    """Eager decode under DP attention: each batch size lowers the split count that the next one starts from."""
    steps = tuple(Step(StepKind.DECODE, kv_lens) for kv_lens in batches)
    return Scenario("data parallel decode", (config,), steps)
