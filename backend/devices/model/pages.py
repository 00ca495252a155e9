"""Reads of the KV pool: which bytes a kernel reads for which work, and addresses that are not page_id * stride."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from numba import njit

from backend.aiter.arguments import Int32Array
from backend.call import Call
from backend.devices import outputs
from backend.devices.accesses import Accesses, merge, out_of_bounds
from backend.devices.model.traits import HALF_MENDED, KernelPaging, KernelTraits, page_begins
from backend.observation import ByteRanges, Violation, ViolationKind

Int64Array = npt.NDArray[np.int64]

WRAP = 1 << 32
"""Bytes that an address within a buffer descriptor can reach."""

LOAD = 16
"""Bytes of the widest load; a descriptor of 2^32 - 1 bytes refuses the one that would reach 2^32."""


class Stretches(NamedTuple):
    """The KV positions that stage 1 works on, one stretch for each piece of work.

    source: work item or request; begin, end: positions, [n] int64, end exclusive; padded: not 0 where positions past the end of
    what the work may read are fetched too, which gives page 0.
    """

    source: Int64Array
    begin: Int64Array
    end: Int64Array
    padded: Int64Array


def violations(call: Call, known: KernelTraits, work: Stretches) -> list[Violation]:
    """Pages outside the pool or not the request's, and tokens that nobody reads."""
    if _is_plain(call, known, work):
        return []
    owned, foreign = _reads(call, known, work)
    found = []
    touched = Accesses("kv_buffer", False, owned[0], owned[1], None, _why(known))
    outside = out_of_bounds(touched, call.launched.tensors["kv_buffer"].nbytes, call.launched.code_object, None)
    if outside is not None:
        found.append(outside)
    if foreign[5]:
        found.append(_foreign(call, known, foreign))
    if outputs.may_differ(call):
        missing = outputs.unread(call, merge(owned[0], owned[1]))
        found += [] if missing is None else [missing]
    return found


def footprint(call: Call, known: KernelTraits, work: Stretches) -> ByteRanges:
    """The bytes of the pool that stage 1 reads."""
    owned, _ = _reads(call, known, work)
    return merge(owned[0], owned[1])


def _is_plain(call: Call, known: KernelTraits, work: Stretches) -> bool:
    """Whether every page that the work names is read where it lies, by whom it belongs to, so that nothing can be wrong."""
    decode = call.decode
    wide = known.bytes_of_token(decode.kv_dtype.itemsize) > decode.token_bytes
    if outputs.may_differ(call) or wide or known.paging is KernelPaging.TOKEN or not len(decode.kv_indices):
        return False
    lowest, highest = decode.named_pages
    limit = 1 << 24 if known.page_bits in (24, HALF_MENDED) else 1 << 62
    if known.page_bits <= 32:
        limit = min(limit, WRAP // decode.page_bytes)
    inside = lowest >= 0 and highest < min(decode.kv_pages, limit)
    return inside and _within_requests(work.begin, work.end, call.decision.list_indptr, len(decode.kv_indices))


@njit(cache=True, nogil=True)
def _within_requests(begin: Int64Array, end: Int64Array, indptr: Int32Array, entries: int) -> bool:
    """Whether no stretch goes beyond the request that it begins in."""
    for i in range(len(begin)):
        if begin[i] >= end[i]:
            continue
        request = np.searchsorted(indptr, begin[i], side="right") - 1
        if request < 0 or request + 1 >= len(indptr) or end[i] > indptr[request + 1] or end[i] > entries:
            return False
    return True


class _Pool(NamedTuple):
    """The KV pool and who may read what of it. indices, indptr: the lists of pages; pages: of the pool.

    page_size: tokens of a page; stride: bytes from page to page; token: of a token.
    """

    indices: Int32Array
    indptr: Int32Array
    pages: int
    page_size: int
    stride: int
    token: int


class _Reader(NamedTuple):
    """How a kernel reads, from its traits. wide: bytes of a token that it reads; by_page, by_token: what an entry of kv_indices
    is looked up for, neither: a position's page of one token."""

    wide: int
    tile: int
    ahead: bool
    by_page: bool
    by_token: bool
    page_bits: int


def _reads(call: Call, known: KernelTraits, work: Stretches) -> tuple[Int64Array, Int64Array]:
    """Byte ranges that are read, [2, n], and what is told of reads of somebody else's pages: see _expand."""
    decode, paging = call.decode, known.paging
    size, stride, token = decode.page_size, decode.page_bytes, decode.token_bytes
    pool = _Pool(decode.kv_indices, call.decision.list_indptr, decode.kv_pages, size, stride, token)
    reader = _Reader(
        known.bytes_of_token(decode.kv_dtype.itemsize),
        known.tile,
        known.ahead,
        paging is KernelPaging.PAGE,
        paging is KernelPaging.TOKEN,
        known.page_bits,
    )
    found: tuple[Int64Array, Int64Array] = _expand(work, pool, reader)
    return found


_page_begins = njit(cache=True, nogil=True)(page_begins)


@njit(cache=True, nogil=True)
def _positions(length: int, padded: int, page_size: int, reader: _Reader) -> int:
    """Positions that a kernel fetches for a stretch of `length`, those past its end included."""
    if reader.by_token:
        return ((length + reader.tile - 1) // reader.tile + (1 if reader.ahead else 0)) * reader.tile
    if reader.by_page:
        # Entries past the end of the work are clamped to the last one, except in the first tile.
        return length + (1 if length * page_size < reader.tile else 0)
    return length + (1 if reader.ahead or padded else 0)


@njit(cache=True, nogil=True)
def _expand(work: Stretches, pool: _Pool, reader: _Reader) -> tuple[Int64Array, Int64Array]:
    """One range for each position, clamped ones included, once for each stretch.

    Foreign reads, [6]: source, entry of kv_indices, page id and byte of the first; the highest byte that one begins at; how
    many. Entries past the last one of the work are clamped to page 0, which counts as everybody's.
    """
    begin, end, indices, stride, wide = work.begin, work.end, pool.indices, pool.stride, reader.wide
    token_stride = pool.token
    per_entry = pool.page_size if reader.by_token else 1
    total = 0
    for i in range(len(begin)):
        if end[i] > begin[i]:
            total += end[i] - begin[i] + 2 * reader.tile + 1
    # A read across 2^32 is two: the descriptor refuses its last load before, and those after wrap to the pool's beginning.
    ranges = np.empty((2, 2 * total if reader.page_bits <= 32 else total), np.int64)
    first, last = ranges[0], ranges[1]
    foreign = np.zeros(6, np.int64)
    at = 0
    for i in range(len(begin)):
        length = end[i] - begin[i]
        if length <= 0:
            continue
        request = np.searchsorted(pool.indptr, begin[i], side="right") - 1
        mine_begin, mine_end = np.int64(-1), np.int64(-1)
        if 0 <= request < len(pool.indptr) - 1:
            mine_begin, mine_end = np.int64(pool.indptr[request]), np.int64(pool.indptr[request + 1])
        mine = np.sort(indices[max(mine_begin, 0) : max(mine_end, 0)]) if wide > token_stride else indices[:0]
        last_entry = (end[i] - 1) // per_entry
        for place in range(_positions(int(length), int(work.padded[i]), pool.page_size, reader)):
            entry = begin[i] // per_entry + place // per_entry if reader.by_token else begin[i] + place
            clamped = entry > last_entry
            page = np.int64(0)
            if not clamped:
                if entry < 0 or entry >= len(indices):
                    continue  # an index that nobody wrote leads anywhere
                page = np.int64(indices[entry])
            page_byte = _page_begins(int(page), stride, reader.page_bits)
            byte = page_byte + (place % pool.page_size * token_stride if reader.by_token else 0)
            behind = byte + (wide * pool.page_size if reader.by_page else wide)
            first[at], last[at] = byte, behind
            if reader.page_bits <= 32 and behind > WRAP:
                last[at] = WRAP - LOAD
                at += 1
                first[at], last[at] = 0, behind - WRAP
            at += 1
            wrong = not clamped and (entry < mine_begin or entry >= mine_end) and page != 0
            # Wider than the token: it ends in the next page.
            if wide > token_stride and byte % stride + wide > stride and page + 1 < pool.pages:
                after = np.searchsorted(mine, page + 1)
                wrong = wrong or after == len(mine) or mine[after] != page + 1
            if wrong or page_byte != page * stride:
                if foreign[5] == 0:
                    foreign[0], foreign[1], foreign[2], foreign[3] = work.source[i], entry, page, byte
                foreign[4] = max(foreign[4], byte)
                foreign[5] += 1
    return ranges[:, :at], foreign


def _foreign(call: Call, known: KernelTraits, reads: Int64Array) -> Violation:
    """All reads of somebody else's pages as one violation, with the first of them. reads: see _expand."""
    source, entry, page, byte, highest, count = reads.tolist()
    stride = call.decode.page_bytes
    why = f"{_why(known)}: entry {entry} of kv_indices, page {page}, is read at {byte}"
    if (known.page_bits < 64 and page * stride >= WRAP) or page >= 1 << 24:
        half = known.page_bits == HALF_MENDED
        keeps = "its low half takes 24 bits of the page id" if half else f"the product keeps {known.page_bits} bits"
        why += f", not at page_id * s_Bs = {page * stride}: {keeps}"
    items = call.plan.work_items if call.plan is not None and call.launched.persistent else None
    return Violation(
        ViolationKind.FOREIGN_PAGE,
        call.launched.code_object,
        "kv_buffer",
        False,
        byte,
        highest + known.bytes_of_token(call.decode.kv_dtype.itemsize),
        0,
        count,
        why,
        None if items is None else source,
        None if items is None else tuple(int(word) for word in items[source]),
    )


def _why(known: KernelTraits) -> str:
    if known.paging is KernelPaging.TOKEN:
        return "ptr_KV + ptr_LTD[position >> s_log2_plen] * s_Bs + place in the page"
    return "ptr_KV + ptr_LTD[position] * s_Bs"
