"""The Finding: what is wrong with one case, where, with evidence; its signature; the order of causes.

A case that goes wrong usually shows several findings with one cause (a wrong head width makes the planner write past its
buffers and the kernel read past q). The `cause` of a list of findings is the one that comes first on a case's path;
its signature names the fault, the others are its consequences.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum, StrEnum


class Party(StrEnum):
    """Who did it, in the order of a case's path."""

    CALLER = "caller"
    PLANNER = "planner"
    LAUNCHER = "launcher"
    KERNEL = "kernel"
    REDUCTION = "reduction"
    PROJECT = "aiterfuzz"  # two of our own devices disagree


class Severity(IntEnum):
    """How bad, worst last."""

    REFUSED = 0  # AITER says no: counted, not a fault
    SILENT = 1  # wrong result, nothing out of bounds
    READ = 2  # a read outside the tensor, or of memory that is not the request's
    WRITE = 3  # a write outside the tensor


class FindingKind(StrEnum):
    """Classes of fault, in causal order: the earlier ones explain the later."""

    BAD_INDPTR = "bad-indptr"  # an indptr that is not monotonic, too short, or does not match its tensor
    BAD_LAST_PAGE_LEN = "bad-last-page-len"  # kv_last_page_lens[i] not in [1, page_size]
    BAD_PAGE_ID = "bad-page-id"  # a page id outside the pool
    SHORT_SEQUENCE = "short-sequence"  # kv_len < qlen: a row would attend to less than nothing
    BUFFER_TOO_SMALL = "buffer-too-small"  # sizing arguments are not the planning arguments
    HEAD_WIDTH = "head-width"  # planned head width != launched head width
    METADATA_REJECTED = "metadata-rejected"  # AITER's host code raises on the arguments
    NO_KERNEL = "no-kernel"  # no row in the kernel table for the key, or the code object is not there
    PLANNER_READ = "planner-read"  # the planner reads an input past its end
    PLANNER_OVERRUN = "planner-overrun"  # the planner writes outside a buffer
    SHORT_PIECE = "short-piece"  # a piece [kv0, kv1) shorter than qlen
    SPLIT_CAP = "split-cap"  # more pieces than the reduction can hold
    NULL_POINTER = "null-pointer"  # an access through a kernarg that is null
    OUT_OF_BOUNDS_WRITE = "out-of-bounds-write"
    OUT_OF_BOUNDS_READ = "out-of-bounds-read"
    MEMORY_FAULT = "memory-fault"  # a GPU faulted: an access outside mapped memory, whose instruction is not known
    FOREIGN_PAGE = "foreign-page"  # inside the pool, but not a page of the request (an address that wraps, a page size ignored)
    UNWRITTEN_READ = "unwritten-read"  # a read of what nobody wrote
    NOT_COVERED = "not-covered"  # a (row, token) that no work item covers
    COVERED_TWICE = "covered-twice"  # a (row, token) that two work items cover
    BEYOND_SEQUENCE = "beyond-sequence"  # a row is given tokens that are not its request's
    MISPLACED_ROW = "misplaced-row"  # a partial row that is merged into another row
    ROW_NOT_WRITTEN = "row-not-written"  # an output row that nobody writes
    WRITE_RACE = "write-race"  # two workgroups write the same bytes
    NUMERICS = "numerics"  # outside the error budget
    NOT_A_NUMBER = "not-a-number"
    HANG = "hang"
    DIED = "died"  # the process that ran the case ended otherwise
    DEVICE_DISAGREEMENT = "device-disagreement"


_CAUSAL_ORDER = {kind: rank for rank, kind in enumerate(FindingKind)}


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong.

    stage: where on the path: "sglang-27188", "planner v1_0", a kernel's code object, "mla_reduce_v1".
    tensor: the tensor or buffer concerned, "" where none is.
    message: one sentence for people, numbers included.
    evidence: figures by name (bytes_past_end, needed, has, first_work_item, pc ...), as JSON scalars.
    discriminator: what tells two faults of this kind at this stage apart, free of any size of the batch.
    """

    kind: FindingKind
    severity: Severity
    party: Party
    stage: str
    tensor: str
    message: str
    evidence: Mapping[str, int | str] = field(default_factory=dict)
    discriminator: str = ""

    @property
    def signature(self) -> str:
        """Names the fault: equal for two cases that fail for the same reason."""
        return "/".join(part for part in (self.kind.value, self.stage, self.tensor, self.discriminator) if part)


def in_causal_order(findings: Sequence[Finding]) -> tuple[Finding, ...]:
    """Causes before consequences; the worst first among equals."""
    return tuple(sorted(findings, key=lambda f: (_CAUSAL_ORDER[f.kind], -f.severity)))


def cause(findings: Sequence[Finding]) -> Finding | None:
    """The first finding on the path that is more than a refusal; a refusal where there is nothing else; None for none."""
    faults = [f for f in findings if f.severity > Severity.REFUSED]
    ordered = in_causal_order(faults or findings)
    return ordered[0] if ordered else None


def worst(findings: Sequence[Finding]) -> Severity | None:
    """The highest severity, None for no findings."""
    return max((f.severity for f in findings), default=None)
