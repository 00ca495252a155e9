"""Services that the tests run in child processes; not tests themselves."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from backend.errors import CannotRunError, UnmodelledError


class Plain:
    """Requests that end in every way a request can end."""

    def __init__(self, offset: int = 0) -> None:
        print("service opened")
        self.offset = offset

    def add(self, a: int, b: int) -> int:
        return self.offset + a + b

    def environment(self, name: str) -> str | None:
        return os.environ.get(name)

    def refuse(self) -> None:
        raise UnmodelledError("what: not modelled")

    def fail(self) -> None:
        raise ValueError("broken inside")

    def exit(self) -> None:
        sys.exit("leaving")

    def sleep(self, seconds: float) -> None:
        time.sleep(seconds)

    def beside(self, others: int, seconds: float) -> float:
        """So many seconds of a processor, which so many other processes want as well; those that it took by the clock."""
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
        busy = [subprocess.Popen([sys.executable, "-S", "-c", "while True: pass"]) for _ in range(others)]
        began = time.monotonic()
        ends = time.process_time() + seconds
        while time.process_time() < ends:
            pass
        for one in busy:
            one.kill()
        return time.monotonic() - began

    def grow(self, megabytes: int) -> int:
        self.kept = b"x" * (megabytes << 20)
        time.sleep(20)
        return len(self.kept)

    def die(self) -> None:
        print("last words", flush=True)
        os.kill(os.getpid(), signal.SIGSEGV)

    def stranger(self) -> Any:
        return Path("/")

    def garble(self, text: str) -> None:
        """Writes to every descriptor that it has, as a stranger's code may: one of them is the answers'."""
        for name in os.listdir("/proc/self/fd"):
            with contextlib.suppress(OSError):
                os.write(int(name), text.encode())

    def daemon(self, megabytes: int, mark: str) -> None:
        """Leaves a process behind that has a session of its own and no variable of ours, and holds memory."""
        program = f"import time; kept = b'x' * ({megabytes} << 20); time.sleep(3600)  # {mark}"
        subprocess.Popen([sys.executable, "-c", program], start_new_session=True, env={})
        time.sleep(0.2)

    def orphan(self, mark: str) -> int:
        """The same by two forks, so that its parent is gone."""
        if os.fork() == 0:
            os.setsid()
            if os.fork():
                os._exit(0)
            os.execve(sys.executable, [sys.executable, "-c", f"import time; time.sleep(3600)  # {mark}"], {})
        os.wait()
        return 0

    def crowd(self, count: int) -> None:
        for _ in range(count):
            subprocess.Popen(["sleep", "3600"], start_new_session=True)
        time.sleep(60)


def refuse_to_open() -> None:
    raise CannotRunError("nothing here to open")
