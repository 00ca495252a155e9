"""Names and words that would command a terminal or a CI's runner: refused where they are typed, folded where they are told."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from each_command import LEAVES, typed

from backend.child.process import ROOT
from backend.errors import UsageError
from fuzz.campaign.config import CampaignConfig
from fuzz.cli import main
from reprod.text import commands_nobody, for_a_terminal

HOSTILE = {
    "an escape": "a\x1b[31mb",
    "a return": "a\rb",
    "a command of its own line": "a\n::error::b",
    "a command within a line": "a##[error]b",
    "another direction": "a\u202eb",
    "nothing that is seen": "a\u200bb",
    "another line separator": "a\u2028::error::b",
    "NUL": "a\0b",
    "no UTF-8": "a\udcffb",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_what_is_a_name_and_what_is_not(name: str) -> None:
    assert not commands_nobody(HOSTILE[name])
    assert commands_nobody("a b/\u00e4\u4e2d-1.py")


@pytest.mark.parametrize("name", HOSTILE)
@pytest.mark.parametrize("command", LEAVES)
def test_it_is_refused_where_it_is_typed(command: str, name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*typed(command, "", {}, tmp_path), HOSTILE[name]]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "what is typed: given " in said
    assert commands_nobody(said.strip())


def test_a_script_s_own_arguments_may_be_so(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    script = tmp_path / "script.py"
    script.write_text("import sys\nprint(repr(sys.argv[1]))\n")
    assert main(["verify", str(script), "--", HOSTILE["an escape"]]) == 3  # it uses no GPU
    assert repr(HOSTILE["an escape"]) in capfd.readouterr().out


@pytest.mark.parametrize("name", HOSTILE)
def test_no_store_names_such_a_rule(name: str) -> None:
    with pytest.raises(UsageError, match="campaign field backend: given"):
        CampaignConfig(HOSTILE[name])


def test_flags_of_a_file_are_told_on_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "aiterfuzz.toml").write_text(f"[run]\nout = {json.dumps(HOSTILE['a command of its own line'])}\n")
    assert main(["run"]) == 2
    assert [line[:9] for line in capsys.readouterr().err.splitlines()] == ["flags of ", "aiterfuzz"]


@pytest.mark.parametrize("stream", ["stdout", "stderr"])
def test_whatever_a_command_prints_commands_no_terminal(stream: str) -> None:
    text = "a\tb\nc" + "".join(HOSTILE.values())
    command = f"sys.argv[1:] = ['version']\nversion.run = lambda _: print({text!r}, file=sys.{stream}) or 0\n"
    program = f"import sys\nfrom fuzz import cli\nfrom fuzz.commands import version\n{command}sys.exit(cli.main())\n"
    for encoding in ("utf-8", "ascii"):
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONIOENCODING": encoding}
        done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, check=False)
        assert done.returncode == 0, done.stderr
        wanted = for_a_terminal(text).encode(encoding, "backslashreplace")
        assert (done.stdout if stream == "stdout" else done.stderr).rstrip(b"\n") == wanted.rstrip(b"\n")
        assert not {*b"\x1b\r\0"} & {*wanted}
