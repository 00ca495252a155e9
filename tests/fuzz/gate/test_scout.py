"""A candidate of AITER beside the one of today: what is said of faults, kernels and refusals that come and go."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Sequence
from pathlib import Path

import pytest

from backend.case import Arch, Case, DType
from backend.errors import UsageError
from backend.findings import Finding, FindingKind, Party, Severity
from backend.real.frameworks.record import Phase
from backend.real.frameworks.scenarios import BackendConfig, Scenario, Step, StepKind
from backend.real.python.outline import outline
from backend.real.python.trees import ModuleSource
from fuzz.cli import main
from fuzz.gate.comparison import FaultStanding, compared
from fuzz.gate.executed import Executed
from fuzz.gate.gate import Examined
from fuzz.gate.judge import Judged, Shape, Sighting, StepKernel, Work
from fuzz.gate.scout import scout_report
from fuzz.report.render import json_text, lines
from fuzz.report.report import Report
from fuzz.verdict import Counts

SHAPE = Shape(48, Arch.GFX950, DType.FP8, DType.FP8)
OTHER = dataclasses.replace(SHAPE, num_head=64)
SCENARIO = Scenario("plain", (BackendConfig(48), BackendConfig(64)), (Step(StepKind.DECODE, (1,)),))
OLD, OLDER, NEW = (StepKernel(name, name[-1] + "0") for name in ("old.co", "older.co", "new.co"))


def sighting(kernel: str, kind: FindingKind = FindingKind.OUT_OF_BOUNDS_READ, shape: Shape = SHAPE) -> Sighting:
    finding = Finding(kind, Severity.READ, Party.KERNEL, kernel, "q", "reads past q")
    case = Case(num_head=shape.num_head, kv_lens=(1,))
    return Sighting(finding.signature, finding.severity, shape, 1, Phase.EAGER, finding.message, finding, case, None, SCENARIO)


def refused(release: str, shape: Shape = SHAPE) -> Sighting:
    finding = Finding(FindingKind.NO_KERNEL, Severity.REFUSED, Party.LAUNCHER, f"release {release}", "", "no kernel")
    signature = f"aiter-refuses/{finding.signature}"
    return Sighting(signature, Severity.REFUSED, shape, 1, Phase.EAGER, "no kernel", finding, None, None, SCENARIO)


def examined(seen: Sequence[Sighting] = (), kernels: dict[Shape, StepKernel] | None = None) -> Examined:
    """A source on an AITER: each shape that has a kernel ran."""
    judged = Judged(SCENARIO, list(seen))
    for shape, kernel in (kernels or {}).items():
        work = Work(shape, StepKind.DECODE, 1)
        judged.ran[work, Phase.EAGER] += 1
        judged.kernels[work] = {kernel}
    ran = judged.ran.total()
    left = sum(each.did_not_run for each in seen)
    faulty = min(ran, len(seen) - left)
    counts = Counts(clean=ran - faulty, faulty=faulty, refused=left)
    return Examined("sglang", "aiter@x", "model", (), tuple(seen), (judged,), 1, 0, counts, {}, None, 5)


def scouted(base: Examined, candidate: Examined) -> Report:
    found = compared(candidate, base, lambda _: None, lambda _: False)
    return scout_report(found, base, candidate, "scout", ("base: pinned",), None)


def test_what_the_candidate_brings_is_blamed_on_it() -> None:
    made = scouted(examined(kernels={SHAPE: OLD}), examined([sighting("old.co")], {SHAPE: OLD}))
    assert made.verdict.exit_code == 1
    text = "\n".join(lines(made))
    assert "FAULTY: the candidate brings 1 fault" in text
    assert "base: pinned" in text
    assert "every kernel is the same code" in text
    assert "smallest: 48 heads, fp8/fp8, qlen 1, kv [1], gfx950, x;" in text  # the candidate's name, not a release's


def test_nothing_is_said_of_changed_lines_of_a_file_that_stays() -> None:
    text = "def run():\n    return 1\n"
    module = ModuleSource("pack.backend", text, "backend.py", False)
    ran = Executed(module.filename, text, outline(module, "aiter"), frozenset((1, 2)))
    sides = [dataclasses.replace(examined(kernels={SHAPE: OLD}), executed=ran) for _ in range(2)]
    made = scouted(*sides)
    assert made.verdict.exit_code == 0
    assert not [line for line in lines(made) if "changed" in line]


@pytest.mark.parametrize("kind", [FindingKind.OUT_OF_BOUNDS_READ, FindingKind.NO_KERNEL])
def test_the_same_fault_under_another_name_is_not_new(kind: FindingKind) -> None:
    """A code object that is called otherwise, and a refusal that names the other release."""
    if kind is FindingKind.NO_KERNEL:
        before, after = examined([refused("2026-06")], {OTHER: OLD}), examined([refused("2026-08")], {OTHER: OLD})
    else:
        before, after = examined([sighting("old.co")], {SHAPE: OLD}), examined([sighting("new.co")], {SHAPE: NEW})
    found = compared(after, before, lambda _: None, lambda _: False)
    assert [fault.standing for fault in found.faults] == [FaultStanding.BEFORE]
    assert not found.mended


def test_a_fault_of_another_tensor_is_new_whatever_the_kernel_is_called() -> None:
    other = sighting("new.co")
    assert other.finding is not None
    finding = dataclasses.replace(other.finding, tensor="kv_indptr")
    other = dataclasses.replace(other, finding=finding, signature=finding.signature)
    found = compared(
        examined([other], {SHAPE: NEW}), examined([sighting("old.co")], {SHAPE: OLD}), lambda _: None, lambda _: False
    )
    assert [fault.standing for fault in found.faults] == [FaultStanding.NEW]


def test_kernels_that_come_and_go_are_told_by_work_and_those_with_other_code() -> None:
    before = examined(kernels={SHAPE: OLD, OTHER: OLDER})
    after = examined(kernels={SHAPE: NEW, OTHER: dataclasses.replace(OLDER, content="x")})
    made = scouted(before, after)
    assert made.verdict.exit_code == 0
    text = "\n".join(lines(made))
    assert re.search(r"old\.co +new\.co +gfx950 q fp8 KV fp8 +decode: 48", text)
    assert re.search(r"older\.co +older\.co, other code +gfx950 q fp8 KV fp8 +decode: 64", text)
    assert [each["task"] for each in json.loads(json_text(made))["kernels"]] == ["decode", "decode"]


def test_a_refusal_that_goes_is_told_and_one_that_comes_is_blamed() -> None:
    refuses, takes = examined([refused("2026-06")], {OTHER: OLD}), examined(kernels={SHAPE: OLD, OTHER: OLD})
    made = scouted(refuses, takes)
    assert made.verdict.exit_code == 0
    assert "Runs now, and did not on the base:" in [*lines(made)]
    assert any(f"{SHAPE.tensors}, decode: {SHAPE.num_head}" in line and "no kernel" in line for line in lines(made))
    assert scouted(takes, refuses).verdict.exit_code == 1


def test_work_that_did_not_run_for_one_reason_is_one_row() -> None:
    wide = dataclasses.replace(SHAPE, num_head=128)
    bf16 = dataclasses.replace(wide, q_dtype=DType.BF16)
    shapes = (SHAPE, wide, bf16, OTHER)
    before = [dataclasses.replace(refused("2026-06"), shape=shape) for shape in shapes]
    before[-1] = dataclasses.replace(before[-1], message="another reason")
    made = scouted(examined(before), examined(kernels=dict.fromkeys(shapes, OLD)))
    (section,) = (each for each in made.sections if each.heading.startswith("Runs now"))
    assert [(where, said) for where, said in section.rows] == [
        (f"{SHAPE.tensors}, decode: {SHAPE.num_head}, 128; {bf16.tensors}, decode: 128", before[0].message),
        (f"{OTHER.tensors}, decode: {OTHER.num_head}", "another reason"),
    ]


@pytest.mark.parametrize("given", ["checkout", "checkout@", "@main"])
def test_a_candidate_is_a_revision(given: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "checkout").mkdir()
    assert main(["scout", "sglang==0.5.13", "--aiter", given.replace("checkout", str(tmp_path / "checkout"))]) == 2
    assert "PATH@REV" in capsys.readouterr().err


def test_a_range_without_a_commit_that_matters_is_said(aiter_of_two_commits: Path) -> None:
    from reprod.takes import distinct_commits

    commits = distinct_commits(str(aiter_of_two_commits), "first", "last")
    assert [each.subject for each in commits] == ["launcher"]
    with pytest.raises(UsageError, match="one with a commit that touches MLA decode"):
        distinct_commits(str(aiter_of_two_commits), "launcher", "last")


@pytest.fixture
def aiter_of_two_commits(tmp_path: Path) -> Path:
    """Three commits: a tree, another launcher, and a file that decides nothing."""
    import subprocess

    folder = tmp_path / "aiter"
    launcher = folder / "csrc" / "py_itfs_cu" / "asm_mla.cu"
    launcher.parent.mkdir(parents=True)

    def git(*command: str) -> None:
        subprocess.run(("git", "-C", str(folder), "-c", "user.name=n", "-c", "user.email=e", *command), check=True)

    subprocess.run(("git", "init", "-q", str(folder)), check=True)
    for tag, file, text in (("first", launcher, "1"), ("launcher", launcher, "2"), ("last", folder / "README.md", "3")):
        file.write_text(text)
        git("add", ".")
        git("commit", "-qm", tag)
        git("tag", tag)
    return folder
