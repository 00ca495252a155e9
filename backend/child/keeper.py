"""One child at work: started, greeted, fed, watched for its limits, and told of when it ends. Knows no GPU and no case.

What the child runs is its command's business: it speaks `messages` through backend.child.serve.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from backend.child.messages import ReportKind, line
from backend.child.process import ChildProcess
from backend.child.process_end import EndKind, ProcessEnd, last_line, process_end
from backend.child.tree import Limits
from backend.errors import CannotRunError

WATCH_SECONDS = 0.25
"""Between two looks at the memory and the number of processes of a tree, each of which reads all of /proc."""


MOST_STARVED = 9
"""How many times as long as it was given a child may wait for a processor besides: many of its own may keep it waiting."""


class NotStartedError(CannotRunError):
    """The child ended before it could take tasks, or took too long. how, said: as of ProcessEnd."""

    def __init__(self, text: str, how: str, said: str) -> None:
        super().__init__(text)
        self.how = how
        self.said = said


@dataclass(frozen=True, slots=True)
class Deadline:
    """So many seconds of a child's own time from now on: what it waits for a processor, as on a loaded machine, is not its."""

    keeper: Keeper
    seconds: float
    began: float
    starved: float

    @property
    def at(self) -> float:
        """When it is over, by time.monotonic(), as far as is known now: later where the child has waited meanwhile."""
        waited = min(self.keeper.starved - self.starved, MOST_STARVED * self.seconds)
        return self.began + self.seconds + waited

    @property
    def over(self) -> bool:
        """Whether it has passed, the child's waits up to this moment left out."""
        if time.monotonic() >= self.at:
            self.keeper.look()
        return time.monotonic() >= self.at


class Keeper:
    """A child that has said hello. facts: what it said then.

    starved: seconds that it was seen to wait for a processor: of its processes the one that waited longest, look by look.
    command, variables, readable: as of ChildProcess. process: one that was started with them already, None to start one now;
    whatever comes of it, the keeper closes it. Raises NotStartedError where it does not come up within limits.start.
    """

    def __init__(
        self,
        command: Sequence[str],
        variables: Mapping[str, str] | None = None,
        limits: Limits | None = None,
        readable: Sequence[Path] | None = None,
        process: ChildProcess | None = None,
    ) -> None:
        self.limits = limits or Limits()
        self._inbox: deque[dict[str, Any]] = deque()
        self._killed: ProcessEnd | None = None
        self._looked = time.monotonic()
        self._waits: Mapping[int, float] = {}
        self.starved = 0.0
        self.process = ChildProcess(command, variables or {}, readable) if process is None else process
        try:
            self.facts = self._greeting(command)
        except BaseException:
            self.close()
            raise

    def post(self, message: Mapping[str, Any]) -> None:
        """Sends a message; see ChildProcess.post."""
        self.process.post(line(message))

    def next(self, deadline: float) -> dict[str, Any] | None:
        """The next report; None when time.monotonic() is `deadline`, or the child has ended (see `end`).

        Meanwhile the tree is held to its limits on memory and processes.
        """
        while not self._inbox:
            now = time.monotonic()
            if now - self._looked >= WATCH_SECONDS:
                self.look()
            self._inbox.extend(self.process.reports(min(deadline, now + WATCH_SECONDS)))
            if not self._inbox and (self.process.status is not None or time.monotonic() >= deadline):
                return None
        return self._inbox.popleft()

    def deadline(self, seconds: float) -> Deadline:
        """So many seconds of the child's own time from now on."""
        return Deadline(self, seconds, time.monotonic(), self.starved)

    @property
    def end(self) -> ProcessEnd | None:
        """How the child ended, None while it runs or has more to say."""
        status = self.process.status
        if status is None or self._inbox:
            return None
        return self._killed or process_end(status, self.process.errors)

    def kill(self, kind: EndKind, how: str, discriminator: str) -> None:
        """Ends the child and all that it started, for this reason, if it has not ended yet; `next` goes on to its end."""
        if self._killed is None and self.process.status is None:
            self._killed = ProcessEnd(kind, how, discriminator, last_line(self.process.errors))
            self.process.kill()

    def close(self) -> None:
        """Ends the child and all that it started, and releases what was kept for it."""
        self.process.close()

    def look(self) -> None:
        """Takes in what the tree has waited for a processor up to now, and holds it to its limits on memory and processes."""
        waits, before, self._looked = self.process.tree.waits(), self._looked, time.monotonic()
        more = max((waited - self._waits.get(pid, 0.0) for pid, waited in waits.items()), default=0.0)
        self._waits = waits
        self.starved += min(max(more, 0.0), self._looked - before)
        offence = self.process.tree.offence(self.limits)
        if offence is not None:
            self.kill(offence.kind, offence.how, offence.kind.value)

    def _greeting(self, command: Sequence[str]) -> Mapping[str, Any]:
        deadline = self.deadline(self.limits.start)
        hello = None
        while hello is None and self.end is None and not deadline.over:
            hello = self.next(deadline.at)
        if hello is not None and hello["say"] == ReportKind.HELLO:
            facts: Mapping[str, Any] = hello["facts"]
            return facts
        end, errors = self.end, self.process.errors.strip()
        how = f"did not say hello within {self.limits.start:g} s" if end is None else end.how
        said = last_line(errors)
        why = said if errors else f"no hello within {self.limits.start:g} s"
        raise NotStartedError(f"{' '.join(command)}: does not start (exit status {self.process.status}): {why}", how, said)
