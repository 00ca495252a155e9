"""A command in a process of its own, so that a library that ends its process cannot say how the command ended.

Ray does: where its server is lost, its C++ calls exit with status 1, which says of a campaign that it found faults.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from collections.abc import Callable
from types import FrameType

from backend.errors import CannotRunError

_PR_SET_PDEATHSIG = 1
"""prctl(2)."""


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
        f"the process of the search {how} (Ray ends the process that it serves when its own servers are gone); what was found "
        "so far is in the store, go on with --resume"
    )
