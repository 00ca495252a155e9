"""What stage 1 leaves unwritten: rows of o that the second stage does not write either, partial rows that it reads.

The same for every device.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import numpy.typing as npt
from numba import njit

from backend.call import Call
from backend.devices.accesses import BF16, subtract
from backend.observation import ByteRanges, Violation, ViolationKind

BoolArray = npt.NDArray[np.bool_]
Int64Array = npt.NDArray[np.int64]


def unwritten(call: Call, begin: Int64Array, end: Int64Array, merged: BoolArray) -> Violation | None:
    """Rows of requests with KV that come out as they were. begin, end: bytes of o that stage 1 writes, in any order.

    merged: rows of the launch that the second stage writes. A row of which some heads are written counts as unwritten.
    """
    launch = call.launched
    heads = launch.heads_in_kernel
    needed = np.repeat(call.decision.tokens > 0, call.decision.rows * launch.fold)
    size = launch.tensors["o"].gap * BF16 + heads * launch.v_head_dim * BF16
    count, row = _unwritten(begin, end, merged, needed, heads, launch.v_head_dim * BF16, size)
    if not count:
        return None
    of = f"of o ({heads} heads)"
    why = f"row {row} {of} is written by nobody"
    if count > 1:
        why = f"{count} rows {of} are written by nobody, the first is row {row}"
    return Violation(ViolationKind.NO_OUTPUT, launch.code_object, "o", True, row * size, (row + 1) * size, 0, count, why)


def unwritten_partials(
    call: Call, written: Callable[[str], ByteRanges], partials: Mapping[str, ByteRanges]
) -> Violation | None:
    """Bytes of logits, or else of attn_lse, that are merged and that stage 1 has not written.

    partials: what is merged by tensor; written: what stage 1 has written of a tensor; both sorted and disjoint.
    """
    for tensor, read in partials.items():
        missing = subtract(read, written(tensor)) if len(read) else read
        if len(missing):
            begin, end = int(missing[0, 0]), int(missing[-1, 1])
            total = int((missing[:, 1] - missing[:, 0]).sum())
            why = f"partial rows that no workgroup writes are merged: {total} bytes from {tensor} + {begin} on"
            stage = call.launched.code_object
            return Violation(ViolationKind.UNWRITTEN, stage, tensor, True, begin, end, 0, len(missing), why)
    return None


@njit(cache=True, nogil=True)
def _unwritten(
    begin: Int64Array, end: Int64Array, merged: BoolArray, needed: BoolArray, heads: int, head_bytes: int, row_bytes: int
) -> tuple[int, int]:
    """How many needed rows are not written whole, and the first of them. row_bytes: from row to row."""
    written = np.zeros(len(needed) * heads, np.uint8)
    for i in range(len(begin)):
        for row in range(max(begin[i], 0) // row_bytes, min(-(-end[i] // row_bytes), len(needed))):
            first, last = begin[i] - row * row_bytes, end[i] - row * row_bytes
            for head in range(-(-max(first, 0) // head_bytes), min(last // head_bytes, heads)):
                written[row * heads + head] = 1
    count, first = 0, -1
    for row in range(len(needed)):
        if not needed[row] or (row < len(merged) and merged[row]):
            continue
        if written[row * heads : (row + 1) * heads].all():
            continue
        if count == 0:
            first = row
        count += 1
    return count, first
