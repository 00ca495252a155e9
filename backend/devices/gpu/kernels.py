"""Our own MLA decode kernels in Triton: they eat AITER's metadata as it is, on an NVIDIA or AMD GPU or in Triton's interpreter.

A second implementation of what AITER's assembly does with a plan, written from the plan's meaning and not from the assembly:
a persistent kernel over work_indptr and work_info_set, a grid over (rows, requests, splits) for calls without a plan, and the
merges that follow each. Nothing is clamped: what a plan, a page table or an indptr says is what is read and written.
Import this module only where triton is wanted; it knows no Call and no torch.

Rows: kernel row r, head h is row r * heads + h of q ([rows, heads, 576]), o ([rows, heads, 512]) and so on, contiguous.
Sizes of a case are run-time arguments, not specialised on: a campaign compiles a handful of kernels and not hundreds.
Positions: row r of a request of n queries sees all but the last n - 1 - position of its tokens, the causal rule of MTP.
"""

# Triton's language is not Python's: no annotations fit, nested ifs are compile-time ones.
# mypy: ignore-errors
# ruff: noqa: SIM102

from __future__ import annotations

import triton
import triton.language as tl

LATENT: tl.constexpr = tl.constexpr(512)
"""Elements of a token that are key and value; V_HEAD_DIM of the case vocabulary."""

ROPE: tl.constexpr = tl.constexpr(64)
"""Elements of a token that are key only."""

TOKEN: tl.constexpr = tl.constexpr(576)
"""Elements of a KV token and of a q row for one head."""

LN_2: tl.constexpr = tl.constexpr(0.6931471805599453)


@triton.jit
def attend(
    q,
    kv,
    indices,
    q_rows,
    is_row,
    visible,
    skipped,
    tokens,
    scale_log2,
    page_log2,
    is_paged: tl.constexpr,
    block_n: tl.constexpr,
    dot_type: tl.constexpr,
):
    """One tile of q rows over one piece of a request's tokens, flash-style: (acc [m, 512], maximum [m], sum [m]), log2 units.

    q_rows: [m] flat rows (row * heads + head). visible: [m] tokens from the piece's first on that a row may see,
    which can be more than the piece has.
    indices: page table at the piece's request; skipped: tokens of the request before the piece; tokens: of the piece.
    """
    latent = tl.arange(0, LATENT)
    rope = LATENT + tl.arange(0, ROPE)
    q_at = q + q_rows.to(tl.int64)[:, None] * TOKEN
    q_latent = tl.load(q_at + latent[None, :], mask=is_row[:, None], other=0.0).to(dot_type)
    q_rope = tl.load(q_at + rope[None, :], mask=is_row[:, None], other=0.0).to(dot_type)
    maximum = tl.full((q_rows.shape[0],), float("-inf"), tl.float32)
    total = tl.zeros((q_rows.shape[0],), tl.float32)
    acc = tl.zeros((q_rows.shape[0], LATENT), tl.float32)
    for first in range(0, tokens, block_n):
        n = first + tl.arange(0, block_n)
        is_token = n < tokens
        if is_paged:
            slot = (skipped + n) & ((1 << page_log2) - 1)
            page = tl.load(indices + ((skipped + n) >> page_log2), mask=is_token, other=0).to(tl.int64)
            position = (page << page_log2) + slot
        else:
            position = tl.load(indices + skipped + n, mask=is_token, other=0).to(tl.int64)
        kv_at = kv + position[:, None] * TOKEN
        key_latent = tl.load(kv_at + latent[None, :], mask=is_token[:, None], other=0.0).to(dot_type)
        key_rope = tl.load(kv_at + rope[None, :], mask=is_token[:, None], other=0.0).to(dot_type)
        score = tl.dot(q_latent, tl.trans(key_latent), input_precision="ieee")
        score = tl.dot(q_rope, tl.trans(key_rope), score, input_precision="ieee") * scale_log2
        score = tl.where(is_token[None, :] & (n[None, :] < visible[:, None]), score, float("-inf"))
        grown = tl.maximum(maximum, tl.max(score, 1))
        # A row that sees nothing yet keeps weight 0; inf - inf would make it NaN.
        pivot = tl.where(grown == float("-inf"), 0.0, grown)
        weight = tl.exp2(score - pivot[:, None])
        kept = tl.exp2(maximum - pivot)
        total = total * kept + tl.sum(weight, 1)
        acc = tl.dot(weight.to(dot_type), key_latent, acc * kept[:, None], input_precision="ieee")
        maximum = grown
    return acc, maximum, total


@triton.jit
def store_rows(acc, maximum, total, values, lse, out_rows, is_row, stores_lse: tl.constexpr):
    """Normalised rows and their log-sum-exp (natural log; -inf and zeros for a row that saw no token)."""
    empty = total == 0.0
    normed = acc / tl.where(empty, 1.0, total)[:, None]
    latent = tl.arange(0, LATENT)
    at = values + out_rows.to(tl.int64)[:, None] * LATENT + latent[None, :]
    tl.store(at, normed.to(values.dtype.element_ty), mask=is_row[:, None])
    if stores_lse:
        log = (maximum + tl.log2(tl.where(empty, 1.0, total))) * LN_2
        tl.store(lse + out_rows, tl.where(empty, float("-inf"), log), mask=is_row)


@triton.jit(do_not_specialize=["uniform_queries", "rows_a_request", "heads", "page_log2", "shares"])
def mla_decode_persistent(
    q,
    kv,
    o,
    logits,
    attn_lse,
    final_lse,
    qo_indptr,
    kv_indices,
    kv_last_page_lens,
    work_indptr,
    work_info_set,
    scale_log2,
    uniform_queries,
    rows_a_request,
    heads,
    page_log2,
    shares,
    is_paged: tl.constexpr,
    stores_lse: tl.constexpr,
    block_m: tl.constexpr,
    block_n: tl.constexpr,
    dot_type: tl.constexpr,
):
    """Program (c, y) takes the items work_indptr[c] .. work_indptr[c+1] of work_info_set; y shares out an item's q rows.

    shares: programs along y, handed in since AMD's grid size is a hidden argument that no loader but HIP's fills.
    uniform_queries: queries of every request, 0 where they differ (then the item's batch field names the request).
    rows_a_request: kernel rows of a request, head groups included (uniform_queries > 0).
    """
    unit = tl.program_id(0)
    last = tl.load(work_indptr + unit + 1)
    for item in range(tl.load(work_indptr + unit), last):
        at = work_info_set + item * 8
        batch = tl.load(at)
        partial_row = tl.load(at + 1)
        q_begin = tl.load(at + 2)
        q_end = tl.load(at + 3)
        kv_begin = tl.load(at + 4)
        kv_end = tl.load(at + 5)
        kv_offset = tl.load(at + 6)
        tokens = (kv_end - kv_begin) << page_log2
        if is_paged:
            if kv_offset == 0:  # the piece holds the request's last page, which need not be full
                request = batch
                if uniform_queries > 0:
                    request = q_begin // rows_a_request
                tokens = tokens - (1 << page_log2) + tl.load(kv_last_page_lens + request)
        for first in range(tl.program_id(1) * block_m, (q_end - q_begin) * heads, shares * block_m):
            m = first + tl.arange(0, block_m)
            is_row = m < (q_end - q_begin) * heads
            row = q_begin + m // heads
            if uniform_queries > 0:
                hidden = uniform_queries - 1 - row % uniform_queries
            else:
                hidden = tl.load(qo_indptr + batch + 1) - 1 - row
            q_rows = q_begin * heads + m
            visible = tokens + kv_offset - hidden
            acc, maximum, total = attend(
                q,
                kv,
                kv_indices + kv_begin.to(tl.int64),
                q_rows,
                is_row,
                visible,
                0,
                tokens,
                scale_log2,
                page_log2,
                is_paged,
                block_n,
                dot_type,
            )
            if partial_row < 0:
                store_rows(acc, maximum, total, o, final_lse, q_rows, is_row, stores_lse)
            else:
                store_rows(acc, maximum, total, logits, attn_lse, partial_row * heads + m, is_row, True)


@triton.jit(do_not_specialize=["heads"])
def mla_reduce(
    logits,
    attn_lse,
    o,
    final_lse,
    reduce_indptr,
    reduce_final_map,
    reduce_partial_map,
    heads,
    stores_lse: tl.constexpr,
):
    """Program (tile, head) merges the partial rows listed in reduce_partial_map for the o rows of reduce_final_map[tile].

    A tile of fewer than two partial rows is left alone, as AITER's mla_reduce_v1 does.
    """
    tile = tl.program_id(0)
    head = tl.program_id(1)
    begin = tl.load(reduce_indptr + tile)
    end = tl.load(reduce_indptr + tile + 1)
    latent = tl.arange(0, LATENT)
    if end - begin > 1:
        q_begin = tl.load(reduce_final_map + tile * 2)
        q_end = tl.load(reduce_final_map + tile * 2 + 1)
        for row in range(q_begin, q_end):
            maximum = float("-inf")
            for piece in range(begin, end):
                at = (tl.load(reduce_partial_map + piece) + row - q_begin) * heads + head
                maximum = tl.maximum(maximum, tl.load(attn_lse + at))
            pivot = tl.where(maximum == float("-inf"), 0.0, maximum)
            total = 0.0
            acc = tl.zeros((LATENT,), tl.float32)
            for piece in range(begin, end):
                at = (tl.load(reduce_partial_map + piece) + row - q_begin) * heads + head
                weight = tl.exp2((tl.load(attn_lse + at) - pivot) / LN_2)
                acc += weight * tl.load(logits + at.to(tl.int64) * LATENT + latent)
                total += weight
            out = row * heads + head
            value = acc / tl.where(total == 0.0, 1.0, total)
            tl.store(o + out.to(tl.int64) * LATENT + latent, value.to(o.dtype.element_ty))
            if stores_lse:
                tl.store(final_lse + out, pivot + tl.log2(total) * LN_2)


@triton.jit(do_not_specialize=["min_split", "splits", "heads", "page_log2", "shares"])
def mla_decode_split(
    q,
    kv,
    logits,
    attn_lse,
    qo_indptr,
    kv_indptr,
    kv_indices,
    kv_last_page_lens,
    num_kv_splits_indptr,
    scale_log2,
    min_split,
    splits,
    heads,
    page_log2,
    shares,
    is_paged: tl.constexpr,
    block_m: tl.constexpr,
    block_n: tl.constexpr,
    dot_type: tl.constexpr,
):
    """Program (y, request, split): the call without a plan. logits: [rows, splits, heads, 512].

    min_split: entries of the page table that a split has at least; splits beyond that are not written and not merged.
    """
    request = tl.program_id(1)
    split = tl.program_id(2)
    q_begin = tl.load(qo_indptr + request)
    q_end = tl.load(qo_indptr + request + 1)
    kv_begin = tl.load(kv_indptr + request)
    pages = tl.load(kv_indptr + request + 1) - kv_begin
    asked = tl.load(num_kv_splits_indptr + request + 1) - tl.load(num_kv_splits_indptr + request)
    valid = tl.minimum(asked, (pages + min_split - 1) // min_split)
    if split < valid:
        tokens = pages
        if is_paged:
            tokens = ((pages - 1) << page_log2) + tl.load(kv_last_page_lens + request)
        each = (tokens + valid - 1) // valid
        skipped = split * each
        piece = tl.minimum(each, tokens - skipped)
        for first in range(tl.program_id(0) * block_m, (q_end - q_begin) * heads, shares * block_m):
            m = first + tl.arange(0, block_m)
            is_row = m < (q_end - q_begin) * heads
            row = q_begin + m // heads
            visible = tokens - (q_end - 1 - row) - skipped
            acc, maximum, total = attend(
                q,
                kv,
                kv_indices + kv_begin.to(tl.int64),
                q_begin * heads + m,
                is_row,
                visible,
                skipped,
                piece,
                scale_log2,
                page_log2,
                is_paged,
                block_n,
                dot_type,
            )
            out_rows = (row * splits + split) * heads + m % heads
            store_rows(acc, maximum, total, logits, attn_lse, out_rows, is_row, True)


@triton.jit(do_not_specialize=["min_split", "splits", "heads"])
def mla_merge(
    logits,
    attn_lse,
    o,
    final_lse,
    qo_indptr,
    kv_indptr,
    num_kv_splits_indptr,
    min_split,
    splits,
    heads,
    stores_lse: tl.constexpr,
):
    """Program (request, head) merges the splits that mla_decode_split wrote."""
    request = tl.program_id(0)
    head = tl.program_id(1)
    asked = tl.load(num_kv_splits_indptr + request + 1) - tl.load(num_kv_splits_indptr + request)
    pages = tl.load(kv_indptr + request + 1) - tl.load(kv_indptr + request)
    valid = tl.minimum(asked, (pages + min_split - 1) // min_split)
    latent = tl.arange(0, LATENT)
    for row in range(tl.load(qo_indptr + request), tl.load(qo_indptr + request + 1)):
        maximum = float("-inf")
        for split in range(valid):
            maximum = tl.maximum(maximum, tl.load(attn_lse + (row * splits + split) * heads + head))
        pivot = tl.where(maximum == float("-inf"), 0.0, maximum)
        total = 0.0
        acc = tl.zeros((LATENT,), tl.float32)
        for split in range(valid):
            at = (row * splits + split) * heads + head
            weight = tl.exp2((tl.load(attn_lse + at) - pivot) / LN_2)
            acc += weight * tl.load(logits + at.to(tl.int64) * LATENT + latent)
            total += weight
        out = row * heads + head
        value = acc / tl.where(total == 0.0, 1.0, total)
        tl.store(o + out.to(tl.int64) * LATENT + latent, value.to(o.dtype.element_ty))
        if stores_lse:
            tl.store(final_lse + out, pivot + tl.log2(total) * LN_2)


@triton.jit(do_not_specialize=["width", "key"])
def fill_stream(out, rows, table, width, key, table_mask: tl.constexpr, block: tl.constexpr):
    """Program (i, y) fills block y of row rows[i] of out, [rows, width], with the stream of backend/devices/gpu/values.py.

    table: its quantiles, table_mask + 1 of them, a power of two. key: of seed and stream, as the int32 of the same bits.
    """
    row = tl.load(rows + tl.program_id(0))
    column = tl.program_id(1) * block + tl.arange(0, block)
    element = row * width + column
    mixed = ((element & 0xFFFFFFFF).to(tl.uint32) ^ key.to(tl.uint32)) + (element >> 32).to(tl.uint32)
    mixed = (mixed ^ (mixed >> 16)) * 0x45D9F3B
    mixed = (mixed ^ (mixed >> 15)) * 0x45D9F3B
    mixed = mixed ^ (mixed >> 16)
    value = tl.load(table + ((mixed >> 7) & table_mask).to(tl.int32))
    tl.store(out + element, value, mask=column < width)
