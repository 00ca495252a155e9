"""Streams and events of a GPU that does everything at once: whatever is asked of them has already happened."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any


class HappenedStream:
    """A stream on which everything has already happened."""

    cuda_stream = 0

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        pass

    def __getattr__(self, name: str) -> Callable[..., None]:
        if name in ("synchronize", "wait_stream", "wait_event", "record_event"):
            return lambda *args, **kwargs: None
        raise AttributeError(name)

    def query(self) -> bool:
        """Says that nothing is pending."""
        return True


class HappenedEvent:
    """An event that has happened; elapsed_time is 1 ms, so that rates computed from it are finite."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        pass

    def record(self, *args: Any) -> None:
        """Does nothing: there is nothing to record."""

    def synchronize(self) -> None:
        """Nothing to wait for."""

    def query(self) -> bool:
        """Says that it has happened."""
        return True

    def elapsed_time(self, other: HappenedEvent) -> float:
        """Milliseconds; there is no clock here."""
        return 1.0
