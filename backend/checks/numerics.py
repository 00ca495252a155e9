"""What a device computed, how its run ended, where two devices disagree, and rows of final_lse that nobody writes, as findings.

Knows no device and no reference. A row that is split gets its log-sum-exp from the second stage; one that is not must get it
from the kernel, which can only write it where it loads ptr_LSEP. Without metadata and with one split some calls have no second
stage. Which kernels load it is a table drawn from their disassembly (backend/aiter/kernargs.py).
"""

from __future__ import annotations

import numpy as np

from backend.aiter.kernargs import kernarg_reads
from backend.aiter.launch import Refusal
from backend.aiter.reduction import SecondStageKind
from backend.call import Call
from backend.child.process_end import EndKind
from backend.errors import UnmodelledError
from backend.findings import Finding, FindingKind, Party
from backend.observation import DeviceEnd, Disagreement, Observation, ViolationKind
from backend.words import noun, number_of

LSE_POINTER = "ptr_LSEP"


def check_final_lse(call: Call) -> list[Finding]:
    """One finding for the rows that nobody writes; none where no lse is asked for, or the kernel is not in the table."""
    launch = call.launch
    if isinstance(launch, Refusal) or not call.decode.return_lse or _loads_lse_pointer(launch.blob_id):
        return []
    if launch.persistent:
        return _left_by_the_kernel(call)
    if launch.second_stage.copies_o_alone:
        second = "after a second stage that copies o alone"
    elif launch.second_stage.kind is SecondStageKind.NONE:
        second = "without a second stage"
    else:
        return []
    rows = call.decode.q_rows
    message = (
        f"{rows} row{'s' if rows > 1 else ''} of final_lse, which mla_decode_fwd returns for one split {second}, "
        f"{'are' if rows > 1 else 'is'} written by nobody: {launch.code_object} never loads {LSE_POINTER}"
    )
    figures: dict[str, int | str] = {"rows": rows, "first_row": 0, "kernarg": LSE_POINTER}
    kind = FindingKind.ROW_NOT_WRITTEN
    return [Finding(kind, kind.severity, Party.LAUNCHER, "mla_decode_fwd", "final_lse", message, figures, "one split")]


def _left_by_the_kernel(call: Call) -> list[Finding]:
    launch, plan = call.launched, call.plan
    if plan is None:
        return []
    items = plan.work_items
    whole = items[(items[:, 1] < 0) & (items[:, 5] > items[:, 4])]
    count = int((whole[:, 3] - whole[:, 2]).sum())
    if not count:
        return []
    row = int(whole[0, 2])
    rows = f"row {row} of final_lse, which is not split, is written by nobody"
    if count > 1:
        rows = f"{number_of(count, 'row')} of final_lse that are not split are written by nobody, the first is row {row}"
    message = f"{rows}: the kernel should, and never loads {LSE_POINTER}"
    figures: dict[str, int | str] = {"rows": count, "first_row": row, "kernarg": LSE_POINTER}
    kind, stage = FindingKind.ROW_NOT_WRITTEN, launch.code_object
    return [Finding(kind, kind.severity, Party.KERNEL, stage, "final_lse", message, figures)]


def _loads_lse_pointer(blob_id: str | None) -> bool:
    """Whether a code object loads the pointer, as far as is known."""
    try:
        return blob_id is None or LSE_POINTER in kernarg_reads(blob_id).kernargs
    except UnmodelledError:
        return True


def check_rank_without_tokens(call: Call) -> list[Finding]:
    """One finding for all rows of requests of which a rank of a context-parallel group holds no token, where lse is asked for.

    Such a partial result must weigh nothing where the ranks' results are merged by their log-sum-exp: o 0 and lse -inf (AITER's
    op_tests/test_mla_persistent_round_robin.py calls it the contract of kernel and merge; a kernel leaves that of a row from
    which all of the rank's tokens are hidden). A request without tokens gets no work item, so that neither stage writes its
    rows.
    """
    decision, decode = call.decision, call.decode
    if isinstance(call.launch, Refusal) or decode.g_kv_indptr is None or not decode.return_lse or call.plan is None:
        return []
    held, of_all = decision.tokens, np.diff(decode.g_kv_indptr)
    empty = np.flatnonzero((held == 0) & (of_all > 0))
    if not len(empty) or call.plan.rejected:
        return []
    rows = int(decision.rows[empty].sum())
    first = int(empty[0])
    message = (
        f"rank {decode.cp_rank} of {decode.cp_world_size} holds none of the {number_of(int(of_all[first]), 'token')} of "
        f"request {first}: "
        f"{number_of(rows, 'row')} of o and final_lse, which it returns to be merged, {noun(rows, 'is', 'are')} written by "
        "nobody, where they "
        "should be 0 and -inf"
    )
    kind = FindingKind.ROW_NOT_WRITTEN
    figures: dict[str, int | str] = {"rows": rows, "request": first, "requests": len(empty)}
    subject = "rank without tokens"
    return [Finding(kind, kind.severity, Party.LAUNCHER, "mla_decode_fwd", "final_lse", message, figures, subject)]


_ENDS = {
    EndKind.MEMORY_FAULT: FindingKind.MEMORY_FAULT,
    EndKind.HANG: FindingKind.HANG,
}
_ENDS |= {kind: FindingKind.DIED for kind in EndKind if kind.died}


def check_end(observation: Observation) -> list[Finding]:
    """A run that did not come to its end. A fault's severity is that of a read: hardware does not tell which it was."""
    end = observation.end
    return [] if end is None or end.kind is EndKind.COMPLETED else [_death(observation, end)]


def death_once(observation: Observation) -> Finding | None:
    """A death that did not come again when the case was run again. No finding of the case, unless somebody sees it again."""
    once = observation.end.once if observation.end is not None else None
    return None if once is None else _death(observation, once)


def _death(observation: Observation, end: DeviceEnd) -> Finding:
    kind = _ENDS[end.kind]
    figures: dict[str, int | str] = {"message": end.message, "again_when_alone": int(end.again)}
    if end.address is not None:
        figures["address"] = f"{end.address:#x}"
    if end.offset is not None:
        figures["offset"] = end.offset
    if end.after:
        figures["after"] = end.after
    where = f" (nearest: {end.tensor} {end.offset:+d} bytes)" if end.tensor and end.offset is not None else ""
    what = FindingKind.DIED.value if end.kind.died else end.kind.value
    message = f"{what} on {observation.device}: {end.message}{where}"
    return Finding(kind, kind.severity, Party.KERNEL, _stage(observation), end.tensor, message, figures)


def check_numbers(observation: Observation) -> list[Finding]:
    """Rows that are not written, not a number, or outside the error budget; one finding of each kind.

    A device that sees stores has told of rows that are not written by its violations.
    """
    numbers = observation.numbers
    if numbers is None:
        return []
    stage = _stage(observation)
    of = f"of {number_of(numbers.compared, 'row')} of o (query x head)"
    stores_seen = any(violation.kind is ViolationKind.NO_OUTPUT for violation in observation.violations)
    found = []
    for kind, count, first, said in (
        (FindingKind.ROW_NOT_WRITTEN, numbers.unwritten, numbers.first_unwritten, "are not written"),
        (FindingKind.NUMERICS, numbers.outside, numbers.first_outside, f"leave the error budget ({numbers.budget})"),
        (FindingKind.NOT_A_NUMBER, numbers.not_a_number, numbers.first_not_a_number, "hold a NaN or an infinity"),
    ):
        if not count or first is None or (stores_seen and kind is FindingKind.ROW_NOT_WRITTEN):
            continue
        figures: dict[str, int | str] = {"rows": count, "compared": numbers.compared, "query": first[0], "head": first[1]}
        if kind is FindingKind.NUMERICS:
            figures["worst_error_over_budget"] = f"{numbers.worst:.3g}"
            figures["relative_rms"] = f"{numbers.relative_rms:.3g}"
        message = f"{count} {of} {said}, first query {first[0]} head {first[1]}"
        found.append(Finding(kind, kind.severity, Party.KERNEL, stage, "o", message, figures))
    return found


def _stage(observation: Observation) -> str:
    return observation.own_kernel or observation.call.launched.code_object


def check_disagreements(observation: Observation) -> list[Finding]:
    """One finding for each thing seen differently."""
    return [_finding(observation, each) for each in observation.disagreements]


def _finding(observation: Observation, each: Disagreement) -> Finding:
    stage = observation.call.launched.code_object
    evidence = dict(zip(each.devices, each.saw, strict=True))
    both = "; ".join(f"{device}: {saw}" for device, saw in evidence.items())
    message = f"{' and '.join(each.devices)} disagree on {each.what}: {both}"
    kind = FindingKind.DEVICE_DISAGREEMENT
    return Finding(kind, kind.severity, Party.PROJECT, stage, "", message, evidence, discriminator=each.what)
