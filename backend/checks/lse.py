"""Rows of final_lse that nobody writes, told from what the launched code object loads of its arguments.

A row that is split gets its log-sum-exp from the second stage; one that is not must get it from the kernel, which can only
write it where it loads ptr_LSEP. Without metadata and with one split some calls have no second stage. Which kernels load it
is a table drawn from their disassembly (backend/aiter/kernarg_reads.py).
"""

from __future__ import annotations

from backend.aiter.kernarg_reads import kernarg_reads
from backend.aiter.launch import Refusal
from backend.aiter.reduction import SecondStageKind
from backend.call import Call
from backend.errors import UnmodelledError
from backend.findings import Finding, FindingKind, Party

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
        rows = f"{count} rows of final_lse that are not split are written by nobody, the first is row {row}"
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
