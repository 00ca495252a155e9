"""Reads of the KV pool: which pages a kernel reads for which request, and addresses that are not page_id * stride."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from backend.call import Call
from backend.devices.accesses import Accesses
from backend.devices.model.traits import KernelTraits
from backend.observation import Violation, ViolationKind

Int64Array = npt.NDArray[np.int64]


def violations(call: Call, known: KernelTraits) -> list[Violation]:
    """Pages that a request does not own, read because the kernel's address arithmetic is narrower than the pool or the page."""
    return [found for found in (_wrap(call, known), _page_size(call, known)) if found is not None]


def accesses(call: Call, known: KernelTraits) -> list[Accesses]:
    """The bytes of the pool that stage 1 reads, a page a range, every page that an index range names."""
    decode = call.decode
    stride = _stride(call)
    first, last = _index_ranges(call)
    used = np.zeros(len(decode.kv_indices) + 1, np.int64)
    inside = (first >= 0) & (last <= len(decode.kv_indices)) & (last > first)
    np.add.at(used, first[inside], 1)
    np.add.at(used, last[inside], -1)
    pages = decode.kv_indices[np.cumsum(used)[:-1] > 0].astype(np.int64)
    begin = _address(pages, stride, known)
    return [Accesses("kv_buffer", False, begin, begin + stride, None, "kv_buffer + kv_indices[i] * s_Bs")]


def _wrap(call: Call, known: KernelTraits) -> Violation | None:
    """The first page whose address is not page_id * stride."""
    decode = call.decode
    if known.page_bits >= 64 or not len(decode.kv_indices):
        return None
    stride = _stride(call)
    pages = decode.kv_indices.astype(np.int64)
    wrong = _address(pages, stride, known) != pages * stride
    if not wrong.any():
        return None
    at = int(np.argmax(wrong))
    begin = int(_address(pages[at : at + 1], stride, known)[0])
    why = (
        f"page {int(pages[at])} of kv_indices[{at}] is read at {begin}, not at page_id * s_Bs = {int(pages[at]) * stride}: "
        f"the product keeps {known.page_bits} bits"
    )
    stage, count = call.launched.code_object, int(np.count_nonzero(wrong))
    return Violation(ViolationKind.FOREIGN_PAGE, stage, "kv_buffer", False, begin, begin + stride, 0, count, why)


def _page_size(call: Call, known: KernelTraits) -> Violation | None:
    """A kernel that takes every index for one token's reads indices, and so pages, of other requests."""
    page = call.decode.page_size
    if known.honours_page_size or page == 1:
        return None
    first, last = _index_ranges(call)
    tokens = (last - first) * page
    at = int(np.argmax(tokens))
    begin, read, owned = int(first[at]), int(tokens[at]), int(last[at] - first[at])
    why = f"indices [{begin}, {begin + read}) are read for {owned} pages of {page} tokens"
    stage = call.launched.code_object
    return Violation(ViolationKind.FOREIGN_PAGE, stage, "kv_buffer", False, 0, 0, 0, len(first), why, at)


def _index_ranges(call: Call) -> tuple[Int64Array, Int64Array]:
    """[begin, end) in kv_indices of each work item, or of each request where there are none."""
    if call.plan is not None and call.launched.persistent:
        items = call.plan.work_items
        return items[:, 4].astype(np.int64), items[:, 5].astype(np.int64)
    indptr = call.decode.kv_indptr.astype(np.int64)
    return indptr[:-1], indptr[1:]


def _stride(call: Call) -> int:
    spec = call.launched.tensors["kv_buffer"]
    return spec.nbytes // max(spec.shape[0], 1)


def _address(pages: npt.NDArray[np.int64], stride: int, known: KernelTraits) -> Int64Array:
    """Byte offset of each page as the kernel computes it."""
    if known.page_bits == 24:
        return ((pages & 0xFFFFFF) * stride) & 0xFFFFFFFF
    if known.page_bits == 32:
        return (pages * stride) & 0xFFFFFFFF
    return pages * stride
