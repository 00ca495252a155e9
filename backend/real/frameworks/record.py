"""What a real backend file did in one forward pass, as it reached AITER, beside what the driver knows to be true.

Plain data that goes through JSON by the one codec. Knows neither torch nor any framework; whoever checks a step
compares the calls with kv_lens, query_lens and slots, since a plan can be in bounds and still be the wrong one.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from backend.aiter.arguments import DecodeArguments, Int32Array, PlanArguments, SizingArguments, TargetGpu
from backend.case import DType
from backend.real.frameworks.scenarios import StepKind
from backend.real.noted_call import PassedBuffer, SourceLine
from backend.words import number_of


class Phase(StrEnum):
    """Where a step stands: without a graph, while one is captured, or replaying one."""

    EAGER = "eager"
    CAPTURE = "capture"
    REPLAY = "replay"


@dataclass(frozen=True, slots=True)
class StrayKernelAccess:
    """An access of one of the framework's Triton kernels outside its tensor.

    lanes: how many of its lanes; tensor, past_end: see StrayAccess.
    """

    kernel: str
    is_write: bool
    lanes: int
    tensor: str
    past_end: int

    @property
    def message(self) -> str:
        """Says what it does, and where the first lane lies."""
        side = "past the end of" if self.past_end >= 0 else "before"
        return (
            f"{self.kernel} {'writes' if self.is_write else 'reads'} {number_of(self.lanes, 'element')} outside its tensors, "
            f"the first {number_of(abs(self.past_end), 'byte')} {side} {self.tensor or 'the nearest tensor'}"
        )


@dataclass(frozen=True, slots=True, eq=False)
class RecordedStep:
    """One mla_decode_fwd call of a real backend file, with the calls that prepared it and the truth about its batch.

    scenario, step, call: which call of which step (index in Scenario.steps, -1 while graphs are captured).
    backend: which of the scenario's backends. device, release: what it ran on.
    kv_lens, query_lens: KV tokens to attend to (draft tokens included) and q rows of each real request.
    padded: rows of a graph beyond them; batch = len(kv_lens) + padded. padded_kv_len: KV tokens that the framework gives
    a padding row. slots: KV rows of the real requests' tokens, request by request.
    num_head: heads per rank as the model has them; decode.num_head is what reached AITER.
    sizing: the call that the decode call's buffers were allocated after; planning: the last one that filled its
    work_info_set. None where there was none. planning_buffers, decode_buffers: what each call was given; empty without.
    decode.num_kv_splits of a replayed non-persistent call is what AITER chose when the graph was captured.
    lines: where the file made each call, by "sizing", "planning", "decode". ignored: arguments that this release does not
    take, given as "off". strays: the framework's own kernels out of bounds in this step.
    kv_dtype_name, q_dtype_name, o_dtype_name: torch's names of the tensors' element types, "" where nobody noted them.
    o_elements: of the output tensor; None where nobody noted it.
    metadata_words: int32 words that the metadata buffers of the decode call held when it was made, by role without
    work_metadata; None where nobody read them, and what planning leaves stands for them.
    on_host: tensors of planning and decode call that lie in the host's memory.
    """

    scenario: str
    step: int
    call: int
    phase: Phase
    kind: StepKind
    backend: int
    release: str
    device: TargetGpu
    num_head: int
    kv_lens: tuple[int, ...]
    query_lens: tuple[int, ...]
    padded: int
    padded_kv_len: int
    slots: Int32Array
    sizing: SizingArguments | None
    planning: PlanArguments | None
    decode: DecodeArguments
    planning_buffers: tuple[PassedBuffer, ...]
    decode_buffers: tuple[PassedBuffer, ...]
    lines: dict[str, SourceLine]
    ignored: tuple[str, ...]
    strays: tuple[StrayKernelAccess, ...]
    q_dtype_name: str
    kv_dtype_name: str
    o_dtype_name: str = ""
    o_elements: int | None = None
    metadata_words: dict[str, Int32Array] | None = None
    on_host: tuple[str, ...] = ()

    @property
    def batch(self) -> int:
        """Requests that the kernels see, padding included."""
        return len(self.kv_lens) + self.padded

    @property
    def persistent(self) -> bool:
        """Whether the persistent kernel is asked for (metadata is passed)."""
        return self.decode.metadata is not None

    @property
    def fast_mode(self) -> bool:
        """The planner's flag; False without a plan."""
        return self.planning is not None and self.planning.fast_mode

    @property
    def intra_batch_mode(self) -> bool:
        """The flag as mla_decode_fwd received it."""
        return self.decode.intra_batch_mode

    @property
    def splits(self) -> int | None:
        """Split cap that planning was given; without a plan, num_kv_splits of the decode call."""
        return self.planning.max_split_per_batch if self.planning is not None else self.decode.num_kv_splits

    @property
    def head_repeat(self) -> int:
        """How often the model's heads go into the kernel's, rounded up."""
        return -(-self.decode.num_head // self.num_head)

    @property
    def swapped_buffers(self) -> tuple[str, ...]:
        """Roles whose buffer in the decode call is not the one that planning filled under that role."""
        planned = {buffer.role: buffer for buffer in self.planning_buffers}
        return tuple(
            buffer.role
            for buffer in self.decode_buffers
            if buffer.role in planned and (buffer.tag, buffer.offset) != (planned[buffer.role].tag, planned[buffer.role].offset)
        )


@dataclass(frozen=True, slots=True)
class ArgumentFault:
    """An argument of a call that does not fit the others, or the batch. subject: the argument; is_write: what is past an end is
    written."""

    subject: str
    message: str
    is_write: bool


@dataclass(frozen=True, slots=True)
class CheckedCall:
    """A call into AITER whose kernel is not run here, only its arguments looked at. step, phase, kind, backend: as a
    RecordedStep's."""

    step: int
    phase: Phase
    kind: StepKind
    backend: int
    name: str
    faults: tuple[ArgumentFault, ...]
    line: SourceLine | None


@dataclass(frozen=True, slots=True)
class UnorderedAccess:
    """Two accesses to the same bytes on two streams, one of them a write, that nothing orders. step, phase, kind, backend: as a
    RecordedStep's, of the second. between: who does the two."""

    step: int
    phase: Phase
    kind: StepKind
    backend: int
    between: str
    message: str
    line: SourceLine | None


class Says(StrEnum):
    """Whose answer an exception is."""

    REFUSAL = "refuses"  # a `raise` or `assert` statement of the file under test: it says no itself
    CRASH = "raises"  # the file gets something wrong, or what it calls does
    AITER = "aiter-refuses"  # AITER's host code takes the call for wrong

    @property
    def is_refusal(self) -> bool:
        """Whether somebody says no, rather than that something went wrong."""
        return self is not Says.CRASH


@dataclass(frozen=True, slots=True)
class NotStarted:
    """A constructor that raised. error: type and message; backend: which of the scenario's; line: of the file under test."""

    error: str
    backend: int
    line: SourceLine | None
    says: Says


@dataclass(frozen=True, slots=True)
class StepFailed:
    """A step that ends with an exception, or that never reaches mla_decode_fwd.

    kind: what the step does; backend: which of the scenario's backends it was for.
    says: whose answer the exception is.
    """

    scenario: str
    step: int
    phase: Phase
    kind: StepKind
    backend: int
    error: str
    line: SourceLine | None
    says: Says = Says.CRASH


@dataclass(frozen=True, slots=True)
class Recording:
    """All that one scenario gave, in order. not_started: the constructor that raised, which ends a scenario before any step.

    unknown_calls: functions outside the file under test that could not be had, were called, and did nothing.
    executed: lines of the file under test that ran, ascending; empty where nobody measured them. checked: calls of steps
    whose kernels are not run here. unordered: what the file does on two streams with no order between it.
    """

    scenario: str
    steps: tuple[RecordedStep, ...]
    failed: tuple[StepFailed, ...]
    not_started: NotStarted | None = None
    unknown_calls: tuple[str, ...] = ()
    executed: tuple[int, ...] = ()
    checked: tuple[CheckedCall, ...] = ()
    unordered: tuple[UnorderedAccess, ...] = ()

    @property
    def refused(self) -> str | None:
        """The constructor's words where it does not take its configuration."""
        return self.not_started.error if self.not_started is not None else None


@dataclass(frozen=True, slots=True)
class DecisionRow:
    """One row of the decision table: what the real constructor decides for heads per rank and KV dtype.

    splits: without speculation; splits_speculative: with draft tokens (None: AITER chooses). refused: the constructor's
    words where it raises; the rest is then meaningless and False or None.
    """

    num_head: int
    kv_dtype: DType
    persistent: bool
    fast_mode: bool
    intra_batch_mode: bool
    splits: int | None
    splits_speculative: int | None
    num_head_kernel: int | None
    refused: str | None = None

    @property
    def flags(self) -> str:
        """The three flags as T and F: ps, fast, intra."""
        return "".join("T" if flag else "F" for flag in (self.persistent, self.fast_mode, self.intra_batch_mode))
