"""A Call's tensors as an address space of the machine: byte-exact, far apart, with who may touch what.

Index tensors, the plan and the kernargs hold their real contents; q, the KV pool and the outputs have bounds only, because no
address depends on them, unless numbers are asked for. What the planner wrote past a buffer's end lies there when the kernel
reads past it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
from numba import njit

from backend.aiter.launch import kernarg_bytes
from backend.aiter.planners.result import PlannedBuffer
from backend.aiter.tensors import TensorSpec
from backend.call import Call
from backend.cdna.memory import AddressSpace, Paging, Queue
from backend.devices.accesses import INT32, ITEM_BYTES

METADATA = ("work_indptr", "work_info_set", "reduce_indptr", "reduce_final_map", "reduce_partial_map")
OUTPUTS = ("logits", "attn_lse", "o", "final_lse")
REQUEST_AXIS = 1
"""A workgroup of a non-persistent launch works for the request that its y id names."""

Int32Array = npt.NDArray[np.int32]


def build(call: Call, values: Mapping[str, npt.NDArray[Any]] | None = None) -> tuple[AddressSpace, bytes]:
    """The address space of one launch and its kernel argument segment.

    values: what q and kv_buffer hold, raw and as stage 1 sees them; the outputs then keep what is written to them.
    """
    launch, decode = call.launched, call.decode
    space = AddressSpace()
    contents: dict[str, npt.NDArray[Any]] = {
        "qo_indptr": decode.qo_indptr,
        "kv_indptr": decode.kv_indptr,
        "kv_indices": decode.kv_indices,
        "kv_last_page_lens": decode.kv_last_page_lens,
        "num_kv_splits_indptr": np.arange(len(decode.qo_indptr), dtype=np.int32) * np.int32(launch.num_kv_splits),
        "q_scale": np.ones(1, np.float32),
        "kv_scale": np.ones(1, np.float32),
    }
    if decode.g_kv_indptr is not None:
        contents["g_kv_indptr"] = decode.g_kv_indptr
    planned = call.plan.buffers if call.plan is not None else {}
    for name, spec in launch.tensors.items():
        if name in launch.aliases or name == "work_meta_data":
            continue  # work_meta_data holds the addresses of two others and comes last
        paging = _paging(call) if name == "kv_buffer" else None
        if values is not None and name in values:
            given = _with_gaps(np.ascontiguousarray(values[name]), spec)
            assert given.nbytes == spec.nbytes, name
            space.add_array(name, given, paging=paging)
        elif name in planned:
            words = _with_overrun(planned[name])
            spill = (len(words) - planned[name].allocated) * INT32
            queue = Queue(ITEM_BYTES, _request_of_items(call, len(words) * INT32)) if name == "work_info_set" else None
            space.add_array(name, words, queue=queue, spill=spill)
        elif name in contents:
            space.add_array(name, np.ascontiguousarray(contents[name]))
        elif name in OUTPUTS:
            space.add_blank(name, spec.nbytes, has_data=values is not None)
        else:
            space.add_bounds(name, spec.nbytes, paging=paging)
    if "work_meta_data" in launch.tensors:
        pointers = np.array([space["work_indptr"].base, space["work_info_set"].base], np.uint64)
        space.add_array("work_meta_data", pointers)
    addresses = {region.name: region.base for region in space}
    return space, kernarg_bytes(launch, addresses)


def _with_gaps(given: npt.NDArray[Any], spec: TensorSpec) -> npt.NDArray[Any]:
    """The elements as they lie where rows have gaps between them, which hold NaN."""
    if not spec.gap or not given.nbytes:
        return given
    rows = given.reshape(spec.shape[0], -1).view(np.uint8)
    apart = np.full((spec.shape[0], spec.row_bytes), 0xFF, np.uint8)
    apart[:, : rows.shape[1]] = rows
    return apart.reshape(-1)[: spec.nbytes]


def _with_overrun(buffer: PlannedBuffer) -> Int32Array:
    """The buffer's words as the kernel finds them, with what the planner wrote behind its end."""
    return buffer.reading(0, max(buffer.allocated - 1, buffer.last))


def _paging(call: Call) -> Paging | None:
    """Pages of the pool that each request owns.

    Page 0 is everybody's: indices past the end of a request are clamped by the descriptor to page 0, which is fetched and
    thrown away. None for a pool without pages.
    """
    decode = call.decode
    pages = decode.kv_pages
    if not pages:
        return None
    # Zeros that nobody has touched cost no memory, so a pool of 10^8 pages costs what its requests hold.
    allowed = np.zeros((len(call.decision.kv_lens), -(-pages // 8)), np.uint8)
    _allow(allowed, decode.kv_indices, call.decision.list_indptr, pages)
    allowed[:, 0] |= 1
    return Paging(decode.page_bytes, allowed)


@njit(cache=True, nogil=True)
def _allow(allowed: npt.NDArray[np.uint8], indices: Int32Array, indptr: Int32Array, pages: int) -> None:
    """Set the bit of every page that a request's stretch of kv_indices names; page ids outside the pool are nobody's."""
    for request in range(min(len(allowed), len(indptr) - 1)):
        for entry in range(max(indptr[request], 0), min(indptr[request + 1], len(indices))):
            page = indices[entry]
            if 0 <= page < pages:
                allowed[request, page >> 3] |= np.uint8(1 << (page & 7))


def _request_of_items(call: Call, size: int) -> Int32Array:
    """The request whose pages each item names, -1 for a slot without an item. size: bytes of work_info_set and its overrun."""
    plan = call.plan
    assert plan is not None
    slots = -(-size // ITEM_BYTES)
    items = plan.work_items[:slots]
    request = np.full(slots, -1, np.int32)
    request[: len(items)] = np.searchsorted(call.decision.list_indptr, items[:, 4], side="right") - 1
    return request
