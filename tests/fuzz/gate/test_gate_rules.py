"""A rule gated before there is a source file: functions, TOML tables, and what a bad one is told."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from complaints import one_complaint

from backend.case import Arch, DType
from backend.path import Path as CasePath
from fuzz.cli import main
from fuzz.gate.policy import gate_policy
from fuzz.space import space
from fuzz.spec import Spec
from tests.compiled import PLANNERS
from tests.compiled import main as compiled
from tests.tiers import one_of_each

FP8 = ("--kv-dtype", "fp8", "--heads", "64", "--seconds", "0.3")

FAST = '[fp8]\ndefault = "fake"\n64 = "fast"\n'
FAKE = '[fp8]\ndefault = "fake"\n'


@pytest.fixture(scope="module", autouse=True)
def _compiled() -> None:
    """A gate of a fraction of a second has no time to compile planners."""
    for part in PLANNERS:
        compiled(part)


def gate(rule: str, *argv: str) -> int:
    return main(["gate", rule, *argv])


def written(tmp_path: Path, text: str, name: str = "rule.toml") -> str:
    path = tmp_path / name
    path.write_text(text)
    return str(path)


def test_a_table_is_gated_like_a_source(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert gate(written(tmp_path, FAST), "--base", "sglang-27188", *FP8) == 0
    assert "clean: no memory fault that the rule is to blame for" in capsys.readouterr().out
    assert gate(written(tmp_path, FAKE), *FP8, "--out", str(tmp_path)) == 1
    printed = capsys.readouterr().out
    assert "head-width/planner v1_0" in printed
    again = next(line.split()[2:] for line in printed.splitlines() if line.startswith("  again: aiterfuzz explain "))
    assert main(again) == 1
    assert "head-width" in capsys.readouterr().out
    data = json.loads((tmp_path / "gate.json").read_text())
    assert data["verdict"] == "faulty"
    assert data["faults"][0]["smallest"]["num_head"] == 64
    assert data["faults"][0]["smallest"]["kv_lens"] == [1]


@pytest.mark.slow(guard="test_a_table_is_gated_like_a_source")
def test_flags_do_for_a_rule_what_they_do_for_a_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Every file and annotation; a device and a checkout that are not there are refused, not ignored."""
    rule, out = written(tmp_path, FAKE), tmp_path / "out"
    assert gate(rule, *FP8, "--out", str(out), "--annotate") == 1
    assert sorted(path.name for path in out.iterdir()) == ["gate.html", "gate.json", "gate.sarif", "gate.xml", "summary.md"]
    assert any(line.startswith("::error") for line in capsys.readouterr().out.splitlines())
    assert gate(rule, *FP8, "--device", "no-such") == 2
    assert gate(rule, *FP8, "--aiter", "/no/such") == 2


@pytest.mark.parametrize("flag", [["--only", "64 heads"], ["--lives", "0"], ["--table"]], ids=lambda flag: flag[0])
def test_what_a_rule_has_nothing_to_do_with_is_refused(
    flag: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert gate(written(tmp_path, FAKE), *FP8, *flag) == 2
    assert one_complaint(capsys.readouterr().err).startswith(f"aiterfuzz: {flag[0]}: ")


@pytest.mark.slow(guard="test_a_table_is_gated_like_a_source")
def test_a_rule_is_tried_on_all_that_run_draws(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Every GPU with all types that it is served with: O2 needs a bf16 q beside an fp8 cache. What is not drawn is said."""
    assert gate("sglang-27188", "--heads", "64", "--seconds", "0.1", "--out", str(tmp_path)) == 1
    data = json.loads((tmp_path / "gate.json").read_text())
    assert data["tried_on"] == [f"{arch} q {q} KV {kv}" for arch, q, kv in space(Spec()).tensor_types]
    assert "O2" in {fault["known"]["entry"] for fault in data["faults"] if fault["known"]}
    said = capsys.readouterr().out
    assert "the caps that DP attention puts on splits" in said
    assert "O2  Metadata planned for an fp8 q that is bf16" in said


def test_a_fault_of_the_first_case_of_a_shape_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    """It needs no case that is drawn."""
    monkeypatch.setattr("fuzz.gate.policy._drawn", lambda one, seed: iter(()))
    asked = space(Spec(backend="sglang-before-27188", heads=(64,), archs=(Arch.GFX950,), q_dtype=DType.FP8))
    gated = gate_policy(asked, None, CasePath(), 0.1, 0)
    assert [fault.smallest.kv_lens for fault in gated.faults] == [(1,)]


@pytest.mark.slow(guard="test_what_is_expected_of_a_rule_is_not_blamed")
def test_a_fault_of_the_base_s_rule_is_not_blamed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rule = written(tmp_path, FAKE)
    assert gate(rule, "--base", "sglang-before-27188", *FP8) == 0
    assert "in the base too" in capsys.readouterr().out
    assert gate(rule, "--base", "sglang-27188", *FP8) == 1
    assert "new" in capsys.readouterr().out


@pytest.mark.parametrize("asked", one_of_each(["entries", "signatures", "another entry"]))
def test_what_is_expected_of_a_rule_is_not_blamed(asked: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """By the entry or by the signature; another entry excuses nothing, and what is neither is refused."""
    rule, out = written(tmp_path, FAKE), tmp_path / "out"
    assert gate(rule, *FP8, "--out", str(out)) == 1
    faults = json.loads((out / "gate.json").read_text())["faults"]
    shortest = {fault["known"]["entry"] if fault["known"] else fault["signature"] for fault in faults}
    assert "F1" in shortest
    capsys.readouterr()
    expected = {"entries": shortest, "signatures": {fault["signature"] for fault in faults}, "another entry": {"O1"}}[asked]
    assert gate(rule, *FP8, "--expect", ",".join(expected)) == (1 if asked == "another entry" else 0)
    if asked != "another entry":
        said = capsys.readouterr().out
        assert "expected (F1)" in said
        assert "clean: no memory fault that the rule is to blame for" in said
    assert gate(rule, *FP8, "--expect", "F999") == 2


@pytest.mark.slow(guard="test_a_table_is_gated_like_a_source")
def test_a_function_of_one_s_own(tmp_path: Path) -> None:
    text = "from backend.serving.backends import BACKENDS\nrule = BACKENDS['sglang-before-27188'].rule\n"
    assert gate(written(tmp_path, text, "mine.py") + ":rule", *FP8) == 1


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "an empty rule"),
        ("[fp8\n", "not TOML"),
        ("[int4]\ndefault = 'fast'\n", "int4"),
        ("[fp8]\n64 = 'fast'\n", "needs default"),
        ("[fp8]\ndefault = 'quick'\n", "quick"),
        ("[fp8]\ndefault = 'fast'\nmany = 'fast'\n", "many"),
        ("fp8 = 'fast'\n", "needs default"),
    ],
)
def test_a_bad_table_names_what_is_wrong(text: str, told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert gate(written(tmp_path, text), *FP8) == 2
    printed = capsys.readouterr()
    assert told in printed.err
    assert "rule.toml" in printed.err
    assert printed.out == ""


@pytest.mark.parametrize("rule", ["no_such_module:rule", "nowhere.py", "nowhere.toml"])
def test_a_rule_that_is_not_there(rule: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert gate(rule, *FP8) == 2
    assert rule.partition(":")[0] in capsys.readouterr().err


@pytest.mark.parametrize("source", ["sglang", "SGLang", "vllm==", "sglang=="])
def test_a_framework_without_a_release_is_told_which_to_give(source: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert gate(source) == 2
    name = source.partition("==")[0].lower()
    assert one_complaint(capsys.readouterr().err).startswith(f"aiterfuzz: {source}: names no release; give {name}==")


def test_a_rule_that_has_a_framework_s_name_says_which_release_the_file_is_of(capsys: pytest.CaptureFixture[str]) -> None:
    assert gate("vllm", *FP8) in (0, 1)
    told = capsys.readouterr().err
    assert re.search(r"^vllm is a rule, judged without its framework's file; that is vllm==\d", told, re.MULTILINE)
