"""What is done when numba compiles, which a first start does for some seconds and a later one does not."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
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


@contextmanager
def noticed(begins: Callable[[], None], ends: Callable[[], None]) -> Iterator[None]:
    """Calls `begins` before numba compiles a function and `ends` afterwards; once for what is compiled for that function."""
    from numba.core import event

    class Listener(event.Listener):
        depth = 0

        def on_start(self, event: Any) -> None:
            self.depth += 1
            if self.depth == 1:
                begins()

        def on_end(self, event: Any) -> None:
            self.depth -= 1
            if self.depth == 0:
                ends()

    with event.install_listener("numba:compile", Listener()):
        yield


def made_ready() -> None:
    """Has numba register all that compiled code may use, which it would do at the first call: a tenth of a second."""
    from numba.core.registry import cpu_target

    cpu_target.typing_context.refresh()
    cpu_target.target_context.refresh()
