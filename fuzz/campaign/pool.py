"""Where a campaign's workers are: in threads of this process (`Local`), or where Ray has room (fuzz.campaign.cluster).

The engine asks a pool for workers, calls them and waits for their answers; it does not know which of the two it has. `Local`
needs nothing of Ray and is there at once. Cases never run in this process: each worker keeps one of its own for them.
"""

from __future__ import annotations

import queue
import threading
from collections.abc import Mapping, Sequence
from concurrent import futures
from dataclasses import dataclass, field
from typing import Any, Protocol, Self

from backend.child.process import ChildProcess
from backend.child.process_end import EndKind
from backend.errors import UsageError
from fuzz.campaign.messages import WorkerSetup
from fuzz.campaign.worker import Seen, Worker

END_SECONDS = 5.0
"""Until a worker's thread has noticed that its process was killed."""


@dataclass(frozen=True, slots=True)
class Lost:
    """An answer that will not come."""

    kind: EndKind
    detail: str


class Workers(Protocol):
    """What the engine needs of a pool. Actors and calls are the pool's own handles."""

    def free(self) -> int:
        """Workers that fit beside those that there are."""
        ...

    def spawn(self, setup: WorkerSetup, name: str, running: str) -> Any:
        """Starts a worker; it answers `hello` when it is there. running: folder for its slot."""
        ...

    def listen(self, seen: Seen) -> None:
        """Who is told, from any thread, of findings before their chunk is answered. Before the first `spawn`.

        Workers that are elsewhere say nothing before they answer.
        """
        ...

    def call(self, actor: Any, method: str, *arguments: Any) -> Any:
        """Asks a worker for something; the answer is fetched by `answer` when `wait` says so."""
        ...

    def put(self, value: Any) -> Any:
        """Makes a value known to all workers, to be passed as an argument."""
        ...

    def wait(self, calls: Sequence[Any], seconds: float) -> list[Any]:
        """Those calls that have an answer, as soon as one has, or none after so many seconds."""
        ...

    def answer(self, call: Any) -> Any:
        """The answer of a call that has one; Lost where its worker is gone."""
        ...

    def end(self, actor: Any) -> None:
        """Ends a worker, whatever it is doing."""
        ...


class Pool(Workers, Protocol):
    """What a session needs of a pool. A context manager: nothing of it runs before it is entered or after it is left."""

    @property
    def name(self) -> str:
        """The pool's name, for people."""
        ...

    @property
    def nodes(self) -> int:
        """The number of machines."""
        ...

    @property
    def resources(self) -> Mapping[str, float]:
        """What it has in all, by the pool's own names."""
        ...

    def workers(self, wanted: int) -> int:
        """How many workers to start, `wanted` or as many as fit where it is 0; raises where they do not fit."""
        ...

    def __enter__(self) -> Self: ...
    def __exit__(self, *exception: object) -> None: ...


_Task = tuple["futures.Future[Any]", str, tuple[Any, ...]]


@dataclass(eq=False)
class _Actor:
    """A worker, and the thread that all its methods but `stop` are called in, one after the other."""

    worker: Worker
    tasks: queue.SimpleQueue[_Task | None] = field(default_factory=queue.SimpleQueue)

    def __post_init__(self) -> None:
        self.thread = threading.Thread(target=self._work, name="aiterfuzz-worker", daemon=True)
        self.thread.start()

    def _work(self) -> None:
        while (task := self.tasks.get()) is not None:
            answer, method, arguments = task
            try:
                answer.set_result(getattr(self.worker, method)(*arguments))
            except BaseException as error:
                answer.set_exception(error)
        self.worker.close()

    def end(self) -> None:
        self.worker.stop()
        while not self.tasks.empty():
            self.tasks.get()
        self.tasks.put(None)
        self.thread.join(END_SECONDS)


class Local:
    """At most `most` workers on this machine, by default one. ahead: a case_process() for the first of them."""

    name = "this machine"
    nodes = 1

    def __init__(self, most: int = 1, ahead: ChildProcess | None = None) -> None:
        self._most = most
        self._ahead = ahead
        self._seen: Seen = lambda chunk, shown: None
        self._actors: list[_Actor] = []

    def __enter__(self) -> Local:
        return self

    def __exit__(self, *exception: object) -> None:
        for actor in list(self._actors):
            self.end(actor)

    @property
    def resources(self) -> Mapping[str, float]:
        """How many workers it takes."""
        return {"workers": float(self._most)}

    def workers(self, wanted: int) -> int:
        """`wanted`, or all that it takes where it is 0."""
        if wanted > self._most:
            raise UsageError.not_allowed("workers without Ray", wanted, f"1..{self._most}")
        return wanted or self._most

    def free(self) -> int:
        """Workers that fit beside those that there are."""
        return self._most - len(self._actors)

    def spawn(self, setup: WorkerSetup, name: str, running: str) -> _Actor:
        """Starts a worker in a thread."""
        ahead, self._ahead = self._ahead, None
        actor = _Actor(Worker(setup, name, running, ahead, self._seen))
        self._actors.append(actor)
        return actor

    def listen(self, seen: Seen) -> None:
        """Who is told of findings at sight, from the worker's thread."""
        self._seen = seen

    def call(self, actor: _Actor, method: str, *arguments: Any) -> futures.Future[Any]:
        """Asks a worker for something."""
        answer: futures.Future[Any] = futures.Future()
        actor.tasks.put((answer, method, arguments))
        return answer

    def put(self, value: Any) -> Any:
        """Gives the value itself."""
        return value

    def wait(self, calls: Sequence[futures.Future[Any]], seconds: float) -> list[futures.Future[Any]]:
        """The first of these calls that has an answer: one at a time, so that one worker gives one order of events."""
        futures.wait(calls, seconds, futures.FIRST_COMPLETED)
        return [call for call in calls if call.done()][:1]

    def answer(self, call: futures.Future[Any]) -> Any:
        """The answer of a call that has one."""
        return call.result()

    def end(self, actor: _Actor) -> None:
        """Ends a worker, whatever it is doing."""
        self._actors.remove(actor)
        actor.end()
