"""Who is at fault and why: the cause of an outcome in one sentence, the party, and the contract's verdict.

Knows findings and the call that they are of; runs nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from backend.case import QK_HEAD_DIM, V_HEAD_DIM, MetadataMode
from backend.errors import UsageError
from backend.findings import BY_NUMBERS, Finding, FindingKind, Party, Severity
from backend.observation import ViolationKind
from backend.outcome import Outcome
from backend.words import counted
from reprod.reference import ContractVerdict, KnownReference
from reprod.text import listed

if TYPE_CHECKING:
    from backend.call import Call


@dataclass(frozen=True, slots=True)
class Blame:
    """sentence: the cause. reason: why this party. advice: what would put it right. All one or two sentences.

    who: the party in words, or what the accesses leave open.
    """

    party: Party
    sentence: str
    reason: str
    advice: str
    verdict: ContractVerdict
    who: str


def blame(outcome: Outcome, known: KnownReference | None = None) -> Blame:
    """Who is at fault for an outcome; raises UsageError where there is no finding.

    known: the corpus entry of the cause, None where there is none. Its verdict, which a person read off AITER's sources, goes
    before what rules make of the finding alone.
    """
    cause = outcome.cause
    if cause is None:
        raise UsageError("nobody is at fault: the case shows no finding")
    row = cause.kind.row
    reason, advice = row.reason, row.advice.format(party=cause.party.value)
    if cause.kind is FindingKind.HEAD_WIDTH and _other_dtypes(outcome.call) is not None:
        reason, advice = _OTHER_DTYPES
    verdict = _verdict(cause)
    if cause.party is Party.KERNEL and cause.kind in _BY_WIDTH and _other_width(outcome.call):
        (reason, advice), verdict = _OTHER_WIDTH, ContractVerdict.UNSUPPORTED_AND_SILENT
    if cause.kind is FindingKind.NULL_POINTER and outcome.call is not None and not outcome.call.decode.kv_scale:
        (reason, advice), verdict = _NO_SCALE, ContractVerdict.UNSUPPORTED_AND_SILENT
    if known is not None and known.verdict is not None:
        verdict = known.verdict
    who = _KERNEL_OR_HOST if cause.kind is FindingKind.UNWRITTEN_READ else f"the {cause.party.value}"
    return Blame(cause.party, _sentence(outcome, cause), reason, advice, verdict, who)


def _verdict(cause: Finding) -> ContractVerdict:
    if cause.severity is Severity.REFUSED:
        return ContractVerdict.UNSUPPORTED_AND_REFUSED
    if cause.party is Party.CALLER:
        return ContractVerdict.UNSUPPORTED_AND_SILENT
    return ContractVerdict.SUPPORTED_BUT_WRONG


def _other_width(call: Call | None) -> bool:
    """Whether rows have another width than every kernel has in its code, and no page lies where addresses wrap, which has
    reasons of its own."""
    if call is None or call.decode.kv_pages * call.decode.page_bytes >= 1 << 32:
        return False
    return (call.decode.qk_head_dim, call.decode.v_head_dim) != (QK_HEAD_DIM, V_HEAD_DIM)


_OTHER_WIDTH = (
    f"it has rows of {QK_HEAD_DIM} elements of q and KV and {V_HEAD_DIM} of o in its code, whatever it is told; the tensors' "
    "rows are others, and AITER compares the width of q with that of KV alone",
    "serve this geometry by another kernel; upstream, refuse a head size that the kernel is not made for",
)
"""Tensors of a geometry that the kernels are not made for."""


_NO_SCALE = (
    "kv_scale is left out, which the kernels for fp8 KV read whatever q is, and AITER asks for the scales of an fp8 q alone",
    "hand kv_scale over; upstream, ask for it wherever KV is fp8",
)
"""A null pointer that nobody refuses."""


_OTHER_DTYPES = (
    "it tells the metadata calls other dtypes than the tensors have, so that the planner groups heads otherwise than the "
    "launched kernel; AITER does not compare the two",
    "tell the metadata calls the dtypes that q and KV have; upstream, compare the head width of plan and kernel and refuse",
)
"""A head width that follows from dtypes, not from flags."""

_KERNEL_OR_HOST = "the kernel, or the host code that sizes its grid and counts its pieces (the accesses leave open which)"


def _other_dtypes(call: Call | None) -> str | None:
    """The dtypes that the metadata calls were told, where the tensors have others."""
    planning = call.decision.planning if call is not None else None
    if call is None or planning is None or (planning.q_dtype, planning.kv_dtype) == (call.decode.q_dtype, call.decode.kv_dtype):
        return None
    return (
        f"told that q is {planning.q_dtype} and KV {planning.kv_dtype} where they are {call.decode.q_dtype} and "
        f"{call.decode.kv_dtype}"
    )


def _sentence(outcome: Outcome, cause: Finding) -> str:
    message, call = cause.message, outcome.call
    if cause.kind is FindingKind.HEAD_WIDTH and call is not None and call.plan is not None:
        dtypes = _other_dtypes(call)
        message = f"With {flags(call)}, {message}" if dtypes is None else f"With {flags(call)}, {dtypes}, {message}"
    if cause.kind in _OVERRUNS or cause.kind is FindingKind.NULL_POINTER:
        return _access_sentence(outcome, cause)
    return message[0].upper() + message[1:] + "."


def _access_sentence(outcome: Outcome, cause: Finding) -> str:
    """What is written or read outside, then where the first bad access is."""
    violations = outcome.observation.violations if outcome.observation is not None else ()
    place = (cause.stage, cause.tensor, cause.severity is Severity.WRITE, cause.evidence["first_offset"])
    first = next(each for each in violations if (each.stage, each.tensor, each.is_write, each.first_offset) == place)
    verb = "writes" if first.is_write else "reads"
    if first.kind is ViolationKind.OUT_OF_BOUNDS:
        side = "before the start of" if first.first_offset < 0 else "past the end of"
        what = f"{verb} {counted(first.extent, 'byte')} {side} {first.tensor or 'LDS'}"
    elif first.kind is ViolationKind.NULL:
        what = f"{verb} through a null pointer (addresses {first.first_offset:,} to {first.end_offset - 1:,})"
    else:
        what = f"{verb} {first.tensor}, which is read-only"
    return f"{first.stage} {what}. The first bad access: {first.why}."


def symptom(outcome: Outcome) -> str:
    """What goes wrong in a few words that complete "MLA decode ...": the cause, and which tensors are left."""
    cause = outcome.cause
    assert cause is not None
    said = cause.kind.row.symptom
    reached = [
        f"{verb} {listed(list(dict.fromkeys(f.tensor for f in outcome.findings if f.kind is kind)))}"
        for verb, kind in (("writes past", FindingKind.OUT_OF_BOUNDS_WRITE), ("reads past", FindingKind.OUT_OF_BOUNDS_READ))
        if any(f.kind is kind for f in outcome.findings)
    ]
    if reached:
        return " and ".join(reached) if cause.kind in _OVERRUNS else f"{said}, {' and '.join(reached)}"
    if cause.kind is FindingKind.ROW_NOT_WRITTEN:
        return f"leaves {cause.tensor} unwritten"
    shown = {finding.kind for finding in outcome.findings}
    silent = next((kind for kind in _SILENT if kind in shown), None)
    return said if silent is None or cause.kind in _SILENT else f"{said} and {silent.row.symptom}"


_OVERRUNS = (FindingKind.OUT_OF_BOUNDS_WRITE, FindingKind.OUT_OF_BOUNDS_READ)

_BY_WIDTH = (*_OVERRUNS, FindingKind.FOREIGN_PAGE, FindingKind.ROW_NOT_WRITTEN, *BY_NUMBERS)
"""What a kernel does to rows of another width than its own."""

_SILENT = (FindingKind.ROW_NOT_WRITTEN, FindingKind.NOT_COVERED, FindingKind.COVERED_TWICE, FindingKind.FOREIGN_PAGE)
"""What gives a wrong result inside of the tensors, the plainest first."""


def leaves_tensors(outcome: Outcome) -> bool:
    """Whether anything is read or written outside of a tensor or of memory."""
    return any(finding.kind.row.is_stray_access for finding in outcome.findings)


def only_through_null(outcome: Outcome) -> bool:
    """Whether all that leaves tensors goes through a null pointer: then no layout of memory makes a difference."""
    left = {finding.kind for finding in outcome.findings if finding.kind.row.is_stray_access}
    return left == {FindingKind.NULL_POINTER}


def shows_unwritten_memory(outcome: Outcome) -> bool:
    """Whether what shows depends on what lies in memory that AITER allocates itself and nobody writes."""
    asked = outcome.decision is not None and outcome.decision.decode.return_lse
    return asked or any(finding.kind is FindingKind.UNWRITTEN_READ for finding in outcome.findings)


def flags(call: Call) -> str:
    """The flags that choose the planner, as the caller passes them."""
    planning = call.decision.planning
    if planning is None or call.decision.mode is MetadataMode.NON_PERSISTENT:
        return "no metadata (non-persistent)"
    return f"fast_mode={planning.fast_mode}, intra_batch_mode={planning.intra_batch_mode}"
