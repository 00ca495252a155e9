"""From how a task ended to what an Observation says of it; the same for every device whose cases run in a child process."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from backend.child.ends import EndKind, place
from backend.child.supervisor import FATAL, Ended
from backend.codec import from_plain
from backend.errors import CannotRunError
from backend.observation import DeviceEnd, Numbers

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
