"""Whether the plan is of the decode call that it is launched with, and whether the output is what the kernel stores.

AITER compares neither: the metadata is taken as it is. What does not match is the caller's, and explains what follows.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from backend.aiter.arguments import SCALES, STRIDED, DecodeArguments, Int32Array, PlanArguments
from backend.aiter.launch import Refusal
from backend.aiter.planners.result import EDITED
from backend.call import Call
from backend.case import OutputType
from backend.findings import Finding, FindingKind, Party, Severity, in_causal_order
from backend.words import number_of


@dataclass(frozen=True, slots=True)
class PlannedOtherwise:
    """One argument that planning and decode call were given differently. subject: its name; message: for people."""

    subject: str
    message: str


def differences(planning: PlanArguments, decode: DecodeArguments) -> Iterator[PlannedOtherwise]:
    """In what a planning call contradicts itself or the decode call that uses its plan.

    Element types are left out: backends tell the planner a type that q does not have, and where it matters the head widths
    differ, which is a finding of its own.
    """
    batch = len(planning.qo_indptr) - 1
    if len(planning.kv_indptr) > batch + 1 and np.diff(planning.kv_indptr[batch:]).any():
        message = f"planned with kv_indptr of {number_of(len(planning.kv_indptr) - 1, 'request')}, qo_indptr has {batch}"
        yield PlannedOtherwise("requests of kv_indptr", message)
    if planning.qo_indptr is not decode.qo_indptr or planning.kv_indptr is not decode.kv_indptr:
        planned_work, work = (_with_work(each.qo_indptr, each.kv_indptr) for each in (planning, decode))
        for name, planned, used in zip(("qo_indptr", "kv_indptr"), planned_work, work, strict=True):
            if not np.array_equal(planned, used):
                planned, used = getattr(planning, name), getattr(decode, name)
                yield PlannedOtherwise(name, f"planned with {name} {some(planned)}, decoded with {some(used)}")
    if planning.num_heads_per_head_k != decode.num_head:
        yield PlannedOtherwise(
            "num_head", f"planned for {number_of(planning.num_heads_per_head_k, 'head')}, decoded with {decode.num_head}"
        )
    if planning.max_seqlen_qo != decode.max_seqlen_q:
        message = (
            f"planned with max_seqlen_qo {number_of(planning.max_seqlen_qo, 'query row')} a request, decoded with "
            f"{decode.max_seqlen_q}"
        )
        yield PlannedOtherwise("max_seqlen_q", message)
    if planning.is_cp_round_robin != (decode.g_kv_indptr is not None):
        given, for_decode = planning.is_cp_round_robin, "with" if decode.g_kv_indptr is not None else "without"
        yield PlannedOtherwise("is_cp_round_robin", f"planned with is_cp_round_robin {given}, decoded {for_decode} g_kv_indptr")
    if planning.uni_seqlen_qo <= 0 or planning.topk >= 0:  # lists: each row is planned by itself
        return
    held = decode.q_rows >= batch * planning.uni_seqlen_qo  # rows for the planned work of requests at the end that have none
    rows = np.diff(_with_work(planning.qo_indptr, planning.kv_indptr)[0] if held else planning.qo_indptr)
    differ = rows != planning.uni_seqlen_qo
    if differ.any():
        at = int(np.argmax(differ))
        message = (
            f"planned with uni_seqlen_qo {planning.uni_seqlen_qo}, and qo_indptr gives request {at} "
            f"{number_of(rows[at], 'row')}"
        )
        yield PlannedOtherwise("uni_seqlen_qo", message)


def _other_lists(planning: PlanArguments, entries: int) -> Iterator[PlannedOtherwise]:
    """Lists of so many entries of kv_indices, for which another length was planned, or all tokens."""
    if entries and planning.topk != entries:
        message = f"planned with topk {planning.topk}, decoded with lists of {number_of(entries, 'entry')}"
        yield PlannedOtherwise("topk", message)


def _with_work(*indptrs: Int32Array) -> tuple[Int32Array, ...]:
    """Indptrs without the requests at their end without q rows or KV tokens, of which a graph's tensors may have more."""
    filled = np.flatnonzero(np.logical_and.reduce([np.diff(each)[: min(map(len, indptrs)) - 1] != 0 for each in indptrs]))
    return tuple(each[: int(filled[-1]) + 2 if len(filled) else 1] for each in indptrs)


def some(values: Int32Array) -> str:
    """A tensor's values, the first ones where there are many."""
    text = str(values.tolist())
    return text if len(text) <= 60 else f"{text[:57]}..."


def check_planned_for(call: Call) -> list[Finding]:
    """One finding for all that planning and decode call were given differently."""
    planning = call.decision.planning
    if planning is None or call.plan is None or call.plan.rejected or isinstance(call.launch, Refusal):
        return []
    if call.plan.edited:
        return []  # refreshed for this call, or not: its rows tell (coverage.py)
    found = [*differences(planning, call.decode), *_other_lists(planning, call.decision.topk)]
    if not found:
        return []
    kind = FindingKind.PLAN_MISMATCH
    subjects = ", ".join(each.subject for each in found)
    message = "the metadata is of another call: " + "; ".join(each.message for each in found)
    backend = call.decision.case.backend
    return [Finding(kind, kind.severity, Party.CALLER, backend, "", message, {"differ": subjects}, subjects)]


def check_plan_is_used(call: Call) -> list[Finding]:
    """A plan of lists (topk) for a call that AITER runs without metadata, over the tokens of kv_indptr."""
    launch = call.launch
    if not call.decision.topk or call.plan is None or call.plan.rejected or isinstance(launch, Refusal) or launch.persistent:
        return []
    kind, batch = FindingKind.PLAN_DROPPED, len(call.decode.qo_indptr) - 1
    message = (
        f"mla_decode_fwd leaves persistent mode for {number_of(batch, 'request')} and launches {launch.code_object}, which "
        "reads kv_indices "
        f"by kv_indptr: all tokens of a request, where each row has a list of at most {call.decision.topk}"
    )
    figures: dict[str, int | str] = {"batch": batch, "topk": call.decision.topk}
    return [Finding(kind, kind.severity, Party.LAUNCHER, "mla_decode_fwd", "", message, figures)]


def check_output_type(call: Call) -> list[Finding]:
    """An output of another type than bf16 into which the kernel itself stores."""
    launch, given = call.launch, call.decode.o_dtype
    if isinstance(launch, Refusal) or given is OutputType.BF16 or not stores_into_o(call):
        return []
    kind = FindingKind.WRONG_TYPE
    severity = Severity.WRITE if given is OutputType.FP8 else Severity.SILENT
    message = f"o is {given}, and {launch.code_object} stores bf16 into it, 2 bytes an element"
    return [Finding(kind, severity, Party.CALLER, call.decision.case.backend, "o", message, {"type": given.value}, given.value)]


def check_index_tensors(call: Call) -> list[Finding]:
    """Index tensors and scales of which AITER reads other numbers than their caller wrote: it takes their addresses alone."""
    found = []
    for name, what in call.decode.not_words:
        kind = FindingKind.VIEW_WITH_GAPS if what == STRIDED else FindingKind.WRONG_TYPE
        severity = Severity.READ if what == STRIDED else Severity.SILENT
        read = "a float32 at its address" if name in SCALES else "int32 words one behind the other from its address on"
        message = f"{name} is {what}, and AITER reads {read}"
        figures: dict[str, int | str] = {"tensor": name, "is": what}
        found.append(Finding(kind, severity, Party.CALLER, call.decision.case.backend, name, message, figures, what))
    return found


def check_view_of_o(call: Call) -> list[Finding]:
    """An output whose rows lie apart, into which the kernel itself stores: it is told the address alone."""
    launch, decode = call.launch, call.decode
    if isinstance(launch, Refusal) or not launch.tensors["o"].gap or not stores_into_o(call, behind=1):
        return []
    kind = FindingKind.VIEW_WITH_GAPS
    message = (
        f"o is a view with {number_of(decode.o_gap, 'element')} between its rows, and {launch.code_object} stores row after "
        "row without any"
    )
    figures: dict[str, int | str] = {"gap": decode.o_gap, "rows": decode.q_rows}
    return [Finding(kind, Severity.WRITE, Party.CALLER, call.decision.case.backend, "o", message, figures)]


def stores_into_o(call: Call, behind: int = 0) -> bool:
    """Whether stage 1 writes rows of o, not only partial rows. behind: how many of the first rows do not count."""
    if not call.launched.persistent:
        return call.launched.second_stage.logits_is_o
    plan = call.plan
    if plan is None or plan.rejected:
        return False
    items = plan.work_items
    return bool(((items[:, 1] < 0) & (items[:, 5] > items[:, 4]) & (items[:, 3] > behind)).any())


def blamed(findings: Sequence[Finding]) -> list[Finding]:
    """The findings, what follows from a broken contract put on who broke it: planner, kernel and merge do as they are told."""
    broken = next(iter(in_causal_order([each for each in findings if each.kind in _CONTRACT or each.stage == EDITED])), None)
    if broken is None:
        return list(findings)
    return [dataclasses.replace(found, party=broken.party) if _follows(found, broken) else found for found in findings]


_CONTRACT = (
    FindingKind.PLAN_MISMATCH, FindingKind.PLAN_DROPPED, FindingKind.BACKWARD_ITEM, FindingKind.WRONG_TYPE,
    FindingKind.VIEW_WITH_GAPS,
)  # fmt: skip
_OF_THE_PLANNER = (FindingKind.PLANNER_OVERRUN, FindingKind.PLANNER_READ)
"""What a planner does to its own arguments, whoever uses its plan."""


def _follows(found: Finding, broken: Finding) -> bool:
    """Whether a finding is explained: by another plan or index tensor, or (of the output alone) by its own form."""
    if found.party not in (Party.PLANNER, Party.KERNEL, Party.REDUCTION) or found.kind in _OF_THE_PLANNER:
        return False
    return found.tensor == "o" or broken.tensor != "o"
