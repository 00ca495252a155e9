"""For each command that judges: each way of not running is exit 3, with a word of what did not run. Never 0, never 1."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from backend.real.frameworks.fetch import open_source
from fuzz.cli import main

ROOT = Path(__file__).parents[2]

RULES = {
    "refuses": (
        "from backend.serving.policy import CaseRefused\ndef policy(case):\n    raise CaseRefused('no such heads')\n",
        "no such heads",
    ),
    "leaves": ("def policy(case):\n    raise SystemExit(0)\n", "SystemExit"),
    "leaves at import": ("raise SystemExit(0)\n", "SystemExit"),
    "ends the process": ("import os\ndef policy(case):\n    os._exit(0)\n", "exit status 0"),
    "divides by zero": ("def policy(case):\n    return 1 // 0\n", "ZeroDivisionError"),
    "is interrupted": ("def policy(case):\n    raise GeneratorExit\n", "GeneratorExit"),
    "returns a number": ("def policy(case):\n    return 3\n", "not a Choice"),
    "returns nothing": ("def policy(case):\n    pass\n", "not a Choice"),
    "chooses nonsense": (
        "import dataclasses\nfrom backend.serving.sglang import SGLANG_27188\n"
        "def policy(case):\n    return dataclasses.replace(SGLANG_27188(case), num_head='64')\n",
        "num_head='64'",
    ),
}
"""Name -> a rule that never answers, and a word of what is said of it."""

ASKED = {
    "explain": ("--heads", "64", "--kv-lens", "1"),
    "gate": ("--heads", "64", "--kv-dtype", "fp8", "--seconds", "1"),
}


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("command", ASKED)
def test_a_rule_that_does_not_answer(command: str, rule: str, tmp_path: Path) -> None:
    text, word = RULES[rule]
    file = tmp_path / "rule.py"
    file.write_text(text)
    named = [file.name] if command == "gate" else ["--backend", file.name]  # from where one stands, too
    done = subprocess.run(
        [sys.executable, "-m", "fuzz.cli", command, *named, *ASKED[command]],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 3, done.stdout + done.stderr
    assert word in done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    assert not any(line.startswith("clean") for line in done.stdout.splitlines())


PADDED = "self.num_head_padded = 16 if self.num_head < 16 else self.num_head"
SOURCES = {
    "constructor crashes": (PADDED, f"{PADDED}\n            self.rule = HEAD_TABLE[self.num_head]", "HEAD_TABLE"),
    "constructor refuses": (PADDED, f'{PADDED}\n            assert self.num_head != 64, "64 heads"', "64 heads"),
    "step raises": (
        "            mla_decode_fwd(q, k_buffer_flat, o, **kwargs)",
        '            raise RuntimeError("boom\\n::error file=README.md,line=1::forged")',
        "boom",
    ),
    "AITER refuses": (
        "_use_mla_ps_kernel = get_bool_env_var",
        "_use_mla_ps_kernel = False and get_bool_env_var",
        "AITER refuses",
    ),
    "AITER wants scales": ("q_scale=k_descale", "q_scale=None", "fp8 Q requires q_scale and kv_scale"),
}
"""Name -> an edit of sglang's file with which 64 heads do not run, and a word of what is said of it."""


FILE = "sglang/srt/layers/attention/aiter_backend.py"

GATED = [("gate", "constructor crashes"), ("gate", "AITER wants scales"), *(("decide", edit) for edit in SOURCES)]


@pytest.mark.parametrize(("command", "edit"), GATED)
def test_a_source_that_does_not_run(command: str, edit: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    old, new, word = SOURCES[edit]
    source = open_source("sglang==0.5.13")
    assert old in source.target.text
    wheel = tmp_path / "sglang-0.5.13-changed.whl"
    with zipfile.ZipFile(wheel, "w") as made:
        for name in source.tree.tree._names:  # type: ignore[attr-defined]
            read = source.tree.tree.read(name) if name.endswith(".py") else None
            if read is not None:
                text = source.target.text.replace(old, new) if name == FILE else read[0]
                made.writestr(name, text)
    asked = ("--heads", "64", "--kv-dtype", "fp8", "--seconds", "1") if command == "gate" else ("--heads", "64")
    assert main([command, str(wheel), *asked]) == 3
    printed = capsys.readouterr().out
    assert word in printed
    assert not any(line.startswith(("clean", "::")) for line in printed.splitlines())
