"""What both stages leave in o after the machine code has run with data, and which rows of it are numbers of theirs.

Stage 1 is in the address space. Stage 2 ships as no code object: its rule is followed in float32 (backend/aiter/reduction.py
says which rows it merges). Knows neither what q and KV hold nor what is right.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from backend.aiter.reduction import MergedRows, SecondStageKind, expand
from backend.call import Call
from backend.cdna.memory import AddressSpace
from backend.devices.accesses import BF16, FLOAT32
from backend.devices.second_stage import merged_rows

Bits = npt.NDArray[np.uint16]
BoolArray = npt.NDArray[np.bool_]
FloatArray = npt.NDArray[np.float32]
Doubles = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class MergedOutputs:
    """o and final_lse as the caller gets them. values: [queries, heads of the model, 512]; unwritten: [queries, heads], heads
    of a query that no stage has written whole. lse: [queries, heads] float32, NaN where nobody wrote; None: not returned.
    """

    values: Doubles
    unwritten: BoolArray
    lse: FloatArray | None


def outputs(call: Call, space: AddressSpace) -> MergedOutputs:
    """Merges and rearranges. The space: after stage 1, its outputs with data."""
    heads, width = call.launched.heads_in_kernel, call.launched.v_head_dim
    o = _contents(space, "o", np.uint16).reshape(-1, heads, width).copy()
    written = written_rows(space, "o", width * BF16).reshape(-1, heads)
    lse = _lse_of_stage1(call, space)
    for row, merged, merged_lse in _second_stage(call, space):
        if not 0 <= row < len(o):
            continue
        o[row], written[row] = merged, True
        if lse is not None and merged_lse is not None and call.launched.second_stage.stores_lse:
            lse[row] = merged_lse
    unwritten: BoolArray = np.any(~unfolded(call, np.broadcast_to(written[..., None], o.shape)), axis=-1)
    returned = call.decode.return_lse and call.launched.raises_afterwards is None
    return MergedOutputs(
        bf16_values(unfolded(call, o)),
        unwritten,
        unfolded(call, lse[..., None]).squeeze(-1) if lse is not None and returned else None,
    )


def _lse_of_stage1(call: Call, space: AddressSpace) -> FloatArray | None:
    """final_lse as stage 1 leaves it, [rows, heads]."""
    if "final_lse" not in call.launched.tensors:
        return None
    heads = call.launched.heads_in_kernel
    lse = _contents(space, "final_lse", np.float32).reshape(-1, heads).copy()
    lse[~written_rows(space, "final_lse", FLOAT32).reshape(-1, heads)] = np.nan
    return lse


def written_rows(space: AddressSpace, name: str, row_bytes: int) -> BoolArray:
    """Which rows of a tensor stage 1 has written whole."""
    region = space[name]
    assert region.written is not None
    marks = np.unpackbits(region.written, count=region.size, bitorder="little").reshape(-1, row_bytes)
    whole: BoolArray = np.all(marks, axis=1)
    return whole


def partial_rows(call: Call, space: AddressSpace) -> tuple[FloatArray, BoolArray]:
    """Rows of logits, float32 [rows, heads, 512], and which of them stage 1 has written, all heads."""
    heads, width = call.launched.heads_in_kernel, call.launched.v_head_dim
    rows = _contents(space, "logits", np.float32).reshape(-1, heads, width)
    return rows, written_rows(space, "logits", heads * width * FLOAT32)


def folded(call: Call, rows: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """[queries, model heads, n] as stage 1 sees it, [rows, heads, n] (mla_decode_fwd's rearrangement where it copies)."""
    launch, heads = call.launched, call.launched.heads_in_kernel
    if not launch.q_copied:
        return rows.reshape(-1, heads, rows.shape[-1])
    split = rows.reshape(_groups(call), launch.max_seqlen_q, launch.fold, heads, -1)
    return split.transpose(0, 2, 1, 3, 4).reshape(-1, heads, rows.shape[-1])


def unfolded(call: Call, rows: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """[rows, heads, n] of stage 1 as [queries, model heads, n]: undoes `folded`."""
    launch, heads = call.launched, call.launched.heads_in_kernel
    if launch.q_copied:
        split = rows.reshape(_groups(call), launch.fold, launch.max_seqlen_q, heads, -1)
        return split.transpose(0, 2, 1, 3, 4).reshape(-1, heads * launch.fold, rows.shape[-1])
    return rows.reshape(-1, heads * launch.fold, rows.shape[-1])


def _groups(call: Call) -> int:
    """The first dimension of mla_decode_fwd's rearrangement, whose last one is inferred: rows that are left over go into it."""
    return call.decode.q_rows // call.launched.max_seqlen_q


def bf16_values(raw: Bits) -> Doubles:
    """Values of bf16 bits."""
    return (raw.astype(np.uint32) << 16).view(np.float32).astype(np.float64)


def bf16_bits(values: FloatArray) -> Bits:
    """The nearest bf16, ties to even; NaN stays NaN."""
    raw = np.ascontiguousarray(values).view(np.uint32)
    rounded = (raw + np.uint32(0x7FFF) + (raw >> 16 & 1)) >> 16
    return np.where(np.isnan(values), raw >> 16 | 0x40, rounded).astype(np.uint16)


def merge(partial: FloatArray, lse: FloatArray) -> tuple[FloatArray, FloatArray]:
    """o [heads, 512] and its log-sum-exp [heads] of partial rows. partial: [splits, heads, 512]; lse: [splits, heads], natural
    logarithms. NaN of no split at all: 0 / 0."""
    if not len(partial):
        return np.full(partial.shape[1:], np.nan, np.float32), np.full(partial.shape[1], np.nan, np.float32)
    with np.errstate(invalid="ignore", divide="ignore"):
        highest = lse.max(axis=0)
        scale = np.exp(lse - highest)
        total = scale.sum(axis=0)
        summed: FloatArray = (partial * scale[..., None]).sum(axis=0) / total[:, None]
        return summed, highest + np.log(total)


def _second_stage(call: Call, space: AddressSpace) -> Iterator[tuple[int, Bits, FloatArray | None]]:
    """(row of o, its bf16 bits [heads, 512], its lse [heads]) that the second stage writes; no lse where it copies o alone.

    Partial rows outside of logits are NaN.
    """
    launch = call.launched
    heads, stage = launch.heads_in_kernel, launch.second_stage
    if stage.kind is SecondStageKind.NONE or stage.refusal is not None:
        return
    found = merged_rows(call)
    if found.copies_bf16:
        copied = _contents(space, "logits", np.uint16).reshape(-1, heads, launch.v_head_dim)
        yield from ((row, copied[row], None) for row in expand(found.output_begin, found.output_end).tolist())
        return
    logits, _ = partial_rows(call, space)
    lse = _contents(space, "attn_lse", np.float32).reshape(-1, heads)
    for row, partials in _partials(stage.kind, found):
        there = (partials >= 0) & (partials < len(logits))
        values = np.full((len(partials), heads, launch.v_head_dim), np.nan, np.float32)
        values[there] = logits[partials[there]]
        weights = np.full((len(partials), heads), np.nan, np.float32)
        weights[there] = lse[partials[there]]
        merged, merged_lse = merge(values, weights)
        yield row, bf16_bits(merged), merged_lse


def _partials(kind: SecondStageKind, merged: MergedRows) -> Iterator[tuple[int, npt.NDArray[np.int64]]]:
    """(row of o, its partial rows), one by one."""
    if kind is SecondStageKind.TRITON:
        rows = expand(merged.output_begin, merged.output_end).tolist()
        for row, first, end in zip(rows, merged.partial_begin, merged.partial_end, strict=True):
            yield row, np.arange(first, end)
        return
    for owner, first, end in zip(merged.output_owner, merged.output_begin, merged.output_end, strict=True):
        begins = merged.partial_begin[merged.partial_owner == owner]
        for row in range(first, end):
            yield row, begins + (row - first)


def _contents(space: AddressSpace, name: str, kind: type[np.generic]) -> npt.NDArray[Any]:
    contents = space[name].contents
    assert contents is not None
    return contents.view(kind)
