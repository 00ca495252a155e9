"""Calls into AITER whose kernels nobody models here: their arguments are held against each other and against the batch.

The prefill paths end in assembly, CK and Triton; what is judged is what the caller decides: lengths, index tensors, buffers.
Signatures stand in signatures_aiter.txt and signatures_frameworks.txt. Knows no framework.
"""

from __future__ import annotations

import inspect
import itertools
import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch

from backend.real.aiter_ops import REDUCE, OpCall
from backend.real.frameworks.argument_parts import (
    addressed,
    ascending,
    covered,
    for_another,
    inside,
    longest,
    paged_by,
    signatures,
    words,
    written,
)
from backend.real.frameworks.attention_arguments import ATTENTION_CHECKS, as_far
from backend.real.frameworks.cache_arguments import CACHE_CHECKS
from backend.real.frameworks.record import ArgumentFault
from backend.real.torch_shim import host
from backend.words import number_of

Check = Callable[[Mapping[str, Any]], Iterator[ArgumentFault]]


def _plan_prefill(given: Mapping[str, Any]) -> Iterator[ArgumentFault]:
    """get_ps_metadata_v1 writes into the buffers that get_ps_metadata_info_v1 gives the sizes of."""
    qo, kv, lens = (words(given[name]) for name in ("seqlens_qo_indptr", "pages_kv_indptr", "context_lens"))
    yield from ascending("seqlens_qo_indptr", qo)
    yield from ascending("pages_kv_indptr", kv)
    batch = len(qo) - 1
    if len(kv) != batch + 1:
        yield for_another("pages_kv_indptr", len(kv), "entry", batch, "request")
    if len(lens) < batch:
        yield for_another("context_lens", len(lens), "entry", batch, "request")
    rows = max((b - a for a, b in itertools.pairwise(qo)), default=0)
    tiles = batch * math.ceil(rows / given["qlen_granularity"])
    for name, needed in (("reduce_indptr", tiles + 1), ("reduce_final_map", 2 * tiles)):
        held = given[name].numel()
        if held < needed:
            yield ArgumentFault(
                name,
                f"{name} has {number_of(held, 'word')}, {number_of(batch, 'request')} of up to {rows} rows need {needed}",
                True,
            )


def _prefill_ps(given: Mapping[str, Any]) -> Iterator[ArgumentFault]:
    """mla_prefill_ps_asm_fwd: prefill by the plan of get_ps_metadata_v1."""
    qo = words(given["qo_indptr"])
    yield from covered("qo_indptr", qo, given["Q"].shape[0], "q")
    yield from addressed(given, words(given["kv_indptr"]), "kv_page_indices", given["K"], "k")
    yield from longest("max_seqlen_q", given["max_seqlen_q"], qo)
    yield from written("output", given["output"], qo, given["Q"].shape[1] * given["V"].shape[-1])
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
    qo = words(given["qo_indptr"])
    yield from covered("qo_indptr", qo, given["q"].shape[0], "q")
    yield from addressed(given, words(given["kv_indptr"]), "kv_indices", given["kv_buffer"], "kv_buffer")
    yield from longest("max_seqlen_q", given["max_seqlen_q"], qo)
    yield from written("o", given["o"], qo, given["q"].shape[1] * given["o"].shape[-1])
    if given["kv_last_page_lens"].numel() < len(qo) - 1:
        yield ArgumentFault("kv_last_page_lens", "kv_last_page_lens has fewer entries than there are requests", False)


def _segmented(given: Mapping[str, Any]) -> Iterator[ArgumentFault]:
    """mla_decode_fwd of aiter/ops/triton/attention/mla.py, which returns partial results: one q row and one row of the table
    for each length."""
    q, lens, table = words(given["cu_seqlens_q"]), words(given["seqused_k"]), host(given["block_tables"])
    cache, rows = given["kv_buffer"], len(lens)
    if len(q) < rows + 1:
        yield for_another("cu_seqlens_q", len(q), "entry", rows, "row")
    yield from covered("cu_seqlens_q", q[: rows + 1], given["q"].shape[0], "q")
    if max(lens, default=0) > given["max_seqlen_kv"]:
        yield ArgumentFault(
            "max_seqlen_kv", f"max_seqlen_kv is {given['max_seqlen_kv']}, a row has {number_of(max(lens), 'token')}", False
        )
    if table.shape[0] < rows:
        yield ArgumentFault("block_tables", f"block_tables has {number_of(table.shape[0], 'row')} for {rows}", False)
    yield from paged_by("block_tables", table, lens, cache.shape[1], cache.shape[0], "kv_buffer")


def _extend(given: Mapping[str, Any]) -> Iterator[ArgumentFault]:
    """extend_attention_fwd, the framework's own: new rows by qo_indptr, what was there before by kv_indptr."""
    qo = words(given["qo_indptr"])
    yield from covered("qo_indptr", qo, given["q_extend"].shape[0], "q_extend")
    yield from addressed(given, words(given["kv_indptr"]), "kv_indices", given["k_buffer"], "k_buffer")
    yield from longest("max_len_extend", given["max_len_extend"], qo)


def _gather(given: Mapping[str, Any]) -> Iterator[ArgumentFault]:
    """gather_and_maybe_dequant_cache, vLLM's own: cached rows of each request, by its block table from seq_starts on, one
    behind the other into dst."""
    ends, table, cache = words(given["cu_seq_lens"]), host(given["block_table"]), given["src_cache"]
    yield from ascending("cu_seq_lens", ends)
    if len(ends) <= given["batch_size"]:
        yield for_another("cu_seq_lens", len(ends), "entry", given["batch_size"], "request")
    if ends and max(ends[-1], given["num_tokens"]) > given["dst"].shape[0]:
        rows = max(ends[-1], given["num_tokens"])
        yield ArgumentFault("dst", f"dst has {number_of(given['dst'].shape[0], 'row')}, {rows} are gathered", True)
    starts = words(given["seq_starts"]) if given["seq_starts"] is not None else [0] * len(table)
    lens = [start + end - begin for start, (begin, end) in zip(starts, itertools.pairwise(ends), strict=False)]
    yield from paged_by("block_table", table, lens, cache.shape[1], cache.shape[0], "src_cache")


def _gluon(given: Mapping[str, Any]) -> Iterator[ArgumentFault]:
    """mla_gluon and mla_decode_gluon: decode for few heads, kv_c of one row a token; a page table with lengths (use_2d_view) or
    kv_indices with kv_indptr. q of [requests, heads, 512], or [requests, queries, heads, 512]."""
    q, table, ends, rows = given["q_nope"], host(given["page_table"]), words(given["seq_info"]), given["kv_c"].shape[0]
    batch = q.shape[0]
    if len(ends) < batch + (not given["use_2d_view"]):
        yield for_another("seq_info", len(ends), "entry", batch, "request")
    elif given["use_2d_view"]:
        for row, length in zip(table.tolist(), ends, strict=False):
            if length > len(row):
                yield ArgumentFault(
                    "page_table", f"page_table has {number_of(len(row), 'token')} a request, one has {length}", False
                )
            yield from inside("page_table", row[:length], rows, "kv_c")
    else:
        held = table.view(-1).tolist()
        yield from covered("seq_info", ends[: batch + 1], len(held), "page_table")
        yield from inside("page_table", held[: ends[batch]], rows, "kv_c")
    if given["q_pe"] is not None and given["q_pe"].shape[:-1] != q.shape[:-1]:
        message = f"q_pe has rows of {tuple(given['q_pe'].shape[:-1])}, q_nope of {tuple(q.shape[:-1])}"
        yield ArgumentFault("q_pe", message, False)
    yield from written("o", given["o"], [0, math.prod(q.shape[:-1])], q.shape[-1])


def _listed(given: Mapping[str, Any]) -> Iterator[ArgumentFault]:
    """Sparse attention by a list of KV rows for each q row, -1 behind its end: [rows, 1, entries]."""
    q = given["q"] if "q" in given else given["q_nope"]
    lists = host(given["indices"])
    if lists.shape[0] != q.shape[0]:
        yield ArgumentFault(
            "indices", f"indices has {number_of(lists.shape[0], 'list')} for {number_of(q.shape[0], 'row')} of q", False
        )
    yield from inside("indices", [each for each in words(given["indices"]) if each != -1], given["kv"].shape[0], "kv")


def _packed(given: Mapping[str, Any]) -> Iterator[ArgumentFault]:
    """Sparse attention by lists end to end: q row r has the KV rows of indices from indptr[r] to indptr[r + 1]."""
    indptr, names = ("kv_indptr", "kv_indices") if "kv_indptr" in given else ("ragged_indptr", "ragged_indices")
    kv, out = (given[name] for name in (("kv_buffer", "out") if "kv_buffer" in given else ("kv", "output")))
    q, ends, held = given["q"], words(given[indptr]), words(given[names])
    if len(ends) < q.shape[0] + 1:
        yield for_another(indptr, len(ends), "entry", q.shape[0], "row")
    ends = ends[: q.shape[0] + 1]
    yield from covered(indptr, ends, len(held), names)
    yield from inside(names, held[: ends[-1]], kv.shape[0], "kv")
    if out is not None:
        yield from written("o", out, [0, q.shape[0]], q.shape[1] * out.shape[-1])


SEGMENTED = "triton mla_decode_fwd"
"""How a function is told from the one of the same name in aiter/mla.py."""

SEGMENTS = 4
"""Partial results a row that stand for what it returns; the real number follows from the shape."""

SIGNATURES = signatures("signatures_aiter.txt")
"""What stands for AITER's own function of the name."""

SIGNATURES[SEGMENTED] = SIGNATURES.pop("triton_mla_decode_fwd")
SIGNATURES[REDUCE] = inspect.signature(lambda *args: None)  # 2026-08 added an argument in the middle

OWN_KERNELS = signatures("signatures_frameworks.txt")
"""The same for kernels of the frameworks' own."""

BY_LISTS = frozenset({"triton_sparse_mla_fwd", "triton_sparse_mla_decode_splitk", "tilelang_sparse_fwd"})
"""Functions of sglang's that return o of [1, rows, heads, d_v]."""

CHECKS: dict[str, Check] = {
    "get_ps_metadata_v1": _plan_prefill,
    "mla_prefill_ps_asm_fwd": _prefill_ps,
    "mla_prefill_fwd": _prefill,
    SEGMENTED: _segmented,
    "mla_gluon": _gluon,
    "mla_decode_gluon": _gluon,
    "extend_attention_fwd": _extend,
    "gather_and_maybe_dequant_cache": _gather,
    REDUCE: _reduce,
    "sparse_mla_fwd": _packed,
    "rocm_sparse_attn_prefill": _packed,
    "rocm_sparse_attn_decode_bf16": _packed,
    **dict.fromkeys(BY_LISTS, _listed),
    **CACHE_CHECKS,
    **ATTENTION_CHECKS,
}

GIVE_OUTPUT = frozenset({"flash_attn_varlen_func", "flash_attn_varlen_fp8_pertensor_func", "mha_batch_prefill_func"})
"""Functions that allocate their output."""

GLUON = frozenset({"mla_gluon", "mla_decode_gluon"})
"""Functions that return the output they are given, and its log-sum-exp or None."""


def is_checked(call: OpCall) -> bool:
    """Whether a call is judged by its arguments alone; the reduction that decode reaches is the handlers'."""
    return call.name in CHECKS and (call.name != REDUCE or "args" in call.arguments)


def argument_faults(call: OpCall) -> tuple[ArgumentFault, ...]:
    """What of a call's arguments does not fit the others."""
    return tuple(CHECKS[call.name](call.arguments))


INDICES = ("kv_page_indices", "kv_indices", "page_table")


def as_addresses(given: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of a captured call: index tensors reach as far as the memory that they lie in, whatever view was captured."""
    reach = {name: as_far(given[name]) for name in INDICES if name in given and given[name].dim() == 1}
    return {**given, **reach}


def result_of(call: OpCall) -> Any:
    """What the call gives its caller: the output's shape, its content never written; a plan in which no request is split."""
    if call.name == "get_ps_metadata_v1":
        _fill_plan(call.arguments)
    if call.name == SEGMENTED:
        rows, heads = call.arguments["q"].shape[:2]
        each = (rows, heads, SEGMENTS)
        shapes = (*each, call.arguments["kv_lora_rank"]), each, each
        return tuple(torch.empty(shape, dtype=torch.float32, device="cuda") for shape in shapes)
    if call.name in GLUON:
        return call.arguments["o"], None
    if call.name in BY_LISTS:
        q = call.arguments["q"] if "q" in call.arguments else call.arguments["q_nope"]
        return torch.empty((1, *q.shape[:-1], call.arguments["d_v"]), dtype=torch.bfloat16, device="cuda")
    if call.name not in GIVE_OUTPUT:
        return None
    q, v = call.arguments["q"], call.arguments["v"]
    out = torch.empty((*q.shape[:-1], v.shape[-1]), dtype=torch.bfloat16, device="cuda")
    if call.arguments.get("return_lse"):
        return out, torch.empty((q.shape[1], q.shape[0]), dtype=torch.float32, device="cuda")
    return out


def _fill_plan(given: Mapping[str, Any]) -> None:
    """A plan of prefill: nothing to reduce, or (need_lse) one partial result for each tile of q rows."""
    for name in ("reduce_indptr", "reduce_final_map", "reduce_partial_map"):
        given[name].zero_()
    if given["need_lse"]:
        tile = given["qlen_granularity"]
        tiles = sum(math.ceil((b - a) / tile) for a, b in itertools.pairwise(words(given["seqlens_qo_indptr"])))
        host(given["reduce_indptr"]).copy_(torch.arange(given["reduce_indptr"].numel()).clamp(max=tiles))
        host(given["reduce_partial_map"]).copy_(tile * torch.arange(given["reduce_partial_map"].numel()).clamp(max=tiles - 1))
