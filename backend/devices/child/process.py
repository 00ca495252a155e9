"""One child process and its three pipes, without threads: post tasks, take reports, see it end. Judges nothing."""

from __future__ import annotations

import json
import os
import selectors
import signal
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import backend
from backend.devices.child.messages import line

KEPT_STDERR = 64 * 1024
"""Bytes of a child's standard error that are kept, the last ones: a fault line is the last thing a runtime prints."""

_READ = 1 << 16


class ChildProcess:
    """A started child. Ends with `close`, which kills whatever is left of its process group.

    command: its argv. variables: added to this process's environment. The working directory is a temporary one, since
    runtimes drop core files where they die.
    """

    def __init__(self, command: Sequence[str], variables: Mapping[str, str]) -> None:
        self._directory = tempfile.TemporaryDirectory(prefix="aiterfuzz-")
        root = str(Path(backend.__file__).parents[1])
        paths = [root, *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "PYTHONUNBUFFERED": "1", **variables}
        self._process = subprocess.Popen(
            list(command),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            cwd=self._directory.name,
            env=environment,
            start_new_session=True,
            bufsize=0,
        )
        self._unsent = bytearray()
        self._unread = bytearray()
        self._errors = bytearray()
        self._selector = selectors.DefaultSelector()
        for pipe in (self._process.stdin, self._process.stdout, self._process.stderr):
            assert pipe is not None
            os.set_blocking(pipe.fileno(), False)
        self._selector.register(_pipe(self._process.stdout), selectors.EVENT_READ, "out")
        self._selector.register(_pipe(self._process.stderr), selectors.EVENT_READ, "err")

    @property
    def status(self) -> int | None:
        """Exit status once both pipes are drained and the process is gone (negative: killed by that signal), else None."""
        return self._process.returncode if not self._reading else None

    @property
    def errors(self) -> str:
        """The end of its standard error so far."""
        return self._errors.decode("utf-8", "replace")

    def post(self, message: Mapping[str, Any]) -> None:
        """Sends a message, now as far as the pipe takes it; the rest leaves during `reports`."""
        if not self._unsent:
            self._selector.register(_pipe(self._process.stdin), selectors.EVENT_WRITE, "in")
        self._unsent += line(message)
        self._send(_pipe(self._process.stdin).fileno())

    def reports(self, deadline: float) -> list[dict[str, Any]]:
        """What it says until time.monotonic() is `deadline`: returns with the first report, or when the child has ended."""
        while True:
            found = self._messages()
            if found or not self._reading:
                if not self._reading:
                    self._process.wait()
                return found
            left = deadline - time.monotonic()
            if left <= 0:
                return []
            self._turn(left)

    def kill(self) -> None:
        """SIGKILL to the whole group; the remaining output is read by the next `reports`."""
        try:
            os.killpg(self._process.pid, signal.SIGKILL)
        except ProcessLookupError:
            return

    def close(self) -> None:
        """Ends the child and releases the pipes and its directory."""
        self.kill()
        self._process.wait()
        self._selector.close()
        for pipe in (self._process.stdin, self._process.stdout, self._process.stderr):
            _pipe(pipe).close()
        self._directory.cleanup()

    @property
    def _reading(self) -> bool:
        return any(key.data != "in" for key in self._selector.get_map().values())

    def _turn(self, seconds: float) -> None:
        for key, _ in self._selector.select(seconds):
            if key.data == "in":
                self._send(key.fd)
                continue
            data = os.read(key.fd, _READ)
            if not data:
                self._selector.unregister(key.fileobj)
            elif key.data == "out":
                self._unread += data
            else:
                self._errors += data
                del self._errors[:-KEPT_STDERR]

    def _send(self, descriptor: int) -> None:
        try:
            sent = os.write(descriptor, self._unsent[: 1 << 20])
        except BlockingIOError:
            return
        except BrokenPipeError:
            sent = len(self._unsent)  # it is dying; its end is seen on the other pipes
        del self._unsent[:sent]
        if not self._unsent:
            self._selector.unregister(_pipe(self._process.stdin))

    def _messages(self) -> list[dict[str, Any]]:
        end = self._unread.rfind(b"\n")
        if end < 0:
            return []
        lines = bytes(self._unread[:end]).split(b"\n")
        del self._unread[: end + 1]
        return [json.loads(text) for text in lines]


def _pipe(pipe: IO[bytes] | None) -> IO[bytes]:
    assert pipe is not None
    return pipe
