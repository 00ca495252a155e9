"""What rests on another revision's rules is no claim: neither a fault nor that there is none."""

from __future__ import annotations

import dataclasses
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from backend.aiter.launch import Launch
from backend.call import Call
from backend.case import Arch, Case, DType
from backend.decision import Decision
from backend.fate import Fate
from backend.findings import Finding, FindingKind, Party, Severity
from backend.host import BuiltIn, Part, parts_behind
from backend.path import Path as CasePath
from backend.path import known_of
from fuzz.cli import main
from fuzz.gate.policy import gate_policy, report
from fuzz.space import space
from fuzz.spec import Spec

WHY = "kernels that nobody has read"


class StrangeReduction(BuiltIn):
    """The built-in rules, said to stand in for the second stage of another AITER."""

    def call(self, decision: Decision) -> Call:
        made = super().call(decision)
        assert isinstance(made.launch, Launch)
        stage = dataclasses.replace(made.launch.second_stage, stands_in=WHY)
        return dataclasses.replace(made, launch=dataclasses.replace(made.launch, second_stage=stage))


CLEAN = Case(num_head=16, kv_lens=(40, 900))
PLANNER_FAULT = Case(num_head=64, kv_lens=(1,), backend="sglang-before-27188")


def test_no_fault_by_a_stand_in_is_not_known_to_be_none() -> None:
    assert CasePath().run(CLEAN).fate is Fate.CLEAN
    outcome = CasePath(StrangeReduction()).run(CLEAN)
    assert outcome.fate is Fate.UNMODELLED
    assert outcome.observation is None
    assert WHY in (outcome.reason or "")
    assert "no fault, which is no claim" in (outcome.reason or "")


def test_a_fault_of_a_stand_in_is_no_claim() -> None:
    found = Finding(FindingKind.OUT_OF_BOUNDS_READ, Severity.READ, Party.REDUCTION, "mla_reduce_v1", "logits", "reads on")
    made = CasePath(StrangeReduction()).call(CLEAN)
    assert isinstance(made, Call)
    faulty = dataclasses.replace(CasePath().run(CLEAN), call=made, fate=Fate.FAULTY, findings=(found,))
    outcome = known_of(faulty)
    assert (outcome.faulty, outcome.unknown, outcome.findings) == (False, True, ())
    assert found.signature in (outcome.reason or "")


def test_a_fault_before_the_stand_in_stays_and_what_follows_is_marked() -> None:
    before, after = CasePath().run(PLANNER_FAULT), CasePath(StrangeReduction()).run(PLANNER_FAULT)
    assert before.faulty
    assert [each.signature for each in after.findings] == [each.signature for each in before.findings]
    marked = [Part.REDUCTION in parts_behind(each) for each in after.findings]
    assert ["stand-in" in each.message for each in after.findings] == marked


def test_a_gate_does_not_call_a_stand_in_clean() -> None:
    """Whatever else ran: what rests on the stand-in is an open question."""
    asked = space(Spec(heads=(16,), archs=(Arch.GFX950,), kv_dtype=DType.BF16))
    gated = gate_policy(asked, None, CasePath(StrangeReduction()), 0.0, 1)
    assert report(gated).verdict.exit_code != 0
    assert any(WHY in each for each in gated.refused_shapes)


@pytest.fixture
def edited(aiter_checkout: Path, tmp_path: Path) -> Callable[[str, str, str, str], str]:
    """Makes a commit on top of a revision in which one text of a file is another: PATH@REVISION."""
    where = tmp_path / "edited.git"
    subprocess.run(["git", "clone", "-q", "--bare", "--shared", aiter_checkout, where], check=True, timeout=60)

    def git(*arguments: str, given: str | None = None) -> str:
        environment = os.environ | {"GIT_INDEX_FILE": str(tmp_path / "index")}
        environment |= {f"GIT_{who}_{what}": "nobody" for who in ("AUTHOR", "COMMITTER") for what in ("NAME", "EMAIL")}
        command = ["git", "-C", str(where), *arguments]
        done = subprocess.run(command, input=given, capture_output=True, text=True, check=True, env=environment, timeout=60)
        return done.stdout.removesuffix("\n")

    def edit(revision: str, path: str, old: str, new: str) -> str:
        text = git("show", f"{revision}:{path}")
        assert old in text
        blob = git("hash-object", "-w", "--stdin", given=text.replace(old, new, 1) + "\n")
        git("read-tree", revision)
        git("update-index", "--cacheinfo", f"100644,{blob},{path}")
        return f"{where}@{git('commit-tree', git('write-tree'), '-m', 'edited')}"

    return edit


CASE = ("--num-head", "16", "--kv-lens", "40,900", "--backend", "direct")


@pytest.mark.checkout
def test_kernels_of_the_second_stage_that_nobody_has_read(
    edited: Callable[[str, str, str, str], str], capsys: pytest.CaptureFixture[str]
) -> None:
    unread = edited("v0.1.14", "csrc/kernels/mla/reduce.cu", "num_splits > 1", "num_splits > 2")
    assert main(["explain", "--aiter", unread, *CASE]) == 3
    said = capsys.readouterr().out
    assert "second stage is a stand-in" in said
    assert "second stage stand-in" in said


@pytest.mark.checkout
def test_a_run_that_rests_on_a_stand_in_claims_nothing(
    edited: Callable[[str, str, str, str], str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Not clean, no fault, no issue: it could not be run."""
    unread = edited("v0.1.14", "csrc/kernels/mla/reduce.cu", "num_splits > 1", "num_splits > 2")
    types = ("--archs", "gfx950", "--q-dtype", "fp8", "--kv-dtype", "fp8", "--query-rows", "1")
    assert main(["run", "--aiter", unread, "--heads", "16", *types, "--cases", "30", "--out", str(tmp_path / "out")]) == 3
    assert "which is no claim" in capsys.readouterr().out
    assert not [*tmp_path.rglob("issue.md")]


@pytest.mark.checkout
def test_a_planner_that_cannot_be_read_names_its_line(
    edited: Callable[[str, str, str, str], str], capsys: pytest.CaptureFixture[str]
) -> None:
    path = "csrc/kernels/mla/metadata/v1_2_device.cuh"
    unread = edited("v0.1.14", path, "const int32_t lane_idx", "mystery(7); const int32_t lane_idx")
    assert main(["explain", "--aiter", unread, *CASE]) == 3
    assert "the function `mystery(7)` is not provided for" in capsys.readouterr().out
