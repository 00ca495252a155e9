"""Says so when numba compiles, which a first start does for some seconds and a later one does not."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TextIO

from numba.core import event

COMPILING = "compiling planners, first start only ..."


class _Announcer(event.Listener):
    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._said = False

    def on_start(self, event: event.Event) -> None:
        if not self._said:
            self._said = True
            print(COMPILING, file=self._stream, flush=True)

    def on_end(self, event: event.Event) -> None:
        pass


@contextmanager
def announced(stream: TextIO | None = None) -> Iterator[None]:
    """Prints one line when the first function is compiled, nothing when all come from numba's cache.

    The cache lies beside the source files where that folder can be written to (an editable install), else below the
    user's cache folder; NUMBA_CACHE_DIR names another place. That is numba's own order of preference.
    """
    with event.install_listener("numba:compile", _Announcer(stream or sys.stderr)):
        yield
