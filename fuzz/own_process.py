"""How a command's process is stopped, and a command in a process of its own.

Ctrl-C and SIGTERM are remembered for what can stop between two steps. A process of its own: a library that ends its process, or
never returns, cannot say how it ended. Ray does both: where its server is lost, its C++ calls exit with status 1, which says of
a campaign that it found faults; where one of its processes dies while it comes up, they wait for it for ever and are deaf to
signals.
"""

from __future__ import annotations

import contextlib
import ctypes
import faulthandler
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any

from backend.errors import CannotRunError

SIGNALS = (signal.SIGINT, signal.SIGTERM)


_current: list[Interruption] = []
"""Those that are entered, the innermost last; signals are a process' own, and so is this."""


def checkpoint() -> None:
    """Between two steps of any thread: raises KeyboardInterrupt where somebody wants the run that is entered to stop."""
    if _current and _current[-1].wanted:
        raise KeyboardInterrupt


class Interruption:
    """Whether somebody wants the run to stop. Use as a context manager; outside of the main thread nobody can.

    The first signal is remembered: raised wherever the run happens to be, it could be swallowed, or leave a lock of the
    standard library held for ever. A second one raises KeyboardInterrupt at once. said: printed on stderr at the first,
    "" for nothing.
    """

    def __init__(self, said: str = "") -> None:
        self.wanted = False
        self._said = said
        self._before: dict[signal.Signals, Any] = {}

    def __enter__(self) -> Interruption:
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._handle) for number in SIGNALS}
            _current.append(self)
        return self

    def __exit__(self, *exception: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        if self in _current:
            _current.remove(self)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        del number, frame
        if self.wanted:
            raise KeyboardInterrupt
        self.wanted = True
        if self._said:
            print(self._said, file=sys.stderr)


_PR_SET_PDEATHSIG = 1
"""prctl(2)."""


_own: list[int] = []
"""Descriptor of /dev/null in a process that `in_own_process` made; empty in any other."""


@contextlib.contextmanager
def ending_after(seconds: float) -> Iterator[None]:
    """Ends a process of a command's own where what stands within takes longer, even if no Python runs meanwhile.

    Others, whose end nobody looks after, wait.
    """
    if not _own:
        yield
        return
    faulthandler.dump_traceback_later(seconds, exit=True, file=_own[0])  # by a thread that needs no interpreter
    try:
        yield
    finally:
        faulthandler.cancel_dump_traceback_later()


def in_own_process(run: Callable[[], int]) -> int:
    """What `run` returns, run in a child; SIGINT and SIGTERM are passed on to it, and it does not outlive this process.

    Raises CannotRunError where the child ends without a word.
    """
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reading)
        os.setpgid(0, 0)  # Ctrl-C comes once, from the parent
        if sys.platform == "linux":
            ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        _own.append(os.open(os.devnull, os.O_WRONLY))
        code = run()
        sys.stdout.flush()
        sys.stderr.flush()
        os.write(writing, bytes([code]))
        sys.exit(code)
    os.close(writing)

    def pass_on(number: int, frame: FrameType | None) -> None:
        del frame
        os.kill(child, number)

    before = {number: signal.signal(number, pass_on) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        word = os.read(reading, 1)
        _, status = os.waitpid(child, 0)
    finally:
        os.close(reading)
        for number, handler in before.items():
            signal.signal(number, handler)
    if word:
        return word[0]
    code = os.waitstatus_to_exitcode(status)
    how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit status {code}, which is not its own"
    raise CannotRunError(
        f"the process of the search {how} (Ray ends the process that it serves when its own servers are gone, and is ended "
        "where they do not come up in time); what was found so far is in the store, go on with --resume"
    )
