"""Ctrl-C and SIGTERM for what can stop between two steps. Knows nothing of what is stopped."""

from __future__ import annotations

import signal
import sys
import threading
from types import FrameType
from typing import Any

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
