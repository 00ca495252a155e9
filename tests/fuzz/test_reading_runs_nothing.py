"""A case, a corpus entry or a store names a rule: reading it must not run the rule; a person's --backend does."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

RULE = """
from pathlib import Path
from backend.serving.sglang import SGLANG_BEFORE_27188
Path("MARK").write_text("ran")
policy = SGLANG_BEFORE_27188
"""

NAMES = ("marks.py", "marks.py:policy", "./marks.py", "{0}/marks.py", "marks:policy", "this:s", "marks.toml", "{0}/marks.toml")


def aiterfuzz(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    paths = os.pathsep.join((str(ROOT), str(folder)))
    return subprocess.run(
        [sys.executable, "-m", "fuzz.cli", *arguments],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": paths, "AITERFUZZ_FENCE": "none"},  # behind another one it could leave no mark
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "marks.py").write_text(RULE)
    return tmp_path


EACH = """
import json, sys
from pathlib import Path
from fuzz.cli import main
names, *command = json.loads(sys.argv[1])
for name in names:
    Path("case.json").write_text(json.dumps({"num_head": 64, "kv_lens": [1], "backend": name}))
    code = main(command)
    print("ended", code, "ran" if Path("MARK").exists() else "did not run", name)
"""
"""All names in one process, which imports what a command needs once."""


@pytest.mark.parametrize("command", ["explain", "bisect"])
def test_a_case_s_rule_is_not_run(folder: Path, command: str) -> None:
    more = ("--backend-sources", "sglang==0.5.13,sglang==0.5.14") if command == "bisect" else ()
    names = [name.format(folder) for name in NAMES]
    paths = os.pathsep.join((str(ROOT), str(folder)))
    done = subprocess.run(
        [sys.executable, "-c", EACH, json.dumps([names, command, "case.json", *more])],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": paths, "AITERFUZZ_FENCE": "none"},
        capture_output=True,
        text=True,
        check=False,
    )
    ended = [line.split(" ", 2) for line in done.stdout.splitlines() if line.startswith("ended ")]
    assert [rest for _, _, rest in ended] == [f"did not run {name}" for name in names], done.stderr
    assert {code for _, code, _ in ended} <= {"2", "3"}, done.stdout
    assert "Traceback" not in done.stderr
    assert "The Zen of Python" not in done.stdout


def test_a_corpus_entry_s_rule_is_not_run(folder: Path) -> None:
    entry = json.loads((ROOT / "corpus" / "F1-head-gate-64.json").read_text())
    entry["backend"] = "marks.py"
    for row in (*entry.get("faulty", ()), *entry.get("silent", ())):
        if isinstance(row, dict) and "case" in row:
            row["case"]["backend"] = "marks.py"
    (folder / "corpus").mkdir()
    (folder / "corpus" / "F1.json").write_text(json.dumps(entry))
    done = aiterfuzz(folder, "replay", "corpus")
    assert not (folder / "MARK").exists()
    assert done.returncode in (1, 2, 3), done.stdout
    assert "Traceback" not in done.stderr


def test_a_person_s_rule_is_run(folder: Path) -> None:
    (folder / "case.json").write_text(json.dumps({"num_head": 64, "kv_lens": [1], "backend": "marks.py"}))
    done = aiterfuzz(folder, "explain", "case.json", "--backend", "marks.py")
    assert done.returncode == 1, done.stderr
    assert (folder / "MARK").exists()


@pytest.mark.parametrize("goes_on", [False, True])
@pytest.mark.slow(guard="test_a_case_s_rule_is_not_run")
def test_a_store_s_rule_is_run_by_nobody_but_who_names_it(goes_on: bool, folder: Path) -> None:
    """goes_on: then it is named, as where the campaign began."""
    flags = ("--backend", "marks.py", "--shapes", "tp2", "--cases", "30", "--repeats", "1", "--shrink-tries", "5")
    begun = aiterfuzz(folder, "run", *flags, "--out", "store")
    assert begun.returncode == 1, begun.stderr
    assert (folder / "MARK").exists()
    (folder / "MARK").unlink()
    shutil.copytree(folder / "store", folder / "copy")
    for command in (
        ("report", "store"),
        ("merge", "store", "copy", "--out", "merged"),
        ("campaign", "--resume", "--out", "store"),
    ):
        done = aiterfuzz(folder, *command)
        assert not (folder / "MARK").exists(), command
        assert "Traceback" not in done.stderr
    assert done.returncode == 2
    assert "is not run; give --backend" in done.stderr
    if not goes_on:
        return
    resumed = aiterfuzz(folder, "campaign", "--resume", "--out", "store", "--backend", "marks.py", "--cases", "40")
    assert resumed.returncode == 1, resumed.stderr
    assert (folder / "MARK").exists()
