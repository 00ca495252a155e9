"""What a run of the machine gives back: types only, and how they read from the compiled code's arrays.

Knows neither how instructions are executed nor what a region is for.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from enum import IntEnum, StrEnum
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from backend.cdna.decode.text import assembly_text
from backend.cdna.execute import layout as at
from backend.cdna.memory import Region, signed_offset
from backend.cdna.program import Program


class AccessKind(IntEnum):
    """What was wrong with an access; of CLAMPED only that its descriptor cut it off, so that it never reached memory."""

    OUT_OF_BOUNDS = at.KIND_OUT_OF_BOUNDS
    NULL = at.KIND_NULL
    UNWRITTEN_READ = at.KIND_UNWRITTEN_READ
    READ_ONLY_WRITE = at.KIND_READ_ONLY_WRITE
    PAGE_NOT_ALLOWED = at.KIND_PAGE_NOT_ALLOWED
    LDS_OUT_OF_BOUNDS = at.KIND_LDS_OUT_OF_BOUNDS
    CLAMPED = at.KIND_CLAMPED
    WRITE_OVERLAP = at.KIND_WRITE_OVERLAP


class Mode(StrEnum):
    """FULL executes everything; SLICE what addresses, branches and descriptors depend on, and checks every access."""

    FULL = "full"
    SLICE = "slice"


class Schedule(StrEnum):
    """Who runs next. ROUND_ROBIN: waves in turn, a few instructions each, results at once. TIMED: the timing model."""

    ROUND_ROBIN = "round-robin"
    TIMED = "timed"


class MachineEnd(StrEnum):
    """DONE: every wave reached its end. LIMIT: the watchdog stopped a workgroup that did not end (a hang, as far as anyone
    can tell), and the run with it."""

    DONE = "done"
    LIMIT = "limit"


@dataclass(frozen=True, slots=True)
class BadAccess:
    """One wave instruction, and those of its lanes that were wrong in one way.

    pc, text: the instruction. workgroup: flat index; wave: within it. lanes: their numbers, empty for a scalar access.
    address: of the first of them; lowest, highest_end: of all (end exclusive). size: bytes a lane. region, offset: the nearest
    region and where in or beyond it (`AddressSpace.locate`); None for LDS and for an empty space. element, requester: of the
    last queue element that the wave had read, -1 for none. executed: instructions the wave had executed.
    """

    kind: AccessKind
    pc: int
    text: str
    workgroup: int
    wave: int
    lanes: tuple[int, ...]
    is_write: bool
    size: int
    address: int
    lowest: int
    highest_end: int
    region: str | None
    offset: int
    element: int
    requester: int
    executed: int


@dataclass(frozen=True, slots=True)
class AccessTotal:
    """All wrong accesses of one instruction in one way. lanes, waves: how many; lowest, highest_end: addresses, end
    exclusive."""

    kind: AccessKind
    pc: int
    lanes: int
    waves: int
    lowest: int
    highest_end: int


@dataclass(frozen=True, slots=True)
class Race:
    """Two waves used one LDS dword without a barrier between, at least one of them writing.

    kind: "read after write", "write after write" or "write after read"; pcs of both; address: of the dword in LDS;
    times: how often in the run.
    """

    kind: str
    producer_pc: int
    consumer_pc: int
    address: int
    workgroup: int
    times: int


@dataclass(frozen=True, slots=True)
class AccessLog:
    """What was accessed, where a run was asked to keep it.

    counts: lanes that accessed memory, by pc. hashes: of (address, lane, wave, workgroup), independent of order, by pc.
    touched_read, touched_write: by region, int64 [n, 2], byte offsets [begin, end) of each stretch that was touched, sorted and
    not touching; in a large region they are rounded to multiples of unit_bytes. pages: bool [workgroups, pages] by paged
    region.
    """

    counts: dict[int, int] = field(default_factory=dict)
    hashes: dict[int, int] = field(default_factory=dict)
    touched_read: dict[str, NDArray[np.int64]] = field(default_factory=dict)
    touched_write: dict[str, NDArray[np.int64]] = field(default_factory=dict)
    unit_bytes: dict[str, int] = field(default_factory=dict)
    pages: dict[str, NDArray[np.bool_]] = field(default_factory=dict)


_RACES = {
    at.RACE_WRITE_READ: "read after write",
    at.RACE_WRITE_WRITE: "write after write",
    at.RACE_READ_WRITE: "write after read",
}


@dataclass(frozen=True, eq=False)
class RunResult:
    """One run. executed: wave instructions that were executed (in slice mode, of the slice).

    event_count: events there were; `events` holds the first of each kind, as many as were asked for. branch_counts: int64
    [records, 2], how often each branch was not taken and taken. log: empty unless asked for. trace: original instruction
    indices in the order in which the wave that was asked for executed them. waves: launched.
    """

    program: Program
    mode: Mode
    schedule: Schedule
    outcome: MachineEnd
    executed: int
    waves: int
    regions: tuple[Region, ...]
    raw_events: NDArray[np.int64]
    event_count: int
    raw_totals: NDArray[np.int64]
    branch_counts: NDArray[np.int64]
    raw_races: NDArray[np.int64]
    log: AccessLog
    trace: NDArray[np.int32]

    @cached_property
    def events(self) -> tuple[BadAccess, ...]:
        """Every kept event, clamped ones included, in the order in which they happened."""
        return tuple(self._event(row) for row in self.raw_events)

    @cached_property
    def bad_accesses(self) -> tuple[BadAccess, ...]:
        """The kept events that are faults or findings."""
        return tuple(self._event(row) for row in self.raw_events[self.raw_events[:, at.EVENT_KIND] != AccessKind.CLAMPED])

    @cached_property
    def clamped(self) -> tuple[BadAccess, ...]:
        """The kept events in which a descriptor cut an access off."""
        return tuple(self._event(row) for row in self.raw_events[self.raw_events[:, at.EVENT_KIND] == AccessKind.CLAMPED])

    @cached_property
    def totals(self) -> tuple[AccessTotal, ...]:
        """By instruction and kind, over all events, kept or not."""
        return tuple(self._totals())

    @cached_property
    def edges(self) -> NDArray[np.int32]:
        """Executed branch edges, int32 [edges, 2]: pc of the branch, pc it went to. The same in both modes."""
        found = []
        for record, taken in zip(*np.nonzero(self.branch_counts), strict=True):
            instruction = self.program.instructions[self.program.originals[record]]
            found.append((instruction.pc, instruction.sources[0].value if taken else instruction.next_pc))
        return np.array(sorted(found), np.int32).reshape(-1, 2)

    @cached_property
    def races(self) -> tuple[Race, ...]:
        """LDS races, where hazards were asked for."""
        return tuple(
            Race(
                _RACES[int(row[at.RACE_KIND])],
                self._pc(int(row[at.RACE_PRODUCER])),
                self._pc(int(row[at.RACE_CONSUMER])),
                int(row[at.RACE_DWORD]) * 4,
                int(row[at.RACE_WORKGROUP]),
                int(row[at.RACE_TIMES]),
            )
            for row in self.raw_races
        )

    def _pc(self, original: int) -> int:
        return self.program.instructions[original].pc

    def _event(self, row: NDArray[np.int64]) -> BadAccess:
        instruction = self.program.instructions[int(row[at.EVENT_ORIGINAL])]
        place, address = int(row[at.EVENT_REGION]), int(row[at.EVENT_ADDRESS])
        region = self.regions[place] if place >= 0 else None
        mask = int(row[at.EVENT_LANES])
        return BadAccess(
            AccessKind(int(row[at.EVENT_KIND])),
            instruction.pc,
            assembly_text(instruction),
            int(row[at.EVENT_WORKGROUP]),
            int(row[at.EVENT_WAVE]),
            tuple(lane for lane in range(at.LANES) if mask >> lane & 1),
            bool(row[at.EVENT_WRITE]),
            int(row[at.EVENT_BYTES]),
            address,
            int(row[at.EVENT_LOWEST]),
            int(row[at.EVENT_HIGHEST_END]),
            region.name if region else None,
            signed_offset(region, address) if region else address,
            int(row[at.EVENT_ELEMENT]),
            int(row[at.EVENT_REQUESTER]),
            int(row[at.EVENT_EXECUTED]),
        )

    def _totals(self) -> Iterator[AccessTotal]:
        for access, kind in zip(*np.nonzero(self.raw_totals[:, :, at.TOTAL_LANES]), strict=True):
            row = self.raw_totals[access, kind]
            yield AccessTotal(
                AccessKind(int(kind)),
                self._pc(self.program.accesses[access]),
                int(row[at.TOTAL_LANES]),
                int(row[at.TOTAL_WAVES]),
                int(row[at.TOTAL_LOWEST]),
                int(row[at.TOTAL_HIGHEST_END]),
            )
