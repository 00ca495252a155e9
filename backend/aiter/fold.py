"""How `mla_decode_fwd` folds query heads into groups of 16 before it launches a persistent kernel.

A kernel for 16 heads serves a multiple of 16 by a view: each row of q becomes `fold` rows of 16 heads. Planner, sizing and
this rule must agree on the fold; where they do not, that is the fault this project looks for. Source: aiter/mla.py.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

from backend.aiter.arguments import TargetGpu
from backend.case import Arch, DType

FOLDED_HEADS = 16
"""Heads of each group that a row is folded into."""


@dataclass(frozen=True, slots=True)
class FoldedHeads:
    """What stage 1 sees of the heads: native (fold 1, heads as given), or `fold` groups of `heads_in_kernel` heads.

    copied: q is rearranged into a new tensor (queries of one group together) and o is rearranged back; otherwise both are
    views of the caller's memory.
    """

    native: bool
    fold: int
    heads_in_kernel: int
    copied: bool = False


class DecodeHeads(NamedTuple):
    """What mla_decode_fwd folds a persistent call by."""

    arch: Arch
    q_dtype: DType
    kv_dtype: DType
    num_head: int
    max_seqlen_q: int


FoldRule = Callable[[DecodeHeads], FoldedHeads | None]
"""How mla_decode_fwd folds a persistent call; None where it asserts."""


@lru_cache(maxsize=4096)
def fold_heads(
    rule: FoldRule, device: TargetGpu, q_dtype: DType, kv_dtype: DType, num_head: int, max_seqlen_q: int, persistent: bool
) -> FoldedHeads | None:
    """The fold of a call by a release's rule; None where mla_decode_fwd asserts instead. Non-persistent calls are never folded.

    The paths behind AITER_ENABLE_EXPERIMENTAL (HipKittens kernels) are off, as by default.
    """
    if not persistent:
        return FoldedHeads(True, 1, num_head)
    return rule(DecodeHeads(device.arch, q_dtype, kv_dtype, num_head, max_seqlen_q))


@dataclass(frozen=True, slots=True, eq=False)
class NativeOrFolded:
    """The rule of a built-in release: what has a kernel of its own is native, of the rest some are folded.

    native: whether there is a kernel for these heads. foldable: head counts that are folded otherwise; only_one_query: those
    are folded for one query a request only.
    """

    native: Callable[[DecodeHeads], bool]
    foldable: range
    only_one_query: bool

    def __call__(self, heads: DecodeHeads) -> FoldedHeads | None:
        """The fold, None where mla_decode_fwd asserts."""
        if self.native(heads):
            return FoldedHeads(True, 1, heads.num_head)
        if heads.num_head not in self.foldable or (self.only_one_query and heads.max_seqlen_q != 1):
            return None
        return FoldedHeads(False, heads.num_head // FOLDED_HEADS, FOLDED_HEADS, copied=heads.max_seqlen_q > 1)


def native_2025_11(heads: DecodeHeads) -> bool:
    """16 heads, and 128 with fp8 KV, whatever q holds."""
    return heads.num_head == 16 or (heads.num_head == 128 and heads.kv_dtype is DType.FP8)


def native_2026_06(heads: DecodeHeads) -> bool:
    """By architecture, dtypes, heads and queries."""
    native_32 = heads.num_head == 32 and heads.max_seqlen_q in (2, 4)
    return _native_2026(heads, native_32_on_gfx950=native_32, native_on_gfx942=heads.num_head == 128)


def native_2026_08(heads: DecodeHeads) -> bool:
    """As 2026-06; on gfx950 32 heads whatever the queries, on gfx942 64 heads of one query too."""
    on_gfx942 = heads.num_head == 128 or (heads.num_head == 64 and heads.max_seqlen_q == 1)
    return _native_2026(heads, native_32_on_gfx950=heads.num_head == 32, native_on_gfx942=on_gfx942)


def _native_2026(heads: DecodeHeads, native_32_on_gfx950: bool, native_on_gfx942: bool) -> bool:
    """The two flags say what differs for fp8."""
    if heads.num_head == 16:
        return True
    if heads.q_dtype is not heads.kv_dtype:
        return False
    if heads.arch is Arch.GFX950:
        if heads.q_dtype is DType.BF16:
            return True
        return native_32_on_gfx950 or heads.num_head in (64, 128) or (heads.num_head == 8 and heads.max_seqlen_q == 4)
    if heads.q_dtype is DType.BF16:
        return heads.num_head == 8 and heads.max_seqlen_q == 2
    return native_on_gfx942
