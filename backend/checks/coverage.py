"""Every (request, query row, KV token) exactly once: the plan against the sequence lengths that the driver knows.

Bounds alone miss a plan that is wrong but inside its buffers (a row of another request's tokens, a token left out).
"""

from __future__ import annotations

from dataclasses import dataclass

import numba
import numpy as np
import numpy.typing as npt

from backend.aiter.launch import Refusal
from backend.call import Call
from backend.findings import Finding, FindingKind, Party
from backend.words import number_of

Int64Array = npt.NDArray[np.int64]
Int32Matrix = npt.NDArray[np.int32]

_GAP, _OVERLAP, _BEYOND, _OUTSIDE = 0, 1, 2, 3

_KINDS = {_GAP: FindingKind.NOT_COVERED, _OVERLAP: FindingKind.COVERED_TWICE, _BEYOND: FindingKind.BEYOND_SEQUENCE}


@dataclass(frozen=True, slots=True)
class RowSpace:
    """The kernel's rows and what each must attend to, in pages of kv_indptr. All arrays [rows], int64.

    begin: first page; least: exclusive end that the row must reach (its causal end); most: exclusive end it may reach.
    """

    begin: Int64Array
    least: Int64Array
    most: Int64Array


def row_space(call: Call) -> RowSpace:
    """Rows of the launched kernel; folded rows of a request lie as [fold group, query position] (mla_decode_fwd)."""
    launch, decision, decode = call.launched, call.decision, call.decode
    kv_lens = decision.tokens
    page = decode.page_size
    pages = (kv_lens + page - 1) // page
    starts = np.cumsum(pages) - pages if not decision.topk else np.arange(len(kv_lens), dtype=np.int64) * decision.topk
    rows_of = decision.rows * launch.fold
    begin = np.repeat(starts, rows_of)
    least = begin + (decision.visible(launch.fold) + page - 1) // page
    most = begin + np.repeat(pages, rows_of)
    return RowSpace(begin, least, most)


def check_coverage(call: Call) -> list[Finding]:
    """Rows left out, tokens given twice, and tokens of another request, one finding of each kind with the first offender."""
    plan = call.plan
    if plan is None or plan.rejected or isinstance(call.launch, Refusal):
        return []
    rows = row_space(call)
    items = plan.work_items
    counts, first = _sweep(items, rows.begin, rows.least, rows.most)
    if not counts.any():
        return []
    if counts[_OUTSIDE] or counts[_OVERLAP] or counts[_GAP] or counts[_BEYOND]:
        order = np.lexsort((items[:, 4], items[:, 2]))
        counts, first = _sweep(items[order], rows.begin, rows.least, rows.most)
    return [
        Finding(
            _KINDS[which],
            _KINDS[which].severity,
            Party.CALLER if plan.edited else Party.PLANNER,
            plan.stage,
            "work_info_set",
            _message(which, first[which], int(counts[which])),
            {
                "row": int(first[which][0]),
                "first": int(first[which][1]),
                "end": int(first[which][2]),
                "rows": int(counts[which]),
            },
        )
        for which in _KINDS
        if counts[which]
    ]


def _message(which: int, first: Int64Array, count: int) -> str:
    row, begin, end = (int(v) for v in first)
    said = {
        _GAP: f"kernel row {row} is not given KV positions [{begin}, {end})",
        _OVERLAP: f"kernel row {row} is given KV positions [{begin}, {end}) twice",
        _BEYOND: f"kernel row {row} is given KV positions [{begin}, {end}), which are not its request's",
    }
    return said[which] + (f"; so with {number_of(count - 1, 'more row')} or pieces" if count > 1 else "")


@numba.njit(cache=True, nogil=True)
def _sweep(items: Int32Matrix, begin: Int64Array, least: Int64Array, most: Int64Array) -> tuple[Int64Array, Int64Array]:
    """Counts of gaps, overlaps, pieces beyond the request and rows outside the kernel's, and the first of each.

    Items must come in rising kv0 for each row; out of order they show as gaps and overlaps, so the caller sorts and asks again.
    """
    counts = np.zeros(4, np.int64)
    first = np.zeros((4, 3), np.int64)
    rows = len(begin)
    reached = begin.copy()
    for i in range(len(items)):
        kv0, kv1 = np.int64(items[i, 4]), np.int64(items[i, 5])
        for row in range(items[i, 2], items[i, 3]):
            if row < 0 or row >= rows:
                counts[3] += 1
                continue
            if kv1 > most[row] or kv0 < begin[row]:
                if counts[2] == 0:
                    first[2, 0], first[2, 1], first[2, 2] = row, kv0, kv1
                counts[2] += 1
                continue
            if kv0 < reached[row]:
                if counts[1] == 0:
                    first[1, 0], first[1, 1], first[1, 2] = row, kv0, min(kv1, reached[row])
                counts[1] += 1
            elif kv0 > reached[row] and reached[row] < least[row]:
                if counts[0] == 0:
                    first[0, 0], first[0, 1], first[0, 2] = row, reached[row], kv0
                counts[0] += 1
            reached[row] = max(reached[row], kv1)
    for row in range(rows):
        if reached[row] < least[row]:
            if counts[0] == 0:
                first[0, 0], first[0, 1], first[0, 2] = row, reached[row], least[row]
            counts[0] += 1
    return counts, first
