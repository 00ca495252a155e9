"""Flags in a file: read as if typed, for one command or for all, and what is typed prevails."""

from __future__ import annotations

from pathlib import Path

import pytest

from backend.case import DType
from backend.errors import UsageError
from fuzz.cli import parser
from fuzz.commands.settings import OWN, SHARED, VARIABLE, settings_here, with_settings


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv(VARIABLE, raising=False)
    return tmp_path


def test_a_section_is_its_command_s_and_what_is_above_is_everyone_s(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (here / OWN).write_text('aiter = "/a"\n[gate]\nheads = [64, 48]\nkv_dtype = "fp8"\nquiet = true\n[run]\ncases = 7\n')
    made = parser()
    asked = made.parse_args(with_settings(["gate", "x", "--heads", "16"], made, settings_here()))
    assert (asked.aiter, asked.heads, asked.kv_dtype, asked.quiet) == ("/a", (16,), (DType.FP8,), True)
    assert "flags of aiterfuzz.toml: --aiter /a --heads 64,48 --kv-dtype fp8 --quiet" in capsys.readouterr().err
    assert made.parse_args(with_settings(["run"], made, settings_here())).cases == 7
    assert with_settings(["doctor"], made, settings_here()) == ["doctor"], "it has no --aiter"


def test_parts_of_commands_and_switches_that_are_on_by_themselves(here: Path) -> None:
    (here / SHARED).write_text("[tool.aiterfuzz.selftest.agree]\ncases = 3\n[tool.aiterfuzz.campaign]\nverify = false\n")
    made = parser()
    assert made.parse_args(with_settings(["selftest", "agree"], made, settings_here())).cases == 3
    assert made.parse_args(with_settings(["campaign"], made, settings_here())).verify is False
    (here / OWN).write_text("[run]\ncases = 2\n")
    assert with_settings(["campaign"], made, settings_here()) == ["campaign"], "the file of its own goes before the shared one"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[gate]\nheds = 1\n", "gate has no flag --heds; did you mean heads?"),
        ("[gaet]\nheads = 1\n", "given 'gaet'"),
        ("[gate.table]\nheads = 1\n", "given 'gate.table'"),
        ("[gate\n", OWN),
    ],
)
def test_what_is_wrong_with_a_file_is_said(text: str, said: str, here: Path) -> None:
    (here / OWN).write_text(text)
    with pytest.raises(UsageError) as raised:
        with_settings(["gate", "x"], parser(), settings_here())
    assert said in str(raised.value)


def test_another_file_or_none(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (here / OWN).write_text("[run]\ncases = 2\n")
    (here / "other.toml").write_text("[run]\ncases = 3\n")
    made = parser()
    monkeypatch.setenv(VARIABLE, "other.toml")
    assert with_settings(["run"], made, settings_here()) == ["run", "--cases", "3"]
    monkeypatch.setenv(VARIABLE, "")
    assert with_settings(["run"], made, settings_here()) == ["run"]
    monkeypatch.setenv(VARIABLE, "nowhere.toml")
    with pytest.raises(UsageError):
        with_settings(["run"], made, settings_here())
