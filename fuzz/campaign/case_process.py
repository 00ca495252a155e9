"""The process that runs cases, from outside: started before it is known for which, and what it is at.

Its imports take as long as all of its parent's, and run beside them. What it is at stands in 24 bytes of a memory-mapped file,
written before each case, read after a death: a store to the map costs a twentieth of a microsecond, and the page outlives the
process that wrote it, so that whoever finds the file later, the supervisor or a resumed campaign, knows the case that was
running. Imports nothing slow.
"""

from __future__ import annotations

import mmap
import sys
from dataclasses import dataclass
from pathlib import Path

from backend.child.process import ChildProcess

COMMAND = (sys.executable, "-c", "import gc; gc.disable(); from fuzz.campaign.child import main; main()")
"""Without garbage collection until all is imported: nothing of that is ever garbage, and looking costs a tenth of a start."""


def case_process() -> ChildProcess:
    """Starts one; whoever takes it (fuzz.campaign.worker) says what it is for, in its first task."""
    return ChildProcess(COMMAND, {})


ALONE = 1 << 40
"""Chunk that the slot names while a single case runs."""

_SIZE = 24


@dataclass(frozen=True, slots=True)
class At:
    """chunk, position: of the running case; (-1, -1): between cases. beat: changes with every case, single ones included."""

    chunk: int
    position: int
    beat: int

    @property
    def running(self) -> bool:
        """Whether a case runs."""
        return self.chunk >= 0

    @property
    def of_a_chunk(self) -> bool:
        """Whether a case runs that was drawn for a chunk."""
        return 0 <= self.chunk < ALONE


class Slot:
    """The side that writes the slot."""

    def __init__(self, path: Path) -> None:
        path.write_bytes(bytes(_SIZE))
        with path.open("r+b") as file:
            self._map = mmap.mmap(file.fileno(), _SIZE)
        self._words = memoryview(self._map).cast("q")
        self._paused: tuple[int, int] | None = None
        self.note(-1, -1)

    def note(self, chunk: int, position: int) -> None:
        """Before a case, and with (-1, -1) after the last."""
        words = self._words
        words[0] = chunk
        words[1] = position
        words[2] += 1

    def pause(self) -> None:
        """Within a case: what follows, up to `resume`, is no part of it and counts against no limit of a case."""
        self._paused = (self._words[0], self._words[1])
        self.note(-1, -1)

    def resume(self) -> None:
        """Goes on with the case that was paused, whose time begins anew."""
        if self._paused is not None:
            self.note(*self._paused)
            self._paused = None


def read_slot(path: Path) -> At:
    """What was written last; between cases where there is nothing to read."""
    try:
        words = memoryview(path.read_bytes()).cast("q")
        return At(words[0], words[1], words[2])
    except (OSError, TypeError, IndexError):
        return At(-1, -1, 0)
