"""The built wheel is the product: installed elsewhere and run from elsewhere it does what the checkout does."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
ROOMS = ("backend", "fuzz", "reprod", "corpus")

FAULTY = ["--backend", "sglang-before-27188", "--shapes", "tp2"]

SAME = [
    ["corpus", "replay", "F1", "F3", "F5", "F7", "O1", "O12", "C1", "C3"],  # found, silent, and what needs a checkout
    ["explain", "--backend", "sglang-before-27188", "--heads", "64", "--kv-lens", "1"],
    ["run", *FAULTY, "--cases", "300", "--seed", "1", "--out", "r"],
    ["campaign", *FAULTY, "--cases", "300", "--workers", "1", "--no-verify", "--out", "c", "--json"],
    ["gate", "sglang==0.5.13", "--heads", "64", "--kv-dtype", "fp8", "--seconds", "900", "--lives", "0"],
    ["verify", str(ROOT / "corpus" / "findings" / "bug-head-width-v1_0-bf16-48-heads")],
]
"""Commands whose verdict an installed wheel and a checkout must share."""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built of a copy, so that no build folder is left beside the sources."""
    copy = tmp_path_factory.mktemp("sources")
    for name in (*ROOMS, "pyproject.toml", "README.md", "LICENSE"):
        path = ROOT / name
        if path.is_dir():
            shutil.copytree(path, copy / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(path, copy / name)
    folder = tmp_path_factory.mktemp("wheel")
    _pip("wheel", "--no-deps", "--no-build-isolation", "--no-index", "--wheel-dir", str(folder), str(copy))
    (built,) = folder.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The command of a fresh environment that has the wheel, and what it depends on from where the tests have it.

    A folder that a .pth names has no .pth of its own read: the checkout that is installed there stays out.
    """
    venv = tmp_path_factory.mktemp("venv")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(venv)], check=True)
    _pip("--python", str(venv / "bin" / "python"), "install", "--no-deps", "--no-index", "--no-compile", str(wheel))
    (site,) = venv.glob("lib/python*/site-packages")
    packages = [path for path in sys.path if Path(path).name == "site-packages"]
    (site / "dependencies.pth").write_text("\n".join(packages), encoding="utf-8")
    return venv / "bin" / "aiterfuzz"


def _pip(*arguments: str) -> None:
    done = subprocess.run([sys.executable, "-m", "pip", "--quiet", *arguments], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def _here(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """The checkout's command, in a folder."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return _done([sys.executable, "-P", "-m", "fuzz.cli", *arguments], folder, environment)


def _there(command: Path, folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """The wheel's command, in a folder; nothing says where the checkout is."""
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    return _done([str(command), *arguments], folder, environment)


def _done(command: list[str], folder: Path, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)


def test_the_wheel_has_every_file_of_the_product(wheel: Path) -> None:
    """Sources, tables, templates, the page's parts, and the known faults with what was written of them."""
    packed = {name for name in zipfile.ZipFile(wheel).namelist() if not name.partition("/")[0].endswith(".dist-info")}
    there = {
        path.relative_to(ROOT).as_posix()
        for room in ROOMS
        for path in (ROOT / room).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert packed == there


def test_the_image_is_made_of_what_the_wheel_is_made_of() -> None:
    copied = re.findall(r"^COPY (.*) \S+$", (ROOT / "Containerfile").read_text(encoding="utf-8"), re.MULTILINE)
    names = [name for line in copied for name in line.split()]
    assert set(ROOMS) <= set(names)
    assert not [name for name in names if not (ROOT / name).exists()]


def test_what_the_image_runs_ends_well(tmp_path: Path) -> None:
    """A RUN that exits 1, as a search does that finds something, ends the build of the image."""
    text = (ROOT / "Containerfile").read_text(encoding="utf-8")
    (run,) = re.findall(r"^RUN aiterfuzz (.*) --out \S+ ", text, re.MULTILINE)
    done = _here(tmp_path, *run.split(), "--out", str(tmp_path / "first"))
    assert done.returncode == 0, done.stdout


def test_an_installed_wheel_knows_what_a_checkout_knows(installed: Path, tmp_path: Path) -> None:
    here, there = _here(tmp_path, "version"), _there(installed, tmp_path, "version")
    assert here.returncode == there.returncode == 0, there.stderr
    (site,) = installed.parents[1].glob("lib/python*/site-packages")
    assert str(ROOT) in here.stdout
    assert there.stdout == here.stdout.replace(str(ROOT), str(site))


@pytest.mark.slow
@pytest.mark.parametrize("command", SAME, ids=lambda command: command[0])
def test_an_installed_wheel_judges_as_a_checkout_does(command: list[str], installed: Path, tmp_path: Path) -> None:
    (tmp_path / "here").mkdir()
    (tmp_path / "there").mkdir()
    here, there = _here(tmp_path / "here", *command), _there(installed, tmp_path / "there", *command)
    assert there.returncode == here.returncode, there.stderr
    assert _lasting(there.stdout) == _lasting(here.stdout)


def _lasting(said: str) -> list[Any]:
    """What was said, without the lines that tell of time; of a campaign, how far findings are shrunk is time's."""
    if said.startswith("{"):
        told = json.loads(said)
        found = sorted(
            (each["signature"], each["count"], each["known"] and each["known"]["entry"]) for each in told["findings"]
        )
        return [*(told[key] for key in ("verdict", "exit_code", "headline", "counts", "not_run")), *found]
    return [line for line in said.splitlines() if " s (" not in line and "seconds" not in line and "/s" not in line]
