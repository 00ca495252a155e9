"""Calls of AITER that write rows of the KV cache or gather them: none is run here, their arguments are held against each other.

Signatures are those of ROCm/aiter e4048607a5 (aiter/ops/cache.py, aiter/ops/triton/gather_kv_b_proj.py). Knows no framework.
"""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from typing import Any

from backend.real.frameworks.argument_parts import addressed, ascending, signature, words, written
from backend.real.frameworks.record import ArgumentFault

NOWHERE = -1
"""Slot of a token whose row is not written: padding of a graph, or a row that another rank holds."""


def _stored(given: Mapping[str, Any]) -> Iterator[ArgumentFault]:
    """concat_and_cache_mla, fused_qk_rope_concat_and_cache_mla: row i of kv_c goes into row slot_mapping[i] of the cache,
    [pages, tokens of a page, width]."""
    slots, cache = words(given["slot_mapping"]), given["kv_cache"]
    rows = cache.shape[0] * (cache.shape[1] if cache.dim() == 3 else 1)
    stray = next((each for each in slots if each != NOWHERE and not 0 <= each < rows), None)
    if stray is not None:
        yield ArgumentFault("slot_mapping", f"slot_mapping names row {stray} of kv_cache, which has {rows}", True)
    if len(slots) > given["kv_c"].shape[0]:
        message = f"slot_mapping has {len(slots)} entries, kv_c {given['kv_c'].shape[0]} rows"
        yield ArgumentFault("slot_mapping", message, False)


def _fused(given: Mapping[str, Any]) -> Iterator[ArgumentFault]:
    """Besides, q_out takes each row of q."""
    yield from _stored(given)
    q, out = given["q_nope"], given["q_out"]
    rows = q.shape[0]
    if out.shape[0] < rows or given["positions"].shape[0] < rows:
        message = f"q_nope has {rows} rows, q_out {out.shape[0]}, positions {given['positions'].shape[0]}"
        yield ArgumentFault("q_out", message, out.shape[0] < rows)


def _gathered(given: Mapping[str, Any]) -> Iterator[ArgumentFault]:
    """gather_kv_b_proj: the cached rows of each request, expanded to keys and values of all heads."""
    kv, tokens = words(given["kv_indptr"]), words(given["kv_prefix_sum_context_lens"])
    yield from addressed(given, kv, "kv_indices", given["k_buffer"], "k_buffer")
    yield from ascending("kv_prefix_sum_context_lens", tokens)
    for name in ("k_prefix", "v_prefix"):
        out = given[name]
        yield from written(name, out, tokens, out[0].numel() if out.shape[0] else 0)
    if len(tokens) < len(kv):
        message = f"kv_prefix_sum_context_lens has {len(tokens)} entries, kv_indptr {len(kv)}"
        yield ArgumentFault("kv_prefix_sum_context_lens", message, False)


CACHE_SIGNATURES: dict[str, inspect.Signature] = {
    "concat_and_cache_mla": signature("kv_c k_pe kv_cache slot_mapping kv_cache_dtype scale"),
    "fused_qk_rope_concat_and_cache_mla": signature(
        "q_nope q_pe kv_c k_pe kv_cache q_out slot_mapping k_scale q_scale positions cos_cache sin_cache is_neox is_nope_first",
        compute_all_q_rope=False,
    ),
    "gather_kv_b_proj": signature(
        "k_buffer k_scale kv_indptr kv_indices kv_prefix_sum_context_lens kv_proj_weight kv_proj_scale k_prefix v_prefix",
        weight_preshuffle=False,
        shuffled_kv_cache=False,
    ),
}
"""What stands for AITER's own function of the name."""

CACHE_CHECKS = {
    "concat_and_cache_mla": _stored,
    "fused_qk_rope_concat_and_cache_mla": _fused,
    "gather_kv_b_proj": _gathered,
}
