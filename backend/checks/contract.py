"""The contract between the caller, AITER's sizing, its planner and its launcher. Knows nothing of what a device saw."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from backend.aiter.arguments import BufferSizes, Int32Array
from backend.aiter.launch import Refusal
from backend.call import Call
from backend.findings import Finding, FindingKind, Party, Severity
from backend.words import number_of

BUFFER_NAMES = ("work_indptr", "work_info_set", "reduce_indptr", "reduce_final_map", "reduce_partial_map")

WORDS_PER_ROW = {"work_info_set": 8, "reduce_final_map": 2}
"""int32 words of one row of a buffer; 1 where absent."""


def check_caller(call: Call) -> list[Finding]:
    """Index tensors: monotonic, of the batch's length, inside the pool, last page lengths in [1, page_size], kv_len >= qlen."""
    return [*_indptrs(call), *_last_page_lens(call), *_page_ids(call), *_short_sequences(call)]


def check_sizing(call: Call) -> list[Finding]:
    """The buffers must be as large as AITER's sizing wants them for the planner's arguments and the batch that runs."""
    short = dict(_short_buffers(call))
    if not short:
        return []
    figures: dict[str, int | str] = {}
    for name, (needed, has) in short.items():
        figures[f"{name}_needed"] = needed
        figures[f"{name}_has"] = has
    shortages = ", ".join(f"{name} needs {number_of(needed, 'row')} and has {has}" for name, (needed, has) in short.items())
    sized, batch = call.decision.sizing, len(call.decode.qo_indptr) - 1
    message = f"buffers are smaller than the batch of {batch} needs: {shortages}"
    if sized is not None:
        message += f" (sized for batch {sized.batch}, max_seqlen_q {sized.max_seqlen_q}, {number_of(sized.num_head, 'head')})"
    return [_caller(call, FindingKind.BUFFER_TOO_SMALL, "", message, figures, _sizing_difference(call))]


def check_head_width(call: Call) -> list[Finding]:
    """What one planned row stands for must be one row of the launched kernel: as many heads, in as many query rows.

    Groups of heads are rows of their own, or, in some revisions (aiter#2440, fp8 on gfx950), further query rows.
    """
    plan, launch = call.plan, call.launch
    if plan is None or plan.rejected or isinstance(launch, Refusal):
        return []
    planned, launched = plan.head_width, launch.heads_in_kernel
    planned_queries = call.decode.max_seqlen_q * plan.query_fold
    if planned == launched and (plan.query_fold == 1) == (launch.max_seqlen_q == call.decode.max_seqlen_q):
        return []
    case = call.decision.case
    grouped = f" ({number_of(call.decode.num_head, 'head')} in {plan.fold} groups)" if plan.fold > 1 else ""
    figures: dict[str, int | str] = {
        "planned_heads": planned,
        "launched_heads": launched,
        "planned_rows": plan.rows,
        "launched_rows": call.decode.q_rows * launch.fold,
        "kernel": launch.code_object,
    }
    if planned != launched:
        relation, grave = ("planner folds finer", True) if planned < launched else ("launcher folds finer", False)
        planned_as, launched_as = f"{number_of(planned, 'head')}{grouped}", f"{launched}"
    else:
        grave = planned_queries > launch.max_seqlen_q
        relation = "planner folds heads into queries" if grave else "launcher folds heads into queries"
        figures |= {"planned_queries": planned_queries, "launched_queries": launch.max_seqlen_q}
        planned_as = f"{number_of(planned, 'head')} and {number_of(planned_queries, 'query')}{grouped}"
        launched_as = f"{launched} and {launch.max_seqlen_q}"
    message = (
        f"planner {plan.planner} plans rows of {planned_as}, "
        f"the launched kernel {launch.code_object} takes rows of {launched_as}"
    )
    return [
        Finding(
            FindingKind.HEAD_WIDTH,
            Severity.WRITE if grave else Severity.SILENT,
            Party.CALLER,
            f"planner {plan.planner}",
            "",
            message,
            figures,
            f"{relation}, {case.arch} {case.q_dtype}/{case.kv_dtype}",
        )
    ]


def check_kernel_exists(call: Call) -> list[Finding]:
    """A kernel must exist for the key; where it does not, AITER refuses before any launch."""
    if not isinstance(call.launch, Refusal):
        return []
    case = call.decision.case
    return [
        Finding(
            FindingKind.NO_KERNEL,
            FindingKind.NO_KERNEL.severity,
            Party.LAUNCHER,
            f"release {case.release}",
            "",
            call.launch.reason,
            {"heads": call.decode.num_head, "qlen": call.decode.max_seqlen_q},
            f"{case.arch} {case.q_dtype}/{case.kv_dtype}",
        )
    ]


def _indptrs(call: Call) -> Iterator[Finding]:
    decode = call.decode
    is_planned = isinstance(call.launch, Refusal) or call.launch.persistent  # planners count from 0, kernels without from here
    for name, indptr in (("qo_indptr", decode.qo_indptr), ("kv_indptr", decode.kv_indptr)):
        if indptr[0] != 0 and is_planned:
            yield _caller(
                call, FindingKind.BAD_INDPTR, name, f"{name}[0] is {indptr[0]}, not 0", {"value": int(indptr[0])}, "start"
            )
        steps = indptr[1:] < indptr[:-1]
        if steps.any():
            at = int(np.argmax(steps))
            message = f"{name} falls at {at + 1}: {indptr[at]} then {indptr[at + 1]}"
            yield _caller(call, FindingKind.BAD_INDPTR, name, message, {"index": at + 1}, "not monotonic")
    for name, rows in (("q", decode.q_rows), ("o", decode.output_rows)):
        if int(decode.qo_indptr[-1]) > rows:
            message = f"qo_indptr ends at {decode.qo_indptr[-1]}, {name} has {number_of(rows, 'row')}"
            yield _caller(call, FindingKind.BAD_INDPTR, "qo_indptr", message, {"rows": rows}, f"past {name}")
    lists, listed = call.decision.topk, np.flatnonzero(call.decision.tokens)
    if lists and is_planned and len(listed):
        row = int(listed[-1])
        end, has = row * lists + int(call.decision.tokens[row]), len(decode.kv_indices)
        if end > has:
            message = f"the list of row {row} of topk {lists} ends at {end}, kv_indices has {number_of(has, 'entry')}"
            figures: dict[str, int | str] = {"row": row, "end": end, "entries": has}
            yield _caller(call, FindingKind.BAD_INDPTR, "kv_indices", message, figures, "lists past kv_indices")
    if int(decode.kv_indptr[-1]) > len(decode.kv_indices) and not call.decision.topk:
        message = f"kv_indptr ends at {decode.kv_indptr[-1]}, kv_indices has {number_of(len(decode.kv_indices), 'entry')}"
        yield _caller(
            call, FindingKind.BAD_INDPTR, "kv_indptr", message, {"indices": len(decode.kv_indices)}, "past kv_indices"
        )


def _last_page_lens(call: Call) -> Iterator[Finding]:
    """A request without pages has no last one: there it may be 0, as 1 may stand there.

    Of pages of one token no planner and no kernel asks how full the last one is, so that it need not be filled; more than one
    token is said by a caller who takes the length for another (F11), and that is told.
    """
    decode = call.decode
    lens, page = decode.kv_last_page_lens, decode.page_size
    bad = lens > page
    if page > 1:
        least = np.ones(len(lens), np.int32)
        pages = np.diff(decode.kv_indptr)[: len(lens)]
        least[: len(pages)][pages == 0] = 0
        bad |= lens < least
    if bad.any():
        at = int(np.argmax(bad))
        message = f"kv_last_page_lens[{at}] is {lens[at]}, not in [1, page_size {page}]"
        figures: dict[str, int | str] = {"index": at, "value": int(lens[at]), "page_size": page, "count": int(bad.sum())}
        yield _caller(call, FindingKind.BAD_LAST_PAGE_LEN, "kv_last_page_lens", message, figures)


def _page_ids(call: Call) -> Iterator[Finding]:
    decode = call.decode
    held = call.decision.held_pages
    if not len(held):
        return
    all_held = len(held) == len(decode.kv_indices)
    low, high = decode.named_pages if all_held else (int(held.min()), int(held.max()))
    if low < 0 or high >= decode.kv_pages:
        message = f"kv_indices holds page ids {low}..{high}, the pool has {number_of(decode.kv_pages, 'page')}"
        figures: dict[str, int | str] = {"lowest": low, "highest": high, "pages": decode.kv_pages}
        yield _caller(call, FindingKind.BAD_PAGE_ID, "kv_indices", message, figures)


def _short_sequences(call: Call) -> Iterator[Finding]:
    decision, of_all = call.decision, call.decode.g_kv_indptr
    kv_lens = decision.kv_lens if of_all is None else np.diff(of_all).tolist()  # what one rank of a group holds may be less
    for row, (kv_len, query_len) in enumerate(zip(kv_lens, decision.query_lens, strict=True)):
        if kv_len < query_len and kv_len > 0:
            padding = row >= decision.case.batch
            message = (
                f"request {row}{' (graph padding)' if padding else ''} has {number_of(kv_len, 'KV token')} for "
                f"{number_of(query_len, 'query row')}"
            )
            figures: dict[str, int | str] = {"request": row, "kv_len": kv_len, "query_len": query_len}
            yield _caller(call, FindingKind.SHORT_SEQUENCE, "", message, figures, "padding" if padding else "request")
            return


def _short_buffers(call: Call) -> Iterator[tuple[str, tuple[int, int]]]:
    if call.needed is not None and call.allocated is not None and call.needed is not call.allocated:
        yield from _shorter(call.needed, call.allocated)
    batch = len(call.decode.qo_indptr) - 1
    indexed: tuple[tuple[str, Int32Array, int], ...] = (
        ("kv_indptr", call.decode.kv_indptr, batch + 1),
        ("kv_last_page_lens", call.decode.kv_last_page_lens, batch),
    )
    for name, array, needed in indexed:
        if len(array) < needed:
            yield name, (needed, len(array))


def _shorter(needed: BufferSizes, has: BufferSizes) -> Iterator[tuple[str, tuple[int, int]]]:
    for name in BUFFER_NAMES:
        width = WORDS_PER_ROW.get(name, 1)
        want, got = getattr(needed, name) // width, getattr(has, name) // width
        if got < want:
            yield name, (want, got)


def _sizing_difference(call: Call) -> str:
    """Which sizing arguments are not the planner's, as the name of the fault."""
    sizing, planning = call.decision.sizing, call.decision.planning
    if sizing is None or planning is None:
        return "index tensors"
    pairs = (
        ("batch", sizing.batch, len(planning.qo_indptr) - 1),
        ("max_seqlen_q", sizing.max_seqlen_q, planning.max_seqlen_qo),
        ("num_head", sizing.num_head, planning.num_heads_per_head_k),
        ("fast_mode", sizing.fast_mode, planning.fast_mode),
        ("intra_batch_mode", sizing.intra_batch_mode, planning.intra_batch_mode),
        ("q_dtype", sizing.q_dtype, planning.q_dtype),
        ("kv_dtype", sizing.kv_dtype, planning.kv_dtype),
        ("num_kv_splits", sizing.num_kv_splits or -1, planning.max_split_per_batch),
    )
    different = [name for name, sized, planned in pairs if sized != planned]
    return "sized for another " + ", ".join(different) if different else "index tensors"


def _caller(
    call: Call, kind: FindingKind, tensor: str, message: str, figures: dict[str, int | str], discriminator: str = ""
) -> Finding:
    return Finding(kind, kind.severity, Party.CALLER, call.decision.case.backend, tensor, message, figures, discriminator)
