"""How many KV splits a non-persistent call gets: get_meta_param of aiter/mla.py, its failures included."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum
from functools import lru_cache
from typing import NamedTuple

from backend.case import DType
from backend.words import number_of

SPLIT_OVERHEAD = 84.1
"""What one more split costs, in KV tokens of work (AITER's own constant)."""

MAX_SEARCHED_SPLITS = 16

FP8_BLOCK = {8: 64, 16: 128, 32: 128, 48: 64, 64: 64, 128: 32, 256: 32, 384: 32, 512: 32}
"""KV tokens of one block of the fp8 kernels by packed rows (heads x max_seqlen_q), to 2026-06."""

FP8_BLOCK_2026_08 = {**FP8_BLOCK, 24: 128}


class SplitsAsked(NamedTuple):
    """What get_meta_param is given. requested: None: it searches. total_kv: entries of kv_indices, so pages and not tokens."""

    num_cu: int
    requested: int | None
    batch: int
    total_kv: int
    num_head: int
    max_seqlen_q: int
    q_dtype: DType


SplitRule = Callable[[SplitsAsked], int | str]
"""KV splits of a non-persistent call, or why AITER raises."""


@lru_cache(maxsize=16384)
def choose_splits(rule: SplitRule, asked: SplitsAsked) -> int | str:
    """KV splits by a release's rule, or why AITER raises."""
    return rule(asked)


class SecondCap(Enum):
    """How fp8 splits are capped once more, by the tokens before a request's own queries."""

    NONE = "not at all"
    FLOAT = "by a float, which raises where it is the smaller"
    INTEGER = "by an integer"


@dataclass(frozen=True, slots=True, eq=False)
class SplitSearch:
    """get_meta_param of a built-in release, as what it differs by. It is called like the function (see `SplitRule`).

    head_counts: those that it asserts, None for any. fp8_blocks: KV tokens of one block of the fp8 kernels by packed rows
    (heads x max_seqlen_q); AITER raises KeyError for any other. rounds_total_up: the first fp8 cap is ceil(total / (batch x
    block)) in integers, else from the average of a request. second_cap: see SecondCap.
    """

    head_counts: tuple[int, ...] | None
    fp8_blocks: Mapping[int, int]
    rounds_total_up: bool
    second_cap: SecondCap

    def __call__(self, asked: SplitsAsked) -> int | str:
        """KV splits, or why AITER raises."""
        if self.head_counts is not None and asked.num_head not in self.head_counts:
            return f"get_meta_param asserts nhead in {self.head_counts}, given {asked.num_head}"
        if not asked.batch and (asked.requested is None or asked.q_dtype is DType.FP8):
            return "get_meta_param divides the KV tokens by no requests (ZeroDivisionError)"
        splits = _searched(asked.num_cu, asked.batch, asked.total_kv) if asked.requested is None else asked.requested
        if asked.q_dtype is DType.FP8:
            block = self.fp8_blocks.get(asked.num_head * asked.max_seqlen_q)
            if block is None:
                return (
                    f"get_meta_param has no fp8 block size for {number_of(asked.num_head, 'head')} x "
                    f"{number_of(asked.max_seqlen_q, 'query')} (KeyError)"
                )
            capped = self._capped_fp8(splits, asked, block)
            if capped is None:
                return "get_meta_param makes the split count a float, and torch.empty raises TypeError"
            splits = capped
        if splits < 1:
            return f"{number_of(splits, 'KV split')}: torch.arange raises for a step of 0, torch.empty for a negative size"
        return splits

    def _capped_fp8(self, splits: int, asked: SplitsAsked, block: int) -> int | None:
        """No more splits than blocks of KV; None where the second cap is a float and the smaller."""
        if self.rounds_total_up:
            splits = min(splits, (asked.total_kv + asked.batch * block - 1) // (asked.batch * block))
        else:
            splits = min(splits, int(asked.total_kv / asked.batch + block - 1) // block)
        if self.second_cap is SecondCap.NONE or splits <= 1:
            return splits
        second = abs(asked.total_kv / asked.batch - asked.max_seqlen_q) // block + 1
        if second >= splits:
            return splits
        return int(second) if self.second_cap is SecondCap.INTEGER else None


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
