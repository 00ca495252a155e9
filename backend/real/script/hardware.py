"""The memory of the virtual GPU as kernels use it: what is mapped is read and written, the rest ends the process.

ROCm's runtime aborts at the first access to memory that is not mapped. Here the process is dead for whoever looks at it from
then on (its output goes nowhere), but it is run to its end, so that what would have gone wrong next is known too. Accesses that
cannot be done give poison, or are dropped. This module knows no operation of AITER.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from backend.errors import UnmodelledError
from backend.real.device_memory import NULL_PAGE, Bytes, DeviceMemory, UnmappedError
from backend.real.script.messages import HardwareAbort
from backend.words import counted

PAGE = 4096
"""ROCm names the page, not the byte."""

AGENT_HANDLE = 0x5555_5600_A170
"""Where the runtime keeps its agent, on its own heap; any address does."""

POISON = 0xFF

MOST_READ = 1 << 30
"""Bytes that are made up at once where a read leaves what is mapped: more is asked for by words that were never written."""


@dataclass(slots=True)
class Hardware:
    """One GPU. node: as the fault message counts (0 is usually a CPU). on_fault: told of the abort, once."""

    memory: DeviceMemory
    node: int = 1
    fault: HardwareAbort | None = None
    on_fault: list[Callable[[HardwareAbort], None]] = field(default_factory=list)

    def read(self, address: int, nbytes: int, *why: str) -> Bytes:
        """A copy of the bytes; poison from the first unmapped one on. why: of the access, for the explanation of a fault."""
        reached = self._mapped(address, nbytes, why) if nbytes > 0 else np.zeros(0, np.uint8)
        if nbytes > max(MOST_READ, reached.size):
            raise UnmodelledError(f"{', '.join(why)}: {counted(nbytes, 'byte')} at once, most of them in no allocation")
        found = np.full(nbytes, POISON, np.uint8)
        found[: reached.size] = reached
        return found

    def write(self, address: int, data: Bytes, *why: str) -> None:
        """Store the bytes, up to the first unmapped one."""
        if data.size:
            reached = self._mapped(address, data.size, why)
            reached[:] = data[: reached.size]

    def ints(self, address: int, count: int, *why: str) -> list[int]:
        """Reads `count` int32 words."""
        words: list[int] = self.read(address, 4 * count, *why).view(np.int32).tolist()
        return words

    def abort(self, address: int, *why: str) -> None:
        """The runtime's end of the process; the first one counts."""
        if self.fault is not None:
            return
        page = address // PAGE * PAGE
        line = (
            f"Memory access fault by GPU node-{self.node} (Agent handle: {AGENT_HANDLE:#x}) on address {page:#x}. "
            "Reason: Unknown."
        )
        self.fault = HardwareAbort(line, address, (*why, self._where(address)))
        for tell in self.on_fault:
            tell(self.fault)

    def _mapped(self, address: int, nbytes: int, why: tuple[str, ...]) -> Bytes:
        """The bytes from `address` on that are mapped, at most `nbytes`."""
        try:
            return self.memory.bytes_at(address, nbytes)
        except UnmappedError as error:
            self.abort(error.address, *why)
            return self.memory.bytes_from(address) if error.address > address else np.zeros(0, np.uint8)

    def _where(self, address: int) -> str:
        if address < NULL_PAGE:
            return f"address {address:#x} is that of a null pointer"
        below = [mapped.segment for mapped in self.memory.segments() if mapped.segment.end <= address]
        if not below:
            return f"address {address:#x} lies in no segment of torch's allocator"
        nearest = max(below, key=lambda segment: segment.end)
        return (
            f"address {address:#x} is {counted(address - nearest.end, 'byte')} past the end of the segment "
            f"[{nearest.base:#x}, {nearest.end:#x}) of torch's allocator; what follows is not mapped"
        )


def silence_after(fault: HardwareAbort) -> None:
    """Print what the runtime prints, and nothing any more from then on: for people the process is dead."""
    sys.stdout.flush()
    sys.stderr.flush()
    abort_text = "\n".join((fault.line, *(f"  aiterfuzz: {line}" for line in fault.why)))
    os.write(2, f"{abort_text}\n".encode())
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, 1)
    os.dup2(nowhere, 2)
    os.close(nowhere)
