"""Which work of the simulated GPU is ordered behind which, by streams, events and what the host waits for.

Everything is done at once, in the order in which the script asks for it. What a GPU would be free to do otherwise is known by
vector clocks: each stream counts its work, an event holds what its stream had done and waited for when it was recorded, and
work follows what its stream has waited for, and what the host had waited for when it asked for it. Two accesses to the same
bytes, one of them a write, with no order between them are a hazard, whichever of them came first here. As of streams that
torch makes (cudaStreamNonBlocking), the default stream waits for none of them, nor they for it.

Knows neither torch's classes (streams.py) nor how a graph's work is done again (graphs.py); no operation's meaning.
"""

from __future__ import annotations

import threading
from bisect import bisect_left, insort
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from backend.real.torch_shim import Allocation

Clock = dict[int, int]
"""By stream, how much of its work has been done."""

Ranges = npt.NDArray[np.int64]

DEFAULT = 0
"""The default stream's number."""

MOST_ACCESSES = 1024
"""Accesses to one storage that are kept before those that everything follows are looked for, and the oldest forgotten."""


@dataclass(frozen=True, slots=True, eq=False)
class Access:
    """Bytes of one storage that a piece of work reads or writes.

    storage: address of its first byte. ranges: addresses [begin, end), int64 [n, 2], sorted, none overlapping.
    tensor: its name as a parameter, "" where it has none.
    """

    storage: int
    ranges: Ranges
    is_write: bool
    tensor: str = ""


@dataclass(frozen=True, slots=True, eq=False)
class Done:
    """An access, by what, on which stream, and as which piece of the stream's work."""

    what: str
    stream: int
    count: int
    access: Access


@dataclass(frozen=True, slots=True, eq=False)
class GpuWork:
    """Something for the GPU to do. what: its name, for people. given: what it is done with, tensors among it, by name.

    accesses: what it reads and writes of that. run: does it.
    """

    what: str
    given: Mapping[str, Any]
    accesses: Callable[[Mapping[str, Any]], Sequence[Access]]
    run: Callable[[Mapping[str, Any]], Any]


class Capture(Protocol):
    """A graph that is being captured: it keeps work instead of having it done."""

    def keep(self, stream: int, work: GpuWork) -> None:
        """Work that was asked for on a stream of the capture."""


@dataclass(slots=True)
class Timeline:
    """What each stream has done and waited for. captures: by stream, the capture that it is part of.

    unordered: told of two accesses without an order, in the order in which they were done here.
    """

    unordered: Callable[[Done, Done], None] = lambda first, second: None
    captures: dict[int, Capture] = field(default_factory=dict)
    _host: Clock = field(default_factory=dict)
    _clocks: dict[int, Clock] = field(default_factory=lambda: {DEFAULT: {}})
    _storages: dict[int, _Storage] = field(default_factory=dict)
    _starts: list[int] = field(default_factory=list)
    _thread: threading.local = field(default_factory=threading.local)

    def new_stream(self) -> int:
        """The number of a stream on which nothing has happened."""
        number = len(self._clocks)
        self._clocks[number] = {}
        return number

    @property
    def current(self) -> int:
        """The stream that this thread's work goes to."""
        return getattr(self._thread, "stream", DEFAULT)

    @current.setter
    def current(self, stream: int) -> None:
        self._thread.stream = stream

    @property
    def capture(self) -> Capture | None:
        """What keeps this thread's work now; None: it is done."""
        return self.captures.get(self.current)

    def do(self, work: GpuWork) -> Any:
        """Does the work on the current stream and gives its result; None where a capture keeps it."""
        capture = self.capture
        if capture is not None:
            capture.keep(self.current, work)
            return None
        self.did(work.what, work.accesses(work.given), self.current)
        return work.run(work.given)

    def did(self, what: str, accesses: Sequence[Access], stream: int) -> None:
        """A stream's next piece of work, and what it accesses."""
        clock = self._clocks[stream]
        join(clock, self._host)
        clock[stream] = clock.get(stream, 0) + 1
        for access in accesses:
            if len(access.ranges):
                self._note(Done(what, stream, clock[stream], access), clock)

    def point(self, stream: int) -> Clock:
        """What a stream has done and waited for up to now: an event's content."""
        clock = self._clocks[stream]
        join(clock, self._host)
        return dict(clock)

    def wait(self, stream: int, point: Clock) -> None:
        """A stream's later work follows what the point holds."""
        join(self._clocks[stream], point)

    def host_waits(self, point: Clock | None = None) -> None:
        """The host has waited for a point, None: for everything; what it asks for from now on follows that."""
        for each in self._clocks.values() if point is None else (point,):
            join(self._host, each)

    def allocated(self, allocation: Allocation, is_anew: bool = False) -> None:
        """Memory is used for another storage: what was done to those that lay there before counts for this one too.

        is_anew: it does not, since a GPU's allocator, which keeps each stream's memory apart, would have put it elsewhere.
        """
        begin, end = allocation.address, allocation.address + allocation.nbytes
        first = bisect_left(self._starts, begin)
        if first and self._storages[self._starts[first - 1]].end > begin:
            first -= 1
        last = bisect_left(self._starts, end)
        made = _Storage(max(end, begin + 1))
        for start in self._starts[first:last]:
            before = self._storages.pop(start)
            if not is_anew:
                made.accesses |= {key: done for key, done in before.accesses.items() if done.stream not in before.kept_for}
        del self._starts[first:last]
        insort(self._starts, begin)
        self._storages[begin] = made

    def keep_for(self, storage: int, stream: int) -> None:
        """Tensor.record_stream: the allocator gives the memory away only behind what the stream does with it."""
        if storage in self._storages:
            self._storages[storage].kept_for.add(stream)

    def _note(self, done: Done, clock: Clock) -> None:
        storage = self._storages.get(done.access.storage)
        if storage is None:
            return
        for other in storage.accesses.values():
            if other.stream == done.stream or not (other.access.is_write or done.access.is_write):
                continue
            if other.count > clock.get(other.stream, 0) and _overlap(other.access.ranges, done.access.ranges):
                self.unordered(other, done)
        if len(storage.accesses) >= MOST_ACCESSES:
            host = self._host
            storage.accesses = {k: d for k, d in storage.accesses.items() if d.count > host.get(d.stream, 0)}
            while len(storage.accesses) >= MOST_ACCESSES:
                del storage.accesses[next(iter(storage.accesses))]
        ranges = done.access.ranges
        key = (done.stream, done.access.is_write, int(ranges[0, 0]), int(ranges[-1, 1]), len(ranges))
        storage.accesses.pop(key, None)
        storage.accesses[key] = done


@dataclass(slots=True, eq=False)
class _Storage:
    """What was done to a storage's memory. end: address behind it. kept_for: see Timeline.keep_for."""

    end: int
    accesses: dict[tuple[int, bool, int, int, int], Done] = field(default_factory=dict)
    kept_for: set[int] = field(default_factory=set)


def join(clock: Clock, other: Clock) -> None:
    """Makes a clock follow another one too."""
    for stream, count in other.items():
        if count > clock.get(stream, 0):
            clock[stream] = count


def _overlap(one: Ranges, other: Ranges) -> bool:
    """Whether two sorted lists of ranges have a byte in common."""
    if one[0, 0] >= other[-1, 1] or other[0, 0] >= one[-1, 1]:
        return False
    if len(one) == len(other) == 1:
        return True
    at = np.searchsorted(other[:, 1], one[:, 0], side="right")
    there = at < len(other)
    return bool((other[at[there], 0] < one[there, 1]).any())
