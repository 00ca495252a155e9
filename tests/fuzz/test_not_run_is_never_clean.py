"""For each command that judges: each way of not running is exit 3, with a word of what did not run. Never 0, never 1."""

from __future__ import annotations

import dataclasses
import zipfile
from pathlib import Path

import pytest

from backend.real.frameworks.fetch import open_source
from backend.serving import own_rule
from fuzz.cli import main
from fuzz.gate.order import everything
from tests.tiers import one_of_each

RULES = {
    "refuses": (
        "from backend.serving.policy import CaseRefused\ndef policy(case):\n    raise CaseRefused('no such heads')\n",
        "no such heads",
    ),
    "leaves": ("def policy(case):\n    raise SystemExit(0)\n", "SystemExit"),
    "leaves at import": ("raise SystemExit(0)\n", "SystemExit"),
    "ends the process": ("import os\ndef policy(case):\n    os._exit(0)\n", "exit status 0"),
    "kills itself": ("import os\ndef policy(case):\n    os.kill(os.getpid(), 9)\n", "SIGKILL"),
    "kills its parent": ("import os\ndef policy(case):\n    os.kill(os.getppid(), 9)\n    os._exit(0)\n", "its process"),
    "closes everything": ("import os\ndef policy(case):\n    os.closerange(0, 256)\n    os._exit(0)\n", "exit status 0"),
    "closes everything and stays": (
        "import os, time\ndef policy(case):\n    os.closerange(0, 256)\n    time.sleep(1e6)\n",
        "did not answer",
    ),
    "sleeps": ("import time\ndef policy(case):\n    time.sleep(1e6)\n", "did not answer"),
    "forks and leaves": ("import os\ndef policy(case):\n    if os.fork():\n        os._exit(0)\n    return 3\n", "rule.py"),
    "says another's words": (
        "import os\ndef policy(case):\n    for to in range(256):\n        try:\n            os.write(to, b'nonsense\\n')\n"
        "        except OSError:\n            pass\n    return 3\n",
        "no answer",
    ),
    "recurses": ("def policy(case):\n    return policy(case)\n", "RecursionError"),
    "divides by zero": ("def policy(case):\n    return 1 // 0\n", "ZeroDivisionError"),
    "is interrupted": ("def policy(case):\n    raise GeneratorExit\n", "GeneratorExit"),
    "returns a number": ("def policy(case):\n    return 3\n", "not a Choice"),
    "returns nothing": ("def policy(case):\n    pass\n", "not a Choice"),
    "chooses nonsense": (
        "import dataclasses\nfrom backend.serving.sglang import SGLANG_27188\n"
        "def policy(case):\n    return dataclasses.replace(SGLANG_27188(case), num_head='64')\n",
        "num_head='64'",
    ),
    "chooses no number": (
        "import dataclasses\nfrom backend.serving.sglang import SGLANG_27188\n"
        "def policy(case):\n    return dataclasses.replace(SGLANG_27188(case), padding_kv_len=float('nan'))\n",
        "padding_kv_len=nan",
    ),
    "answers for us": (
        "import os, sys\nimport backend.serving.own_rule as rules\n"
        "rules._check = sys.exit = os._exit = lambda *_: None\n"
        "class Choice(rules.Choice):\n    pass\n"
        "def policy(case):\n    return Choice(*[0] * 16)\n",
        "answer",
    ),
}
"""Name -> a rule that never answers, and a word of what is said of it."""

SECONDS = {"sleeps": 1.0, "closes everything and stays": 1.0}
"""For those that never answer; others have time enough on any machine."""

ASKED = {
    "explain": ("--heads", "64", "--kv-lens", "1"),
    "gate": ("--heads", "64", "--kv-dtype", "fp8", "--seconds", "1"),
}


ASKING = [
    *(("explain", rule) for rule in RULES),
    *(("gate", rule) for rule in ("refuses", "leaves at import", "ends the process", "returns a number", "sleeps")),
]
REACHES = {
    **dict.fromkeys(("leaves", "recurses", "divides by zero", "is interrupted"), "it raises"),
    **dict.fromkeys(("returns a number", "returns nothing", "chooses nonsense", "chooses no number"), "it answers no choice"),
    **dict.fromkeys(("ends the process", "kills itself", "kills its parent", "forks and leaves"), "its process ends"),
    **dict.fromkeys(("sleeps", "closes everything and stays"), "it does not answer"),
}
"""What rules come to that come to the same."""


@pytest.mark.parametrize(("command", "rule"), one_of_each(ASKING, lambda row: REACHES.get(row[1], row[1])))
def test_a_rule_that_does_not_answer(
    command: str, rule: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    text, word = RULES[rule]
    file = tmp_path / "rule.py"
    file.write_text(text)
    monkeypatch.chdir(tmp_path)  # named from where one stands
    monkeypatch.setattr(own_rule, "LIMITS", dataclasses.replace(own_rule.LIMITS, seconds=SECONDS.get(rule, 60.0)))
    named = [file.name] if command == "gate" else ["--backend", file.name]
    assert main([command, *named, *ASKED[command]]) == 3
    printed = capsys.readouterr()
    assert word in printed.out + printed.err
    assert "Traceback" not in printed.err
    assert not any(line.startswith("clean") for line in printed.out.splitlines())


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
    "AITER ends the process": (
        "            mla_decode_fwd(q, k_buffer_flat, o, **kwargs)",
        """            try:
                mla_decode_fwd(q, k_buffer_flat, o, **(kwargs | {"q_scale": None}))
            except Exception:
                pass""",
        "ends the process",
    ),
}
"""Name -> an edit of sglang's file with which 64 heads do not run, and a word of what is said of it."""


FILE = "sglang/srt/layers/attention/aiter_backend.py"

GATED = [
    *(("decide", edit) for edit in ("AITER refuses", "step raises", "constructor crashes", "constructor refuses")),
    *(("gate", edit) for edit in ("AITER ends the process", "constructor crashes", "AITER wants scales")),
]
"""Each edit once, and one by both."""


@pytest.mark.parametrize(("command", "edit"), one_of_each(GATED))
def test_a_source_that_does_not_run(
    command: str, edit: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A gate is of the first scenarios of a sweep, in one process: none of the others would run."""
    monkeypatch.setattr("fuzz.gate.gate.everything", lambda *asked: everything(*asked)[:4])
    monkeypatch.setattr("fuzz.gate.run.CORES", 1)
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
    asked = ("--heads", "64", *(("--kv-dtype", "fp8", "--seconds", "900", "--lives", "0") if command == "gate" else ()))
    assert main([command, str(wheel), *asked]) == 3
    printed = capsys.readouterr().out
    assert word in printed
    assert not any(line.startswith(("clean", "::")) for line in printed.splitlines())
