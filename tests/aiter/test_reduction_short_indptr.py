"""A kv_indptr that is shorter than the batch (vllm#41016, non-persistent) is a finding of the caller, not a crash of ours."""

from __future__ import annotations

from backend.case import Case
from backend.findings import FindingKind
from backend.path import Path


def test_short_indptr_of_a_non_persistent_call_is_found() -> None:
    case = Case(num_head=8, kv_lens=(259,) * 14, backend="vllm-before-41016", graph_batch=15, max_batch=14)
    outcome = Path().run(case)
    kinds = {(finding.kind, finding.tensor) for finding in outcome.findings}
    assert (FindingKind.BUFFER_TOO_SMALL, "") in kinds
    assert (FindingKind.OUT_OF_BOUNDS_READ, "kv_indptr") in kinds
