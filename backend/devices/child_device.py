"""A device whose calls run in child processes: tasks out, ends back, in order, each as an Observation. Knows no kernel.

From how a task ended to what an Observation says of it is the same for every such device.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from backend.call import Call
from backend.child.messages import Payload, Task
from backend.child.process_end import EndKind, place
from backend.child.supervisor import FATAL, Ended, Ranks, Supervisor
from backend.child.tree import Limits
from backend.codec import from_plain
from backend.errors import CannotRunError
from backend.observation import DeviceEnd, Numbers, Observation, Violation
from backend.words import number_of

NOT_HARDWARE = "not run on hardware"
"""Begins the note of every observation that no GPU had a part in."""


def end_of(ended: Ended) -> DeviceEnd:
    """The end; raises CannotRunError for a task that never ran: out of memory, or an error of the program."""
    if ended.result is not None:
        return DeviceEnd(EndKind.COMPLETED, once=None if ended.once is None else end_of(ended.once))
    assert ended.death is not None
    if ended.death not in FATAL:
        raise CannotRunError(f"{ended.death.value}: {ended.message.strip()}")
    after = "" if ended.after is None else f"case {ended.after} of the same process"
    address = None if ended.fault is None else ended.fault.address
    at = None if address is None else place(ended.ranges, address)
    return DeviceEnd(
        ended.death,
        ended.message.strip() if ended.fault is None else ended.fault.line,
        address,
        at.name if at else "",
        at.offset if at else None,
        ended.again,
        after,
    )


def worst_end(ends: Sequence[DeviceEnd]) -> DeviceEnd:
    """The first that did not complete; of several ranks one tells for all."""
    return next((end for end in ends if end.kind is not EndKind.COMPLETED or end.once is not None), ends[0])


def numbers_of(results: Sequence[Mapping[str, Any]]) -> Numbers | None:
    """The numbers of the worst of several ranks, None where none came to its numbers."""
    found = [from_plain(Numbers, result["numbers"]) for result in results if result.get("numbers") is not None]
    if not found:
        return None
    return max(found, key=lambda n: (n.not_a_number + n.unwritten + n.outside, n.worst))


def machine_notes(facts: Mapping[str, Any]) -> tuple[str, ...]:
    """Where it ran, in a line; it begins with NOT_HARDWARE where there was no GPU."""
    versions = ", ".join(f"{name} {facts[name]}" for name in ("rocm", "cuda", "torch", "triton", "aiter") if facts.get(name))
    line = f"{facts['device']} ({versions})" if versions else str(facts["device"])
    return (line,) if facts.get("hardware") else (f"{NOT_HARDWARE}: {line}",)


REFUSED_NOTE = "not launched: AITER raises on the planner's arguments"


class ChildDevice(ABC):
    """Base of `cuda` and `rocm`. One child serves a device object, or one a rank.

    own_kernel: what it runs in place of AITER's kernel, "" where it runs that. command, variables: of the child.
    ranks: processes that run each case at the same moment.
    Raises CannotRunError where the child does not come up (no GPU, no aiter).
    """

    name: str
    own_kernel: str = ""

    def __init__(
        self, command: Sequence[str], variables: Mapping[str, str], ranks: int = 1, limits: Limits | None = None
    ) -> None:
        self._next = 0
        self._one = Supervisor(command, variables, limits)
        self._ranks = Ranks(command, ranks, variables, limits) if ranks > 1 else None
        self._notes = machine_notes(self.facts)

    @abstractmethod
    def _payload(self, call: Call) -> Payload:
        """What the child is told of a call."""

    @abstractmethod
    def _violations(self, call: Call, ended: Ended) -> Iterator[Violation]:
        """What one child saw break the memory contract."""

    def _call_notes(self, call: Call) -> tuple[str, ...]:
        """What has to be known of how this device runs a call."""
        return ()

    @property
    def facts(self) -> Mapping[str, Any]:
        """Device and versions as the child says them."""
        return self._ranks.facts if self._ranks is not None else self._one.facts

    @property
    def starts(self) -> int:
        """Child processes started so far (without ranks)."""
        return self._one.starts

    def observe(self, call: Call) -> Observation:
        """Runs one call. Raises CannotRunError where it does not fit this GPU or cannot be run on it."""
        (observed,) = self.observe_all([call])
        if isinstance(observed, CannotRunError):
            raise observed
        return observed

    def observe_all(self, calls: Iterable[Call]) -> Iterator[Observation | CannotRunError]:
        """Runs calls one after the other, the next ones planned while the GPU is at work; in order, one answer a call."""
        asked: dict[int, Call] = {}
        rejected: dict[int, Call] = {}
        answered = self._next

        def tasks() -> Iterator[Task]:
            for call in calls:
                number = self._next
                self._next += 1
                if call.plan is not None and call.plan.rejected:
                    rejected[number] = call
                    continue
                asked[number] = call
                yield Task(number, self._payload(call))

        for together in self._ended(tasks()):
            number = together[0].task
            yield from self._skipped(rejected, answered, number)
            answered = number + 1
            yield self._observed(asked.pop(number), together)
        yield from self._skipped(rejected, answered, self._next)

    def close(self) -> None:
        """Ends the child processes."""
        self._one.close()
        if self._ranks is not None:
            self._ranks.close()

    def __enter__(self) -> ChildDevice:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _ended(self, tasks: Iterator[Task]) -> Iterator[tuple[Ended, ...]]:
        if self._ranks is None:
            return ((ended,) for ended in self._one.run(tasks))
        ranks = self._ranks
        return (ranks.run(task) for task in tasks)

    def _skipped(self, rejected: dict[int, Call], begin: int, end: int) -> Iterator[Observation]:
        for number in range(begin, end):
            if number in rejected:
                yield Observation(rejected.pop(number), self.name, notes=(REFUSED_NOTE,))

    def _observed(self, call: Call, together: tuple[Ended, ...]) -> Observation | CannotRunError:
        try:
            ends = [end_of(ended) for ended in together]
        except CannotRunError as error:
            return error
        results = [ended.result for ended in together if ended.result is not None]
        violations = [violation for ended in together for violation in self._violations(call, ended)]
        own_notes = tuple(dict.fromkeys(note for result in results for note in result.get("notes", ())))
        ranks_note = (
            (_together(together, [set(self._violations(call, ended)) for ended in together]),) if len(together) > 1 else ()
        )
        end = worst_end(ends)
        once_note = () if end.once is None else (f"its process was lost once, and not when run again: {end.once.message}",)
        return Observation(
            call,
            self.name,
            violations=tuple(dict.fromkeys(violations)),
            notes=(*self._notes, *self._call_notes(call), *own_notes, *ranks_note, *once_note),
            numbers=numbers_of(results),
            end=end,
            own_kernel=self.own_kernel,
        )


def _together(ranks: tuple[Ended, ...], seen: Sequence[set[Violation]]) -> str:
    """How close in time the ranks launched, and which of them saw something. seen: violations of each."""
    launched = [ended.result["launched_at"] for ended in ranks if ended.result is not None]
    spread = f", launched within {(max(launched) - min(launched)) * 1e3:.2f} ms" if len(launched) == len(ranks) else ""
    at_fault = [str(rank) for rank, violations in enumerate(seen) if violations or ranks[rank].result is None]
    where = f"; at fault: rank {', '.join(at_fault)}" if at_fault else ""
    return f"{number_of(len(ranks), 'rank')}{spread}{where}"
