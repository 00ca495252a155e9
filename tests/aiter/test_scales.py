"""Scales that are not handed over: refused in AITER's words, or read through a null pointer, which is a finding."""

from __future__ import annotations

import pytest

from backend.case import Case, DType
from backend.fate import ENDS_PROCESS
from backend.findings import FindingKind, Party
from backend.path import Path as CasePath
from reprod.blame import blame
from reprod.reference import ContractVerdict
from reprod.script import script_text

BASE = Case(16, (70, 33), backend="direct", release="2026-08")
BF16_Q = BASE.replace(q_dtype=DType.BF16)
BF16 = BF16_Q.replace(kv_dtype=DType.BF16)


@pytest.mark.parametrize("missing", ["q_scale", "kv_scale"])
@pytest.mark.parametrize("release", ["2026-06", "2026-08"])
def test_an_fp8_q_without_a_scale_is_refused_in_aiters_words(release: str, missing: str) -> None:
    outcome = CasePath().run(BASE.replace(release=release, **{missing: False}))
    assert outcome.refused == f"fp8 Q requires q_scale and kv_scale{ENDS_PROCESS}"
    assert not outcome.faulty


@pytest.mark.parametrize("case", [BASE.replace(kv_scale=False), BF16_Q.replace(kv_scale=False)])
def test_the_first_release_takes_the_value_of_nothing(case: Case) -> None:
    refused = CasePath().run(case.replace(release="2025-11")).refused
    assert refused is not None
    assert "bad_optional_access" in refused


def test_a_bf16_q_with_fp8_kv_reads_through_null() -> None:
    outcome = CasePath().run(BF16_Q.replace(kv_scale=False))
    assert [(found.kind, found.party) for found in outcome.findings] == [(FindingKind.NULL_POINTER, Party.LAUNCHER)]
    found = blame(outcome)
    assert found.verdict is ContractVerdict.UNSUPPORTED_AND_SILENT
    assert "kv_scale is left out" in found.reason
    text = script_text(outcome, None)
    assert "kv_scale=" not in text
    assert "q_scale=one" in text


@pytest.mark.parametrize(
    "case", [BF16_Q, BF16_Q.replace(q_scale=False), BF16.replace(q_scale=False, kv_scale=False)], ids=["all", "no q", "bf16"]
)
def test_a_scale_that_nobody_uses_is_not_missed(case: Case) -> None:
    assert CasePath().run(case).findings == ()
