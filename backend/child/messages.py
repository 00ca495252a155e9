"""What supervisor and child say to each other: one JSON object a line, tasks down, reports up. Knows no GPU.

Down: {"task": id, "payload": {...}} and, for ranks, {"go": id}. Up: {"say": word, ...} with the words of `ReportKind`.
A child says `started` before it touches the GPU for a task, so that a dead child names its case.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

Payload = Mapping[str, Any]
"""What a task carries; JSON values only. The supervisor never looks inside."""


class ReportKind(StrEnum):
    """Reports of a child."""

    HELLO = "hello"  # once, when it can take tasks; "facts": device, versions, hardware or not
    STARTED = "started"  # before anything is done for a task
    RANGES = "ranges"  # where the task's tensors lie, before the launch: [[name, address, bytes], ...]
    READY = "ready"  # everything but the launch is done; waits for {"go": id}
    SEEN = "seen"  # something on the way to the result: "what": JSON object
    DONE = "done"  # "result": JSON object
    FAILED = "failed"  # an exception: "failure": a word of EndKind, "text"; the child may be of no more use


@dataclass(frozen=True, slots=True)
class Task:
    """One case for a child. id: unique among the tasks of a supervisor."""

    id: int
    payload: Payload


@dataclass(frozen=True, slots=True)
class Range:
    """Where a tensor lies on the device. address: of its first byte; size: bytes."""

    name: str
    address: int
    size: int


def error_mark(task: int) -> str:
    """The line that a child puts on its standard error when it starts a task: what follows is that task's."""
    return f"[aiterfuzz task {task}]\n"


def line(message: Mapping[str, Any]) -> bytes:
    """A message as it goes over the pipe."""
    return json.dumps(message, separators=(",", ":")).encode() + b"\n"


def ranges_of(message: Mapping[str, Any]) -> tuple[Range, ...]:
    """The ranges of a RANGES message."""
    return tuple(Range(name, address, size) for name, address, size in message["ranges"])
