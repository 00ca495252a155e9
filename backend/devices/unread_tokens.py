"""Tokens of the KV pool that a kernel should read, and those of them that it has not read. The same for every device."""

from __future__ import annotations

import numpy as np
from numba import njit

from backend.call import Call
from backend.case import DType
from backend.observation import ByteRanges, Violation, ViolationKind


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
