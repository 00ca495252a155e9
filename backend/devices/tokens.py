"""Tokens of the KV pool that a kernel should read, and those of them that it has not read. The same for every device."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from numba import njit

from backend.call import Call
from backend.case import QK_HEAD_DIM, DType
from backend.observation import ByteRanges, Violation, ViolationKind

Int64Array = npt.NDArray[np.int64]
Int32Array = npt.NDArray[np.int32]


def may_differ(call: Call) -> bool:
    """Whether the pool's tokens may be others than a kernel takes them for: pages of several tokens, or fp8 q with a bf16 pool
    (release 2025-11 launches fp8 kernels whatever the pool's dtype)."""
    decode = call.decode
    return decode.page_size > 1 or (decode.q_dtype is DType.FP8 and decode.kv_dtype is DType.BF16)


def unread(call: Call, read: ByteRanges) -> Violation | None:
    """Tokens of the requests whose bytes a kernel has not all read. read: bytes of the pool that it has read."""
    decode = call.decode
    kv_lens = np.asarray(call.decision.kv_lens, np.int64)
    token_bytes = QK_HEAD_DIM * decode.kv_dtype.itemsize
    count, request, token, byte = _unread(
        decode.kv_indices, decode.kv_indptr, kv_lens, decode.page_size, token_bytes, decode.kv_pages, read
    )
    if not count:
        return None
    why = (
        f"token {token} of request {request} is not read whole: page {token // decode.page_size} of the request, "
        f"place {token % decode.page_size} of {decode.page_size}"
    )
    stage = call.launched.code_object
    return Violation(ViolationKind.UNREAD, stage, "kv_buffer", False, byte, byte + token_bytes, 0, count, why)


@njit(cache=True, nogil=True)
def _unread(
    indices: Int32Array, indptr: Int32Array, kv_lens: Int64Array, page_size: int, token_bytes: int, pages: int, read: ByteRanges
) -> tuple[int, int, int, int]:
    """How many tokens are not read whole, and request, token and first byte of the first of them."""
    count, first_request, first_token, first_byte = 0, -1, -1, np.int64(-1)
    for request in range(min(len(kv_lens), len(indptr) - 1)):
        for token in range(kv_lens[request]):
            entry = indptr[request] + token // page_size
            if entry < 0 or entry >= min(np.int64(indptr[request + 1]), len(indices)):
                break
            page = np.int64(indices[entry])
            if page < 0 or page >= pages:
                continue
            begin = (page * page_size + token % page_size) * token_bytes
            at = np.searchsorted(read[:, 0], begin, side="right") - 1
            if at >= 0 and begin + token_bytes <= read[at, 1]:
                continue
            if count == 0:
                first_request, first_token, first_byte = request, token, begin
            count += 1
    return count, first_request, first_token, int(first_byte)
