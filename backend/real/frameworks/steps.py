"""From a recorded step to what the rest of the project works on: a Decision, a Call, and where the file contradicts its batch.

The Call is made of the buffers as the file really passed them, not of what its sizing call would have asked for; and what
bounds cannot show (lengths of another batch, a plan left over, buffers in each other's place) is compared with the truth.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from backend.aiter.arguments import BufferSizes, DecodeArguments, Int32Array, PlanArguments, TargetGpu
from backend.aiter.launch import Launch, Refusal
from backend.aiter.planners import Plan
from backend.aiter.planners.result import launched_plan
from backend.aiter.sizing import sizing_of
from backend.call import Call
from backend.case import FIELDS, MAX_KV_LEN, Case, MetadataMode
from backend.checks.planned_for import differences
from backend.decision import Decision
from backend.devices.device import Device
from backend.findings import Finding, FindingKind, Severity
from backend.host import Basis, BuiltIn, Doubt, Host, Part
from backend.outcome import Outcome
from backend.path import Path
from backend.real.frameworks.record import RecordedStep
from backend.real.noted_call import PassedBuffer
from backend.words import number_of

RECORDED = "recorded"
"""Backend name of a case that a recording stands for."""


_MAX_SEQLEN_Q, _MAX_BATCH = (next(each for each in FIELDS if each.name == name) for name in ("max_seqlen_q", "max_batch"))


@dataclass(frozen=True, slots=True)
class StepMismatch:
    """One way in which a step is not what its batch needs. subject: the argument; message: for people; line: FILE:LINE."""

    subject: str
    message: str
    line: str | None
    severity: Severity = Severity.SILENT


def decision_of(step: RecordedStep, backend: str = RECORDED) -> Decision:
    """The recorded calls as a Decision. While graphs are captured there are no real requests: padding stands for them."""
    fill = min(max(step.padded_kv_len, 0), MAX_KV_LEN)  # read off an indptr that may descend
    kv_lens = step.kv_lens or (fill,) * step.padded
    ragged = len(set(step.query_lens)) > 1
    case = Case(
        num_head=step.num_head,
        kv_lens=kv_lens,
        max_seqlen_q=step.decode.max_seqlen_q if _may_have(step, ragged) else max(step.query_lens, default=1),
        query_lens=step.query_lens if ragged else None,
        q_dtype=step.decode.q_dtype,
        kv_dtype=step.decode.kv_dtype,
        arch=step.device.arch,
        num_cu=step.device.num_cu,
        release=step.release,
        backend=backend,
        graph_batch=step.batch if step.padded and step.kv_lens else None,
        max_batch=step.sizing.batch if step.sizing is not None and _MAX_BATCH.holds(step.sizing.batch) else None,
    )
    padding = 0 if not step.kv_lens else step.padded
    padded_rows = _rows_of_padding(step, padding)
    query_lens = step.query_lens or (step.decode.max_seqlen_q,) * step.padded
    topk = max(step.planning.topk, 0) if step.planning is not None and step.persistent else 0
    if topk:
        rows = zip(kv_lens + (fill,) * padding, query_lens + tuple(padded_rows), strict=True)
        kv_lens = tuple(min(length, topk) for length, count in rows for _ in range(count))
        query_lens, padding, padded_rows = (1,) * len(kv_lens), 0, []
    return Decision(
        topk=topk,
        case=case,
        mode=_mode(step),
        kv_lens=kv_lens + (fill,) * padding,
        query_lens=query_lens + tuple(padded_rows),
        head_repeat=step.head_repeat,
        sizing=step.sizing if step.persistent else None,
        planning=step.planning if step.persistent else None,
        decode=dataclasses.replace(step.decode, metadata=None, kv_indices=_used_indices(step)),
    )


def _may_have(step: RecordedStep, ragged: bool) -> bool:
    """Whether a batch may have as many query rows a request as the file passes; where not, its Case has what it has."""
    passed = step.decode.max_seqlen_q
    return _MAX_SEQLEN_Q.holds(passed) and (not ragged or passed >= max(step.query_lens))


def _rows_of_padding(step: RecordedStep, padding: int) -> list[int]:
    """q rows of each padded request, by qo_indptr; none where it ends before them or descends, which a finding says."""
    passed = np.diff(step.decode.qo_indptr)[len(step.kv_lens) :].tolist()
    return [max(rows, 0) for rows in (*passed, *(0,) * padding)[:padding]]


class PassedBuffers(Host):
    """A host whose planner and decode call get the buffers that a recorded step really gave them."""

    def __init__(self, host: Host, step: RecordedStep) -> None:
        self.source = host.source
        self._host = host
        self._step = step

    @property
    def label(self) -> str:
        """As the host behind it says."""
        return self._host.label

    def doubts(self, decision: Decision) -> tuple[Doubt, ...]:
        """As the host behind it says."""
        return self._host.doubts(decision)

    def bases(self, decision: Decision) -> Mapping[Part, Basis]:
        """As the host behind it says."""
        return self._host.bases(decision)

    def stood_for(self, case: Case) -> Case:
        """As the host behind it says."""
        return self._host.stood_for(case)

    def plan(self, rules: str, device: TargetGpu, planning: PlanArguments, allocated: BufferSizes) -> Plan:
        """As the host behind it says."""
        return self._host.plan(rules, device, planning, allocated)

    def planning_check_ends(self, rules: str) -> bool:
        """As the host behind it says."""
        return self._host.planning_check_ends(rules)

    def launch(self, decision: Decision, decode: DecodeArguments) -> Launch | Refusal:
        """As the host behind it says."""
        return self._host.launch(decision, decode)

    def call(self, decision: Decision) -> Call:
        """The host's Call, planned and launched anew where other buffers were passed than its sizing asks for."""
        made, step = self._host.call(decision), self._step
        if step.metadata_words is not None:
            return self._as_launched(made, step.metadata_words)
        if step.planning is None or not step.persistent or made.allocated is None:
            return made
        given = _sizes(step.planning_buffers)
        passed = step.decode.metadata
        if given == made.allocated == passed:
            return made
        planned = self._host.plan(decision.case.release, made.device, step.planning, given)
        decode = made.decode.with_metadata(passed)
        launched = self._host.launch(decision, decode)
        return dataclasses.replace(made, allocated=given, plan=planned, decode=decode, launch=launched)

    def _as_launched(self, made: Call, words: Mapping[str, Int32Array]) -> Call:
        """The Call with the metadata that really was in the buffers when the decode call was made."""
        decision, step = made.decision, self._step
        given = _sizes(step.planning_buffers or step.decode_buffers)
        planning = decision.planning
        planned = None if planning is None else self._host.plan(decision.case.release, made.device, planning, given)
        decode = made.decode.with_metadata(step.decode.metadata)
        launched = self._host.launch(decision, decode)
        heads = 0 if isinstance(launched, Refusal) else launched.heads_in_kernel
        plan = launched_plan(planned, words, heads)
        return dataclasses.replace(made, allocated=given, plan=plan, decode=decode, launch=launched)


def outcome_of(step: RecordedStep, device: Device, host: Host | None = None, backend: str = RECORDED) -> Outcome:
    """What becomes of a recorded step, by the one judge. host: AITER's host side, None: what is built in.

    Raises CannotRunError where the device lacks what it needs.
    """
    return Path(PassedBuffers(host or BuiltIn(), step), device).run_decision(decision_of(step, backend))


def put_right(step: RecordedStep, found: Finding | None, device: Device, host: Host | None = None) -> Iterator[Outcome]:
    """What becomes of a step that has arguments of another batch, once they are its own; flags, splits, heads and types stay.

    found: its cause, None where it only contradicts its batch. First with the batch's index tensors, and planned for them;
    then, where its buffers are too small, with those that AITER's sizing asks for. Nothing of a step with neither fault, nor
    of lists, which their batch does not determine.
    """
    if step.planning is not None and step.planning.topk > 0:
        return
    if found is None or found.kind.row.of_index_tensors or found.kind is FindingKind.PLAN_MISMATCH:
        step = _indexed(step)
        outcome = outcome_of(step, device, host)
        yield outcome
        found = outcome.cause
    too_small = found is not None and found.kind is FindingKind.BUFFER_TOO_SMALL
    if too_small and step.planning is not None and step.sizing is not None:
        sized = dataclasses.replace(decision_of(step), sizing=sizing_of(step.planning, step.sizing))
        yield Path(host or BuiltIn(), device).run_decision(sized)


def _indexed(step: RecordedStep) -> RecordedStep:
    """The step with the index tensors of its batch, padding included, and a plan of them."""
    decision = decision_of(step)
    tensors: dict[str, Any] = {
        "qo_indptr": np.cumsum((0, *decision.query_lens), dtype=np.int32),
        "kv_indptr": np.cumsum((0, *decision.kv_lens), dtype=np.int32),
        "kv_last_page_lens": np.ones(step.batch, np.int32),
    }
    padding = np.zeros(max(sum(decision.kv_lens) - step.slots.size, 0), np.int32)
    return dataclasses.replace(
        step,
        planning=None if step.planning is None else dataclasses.replace(step.planning, **tensors),
        decode=dataclasses.replace(step.decode, **tensors, kv_indices=np.concatenate((step.slots, padding))),
        metadata_words=None,
    )


def disagreements(step: RecordedStep) -> tuple[StepMismatch, ...]:
    """Everything in the step that contradicts the batch it is for, or itself."""
    return (*_on_host(step), *_output(step), *_index_tensors(step), *_metadata(step), *_framework_kernels(step))


def _on_host(step: RecordedStep) -> Iterator[StepMismatch]:
    for name in step.on_host:
        message = f"{name} lies in the host's memory; the kernel reads its address as one of the GPU's"
        yield _says(step, f"{name} on the host", message, severity=Severity.READ)


def _output(step: RecordedStep) -> Iterator[StepMismatch]:
    decode = step.decode
    needed = decode.q_rows * decode.num_head * decode.v_head_dim
    if step.o_elements is not None and step.o_elements < needed:
        message = (
            f"o has {number_of(step.o_elements, 'element')}, {number_of(decode.q_rows, 'row')} of {decode.num_head} heads "
            f"are {needed}"
        )
        yield _says(step, "o", message, severity=Severity.WRITE)
    if step.o_dtype_name not in ("", "bfloat16"):
        yield _says(step, "o", f"o is {step.o_dtype_name}, the kernels write bfloat16")


def _index_tensors(step: RecordedStep) -> Iterator[StepMismatch]:
    count, decode = len(step.kv_lens), step.decode
    for subject, indptr, lengths in (
        ("kv_indptr", decode.kv_indptr, step.kv_lens),
        ("qo_indptr", decode.qo_indptr, step.query_lens),
    ):
        if len(indptr) != step.batch + 1:
            yield _says(
                step,
                subject,
                f"{subject} has {number_of(len(indptr), 'entry')}, the batch of {step.batch} needs {step.batch + 1}",
            )
            continue
        wanted = np.cumsum((0, *lengths))
        if not np.array_equal(indptr[: count + 1], wanted):
            at = int(np.argmax(indptr[: count + 1] != wanted))
            yield _says(
                step, subject, f"{subject}[{at}] is {indptr[at]}, the requests' lengths {_some(lengths)} add up to {wanted[at]}"
            )
    held = step.slots.size
    read = decode.kv_indices[:held]
    if read.size < held or not np.array_equal(read, step.slots):
        at = int(np.argmax(read != step.slots[: read.size])) if not np.array_equal(read, step.slots[: read.size]) else read.size
        yield _says(step, "kv_indices", f"kv_indices[{at}] is not the KV row that the request holds")
    lens, pages = decode.kv_last_page_lens, np.diff(decode.kv_indptr)
    empty = np.zeros(lens.size, bool) if pages.size != lens.size else pages == 0
    if lens.size != step.batch or not ((lens == 1) | (empty & (lens == 0))).all():
        yield _says(
            step,
            "kv_last_page_lens",
            f"kv_last_page_lens is {_some(lens.tolist())}, pages hold one token and there are {step.batch}",
        )


def _metadata(step: RecordedStep) -> Iterator[StepMismatch]:
    planning, decode = step.planning, step.decode
    if not step.persistent:
        return
    if planning is None:
        yield _says(step, "metadata", "the metadata was never planned")
        return
    for difference in differences(planning, decode):
        yield _says(step, difference.subject, difference.message, "planning")
    for role in step.swapped_buffers:
        yield _says(step, role, f"the buffer passed as {role} is not the one that was planned as it")
    for buffer in (*step.planning_buffers, *step.decode_buffers):
        if buffer.role != "work_metadata" and buffer.dtype != "int32":
            yield _says(step, buffer.role, f"{buffer.role} is {buffer.dtype}, not int32")


def _framework_kernels(step: RecordedStep) -> Iterator[StepMismatch]:
    for stray in step.strays:
        yield _says(step, stray.kernel, stray.message, severity=Severity.WRITE if stray.is_write else Severity.READ)


def _says(
    step: RecordedStep, subject: str, message: str, call_name: str = "decode", severity: Severity = Severity.SILENT
) -> StepMismatch:
    line = step.lines.get(call_name) or step.lines.get("decode")
    return StepMismatch(subject, message, f"{line.file}:{line.line}" if line is not None else None, severity)


def _some(values: object) -> str:
    text = str(list(values)) if isinstance(values, tuple) else str(values)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _mode(step: RecordedStep) -> MetadataMode:
    if not step.persistent:
        return MetadataMode.NON_PERSISTENT
    return MetadataMode.GREEDY if step.planning is None else step.planning.mode


def _used_indices(step: RecordedStep) -> Int32Array:
    """kv_indices in its full size, with page 0 where no request reaches: what lies there (an earlier batch, -1) is not read."""
    if step.planning is not None and step.planning.topk > 0:
        return step.decode.kv_indices
    used = int(step.decode.kv_indptr[-1])
    indices = step.decode.kv_indices
    if used >= indices.size:
        return indices
    cleared = indices.copy()
    cleared[max(used, 0) :] = 0
    return cleared


def _sizes(buffers: tuple[PassedBuffer, ...]) -> BufferSizes:
    words = {buffer.role: buffer.words for buffer in buffers}
    return BufferSizes(
        work_indptr=words.get("work_indptr", 0),
        work_info_set=words.get("work_info_set", 0),
        reduce_indptr=words.get("reduce_indptr", 0),
        reduce_final_map=words.get("reduce_final_map", 0),
        reduce_partial_map=words.get("reduce_partial_map", 0),
    )
