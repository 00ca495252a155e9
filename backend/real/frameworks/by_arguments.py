"""Calls into AITER whose kernels nobody models here: their arguments are held against each other and against the batch.

The prefill paths end in assembly, CK and Triton; what is judged is what the caller decides: lengths, index tensors, buffers.
Signatures are those of ROCm/aiter e4048607a5 (aiter/ops/attention.py, aiter/ops/mha.py, aiter/mla.py), with need_lse of a
later one, which sglang 0.5.23 gives get_ps_metadata_v1. Knows no framework.
"""

from __future__ import annotations

import inspect
import itertools
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch

from backend.real.aiter_ops import OpCall
from backend.real.frameworks.record import ArgumentFault
from backend.real.torch_shim import host

Check = Callable[[Mapping[str, Any]], Iterator[ArgumentFault]]


def _signature(names: str, **defaults: Any) -> inspect.Signature:
    """Required parameters by name, then those with a default."""
    kind = inspect.Parameter.POSITIONAL_OR_KEYWORD
    required = [inspect.Parameter(name, kind) for name in names.split()]
    return inspect.Signature([*required, *(inspect.Parameter(key, kind, default=value) for key, value in defaults.items())])


def _plan_prefill(given: Mapping[str, Any]) -> Iterator[ArgumentFault]:
    """get_ps_metadata_v1 writes into the buffers that get_ps_metadata_info_v1 gives the sizes of."""
    qo, kv, lens = (_words(given[name]) for name in ("seqlens_qo_indptr", "pages_kv_indptr", "context_lens"))
    yield from _ascending("seqlens_qo_indptr", qo)
    yield from _ascending("pages_kv_indptr", kv)
    batch = len(qo) - 1
    if len(kv) != batch + 1:
        yield ArgumentFault("pages_kv_indptr", f"pages_kv_indptr has {len(kv)} entries for {batch} requests", False)
    if len(lens) < batch:
        yield ArgumentFault("context_lens", f"context_lens has {len(lens)} entries for {batch} requests", False)
    rows = max((b - a for a, b in itertools.pairwise(qo)), default=0)
    tiles = batch * math.ceil(rows / given["qlen_granularity"])
    for name, needed in (("reduce_indptr", tiles + 1), ("reduce_final_map", 2 * tiles)):
        held = given[name].numel()
        if held < needed:
            yield ArgumentFault(name, f"{name} has {held} words, {batch} requests of up to {rows} rows need {needed}", True)


def _prefill_ps(given: Mapping[str, Any]) -> Iterator[ArgumentFault]:
    """mla_prefill_ps_asm_fwd."""
    qo, kv, indices = (_words(given[name]) for name in ("qo_indptr", "kv_indptr", "kv_page_indices"))
    yield from _covered("qo_indptr", qo, given["Q"].shape[0], "q")
    yield from _covered("kv_indptr", kv, len(indices), "kv_page_indices")
    yield from _inside("kv_page_indices", indices[: kv[-1] if kv else 0], given["K"].shape[0], "k")
    yield from _longest("max_seqlen_q", given["max_seqlen_q"], qo)
    yield from _written("output", given["output"], qo, given["Q"].shape[1] * given["V"].shape[-1])
    if given["splitLse"].numel() < given["splitData"].shape[0] * given["Q"].shape[1]:
        yield ArgumentFault("splitLse", "splitLse holds fewer rows than splitData", True)


def _reduce(given: Mapping[str, Any]) -> Iterator[ArgumentFault]:
    """mla_reduce_v1 after it: partial results and output of the same heads."""
    partial_output, partial_lse, *between = given["args"]
    outputs = [each for each in between if isinstance(each, torch.Tensor) and each.dim() == partial_output.dim()]
    if partial_lse.numel() < partial_output.numel() // partial_output.shape[-1]:
        yield ArgumentFault("partial_lse", "partial_lse holds fewer rows than partial_output", False)
    for output in outputs:
        if output.shape[1:] != partial_output.shape[1:]:
            message = f"final_output has rows of {tuple(output.shape[1:])}, partial_output of {tuple(partial_output.shape[1:])}"
            yield ArgumentFault("final_output", message, True)


def _prefill(given: Mapping[str, Any]) -> Iterator[ArgumentFault]:
    """mla_prefill_fwd: absorbed prefill over the paged KV cache."""
    qo, kv, indices = (_words(given[name]) for name in ("qo_indptr", "kv_indptr", "kv_indices"))
    yield from _covered("qo_indptr", qo, given["q"].shape[0], "q")
    yield from _covered("kv_indptr", kv, len(indices), "kv_indices")
    yield from _inside("kv_indices", indices[: kv[-1] if kv else 0], given["kv_buffer"].shape[0], "kv_buffer")
    yield from _longest("max_seqlen_q", given["max_seqlen_q"], qo)
    yield from _written("o", given["o"], qo, given["q"].shape[1] * given["o"].shape[-1])
    if given["kv_last_page_lens"].numel() < len(qo) - 1:
        yield ArgumentFault("kv_last_page_lens", "kv_last_page_lens has fewer entries than there are requests", False)


def _varlen(given: Mapping[str, Any]) -> Iterator[ArgumentFault]:
    """flash_attn_varlen_func: rows of q, k and v, request by request."""
    q, k = _words(given["cu_seqlens_q"]), _words(given["cu_seqlens_k"])
    yield from _covered("cu_seqlens_q", q, given["q"].shape[0], "q")
    yield from _covered("cu_seqlens_k", k, given["k"].shape[0], "k")
    if given["v"].shape[0] != given["k"].shape[0]:
        yield ArgumentFault("v", f"v has {given['v'].shape[0]} rows, k {given['k'].shape[0]}", False)
    yield from _longest("max_seqlen_q", given["max_seqlen_q"], q)
    yield from _longest("max_seqlen_k", given["max_seqlen_k"], k)


SIGNATURES: dict[str, inspect.Signature] = {
    "mla_reduce_v1": inspect.signature(lambda *args: None),
    "get_ps_metadata_v1": _signature(
        "seqlens_qo_indptr pages_kv_indptr context_lens gqa_ratio num_heads_k work_metadata_ptrs work_indptr work_info "
        "reduce_indptr reduce_final_map reduce_partial_map",
        qhead_granularity=1,
        qlen_granularity=256,
        kvlen_granularity=16,
        block_size=16,
        is_causal=True,
        need_lse=False,
    ),
    "mla_prefill_ps_asm_fwd": _signature(
        "Q K V qo_indptr kv_indptr kv_page_indices work_indptr work_info_set max_seqlen_q softmax_scale is_causal splitData "
        "splitLse output",
        q_scale=None,
        k_scale=None,
        v_scale=None,
    ),
    "mla_prefill_fwd": _signature(
        "q kv_buffer o qo_indptr kv_indptr kv_indices kv_last_page_lens max_seqlen_q",
        sm_scale=None,
        logit_cap=0.0,
        num_kv_splits=None,
    ),
    "flash_attn_varlen_func": _signature(
        "q k v cu_seqlens_q cu_seqlens_k max_seqlen_q max_seqlen_k",
        min_seqlen_q=0,
        dropout_p=0.0,
        softmax_scale=None,
        logits_soft_cap=0.0,
        causal=False,
        window_size=(-1, -1),
        return_lse=False,
        out=None,
    ),
}
"""What stands for AITER's own function of the name."""

REDUCE = "mla_reduce_v1"
"""Decode reaches it too, from AITER's own Python; then it is the handlers'. 2026-08 added an argument in the middle."""

CHECKS: dict[str, Check] = {
    "get_ps_metadata_v1": _plan_prefill,
    "mla_prefill_ps_asm_fwd": _prefill_ps,
    "mla_prefill_fwd": _prefill,
    "flash_attn_varlen_func": _varlen,
    REDUCE: _reduce,
}


def is_checked(call: OpCall) -> bool:
    """Whether a call is judged by its arguments alone."""
    return call.name in CHECKS and (call.name != REDUCE or "args" in call.arguments)


def argument_faults(call: OpCall) -> tuple[ArgumentFault, ...]:
    """What of a call's arguments does not fit the others."""
    return tuple(CHECKS[call.name](call.arguments))


def result_of(call: OpCall) -> Any:
    """What the call gives its caller: the output's shape, its content never written; a plan in which no request is split."""
    if call.name == "get_ps_metadata_v1":
        for name in ("reduce_indptr", "reduce_final_map", "reduce_partial_map"):
            call.arguments[name].zero_()
    if call.name != "flash_attn_varlen_func":
        return None
    q, v = call.arguments["q"], call.arguments["v"]
    out = torch.empty((*q.shape[:-1], v.shape[-1]), dtype=torch.bfloat16, device="cuda")
    if call.arguments["return_lse"]:
        return out, torch.empty((q.shape[1], q.shape[0]), dtype=torch.float32, device="cuda")
    return out


def _words(tensor: torch.Tensor) -> list[int]:
    words: list[int] = host(tensor).view(-1).tolist()
    return words


def _ascending(name: str, indptr: list[int]) -> Iterator[ArgumentFault]:
    if not indptr or indptr[0] != 0 or any(a > b for a, b in itertools.pairwise(indptr)):
        yield ArgumentFault(name, f"{name} does not begin at 0 and ascend", False)


def _covered(name: str, indptr: list[int], held: int, of: str) -> Iterator[ArgumentFault]:
    yield from _ascending(name, indptr)
    if indptr and indptr[-1] > held:
        yield ArgumentFault(name, f"{name} ends at {indptr[-1]}, past the {held} rows of {of}", False)


def _inside(name: str, indices: list[int], rows: int, of: str) -> Iterator[ArgumentFault]:
    stray = next((each for each in indices if not 0 <= each < rows), None)
    if stray is not None:
        yield ArgumentFault(name, f"{name} names row {stray} of {of}, which has {rows}", False)


def _longest(name: str, given: int, indptr: list[int]) -> Iterator[ArgumentFault]:
    longest = max((b - a for a, b in itertools.pairwise(indptr)), default=0)
    if given < longest:
        yield ArgumentFault(name, f"{name} is {given}, the longest request has {longest} rows", False)


def _written(name: str, tensor: torch.Tensor, indptr: list[int], row: int) -> Iterator[ArgumentFault]:
    needed = (indptr[-1] if indptr else 0) * row
    if tensor.numel() < needed:
        yield ArgumentFault(name, f"{name} has {tensor.numel()} elements, the requests' rows are {needed}", True)
