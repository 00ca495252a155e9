"""Runs a stranger's source in a child process, with limits on time and memory; the parent never imports what the child does.

A service is a function `package.module:function` that takes the opening arguments and returns an object; a request is a
method name with arguments. Errors of this project come back as themselves, anything else as CannotRunError with the end
of its traceback. What the child prints goes to a file, whose end is quoted when it dies.
The limits are against accidents (endless loops, gigabytes), not against malice: the child runs as the same user. Answers
are unpickled with an allow-list all the same, so that a stranger's class never comes to life in the parent.
This module knows neither torch nor any framework.
"""

from __future__ import annotations

import contextlib
import importlib
import io
import os
import pickle
import signal
import socket
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from backend.errors import AiterfuzzError, CannotRunError

POLL_SECONDS = 0.05
"""How often a waiting parent looks at the child's memory."""

START_SECONDS = 120.0
"""A child imports torch and numba first; on a busy machine that takes a while, whatever a request may."""

QUOTED_CHARACTERS = 2000
"""How much of a dead child's output is quoted."""

ALLOWED_PACKAGES = ("backend", "numpy")
ALLOWED_BUILTINS = frozenset({"set", "frozenset", "bytearray", "complex", "slice", "range"})


@dataclass(frozen=True, slots=True)
class Limits:
    """seconds: for one request; memory: resident bytes of the child (watched where /proc tells them)."""

    seconds: float = 120.0
    memory: int = 4 << 30


class Child:
    """A child process with one service; a context manager. A request past a limit kills the child and raises CannotRunError."""

    def __init__(
        self,
        service: str,
        arguments: Mapping[str, Any],
        limits: Limits | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        self.service = service
        self.limits = limits or Limits()
        self._output = tempfile.TemporaryFile()  # noqa: SIM115 - closed by close()
        ours, theirs = socket.socketpair()
        start = f"import sys; sys.path[:] = {sys.path!r}; from backend.real.child import main; main({theirs.fileno()})"
        self._process = subprocess.Popen(
            [sys.executable, "-c", start],
            stdin=subprocess.DEVNULL,
            stdout=self._output,
            stderr=self._output,
            pass_fds=[theirs.fileno()],
            env={**os.environ, **(environment or {})},
        )
        theirs.close()
        self._connection = Connection(ours.detach())
        self.peak_memory = 0
        self.request("", service=service, arguments=dict(arguments))

    def __enter__(self) -> Child:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def request(self, method: str, **arguments: Any) -> Any:
        """Call a method of the service and wait for its answer."""
        if self._process.poll() is not None:
            raise CannotRunError(f"{self.service}: the child process has ended; {self._last_words()}")
        try:
            self._connection.send((method, arguments))
        except (BrokenPipeError, ConnectionResetError) as error:
            raise CannotRunError(f"{self.service}: the child process has ended; {self._last_words()}") from error
        self._wait(method or "start")
        try:
            kind, value = _Answers(io.BytesIO(self._connection.recv_bytes())).load()
        except (EOFError, ConnectionResetError) as error:
            raise CannotRunError(f"{self.service}.{method or 'start'}: {self._end()}") from error
        if kind == "error":
            raise value
        return value

    def close(self) -> None:
        """End the child."""
        self._connection.close()
        try:
            self._process.wait(timeout=2)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._output.close()

    def _wait(self, method: str) -> None:
        deadline = time.monotonic() + (self.limits.seconds if method != "start" else START_SECONDS)
        while not self._connection.poll(POLL_SECONDS):
            resident = _resident_bytes(self._process.pid)
            self.peak_memory = max(self.peak_memory, resident)
            over_time = time.monotonic() > deadline
            if over_time or resident > self.limits.memory:
                self._process.kill()
                self._process.wait()
                limit = f"{self.limits.seconds:g} s" if over_time else f"{self.limits.memory >> 20} MiB"
                raise CannotRunError(f"{self.service}.{method}: stopped at its limit of {limit}; {self._last_words()}")
        self.peak_memory = max(self.peak_memory, _resident_bytes(self._process.pid))

    def _end(self) -> str:
        code = self._process.wait()
        how = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
        return f"the child process ended with {how}; {self._last_words()}"

    def _last_words(self) -> str:
        if self._output.closed:
            return "it was closed"
        size = self._output.seek(0, os.SEEK_END)
        self._output.seek(max(0, size - QUOTED_CHARACTERS))
        text = self._output.read().decode(errors="replace").strip()
        return f"its last output: {text}" if text else "it printed nothing"


class _Answers(pickle.Unpickler):
    """Reads answers made of this project's types, numpy arrays and plain values."""

    def find_class(self, module: str, name: str) -> Any:
        package = module.partition(".")[0]
        if package in ALLOWED_PACKAGES or (package == "builtins" and name in ALLOWED_BUILTINS):
            return super().find_class(module, name)
        if (module, name) == ("builtins", "getattr"):
            return _member
        raise pickle.UnpicklingError(f"an answer holds {module}.{name}")


def _member(kind: object, name: str) -> Enum:
    """The member of an enum: before 3.11.4, Python pickles one as getattr(kind, name)."""
    if not (isinstance(kind, type) and issubclass(kind, Enum)):
        raise pickle.UnpicklingError(f"an answer asks for {name} of {kind!r}")
    return kind[name]


def main(descriptor: int) -> None:
    """The child's loop: the first message opens the service, each further one is a request."""
    connection = Connection(descriptor)
    service: Any = None
    while True:
        try:
            method, arguments = connection.recv()
        except (EOFError, ConnectionResetError):
            return
        try:
            if service is None:
                module, _, function = arguments["service"].partition(":")
                service = getattr(importlib.import_module(module), function)(**arguments["arguments"])
                answer: tuple[str, Any] = ("value", None)
            else:
                answer = ("value", getattr(service, method)(**arguments))
        except AiterfuzzError as error:
            answer = ("error", type(error)(str(error)))
        except KeyboardInterrupt:
            return
        except BaseException as error:
            answer = ("error", CannotRunError(f"{type(error).__name__}: {error}; at {_deepest(error)}"))
        with contextlib.suppress(BrokenPipeError):
            connection.send_bytes(pickle.dumps(answer))


def _deepest(error: BaseException) -> str:
    frames = traceback.extract_tb(error.__traceback__)[-3:]
    return " <- ".join(f"{frame.filename}:{frame.lineno} ({frame.name})" for frame in reversed(frames))


def _resident_bytes(pid: int) -> int:
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[1])
    except (OSError, IndexError, ValueError):
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE")
