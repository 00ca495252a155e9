"""A Call's tensors as an address space of the machine: byte-exact, far apart, with who may touch what.

Index tensors, the plan and the kernargs hold their real contents; q, the KV pool and the outputs have bounds only, because no
address depends on them.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from backend.aiter.launch import kernarg_bytes
from backend.call import Call
from backend.cdna.memory import AddressSpace, Paging, Queue

ITEM_BYTES = 32
INT32 = 4

METADATA = ("work_indptr", "work_info_set", "reduce_indptr", "reduce_final_map", "reduce_partial_map")
OUTPUTS = ("logits", "attn_lse", "o", "final_lse")

Int32Array = npt.NDArray[np.int32]


def build(call: Call) -> tuple[AddressSpace, bytes]:
    """The address space of one launch and its kernel argument segment."""
    launch, decode = call.launched, call.decode
    space = AddressSpace()
    contents: dict[str, npt.NDArray[np.generic]] = {
        "qo_indptr": decode.qo_indptr,
        "kv_indptr": decode.kv_indptr,
        "kv_indices": decode.kv_indices,
        "kv_last_page_lens": decode.kv_last_page_lens,
        "num_kv_splits_indptr": np.arange(len(decode.qo_indptr), dtype=np.int32) * np.int32(launch.num_kv_splits),
        "q_scale": np.ones(1, np.float32),
        "kv_scale": np.ones(1, np.float32),
    }
    if call.plan is not None:
        contents |= {name: call.plan.buffers[name].words for name in METADATA}
    for name, spec in launch.tensors.items():
        if name in launch.aliases:
            continue
        if name == "kv_buffer":
            space.add_bounds(name, spec.nbytes, paging=_paging(call))
        elif name == "work_meta_data":
            continue  # holds the addresses of two others
        elif name in contents:
            array = np.ascontiguousarray(contents[name])
            space.add_array(name, array, queue=_queue(call, name, array))
        elif name in OUTPUTS:
            space.add_blank(name, spec.nbytes, has_data=False)
        else:
            space.add_bounds(name, spec.nbytes)
    if "work_meta_data" in launch.tensors:
        pointers = np.array([space["work_indptr"].base, space["work_info_set"].base], np.uint64)
        space.add_array("work_meta_data", pointers)
    addresses = {region.name: region.base for region in space}
    return space, kernarg_bytes(launch, addresses)


def _paging(call: Call) -> Paging:
    """Pages of the pool that each request owns, [requests, pages]."""
    decode = call.decode
    pages = decode.kv_pages
    stride = call.launched.tensors["kv_buffer"].nbytes // max(pages, 1)
    allowed = np.zeros((len(call.decision.kv_lens), pages), np.bool_)
    indptr = decode.kv_indptr
    for request in range(min(len(allowed), len(indptr) - 1)):
        owned = decode.kv_indices[indptr[request] : indptr[request + 1]]
        allowed[request, owned[(owned >= 0) & (owned < pages)]] = True
    # Indices past the end of a request are clamped by the descriptor to page 0, which is fetched and thrown away.
    allowed[:, 0] = True
    return Paging(stride, allowed)


def _queue(call: Call, name: str, array: npt.NDArray[np.generic]) -> Queue | None:
    """What tells a wave's request: the work item it read last or, without items, the entry of kv_indptr."""
    if call.launched.persistent and name == "work_info_set":
        return Queue(ITEM_BYTES, _request_of_items(call, array.nbytes // ITEM_BYTES))
    if not call.launched.persistent and name == "kv_indptr":
        return Queue(INT32)
    return None


def _request_of_items(call: Call, slots: int) -> Int32Array:
    """The request whose pages each item names, -1 for a slot without an item."""
    plan = call.plan
    assert plan is not None
    items = plan.work_items[:slots]
    request = np.full(slots, -1, np.int32)
    request[: len(items)] = np.searchsorted(call.decode.kv_indptr, items[:, 4], side="right") - 1
    return request
