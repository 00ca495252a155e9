"""torch.cuda's streams and events on the simulated GPU: what they say, and the order that they make in a Timeline.

A wait for an event of a capture makes the waiting stream part of the capture, as on hardware.
"""

from __future__ import annotations

from typing import Any

import torch

from backend.real.script.graphs import GraphRecording, not_while_capturing
from backend.real.script.timeline import DEFAULT, Clock, Timeline
from backend.real.theirs import says

HANDLES = 0x5555_5700_0000
"""Where the runtime keeps its streams, on its own heap; any address does. The default stream's handle is 0."""

OTHER_WORK = "HIP error: dependency created on uncaptured work in another stream"
"""hipErrorStreamCaptureIsolation: a capture waits for an event from outside of it."""


class Event:
    """torch.cuda.Event; subclasses have a timeline. elapsed_time is 1 ms, so that rates computed from it are finite."""

    timeline: Timeline

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        del args, kwargs
        self._point: Clock | int | None = None
        self._recording: GraphRecording | None = None

    def record(self, stream: Stream | None = None) -> None:
        """Holds what was asked for on the stream (None: the current one) so far."""
        number = self.timeline.current if stream is None else stream.stream_id
        self._recording = self.timeline.captures.get(number)  # type: ignore[assignment]
        self._point = self.timeline.point(number) if self._recording is None else self._recording.point(number)

    def wait(self, stream: Stream | None = None) -> None:
        """What is asked for on the stream from now on follows what the event holds; one never recorded holds nothing."""
        number = self.timeline.current if stream is None else stream.stream_id
        if self._recording is not None and self._recording.is_open:
            assert isinstance(self._point, int)
            self._recording.wait(number, self._point)
        elif isinstance(self._point, dict):
            if number in self.timeline.captures:
                says(RuntimeError(OTHER_WORK))
            self.timeline.wait(number, self._point)

    def synchronize(self) -> None:
        """The host waits for what the event holds."""
        if self._recording is not None and self._recording.is_open:
            not_while_capturing()
        if isinstance(self._point, dict):
            self.timeline.host_waits(self._point)

    def query(self) -> bool:
        """Says that it has happened: there is no clock, and whoever is told so knows it."""
        self.synchronize()
        return True

    def elapsed_time(self, other: Event) -> float:
        """Milliseconds; there is no clock here."""
        del other
        return 1.0


class Stream:
    """torch.cuda.Stream; subclasses have a timeline. stream_id: the number of one that exists, None: a new one."""

    timeline: Timeline
    event: type[Event]

    def __init__(self, device: Any = None, priority: int = 0, stream_id: int | None = None, **others: Any) -> None:
        del device, others
        self.priority = priority
        self.stream_id = self.timeline.new_stream() if stream_id is None else stream_id
        self.device = torch.device("cuda", 0)
        self._before: list[int] = []

    @property
    def cuda_stream(self) -> int:
        """The handle that the runtime knows it by."""
        return 0 if self.stream_id == DEFAULT else HANDLES + 64 * self.stream_id

    def wait_stream(self, stream: Stream) -> None:
        """What is asked for on this one from now on follows what was asked for on the other."""
        stream.record_event().wait(self)

    def wait_event(self, event: Event) -> None:
        """What is asked for on this one from now on follows what the event holds."""
        event.wait(self)

    def record_event(self, event: Event | None = None) -> Event:
        """The event, or a new one, behind what was asked for so far."""
        recorded = self.event() if event is None else event
        recorded.record(self)
        return recorded

    def synchronize(self) -> None:
        """The host waits for what was asked for so far."""
        self.record_event().synchronize()

    def query(self) -> bool:
        """Says that all has happened: there is no clock, and whoever is told so knows it."""
        self.synchronize()
        return True

    def __enter__(self) -> Stream:
        """As `with torch.cuda.stream(self)`."""
        self._before.append(self.timeline.current)
        self.timeline.current = self.stream_id
        return self

    def __exit__(self, *exc: object) -> None:
        """Back to the stream before."""
        self.timeline.current = self._before.pop()

    def __eq__(self, other: object) -> bool:
        """Whether both are the same stream of the GPU."""
        return isinstance(other, Stream) and self.stream_id == other.stream_id

    def __hash__(self) -> int:
        """By its number."""
        return hash(self.stream_id)


def of_timeline(timeline: Timeline) -> tuple[type[Stream], type[Event]]:
    """torch.cuda.Stream and torch.cuda.Event of one GPU."""
    event = type("Event", (Event,), {"timeline": timeline})
    return type("Stream", (Stream,), {"timeline": timeline, "event": event}), event
