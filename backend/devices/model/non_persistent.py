"""Accesses of a non-persistent stage-1 kernel: grid (row tiles, requests, splits), no work items.

Workgroup (x, b, s) reads request b's indptr entries, its q rows and its share of the request's pages, and writes the partial
rows [token, s] of logits and attn_lse (or, where logits are a view of o, o itself).
"""

from __future__ import annotations

import numpy as np

from backend.call import Call
from backend.case import QK_HEAD_DIM, V_HEAD_DIM
from backend.devices.accesses import BF16, FLOAT32, INT32, Accesses


def stage1(call: Call) -> list[Accesses]:
    """All accesses of the kernel except those of the KV pool's pages; the source of each is its request."""
    launch, decode = call.launched, call.decode
    batch = launch.grid[1]
    request = np.arange(batch)
    splits, heads = launch.num_kv_splits, launch.heads_in_kernel
    qo = _entries(decode.qo_indptr, batch + 1)
    kv = _entries(decode.kv_indptr, batch + 1)
    q_row = heads * QK_HEAD_DIM * decode.q_dtype.itemsize
    element = BF16 if launch.second_stage.logits_is_o else FLOAT32
    partial_row, lse_row = splits * heads * V_HEAD_DIM * element, splits * heads * FLOAT32
    first, end = qo[:-1], qo[1:]
    written = "o" if launch.second_stage.logits_is_o else "logits"
    pair = request * INT32, (request + 2) * INT32
    return [
        Accesses("qo_indptr", False, *pair, request, "qo_indptr + b * 4"),
        Accesses("kv_indptr", False, *pair, request, "kv_indptr + b * 4"),
        Accesses("kv_last_page_lens", False, request * INT32, (request + 1) * INT32, request, "kv_last_page_lens + b * 4"),
        Accesses("q", False, first * q_row, end * q_row, request, "q + qo_indptr[b] * row"),
        Accesses("kv_indices", False, kv[:-1] * INT32, kv[1:] * INT32, request, "kv_indices + kv_indptr[b] * 4"),
        Accesses(written, True, first * partial_row, end * partial_row, request, f"{written} + (token * splits + s) * row"),
        Accesses("attn_lse", True, first * lse_row, end * lse_row, request, "attn_lse + (token * splits + s) * heads * 4"),
    ]


def _entries(indptr: np.ndarray, count: int) -> np.ndarray:
    """The first `count` entries; what lies past the array's end is unknown and taken as its last entry."""
    found = indptr[:count].astype(np.int64)
    return found if len(found) == count else np.concatenate((found, np.full(count - len(found), found[-1])))
