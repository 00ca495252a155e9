"""Frameworks' files that stay open in their child processes from one test to the next, as shipped or with another text.

To start one takes three seconds of a core: Python, torch, and the framework's tree read. A scenario begins with a fresh
process of the framework whatever the child ran before, which a gate relies on for all of its scenarios.
"""

from __future__ import annotations

from collections.abc import Callable
from threading import Lock

from backend.child.tree import Limits
from backend.real.frameworks.fetch import LENT
from backend.real.frameworks.session import SourceSession

MOST_IDLE = 3
"""Children that wait for the next test; each holds some 400 MB."""


class KeptSources:
    """Opens sessions as SourceSession does; a child with a release's own file goes from one who asks to the next."""

    def __init__(self) -> None:
        self._idle: list[_Kept] = []
        self._lock = Lock()

    def open(
        self,
        source: str,
        *,
        text: str | None = None,
        aiter: str | None = None,
        release: str | None = None,
        limits: Limits | None = None,
    ) -> SourceSession:
        """A session to be closed by whoever asks, which keeps its child for the next one."""
        if "==" not in source or LENT in source or (aiter, limits) != (None, None):
            return SourceSession(source, text=text, aiter=aiter, release=release, limits=limits)
        with self._lock:
            found = next((each for each in reversed(self._idle) if each.opened_as == (source, release)), None)
            if found is not None:
                self._idle.remove(found)
        session = found or _Kept(source, release, self._take_back)
        if text is not None:
            session.use(text)
        return session

    def close(self) -> None:
        """Ends the children that wait."""
        while self._idle:
            self._idle.pop().end()

    def _take_back(self, session: _Kept) -> None:
        with self._lock:
            self._idle.append(session)
            eldest = self._idle.pop(0) if len(self._idle) > MOST_IDLE else None
        if eldest is not None:
            eldest.end()


class _Kept(SourceSession):
    def __init__(self, source: str, release: str | None, take_back: Callable[[_Kept], None]) -> None:
        super().__init__(source, release=release)
        self.opened_as = source, release
        self._take_back = take_back

    def close(self) -> None:
        if self._child.end is not None:
            self.end()
            return
        if self.source is not self._opened:
            self.use(None)
        self._take_back(self)

    def end(self) -> None:
        super().close()


class Sessions(dict[str, SourceSession]):
    """Sessions by what they are of, each opened when it is asked for."""

    def __init__(self, kept: KeptSources) -> None:
        super().__init__()
        self._kept = kept

    def __missing__(self, source: str) -> SourceSession:
        self[source] = self._kept.open(source)
        return self[source]

    def close(self) -> None:
        for session in self.values():
            session.close()
