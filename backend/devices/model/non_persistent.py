"""Accesses of a non-persistent stage-1 kernel: grid (row tiles, requests, splits), no work items.

Workgroup (x, b, z) takes packed rows [x * sub_q, (x + 1) * sub_q) of request b and KV tiles z, z + splits, z + 2 * splits, ...
of its pages. It writes the partial rows [token, z] of logits and attn_lse; a split that gets no tile writes nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from numba import njit

from backend.call import Call
from backend.case import QK_HEAD_DIM, V_HEAD_DIM
from backend.devices.accesses import BF16, FLOAT32, INT32, Accesses
from backend.devices.model.kernargs import reads_of
from backend.devices.model.traits import UNLIMITED, KernelTraits, Layout, Single

Int64Array = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class Workgroups:
    """What each row tile of each request does. All arrays [row tiles x requests], row tiles of a request side by side.

    request; origin: packed row of q that the request begins with; first: that the tile begins with; rows: packed rows that are
    its work; behind: packed rows from its first to the end of the request's. kv_begin, kv_end: entries of kv_indices that are
    fetched; padded: whether positions past the request's end are. splits: how many of the splits get a KV tile, from 0 on.
    """

    request: Int64Array
    origin: Int64Array
    first: Int64Array
    rows: Int64Array
    behind: Int64Array
    kv_begin: Int64Array
    kv_end: Int64Array
    padded: Int64Array
    splits: Int64Array


def workgroups(call: Call, known: KernelTraits) -> Workgroups:
    """The workgroups of a launch with the rows that they write, splits folded together."""
    return _workgroups_of(call, known, known.rows_by_request)


def _workgroups_of(call: Call, known: KernelTraits, rows_by_request: bool) -> Workgroups:
    launch, decode = call.launched, call.decode
    batch = launch.grid[1]
    by_request = launch.max_seqlen_q if rows_by_request else 0
    found = _workgroups(
        _entries(decode.qo_indptr, batch + 1),
        _entries(decode.kv_indptr, batch + 1),
        launch.grid[0],
        known.x_rows or launch.sub_q,
        launch.heads_in_kernel,
        launch.num_kv_splits,
        by_request,
        known.causal,
        known.tile,
        known.runs_without_rows,
    )
    return Workgroups(*found)


def stage1(call: Call, known: KernelTraits, groups: Workgroups) -> list[Accesses]:
    """All accesses of the kernel except those of the KV pool's pages; the source of each is its request."""
    launch = call.launched
    splits, heads = launch.num_kv_splits, launch.heads_in_kernel
    reads = reads_of(call)
    request = np.arange(launch.grid[1])
    begin, pair = request * INT32, (request + 2) * INT32
    live = groups.splits > 0
    found = [Accesses("kv_indptr", False, begin, pair, request, "ptr_LTP + b * 4")]
    if "ptr_QTP" in reads.kernargs and known.reads_qo_indptr:
        found.append(Accesses("qo_indptr", False, begin, pair, request, "ptr_QTP + b * 4"))
    if "ptr_STP" in reads.kernargs:
        found.append(Accesses("num_kv_splits_indptr", False, begin, pair, request, "ptr_STP + b * 4"))
    if known.reads_last_page_lens:
        found.append(Accesses("kv_last_page_lens", False, begin, begin + INT32, request, "ptr_LTL + b * 4"))
    owner = groups.request[live]
    entries = groups.kv_begin[live] * INT32, groups.kv_end[live] * INT32
    found.append(Accesses("kv_indices", False, *entries, owner, "ptr_LTD + kv_indptr[b] * 4"))
    found.append(_q(call, known, groups))
    return found + _outputs(call, known, groups, splits, heads)


def _q(call: Call, known: KernelTraits, groups: Workgroups) -> Accesses:
    """Reads of q, which some kernels find by the request's number and others by qo_indptr."""
    launch, decode = call.launched, call.decode
    if known.q_by_request is not known.rows_by_request:
        groups = _workgroups_of(call, known, known.q_by_request)
    live = groups.splits > 0
    first, rows = groups.first[live], groups.rows[live]
    q_head = QK_HEAD_DIM * decode.q_dtype.itemsize
    count = np.clip(rows, *known.q_rows.bounds(launch.s_mqa))
    end = (first + count) * q_head
    reach = end + known.q_slack
    if known.q_slack_clamped:
        reach = np.minimum(reach, (first + groups.behind[live]) * q_head)
    end = np.maximum(end, reach)
    where = "b * s_Q_Bs" if known.q_by_request else "qo_indptr[b] * s_MQA * row bytes"
    request = groups.request[live]
    begin = first * q_head
    if known.q_by_stride and decode.qk_head_dim != QK_HEAD_DIM:
        row = request * decode.max_seqlen_q if known.q_by_request else decode.qo_indptr[request].astype(np.int64)
        moved = row * launch.heads_in_kernel * (decode.qk_head_dim - QK_HEAD_DIM) * decode.q_dtype.itemsize
        begin, end = begin + moved, end + moved
    return Accesses("q", False, begin, end, request, f"ptr_Q + {where} + x * sub_q * row bytes")


def _outputs(call: Call, known: KernelTraits, groups: Workgroups, splits: int, heads: int) -> list[Accesses]:
    """Writes of logits (or what aliases them) and of their log-sum-exp."""
    launch = call.launched
    bf16 = splits == 1 and known.single is not Single.PARTIAL
    name = "o" if launch.second_stage.logits_is_o else "logits"
    if splits == 1 and known.single is Single.RP:
        name = "o" if any(kernarg.name == "ptr_RP" and kernarg.value == "o" for kernarg in launch.kernargs) else ""
    head_bytes = V_HEAD_DIM * (BF16 if bf16 else FLOAT32)
    found = []
    begin, end, owner = _rows_of(groups, known.partial_rows.bounds(launch.s_mqa), known.layout, launch.s_mqa, heads, splits)
    why = f"{name} + ((qo_indptr[b] + token) * s_kv_split + z) * row bytes" if name else "ptr_RP + row"
    found.append(Accesses(name, True, begin * head_bytes, end * head_bytes, owner, why))
    if splits == 1 and "ptr_LSEP" in reads_of(call).kernargs and "final_lse" in launch.tensors:
        rule = known.final_lse_rows.bounds(launch.s_mqa)
        begin, end, owner = _rows_of(groups, rule, Layout.TOKEN, launch.s_mqa, heads, splits)
        why = "ptr_LSEP + (qo_indptr[b] + token) * s_MQA * 4"
        found.append(Accesses("final_lse", True, begin * FLOAT32, end * FLOAT32, owner, why))
    if splits > 1 or known.single is Single.PARTIAL:
        rule = known.lse_rows.bounds(launch.s_mqa)
        begin, end, owner = _rows_of(groups, rule, known.lse_layout, launch.s_mqa, heads, splits)
        why = "ptr_LSE + ((qo_indptr[b] + token) * s_kv_split + z) * s_MQA * 4"
        found.append(Accesses("attn_lse", True, begin * FLOAT32, end * FLOAT32, owner, why))
    return found


def _rows_of(
    groups: Workgroups, rule: tuple[int, int], layout: Layout, s_mqa: int, heads: int, splits: int
) -> tuple[Int64Array, Int64Array, Int64Array]:
    """Packed rows [begin, end) that are written, in the tensor's order, and the request of each stretch."""
    least, most = rule
    # Distances, in packed rows, of a request's tokens, of its splits and of the tokens within.
    spread = splits if layout is not Layout.PLAIN else 1
    by_split = {Layout.TOKEN: heads, Layout.SPLIT: s_mqa}.get(layout, 0)
    by_token = heads * splits if layout is Layout.TOKEN else heads
    limit = groups.behind * splits if layout is Layout.SPACED else np.full_like(groups.behind, UNLIMITED)
    found: tuple[Int64Array, Int64Array, Int64Array] = _partial_rows(
        groups.request,
        groups.origin,
        groups.first,
        groups.rows,
        groups.splits,
        limit,
        least,
        most,
        heads,
        spread,
        by_split,
        by_token,
    )
    return found


@njit(cache=True, nogil=True)
def _workgroups(  # type: ignore[no-untyped-def]
    qo, kv, tiles_x, sub_q, heads, splits, by_request, causal, tile, without_rows
):
    """See Workgroups. by_request: rows of a request where they are found by its number, 0 where by qo_indptr. without_rows:
    whether a request of none has a workgroup that runs."""
    batch = len(kv) - 1
    found = np.zeros((9, batch * tiles_x), np.int64)
    for b in range(batch):
        queries = by_request if by_request else qo[b + 1] - qo[b]
        begin = b * by_request if by_request else qo[b]
        tokens = kv[b + 1] - kv[b]
        for x in range(tiles_x):
            at = b * tiles_x + x
            packed = min(queries * heads - x * sub_q, sub_q)
            end = tokens
            if causal:
                last = min(((x + 1) * sub_q + heads - 1) // heads, queries)
                end = tokens - (queries - last)
            found[0, at] = b
            found[1, at] = begin * heads
            found[2, at] = begin * heads + x * sub_q
            found[3, at] = packed
            found[4, at] = queries * heads - x * sub_q
            runs = packed > 0 or (without_rows and queries == 0 and x == 0)
            if not runs or tokens <= 0 or end == 0:
                continue
            # Fewer than no tokens still make one tile: the trip count is not looked at before the loop's end.
            tiles = max((end + tile - 1) // tile, 1)
            found[5, at], found[6, at] = kv[b], kv[b] + min(tiles * tile, tokens)
            found[7, at] = tiles * tile > tokens
            found[8, at] = min(tiles, splits)
    return found


@njit(cache=True, nogil=True)
def _partial_rows(  # type: ignore[no-untyped-def]
    request, origin, first, rows, live, limit, least, most, heads, spread, by_split, by_token
):
    """See _rows_of.

    limit: packed rows at most, for each tile; spread: factor of a request's origin; by_split, by_token: packed rows from split
    to split, token to token.
    """
    total = 0
    for i in range(len(first)):
        if live[i]:
            count = min(max(rows[i], least), most, limit[i])
            total += ((first[i] + count + heads - 1) // heads - first[i] // heads) * live[i]
    begin, end, owner = np.zeros(total, np.int64), np.zeros(total, np.int64), np.zeros(total, np.int64)
    at = 0
    for i in range(len(first)):
        if not live[i]:
            continue
        within = first[i] - origin[i]
        last = within + min(max(rows[i], least), most, limit[i])
        for token in range(within // heads, (last + heads - 1) // heads):
            low, high = max(within - token * heads, 0), min(last - token * heads, heads)
            for split in range(live[i]):
                row = origin[i] * spread + split * by_split + token * by_token
                begin[at], end[at], owner[at] = row + low, row + high, request[i]
                at += 1
    return begin[:at], end[:at], owner[:at]


def _entries(indptr: npt.NDArray[np.int32], count: int) -> Int64Array:
    """The first `count` entries; what lies past the array's end is unknown and taken as its last entry."""
    found = indptr[:count].astype(np.int64)
    return found if len(found) == count else np.concatenate((found, np.full(count - len(found), found[-1])))
