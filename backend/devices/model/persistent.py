"""Accesses of a persistent stage-1 kernel, from its work items. What differs from kernel to kernel is in `KernelTraits`.

Every workgroup c takes items work_indptr[c] .. work_indptr[c+1] of work_info_set. An item is 8 x int32: batch, partial row
(-1: write o), q_begin, q_end, kv_begin, kv_end, kv_offset, pad.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from backend.call import Call
from backend.case import QK_HEAD_DIM, V_HEAD_DIM
from backend.devices.model.accesses import Accesses
from backend.devices.model.traits import KernelTraits

INT32 = 4
FLOAT32 = 4
BF16 = 2
ITEM_BYTES = 32

_BATCH, _LOC, _Q0, _Q1, _KV0, _KV1 = 0, 1, 2, 3, 4, 5


def stage1(call: Call, traits: KernelTraits) -> list[Accesses]:
    """All accesses of the kernel except those of the KV pool's pages (see `pages`), with its item or None as source."""
    plan, launch = call.plan, call.launched
    assert plan is not None
    items = plan.work_items.astype(np.int64)
    index = np.arange(len(items))
    heads = launch.heads_in_kernel
    rows = traits.rows_touched(items[:, _Q1] - items[:, _Q0], launch.max_seqlen_q)
    q_row = heads * QK_HEAD_DIM * call.decode.q_dtype.itemsize
    o_row, lse_row, partial_row = heads * V_HEAD_DIM * BF16, heads * FLOAT32, heads * V_HEAD_DIM * FLOAT32
    q0 = items[:, _Q0]
    found = [
        Accesses("work_info_set", False, index * ITEM_BYTES, (index + 1) * ITEM_BYTES, index, "work_info_set + item * 32"),
        Accesses("q", False, q0 * q_row, (q0 + rows) * q_row, index, "q + q_begin * s_Q_Bs"),
        _indices(items, index),
    ]
    direct = items[:, _LOC] < 0
    if direct.any():
        at, first = index[direct], q0[direct]
        count = rows[direct]
        found.append(Accesses("o", True, first * o_row, (first + count) * o_row, at, "o + q_begin * heads * 512 * 2"))
    if not direct.all():
        at, first = index[~direct], items[~direct, _LOC]
        end = first + rows[~direct]
        why = "logits + partial_row * heads * 512 * 4"
        found.append(Accesses("logits", True, first * partial_row, end * partial_row, at, why))
        found.append(Accesses("attn_lse", True, first * lse_row, end * lse_row, at, "attn_lse + partial_row * heads * 4"))
    if traits.reads_batch:
        begin = items[:, _BATCH] * INT32
        found.append(Accesses("qo_indptr", False, begin, begin + INT32, index, "qo_indptr + batch * 4"))
    return found


def _indices(items: npt.NDArray[np.int64], index: npt.NDArray[np.int64]) -> Accesses:
    begin, end = items[:, _KV0] * INT32, items[:, _KV1] * INT32
    return Accesses("kv_indices", False, begin, end, index, "kv_indices + kv_begin * 4")
