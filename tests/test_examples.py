"""The examples do what their first lines say."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest

from backend.case import Case, DType, MetadataMode
from backend.codec import read_file
from backend.decision import Decision, Refused
from backend.path import Path as CasePath
from backend.serving.policy import decide
from backend.serving.registry import named_policy
from reprod.folder import CASE, EXPLAIN, SCRIPT

EXAMPLES = Path(__file__).parents[1] / "examples"


def test_as_a_library(capsys: pytest.CaptureFixture[str]) -> None:
    runpy.run_path(str(EXAMPLES / "as_a_library.py"), run_name="__main__")
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("head-width/planner v1_0")
    assert any("write of o" in line for line in lines)
    assert lines[-1] == "smallest: 64 heads, KV lengths (1,), 1 query row"


def test_a_rule_of_ones_own() -> None:
    rule = named_policy(str(EXAMPLES / "rules" / "pads_to_sixty_four.py"))
    decided = decide(rule, Case(num_head=48, kv_lens=(7, 900)))
    assert isinstance(decided, Decision)
    assert (decided.mode, decided.decode.num_head) == (MetadataMode.FAST, 64)
    assert not CasePath().run_decision(decided).findings
    refused = decide(rule, Case(num_head=48, kv_lens=(7,), kv_dtype=DType.BF16))
    assert isinstance(refused, Refused)
    assert "fp8 KV cache" in refused.reason


def test_a_finding() -> None:
    """The folder that `aiterfuzz run --backend sglang-before-27188 --shapes tp2` writes for the fault of sglang#27188."""
    folder = EXAMPLES / "finding"
    cause = CasePath().run(read_file(Case, folder / CASE)).cause
    assert cause is not None
    assert cause.signature in (folder / EXPLAIN).read_text(encoding="utf-8")
    assert (folder / EXPLAIN).read_text(encoding="utf-8").startswith("case: 64 heads, fp8/fp8, qlen 1, kv [1]")
    compile((folder / SCRIPT).read_text(encoding="utf-8"), SCRIPT, "exec")
