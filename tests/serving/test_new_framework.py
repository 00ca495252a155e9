"""A framework's file is one row and a driver: with both, the gate finds it, drives it and blames it for what it brings."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from small_driver import FILE, SmallDriver

from backend.real.frameworks.framework_run import AITER_VARIABLES, variables

ROOT = Path(__file__).parents[2]

ROW = """
SMALL = Framework(
    name="small",
    module="small.attention",
    backend_class="SmallBackend",
    is_large_wheel=False,
    image="Dockerfile",
    driver="small_driver:SmallDriver",
)
TARGETS, USUAL = (*TARGETS, SMALL), (*USUAL, SMALL)
"""

PROGRAM = f"""
import importlib.abc, importlib.machinery, importlib.util, sys

class OneMoreRow(importlib.machinery.SourceFileLoader):
    def get_code(self, fullname):
        data = self.get_data(self.path) + {ROW.encode()!r}
        return self.source_to_code(data, self.path)  # nothing cached, neither read nor written

class Finder(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name != "backend.serving.frameworks":
            return None
        place = {str(ROOT / "backend" / "serving" / "frameworks.py")!r}
        return importlib.util.spec_from_file_location(name, place, loader=OneMoreRow(name, place))

sys.meta_path.insert(0, Finder())
"""
"""What every Python begins with: the source as it stands, and one row more."""

SHAPE = ("--heads", "16", "--arch", "gfx950", "--kv-dtype", "fp8")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """`sound`, the framework's tree, and `short`, whose buffers are sized for one request."""
    made = tmp_path_factory.mktemp("frameworks")
    (made / "sitecustomize.py").write_text(PROGRAM, encoding="utf-8")
    for name, text in (("sound", FILE), ("short", FILE.replace("info_v1(most, 1,", "info_v1(1, 1,"))):
        (made / name / "small").mkdir(parents=True)
        (made / name / "small" / "attention.py").write_text(text, encoding="utf-8")
    return made


def gate(folder: Path, *argv: str) -> subprocess.CompletedProcess[str]:
    paths = (folder, ROOT, Path(__file__).parent)
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, paths))}
    command = [sys.executable, "-m", "fuzz.cli", "gate", *argv, *SHAPE]
    return subprocess.run(command, capture_output=True, text=True, env=environment, cwd=folder, timeout=300)


def test_a_change_is_blamed_for_what_it_brings(folder: Path) -> None:
    only = ("--only", "decode, 16 heads, gfx950 fp8/fp8")
    ran = gate(folder, "short", "--base", "sound", *only)
    assert ran.returncode == 1, ran.stdout + ran.stderr
    for told in (
        "decode, eager, KV [17, 400]",
        "decode, replay, KV [17, 400] and 2 padded",
        "the first step that is wrong: decode, capture, KV [] and 8 padded",
        "buffers are smaller than the batch of 8 needs",
    ):
        assert told in ran.stdout, ran.stdout
    sound = gate(folder, "sound", *only)
    assert sound.returncode == 0, sound.stdout + sound.stderr


@pytest.mark.slow(guard="test_a_change_is_blamed_for_what_it_brings")
def test_a_framework_that_verifies_no_drafts_has_a_table(folder: Path) -> None:
    """What its constructor decides is asked with drafts too, for which it has no step."""
    ran = gate(folder, "sound", "--table")
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert [line.split()[-1] for line in ran.stdout.splitlines() if line.strip().startswith("16 ")] == ["yes"]
    same = gate(folder, "sound", "--base", "sound")
    assert same.returncode == 0, same.stdout + same.stderr


def test_what_the_shell_has_set_of_its_variables_steers_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """By the prefixes that the driver names, and AITER's."""
    for name in ("SMALL_SET", "AITER_SET", "OTHER_SET"):
        monkeypatch.setenv(name, "1")
    before = dict(os.environ)
    with variables((*SmallDriver.prefixes, AITER_VARIABLES), {"SMALL_WANTED": "1"}):
        assert {name for name in ("SMALL_SET", "AITER_SET", "OTHER_SET", "SMALL_WANTED") if name in os.environ} == {
            "OTHER_SET",
            "SMALL_WANTED",
        }
        os.environ["SMALL_LATE"] = "1"
    assert dict(os.environ) == before
