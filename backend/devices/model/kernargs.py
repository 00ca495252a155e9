"""Reads that do not depend on the work: the kernel argument segment, the scales, the metadata's two addresses."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import numpy.typing as npt

from backend.aiter.kernargs import WORK_ITEM_FIELDS, Kernarg, KernargReads, kernarg_reads
from backend.call import Call
from backend.case import DType
from backend.devices.accesses import FLOAT32, INT32, Accesses
from backend.devices.model.traits import KernelTraits
from backend.errors import UnmodelledError

_SCALES = {"q_scale": "ptr_QSCALE", "kv_scale": "ptr_KVSCALE"}
_METADATA_BYTES = 16


def reads_of(call: Call) -> KernargReads:
    """What the call's kernel reads; one that is not in the table is taken to read everything."""
    return _reads(call.launched.blob_id or "", call.launched.kernargs)


@lru_cache(maxsize=1024)
def _reads(blob_id: str, kernargs: tuple[Kernarg, ...]) -> KernargReads:
    try:
        return kernarg_reads(blob_id)
    except UnmodelledError:
        names = frozenset(kernarg.name for kernarg in kernargs)
        from backend.case import Arch

        return KernargReads(blob_id, Arch.GFX950, "", names, frozenset(WORK_ITEM_FIELDS))


def fixed(call: Call, known: KernelTraits, idle: bool) -> list[Accesses]:
    """Kernargs, scales, work_meta_data and work_indptr, for a footprint. Always in bounds.

    idle: no workgroup has an item, so that each ends when it has seen that.
    """
    launch = call.launched
    reads = reads_of(call)
    names = frozenset({"ptr_STP"}) if idle else reads.kernargs
    segment = [kernarg for kernarg in launch.kernargs if kernarg.name in names]
    begin = np.array([kernarg.offset for kernarg in segment], np.int64)
    size = [INT32 if kernarg.name in known.low_words.split() else kernarg.size for kernarg in segment]
    found = [_read("kernarg", begin, begin + np.array(size, np.int64), "kernarg + field")]
    passed = {kernarg.name: kernarg.value for kernarg in launch.kernargs}
    zero = np.zeros(1, np.int64)
    for tensor, pointer in _SCALES.items():
        if pointer in names and passed.get(pointer) == tensor:
            found.append(_read(tensor, zero, zero + FLOAT32, pointer))
    if launch.persistent:
        found.append(_read("work_meta_data", zero, zero + _METADATA_BYTES, "ptr_STP"))
        found.append(_read("work_indptr", zero, zero + (launch.grid[0] + 1) * INT32, "work_indptr + workgroup_x * 4"))
    return found


def through_null(call: Call, idle: bool) -> list[Accesses]:
    """Reads of a scale that the kernel asks for and the launcher has left null. idle: as of `fixed`."""
    pointer, zero = _SCALES["kv_scale"], np.zeros(1, np.int64)
    if idle or call.decode.kv_dtype is not DType.FP8 or pointer not in reads_of(call).kernargs:
        return []
    is_null = any(kernarg.name == pointer and kernarg.value == 0 for kernarg in call.launched.kernargs)
    return [Accesses("", False, zero, zero + FLOAT32, None, pointer)] if is_null else []


def _read(tensor: str, begin: npt.NDArray[np.int64], end: npt.NDArray[np.int64], why: str) -> Accesses:
    return Accesses(tensor, False, begin, end, None, why)
