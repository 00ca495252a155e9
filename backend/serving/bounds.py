"""What each backend really sends: the bounds within which cases for it are drawn.

A policy says what a backend *does* with a case and refuses what it does not take; this table says which cases are worth
drawing for it, so that few are refused and none is one that the backend's framework could not bring about. It decides
nothing: a case outside these bounds still runs when somebody asks for it.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from enum import StrEnum

from backend.case import Arch, DType, MetadataMode

TensorTypes = tuple[Arch, DType, DType]
"""GPU, what q holds, what the KV cache holds: they go together, because backends quantise q on some GPUs only."""

BF16, FP8 = DType.BF16, DType.FP8


class AllocatedFor(StrEnum):
    """What batch the metadata buffers are allocated for."""

    RUNNING = "the batch that runs"
    LARGEST_GRAPH = "the largest captured graph"  # sglang: in graphs only; eager buffers are made for each batch
    MAX_BATCH = "the most requests at once"  # vLLM: max_num_seqs, below or above the batch of a captured graph


@dataclass(frozen=True, slots=True)
class ServedBounds:
    """Bounds of what a backend sends.

    heads: per rank. query_rows: rows a request, plain decode being 1. page_sizes: of the KV pool.
    empty_requests: whether a request may hold no KV token, or, where rows are ragged, have no row. ragged_rows: whether rows
    may differ between requests.
    graphs: whether it replays captured graphs with padding. allocation: what its buffers are sized for.
    modes: metadata modes to force; (None,) where the backend decides.
    far_pools: whether the KV pool may pass 4 GiB, where the page addresses of most kernels wrap (aiter#4341): known of the
    kernels and nothing that a backend's rule decides, so it is tried by a direct caller only.
    graphs_to: largest batch of a captured graph; context: KV tokens of a request at most; None where nobody has said so.
    sent_too: what the framework sends besides, which no case of a rule is: in words.
    """

    heads: tuple[int, ...]
    tensor_types: tuple[TensorTypes, ...]
    query_rows: tuple[int, ...]
    page_sizes: tuple[int, ...]
    empty_requests: bool
    ragged_rows: bool
    graphs: bool
    allocation: AllocatedFor
    modes: tuple[MetadataMode | None, ...] = (None,)
    far_pools: bool = False
    graphs_to: int | None = None
    context: int | None = None
    sent_too: tuple[str, ...] = ()


SGLANG = ServedBounds(
    heads=(4, 8, *range(16, 129, 16)),
    # q is quantised only on gfx95x, and only for --kv-cache-dtype fp8_e4m3; the other fp8 types leave it bf16.
    tensor_types=(
        (Arch.GFX950, FP8, FP8),
        (Arch.GFX950, BF16, FP8),
        (Arch.GFX950, BF16, BF16),
        (Arch.GFX942, BF16, FP8),
        (Arch.GFX942, BF16, BF16),
    ),
    query_rows=(1, 2, 3, 4, 5, 6, 7, 8),
    page_sizes=(1,),
    empty_requests=False,
    ragged_rows=False,
    graphs=True,
    allocation=AllocatedFor.LARGEST_GRAPH,
    graphs_to=512,
    context=163_840,
    sent_too=(
        "draft extension, with query rows that differ between requests",
        "the draft model's own steps, one query row with the 32 splits of speculation",
        "the caps that DP attention puts on splits",
        "prefill and sparse attention",
    ),
)
"""Model heads over tensor parallel ranks, up to 8 draft tokens (aiter_backend.py). --page-size is 1 by default, graphs are
captured to 512 requests on GPUs of this size (server_args.py); the context is DeepSeek-R1's."""

VLLM = ServedBounds(
    heads=(8, *range(16, 129, 16)),
    tensor_types=((Arch.GFX950, FP8, FP8), (Arch.GFX950, BF16, BF16), (Arch.GFX942, FP8, FP8), (Arch.GFX942, BF16, BF16)),
    query_rows=(1, 2, 3, 4),
    page_sizes=(1,),
    empty_requests=False,
    ragged_rows=False,
    graphs=True,
    allocation=AllocatedFor.MAX_BATCH,
    graphs_to=512,
    context=163_840,
    sent_too=(
        "verification with query rows that differ between requests, and more rows than speculation has",
        "fewer than 16 heads by Gluon kernels where a build has them",
        "KV blocks of more than one token, spread over single ones",
        "prefill and sparse attention",
    ),
)
"""Block size 1, q quantised with the KV cache; what no case is: of AiterMLAMetadataBuilder (rocm_aiter_mla.py of 2026-08-07).
Graphs are captured to 512 tokens (vllm/config/vllm.py), which plain decode fills with as many requests; the context is
DeepSeek-R1's."""

DIRECT = ServedBounds(
    heads=tuple(range(16, 129, 16)),
    tensor_types=tuple((a, q, kv) for a in (Arch.GFX950, Arch.GFX942) for q, kv in ((FP8, FP8), (BF16, BF16), (BF16, FP8))),
    query_rows=(1, 2, 3, 4, 5, 6, 7, 8),
    page_sizes=(1, 16, 64),
    empty_requests=True,
    ragged_rows=True,
    graphs=True,
    allocation=AllocatedFor.RUNNING,
    modes=(MetadataMode.FAST, MetadataMode.FAKE, MetadataMode.GREEDY, MetadataMode.NON_PERSISTENT),
    far_pools=True,
)
"""What a caller of AITER's public API may try."""

OWN_POLICY = dataclasses.replace(
    DIRECT, modes=(None,), ragged_rows=False, empty_requests=False, page_sizes=(1,), far_pools=False
)
"""For a user's own policy: as a serving backend, with every head count and combination of types that AITER has kernels for."""
