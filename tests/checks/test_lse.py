"""The log-sum-exp that a kernel leaves out: found for the one kernel that never loads its address, silent for all others."""

from __future__ import annotations

import pytest

from backend.aiter.release import read_table
from backend.case import Arch, Case, DType, MetadataMode
from backend.findings import FindingKind, Party, Severity
from backend.outcome import Outcome
from backend.path import Path

BF16 = DType.BF16
ASKED = Case(num_head=32, kv_lens=(10, 10), backend="direct", mode=MetadataMode.FAST, release="2026-08", return_lse=True)


def run(**changes: object) -> Outcome:
    return Path().run(ASKED.replace(**changes))


def test_the_kernel_for_32_heads_and_one_query_leaves_unsplit_rows_out() -> None:
    outcome = run()
    assert [f.kind for f in outcome.findings] == [FindingKind.ROW_NOT_WRITTEN]
    (finding,) = outcome.findings
    assert (finding.tensor, finding.severity, finding.stage) == (
        "final_lse",
        Severity.SILENT,
        "mla_a8w8_qh32_qseqlen1_gqaratio32_lse_ps.co",
    )
    assert finding.evidence["rows"] == 2


def test_a_request_without_tokens_has_no_log_sum_exp() -> None:
    assert run(kv_lens=(10, 10, 10)).findings[0].evidence["rows"] == 3
    assert run(kv_lens=(10, 0, 10)).findings[0].evidence["rows"] == 2


def test_rows_that_are_split_get_theirs_from_the_reduction() -> None:
    assert run(kv_lens=(4096, 4096)).findings == ()
    mixed = run(kv_lens=(10, 4096), num_cu=8)
    assert mixed.call is not None
    assert mixed.call.plan is not None
    whole = mixed.call.plan.work_items[:, 1] < 0
    assert 0 < whole.sum() < len(whole)
    assert mixed.findings[0].evidence["rows"] == 1


@pytest.mark.parametrize(
    "changes",
    [
        {"return_lse": False},
        {"num_head": 16},
        {"num_head": 64},
        {"num_head": 128},
        {"max_seqlen_q": 2},
        {"max_seqlen_q": 4},
        {"release": "2026-06"},  # folded into two rows of 16
        {"q_dtype": DType.BF16, "kv_dtype": DType.BF16},
        {"num_head": 64, "arch": Arch.GFX942},
    ],
)
def test_every_other_kernel_is_silent(changes: dict[str, object]) -> None:
    outcome = run(**changes)
    assert outcome.refused is None
    assert outcome.findings == ()


def test_one_kernel_alone_of_those_that_are_asked_for_it_does_not_load_the_address() -> None:
    """From the table of what each code object's scalar loads fetch; context-parallel kernels aside."""
    asked = [
        row for row in read_table("kernarg_reads.csv") if "_lse_" in row["code_object"] and "cprr" not in row["code_object"]
    ]
    without = [row["code_object"] for row in asked if "ptr_LSEP" not in row["kernargs"].split()]
    assert len(asked) > 10
    assert without == ["mla_a8w8_qh32_qseqlen1_gqaratio32_lse_ps.co"]


ONE_SPLIT = Case(16, (20, 30), backend="direct", mode=MetadataMode.NON_PERSISTENT, release="2026-08", return_lse=True)
ONE_SPLIT = ONE_SPLIT.replace(num_kv_splits=1)


def test_one_split_without_metadata_returns_what_nobody_wrote() -> None:
    """mla_decode_fwd returns before its merge, which alone would write final_lse."""
    (found,) = Path().run(ONE_SPLIT).findings
    assert (found.kind, found.party, found.tensor) == (FindingKind.ROW_NOT_WRITTEN, Party.LAUNCHER, "final_lse")
    assert found.evidence["rows"] == 2
    for merged in ({"num_kv_splits": 2, "kv_lens": (400, 400)}, {"return_lse": False}, {"q_dtype": BF16, "kv_dtype": BF16}):
        assert Path().run(ONE_SPLIT.replace(**merged)).findings == ()


@pytest.mark.parametrize(
    "changes",
    [
        {"num_head": 64},
        {"num_head": 128},
        {"num_head": 128, "arch": Arch.GFX942},
        {"max_seqlen_q": 3},
    ],
)
def test_one_split_that_the_merge_copies_has_no_log_sum_exp_either(changes: dict[str, object]) -> None:
    """FINAL_OUT of _fwd_kernel_stage2_asm stores o and no Final_lse (aiter/mla.py)."""
    asked = ONE_SPLIT.replace(q_dtype=BF16, kv_dtype=BF16, **changes)
    assert FindingKind.ROW_NOT_WRITTEN in {found.kind for found in Path().run(asked).findings if found.tensor == "final_lse"}
    merged = asked.replace(num_kv_splits=2, kv_lens=(400, 400))
    assert not [found for found in Path().run(merged).findings if found.tensor == "final_lse"]
