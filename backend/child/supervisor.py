"""Keeps one child (or one a rank) at work: feeds it, times it, restarts it, and says for each task how it ended.

Invariants: every task that goes in comes out once, in order, whatever happens to the child; a task that ended its child is
run again alone, and where that goes well, the tasks before it are bisected for the one that is needed too. Knows no GPU.
"""

from __future__ import annotations

import dataclasses
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from backend.child.keeper import Keeper
from backend.child.messages import Range, ReportKind, Task, error_mark, ranges_of
from backend.child.process_end import EndKind, FaultLine, death_of, fault_in
from backend.child.serve import RANKS_VARIABLE
from backend.child.tree import Limits

RANK_VARIABLE = "AITERFUZZ_RANK"
"""Number of the rank, 0-based; the child takes GPU rank % visible GPUs."""

FATAL = (EndKind.MEMORY_FAULT, EndKind.HANG, *(kind for kind in EndKind if kind.died))
"""Ends after which the process is gone."""

WINDOW = 4
"""Tasks that are handed over ahead, so that the GPU does not wait for the planner."""

REMEMBERED = 64
"""Tasks of the same process that are kept to be bisected; each costs its payload in memory."""


@dataclass(frozen=True, slots=True)
class Ended:
    """How one task ended. Exactly one of result and death is set.

    message: the line that says why. fault: as parsed from it. ranges: where the tensors lay. seconds: from started to the end.
    again: the same death when run alone in a fresh process. after: id of the task that must run before it, None for none.
    once: a death that came neither when the task was run again alone nor after those before it; the rest is of the run alone.
    """

    task: int
    result: Mapping[str, Any] | None
    death: EndKind | None
    message: str
    fault: FaultLine | None
    ranges: tuple[Range, ...]
    seconds: float
    again: bool = False
    after: int | None = None
    once: Ended | None = None


class Supervisor:
    """One child at a time.

    command: argv of a child that speaks `messages`. variables: its environment beyond ours.
    Raises CannotRunError where a child does not come up, with its last words.
    """

    def __init__(
        self, command: Sequence[str], variables: Mapping[str, str] | None = None, limits: Limits | None = None
    ) -> None:
        self._command = tuple(command)
        self._variables = dict(variables or {})
        self.limits = limits or Limits()
        self._child: _Attended | None = None
        self.starts = 0
        self._facts: Mapping[str, Any] | None = None

    @property
    def facts(self) -> Mapping[str, Any]:
        """What the child said of its machine; starts one where none runs yet."""
        if self._facts is None:
            self._attended()
        assert self._facts is not None
        return self._facts

    def run(self, tasks: Iterable[Task]) -> Iterator[Ended]:
        """How each task ended, in order. Lazy: tasks are taken as the child gets to them."""
        source = iter(tasks)
        sent: deque[Task] = deque()
        history: deque[Task] = deque(maxlen=REMEMBERED)
        while True:
            child = self._attended()
            while len(sent) < WINDOW and (task := next(source, None)) is not None:
                child.post(task)
                sent.append(task)
            if not sent:
                return
            ended = child.finish(sent[0])
            task = sent.popleft()
            if ended.death in FATAL:
                self.close()
                ended = self._looked_into(task, ended, tuple(history))
                history.clear()
                fresh = self._attended()
                for left in sent:
                    fresh.post(left)
            else:
                history.append(task)
            yield ended

    def close(self) -> None:
        """Ends the child, if one runs."""
        if self._child is not None:
            self._child.close()
            self._child = None

    def __enter__(self) -> Supervisor:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _attended(self) -> _Attended:
        if self._child is None:
            self._child = _Attended(self._command, self._variables, self.limits)
            self.starts += 1
            self._facts = self._child.facts
        return self._child

    def _looked_into(self, task: Task, ended: Ended, history: Sequence[Task]) -> Ended:
        """Runs the task alone, then with what ran before it."""
        alone = self._last_of([task])
        if alone.death in FATAL:
            return dataclasses.replace(alone, again=alone.death is ended.death)
        if not history or self._last_of([*history, task]).death not in FATAL:
            return dataclasses.replace(alone, once=ended)
        first, healthy = 0, len(history)  # history[first:] brings it about, history[healthy:] does not
        while healthy - first > 1:
            middle = (first + healthy) // 2
            if self._last_of([*history[middle:], task]).death in FATAL:
                first = middle
            else:
                healthy = middle
        return dataclasses.replace(ended, after=history[first].id)

    def _last_of(self, tasks: Sequence[Task]) -> Ended:
        """How the last of the tasks ends in a fresh process that runs them all; the first fatal end if that comes earlier."""
        child = _Attended(self._command, self._variables, self.limits)
        self.starts += 1
        try:
            for task in tasks:
                child.post(task)
                ended = child.finish(task)
                if ended.death in FATAL:
                    break
            return ended
        finally:
            child.close()


class Ranks:
    """The same task at the same moment in `count` children, each on a GPU of its own as far as there are that many."""

    def __init__(
        self, command: Sequence[str], count: int, variables: Mapping[str, str] | None = None, limits: Limits | None = None
    ) -> None:
        self.limits = limits or Limits()
        self._start: Callable[[int], _Attended] = lambda rank: _Attended(
            command, {**(variables or {}), RANKS_VARIABLE: str(count), RANK_VARIABLE: str(rank)}, self.limits
        )
        self._children: list[_Attended | None] = [None] * count

    @property
    def facts(self) -> Mapping[str, Any]:
        """What rank 0 said of its machine."""
        return self._attended()[0].facts

    def run(self, task: Task) -> tuple[Ended, ...]:
        """How the task ended on each rank. A rank that dies before the launch does not hold up the others."""
        children = self._attended()
        for child in children:
            child.post(task)
        ended: dict[int, Ended] = {}
        deadline = time.monotonic() + self.limits.seconds
        waiting = set(range(len(children)))
        while waiting and time.monotonic() < deadline:
            for rank in sorted(waiting):
                early = children[rank].until_ready(task, time.monotonic() + 0.002)
                if early is not None:
                    ended[rank] = early
                if early is not None or children[rank].ready:
                    waiting.discard(rank)
        for rank, child in enumerate(children):
            if rank not in ended:
                child.go(task)
        for rank, child in enumerate(children):
            if rank not in ended:
                ended[rank] = child.finish(task)
            if ended[rank].death in FATAL:
                child.close()
                self._children[rank] = None
        return tuple(ended[rank] for rank in range(len(children)))

    def close(self) -> None:
        """Ends all of the children."""
        for child in self._children:
            if child is not None:
                child.close()
        self._children = [None] * len(self._children)

    def _attended(self) -> list[_Attended]:
        found = [child or self._start(rank) for rank, child in enumerate(self._children)]
        self._children = list(found)
        return found


class _Attended:
    """A child that has said hello, and what it has said of the task it is at."""

    def __init__(self, command: Sequence[str], variables: Mapping[str, str], limits: Limits) -> None:
        self._keeper = Keeper(command, variables, limits)
        self._limits = limits
        self._ranges: tuple[Range, ...] = ()
        self._deadline = self._keeper.deadline(limits.seconds)
        self._reported: str | None = None
        self.ready = False
        self.facts = self._keeper.facts

    def post(self, task: Task) -> None:
        self.ready = False
        self._keeper.post({"task": task.id, "payload": task.payload})

    def go(self, task: Task) -> None:
        self._keeper.post({"go": task.id})

    def close(self) -> None:
        self._keeper.close()

    def until_ready(self, task: Task, deadline: float) -> Ended | None:
        """Its end, if it comes before it says ready; None by the deadline too (see `ready`)."""
        return self._attend(task, deadline, stops_at_ready=True)

    def finish(self, task: Task) -> Ended:
        """Waits for the task's end; kills the child when it takes too long."""
        self._deadline = self._keeper.deadline(self._limits.seconds)
        while True:
            deadline = self._deadline
            over = deadline.over
            ended = self._attend(task, deadline.at, stops_at_ready=False)
            if ended is not None:
                return ended
            if over and deadline is self._deadline:  # and nothing has been said until after that
                how = f"no end within {self._limits.seconds:g} s; killed"
                self._keeper.kill(EndKind.HANG, how, EndKind.HANG.value)
                return self._end(task, death=EndKind.HANG, message=how)

    def _attend(self, task: Task, deadline: float, stops_at_ready: bool) -> Ended | None:
        while True:
            message = self._keeper.next(deadline)
            if message is None:
                return None if self._keeper.end is None else self._dead(task)
            word = message["say"]
            if word == ReportKind.STARTED:
                self._deadline = self._keeper.deadline(self._limits.seconds)
                self._ranges, self._reported, self.ready = (), None, False
            elif word == ReportKind.RANGES:
                self._ranges = ranges_of(message)
            elif word == ReportKind.READY:
                self.ready = True
                if stops_at_ready:
                    return None
            elif word == ReportKind.DONE:
                return self._end(task, result=message["result"])
            elif message["failure"] == EndKind.MEMORY_FAULT:
                self._reported = message["text"]  # it leaves now; the runtime may say more on its way out
            else:
                return self._end(task, death=EndKind(message["failure"]), message=message["text"])

    def _dead(self, task: Task) -> Ended:
        end, status = self._keeper.end, self._keeper.process.status
        assert end is not None
        assert status is not None
        if end.kind in (EndKind.MEMORY, EndKind.PROCESSES):
            return self._end(task, death=end.kind, message=end.how)
        death, said = death_of(status, self._keeper.process.errors.rpartition(error_mark(task.id))[2])
        if self._reported is not None and fault_in(said) is None:
            death, said = EndKind.MEMORY_FAULT, self._reported
        return self._end(task, death=death, message=said)

    def _end(
        self, task: Task, result: Mapping[str, Any] | None = None, death: EndKind | None = None, message: str = ""
    ) -> Ended:
        seconds = time.monotonic() - self._deadline.began
        fault = fault_in(message) if death is EndKind.MEMORY_FAULT else None
        return Ended(task.id, result, death, message, fault, self._ranges, seconds)
