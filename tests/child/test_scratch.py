"""A temporary folder goes with its process, whatever ends it."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from backend.child import scratch
from backend.child.process import ROOT
from backend.child.scratch import OWNER, PREFIX, Scratch

HOLDS = """
import sys, time
from backend.child.scratch import Scratch
made = Scratch("held-", sys.argv[1])
(made.path / "token").write_text("secret")
print(made.path, flush=True)
time.sleep(600)
"""


@pytest.fixture
def place(tmp_path: Path) -> str:
    scratch._swept.cache_clear()
    return str(tmp_path)


def holder(place: str) -> tuple[subprocess.Popen[str], Path]:
    command = [sys.executable, "-c", HOLDS, place]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)})
    assert process.stdout is not None
    return process, Path(process.stdout.readline().strip())


def test_it_goes_when_it_is_closed(place: str) -> None:
    with Scratch("x-", place) as folder:
        (folder / "file").touch()
        assert folder.stat().st_mode & 0o777 == 0o700
    assert not list(Path(place).iterdir())


def test_what_a_killed_process_left_goes_with_the_next_one_and_nothing_else(place: str) -> None:
    killed, left = holder(place)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    (Path(place) / f"{PREFIX}of-somebody").mkdir()
    (Path(place) / "victim").mkdir()
    (Path(place) / "victim" / OWNER).touch()
    (Path(place) / f"{PREFIX}link").symlink_to(Path(place) / "victim")
    (Path(place) / f"{PREFIX}pipe").mkdir()
    os.mkfifo(Path(place) / f"{PREFIX}pipe" / OWNER)
    running, kept = holder(place)
    try:
        assert not left.exists()
        scratch._swept.cache_clear()
        began = time.monotonic()
        with Scratch("x-", place) as folder:
            there = {folder.name, kept.name, "victim", f"{PREFIX}link", f"{PREFIX}of-somebody"}
            assert there <= {path.name for path in Path(place).iterdir()}
            assert (kept / "token").exists()
            assert (Path(place) / "victim" / OWNER).exists()
        assert time.monotonic() - began < 60, "nobody waits for a pipe"
    finally:
        running.kill()
        running.wait()
