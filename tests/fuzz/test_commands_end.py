"""A command that is ended takes with it whatever it has started, however it is ended."""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psutil
import pytest

from backend.child.process import ROOT
from fuzz.cli import main
from fuzz.own_process import Interruption, checkpoint

SCRIPT = """
import subprocess, sys, time
subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)  # {mark}"], start_new_session=True, env={{}})
subprocess.Popen(["sleep", "601.{number}"], start_new_session=True)
print("under way", flush=True)
time.sleep(600)
"""

CONSTRUCTOR = """
import subprocess, time
subprocess.Popen(["sleep", "601.{number}"], start_new_session=True)
def rule(case):
    time.sleep(600)
"""


def until(holds: Callable[[], object], seconds: float) -> None:
    ends = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < ends, "waited in vain"
        time.sleep(0.05)


def sleeping(number: int) -> list[psutil.Process]:
    return [one for one in psutil.process_iter(["cmdline"]) if (one.info["cmdline"] or [""])[-1] == f"601.{number}"]


def command_line(*arguments: str, temporary: Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", "fuzz.cli", *arguments],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "PYTHONPATH": str(ROOT), "TMPDIR": str(temporary)},
        cwd=temporary,
    )


@pytest.mark.parametrize(
    ("command", "number"),
    [
        ("verify", signal.SIGTERM),
        ("verify", signal.SIGINT),
        ("verify", signal.SIGKILL),
        # Both are caught as with verify; what is killed is not.
        pytest.param("gate", signal.SIGTERM, marks=pytest.mark.slow),
        pytest.param("gate", signal.SIGINT, marks=pytest.mark.slow),
        ("gate", signal.SIGKILL),
    ],
)
def test_nothing_is_left_of_a_command(tmp_path: Path, command: str, number: signal.Signals) -> None:
    mark = int(time.monotonic_ns() % 10**12)
    text = SCRIPT if command == "verify" else CONSTRUCTOR
    file, temporary = tmp_path / "written.py", tmp_path / "temporary"
    temporary.mkdir()
    file.write_text(text.format(mark=tmp_path.name, number=mark))
    source = str(file) if command == "verify" else f"{file}:rule"
    running = command_line(command, source, temporary=temporary)
    try:
        until(lambda: sleeping(mark), 120)
        below = psutil.Process(running.pid).children(recursive=True)
        running.send_signal(number)
        code = running.wait(30)
        until(lambda: not sleeping(mark), 10)
        until(lambda: not any(one.is_running() and one.status() != psutil.STATUS_ZOMBIE for one in below), 10)
    finally:
        running.kill()
        for one in sleeping(mark):
            one.kill()
    assert code == (3 if number != signal.SIGKILL else -9)
    if number != signal.SIGKILL:
        assert not list(temporary.glob("aiterfuzz-*")), "a temporary folder is left"


class Dropping:
    """Raises in a finaliser, where Python drops what is raised."""

    def __del__(self) -> None:
        os.kill(os.getpid(), self.signal)
        time.sleep(0)

    signal: signal.Signals


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_that_comes_in_where_python_drops_it_ends_a_command(
    number: signal.Signals, monkeypatch: pytest.MonkeyPatch
) -> None:
    def command(arguments: argparse.Namespace) -> int:
        del arguments
        dropping = Dropping()
        dropping.signal = number
        del dropping
        time.sleep(30)
        return 0

    monkeypatch.setattr("fuzz.commands.version.run", command)
    assert main(["version"]) == 3


def test_a_signal_before_a_command_has_begun_is_3(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fuzz.cli.settings_here", lambda: os.kill(os.getpid(), signal.SIGTERM))
    assert main(["version"]) == 3


def test_a_signal_is_remembered_until_a_step_has_ended() -> None:
    """Raised wherever a wait happens to be, it could be swallowed there, or leave a lock held; a second one does not wait."""
    checkpoint()
    with Interruption() as interruption:
        checkpoint()
        os.kill(os.getpid(), signal.SIGINT)
        assert interruption.wanted
        with ThreadPoolExecutor(1) as pool, pytest.raises(KeyboardInterrupt):
            pool.submit(checkpoint).result()
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGTERM)
    checkpoint()


@pytest.mark.parametrize("number", [pytest.param(signal.SIGTERM, marks=pytest.mark.slow), signal.SIGINT])
@pytest.mark.slow(guard="test_nothing_is_left_of_a_command")
def test_a_gate_of_a_source_stops_between_two_scenarios(tmp_path: Path, number: signal.Signals) -> None:
    """A search for random lives that would go on for ten minutes; both its processes, and what they have written, go."""
    running = command_line(*("gate", "sglang==0.5.13", "--heads", "16", "--seconds", "600"), temporary=tmp_path)
    try:
        until(lambda: psutil.Process(running.pid).children(recursive=True), 120)
        below = psutil.Process(running.pid).children(recursive=True)
        running.send_signal(number)
        assert running.wait(60) == 3
        until(lambda: not any(one.is_running() and one.status() != psutil.STATUS_ZOMBIE for one in below), 10)
    finally:
        running.kill()
    assert not list(tmp_path.glob("aiterfuzz-*")), "a temporary folder is left"
