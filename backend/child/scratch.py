"""Temporary folders that are gone when their process is, or, where it was killed, when the next of them is made."""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from functools import cache
from pathlib import Path

PREFIX = "aiterfuzz-"
"""Of all names, so that another process knows what may be ours."""

OWNER = ".owner"
"""A file in each folder, locked for as long as the process lives that made it, or one that was forked from it."""


class Scratch:
    """A folder of this user's alone; a context manager that gives its path. `close` takes it away.

    what: part of its name. parent: where it lies, None for the usual place of temporary files. Folders of processes that were
    killed are taken away first.
    """

    def __init__(self, what: str = "", parent: str | None = None) -> None:
        place = parent or tempfile.gettempdir()
        _swept(place)
        self._directory = tempfile.TemporaryDirectory(prefix=f"{PREFIX}{what}", dir=place)
        self.path = Path(self._directory.name)
        # Under another name until it is locked: whoever sweeps meanwhile sees no owner, and leaves the folder alone.
        unlocked = self.path / f"{OWNER}-"
        self._lock = os.open(unlocked, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o600)
        fcntl.flock(self._lock, fcntl.LOCK_EX)
        unlocked.rename(self.path / OWNER)

    def __enter__(self) -> Path:
        return self.path

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """Takes the folder away with all that is in it."""
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1
        with contextlib.suppress(OSError):
            self._directory.cleanup()


@cache
def _swept(place: str) -> None:
    """Once in a process: takes away what killed ones have left."""
    for path in _left(place):
        shutil.rmtree(path, ignore_errors=True)


def _left(place: str) -> Iterator[Path]:
    """Folders of this user's with an owner that is gone."""
    for path in Path(place).glob(f"{PREFIX}*"):
        with contextlib.suppress(OSError):
            if path.is_symlink() or path.stat().st_uid != os.getuid():
                continue
            owner = os.open(path / OWNER, os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK)
            try:
                fcntl.flock(owner, fcntl.LOCK_EX | fcntl.LOCK_NB)
                yield path
            finally:
                os.close(owner)
