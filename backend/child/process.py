"""One child process and its three pipes, without threads: post tasks, take reports, see it end. Judges nothing."""

from __future__ import annotations

import contextlib
import json
import math
import os
import selectors
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from backend.child.fence import Fence
from backend.child.scratch import Scratch
from backend.child.tree import ProcessTree
from backend.errors import CannotRunError

KEPT_STDERR = 64 * 1024
"""Bytes of a child's standard error that are kept, the last ones: a fault line is the last thing a runtime prints."""

ROOT = Path(__file__).parents[2]
"""What a child finds this project's packages in."""

MESSAGE_BYTES = 1 << 30
"""A longer line is no message; the longest honest ones are recordings of a framework, of some megabytes."""

_READ = 1 << 16


class ChildProcess:
    """A started child. Ends with `close`, which kills whatever is left of it and of all that it started.

    command: its argv. variables: added to this process's environment. The working directory is a temporary one, since
    runtimes drop core files where they die. readable: where the command is a stranger's code, which runs behind the fence and
    starts in our directory: what it must see beside that; None: it runs as we do.
    """

    def __init__(self, command: Sequence[str], variables: Mapping[str, str], readable: Sequence[Path] | None = None) -> None:
        self._directory = Scratch()
        paths = [str(ROOT), *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(paths), "PYTHONUNBUFFERED": "1", **variables}
        directory, fence = self._directory.path, None
        if readable is not None:
            directory, fence = Path.cwd(), Fence(directory, tuple(readable), directory=Path.cwd())
            environment = fence.environment(environment, variables)
        piped = subprocess.PIPE
        self.tree = ProcessTree(command, environment, directory, stdin=piped, stdout=piped, stderr=piped, fence=fence)
        self._process = self.tree.process
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
        return self.tree.status if not self._reading else None

    @property
    def errors(self) -> str:
        """The end of its standard error so far."""
        return self._errors.decode("utf-8", "replace")

    def post(self, data: bytes) -> None:
        """Sends a message (messages.line), now as far as the pipe takes it; the rest leaves during `reports`."""
        if not self._unsent:
            self._selector.register(_pipe(self._process.stdin), selectors.EVENT_WRITE, "in")
        self._unsent += data
        self._send(_pipe(self._process.stdin).fileno())

    def reports(self, deadline: float) -> list[dict[str, Any]]:
        """What it says until time.monotonic() is `deadline`: returns with the first report, or when the child has ended.

        Whoever asks too late is told what was said in time: the pipes are looked into at least once.
        """
        while True:
            left = max(deadline - time.monotonic(), 0)
            found = self._messages()
            if not self._reading and not found:
                with contextlib.suppress(subprocess.TimeoutExpired):  # it may close its pipes and live on
                    self._process.wait(None if math.isinf(left) else left)
            if found or not self._reading:
                return found
            self._turn(left)
            if not left:
                return self._messages()

    def kill(self) -> None:
        """Ends it and all that it started; the remaining output is read by the next `reports`."""
        self.tree.kill()

    def close(self) -> None:
        """Ends the child and all that it started, and releases the pipes and its directory."""
        self.tree.close()
        self._selector.close()
        for pipe in (self._process.stdin, self._process.stdout, self._process.stderr):
            _pipe(pipe).close()
        self._directory.close()

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
                if len(self._unread) > MESSAGE_BYTES:
                    self.kill()
                    raise CannotRunError(f"the child process says more than {MESSAGE_BYTES >> 20} MiB in one message")
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
        try:
            return [_message(text) for text in lines]
        except (ValueError, RecursionError) as error:
            self.kill()
            raise CannotRunError(f"the child process says what is no message ({type(error).__name__})") from error


def _message(text: bytes) -> dict[str, Any]:
    message = json.loads(text)
    if not isinstance(message, dict) or "say" not in message:
        raise ValueError("not an object with a word")
    return message


def _pipe(pipe: IO[bytes] | None) -> IO[bytes]:
    assert pipe is not None
    return pipe
