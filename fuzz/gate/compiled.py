"""Has numba compile what a gate needs once, on two cores, before the children that run sources begin.

A child begins with what lies in numba's cache, and what it compiles itself is lost with it (backend.child.fence): without this,
each child compiles the planners for itself, and this process does so once more to judge them.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import subprocess
import sys
import time
from collections.abc import Iterator
from enum import StrEnum

from backend.aiter.codefiles import open_source
from backend.aiter.release import nearest_release
from backend.case import RELEASES, Case, DType, MetadataMode
from backend.errors import AiterfuzzError
from backend.path import Path
from backend.revision.revision import host_of
from fuzz.compiling import noticed
from fuzz.own_process import checkpoint

COMMAND = "import sys; sys.path[:] = {path!r}; from fuzz.gate.compiled import compile_rest; compile_rest(*{of!r})"


BETWEEN = 0.05
"""Seconds between two looks at the process beside, and at whether somebody wants all of this to stop."""


class CompiledPart(StrEnum):
    """What one core compiles: about as much as the other."""

    FAST = "fast"  # the planner of fast mode alone
    REST = "rest"  # the planner of fake mode, and what judges a call


def compile_once(aiter: str | None, release: str | None) -> None:
    """Both halves, the second in a process beside this one where anything has to be compiled; at once where nothing has.

    aiter, release: as of fuzz.gate.gate.Stack. What cannot be had is no concern of this: who needs it says so.
    """
    with contextlib.ExitStack() as stack:
        beside: list[subprocess.Popen[bytes]] = []

        def begins() -> None:
            if not beside:
                command = COMMAND.format(path=sys.path, of=(aiter, release))
                beside.append(stack.enter_context(_ended(command)))

        with noticed(begins, lambda: None):
            _compile(CompiledPart.FAST, aiter, release)
        while any(other.poll() is None for other in beside):
            checkpoint()
            time.sleep(BETWEEN)
        compile_rest(aiter, release)


@contextlib.contextmanager
def _ended(program: str) -> Iterator[subprocess.Popen[bytes]]:
    """A Python process that is gone afterwards."""
    with subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL) as process:
        try:
            yield process
        finally:
            process.kill()


def compile_rest(aiter: str | None, release: str | None) -> None:
    """The half of the process beside."""
    _compile(CompiledPart.REST, aiter, release)


def _compile(part: CompiledPart, aiter: str | None, release: str | None) -> None:
    """Runs cases that reach all of it."""
    with contextlib.suppress(AiterfuzzError):
        source = open_source(aiter) if aiter is not None else None
        path = Path(host_of(source))
        named = release or (nearest_release(source).name if source is not None else RELEASES[-1])
        for case in _cases(part, named):
            checkpoint()
            with contextlib.suppress(AiterfuzzError):
                path.call(case) if part is CompiledPart.FAST else path.run(case)


def _cases(part: CompiledPart, release: str) -> Iterator[Case]:
    """Steps as the table sweep has them: short and long requests, of one and of four rows."""
    modes = (MetadataMode.FAST,) if part is CompiledPart.FAST else (MetadataMode.FAKE, MetadataMode.NON_PERSISTENT)
    plain = Case(num_head=16, kv_lens=(5000, 17, 33), backend="direct", release=release)
    for mode, dtype, rows in itertools.product(modes, (DType.FP8, DType.BF16), (1, 4)):
        yield dataclasses.replace(plain, mode=mode, q_dtype=dtype, kv_dtype=dtype, max_seqlen_q=rows)
