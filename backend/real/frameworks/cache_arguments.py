"""Calls of AITER that write rows of the KV cache or gather them: none is run here, their arguments are held against each other.

Knows no framework.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from backend.real.frameworks.argument_parts import addressed, ascending, inside, words, written
from backend.real.frameworks.record import ArgumentFault
from backend.words import number_of

NOWHERE = -1
"""Slot of a token whose row is not written: padding of a graph, or a row that another rank holds."""


def _stored(given: Mapping[str, Any]) -> Iterator[ArgumentFault]:
    """concat_and_cache_mla, fused_qk_rope_concat_and_cache_mla: row i of kv_c goes into row slot_mapping[i] of the cache,
    [pages, tokens of a page, width]."""
    cache = given["kv_cache"]
    yield from _slots(given, cache.shape[0] * (cache.shape[1] if cache.dim() == 3 else 1), "kv_cache", "kv_c")


def _slots(given: Mapping[str, Any], rows: int, cache: str, new: str) -> Iterator[ArgumentFault]:
    """slot_mapping names rows of the cache, or NOWHERE, for no more than the new rows."""
    slots = words(given["slot_mapping"])
    stray = next((each for each in slots if each != NOWHERE and not 0 <= each < rows), None)
    if stray is not None:
        yield ArgumentFault("slot_mapping", f"slot_mapping names row {stray} of {cache}, which has {rows}", True)
    if len(slots) > given[new].shape[0]:
        message = f"slot_mapping has {number_of(len(slots), 'entry')}, {new} {number_of(given[new].shape[0], 'row')}"
        yield ArgumentFault("slot_mapping", message, False)


def _kept(given: Mapping[str, Any]) -> Iterator[ArgumentFault]:
    """reshape_and_cache_flash, fused_qk_rope_reshape_and_cache: row i of the new keys and values goes into slot
    slot_mapping[i] of two caches, each [pages, tokens of a page, heads, width]."""
    new, cache = "key" if "key" in given else "k", given["key_cache"]
    yield from _slots(given, cache.shape[0] * cache.shape[1], "key_cache", new)
    if given["value_cache"].shape != cache.shape:
        message = f"value_cache is {tuple(given['value_cache'].shape)}, key_cache {tuple(cache.shape)}"
        yield ArgumentFault("value_cache", message, True)
    if given.get("pos") is not None:
        yield from inside("pos", words(given["pos"]), given["cos"].shape[0], "cos")


def _normed(given: Mapping[str, Any]) -> Iterator[ArgumentFault]:
    """fused_qk_norm_rope_cache_pts_quant_shuffle: the same for rows of q, k and v that lie in one tensor."""
    cache, rows = given["k_cache"], given["num_tokens"]
    yield from _slots(given, cache.shape[0] * given["block_size"], "k_cache", "qkv")
    heads = given["num_heads_q"] + given["num_heads_k"] + given["num_heads_v"]
    if given["qkv"].numel() < rows * heads * given["head_size"]:
        message = f"qkv has {number_of(given['qkv'].numel(), 'element')}, {rows} rows of {heads} heads are more"
        yield ArgumentFault("qkv", message, False)
    yield from inside("positions", words(given["positions"]), given["cos_sin"].shape[0], "cos_sin")
    for name, held in (("q_out", given["num_heads_q"]), ("k_out", given["num_heads_k"])):
        if given[name] is not None:
            yield from written(name, given[name], [0, rows], held * given["head_size"])


def _fused(given: Mapping[str, Any]) -> Iterator[ArgumentFault]:
    """Besides, q_out takes each row of q."""
    yield from _stored(given)
    q, out = given["q_nope"], given["q_out"]
    rows = q.shape[0]
    if out.shape[0] < rows or given["positions"].shape[0] < rows:
        message = f"q_nope has {number_of(rows, 'row')}, q_out {out.shape[0]}, positions {given['positions'].shape[0]}"
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
        message = f"kv_prefix_sum_context_lens has {number_of(len(tokens), 'entry')}, kv_indptr {len(kv)}"
        yield ArgumentFault("kv_prefix_sum_context_lens", message, False)


CACHE_CHECKS = {
    "concat_and_cache_mla": _stored,
    "fused_qk_rope_concat_and_cache_mla": _fused,
    "gather_kv_b_proj": _gathered,
    "fused_qk_rope_reshape_and_cache": _kept,
    "fused_qk_norm_rope_cache_pts_quant_shuffle": _normed,
    "reshape_and_cache_flash": _kept,
}
