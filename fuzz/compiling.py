"""Says so when numba compiles, which a first start does for some seconds and a later one does not."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TextIO

COMPILING = "compiling planners, first start only ..."


@contextmanager
def announced(stream: TextIO | None = None) -> Iterator[None]:
    """Prints one line when the first function is compiled, nothing when all come from numba's cache.

    The cache lies beside the source files where that folder can be written to (an editable install), else below the
    user's cache folder; NUMBA_CACHE_DIR names another place. That is numba's own order of preference.
    """
    from numba.core import event

    class Announcer(event.Listener):
        said = False

        def on_start(self, event: Any) -> None:
            if not self.said:
                self.said = True
                print(COMPILING, file=stream or sys.stderr, flush=True)

        def on_end(self, event: Any) -> None:
            pass

    with event.install_listener("numba:compile", Announcer()):
        yield
