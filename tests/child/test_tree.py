"""Whatever a child starts ends with it, and counts as its own; so does what it leaves when its keeper is no more."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from backend.child import tree as tree_module
from backend.child.process_end import EndKind
from backend.child.service import Child
from backend.child.tree import Limits, ProcessTree
from backend.errors import CannotRunError
from tests.tiers import one_of_each

HERE = Path(__file__).parent


@pytest.fixture(autouse=True)
def services(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(HERE))


@pytest.fixture
def mark(tmp_path: Path) -> Iterator[str]:
    """A word of the command line of what a test leaves behind; nothing of it may be there at the end."""
    yield tmp_path.name
    left = marked(tmp_path.name)
    for process in left:
        process.kill()
    assert not left


def marked(mark: str) -> list[psutil.Process]:
    """Running processes with the word in their command line."""
    return [one for one in psutil.process_iter(["cmdline"]) if mark in " ".join(one.info["cmdline"] or ())]


def until(holds: Callable[[], object], seconds: float = 20.0) -> None:
    ends = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < ends, "waited in vain"
        time.sleep(0.02)


@pytest.mark.parametrize("method", ["daemon", "orphan"])
def test_daemons_end_with_the_child(mark: str, method: str) -> None:
    with Child("plain_services:Plain", {}) as child:
        child.request(method, mark=mark, **({"megabytes": 1} if method == "daemon" else {}))
        until(lambda: marked(mark))
    assert not marked(mark)


def test_daemons_end_with_a_child_that_ends_itself(mark: str) -> None:
    with Child("plain_services:Plain", {}) as child:
        child.request("daemon", megabytes=1, mark=mark)
        with pytest.raises(CannotRunError, match="SIGSEGV"):
            child.request("die")
        assert not marked(mark)


def test_memory_of_what_a_child_starts_is_its_own(mark: str) -> None:
    with Child("plain_services:Plain", {}, Limits(seconds=60, memory=500 << 20)) as child:
        child.request("daemon", megabytes=1000, mark=mark)
        with pytest.raises(CannotRunError, match="stopped at its limit of 500 MiB"):
            child.request("sleep", seconds=60)
        assert not marked(mark)


def test_pages_that_forked_processes_share_count_once() -> None:
    program = """
import os, time
kept = b"x" * (300 << 20)
for _ in range(5):
    if os.fork() == 0:
        break
time.sleep(60)
"""
    tree = ProcessTree([sys.executable, "-c", program], os.environ)
    try:
        until(lambda: tree.usage().processes == 7)
        until(lambda: tree.usage().memory > 1500 << 20)
        assert tree.offence(Limits(memory=1000 << 20)) is None
        offence = tree.offence(Limits(memory=250 << 20))
        assert offence is not None
        assert offence.kind is EndKind.MEMORY
    finally:
        tree.close()


def test_a_crowd_is_stopped() -> None:
    with (
        Child("plain_services:Plain", {}, Limits(seconds=60, processes=20)) as child,
        pytest.raises(CannotRunError, match="stopped at its limit of 20 processes"),
    ):
        child.request("crowd", count=40)


@pytest.mark.parametrize(
    ("number", "stopped"),
    one_of_each(
        [(signal.SIGKILL, False), (signal.SIGTERM, False), (signal.SIGINT, False), (signal.SIGKILL, True)], lambda row: row[1]
    ),
)
def test_nothing_is_left_when_the_keeper_dies(mark: str, number: signal.Signals, stopped: bool) -> None:
    """Its keeper is a process of its own here, with a child that has left a daemon. stopped: somebody stopped the guardian."""
    program = f"""
import signal, sys; sys.path[:] = {[str(HERE), *sys.path]!r}
signal.signal(signal.SIGINT, signal.default_int_handler)  # whoever runs tests in the background has it ignored
from backend.child.service import Child
child = Child("plain_services:Plain", {{}})
child.request("daemon", megabytes=1, mark={mark!r})
child.request("sleep", seconds=60)
"""
    keeper = subprocess.Popen([sys.executable, "-c", program], stderr=subprocess.DEVNULL)
    until(lambda: len(marked(mark)) > 1)  # the keeper names it too
    (guardian,) = psutil.Process(keeper.pid).children()
    try:
        if stopped:
            guardian.suspend()
        keeper.send_signal(number)
        keeper.wait(30)  # of the 60 s that it would go on
        until(lambda: not marked(mark) and not psutil.pid_exists(guardian.pid), 10)
    finally:
        if guardian.is_running():
            guardian.resume()


def test_a_stopped_guardian_ends_all_the_same(mark: str) -> None:
    tree = ProcessTree([sys.executable, "-c", f"import time; time.sleep(3600)  # {mark}"], os.environ)
    until(lambda: len(marked(mark)) == 2)
    os.kill(tree.process.pid, signal.SIGSTOP)
    assert tree.close() == -signal.SIGKILL


@pytest.mark.parametrize(
    ("program", "status"),
    [
        ("raise SystemExit(7)", 7),
        ("pass", 0),
        ("import os; os.abort()", -signal.SIGABRT),
        ("import os; os.kill(os.getpid(), 9)", -9),
    ],
)
def test_it_ends_as_the_command_does(program: str, status: int) -> None:
    tree = ProcessTree([sys.executable, "-c", program], os.environ)
    until(lambda: tree.status is not None)
    assert tree.close() == status


def test_no_such_command() -> None:
    tree = ProcessTree(["no-such-command"], os.environ, stderr=subprocess.DEVNULL)
    until(lambda: tree.status is not None)
    assert tree.close() == 127


class Seen:
    """What psutil reads of a process whose environment lacks what is looked for. commands: before it is read, and after."""

    pid = 7

    def __init__(self, *commands: list[str]) -> None:
        self.cmdline = iter(commands).__next__
        self.name = lambda: "python3"
        self.environ = dict[str, str]


def test_a_process_that_is_just_beginning_or_ending_runs_outside_of_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Between exec and its first instruction, and at its end, nothing can be read of it: its environment seems empty."""
    tree = ProcessTree(["true"], {})
    tree.close()
    script = ["python3", "x.py"]
    seen = [Seen([], script), Seen(script, []), Seen(["python3", "before.py"], script), Seen(script, script)]
    monkeypatch.setattr(tree_module, "_processes", lambda root: seen)
    (outside,) = tree.without("MARKED", "python")
    assert "x.py" in outside


def test_a_wait_for_a_processor_counts_while_it_lasts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Linux adds a wait to its sum when it is over; of one that sleeps nothing is counted."""
    tree = ProcessTree([sys.executable, "-c", "import time; time.sleep(60)"], dict(os.environ))
    try:
        clock = iter((10.0, 13.0, 17.0, 18.0, 20.0))
        monkeypatch.setattr(tree_module, "time", SimpleNamespace(monotonic=lambda: next(clock)))
        reads = {"schedstat": "5 1000000000 7", "state": "R"}
        monkeypatch.setattr(tree_module, "_schedstat", lambda pid: reads["schedstat"])
        monkeypatch.setattr(tree_module, "_state", lambda pid: reads["state"])
        seen = [tree.waits()[tree.process.pid] for _ in range(3)]
        reads.update(schedstat="6 8500000000 8")  # its turn has come: all of the wait is in the sum
        seen.append(tree.waits()[tree.process.pid])
        reads.update(state="S")
        seen.append(tree.waits()[tree.process.pid])
        assert seen == [1.0, 4.0, 8.0, 8.5, 8.5]
    finally:
        monkeypatch.undo()
        tree.close()
