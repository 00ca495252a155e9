"""How a child came to its end, read from what the runtimes print: AMD's, NVIDIA's, torch's and the kernel's.

The lines are the runtimes' own (ROCR's fault handler and queue errors, HIP's and CUDA's error strings, torch's allocator),
matched and quoted, never guessed at. Knows no case.
"""

from __future__ import annotations

import re
import signal
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from backend.devices.child.messages import Failure, Range


class Death(StrEnum):
    """What ended a task other than its result."""

    MEMORY_FAULT = "memory fault"
    HANG = "hang"
    OUT_OF_MEMORY = "out of memory"
    DIED = "died"
    ERROR = "error"


@dataclass(frozen=True, slots=True)
class Fault:
    """A fault line. node: GPU as ROCR numbers it (the CPU sockets come first), None where not named; address: page-granular."""

    node: int | None
    address: int | None
    reason: str
    line: str


@dataclass(frozen=True, slots=True)
class Place:
    """Where an address lies by the recorded ranges: `offset` bytes from the start of tensor `name` of `size` bytes."""

    name: str
    offset: int
    size: int

    @property
    def outside(self) -> int:
        """Bytes outside of the tensor: past its end, or (negative) before its start; 0 inside."""
        return self.offset if self.offset < 0 else max(0, self.offset - self.size + 1)


_ROCR_FAULT = re.compile(
    r"Memory access fault by GPU node-(?P<node>\d+)\s*(?:\(Agent handle:\s*\S+\))?\s*on address\s*"
    r"(?P<address>0x[0-9a-fA-F]+|\(nil\))\.?\s*Reason:\s*(?P<reason>[^.\n]+)"
)
_FAULT_PHRASES = (
    "HSA_STATUS_ERROR_MEMORY_APERTURE_VIOLATION",
    "HSA_STATUS_ERROR_MEMORY_FAULT",
    "hipErrorIllegalAddress",
    "an illegal memory access was encountered",
    "misaligned address",
    "unspecified launch failure",
    "Invalid __global__",  # compute-sanitizer
)
_HANG_PHRASES = ("reason :GPU Hang", "reason: GPU Hang", "HSA_STATUS_ERROR_EXCEPTION_GPU_HANG", "the launch timed out")
_MEMORY_PHRASES = ("out of memory", "hipErrorOutOfMemory", "HSA_STATUS_ERROR_OUT_OF_RESOURCES", "OutOfMemoryError")


def fault_in(text: str) -> Fault | None:
    """The first fault that a runtime reports in `text`, None where there is none."""
    match = _ROCR_FAULT.search(text)
    if match is not None:
        address = 0 if match["address"] == "(nil)" else int(match["address"], 16)
        return Fault(int(match["node"]), address, match["reason"].strip(), match[0].strip())
    for said in text.splitlines():
        phrase = next((phrase for phrase in _FAULT_PHRASES if phrase in said), None)
        if phrase is not None:
            return Fault(None, None, phrase, said.strip())
    return None


def failure_of(text: str) -> Failure:
    """What the message of an exception means."""
    if any(phrase in text for phrase in _MEMORY_PHRASES):
        return Failure.OUT_OF_MEMORY
    return Failure.MEMORY_FAULT if fault_in(text) is not None else Failure.ERROR


def death_of(status: int, errors: str) -> tuple[Death, str]:
    """Why a process with this exit status and end of standard error ended, with the line that says so.

    status: as subprocess has it, negative for a signal.
    """
    fault = fault_in(errors)
    if fault is not None:
        return Death.MEMORY_FAULT, fault.line
    for said in errors.splitlines():
        if any(phrase in said for phrase in _HANG_PHRASES):
            return Death.HANG, said.strip()
        if any(phrase in said for phrase in _MEMORY_PHRASES):
            return Death.OUT_OF_MEMORY, said.strip()
    if status == -signal.SIGSEGV:
        return Death.MEMORY_FAULT, "SIGSEGV on the host"
    last = next((said.strip() for said in reversed(errors.splitlines()) if said.strip()), "")
    how = f"killed by {signal.Signals(-status).name}" if status < 0 else f"exit status {status}"
    if status == -signal.SIGKILL:
        how += " (by someone else: the host's out-of-memory killer does so)"
    return Death.DIED, f"{how}: {last}" if last else how


def place(ranges: Sequence[Range], address: int) -> Place | None:
    """The tensor that an address lies in, or the one whose nearer edge is closest; None without ranges."""
    if not ranges:
        return None

    def distance(one: Range) -> int:
        return max(one.address - address, address - (one.address + one.size - 1), 0)

    nearest = min(ranges, key=distance)
    return Place(nearest.name, address - nearest.address, nearest.size)
