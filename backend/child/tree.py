"""A command with all the processes that it starts: one to end, one to measure. Judges nothing.

The command runs below backend/child/guardian.py, which sees to the end of the whole tree, daemons included, when this process
says so or is no more, in whatever way it went.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from backend.child.fence import Fence, exit_status
from backend.child.process_end import EndKind

if TYPE_CHECKING:
    import psutil

GUARDIAN = Path(__file__).with_name("guardian.py")

END_SECONDS = 10.0
"""For a guardian to end its tree; after that it is killed, and with it the command."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Of a child with all the processes that it starts.

    start: seconds until it can take tasks (torch imported, a GPU's context made). seconds: of one task, compilation included;
    both without those that it waits for a processor (backend.child.keeper.Deadline).
    memory: resident bytes of the whole tree, None for any. processes: of the whole tree.
    """

    start: float = 300.0
    seconds: float = 180.0
    memory: int | None = None
    processes: int = 512


@dataclass(frozen=True, slots=True)
class Usage:
    """Of a whole tree. memory: resident bytes, pages that several processes share counted once; processes: how many."""

    memory: int
    processes: int


@dataclass(frozen=True, slots=True)
class Offence:
    """A limit that a tree went over. how: completes "the process ..."; limit: the allowed amount in words."""

    kind: EndKind
    how: str
    limit: str


@dataclass(frozen=True, slots=True)
class _Turn:
    """What Linux counts of a thread when its turn comes (schedstat of proc(5)). waited: seconds; since: of the first look."""

    ran: str
    waited: float
    since: float

    @staticmethod
    def read(text: str, now: float) -> _Turn:
        ran, waited, _ = text.split()
        return _Turn(ran, int(waited) / 1e9, now)

    def after(self, before: _Turn | None) -> _Turn:
        """The same, since an earlier look at a thread that was ready to run where its turn has not come meanwhile."""
        same = before is not None and (before.ran, before.waited) == (self.ran, self.waited)
        return before if before is not None and same else self


class ProcessTree:
    """A started command.

    command: its argv; environment: all of it. The streams are as for subprocess.Popen. fence: what it runs behind.
    """

    def __init__(
        self,
        command: Sequence[str],
        environment: Mapping[str, str],
        directory: str | Path | None = None,
        *,
        stdin: int | IO[Any] | None = subprocess.DEVNULL,
        stdout: int | IO[Any] | None = None,
        stderr: int | IO[Any] | None = None,
        fence: Fence | None = None,
    ) -> None:
        self._fenced = fence is not None
        fenced = fence.command(command) if fence is not None else command
        theirs, self._lifeline = os.pipe()
        try:
            self.process = subprocess.Popen(
                [sys.executable, "-I", "-S", str(GUARDIAN), str(theirs), *fenced],
                stdin=stdin,
                stdout=stdout,
                stderr=stderr,
                cwd=directory,
                env=dict(environment),
                start_new_session=True,
                bufsize=0,
                pass_fds=(theirs,),
            )
        except BaseException:
            os.close(self._lifeline)
            raise
        finally:
            os.close(theirs)
        self.peak_memory = 0
        self._turns: dict[int, _Turn] = {}

    @property
    def status(self) -> int | None:
        """Exit status once the command and all that it started are gone (negative: ended by that signal), else None."""
        code = self.process.poll()
        return exit_status(code) if self._fenced and code is not None else code

    def kill(self) -> None:
        """Ends every process of the tree. Returns at once; `close` waits."""
        if self._lifeline >= 0:
            os.close(self._lifeline)
            self._lifeline = -1
            with contextlib.suppress(ProcessLookupError):
                self.process.send_signal(signal.SIGCONT)  # somebody may have stopped it

    def close(self) -> int:
        """Ends every process of the tree, and waits for it; the exit status."""
        self.kill()
        try:
            code = self.process.wait(END_SECONDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            code = self.process.wait()
        return exit_status(code) if self._fenced else code

    def usage(self) -> Usage:
        """What the tree takes now; nothing where it has just ended."""
        found = _processes(self.process.pid)
        memory = sum(_memory(process, "rss") for process in found)
        self.peak_memory = max(self.peak_memory, memory)
        return Usage(memory, len(found))

    def waits(self) -> dict[int, float]:
        """By process: seconds that its main thread, ready to run, waited for a processor; none where Linux does not say.

        A wait that lasts still is none of Linux's sum: it is counted from the first look that has found the process ready on.
        """
        now, turns = time.monotonic(), {}
        for process in _processes(self.process.pid):
            with contextlib.suppress(OSError, IndexError, ValueError):  # it has just ended, or there is no such file
                ready = _state(process.pid) == "R"
                turns[process.pid] = _Turn.read(_schedstat(process.pid), now).after(
                    self._turns.get(process.pid) if ready else None
                )
        self._turns = turns
        return {pid: turn.waited + now - turn.since for pid, turn in turns.items()}

    def without(self, variable: str, program: str) -> list[str]:
        """Command lines of the tree's processes of a program (the beginning of its name) that lack an environment variable."""
        import psutil

        found = []
        for process in _processes(self.process.pid):
            with contextlib.suppress(psutil.Error):
                if not process.name().startswith(program):
                    continue
                before = process.cmdline()
                outside = variable not in process.environ()
                # Of one that is just beginning its program, or ending, nothing can be read, its environment neither.
                if outside and before and process.cmdline() == before:
                    found.append(f"process {process.pid} ({' '.join(before)[:200]}) runs outside of the simulation")
        return found

    def offence(self, limits: Limits) -> Offence | None:
        """The limit on memory or processes that the tree is over now, None for none."""
        used = self.usage()
        if used.processes > limits.processes:
            return Offence(EndKind.PROCESSES, f"ran more than {limits.processes} processes", f"{limits.processes} processes")
        if limits.memory is None or used.memory <= limits.memory:
            return None
        # Pages that forked processes share are counted in each of them above; the exact figure costs a walk of all mappings.
        exact = sum(_memory(process, "pss") for process in _processes(self.process.pid))
        if exact <= limits.memory:
            return None
        mib = limits.memory >> 20
        return Offence(EndKind.MEMORY, f"held more than {mib} MiB", f"{mib} MiB")


def _processes(root: int) -> list[psutil.Process]:
    import psutil  # a tree is looked at while it runs; its start need not wait for that

    try:
        top = psutil.Process(root)
        return [top, *top.children(recursive=True)]
    except psutil.Error:
        return []


def _schedstat(pid: int) -> str:
    """Of its main thread: nanoseconds that it ran, that it waited for a processor, and how often it ran (proc(5))."""
    return Path(f"/proc/{pid}/schedstat").read_text()


def _state(pid: int) -> str:
    """R of a process that runs or is ready to, S of one that sleeps (proc(5))."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def _memory(process: psutil.Process, what: str) -> int:
    """Bytes of a process, resident ("rss") or with its share of shared pages ("pss"); 0 where it has just ended."""
    import psutil

    try:
        if what == "pss":
            with contextlib.suppress(psutil.AccessDenied):
                return int(process.memory_full_info().pss)
        return int(process.memory_info().rss)
    except psutil.Error:
        return 0
