"""What a kernel leaves out, the same for every device: rows of o that the second stage does not write either, partial rows that
it reads, and tokens of the KV pool that should be read and are not.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import numpy.typing as npt
from numba import njit

from backend.call import Call
from backend.case import DType
from backend.devices.accesses import BF16, subtract
from backend.observation import ByteRanges, Violation, ViolationKind
from backend.words import noun, number_of

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
    of = f"of o ({number_of(heads, 'head')})"
    why = f"row {row} {of} is written by nobody"
    if count > 1:
        why = f"{number_of(count, 'row')} {of} {noun(count, 'is', 'are')} written by nobody, the first is row {row}"
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
            why = f"partial rows that no workgroup writes are merged: {number_of(total, 'byte')} from {tensor} + {begin} on"
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


def may_differ(call: Call) -> bool:
    """Whether the pool's tokens may be others than a kernel takes them for: pages of several tokens, or fp8 q with a bf16 pool
    (release 2025-11 launches fp8 kernels whatever the pool's dtype)."""
    decode = call.decode
    return decode.page_size > 1 or (decode.q_dtype is DType.FP8 and decode.kv_dtype is DType.BF16)


def unread(call: Call, read: ByteRanges) -> Violation | None:
    """Tokens of the requests whose bytes a kernel has not all read. read: bytes of the pool that it has read."""
    decode = call.decode
    kv_lens = call.decision.tokens
    token_bytes = decode.token_bytes
    count, request, token, byte = _unread(
        decode.kv_indices, call.decision.list_indptr, kv_lens, decode.page_size, decode.page_bytes, token_bytes,
        decode.kv_pages, np.ascontiguousarray(read[:, 0]), np.ascontiguousarray(read[:, 1]),
    )  # fmt: skip
    if not count:
        return None
    why = (
        f"token {token} of request {request} is not read whole: page {token // decode.page_size} of the request, "
        f"place {token % decode.page_size} of {decode.page_size}"
    )
    stage = call.launched.code_object
    return Violation(ViolationKind.UNREAD, stage, "kv_buffer", False, byte, byte + token_bytes, 0, count, why)


@njit(cache=True, nogil=True)
def _unread(indices, indptr, kv_lens, page_size, page_bytes, token_bytes, pages, read_begin, read_end):  # type: ignore[no-untyped-def]
    """How many tokens are not read whole, and request, token and first byte of the first of them.

    read_begin, read_end: bytes that are read, as sorted ranges that do not touch each other.
    """
    count, first_request, first_token, first_byte = np.int64(0), -1, np.int64(-1), np.int64(-1)
    for request in range(min(len(kv_lens), len(indptr) - 1)):
        entry, last = np.int64(indptr[request]), min(np.int64(indptr[request + 1]), np.int64(len(indices)))
        token = 0
        while token < kv_lens[request] and 0 <= entry < last:
            page = np.int64(indices[entry])
            entry += 1
            held = min(page_size, kv_lens[request] - token)
            if 0 <= page < pages:
                begin = page * page_bytes
                stop = begin + held * token_bytes
                at = max(np.searchsorted(read_begin, begin, side="right") - 1, 0)
                place = np.int64(0)  # tokens of the page before it are accounted for
                while place < held:
                    reached = at < len(read_begin) and read_begin[at] < stop
                    whole_from, whole_to = held, held  # the next tokens that are read whole
                    if reached:
                        whole_from = (max(read_begin[at] - begin, 0) + token_bytes - 1) // token_bytes
                        whole_to = (min(read_end[at], stop) - begin) // token_bytes
                        at += 1
                        if whole_to <= max(whole_from, place):
                            continue
                    if whole_from > place:
                        if count == 0:
                            first_request, first_token, first_byte = request, token + place, begin + place * token_bytes
                        count += whole_from - place
                    place = whole_to
            token += held
    return int(count), first_request, int(first_token), int(first_byte)
