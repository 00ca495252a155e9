"""Accesses of a persistent stage-1 kernel, from its work items. What differs from kernel to kernel is in `KernelTraits`.

Every workgroup c takes items work_indptr[c] .. work_indptr[c+1] of work_info_set. An item is 8 x int32: batch, partial row
(-1: write o), q_begin, q_end, kv_begin, kv_end, kv_offset, pad.
"""

from __future__ import annotations

import numba
import numpy as np
import numpy.typing as npt

from backend.call import Call
from backend.case import QK_HEAD_DIM, V_HEAD_DIM
from backend.devices.accesses import BF16, FLOAT32, Accesses
from backend.devices.model.traits import KernelTraits

_TENSORS = (
    ("work_info_set", False, "work_info_set + item * 32"),
    ("q", False, "q + q_begin * row bytes"),
    ("kv_indices", False, "kv_indices + kv_begin * 4"),
    ("o", True, "o + q_begin * heads * 512 * 2"),
    ("logits", True, "logits + partial_row * heads * 512 * 4"),
    ("attn_lse", True, "attn_lse + partial_row * heads * 4"),
    ("qo_indptr", False, "qo_indptr + batch * 4"),
)
"""Tensor, whether it is written, and its address, in the order of the planes that `_ranges` fills."""


def stage1(call: Call, traits: KernelTraits) -> list[Accesses]:
    """All accesses of the kernel except those of the KV pool's pages (see pages.py), with the item as source."""
    plan, launch = call.plan, call.launched
    assert plan is not None
    items = plan.work_items
    heads = launch.heads_in_kernel
    begin, end = _ranges(
        items,
        launch.max_seqlen_q if traits.whole_tile else 0,
        heads * QK_HEAD_DIM * call.decode.q_dtype.itemsize,
        heads * V_HEAD_DIM * BF16,
        heads * V_HEAD_DIM * FLOAT32,
        heads * FLOAT32,
    )
    source = np.arange(len(items))
    planes = len(_TENSORS) if traits.reads_batch else len(_TENSORS) - 1
    return [Accesses(*_TENSORS[i][:2], begin[i], end[i], source, _TENSORS[i][2]) for i in range(planes)]


@numba.njit(cache=True, nogil=True)
def _ranges(
    items: npt.NDArray[np.int32], tile_rows: int, q_row: int, o_row: int, partial_row: int, lse_row: int
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Begin and end [tensors, items] in bytes; an item that leaves a tensor alone has an empty range at 0.

    tile_rows: rows that every item touches; 0: q_end - q_begin of each. The others: bytes of a row.
    """
    begin = np.zeros((7, len(items)), np.int64)
    end = np.zeros((7, len(items)), np.int64)
    for i in range(len(items)):
        batch, loc, q0 = np.int64(items[i, 0]), np.int64(items[i, 1]), np.int64(items[i, 2])
        rows = tile_rows if tile_rows else items[i, 3] - q0
        begin[0, i], end[0, i] = i * 32, (i + 1) * 32
        begin[1, i], end[1, i] = q0 * q_row, (q0 + rows) * q_row
        begin[2, i], end[2, i] = np.int64(items[i, 4]) * 4, np.int64(items[i, 5]) * 4
        if loc < 0:
            begin[3, i], end[3, i] = q0 * o_row, (q0 + rows) * o_row
        else:
            begin[4, i], end[4, i] = loc * partial_row, (loc + rows) * partial_row
            begin[5, i], end[5, i] = loc * lse_row, (loc + rows) * lse_row
        begin[6, i], end[6, i] = batch * 4, (batch + 1) * 4
    return begin, end
