"""A campaign in a process of its own, and somebody who kills parts of it at random."""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import IO

ROOT = Path(__file__).parents[3]

ENDING_SECONDS = 180.0
"""Until a session has ended that lost what it cannot do without: Ray takes a minute to notice that its server is gone."""


def start(
    arguments: Sequence[str], log: Path, command: str = "campaign", cwd: Path | None = None, piped: bool = False
) -> subprocess.Popen[bytes]:
    """A command of aiterfuzz with these arguments, in a process group of its own; what it says is added to `log`.

    piped: by another process, so that it comes there though the command may write no file any more.
    """
    paths = [str(ROOT), *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
    with contextlib.ExitStack() as open_files:
        file: IO[bytes] = open_files.enter_context(log.open("ab"))
        if piped:
            between = subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=file).stdin
            assert between is not None
            file = open_files.enter_context(between)
        return subprocess.Popen(
            [sys.executable, "-m", "fuzz.cli", command, *arguments],
            stdout=file,
            stderr=file,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
            start_new_session=True,
            cwd=cwd,
        )


def descendants(pid: int) -> dict[int, str]:
    """Command lines of all processes below one, by pid."""
    parents: dict[int, int] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            except (OSError, IndexError, ValueError):
                continue  # it has just ended
    found: dict[int, str] = {}
    frontier = [pid]
    while frontier:
        below = [child for child, parent in parents.items() if parent in frontier]
        for child in below:
            try:
                found[child] = Path(f"/proc/{child}/cmdline").read_text().replace("\0", " ")
            except OSError:
                continue
        frontier = below
    return found


KINDS = ("child", "child", "child", "actor", "driver")
"""What is killed, each as often as it stands here."""

SERVERS = {"gcs": "gcs_server", "raylet": "raylet"}
"""Ray's own processes; without one of them a session ends."""

ENDING = ("driver", "disk", *SERVERS)
"""Kinds of disturbance after which a campaign has to be resumed."""

CLOCK = "AITERFUZZ_TEST_CLOCK"
"""Names a file with the seconds by which the wall clock is off, in every Python that finds in_every_python on its path."""


@dataclass
class Soak:
    """Runs a campaign to its end and disturbs it on the way.

    kinds: of disturbance; all of them come once, in a random order, before one comes again. to_come: those still to come, which
    several soaks may share. kills: what was done, in order. ends: exit codes of the sessions that had to be resumed.
    """

    arguments: Sequence[str]
    folder: Path
    random: Random
    kinds: Sequence[str] = KINDS
    kills: list[str] = field(default_factory=list)
    ends: list[int] = field(default_factory=list)
    to_come: list[str] = field(default_factory=list)

    def run(self, seconds: float, pauses: tuple[float, float], limit: float) -> int:
        """Disturbs for `seconds`, then lets it end; its exit code. pauses: between two disturbances, from .. to."""
        ends, gives_up = time.monotonic() + seconds, time.monotonic() + limit
        log = self.folder.with_suffix(".log")
        process = start([*self.arguments, "--out", str(self.folder)], log, piped=True)
        below: dict[int, str] = {}
        while True:
            if process.poll() is not None:
                if process.returncode in (0, 1) or len(self.ends) >= sum(kill.split()[0] in ENDING for kill in self.kills):
                    return process.returncode
                self.ends.append(process.returncode)
                self._gone(below)
                named = [*self.arguments, "", ""]
                again = named[named.index("--backend") :][:2] if "--backend" in named else []  # a store's own rule is not run
                process = start(["--resume", *again, "--out", str(self.folder)], log, piped=True)
            if time.monotonic() > gives_up:
                process.kill()
                raise TimeoutError(f"still running; done so far: {self.kills}")
            time.sleep(self.random.uniform(*pauses) if time.monotonic() < ends else 0.2)
            # Before the store is there, there is nothing to go on with.
            if time.monotonic() < ends and process.poll() is None and (self.folder / "campaign.sqlite").exists():
                below = descendants(process.pid)
                self._disturb(process, below)

    def _disturb(self, process: subprocess.Popen[bytes], below: dict[int, str]) -> None:
        if not self.to_come:
            self.to_come += self.random.sample(self.kinds, len(self.kinds))
        choice = self.to_come.pop()
        if choice == "clock":
            off = self.random.choice([-36_000, -60, 60, 36_000])
            Path(os.environ[CLOCK]).write_text(str(off))
            self.kills.append(f"clock {off:+} s")
            return
        wanted = {"child": "fuzz.campaign.child", "stopped": "fuzz.campaign.child", "actor": "ray::Worker", **SERVERS}
        victims = [pid for pid, command in below.items() if wanted.get(choice, "no such") in command]
        if choice in ("driver", "disk"):  # the process that serves the campaign, and the one that the user started
            victims = [process.pid, *(pid for pid, command in below.items() if "fuzz.cli campaign" in command)]
        if not victims:
            self.to_come.insert(0, choice)  # not there just now
            return
        number = self.random.choice([signal.SIGKILL, signal.SIGSEGV, signal.SIGABRT]) if choice == "child" else signal.SIGKILL
        number = signal.SIGSTOP if choice == "stopped" else number
        try:
            if choice == "disk":
                for pid in victims:
                    _, most = resource.prlimit(pid, resource.RLIMIT_FSIZE)
                    resource.prlimit(pid, resource.RLIMIT_FSIZE, (4096, most))  # nothing grows beyond a page
            else:
                os.kill(self.random.choice(victims), number)
        except ProcessLookupError:
            return
        self.kills.append(f"{choice} {'full' if choice == 'disk' else signal.Signals(number).name}")
        if choice in ENDING:
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(ENDING_SECONDS)

    def _gone(self, below: dict[int, str]) -> None:
        """No worker outlives its driver. (Ray's own agents take half a minute to notice.)"""
        below = {pid: command for pid, command in below.items() if "ray::Worker" in command or "fuzz.campaign" in command}
        ends = time.monotonic() + 60
        while alive := [pid for pid in below if _lives(pid)]:
            if time.monotonic() > ends:
                raise TimeoutError(f"outlived the driver: {[below[pid] for pid in alive]}")
            time.sleep(0.1)


def _lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (OSError, IndexError):
        return False
