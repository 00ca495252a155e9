"""What the planner did: writes outside its buffers, reads outside its inputs, pieces that no kernel should be given."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from backend.aiter.planners.memory import SHARED_MEMORY
from backend.call import Call
from backend.checks.contract import WORDS_PER_ROW
from backend.child.process_end import EndKind
from backend.findings import Finding, FindingKind, Party, Severity
from backend.observation import Observation
from backend.words import number_of

Figures = dict[str, int | str]


def check_rejected(call: Call) -> list[Finding]:
    """AITER's planner raises on its arguments: a refusal."""
    if call.plan is None or not call.plan.rejected:
        return []
    kind, stage = FindingKind.METADATA_REJECTED, f"planner {call.plan.planner}"
    return [Finding(kind, kind.severity, Party.PLANNER, stage, "", call.plan.rejected)]


def check_planner_memory(call: Call) -> list[Finding]:
    """The planner's own accesses through checked memory."""
    return [] if call.plan is None else [*_overruns(call), *_reads(call)]


def check_pieces(call: Call) -> list[Finding]:
    """A piece [kv0, kv1) must hold at least qlen tokens and end after it begins.

    Kernels that mask by kv_offset divide by a sum over nothing where a piece has fewer tokens than its rows (aiter#2106).
    A request that is itself shorter than its rows is the caller's fault and is reported as such, not here. The kernels of a
    context-parallel rank leave 0 and -inf for a row that sees nothing.
    """
    plan, decode = call.plan, call.decode
    if plan is None or plan.rejected or not len(plan.work_items) or decode.g_kv_indptr is not None:
        return []
    items = plan.work_items
    rows = items[:, 3] - items[:, 2]
    tokens = (items[:, 5] - items[:, 4]) * decode.page_size
    short = tokens < (1 if decode.max_seqlen_q == 1 else np.minimum(rows, decode.max_seqlen_q))
    if not short.any():
        return []
    short &= _request_length(call, items[:, 2]) >= decode.max_seqlen_q
    if not short.any():
        return []
    at = int(np.argmax(short))
    message = (
        f"work item {at} covers {number_of(int(tokens[at]), 'token')} [{items[at, 4]}, {items[at, 5]}) for "
        f"{number_of(int(rows[at]), 'query row')}: "
        f"a row would attend to nothing"
    )
    figures: Figures = {"work_item": at, "tokens": int(tokens[at]), "rows": int(rows[at]), "count": int(short.sum())}
    kind, party = FindingKind.SHORT_PIECE, Party.CALLER if plan.edited else Party.PLANNER
    return [Finding(kind, kind.severity, party, plan.stage, "work_info_set", message, figures)]


def check_backward_items(observation: Observation) -> list[Finding]:
    """An item whose rows or tokens end before they begin, where the kernel follows it.

    Rows of such a range are rows before the tensors. Tokens of one are none to most kernels, which is no fault; others count
    on until they wrap, and do not come back or read on the way.
    """
    plan, device_end = observation.call.plan, observation.end
    if plan is None or not observation.call.launched.persistent or not len(plan.work_items):
        return []
    items = plan.work_items
    rows, tokens = (items[:, 2] < 0) | (items[:, 3] < items[:, 2]), items[:, 5] < items[:, 4]
    read = any(seen.work_item_index is not None and tokens[seen.work_item_index] for seen in observation.violations)
    hangs = device_end is not None and device_end.kind is EndKind.HANG
    followed = rows | tokens if read or hangs else rows
    if not followed.any():
        return []
    at = int(np.argmax(followed))
    what, begin, end = ("rows", *items[at, 2:4]) if rows[at] else ("KV positions", *items[at, 4:6])
    message = f"work item {at} is of {what} [{begin}, {end}), and {observation.call.launched.code_object} follows it"
    kind, party = FindingKind.BACKWARD_ITEM, Party.CALLER if plan.edited else Party.PLANNER
    severity = Severity.WRITE if rows[at] else Severity.READ if read else Severity.SILENT
    figures: Figures = {"work_item": at, "begin": int(begin), "end": int(end), "count": int(followed.sum())}
    return [Finding(kind, severity, party, plan.stage, "work_info_set", message, figures, what)]


def _request_length(call: Call, first_row: np.ndarray) -> np.ndarray:
    """KV tokens of the request whose rows an item begins with: an empty request begins in kv_indptr where the next one does."""
    assert call.plan is not None
    decision = call.decision
    ends = np.cumsum(decision.rows * call.plan.fold)
    request = np.searchsorted(ends, first_row, side="right")
    return decision.tokens[np.clip(request, 0, len(ends) - 1)]


def _overruns(call: Call) -> Iterator[Finding]:
    plan = call.plan
    assert plan is not None
    kind, stage = FindingKind.PLANNER_OVERRUN, f"planner {plan.planner}"
    for name, buffer in plan.buffers.items():
        width = WORDS_PER_ROW.get(name, 1)
        for overrun in buffer.overrun:
            allocated = buffer.allocated
            before = overrun.first_word < 0
            message = (
                f"writes {number_of(overrun.words, 'word')} outside {name} ({number_of(allocated, 'word')}): first word "
                f"{overrun.first_word}, "
                f"last {overrun.last_word}"
            )
            figures: Figures = {
                "allocated_words": allocated,
                "first_word": overrun.first_word,
                "last_word": overrun.last_word,
                "words": overrun.words,
                "rows": -(-overrun.words // width),
            }
            side = "before the start" if before else "past the end"
            yield Finding(kind, kind.severity, Party.PLANNER, stage, name, message, figures, side)


def _reads(call: Call) -> Iterator[Finding]:
    plan = call.plan
    assert plan is not None
    stage = f"planner {plan.planner}"
    seen: dict[str, tuple[int, int]] = {}
    for read in plan.reads_past_end:
        first, count = seen.get(read.array, (read.index, 0))
        seen[read.array] = (first, count + 1)
    for name, (first, count) in seen.items():
        what = "before it is stored" if name == SHARED_MEMORY else "past its end"
        message = f"reads {name}[{first}] {what} ({count} such reads)"
        kind = FindingKind.PLANNER_READ
        yield Finding(kind, kind.severity, Party.PLANNER, stage, name, message, {"index": first, "count": count})
