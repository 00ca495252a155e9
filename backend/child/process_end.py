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

from backend.child.messages import Range


class EndKind(StrEnum):
    """How a task, or the process that ran it, came to its end."""

    COMPLETED = "completed"
    MEMORY_FAULT = "memory fault"  # the GPU reported an access to memory that is not mapped, or not so
    HANG = "hang"  # no answer within the time given; the process was killed
    OUT_OF_MEMORY = "out of memory"  # a runtime said so; the task never ran
    ERROR = "error"  # an exception of the program; the task cannot run here
    SIGNAL = "signal"  # the process was killed by a signal, not ours
    EXIT = "exit"  # it ended by itself, without an answer
    MEMORY = "memory"  # it and what it started held more than the limit; killed
    PROCESSES = "processes"  # it started more than the limit; killed
    STOPPED = "stopped"  # somebody wanted to stop
    ACTOR = "actor"  # its keeper was lost
    NODE = "node"  # with the whole machine
    DRIVER = "driver"  # the command itself was killed

    @property
    def died(self) -> bool:
        """Whether the process itself ended, or had to be ended for what it held, without a word of a fault of the GPU."""
        return self in (EndKind.SIGNAL, EndKind.EXIT, EndKind.MEMORY, EndKind.PROCESSES)


@dataclass(frozen=True, slots=True)
class ProcessEnd:
    """The end of a process as a whole.

    how: completes "the process ...". discriminator: tells ends of one kind apart ("SIGABRT", "exit 3"), the same for the same
    end. said: the last line of its standard error, "" for none.
    """

    kind: EndKind
    how: str
    discriminator: str
    said: str


@dataclass(frozen=True, slots=True)
class FaultLine:
    """A line in which a runtime reports a fault of the GPU.

    node: the GPU as ROCR numbers it (the CPU sockets come first); address: in bytes, the first of its page; both None where the
    line does not name them. reason: the runtime's, "not said" where it gives none. line: as printed, on one line.
    """

    node: int | None
    address: int | None
    reason: str
    line: str


@dataclass(frozen=True, slots=True)
class Place:
    """Where an address lies by the recorded ranges: `offset` bytes from the start of tensor `name`, which has `size` bytes."""

    name: str
    offset: int
    size: int

    @property
    def outside(self) -> int:
        """Bytes outside of the tensor: past its end, or (negative) before its start; 0 inside."""
        return self.offset if self.offset < 0 else max(0, self.offset - self.size + 1)


_ROCR_FAULT = re.compile(
    r"Memory access fault by GPU node-(?P<node>\d+)\s*(?:\(Agent handle:\s*\S+\))?\s*on address\s*"
    r"(?P<address>0x[0-9a-fA-F]+|\(nil\))(?:\.?\s*Reason:\s*(?P<reason>[^.\n]+))?"
)
_FAULT_PHRASES = (
    "HSA_STATUS_ERROR_MEMORY_APERTURE_VIOLATION",
    "HSA_STATUS_ERROR_MEMORY_FAULT",
    "Memory access fault by GPU",  # where other output has cut the line
    "hipErrorIllegalAddress",
    "an illegal memory access was encountered",
    "misaligned address",
    "unspecified launch failure",
    "Invalid __global__",  # compute-sanitizer
)
_HANG_PHRASES = ("reason :GPU Hang", "reason: GPU Hang", "HSA_STATUS_ERROR_EXCEPTION_GPU_HANG", "the launch timed out")
_QUEUE_PHRASES = ("borting with error", "Queue error", "HW Exception by GPU")
"""Of a queue or a GPU that is given up for another reason (a trap, an ECC error, a reset): quoted, and judged by no more."""

_MEMORY_PHRASES = ("out of memory", "hipErrorOutOfMemory", "HSA_STATUS_ERROR_OUT_OF_RESOURCES", "OutOfMemoryError")


def fault_in(text: str) -> FaultLine | None:
    """The first fault that a runtime reports in `text`, None where there is none."""
    match = _ROCR_FAULT.search(text)
    if match is not None:
        address = 0 if match["address"] == "(nil)" else int(match["address"], 16)
        line = " ".join(match[0].split())  # other output may break it between address and reason
        return FaultLine(int(match["node"]), address, (match["reason"] or "not said").strip(), line)
    for said in text.splitlines():
        phrase = next((phrase for phrase in _FAULT_PHRASES if phrase in said), None)
        if phrase is not None:
            return FaultLine(None, None, phrase, said.strip())
    return None


def failure_of(text: str) -> EndKind:
    """What the message of an exception means: MEMORY_FAULT, OUT_OF_MEMORY or ERROR."""
    if any(phrase in text for phrase in _MEMORY_PHRASES):
        return EndKind.OUT_OF_MEMORY
    return EndKind.MEMORY_FAULT if fault_in(text) is not None else EndKind.ERROR


def process_end(status: int, errors: str) -> ProcessEnd:
    """The end of a process, whatever it ran.

    status: its exit status as subprocess has it, negative for a signal. errors: the end of its standard error.
    """
    said = last_line(errors)
    if status < 0:
        name = signal.Signals(-status).name
        return ProcessEnd(EndKind.SIGNAL, f"was killed by {name}", name, said)
    return ProcessEnd(EndKind.EXIT, f"ended with exit status {status}", f"exit {status}", said)


def last_line(text: str) -> str:
    """The last line of `text` that is not blank, without the blanks around it; "" for none."""
    return next((line.strip() for line in reversed(text.splitlines()) if line.strip()), "")


def death_of(status: int, errors: str) -> tuple[EndKind, str]:
    """Why a process that ran on a GPU ended, with the line that says so. status, errors: as of `process_end`."""
    fault = fault_in(errors)
    if fault is not None:
        return EndKind.MEMORY_FAULT, fault.line
    for said in errors.splitlines():
        if any(phrase in said for phrase in _HANG_PHRASES):
            return EndKind.HANG, said.strip()
        if any(phrase in said for phrase in _MEMORY_PHRASES):
            return EndKind.OUT_OF_MEMORY, said.strip()
    if status == -signal.SIGSEGV:
        return EndKind.MEMORY_FAULT, "SIGSEGV on the host"
    last = next((said.strip() for said in errors.splitlines() if any(phrase in said for phrase in _QUEUE_PHRASES)), "")
    last = last or last_line(errors)
    how = f"killed by {signal.Signals(-status).name}" if status < 0 else f"exit status {status}"
    if status == -signal.SIGKILL:
        how += " (by someone else: the host's out-of-memory killer does so)"
    return EndKind.SIGNAL if status < 0 else EndKind.EXIT, f"{how}: {last}" if last else how


def place(ranges: Sequence[Range], address: int) -> Place | None:
    """The tensor that `address` (in bytes) lies in, or the one whose nearer edge is closest; None without ranges."""
    if not ranges:
        return None

    def distance(one: Range) -> int:
        return max(one.address - address, address - (one.address + one.size - 1), 0)

    nearest = min(ranges, key=distance)
    return Place(nearest.name, address - nearest.address, nearest.size)
