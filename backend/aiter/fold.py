"""How `mla_decode_fwd` folds query heads into groups of 16 before it launches a persistent kernel.

A kernel for 16 heads serves a multiple of 16 by a view: each row of q becomes `fold` rows of 16 heads. Planner, sizing and
this rule must agree on the fold; where they do not, that is the fault this project looks for. Source: aiter/mla.py.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from backend.aiter.arguments import Device
from backend.aiter.release import Release
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


@lru_cache(maxsize=4096)
def fold_heads(
    release: Release, device: Device, q_dtype: DType, kv_dtype: DType, num_head: int, max_seqlen_q: int, persistent: bool
) -> FoldedHeads | None:
    """The fold of a call; None where mla_decode_fwd asserts instead. Non-persistent calls are never folded.

    The paths behind AITER_ENABLE_EXPERIMENTAL (HipKittens kernels) are off, as by default.
    """
    if not persistent:
        return FoldedHeads(True, 1, num_head)
    if release.name == "2025-11":
        native = num_head == 16 or (num_head == 128 and kv_dtype is DType.FP8)
        foldable = num_head in range(32, 512 + 1, 16) and max_seqlen_q == 1
    else:
        native = num_head == 16 or _native_2026(release, device.arch, q_dtype, kv_dtype, num_head, max_seqlen_q)
        foldable = num_head in range(32, 128 + 1, 16)
    if native:
        return FoldedHeads(True, 1, num_head)
    if not foldable:
        return None
    return FoldedHeads(False, num_head // FOLDED_HEADS, FOLDED_HEADS, copied=max_seqlen_q > 1)


def _native_2026(release: Release, arch: Arch, q_dtype: DType, kv_dtype: DType, num_head: int, qlen: int) -> bool:
    if q_dtype is not kv_dtype:
        return False
    newest = release.name == "2026-08"
    if arch is Arch.GFX950:
        if q_dtype is DType.BF16:
            return True
        native_32 = num_head == 32 and (newest or qlen in (2, 4))
        return native_32 or num_head in (64, 128) or (num_head == 8 and qlen == 4)
    if q_dtype is DType.BF16:
        return num_head == 8 and qlen == 2
    return num_head == 128 or (newest and num_head == 64 and qlen == 1)
