"""Findings that one cause explains are one fault."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from made_summaries import founding_finding

from backend.findings import FindingKind
from fuzz.campaign.read_summary import load_summary
from fuzz.cli import main
from fuzz.report.causes import by_cause


def test_one_slip_of_a_rule_is_one_fault(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The founding gate, over dtypes and rows: five signatures, and one of them is another fault (O3)."""
    flags = ["--backend", "sglang-before-27188", "--shapes", "tp2", "--cases", "200", "--repeats", "1"]
    assert main(["run", *flags, "--out", str(tmp_path)]) == 1
    founding, *others = by_cause(load_summary(tmp_path).findings)
    assert founding[0].signature == "head-width/planner v1_0/planner folds finer, gfx950 fp8/fp8"
    assert {each.signature.split("/")[0] for each in founding} == {"head-width", "planner-overrun"}
    assert len(founding) > 2
    assert {each.known.entry for group in others for each in group if each.known is not None} == {"O3"}
    assert len(others) == 1
    printed = capsys.readouterr().out
    assert "1 memory fault and 1 wrong result found on TP2" in printed
    assert f"{len(founding) + 1} findings of 2 faults: those with one number have one cause" in printed


def test_deaths_are_told_apart_by_how_alone() -> None:
    deaths = [
        founding_finding(signature=f"died/device model/{how}", kind=FindingKind.DIED, known=None) for how in ("SIGKILL", "hang")
    ]
    assert list(by_cause(deaths)) == [(each,) for each in deaths]


def test_other_heads_are_another_slip_unless_it_is_known_as_the_same() -> None:
    one = founding_finding()
    other = replace(one, signature="head-width/planner v1_0/another", smallest=replace(one.smallest, num_head=48), known=None)
    assert len(by_cause([one, other])) == 2
    assert by_cause([replace(other, known=one.known), one]) == ((replace(other, known=one.known), one),)
