"""A rule of one's own: the one that `rule new` writes runs, and a broken one is said to be broken, by file and line."""

from __future__ import annotations

import dataclasses
import re
from importlib import resources
from pathlib import Path

import pytest

from backend.aiter.arguments import DecodeArguments
from backend.case import Case, DType, MetadataMode
from backend.decision import Decision
from backend.errors import RuleFailedError
from backend.path import Path as CasePath
from backend.serving import own_rule
from backend.serving.policy import Choice, decide
from fuzz.cli import main
from tests.tiers import one_of_each

BROKEN = {
    "chooses too little": (
        "from backend.serving.policy import Choice\n\ndef policy(case):\n    return Choice()\n",
        "TypeError: Choice.__init__() missing",
        4,
    ),
    "raises": ("def policy(case):\n    return 1 // 0\n", "raises ZeroDivisionError", 2),
    "returns a number": ("\n\ndef policy(case):\n    return 3\n", "returns 3 (int), not a Choice", 3),
    "chooses a word": (
        "from backend.serving.policy import Choice\ndef policy(case):\n    return Choice('fast')\n",
        "mode='fast' (str); allowed: a MetadataMode",
        2,
    ),
    "does not come back": ("import time\ndef policy(case):\n    time.sleep(1e6)\n", "did not answer within 1 s", 3),
    "raises far down": ("def policy(case):\n    return deep()\ndef deep():\n    return case\n", "raises NameError", 4),
    "exits": ("import sys\ndef policy(case):\n    sys.exit(0)\n", "raises SystemExit", 3),
}
"""What is wrong -> a rule, what is said of it, and the line that is named."""

NO_RULE = {
    "no Python": ("x = 1\ndef policy(case):\n    return (\n", "SyntaxError", 3),
    "raises when loaded": ("import aiterfuzz_no_such_module\n", "ModuleNotFoundError", 1),
}


@pytest.mark.parametrize("what", one_of_each(BROKEN))
def test_a_broken_rule_is_the_rules_own_error(
    what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    text, said, line = BROKEN[what]
    rule = tmp_path / "rule.py"
    rule.write_text(text)
    seconds = 1.0 if what == "does not come back" else 60.0
    monkeypatch.setattr(own_rule, "LIMITS", dataclasses.replace(own_rule.LIMITS, seconds=seconds))
    run = ["run", "--cases", "2", "--repeats", "1", "--out", str(tmp_path / "out")]
    explain = ["explain", "--heads", "64", "--kv-lens", "1"]  # in this process, which has another limit
    assert main([*(explain if seconds == 1.0 else run), "--backend", str(rule)]) == 3
    spoken = "".join(capsys.readouterr())
    assert said in spoken
    assert f"at {rule}:{line} (" in spoken, spoken
    assert "error of aiterfuzz itself" not in spoken


@pytest.mark.parametrize("what", NO_RULE)
def test_a_file_that_is_no_rule(what: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text, said, line = NO_RULE[what]
    rule = tmp_path / "rule.py"
    rule.write_text(text)
    assert main(["run", "--backend", str(rule), "--cases", "2", "--out", str(tmp_path / "out")]) == 2
    err = capsys.readouterr().err
    assert said in err
    assert f"at {rule}:{line}" in err


def test_a_new_rule_runs_and_finds_the_fault_that_its_first_lines_tell_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["rule", "new"]) == 0
    next_line = capsys.readouterr().out.splitlines()[-1]
    assert next_line.startswith("next: aiterfuzz ")
    asked = [*next_line.split()[2:], "--cases", "60"]
    assert asked[:3] == ["run", "--backend", "my_rule.py"]
    assert main([*asked, "--out", "clean"]) == 0
    rule = Path("my_rule.py")
    rule.write_text(rule.read_text().replace("{32, 64, 128}", "{32, 128}"))
    assert main([*asked, "--out", "faulty"]) == 1
    assert "head-width/planner v1_0" in capsys.readouterr().out


def test_a_new_rule_replaces_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "mine.py"
    file.write_text("mine")
    assert main(["rule", "new", str(file)]) == 2
    assert "is there already" in capsys.readouterr().err
    assert file.read_text() == "mine"
    assert main(["rule", "new", str(tmp_path / "mine.txt")]) == 2


@pytest.mark.parametrize("mode", MetadataMode)
def test_a_choice_of_a_mode_is_enough(mode: MetadataMode) -> None:
    """All else is as the case has it: 16 heads in bf16 are served in every mode."""
    case = Case(num_head=16, kv_lens=(3, 700), q_dtype=DType.BF16, kv_dtype=DType.BF16, graph_batch=4, max_batch=8)
    decided = decide(lambda _: Choice(mode), case)
    assert isinstance(decided, Decision)
    assert isinstance(decided.decode, DecodeArguments)
    assert (decided.decode.num_head, decided.kv_lens) == (16, (3, 700, 1, 1))
    if decided.sizing is not None:
        assert (decided.sizing.batch, decided.sizing.max_seqlen_q, decided.sizing.q_dtype) == (8, 1, DType.BF16)
    outcome = CasePath().run_decision(decided)
    assert (outcome.refused, outcome.findings) == (None, ())


def test_a_new_rule_lists_every_field_of_a_choice() -> None:
    text = resources.files("backend.serving").joinpath("new_rule.py.txt").read_text(encoding="utf-8")
    listed = re.findall(r"^        (?:# )?(\w+)=", text, re.MULTILINE)
    assert sorted(listed) == sorted(field.name for field in dataclasses.fields(Choice))


WRONG = """
import dataclasses
from backend.case import MetadataMode
from backend.serving.policy import Choice

def policy(case):
    field = dataclasses.fields(Choice)[case.num_head - 1].name
    return Choice(**{"mode": MetadataMode.FAST, field: -1.5})
"""


def test_no_field_of_a_choice_may_be_anything(tmp_path: Path) -> None:
    """By its type alone: a field that is added is held to it."""
    (tmp_path / "wrong.py").write_text(WRONG)
    rule = own_rule.OwnRule(str(tmp_path / "wrong.py"))
    try:
        for number, field in enumerate(dataclasses.fields(Choice), 1):
            with pytest.raises(RuleFailedError, match=rf"its choice has {field.name}=-1.5 \(float\); allowed: a "):
                rule(Case(number, (1,)))
    finally:
        rule.close()
