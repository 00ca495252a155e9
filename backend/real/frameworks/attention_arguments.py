"""Calls of AITER's ordinary attention (MHA, GQA), which end in CK, Triton, HIP and assembly: none is run here, their arguments
are held against each other.

Knows no framework.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Mapping
from typing import Any

import torch

from backend.real.frameworks.argument_parts import (
    addressed,
    covered,
    for_another,
    longest,
    paged_by,
    words,
    written,
)
from backend.real.frameworks.record import ArgumentFault
from backend.real.torch_shim import host
from backend.words import counted, number_of


def _varlen(given: Mapping[str, Any]) -> Iterator[ArgumentFault]:
    """flash_attn_varlen_func: rows of q, k and v, request by request."""
    q, k = words(given["cu_seqlens_q"]), words(given["cu_seqlens_k"])
    yield from covered("cu_seqlens_q", q, given["q"].shape[0], "q")
    yield from covered("cu_seqlens_k", k, given["k"].shape[0], "k")
    if given["v"].shape[0] != given["k"].shape[0]:
        yield ArgumentFault("v", f"v has {number_of(given['v'].shape[0], 'row')}, k {given['k'].shape[0]}", False)
    yield from longest("max_seqlen_q", given["max_seqlen_q"], q)
    yield from longest("max_seqlen_k", given["max_seqlen_k"], k)


def _paged(given: Mapping[str, Any]) -> Iterator[ArgumentFault]:
    """paged_attention_ragged: one q row a request, its KV pages by kv_indptr."""
    rows, kv = given["query"].shape[0], words(given["kv_indptr"])
    if len(kv) < rows + 1:
        yield for_another("kv_indptr", len(kv), "entry", rows, "request")
    kv = kv[: rows + 1]
    yield from addressed(given, kv, "kv_page_indices", given["key_cache"], "key_cache")
    yield from longest(
        "max_num_partitions",
        given["max_num_partitions"] * given["partition_size"],
        [each * given["block_size"] for each in kv],
    )
    yield from written("out", given["out"], [0, rows], given["query"].shape[1] * given["value_cache"].shape[-1])
    if given["kv_last_page_lens"].numel() < rows:
        yield ArgumentFault(
            "kv_last_page_lens", f"kv_last_page_lens has fewer entries than the {number_of(rows, 'request')}", False
        )
    heads, partitions = given["query"].shape[1], given["max_num_partitions"]
    needed = rows * heads * partitions * (2 * 4 + given["query"].shape[2] * given["out"].element_size())
    held = given["workspace_buffer"].numel() * given["workspace_buffer"].element_size()
    if held < needed:
        yield ArgumentFault(
            "workspace_buffer", f"workspace_buffer has {counted(held, 'byte')}, {rows} requests need {needed:,}", True
        )


def _paged_by_table(given: Mapping[str, Any]) -> Iterator[ArgumentFault]:
    """paged_attention_v1: requests by a table of pages, one q row each where cu_query_lens has one; others are passed over.

    The kernel reads cu_query_lens by its address, one entry past the requests (csrc/cpp_itfs/pa/pa_v1.cuh).
    """
    table, ends = host(given["block_tables"]), given["cu_query_lens"]
    requests, heads = table.shape[0], given["query"].shape[1]
    page = given["key_cache"].shape[2 if given["kv_cache_layout"] == "HND" else 1]
    yield from _by_table(given, given["max_context_len"], page, given["key_cache"].shape[0])
    rows = requests
    if ends is not None:
        held = words(as_far(ends))[: requests + 1]
        if len(held) < requests + 1:
            yield for_another("cu_query_lens", len(held), "entry", requests, "request")
        yield from covered("cu_query_lens", held, given["query"].shape[0], "query")
        rows = held[-1]
    yield from written("out", given["out"], [0, rows], heads * given["query"].shape[2])
    partitions = math.ceil(given["max_context_len"] / given["partition_size"])
    needed = requests * given["mtp"] * heads * partitions * (given["query"].shape[2] * given["query"].element_size() + 2 * 4)
    held_bytes = given["workspace_buffer"].numel() * given["workspace_buffer"].element_size()
    if held_bytes < needed:
        message = (
            f"workspace_buffer has {counted(held_bytes, 'byte')}, {number_of(requests, 'request needs', 'requests need')} "
            f"{needed:,}"
        )
        yield ArgumentFault("workspace_buffer", message, True)


def _by_table(given: Mapping[str, Any], limit: int, page: int, pages: int) -> Iterator[ArgumentFault]:
    """block_tables and context_lens of paged attention. limit: tokens that partial results are made for."""
    table, lens = host(given["block_tables"]), words(given["context_lens"])
    if len(lens) < table.shape[0]:
        yield for_another("context_lens", len(lens), "entry", table.shape[0], "request")
    lens = lens[: table.shape[0]]
    if max(lens, default=0) > limit:
        yield ArgumentFault("max_context_len", f"it is {limit}, a request has {number_of(max(lens), 'token')}", False)
    yield from paged_by("block_tables", table, lens, page, pages, "key_cache")


def _paged_shuffled(given: Mapping[str, Any]) -> Iterator[ArgumentFault]:
    """paged_attention_common, which takes assembly or HIP: one q row a request; K of [pages, heads, head / x, page, x]."""
    q, table = given["Q"], host(given["block_tables"])
    requests, heads, width = q.shape
    yield from _by_table(given, given["max_seq_len"], given["K"].shape[3], given["K"].shape[0])
    if table.shape[0] < requests:
        yield for_another("block_tables", table.shape[0], "row", requests, "request")
    if given["block_tables_stride0"] != table.stride(0):
        message = f"it is {given['block_tables_stride0']}, a row of block_tables has {table.stride(0)}"
        yield ArgumentFault("block_tables_stride0", message, False)
    if given["out_"] is not None:
        yield from written("out_", given["out_"], [0, requests], heads * width)
    each = requests * heads * math.ceil(given["max_seq_len"] / PARTITION)
    for name, needed in (("exp_sums", each), ("max_logits", each), ("tmp_out", each * width)):
        if given[name].numel() < needed:
            message = (
                f"{name} has {number_of(given[name].numel(), 'element')}, "
                f"{number_of(requests, 'request needs', 'requests need')} {needed}"
            )
            yield ArgumentFault(name, message, True)
    slots = given["K"].shape[0] * given["K"].shape[1] * given["K"].shape[3]
    for name in ("K_QScale_asm", "V_QScale_asm"):
        if given[name] is not None and given[name].numel() < slots:
            yield ArgumentFault(name, f"{name} has {given[name].numel()} scales, the cache {slots} slots", False)


PARTITION = 256
"""Tokens of a partial result in paged_attention_common."""


def _unified(given: Mapping[str, Any]) -> Iterator[ArgumentFault]:
    """unified_attention: q rows by cu_seqlens_q, KV pages by a table of one row a request."""
    q, lens, table = words(given["cu_seqlens_q"]), words(given["seqused_k"]), host(given["block_table"])
    batch, page, pages = len(lens), given["k"].shape[1], given["k"].shape[0]
    if len(q) < batch + 1:
        yield for_another("cu_seqlens_q", len(q), "entry", batch, "request")
    yield from covered("cu_seqlens_q", q[: batch + 1], given["q"].shape[0], "q")
    yield from longest("max_seqlen_q", given["max_seqlen_q"], q[: batch + 1])
    yield from written("out", given["out"], q[: batch + 1], given["q"].shape[1] * given["v"].shape[-1])
    if table.shape[0] < batch:
        yield for_another("block_table", table.shape[0], "row", batch, "request")
    yield from paged_by("block_table", table, lens, page, pages, "k")


def _batch_prefill(given: Mapping[str, Any]) -> Iterator[ArgumentFault]:
    """mha_batch_prefill_func: q rows by cu_seqlens_q, KV pages (of one token where k has three dimensions) by kv_indptr."""
    q = words(given["cu_seqlens_q"])
    yield from covered("cu_seqlens_q", q, given["q"].shape[0], "q")
    yield from addressed(given, words(given["kv_indptr"]), "kv_page_indices", given["k"], "k")
    if q and q[-1] < given["q"].shape[0]:
        message = (
            f"cu_seqlens_q ends at {q[-1]} of the {number_of(given['q'].shape[0], 'row')} of q: the rest of the output is "
            "never written"
        )
        yield ArgumentFault("cu_seqlens_q", message, False)
    yield from longest("max_seqlen_q", given["max_seqlen_q"], q)
    yield from _keys(given)
    page, last = given["k"].shape[1] if given["k"].dim() == 4 else 1, given["kv_last_page_lens"]
    if page > 1 and (last is None or last.numel() < len(q) - 1):
        yield ArgumentFault(
            "kv_last_page_lens", f"pages of {number_of(page, 'token')} without a length of each request's last", False
        )


def _keys(given: Mapping[str, Any]) -> Iterator[ArgumentFault]:
    """max_seqlen_k bounds no access of the kernel (csrc/py_itfs_ck/mha_batch_prefill_kernels.cu, ROCm/aiter e4048607a5): with 0
    nothing is launched and the output zeroed, and a window as wide or wider is left out."""
    longest, window = given["max_seqlen_k"], max(given["window_size"][:2])
    pages = max((b - a for a, b in itertools.pairwise(words(given["kv_indptr"]))), default=0)
    page = given["k"].shape[1] if given["k"].dim() == 4 else 1
    if pages and longest <= 0:
        yield ArgumentFault(
            "max_seqlen_k", f"max_seqlen_k is {longest}, and a request has {number_of(pages, 'page')}: o is zeroed", False
        )
    elif longest <= window < (pages - 1) * page + 1:
        message = (
            f"max_seqlen_k is {longest}: the window of {window} is left out, and a request has {number_of(pages, 'page')} "
            f"of {page}"
        )
        yield ArgumentFault("max_seqlen_k", message, False)


def as_far(tensor: torch.Tensor) -> torch.Tensor:
    """What a kernel that has a tensor's address can read: on to the end of the memory that it is a view of."""
    given = host(tensor)
    held = given.untyped_storage().nbytes() // given.element_size() - given.storage_offset()
    return given.as_strided((held,), (1,))


ATTENTION_CHECKS = {
    "flash_attn_varlen_func": _varlen,
    "flash_attn_varlen_fp8_pertensor_func": _varlen,
    "paged_attention_ragged": _paged,
    "paged_attention_v1": _paged_by_table,
    "paged_attention_common": _paged_shuffled,
    "unified_attention": _unified,
    "mha_batch_prefill_func": _batch_prefill,
}
