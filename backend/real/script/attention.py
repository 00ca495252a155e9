"""Stage 1 in numbers where there is no machine code: attention in float32, work item by work item, as the contract has it.

What is read and written lies where the kernel's would (rows of q and o by the item, pages by kv_indices), in the GPU's own
memory, so that a wrong plan makes the wrong numbers and the stray accesses that it would make. What single kernels do beside
the contract (tiles, prefetches) is the model's to say (backend/devices/model), not known here.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch

from backend.case import QK_HEAD_DIM, V_HEAD_DIM
from backend.devices.model.traits import page_begins
from backend.errors import UnmodelledError
from backend.real.script.hardware import Hardware
from backend.real.script.stage1 import Stage1
from backend.real.script.tensors import Floats, PlacedTensor, floats, raw
from backend.words import counted

INT32 = 4
ITEM_WORDS = 8


def run(hardware: Hardware, launch: Stage1) -> None:
    """Computes what the launch would."""
    if launch.persistent:
        _persistent(hardware, launch)
    else:
        _non_persistent(hardware, launch)


def _persistent(hardware: Hardware, launch: Stage1) -> None:
    tensors, kernel = launch.tensors, launch.code_object
    groups = launch.grid[0]
    named = hardware.read(tensors["work_meta_data"].address, 16, f"{kernel} reads work_meta_data")
    work_indptr, work_info_set = (int(address) for address in named.view(np.uint64))
    items = tensors["work_info_set"]
    indptr = hardware.ints(work_indptr, groups + 1, f"{kernel} reads work_indptr")
    for group in range(groups):
        for index in range(max(indptr[group], 0), indptr[group + 1]):
            at = work_info_set + index * ITEM_WORDS * INT32
            why = f"{kernel} reads work item {index}: {items.offset(at - items.address)}"
            _item(hardware, launch, index, hardware.ints(at, ITEM_WORDS, why))


def _item(hardware: Hardware, launch: Stage1, index: int, item: Sequence[int]) -> None:
    _, partial, q_begin, q_end, kv_begin, kv_end, behind, _ = item
    if kv_end <= kv_begin or q_end <= q_begin:
        return
    tensors, heads, rows = launch.tensors, launch.heads, q_end - q_begin
    by = f"{launch.code_object}, work item {index} {list(item)},"
    q = _q_rows(hardware, launch, q_begin, rows, by)
    kv = _tokens(hardware, launch, kv_begin, kv_end, behind, by)
    positions = (
        [(q_begin + row) % launch.max_seqlen_q for row in range(rows)] if launch.causal else [launch.max_seqlen_q - 1] * rows
    )
    o, lse = _attention(q, kv, positions, launch.max_seqlen_q, behind, _scale(hardware, launch))
    if partial < 0:
        _store(hardware, tensors["o"], q_begin, heads * V_HEAD_DIM * 2, raw(o, torch.bfloat16), by)
        if "final_lse" in tensors:
            _store(hardware, tensors["final_lse"], q_begin, heads * 4, raw(lse, torch.float32), by)
        return
    _store(hardware, tensors["logits"], partial, heads * V_HEAD_DIM * 4, raw(o, torch.float32), by)
    _store(hardware, tensors["attn_lse"], partial, heads * 4, raw(lse, torch.float32), by)


def _non_persistent(hardware: Hardware, launch: Stage1) -> None:
    """Whole requests into o: what the splits and their merge come to."""
    tensors, kernel = launch.tensors, launch.code_object
    for request in range(launch.grid[1]):
        by = f"{kernel}, request {request},"
        q_begin, q_end = hardware.ints(tensors["qo_indptr"].address + INT32 * request, 2, f"{by} reads qo_indptr")
        kv_begin, kv_end = hardware.ints(tensors["kv_indptr"].address + INT32 * request, 2, f"{by} reads kv_indptr")
        if kv_end <= kv_begin or q_end <= q_begin:
            continue
        q = _q_rows(hardware, launch, q_begin, q_end - q_begin, by)
        kv = _tokens(hardware, launch, kv_begin, kv_end, 0, by)
        rows: Sequence[int] = range(launch.max_seqlen_q - (q_end - q_begin), launch.max_seqlen_q)
        if not launch.causal:
            rows = [launch.max_seqlen_q - 1] * len(rows)
        o, lse = _attention(q, kv, rows, launch.max_seqlen_q, 0, _scale(hardware, launch))
        row, target = launch.heads * V_HEAD_DIM * 2, tensors["o"]
        by_kernel = tensors["logits"].address == target.address  # which takes the address alone; the merge goes by strides
        for place, content in enumerate(raw(o, torch.bfloat16).reshape(-1, row), q_begin):
            for at, part in [(place * row, slice(row))] if by_kernel else target.stretches(place):
                hardware.write(target.address + at, content[part], f"{by} writes row {place} of o: {target.offset(at)}")
        if "final_lse" in tensors:
            _store(hardware, tensors["final_lse"], q_begin, launch.heads * 4, raw(lse, torch.float32), by)


def _scale(hardware: Hardware, launch: Stage1) -> tuple[float, float]:
    """Factors of the scores and of V."""
    factors = []
    for name in ("q_scale", "kv_scale"):
        tensor = launch.tensors.get(name)
        factors.append(1.0 if tensor is None else float(hardware.read(tensor.address, 4, f"reads {name}").view(np.float32)[0]))
    return launch.scale * factors[0] * factors[1], factors[1]


def _q_rows(hardware: Hardware, launch: Stage1, first: int, rows: int, by: str) -> Floats:
    """[rows, heads, 576]. Raises UnmodelledError for rows of another width: the kernels have theirs in their code."""
    q = launch.tensors["q"]
    if q.shape[-1] != QK_HEAD_DIM:
        raise UnmodelledError(f"q {q.shape}: what a kernel made for rows of {QK_HEAD_DIM} does takes its machine code")
    row = launch.heads * QK_HEAD_DIM * q.dtype.itemsize
    content = hardware.read(
        q.address + first * row, rows * row, f"{by} reads rows {first}..{first + rows - 1} of q: {_end(q, first, rows, row)}"
    )
    return floats(content, q.dtype).reshape(rows, launch.heads, QK_HEAD_DIM)


def _tokens(hardware: Hardware, launch: Stage1, begin: int, end: int, behind: int, by: str) -> Floats:
    """[tokens, 576] of the pages kv_indices[begin:end]; the last page of a request is cut to its length."""
    tensors, page_size = launch.tensors, launch.page_size
    indices, pool = tensors["kv_indices"], tensors["kv_buffer"]
    pages = hardware.ints(indices.address + INT32 * begin, end - begin, f"{by} reads {indices.offset(INT32 * begin)}")
    size, apart = math.prod(pool.shape[1:]) * pool.dtype.itemsize, pool.row_bytes
    begins = [page_begins(page, apart, launch.page_bits) for page in pages]
    content = [
        hardware.read(pool.address + begin, size, f"{by} reads page {page}: {pool.offset(begin)}")
        for page, begin in zip(pages, begins, strict=True)
    ]
    tokens = floats(np.concatenate(content), pool.dtype).reshape(-1, QK_HEAD_DIM)
    if page_size > 1 and behind == 0:
        starts = hardware.ints(tensors["kv_indptr"].address, tensors["kv_indptr"].shape[0])
        request = max(sum(start <= begin for start in starts) - 1, 0)
        last = hardware.ints(tensors["kv_last_page_lens"].address + INT32 * request, 1, f"{by} reads kv_last_page_lens")[0]
        tokens = tokens[: (len(pages) - 1) * page_size + last]
    return tokens


def _attention(
    q: Floats, kv: Floats, positions: Sequence[int], qlen: int, behind: int, scale: tuple[float, float]
) -> tuple[Floats, Floats]:
    """(o [rows, heads, 512], log-sum-exp [rows, heads]); row p of qlen sees all but the last qlen - 1 - p tokens of a request.

    behind: tokens of the request after these.
    """
    with np.errstate(all="ignore"):  # memory that nobody wrote holds anything
        scores = np.einsum("rhd,td->rht", q, kv) * np.float32(scale[0])
        from_end = np.arange(len(kv) - 1, -1, -1) + behind
        hidden = from_end[None, :] < qlen - 1 - np.asarray(positions)[:, None]
        scores[np.broadcast_to(hidden[:, None, :], scores.shape)] = -np.inf
        highest = scores.max(axis=2, keepdims=True)
        weights = np.exp(scores - highest)
        total = weights.sum(axis=2, keepdims=True)
        o = np.einsum("rht,td->rhd", weights, kv[:, :V_HEAD_DIM]) / total * np.float32(scale[1])
        lse = (highest + np.log(total))[:, :, 0]
    return o.astype(np.float32), lse.astype(np.float32)


def _store(hardware: Hardware, target: PlacedTensor, row: int, row_bytes: int, content: np.ndarray, by: str) -> None:
    rows = content.size // row_bytes
    why = f"{by} writes rows {row}..{row + rows - 1} of {target.name}: {_end(target, row, rows, row_bytes)}"
    hardware.write(target.address + row * row_bytes, content, why)


def _end(tensor: PlacedTensor, first: int, rows: int, row_bytes: int) -> str:
    """What a stretch of rows means for the tensor's bounds."""
    end = (first + rows) * row_bytes
    if end <= tensor.nbytes and first >= 0:
        return tensor.offset(first * row_bytes)
    return f"{tensor.offset(first * row_bytes)}, up to {counted(end - tensor.nbytes, 'byte')} past its end"
