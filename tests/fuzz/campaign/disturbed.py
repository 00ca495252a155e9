"""A campaign in a process of its own, and somebody who kills parts of it at random."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

ROOT = Path(__file__).parents[3]


def start(arguments: Sequence[str], log: Path, command: str = "campaign", cwd: Path | None = None) -> subprocess.Popen[bytes]:
    """A command of aiterfuzz with these arguments, in a process group of its own; what it says is added to `log`."""
    paths = [str(ROOT), *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
    with log.open("ab") as file:
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


@dataclass
class Soak:
    """Runs a campaign to its end and kills parts of it on the way. kills: what was killed, in order."""

    arguments: Sequence[str]
    folder: Path
    random: Random
    kills: list[str] = field(default_factory=list)

    def run(self, seconds: float, pauses: tuple[float, float], limit: float) -> int:
        """Disturbs for `seconds` from when there is a store, at least once, then lets it end; its exit code.

        pauses: between two kills, from .. to.
        """
        ends, gives_up = None, time.monotonic() + limit
        process = start([*self.arguments, "--out", str(self.folder)], self.folder.with_suffix(".log"))
        while process.poll() is None:
            if time.monotonic() > gives_up:
                process.kill()
                raise TimeoutError(f"still running; killed so far: {self.kills}")
            if ends is None and self._store.exists():
                ends = time.monotonic() + seconds
            disturbing = ends is not None and (time.monotonic() < ends or not self.kills)
            time.sleep(self.random.uniform(*pauses) if disturbing and self.kills else 0.1)
            if disturbing and self._kill(process):
                named = [*self.arguments, "", ""]
                again = named[named.index("--backend") :][:2] if "--backend" in named else []  # a store's own rule is not run
                process = start(["--resume", *again, "--out", str(self.folder)], self.folder.with_suffix(".log"))
        return process.returncode

    @property
    def _store(self) -> Path:
        return self.folder / "campaign.sqlite"

    def _kill(self, process: subprocess.Popen[bytes]) -> bool:
        """Kills something; whether it was the driver. Before the store is there, there is nothing to go on with."""
        if process.poll() is not None or not self._store.exists():
            return False
        below = descendants(process.pid)
        children = [pid for pid, command in below.items() if "fuzz.campaign.child" in command]
        actors = [pid for pid, command in below.items() if command.startswith("ray::Worker")]
        choice = self.random.choice(["child", "child", "child", "actor", "driver"])
        victims = {"child": children, "actor": actors, "driver": [process.pid]}[choice]
        if not victims:
            return False
        number = self.random.choice([signal.SIGKILL, signal.SIGSEGV, signal.SIGABRT]) if choice == "child" else signal.SIGKILL
        try:
            os.kill(self.random.choice(victims), number)
        except ProcessLookupError:
            return False
        self.kills.append(f"{choice} {signal.Signals(number).name}")
        if choice != "driver":
            return False
        process.wait()
        self._gone(below)
        return True

    def _gone(self, below: dict[int, str]) -> None:
        """No worker outlives its driver. (Ray's own agents take half a minute to notice.)"""
        below = {pid: command for pid, command in below.items() if "ray::Worker" in command or "fuzz.campaign" in command}
        ends = time.monotonic() + 20
        while alive := [pid for pid in below if _lives(pid)]:
            if time.monotonic() > ends:
                raise TimeoutError(f"outlived the driver: {[below[pid] for pid in alive]}")
            time.sleep(0.1)


def _lives(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (OSError, IndexError):
        return False
