"""Work items that end before they begin: the planner's, where the kernel follows them, and nobody's, where it does not."""

from __future__ import annotations

from pathlib import Path as FilePath

import pytest

from backend.aiter.codefiles import open_source
from backend.call import Call
from backend.case import Case, DType, MetadataMode
from backend.devices.cdna.device import CdnaDevice
from backend.devices.model.device import ModelDevice
from backend.devices.two_devices import differences
from backend.fate import Fate
from backend.findings import Finding, FindingKind, Party, Severity
from backend.host import BuiltIn
from backend.path import Path

BF16 = {"q_dtype": DType.BF16, "kv_dtype": DType.BF16}
EMPTY = Case(16, (0, 33), 5, release="2026-08", backend="direct", mode=MetadataMode.FAST).replace(**BF16)
NOT_FIXED = Case(16, (40, 20), 2, query_lens=(2, 2), release="2026-08", backend="direct", mode=MetadataMode.FAKE, num_cu=8)


def first(case: Case) -> Finding:
    cause = Path().run(case).cause
    assert cause is not None
    return cause


def test_the_tokens_of_an_empty_request_with_several_rows() -> None:
    """Of tile t of n the planner takes n - 1 - t tokens off the end, also of none; this kernel counts down from there."""
    outcome = Path().run(EMPTY)
    cause = first(EMPTY)
    assert (cause.kind, cause.party, cause.stage) == (FindingKind.BACKWARD_ITEM, Party.PLANNER, "planner v1_2")
    assert (cause.severity, cause.evidence["begin"], cause.evidence["end"]) == (Severity.SILENT, 0, -1)
    assert {found.kind for found in outcome.findings} == {FindingKind.BACKWARD_ITEM, FindingKind.HANG}
    assert {found.party for found in outcome.findings} == {Party.PLANNER}


@pytest.mark.parametrize(
    "changes",
    [
        {"kv_lens": (5, 33)},
        {"max_seqlen_q": 1},
        {"q_dtype": DType.FP8, "kv_dtype": DType.FP8},  # its kernel takes all five rows at once
        {"causal": False},
        {"max_seqlen_q": 4, "num_head": 8, "q_dtype": DType.FP8, "kv_dtype": DType.FP8},
    ],
    ids=str,
)
def test_what_has_its_tokens_or_a_kernel_that_skips_them_is_silent(changes: dict[str, object]) -> None:
    outcome = Path().run(EMPTY.replace(**changes))
    assert (outcome.fate, outcome.findings) == (Fate.CLEAN, ())


def test_rows_of_a_planner_that_takes_minus_one_for_a_count() -> None:
    """AITER's default of uni_seqlen_qo, which says that rows differ: v1_0 multiplies by it."""
    cause = first(NOT_FIXED)
    assert (cause.kind, cause.party, cause.stage) == (FindingKind.BACKWARD_ITEM, Party.PLANNER, "planner v1_0")
    assert (cause.severity, cause.evidence["begin"], cause.evidence["end"]) == (Severity.WRITE, 0, -1)
    assert Path().run(NOT_FIXED.replace(query_lens=None)).fate is Fate.CLEAN
    assert Path().run(NOT_FIXED.replace(mode=MetadataMode.FAST)).fate is Fate.CLEAN


@pytest.mark.checkout
@pytest.mark.parametrize("changes", [{}, {**BF16, "max_seqlen_q": 1, "query_lens": (1, 1)}, {**BF16, "num_head": 64}], ids=str)
def test_model_and_machine_see_the_same_of_rows_before_the_first(changes: dict[str, object], aiter_checkout: FilePath) -> None:
    source = open_source(f"{aiter_checkout}@e4048607a5")
    call = Path(BuiltIn(source)).call(NOT_FIXED.replace(**changes))
    assert isinstance(call, Call)
    seen = CdnaDevice(source, record=True).observe(call)
    assert differences(seen, ModelDevice(record=True).observe(call)) == []
    (written,) = [each for each in seen.violations if each.tensor == "o" and each.extent]
    assert written.is_write
    assert written.end_offset > 1 << 32  # the row before the first, in 32 bits without a sign
