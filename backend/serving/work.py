"""How much a case would cost to run here, known before anything of it is built: what would take too much is not modelled.

The model keeps every entry of a batch's index tensors and every query row a few times over, whatever the device; nobody waits
for a batch of billions of pages, and no machine holds it. Knows a case, and neither rule nor device.
"""

from __future__ import annotations

from backend.case import Case
from backend.errors import UnmodelledError

MOST_ENTRIES = 1 << 27
"""Of the index tensors: 2.7 GB, and some ten seconds. A batch of 32 requests of MAX_KV_LEN tokens has as many."""

MOST_ROWS = 1 << 22
"""Query rows, padding included."""

BYTES_AN_ENTRY, BYTES_A_ROW = 21, 400
"""Resident at the most, measured on the device model."""


def require_feasible(case: Case, page: int, padding_kv_len: int, sized_for: int) -> None:
    """Raises UnmodelledError, with an estimate, for what would take gigabytes or minutes to run.

    page: tokens of a page as the kernel sees it; lists of a sparse case count with the pages. padding_kv_len: tokens of a
    padding row. sized_for: rows that buffers are sized for, or what else a rule chooses that grows them.
    """
    batch, longest = case.graph_batch or case.batch, max(max(case.kv_lens), padding_kv_len)
    most_rows = batch * case.max_seqlen_q
    if batch * -(-longest // page) + most_rows * case.topk <= MOST_ENTRIES and max(most_rows, sized_for) <= MOST_ROWS:
        return  # it would do if all were as long as the longest
    padding = batch - case.batch
    rows = sum(case.rows()) + padding * case.max_seqlen_q
    entries = sum(-(-length // page) for length in case.kv_lens) + padding * -(-padding_kv_len // page) + rows * case.topk
    rows = max(rows, sized_for)
    if entries <= MOST_ENTRIES and rows <= MOST_ROWS:
        return
    gigabytes = (entries * BYTES_AN_ENTRY + rows * BYTES_A_ROW) / 1e9
    raise UnmodelledError(
        f"too much work: {entries:,} pages of {page:,} tokens and {rows:,} rows would take about {gigabytes:,.1f} GB; up to "
        f"{MOST_ENTRIES:,} pages and {MOST_ROWS:,} rows are run: give fewer or shorter requests, or larger pages"
    )
