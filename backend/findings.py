"""The Finding: what is wrong with one case, where, with evidence; its signature; the order of causes.

A case that goes wrong usually shows several findings with one cause (a wrong head width makes the planner write past its
buffers and the kernel read past q). The `cause` of a list of findings is the one that comes first on a case's path;
its signature names the fault, the others are its consequences.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum, StrEnum
from typing import Self


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


@dataclass(frozen=True, slots=True)
class KindRow:
    """All that is said of a kind of finding, in one place.

    name: as it is stored and shown. severities: what a finding of it can be, the usual one first.
    title: a heading of a page. symptom: completes "MLA decode ..." in the title of an issue. reason: why the party is at fault.
    advice: what would put it right; {party} stands for the party at fault.
    takes_its_process: whether a process was lost, and nothing is said of memory. by_numbers: whether numbers alone show it, so
    that a run of addresses cannot. of_index_tensors: whether index tensors are wrong, which a batch determines to the last
    entry. is_stray_access: whether an access was seen to leave its tensor. stays_in_pool: whether what is accessed is KV of
    others, so that no memory fault follows. wrong_for_certain: whether some row of o is wrong whatever memory holds.
    """

    name: str
    severities: tuple[Severity, ...]
    title: str
    symptom: str
    reason: str
    advice: str
    takes_its_process: bool = False
    by_numbers: bool = False
    of_index_tensors: bool = False
    is_stray_access: bool = False
    stays_in_pool: bool = False
    wrong_for_certain: bool = False

    @property
    def gives_wrong_result(self) -> bool:
        """Whether o may be wrong by it and the process go on."""
        return (Severity.SILENT in self.severities and not self.takes_its_process) or self.stays_in_pool


class RowedKind(StrEnum):
    """An enumeration of kinds whose members are made of rows, so that none lacks a text. Members are equal to their names."""

    row: KindRow
    rank: int

    def __new__(cls, row: KindRow) -> Self:
        """A member of its row; rank is its place in the enumeration, from 0."""
        member = str.__new__(cls, row.name)
        member._value_ = row.name
        member.row = row
        member.rank = len(cls.__members__)
        return member

    @property
    def severity(self) -> Severity:
        """How bad a finding of the kind is, where its check does not know better."""
        return self.row.severities[0]


class FindingKind(RowedKind):
    """Classes of fault, in causal order: the earlier ones explain the later."""

    BAD_INDPTR = KindRow(  # an indptr that is not monotonic, too short, or does not match its tensor
        name="bad-indptr",
        severities=(Severity.READ,),
        title="An index tensor does not fit its batch",
        symptom="gets index tensors that do not fit its batch",
        reason="the caller builds the index tensors, and AITER takes them as they are",
        advice="build the index tensor for the batch that runs",
        of_index_tensors=True,
    )
    BAD_LAST_PAGE_LEN = KindRow(  # kv_last_page_lens[i] not in [1, page_size]
        name="bad-last-page-len",
        severities=(Severity.READ,),
        title="A last page is longer than a page",
        symptom="gets last pages longer than a page",
        reason="kv_last_page_lens[i] is the number of tokens in the last page, 1 to page_size; the caller fills it",
        advice="fill kv_last_page_lens with the tokens of the last page, not with the sequence length",
        of_index_tensors=True,
    )
    BAD_PAGE_ID = KindRow(  # a page id outside the pool
        name="bad-page-id",
        severities=(Severity.READ,),
        title="A page id lies outside of the KV pool",
        symptom="gets page ids outside of the KV pool",
        reason="the caller hands over the page table",
        advice="hand over only pages of the pool",
        of_index_tensors=True,
    )
    SHORT_SEQUENCE = KindRow(  # kv_len < qlen: a row would attend to less than nothing
        name="short-sequence",
        severities=(Severity.READ,),
        title="A request has fewer KV tokens than query rows",
        symptom="gets requests with fewer tokens than query rows",
        reason=(
            "the caller fills in the lengths of all rows, those of graph padding too; a row of a request with fewer "
            "tokens than rows has nothing to attend to"
        ),
        advice="give padding rows at least as many KV tokens as query rows",
        of_index_tensors=True,
    )
    BUFFER_TOO_SMALL = KindRow(  # sizing arguments are not the planning arguments
        name="buffer-too-small",
        severities=(Severity.WRITE,),
        title="Metadata buffers are sized for another batch",
        symptom="gets metadata buffers that are too small",
        reason="the caller allocates the buffers, by a sizing call with other arguments than its planning call",
        advice="size the buffers for the batch, rows, heads and flags that are planned later",
    )
    PLAN_MISMATCH = KindRow(  # the decode call gets other arguments than the planning call that filled its metadata
        name="plan-mismatch",
        severities=(Severity.READ,),
        title="The plan is not of the decode call",
        symptom="is launched with a plan that was made from other arguments",
        reason=(
            "the caller plans for one batch and decodes another: AITER takes metadata and index tensors as they are and does "
            "not compare the two"
        ),
        advice="plan again from the index tensors, query rows and heads that the decode call gets",
    )
    STREAM_RACE = KindRow(  # two streams access the same bytes, one of them writing, with no order between them
        name="stream-race",
        severities=(Severity.SILENT,),
        title="Two streams access a tensor without an order",
        symptom="runs beside work of another stream on the same tensor",
        reason="the caller hands work to two streams, and neither waits for the other",
        advice="record an event behind the first work and let the second stream wait for it (wait_stream, wait_event)",
    )
    FREED_UNDER_GRAPH = KindRow(  # a replay uses a tensor that was freed after the capture
        name="freed-under-graph",
        severities=(Severity.READ, Severity.WRITE),
        title="A captured graph's tensor was freed",
        symptom="is replayed on tensors that were freed",
        reason="a graph holds addresses and keeps no tensor alive; the caller let go of one that it was captured with",
        advice="keep what a graph was captured with for as long as it is replayed, and write new content into it",
    )
    PLAN_DROPPED = KindRow(  # mla_decode_fwd launches another kernel than the one that the plan is for
        name="plan-dropped",
        severities=(Severity.READ,),
        title="A plan of lists is set aside",
        symptom="sets a plan of lists aside and takes all tokens of each request",
        reason="mla_decode_fwd leaves persistent mode for this shape by itself, and what follows knows nothing of the lists",
        advice="keep the metadata where it was planned with topk; until then, hand num_kv_splits over, which keeps it",
    )
    HOST_TENSOR = KindRow(  # a tensor of a call that lies in the host's memory
        name="host-tensor",
        severities=(Severity.READ,),
        title="A tensor lies in the host's memory",
        symptom="is handed a tensor in the host's memory",
        reason="AITER hands the tensor's address to the kernel without asking where it is, and a GPU has no such page mapped",
        advice="make the tensor on the GPU, or copy it there before the call",
    )
    VIEW_WITH_GAPS = KindRow(  # a tensor whose rows do not lie one behind the other, as the kernel takes them to
        name="view-with-gaps",
        severities=(Severity.WRITE, Severity.READ),
        title="A tensor is a view with gaps",
        symptom="is handed a view with gaps between its rows",
        reason="AITER hands over the address and at most one stride; the kernels take rows to lie one behind the other",
        advice="make the tensor contiguous before the call, and copy an output back after it; upstream, check it",
    )
    WRONG_TYPE = KindRow(  # a tensor whose elements are not what the kernel takes them for
        name="wrong-type",
        severities=(Severity.WRITE, Severity.SILENT),
        title="A tensor has another element type than the kernel takes it for",
        symptom="is given a tensor of another element type than it takes it for",
        reason="the caller allocates outputs and index tensors; the kernels store bf16 and read int32 whatever they are",
        advice="allocate the output in bf16 (not like an fp8 q), index tensors in int32; upstream, check them before a launch",
    )
    HEAD_WIDTH = KindRow(  # planned head width != launched head width
        name="head-width",
        severities=(Severity.WRITE, Severity.SILENT),
        title="The planner groups heads otherwise than the kernel",
        symptom="is planned and launched with different head widths",
        reason=(
            "the flags that the caller chose select a planner that groups heads otherwise than the launched kernel; "
            "AITER does not compare the two"
        ),
        advice=(
            "choose the flags by which planner and kernel agree; upstream, compare the head width of plan and kernel and refuse"
        ),
    )
    METADATA_REJECTED = KindRow(  # AITER's host code raises on the arguments
        name="metadata-rejected",
        severities=(Severity.REFUSED,),
        title="AITER rejects the metadata arguments",
        symptom="is refused by the metadata calls",
        reason="AITER's host code refuses the arguments",
        advice="nothing to mend in AITER",
    )
    NO_KERNEL = KindRow(  # no row in the kernel table for the key, or the code object is not there
        name="no-kernel",
        severities=(Severity.REFUSED,),
        title="No kernel for the key",
        symptom="has no kernel",
        reason="AITER has no kernel for the key and says so before any launch",
        advice="choose another mode or add a kernel",
    )
    TOO_MUCH_LDS = KindRow(  # a code object that no GPU of its architecture can launch
        name="too-much-lds",
        severities=(Severity.SILENT,),
        title="A kernel asks for more LDS than the GPU has",
        symptom="takes a kernel that asks for more LDS than the GPU has",
        reason="its descriptor asks for more LDS than a compute unit has, so that the runtime refuses every launch of it",
        advice="build the code object for the LDS of its architecture, or take its row out of the kernel table",
    )
    PLANNER_READ = KindRow(  # the planner reads an input past its end
        name="planner-read",
        severities=(Severity.READ,),
        title="The planner reads past its inputs",
        symptom="reads past its index tensors while planning",
        reason="the planner reads outside of its inputs",
        advice="bound the planner's index",
        is_stray_access=True,
    )
    PLANNER_OVERRUN = KindRow(  # the planner writes outside a buffer
        name="planner-overrun",
        severities=(Severity.WRITE,),
        title="The planner writes outside of its buffers",
        symptom="overruns its metadata buffers while planning",
        reason="the buffers have the size that AITER asked for, and the planner writes outside of them",
        advice="make get_mla_metadata_info_v1 and the planner agree on the number of rows",
        is_stray_access=True,
    )
    SHORT_PIECE = KindRow(  # a piece [kv0, kv1) shorter than qlen
        name="short-piece",
        severities=(Severity.SILENT,),
        title="A piece of KV is shorter than the query rows",
        symptom="plans a piece shorter than the query rows",
        reason=(
            "the planner cuts a sequence so that its last piece has fewer tokens than there are query rows; for the "
            "first rows the kernel masks all of them and divides by zero"
        ),
        advice="let the planner keep a remainder shorter than the query rows with the piece before",
    )
    BEYOND_SEQUENCE = KindRow(  # a row is given tokens that are not its request's
        name="beyond-sequence",
        severities=(Severity.READ,),
        title="Tokens beyond the request's end are attended to",
        symptom="attends to tokens beyond the request's end",
        reason="sizes and arguments hold, and the plan gives a row tokens that are not its request's",
        advice="bound the planner's pieces by the request's own tokens",
        stays_in_pool=True,
    )
    BACKWARD_ITEM = KindRow(  # a work item whose rows or tokens end before they begin, and a kernel that follows it
        name="backward-item",
        severities=(Severity.WRITE, Severity.READ, Severity.SILENT),
        title="A work item ends before it begins",
        symptom="plans work that ends before it begins",
        reason="sizes and arguments hold, and the plan has a work item that ends before it begins, which the kernel follows",
        advice="let the planner end an item no earlier than it begins, and hand out no row before the first",
    )
    SPLIT_CAP = KindRow(  # more pieces than the reduction can hold
        name="split-cap",
        severities=(Severity.READ,),
        title="More pieces than the reduction holds",
        symptom="plans more pieces than the reduction holds",
        reason="the planner makes more pieces of a row than the reduction holds",
        advice="size the reduction by the plan",
    )
    NULL_POINTER = KindRow(  # an access through a kernarg that is null
        name="null-pointer",
        severities=(Severity.READ, Severity.WRITE),
        title="Access through a null pointer",
        symptom="passes a null pointer to the kernel",
        reason="it passes a null pointer that the kernel uses",
        advice="pass the tensor, or choose a kernel that does not use it",
        is_stray_access=True,
    )
    OUT_OF_BOUNDS_WRITE = KindRow(
        name="out-of-bounds-write",
        severities=(Severity.WRITE,),
        title="Write outside of a tensor",
        symptom="writes outside of its tensors",
        reason="what it is given holds, and it leaves its tensors",
        advice="mend the {party}",
        is_stray_access=True,
    )
    OUT_OF_BOUNDS_READ = KindRow(
        name="out-of-bounds-read",
        severities=(Severity.READ,),
        title="Read outside of a tensor",
        symptom="reads outside of its tensors",
        reason="what it is given holds, and it leaves its tensors",
        advice="mend the {party}",
        is_stray_access=True,
    )
    MEMORY_FAULT = KindRow(  # a GPU faulted: an access outside mapped memory, whose instruction is not known
        name="memory-fault",
        severities=(Severity.READ,),
        title="The GPU reported a memory fault",
        symptom="faults on the GPU",
        reason=(
            "what it is given holds, and the GPU reports an access to memory that is not mapped; hardware does not tell "
            "which instruction made it"
        ),
        advice="run the case on device cdna, which names the instruction, and mend the {party}",
    )
    FOREIGN_PAGE = KindRow(  # inside the pool, but not a page of the request (an address that wraps, a page size ignored)
        name="foreign-page",
        severities=(Severity.READ, Severity.WRITE),
        title="KV pages of another request are read",
        symptom="reads KV pages that the request does not own",
        reason=(
            "page table and lengths hold, and the kernel computes another address (a product of too few bits, or a page "
            "size that it does not implement)"
        ),
        advice="compute the address in 64 bits, or refuse page sizes that the kernel does not implement",
        stays_in_pool=True,
    )
    UNWRITTEN_READ = KindRow(  # a read of what nobody wrote
        name="unwritten-read",
        severities=(Severity.SILENT,),
        title="Bytes are read that nobody wrote",
        symptom="merges partial rows that nobody wrote",
        reason="the merge reads partial rows that no workgroup stores",
        advice="let the merge count the pieces as the kernel cuts them, and stage 1 store every row that is merged",
    )
    NOT_COVERED = KindRow(  # a (row, token) that no work item covers
        name="not-covered",
        severities=(Severity.SILENT,),
        title="KV tokens that no work item covers",
        symptom="leaves KV tokens out",
        reason="sizes and arguments hold, and the plan gives some tokens of a request to no piece",
        advice="let the planner's pieces of a row add up to its tokens",
        wrong_for_certain=True,
    )
    COVERED_TWICE = KindRow(  # a (row, token) that two work items cover
        name="covered-twice",
        severities=(Severity.SILENT,),
        title="KV tokens that two work items cover",
        symptom="attends to KV tokens twice",
        reason="sizes and arguments hold, and the plan gives some tokens of a row to two pieces, so that they weigh double",
        advice="let the planner begin a piece where the one before it ends",
        wrong_for_certain=True,
    )
    MISPLACED_ROW = KindRow(  # a partial row that is merged into another row
        name="misplaced-row",
        severities=(Severity.SILENT,),
        title="A partial row is merged into another row",
        symptom="merges partial rows into other rows",
        reason="the pieces are computed where the plan says, and the merge puts one of them into the row of another",
        advice="let stage 1 and the merge agree on where a partial row lies",
        wrong_for_certain=True,
    )
    ROW_NOT_WRITTEN = KindRow(  # an output row that nobody writes
        name="row-not-written",
        severities=(Severity.SILENT,),
        title="An output row that nobody writes",
        symptom="leaves output unwritten",
        reason="what it is given holds, and the row is stored by neither the kernel nor the reduction",
        advice="store the row where it is computed, or refuse the call",
        wrong_for_certain=True,
    )
    WRITE_RACE = KindRow(  # two workgroups write the same bytes
        name="write-race",
        severities=(Severity.SILENT,),
        title="Two workgroups write the same bytes",
        symptom="lets two workgroups write the same bytes",
        reason="two workgroups store to the same bytes in one launch, and which of them is last is left to chance",
        advice="give each row to one workgroup",
    )
    NUMERICS = KindRow(  # outside the error budget
        name="numerics",
        severities=(Severity.SILENT,),
        title="Numbers outside of the error budget",
        symptom="gives wrong numbers",
        reason="what it is given and what it accesses hold, and what it computes is not attention over the tokens of each row",
        advice="mend the kernel, or refuse the call",
        by_numbers=True,
    )
    NOT_A_NUMBER = KindRow(
        name="not-a-number",
        severities=(Severity.SILENT,),
        title="Output is not a number",
        symptom="gives NaN",
        reason="what it is given is finite, and what it computes is a NaN or an infinity",
        advice="keep the kernel from dividing by a sum over no tokens, or refuse the call",
        by_numbers=True,
    )
    HANG = KindRow(
        name="hang",
        severities=(Severity.SILENT,),
        title="The case does not come back",
        symptom="does not come back",
        reason="it was given time a thousand times what such a case takes, and did not end",
        advice="let the {party} end whatever it is given",
        takes_its_process=True,
    )
    DIED = KindRow(  # the process that ran the case ended otherwise
        name="died",
        severities=(Severity.SILENT,),
        title="The case takes its process along",
        symptom="takes its process along",
        reason="the process that ran it ended without a word of a memory fault",
        advice="run the case alone, and find what ended the process",
        takes_its_process=True,
    )
    DEVICE_DISAGREEMENT = KindRow(
        name="device-disagreement",
        severities=(Severity.SILENT,),
        title="Two devices of aiterfuzz disagree",
        symptom="is seen differently by two devices of aiterfuzz",
        reason="two devices of aiterfuzz disagree",
        advice="report it to aiterfuzz",
    )


BY_NUMBERS = tuple(kind for kind in FindingKind if kind.row.by_numbers)
"""Kinds that numbers alone show."""

TAKES_PROCESS = tuple(kind for kind in FindingKind if kind.row.takes_its_process)
"""Kinds that say that a process was lost: one may stand beside the case that met it, which ran well when it was run again."""


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
    return tuple(sorted(findings, key=lambda f: (f.kind.rank, -f.severity)))


def cause(findings: Sequence[Finding]) -> Finding | None:
    """The first finding on the path that is more than a refusal; a refusal where there is nothing else; None for none."""
    faults = [f for f in findings if f.severity > Severity.REFUSED]
    ordered = in_causal_order(faults or findings)
    return ordered[0] if ordered else None


def worst(findings: Sequence[Finding]) -> Severity | None:
    """The highest severity, None for no findings."""
    return max((f.severity for f in findings), default=None)
