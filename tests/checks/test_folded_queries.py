"""Groups of heads planned as further query rows, as some revisions do, for a call whose groups are rows of their own."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from backend.aiter.codefiles import open_source
from backend.case import Case, DType
from backend.checks.check import check_call
from backend.findings import FindingKind, Party, Severity
from backend.host import BuiltIn
from backend.revision.revision import host_of
from backend.serving.policy import decide
from backend.serving.registry import policy

FOLDED = Case(num_head=48, kv_lens=(300, 300), max_seqlen_q=2)


def of_heads(findings: list) -> list:
    return [finding for finding in findings if finding.kind is FindingKind.HEAD_WIDTH]


@pytest.mark.parametrize(
    ("planned", "launched", "severity"),
    [(3, 1, Severity.WRITE), (1, 3, Severity.SILENT), (3, 3, None), (1, 1, None)],
)
def test_both_fold_or_neither(planned: int, launched: int, severity: Severity | None) -> None:
    call = BuiltIn().call(decide(policy(FOLDED.backend), FOLDED))
    assert call.plan is not None
    changed = dataclasses.replace(
        call,
        plan=dataclasses.replace(call.plan, query_fold=planned),
        launch=dataclasses.replace(call.launched, max_seqlen_q=2 * launched),
    )
    found = of_heads(check_call(changed))
    assert [each.severity for each in found] == ([] if severity is None else [severity])
    for each in found:
        assert each.party is Party.CALLER
        assert (each.evidence["planned_queries"], each.evidence["launched_queries"]) == (2 * planned, 2 * launched)


@pytest.mark.checkout
@pytest.mark.parametrize(
    ("q_dtype", "heads", "queries", "folds"),
    [
        (DType.BF16, 32, 2, True),
        (DType.BF16, 32, 1, False),
        (DType.BF16, 48, 2, False),
        (DType.FP8, 32, 2, False),
        (DType.FP8, 32, 4, False),
    ],
)
def test_a_revision_that_folds_what_it_is_told(
    aiter_checkout: Path, q_dtype: DType, heads: int, queries: int, folds: bool
) -> None:
    """sglang tells the planner that q is fp8, as KV is; v0.1.12.post1 folds 2 x 16 heads of fp8 into 4 query rows."""
    case = Case(
        num_head=heads, kv_lens=(12288, 300), max_seqlen_q=queries, q_dtype=q_dtype, kv_dtype=DType.FP8, backend="sglang-27188"
    )
    host = host_of(open_source(f"{aiter_checkout}@v0.1.12.post1"))
    found = of_heads(check_call(host.call(decide(policy(case.backend), case))))
    assert [(each.party, each.severity) for each in found] == [(Party.CALLER, Severity.WRITE)] * folds
