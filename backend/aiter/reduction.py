"""The second stage: which partial rows mla_reduce_v1 or the Triton merge reads, and which rows of o it writes.

Sources: csrc/kernels/mla/reduce.cu and `_fwd_kernel_stage2_asm` of aiter/mla.py, all three releases. Rows come as intervals,
so that a garbled plan costs no memory. This module knows what is touched, not where tensors lie or whether it is allowed.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from functools import lru_cache

import numpy as np
import numpy.typing as npt
from numba import njit

from backend.aiter.arguments import Int32Array, TargetGpu
from backend.aiter.release import Release
from backend.aiter.rules import OCCUPANCY
from backend.aiter.tensors import TensorSpec
from backend.case import V_HEAD_DIM, Arch, OutputType
from backend.errors import UnmodelledError
from backend.words import number_of

Int64Array = npt.NDArray[np.int64]
BoolArray = npt.NDArray[np.bool_]

MAX_INTERVALS = 1 << 24
"""More partial rows than any plan that fits a GPU; reached only where reduce_indptr holds garbage."""


class SecondStageKind(StrEnum):
    """What merges the partial rows into o."""

    REDUCE = "mla_reduce_v1"
    TRITON = "triton stage2"
    NONE = "none (logits alias o)"


@dataclass(frozen=True, slots=True)
class SecondStage:
    """What follows stage 1.

    num_head: heads of a row, after folding. tiles: reduce tiles, reduce_indptr's length - 1 (REDUCE).
    max_splits: REDUCE: partial rows of one output row that its LDS has room for; otherwise the split count of every request.
    groups, strides, keeps_map: REDUCE: workgroups that share the queries of a tile and head; those that stride over all tiles,
    0 where each tile has its own; whether reduce_partial_map is kept in LDS. without_maps: tiles that are merged as if both
    maps were the identity (v0.1.16.post4), 0 where they are read. merges_tokens: TRITON: see ReductionRules.
    mgc: KV tokens that a split has at least, in the Triton stage's view (non-persistent calls).
    logits_is_o: logits are a view of o, in bf16. maybe_final_out: the Triton stage copies bf16 rows instead of merging where
    there is one split a request. stores_lse: final_lse is written.
    tensors: what the second stage touches beyond the launch's tensors. refusal: why AITER raises here, after stage 1 has run.
    stands_in: why these are the rules of another revision, None where they are its own.
    """

    kind: SecondStageKind
    num_head: int
    max_splits: int
    stores_lse: bool
    tiles: int = 0
    groups: int = 1
    strides: int = 0
    keeps_map: bool = False
    without_maps: int = 0
    merges_tokens: bool = False
    mgc: int = 0
    logits_is_o: bool = False
    maybe_final_out: bool = False
    tensors: Mapping[str, TensorSpec] = field(default_factory=dict)
    refusal: str | None = None
    stands_in: str | None = None

    @property
    def copies_o_alone(self) -> bool:
        """Whether the Triton stage copies the one split's rows into o, and leaves attn_lse and final_lse alone."""
        return self.kind is SecondStageKind.TRITON and self.maybe_final_out and self.max_splits == 1


@dataclass(frozen=True, slots=True, eq=False)
class MergedRows:
    """What a second stage touches, as intervals of rows with exclusive ends; a row is all heads of one query and one split.

    output_owner, output_begin, output_end: reduce tile or request, and the rows of o (and of final_lse where it is stored)
    that are written for it.
    partial_owner, partial_begin, partial_end: the rows of logits and attn_lse read for it; logits as [rows, heads, 512] with
    splits of a query next to each other. copies_bf16: they are bf16 rows at the start of the fp32 logits, and attn_lse is not
    read. over_capacity: reduce tiles with more partial rows than LDS has room for. 2026 keeps the map there and overwrites
    what does not fit, so that rows from the max_splits-th on are read at addresses unknown here and are left out.
    partial_map_outside [n, 2]: words of reduce_partial_map outside the tensor that are read, final_map_outside: rows of
    reduce_final_map; what they would lead to is unknown and left out.
    """

    output_owner: Int64Array
    output_begin: Int64Array
    output_end: Int64Array
    partial_owner: Int64Array
    partial_begin: Int64Array
    partial_end: Int64Array
    copies_bf16: bool = False
    over_capacity: Int64Array = field(default_factory=lambda: np.zeros(0, np.int64))
    partial_map_outside: Int64Array = field(default_factory=lambda: np.zeros((0, 2), np.int64))
    final_map_outside: Int64Array = field(default_factory=lambda: np.zeros(0, np.int64))


def expand(begin: Int64Array, end: Int64Array) -> Int64Array:
    """The single rows of intervals, in order; empty and reversed intervals give none."""
    lengths = np.maximum(end - begin, 0)
    total = int(lengths.sum())
    starts = np.cumsum(lengths) - lengths
    return np.repeat(begin - starts, lengths) + np.arange(total, dtype=np.int64)


@lru_cache(maxsize=4096)
def reduce_refusal(
    release: Release,
    device: TargetGpu,
    num_head: int,
    max_splits: int,
    v_head_dim: int = V_HEAD_DIM,
    o_dtype: OutputType = OutputType.BF16,
) -> str | None:
    """Why mla_reduce_v1 raises before it launches, if it does; whether any row is split makes no difference to it."""
    rules = release.reduction
    refused = rules.output_types_refused.get(o_dtype)
    if refused is not None:
        kind = "uz" if refused.endswith("e4m3fn") and device.arch is Arch.GFX942 else ""
        return f"kn_mla_reduce_v1 doesn't support output type {refused}{kind}."
    if v_head_dim in (64, 128):
        raise UnmodelledError(f"mla_reduce_v1 with rows of {v_head_dim}: for which heads it is compiled is not known here")
    if num_head not in rules.heads:
        return f"mla_reduce_v1 of release {release.name} is compiled for {rules.heads} heads, given {num_head}"
    if v_head_dim != V_HEAD_DIM:
        return f"mla_reduce_v1 of release {release.name} is compiled for rows of {V_HEAD_DIM}, given {v_head_dim}"
    needed = rules.lds_bytes(max_splits)
    limit = device.lds_bytes // OCCUPANCY if rules.workgroups_share_lds else device.lds_bytes
    return (
        f"mla_reduce_v1 for {number_of(max_splits, 'split')} needs {needed} bytes of LDS, more than {limit}"
        if needed > limit
        else None
    )


def reduce_stage(
    release: Release,
    device: TargetGpu,
    num_head: int,
    tiles: int,
    max_splits: int,
    max_seqlen_q: int,
    stores_lse: bool,
    v_head_dim: int = V_HEAD_DIM,
    o_dtype: OutputType = OutputType.BF16,
    tensors: Mapping[str, TensorSpec] | None = None,
) -> SecondStage:
    """mla_reduce_v1 as a release launches it, or why it raises."""
    rules = release.reduction
    groups = workgroups_per_head(device, tiles, max_seqlen_q, num_head) if rules.shares_queries and tiles > 0 else 1
    grid = device.num_cu * OCCUPANCY * 2
    return SecondStage(
        kind=SecondStageKind.REDUCE,
        num_head=num_head,
        max_splits=max_splits,
        stores_lse=stores_lse,
        tiles=tiles,
        groups=groups,
        strides=grid if num_head * groups * tiles > grid else 0,
        keeps_map=rules.keeps_map,
        tensors=tensors or {},
        refusal=reduce_refusal(release, device, num_head, max_splits, v_head_dim, o_dtype),
    )


def reduced_rows(
    stage: SecondStage,
    reduce_indptr: Int32Array,
    reduce_final_map: Int32Array,
    reduce_partial_map: Int32Array,
) -> MergedRows:
    """What mla_reduce_v1 touches for these contents of the three tensors, each given at its allocated size.

    reduce_indptr: [tiles + 1]; reduce_final_map: [rows, 2] or flat; reduce_partial_map: [words]. A tile with fewer than two
    partial rows is passed over. Raises UnmodelledError where reduce_indptr is so garbled that there is no end to it.
    """
    final_map = reduce_final_map.reshape(-1, 2)
    if stage.without_maps:
        reduce_indptr, final_map, reduce_partial_map = _identities(stage.without_maps, reduce_indptr, reduce_partial_map)
    skipped = _tiles_never_reached(stage, reduce_indptr)
    counts = _count_reduced(reduce_indptr, final_map, len(reduce_partial_map), skipped, stage.max_splits, stage.keeps_map)
    if counts[1] > MAX_INTERVALS:
        raise UnmodelledError(
            f"reduce_indptr asks for {number_of(counts[1], 'partial row')} over {stage.tiles} tiles: garbage, not a plan"
        )
    output, partial, over, outside, final_outside = _fill_reduced(
        reduce_indptr, final_map, reduce_partial_map, skipped, stage.max_splits, stage.keeps_map, counts
    )
    return MergedRows(
        output_owner=output[0],
        output_begin=output[1],
        output_end=output[2],
        partial_owner=partial[0],
        partial_begin=partial[1],
        partial_end=partial[2],
        over_capacity=over,
        partial_map_outside=outside[: 0 if stage.without_maps else None],
        final_map_outside=final_outside,
    )


def split_rows(
    stage: SecondStage,
    page_size: int,
    qo_indptr: Int32Array,
    kv_indptr: Int32Array,
    kv_last_page_lens: Int32Array,
) -> MergedRows:
    """What the Triton merge touches after a non-persistent launch; nothing where there is no second stage.

    2025-11 and 2026-06 take a request's pages for its tokens, so that page sizes above 1 lose splits there. What is merged for
    a request whose entries lie past kv_indptr's end depends on memory that is nobody's and is left out.
    """
    splits = stage.max_splits
    if stage.kind is not SecondStageKind.TRITON:
        qo_indptr = qo_indptr[:1]
    requests = len(qo_indptr) - 1
    q_begin = qo_indptr[:-1].astype(np.int64)
    q_end = np.maximum(qo_indptr[1:].astype(np.int64), q_begin)
    known = min(requests, len(kv_indptr) - 1)
    length = np.zeros(requests, np.int64)
    length[:known] = np.diff(kv_indptr[: known + 1].astype(np.int64))
    if page_size > 1 and stage.merges_tokens:
        length[:known] = (length[:known] - 1) * page_size + kv_last_page_lens[:known]
    owner = np.arange(requests, dtype=np.int64)
    if stage.copies_o_alone:
        return MergedRows(
            output_owner=owner,
            output_begin=q_begin,
            output_end=q_end,
            partial_owner=owner,
            partial_begin=q_begin,
            partial_end=q_end,
            copies_bf16=True,
        )
    merged = np.minimum(splits, -(-length // max(stage.mgc, 1)))
    rows = expand(q_begin, q_end)
    row_owner = np.repeat(owner, q_end - q_begin)
    begin = rows * splits
    end = begin + np.maximum(merged[row_owner], 0)
    return MergedRows(
        output_owner=owner,
        output_begin=q_begin,
        output_end=q_end,
        partial_owner=row_owner,
        partial_begin=begin,
        partial_end=end,
    )


def workgroups_per_head(device: TargetGpu, tiles: int, max_seqlen_q: int, num_head: int) -> int:
    """Workgroups that share the queries of one tile and head (get_num_work_group_per_bh, 2026)."""
    capacity = np.float32(device.num_cu * OCCUPANCY) * np.float32(1.3)
    workloads = tiles * num_head
    if not capacity > workloads:
        return 1
    wanted = min(-(-int(capacity) // workloads), max_seqlen_q)
    return next((count for count in (1, 2, 4, 8, 16, 64) if wanted <= count), 256)


def _tiles_never_reached(stage: SecondStage, reduce_indptr: Int32Array) -> BoolArray:
    """Tiles that no workgroup gets to. With many tiles, workgroups stride over them and stop at the first that begins where
    the last one ends; in a well-formed indptr nothing but empty tiles follows. Length 0: none."""
    tiles, grid = len(reduce_indptr) - 1, stage.strides
    if grid == 0 or tiles < 1 or bool(np.all(reduce_indptr[1:] >= reduce_indptr[:-1])):
        return np.zeros(0, np.bool_)
    of_a_tile = stage.num_head * stage.groups
    work = np.arange(of_a_tile * tiles, dtype=np.int64)
    stops = reduce_indptr[:-1] == reduce_indptr[-1]
    padded = np.zeros(-(-len(work) // grid) * grid, np.bool_)
    padded[work] = stops[work // of_a_tile]
    stopped: BoolArray = np.logical_or.accumulate(padded.reshape(-1, grid), axis=0).reshape(-1)[: len(work)]
    return np.asarray(stopped.reshape(tiles, -1).all(axis=1))


def _identities(tiles: int, reduce_indptr: Int32Array, reduce_partial_map: Int32Array) -> tuple[Int32Array, ...]:
    """reduce_indptr of so many tiles, and the maps that a kernel without them acts by: tile t is row t, word p is row p.

    A row beyond the partial rows that there are (as many as reduce_partial_map has words) is beyond its buffer's range, and
    read as zero from nowhere.
    """
    rows = np.arange(tiles, dtype=np.int32)
    return reduce_indptr[: tiles + 1], np.stack([rows, rows + 1], axis=1), np.arange(len(reduce_partial_map), dtype=np.int32)


@njit(cache=True, nogil=True)
def _partial_rows_of(indptr: Int32Array, tile: int, skipped: BoolArray) -> tuple[int, int]:
    """First and last (exclusive) word of reduce_partial_map that a tile reads; (0, 0) where it is passed over."""
    begin, end = int(indptr[tile]), int(indptr[tile + 1])
    if end - begin < 2 or (len(skipped) and skipped[tile]):
        return 0, 0
    return begin, end


@njit(cache=True, nogil=True)
def _count_reduced(
    indptr: Int32Array, final_map: Int32Array, words: int, skipped: BoolArray, max_splits: int, keeps_map: bool
) -> tuple[int, int, int, int, int]:
    """Entries of each of the arrays that `_fill_reduced` makes."""
    outputs = partials = over = outside = final_outside = 0
    for tile in range(len(indptr) - 1):
        begin, end = _partial_rows_of(indptr, tile, skipped)
        if begin == end:
            continue
        outside += (begin < 0) + (end > words)
        if end - begin > max_splits:
            over += 1
            if keeps_map:
                end = begin + max_splits
        if tile >= len(final_map):
            final_outside += 1
            continue
        outputs += 1
        partials += max(min(end, words) - max(begin, 0), 0)
    return outputs, partials, over, outside, final_outside


@njit(cache=True, nogil=True)
def _fill_reduced(
    indptr: Int32Array,
    final_map: Int32Array,
    partial_map: Int32Array,
    skipped: BoolArray,
    max_splits: int,
    keeps_map: bool,
    counts: tuple[int, int, int, int, int],
) -> tuple[Int64Array, Int64Array, Int64Array, Int64Array, Int64Array]:
    output = np.empty((3, counts[0]), np.int64)
    partial = np.empty((3, counts[1]), np.int64)
    over = np.empty(counts[2], np.int64)
    outside = np.empty((counts[3], 2), np.int64)
    final_outside = np.empty(counts[4], np.int64)
    at_output = at_partial = at_over = at_outside = at_final = 0
    words = len(partial_map)
    for tile in range(len(indptr) - 1):
        begin, end = _partial_rows_of(indptr, tile, skipped)
        if begin == end:
            continue
        if begin < 0:
            outside[at_outside, 0], outside[at_outside, 1] = begin, min(end, 0)
            at_outside += 1
        if end > words:
            outside[at_outside, 0], outside[at_outside, 1] = max(begin, words), end
            at_outside += 1
        if end - begin > max_splits:
            over[at_over] = tile
            at_over += 1
            if keeps_map:
                end = begin + max_splits
        if tile >= len(final_map):
            final_outside[at_final] = tile
            at_final += 1
            continue
        q_begin = int(final_map[tile, 0])
        queries = max(int(final_map[tile, 1]) - q_begin, 0)
        output[0, at_output], output[1, at_output], output[2, at_output] = tile, q_begin, q_begin + queries
        at_output += 1
        for word in range(max(begin, 0), min(end, words)):
            row = int(partial_map[word])
            partial[0, at_partial], partial[1, at_partial], partial[2, at_partial] = tile, row, row + queries
            at_partial += 1
    return output, partial, over, outside, final_outside
