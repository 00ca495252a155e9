"""The second stage by model, for every device: its accesses, and whether it merges exactly what stage 1 should have written.

mla_reduce_v1 is compiled on the user's machine and ships as no code object, so its accesses come from its source's rules
(backend/aiter/reduction.py). Bounds say nothing of a partial row that nobody wrote, that nobody merges, or that is merged into
another row of o.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numba
import numpy as np
import numpy.typing as npt

from backend.aiter.reduction import MergedRows, SecondStageKind, reduced_rows, split_rows
from backend.aiter.tensors import TensorSpec
from backend.call import Call
from backend.devices.accesses import BF16, FLOAT32, INT32, Accesses, bounds, footprint_of, union
from backend.observation import ByteRanges, Footprint, Violation, ViolationKind

Int64Array = npt.NDArray[np.int64]

_UNWRITTEN, _MISPLACED, _LOST = 0, 1, 2

PARTIALS = ("logits", "attn_lse")
"""What stage 1 leaves for a merge."""


@dataclass(frozen=True, slots=True, eq=False)
class SecondStageRun:
    """What the second stage did. rows: of o that it writes, bool [rows of the launch]; footprints: only where asked for.

    partials: bytes of logits and of attn_lse that are merged, which stage 1 must have written; empty where the metadata alone
    is wrong already, or nothing is merged.
    """

    violations: tuple[Violation, ...]
    rows: npt.NDArray[np.bool_]
    footprints: Mapping[str, Footprint]
    partials: Mapping[str, ByteRanges]


def run(call: Call, record: bool) -> SecondStageRun:
    """Runs the second stage by model. Nothing happens where there is none or where AITER raises instead of it."""
    launch = call.launched
    stage = launch.second_stage
    rows = np.zeros(call.decode.output_rows * launch.fold, np.bool_)
    if stage.kind is SecondStageKind.NONE or stage.refusal is not None:
        return SecondStageRun((), rows, {}, {})
    merged = merged_rows(call)
    touched = _accesses(call, merged)
    tensors = {**launch.tensors, **stage.tensors}
    found = bounds(touched, tensors, stage.kind.value, None)
    if call.plan is not None and launch.persistent:
        found += _consistency_of(call, merged)
    _mark(merged.output_begin, merged.output_end, rows)
    footprints = {stage.kind.value: footprint_of(touched, tensors)} if record else {}
    partials = {}
    if stage.kind is SecondStageKind.TRITON or not found:
        partials = {name: union([one for one in touched if one.tensor == name]) for name in PARTIALS}
    return SecondStageRun(tuple(found), rows, footprints, partials)


@numba.njit(cache=True, nogil=True)
def _mark(begin: Int64Array, end: Int64Array, rows: npt.NDArray[np.bool_]) -> None:
    """Sets the rows of intervals; what lies outside of `rows` is left out."""
    for i in range(len(begin)):
        for row in range(max(begin[i], 0), min(end[i], len(rows))):
            rows[row] = True


def merged_rows(call: Call) -> MergedRows:
    """What the second stage of this call touches."""
    stage, decode, plan = call.launched.second_stage, call.decode, call.plan
    if stage.kind is SecondStageKind.REDUCE:
        assert plan is not None
        buffers = plan.buffers
        maps = buffers["reduce_indptr"].words, buffers["reduce_final_map"].words, buffers["reduce_partial_map"].words
        return reduced_rows(stage, *maps)
    page = decode.page_size
    return split_rows(stage, page, decode.qo_indptr, decode.kv_indptr, decode.kv_last_page_lens)


def _accesses(call: Call, merged: MergedRows) -> list[Accesses]:
    """Byte ranges of the second stage; the source of each is its reduce tile or request."""
    stage = call.launched.second_stage
    if stage.kind is SecondStageKind.NONE:
        return []
    heads = stage.num_head
    partial_row = heads * call.launched.v_head_dim * (BF16 if merged.copies_bf16 else FLOAT32)
    lse_row = heads * FLOAT32
    owner, begin, end = merged.partial_owner, merged.partial_begin, merged.partial_end
    by_map = stage.kind is SecondStageKind.REDUCE
    row, out = ("reduce_partial_map[p]", "reduce_final_map[t][0]") if by_map else ("token * splits + s", "token")
    found = [Accesses("logits", False, begin * partial_row, end * partial_row, owner, f"logits + ({row}) * row")]
    if not merged.copies_bf16:
        found.append(Accesses("attn_lse", False, begin * lse_row, end * lse_row, owner, f"attn_lse + ({row}) * heads * 4"))
    owner, begin, end = merged.output_owner, merged.output_begin, merged.output_end
    found.append(Accesses("o", True, *_rows_of_o(call.launched.tensors["o"], merged), f"o + {out} * row"))
    if stage.stores_lse and not merged.copies_bf16:
        found.append(Accesses("final_lse", True, begin * lse_row, end * lse_row, owner, f"final_lse + {out} * heads * 4"))
    outside = merged.partial_map_outside
    if len(outside):
        why = "reduce_partial_map + reduce_indptr[t] * 4"
        found.append(Accesses("reduce_partial_map", False, outside[:, 0] * INT32, outside[:, 1] * INT32, None, why))
    if len(merged.final_map_outside):
        begin = merged.final_map_outside * 2 * INT32
        found.append(
            Accesses("reduce_final_map", False, begin, begin + 2 * INT32, merged.final_map_outside, "reduce_final_map + t * 8")
        )
    return found


def _rows_of_o(o: TensorSpec, merged: MergedRows) -> tuple[Int64Array, Int64Array, Int64Array]:
    """Begin, end and owner of what is written of o, whose strides the second stage is given: of rows with gaps one by one."""
    owner, begin, end = merged.output_owner, merged.output_begin, merged.output_end
    if not o.gap:
        return begin * o.row_bytes, end * o.row_bytes, owner
    rows = np.concatenate([np.arange(first, last, dtype=np.int64) for first, last in zip(begin, end, strict=True)] or [begin])
    first = rows * o.row_bytes
    return first, first + o.row_bytes - o.gap * o.dtype.itemsize, np.repeat(owner, end - begin)


def _consistency_of(call: Call, merged: MergedRows) -> list[Violation]:
    """Partial rows unwritten, lost or merged into another row (persistent calls): of the merge, or of who edited its maps."""
    plan, launch = call.plan, call.launched
    assert plan is not None
    stage = plan.stage if plan.edited else launch.second_stage.kind.value
    tile_begin = np.zeros(max(len(plan.buffers["reduce_indptr"].words), 1), np.int64)
    tile_begin[merged.output_owner] = merged.output_begin
    counts, first = _consistency(plan.work_items, tile_begin, merged.partial_owner, merged.partial_begin, merged.partial_end)
    found = [_capacity(call, stage, merged)] if len(merged.over_capacity) else []
    kinds = (
        (
            _UNWRITTEN,
            ViolationKind.UNWRITTEN,
            "logits",
            "reduce_partial_map names a partial row that no work item writes",
            False,
        ),
        (_MISPLACED, ViolationKind.MISPLACED, "logits", "a partial row is merged into another row of o", False),
        (_LOST, ViolationKind.LOST, "logits", "a partial row that a work item writes is merged nowhere", True),
    )
    for which, kind, tensor, why, is_write in kinds:
        if counts[which]:
            size = launch.heads_in_kernel * launch.v_head_dim * FLOAT32
            row = int(first[which])
            found.append(
                Violation(
                    kind, stage, tensor, is_write, row * size, (row + 1) * size, 0, int(counts[which]), f"{why}: row {row}"
                )
            )
    return found


def _capacity(call: Call, stage: str, merged: MergedRows) -> Violation:
    tile = int(merged.over_capacity[0])
    most = call.launched.second_stage.max_splits
    why = f"reduce tile {tile} has more partial rows than the {most} that its LDS has room for"
    return Violation(
        ViolationKind.CAPACITY,
        stage,
        "reduce_partial_map",
        is_write=False,
        first_offset=0,
        end_offset=0,
        extent=0,
        count=len(merged.over_capacity),
        why=why,
        work_item_index=tile,
    )


@numba.njit(cache=True, nogil=True)
def _consistency(items, tile_begin, owner, begin, end):  # type: ignore[no-untyped-def]
    """Counts of partial rows unwritten, misplaced and lost; the first row of each."""
    counts = np.zeros(3, np.int64)
    first = np.full(3, -1, np.int64)
    top = np.int64(0)
    for i in range(len(items)):
        if items[i, 1] >= 0:
            top = max(top, np.int64(items[i, 1]) + items[i, 3] - items[i, 2])
    holder = np.full(top, -1, np.int64)
    for i in range(len(items)):
        loc = items[i, 1]
        if loc >= 0:
            for k in range(items[i, 3] - items[i, 2]):
                holder[loc + k] = items[i, 2] + k
    for p in range(len(owner)):
        for k in range(end[p] - begin[p]):
            partial = begin[p] + k
            if partial < 0 or partial >= top or holder[partial] == -1:
                if counts[0] == 0:
                    first[0] = partial
                counts[0] += 1
                continue
            if holder[partial] >= 0 and holder[partial] != tile_begin[owner[p]] + k:
                if counts[1] == 0:
                    first[1] = partial
                counts[1] += 1
            holder[partial] = -2
    for partial in range(top):
        if holder[partial] >= 0:
            if counts[2] == 0:
                first[2] = partial
            counts[2] += 1
    return counts, first
