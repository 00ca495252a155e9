"""How many KV splits a non-persistent call gets: get_meta_param of aiter/mla.py, its failures included."""

from __future__ import annotations

from functools import lru_cache

from backend.aiter.release import Release
from backend.case import DType

SPLIT_OVERHEAD = 84.1
"""What one more split costs, in KV tokens of work (AITER's own constant)."""

MAX_SEARCHED_SPLITS = 16

FP8_BLOCK = {8: 64, 16: 128, 32: 128, 48: 64, 64: 64, 128: 32, 256: 32, 384: 32, 512: 32}
"""KV tokens of one block of the fp8 kernels by packed rows (heads x max_seqlen_q); AITER raises KeyError for any other."""


@lru_cache(maxsize=16384)
def choose_splits(
    release: Release,
    num_cu: int,
    requested: int | None,
    batch: int,
    total_kv: int,
    num_head: int,
    max_seqlen_q: int,
    q_dtype: DType,
) -> int | str:
    """KV splits, or why AITER raises. total_kv: entries of kv_indices, so pages and not tokens; requested: None searches."""
    if release.name == "2025-11" and num_head not in (16, 128):
        return f"get_meta_param asserts nhead in (16, 128), given {num_head}"
    splits = _searched(num_cu, batch, total_kv) if requested is None else requested
    if q_dtype is DType.FP8:
        block = FP8_BLOCK.get(num_head * max_seqlen_q)
        if release.name == "2026-08" and num_head * max_seqlen_q == 24:
            block = 128
        if block is None:
            return f"get_meta_param has no fp8 block size for {num_head} heads x {max_seqlen_q} queries (KeyError)"
        capped = _capped_fp8(release, splits, batch, total_kv, max_seqlen_q, block)
        if capped is None:
            return "get_meta_param makes the split count a float, and torch.empty raises TypeError"
        splits = capped
    if splits < 1:
        return f"{splits} KV splits: torch.arange raises for a step of 0, torch.empty for a negative size"
    return splits


def _searched(num_cu: int, batch: int, total_kv: int) -> int:
    """The count up to 16 that fills the CUs best against the cost of splitting; the smallest of equals."""
    average = total_kv / batch
    best, best_score = 1, -1.0
    for splits in range(1, MAX_SEARCHED_SPLITS + 1):
        groups = batch * splits
        # In AITER's order of operations: the scores are compared as doubles.
        score = groups / ((groups + num_cu - 1) // num_cu * num_cu) * average / (average + SPLIT_OVERHEAD * splits)
        if score > best_score:
            best, best_score = splits, score
    return best


def _capped_fp8(release: Release, splits: int, batch: int, total_kv: int, max_seqlen_q: int, block: int) -> int | None:
    """No more splits than blocks of KV; None where 2026-06's second cap, a float, is the smaller."""
    if release.name == "2026-08":
        splits = min(splits, (total_kv + batch * block - 1) // (batch * block))
    else:
        splits = min(splits, int(total_kv / batch + block - 1) // block)
    if release.name == "2025-11" or splits <= 1:
        return splits
    second = abs(total_kv / batch - max_seqlen_q) // block + 1
    if second >= splits:
        return splits
    return int(second) if release.name == "2026-08" else None
