"""The Observation: what a device saw when a Call ran. Facts only; whether they are wrong is for backend/checks to say."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from backend.child.process_end import EndKind

if TYPE_CHECKING:  # whoever reads of violations needs no planners
    from backend.call import Call

ByteRanges = npt.NDArray[np.int64]
"""[n, 2] signed byte offsets from the tensor's first byte, [begin, end), sorted, disjoint and not touching."""


class ViolationKind(StrEnum):
    """How an access breaks the memory contract."""

    OUT_OF_BOUNDS = "out of bounds"
    NULL = "null pointer"
    FOREIGN_PAGE = "foreign page"
    UNWRITTEN = "unwritten"
    READ_ONLY = "write to a read-only tensor"
    RACE = "two workgroups write the same bytes"
    LOST = "a partial row that nobody merges"
    MISPLACED = "a partial row merged into another row"
    NO_OUTPUT = "an output row that nobody writes"
    UNREAD = "a token of the KV pool that nobody reads"
    CAPACITY = "more partial rows than the reduction holds"
    LDS = "more LDS than the GPU has"


@dataclass(frozen=True, slots=True)
class Violation:
    """All accesses of one stage that break the contract in one way at one tensor.

    stage: code object, "mla_reduce_v1" or the stage-2 kernel. tensor: the nearest one, by the kernarg's name.
    first_offset: signed byte offset of the first bad byte from the tensor's start (negative: before it).
    end_offset: exclusive end of the farthest bad byte.
    extent: bytes outside the tensor between its end (or start) and the farthest.
    count: accesses, or work items for a device that has no instructions. work_item: the first offender's 8 words.
    pc, instruction, lane, wave, workgroup: of the first bad access, where the device runs instructions.
    why: the address as an expression over kernargs and work-item fields.
    """

    kind: ViolationKind
    stage: str
    tensor: str
    is_write: bool
    first_offset: int
    end_offset: int
    extent: int
    count: int
    why: str
    work_item_index: int | None = None
    work_item: tuple[int, ...] | None = None
    pc: int | None = None
    instruction: str | None = None
    lane: int | None = None
    wave: int | None = None
    workgroup: tuple[int, int, int] | None = None


@dataclass(frozen=True, slots=True)
class Footprint:
    """Which bytes a stage touched, by tensor name."""

    reads: Mapping[str, ByteRanges] = field(default_factory=dict)
    writes: Mapping[str, ByteRanges] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Numbers:
    """Output rows against a float64 reference of plain attention. A row is one query and one head; counts are of such rows.

    compared: rows that have a reference (a query that sees at least one token). not_a_number, unwritten, outside: rows with a
    NaN or an infinity, rows that still hold what lay there before the launch, rows outside the budget; each row counts once, an
    unwritten one as that.
    first_*: (query, head) of the first such row, None where there is none. worst: largest error / budget of a row, NaN
    aside. relative_rms: |o - reference| / |reference| over all rows. lse_error: largest |lse - reference|, None without lse.
    budget: what is allowed, in words. cosine: the smallest of a row with its reference; largest_error: of an element; both
    None where no row is fit for it.
    """

    compared: int
    not_a_number: int
    unwritten: int
    outside: int
    first_not_a_number: tuple[int, int] | None
    first_unwritten: tuple[int, int] | None
    first_outside: tuple[int, int] | None
    worst: float
    relative_rms: float
    lse_error: float | None
    budget: str
    cosine: float | None = None
    largest_error: float | None = None


@dataclass(frozen=True, slots=True)
class DeviceEnd:
    """The end of a run in a child process.

    message: the runtime's own words. address: that it names (page-granular), None where it names none. tensor, offset: the
    nearest tensor by the ranges recorded before the launch and the signed byte offset from its start. again: the same end
    when the case ran alone in a fresh process. after: what had to run before it to bring it about, "" for nothing. once: a
    death of the process that did not come again when the case was run again; all else that is observed is of that second run.
    """

    kind: EndKind
    message: str = ""
    address: int | None = None
    tensor: str = ""
    offset: int | None = None
    again: bool = False
    after: str = ""
    once: DeviceEnd | None = None


@dataclass(frozen=True, slots=True)
class Disagreement:
    """What two devices saw differently of one Call. what: in words, free of figures; devices, saw: names, and what each saw."""

    what: str
    devices: tuple[str, str]
    saw: tuple[str, str]


@dataclass(frozen=True, slots=True, eq=False)
class Observation:
    """What happened.

    device: by name in backend.devices.kinds. violations: by every stage that ran, the first stage first.
    footprints: by stage, only where the device was asked to record them.
    coverage: identifiers of what ran (pc edges of the machine code, branches of the planner), for a campaign to steer by.
    schedule: which wave schedule made the run, "" for a device without waves.
    numbers: outputs against the reference, None where the device computes none. end: of a device that can hang or die.
    disagreements: of a device that runs two others. own_kernel: what ran in place of AITER's kernel, "" where that did.
    """

    call: Call
    device: str
    violations: tuple[Violation, ...] = ()
    footprints: Mapping[str, Footprint] = field(default_factory=dict)
    coverage: frozenset[int] = frozenset()
    schedule: str = ""
    notes: tuple[str, ...] = ()
    numbers: Numbers | None = None
    end: DeviceEnd | None = None
    disagreements: tuple[Disagreement, ...] = ()
    own_kernel: str = ""
