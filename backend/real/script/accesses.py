"""What AITER's operations of MLA decode and prefill read and write of the tensors that they are given, by parameter.

Index tensors and metadata count whole; of the KV pool those pages that kv_indices names between the ends of kv_indptr.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

import numpy as np
import torch

from backend.real.aiter_ops import PLANNING, REDUCE
from backend.real.handlers import STAGE_1
from backend.real.observe import PLANNING_ROLES, words_read
from backend.real.script import prefill
from backend.real.script.stage1 import ROLES
from backend.real.script.timeline import Access, Ranges
from backend.real.torch_shim import host

WRITTEN = {
    PLANNING: frozenset(PLANNING_ROLES),
    STAGE_1: frozenset({"splitData", "splitLse", "output", "lse"}),
    REDUCE: frozenset({"final_output", "final_lse"}),
    **prefill.WRITTEN,
}
"""By operation, the parameters that it writes."""

PLACES = {"partial_output": "logits", "partial_lse": "attn_lse", "final_output": "o"}
"""Parameter of mla_reduce_v1 -> tensor, as ROLES says it of stage 1."""

_DECODE_ROLES = {**PLACES, **ROLES, **PLANNING_ROLES}


class Accessing(Protocol):
    """Who knows the storages of tensors (backend.real.script.gpu.ScriptGpu.access)."""

    def __call__(self, tensor: torch.Tensor, is_write: bool, name: str = "", ranges: Ranges | None = None) -> Access:
        """What reading or writing a tensor is."""


def accesses_of(access: Accessing, operation: str, given: Mapping[str, Any]) -> Sequence[Access]:
    """Of one call, by its present content."""
    found = []
    roles = prefill.OPERATIONS[operation] if prefill.Prefill.serves(operation) else _DECODE_ROLES
    for name, value in given.items():
        if not torch.is_tensor(value) or not value.is_cuda:
            continue
        ranges = _pages(given) if name == "KV" else None
        role = roles.get(name, name)
        found.append(access(value, name in WRITTEN[operation], role, ranges))
    return found


def _pages(given: Mapping[str, Any]) -> Ranges:
    """Addresses of the pages of KV that are used, those outside of the pool left out: they are another matter."""
    kv = host(given["KV"])
    ends = words_read(given["kv_indptr"])
    indices = words_read(given["kv_page_indices"], int(ends[-1]) if ends.size else 0)
    used = np.unique(indices[max(int(ends[0]), 0) : max(int(ends[-1]), 0)] if ends.size else indices[:0]).astype(np.int64)
    used = used[(used >= 0) & (used < kv.shape[0])]
    size = kv.stride(0) * kv.element_size()
    begin = kv.data_ptr() + used * size
    return np.stack([begin, begin + size], axis=1)
