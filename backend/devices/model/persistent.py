"""Accesses of a persistent stage-1 kernel, from its work items. What differs from kernel to kernel is in `KernelTraits`.

Every workgroup c takes items work_indptr[c] .. work_indptr[c+1] of work_info_set. An item is 8 x int32: batch, partial row
(-1: write o), q_begin, q_end, kv_begin, kv_end, kv_offset, pad.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from numba import njit

from backend.aiter.kernargs import WORK_ITEM_FIELDS
from backend.call import Call
from backend.case import QK_HEAD_DIM, V_HEAD_DIM
from backend.devices.accesses import BF16, FLOAT32, INT32, ITEM_BYTES, Planes
from backend.devices.model.kernargs import reads_of
from backend.devices.model.traits import UNLIMITED, Backward, KernelPaging, KernelTraits

Int64Array = npt.NDArray[np.int64]
Int32Array = npt.NDArray[np.int32]

_SKIPPED, _LOADED, _RUN = 0, 1, 2


@dataclass(frozen=True, slots=True, eq=False)
class PieceRows:
    """What the workgroups do with the items. state: [items], one of _SKIPPED, _LOADED (read, then given up) and _RUN.

    hang: index of the first item that never comes to its end, None for none.
    """

    state: npt.NDArray[np.uint8]
    hang: int | None

    @property
    def run(self) -> Int64Array:
        """Indices of the items that are computed."""
        return np.flatnonzero(self.state == _RUN)


def work(call: Call, known: KernelTraits) -> PieceRows:
    """Which items are reached and which of them are computed."""
    plan = call.plan
    assert plan is not None
    items = plan.work_items
    indptr = plan.buffers["work_indptr"].words
    hangs, runs = known.backward is Backward.HANG, known.backward is Backward.TILE
    state, hang = _walk(items, indptr, known.stops_at_empty, hangs, runs)
    return PieceRows(state, None if hang < 0 else hang)


@njit(cache=True, nogil=True)
def _walk(
    items: Int32Array, indptr: Int32Array, stops_at_empty: bool, hangs: bool, runs: bool
) -> tuple[npt.NDArray[np.uint8], int]:
    state = np.zeros(len(items), np.uint8)
    hang = -1
    for workgroup in range(len(indptr) - 1):
        first, last = np.int64(indptr[workgroup]), np.int64(indptr[workgroup + 1])
        for index in range(max(int(first), 0), min(int(last), len(items))):
            tokens = np.int64(items[index, 5]) - items[index, 4]
            state[index] = 1
            if tokens > 0 or (tokens < 0 and runs):
                state[index] = 2
            elif tokens < 0 and hangs:
                hang = index if hang < 0 else hang
                break
            elif stops_at_empty:
                break
    return state, hang


def stage1(call: Call, known: KernelTraits, done: PieceRows) -> Planes:
    """All accesses of the kernel except those of the KV pool's pages (see pages.py), with the item as source."""
    plan, launch = call.plan, call.launched
    assert plan is not None
    items, heads = plan.work_items, launch.s_mqa if known.rows_of_s_mqa else launch.heads_in_kernel
    reads = reads_of(call)
    first, last = _read_words(reads.work_item)
    q_head = QK_HEAD_DIM * call.decode.q_dtype.itemsize
    rules = (known.q_rows, known.o_rows, known.final_lse_rows, known.partial_rows, known.lse_rows)
    limits = np.array([rule.bounds(launch.s_mqa) for rule in rules], np.int64)
    asked = [pointer in reads.kernargs and known.reads_qo_indptr for pointer in _BY_BATCH]
    reads_all_tokens = _ALL_TOKENS in reads.kernargs and "g_kv_indptr" in launch.tensors and known.reads_qo_indptr
    by_batch = np.array([*asked, known.reads_last_page_lens, reads_all_tokens], np.bool_)
    stores_final_lse = "ptr_LSEP" in reads.kernargs and "final_lse" in launch.tensors
    page = call.decode.page_size if known.paging is KernelPaging.TOKEN else 1
    begin, end = _ranges(items, done.state, heads, q_head, known.q_slack, limits, first, last, stores_final_lse, page, by_batch)
    return Planes(_TENSORS, begin, end, np.arange(len(items)))


def _read_words(names: frozenset[str]) -> tuple[int, int]:
    """[first, last) byte of an item that a kernel reads. Every kernel at hand reads one stretch of it."""
    words = [place for place, name in enumerate(WORK_ITEM_FIELDS) if name in names] or [0, len(WORK_ITEM_FIELDS) - 1]
    return words[0] * INT32, (words[-1] + 1) * INT32


_TENSORS = (
    ("work_info_set", False, "work_info_set + item * 32"),
    ("q", False, "ptr_Q + q_begin * s_MQA * row bytes"),
    ("kv_indices", False, "ptr_LTD + kv_begin * 4"),
    ("o", True, "ptr_RP + q_begin * s_MQA * 1024"),
    ("final_lse", True, "ptr_LSEP + q_begin * s_MQA * 4"),
    ("logits", True, "ptr_R + partial_loc * s_MQA * 2048"),
    ("attn_lse", True, "ptr_LSE + partial_loc * s_MQA * 4"),
    ("qo_indptr", False, "ptr_QTP + batch * 4 + 4"),
    ("kv_indptr", False, "ptr_LTP + batch * 4"),  # and the word behind it, where a kernel does not read g_kv_indptr
    ("kv_last_page_lens", False, "ptr_LTL + batch * 4"),
    ("g_kv_indptr", False, "ptr_GKVTP + batch * 4"),
)
"""Tensor, whether it is written, and its address, in the order of the planes that `_ranges` fills."""

PLANE_OF_O = 3

_BY_BATCH = ("ptr_QTP", "ptr_LTP")
_ALL_TOKENS = "ptr_GKVTP"
"""Kernargs of qo_indptr and kv_indptr, and of g_kv_indptr, which only some kernels read."""


@njit(cache=True, nogil=True)
def _ranges(
    items: Int32Array,
    state: npt.NDArray[np.uint8],
    heads: int,
    q_head: int,
    q_slack: int,
    limits: Int64Array,
    first: int,
    last: int,
    stores_final_lse: bool,
    page: int,
    by_batch: npt.NDArray[np.bool_],
) -> tuple[Int64Array, Int64Array]:
    """Begin and end [tensors, items] in bytes; an item that leaves a tensor alone has an empty range at 0.

    limits: least and most packed rows of q, o, final_lse, logits and attn_lse. q_head: bytes of a head of q. page: KV positions
    that share an entry of kv_indices. by_batch: whether qo_indptr, kv_indptr, kv_last_page_lens and g_kv_indptr
    are read.
    """
    begin = np.zeros((11, len(items)), np.int64)
    end = np.zeros((11, len(items)), np.int64)
    count = np.zeros(5, np.int64)
    for i in range(len(items)):
        if state[i] == 0:
            continue
        begin[0, i], end[0, i] = i * ITEM_BYTES + first, i * ITEM_BYTES + last
        batch = np.int64(items[i, 0])
        if by_batch[0]:
            begin[7, i], end[7, i] = (batch + 1) * INT32, (batch + 2) * INT32
        if by_batch[1]:
            begin[8, i], end[8, i] = batch * INT32, (batch + (1 if by_batch[3] else 2)) * INT32
        if by_batch[2]:
            begin[9, i], end[9, i] = batch * INT32, (batch + 1) * INT32
        if by_batch[3]:
            begin[10, i], end[10, i] = batch * INT32, (batch + 2) * INT32
        if state[i] == 1:
            continue
        loc, q0 = np.int64(items[i, 1]), np.int64(items[i, 2])
        packed = (items[i, 3] - q0) * heads
        for rule in range(5):
            count[rule] = min(max(packed, limits[rule, 0]), limits[rule, 1])
            if packed < 0 and limits[rule, 1] < UNLIMITED:  # taken for a number without a sign; the others were never measured
                count[rule] = limits[rule, 1]
        if packed < 0 and limits[0, 1] < UNLIMITED:
            packed = UNLIMITED
        row = q0 * heads
        begin[1, i] = _offset(row * q_head)
        end[1, i] = begin[1, i] + count[0] * q_head
        if count[0] < packed:
            end[1, i] = min(end[1, i] + q_slack, begin[1, i] + packed * q_head)
        begin[2, i] = np.int64(items[i, 4]) // page * INT32
        end[2, i] = ((np.int64(items[i, 5]) - 1) // page + 1) * INT32
        if loc < 0:
            begin[3, i] = _offset(row * V_HEAD_DIM * BF16)
            end[3, i] = begin[3, i] + count[1] * V_HEAD_DIM * BF16
            if stores_final_lse:
                begin[4, i] = _offset(row * FLOAT32)
                end[4, i] = begin[4, i] + count[2] * FLOAT32
        else:
            row = loc * heads
            begin[5, i], end[5, i] = row * V_HEAD_DIM * FLOAT32, (row + count[3]) * V_HEAD_DIM * FLOAT32
            begin[6, i], end[6, i] = row * FLOAT32, (row + count[4]) * FLOAT32
    return begin, end


@njit(cache=True, nogil=True)
def _offset(offset: np.int64) -> np.int64:
    """A byte offset as kernels add it to a pointer: of a row before the first they add 32 bits without a sign."""
    return offset & 0xFFFFFFFF if offset < 0 else offset
