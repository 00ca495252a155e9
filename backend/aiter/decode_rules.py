"""What mla_decode_fwd (aiter/mla.py) and the launcher (csrc/py_itfs_cu/asm_mla.cu) do otherwise from release to release.

Values that a Release holds, and the functions they are made of; launch.py applies them. Fold, splits and the way to a kernel
have modules of their own (fold.py, splits.py, kernel_rules.py). It knows no release by name.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum

from backend.aiter.arguments import DecodeArguments, TargetGpu
from backend.aiter.kernel_rules import KernelKey, RouteRule
from backend.case import Arch, DType

PERSISTENT_MAX_BATCH = 32
"""2026-08: from this batch on, gfx950 bf16 with 16 heads and one query leaves persistent mode, unless splits are given."""


class Unfolded(Enum):
    """How mla_decode_fwd undoes its fold, after both stages have been launched."""

    LOGITS_BY_VIEW = "logits are viewed by the fold"
    O_BY_RESHAPE = "o is reshaped by max_seqlen_q where q was copied"


@dataclass(frozen=True, slots=True)
class LauncherRules:
    """The launcher. route: from a call to a table key. table: file of tables/ with its kernels.

    asks_for_causal: whether it asks the table for kernels with the causal flag set. always_passes_o: whether o is passed to
    non-persistent kernels too. out_16_nosplit: that kernarg, by the number of splits, where o is not passed; where it is, the
    kernarg is the number of splits. fp8_q_needs_scales: whether it checks that q_scale and kv_scale are there for an fp8 q.
    checks_end_process: a failed check of it is std::abort (AITER_CHECK, from a6bb49937 on), not an exception (TORCH_CHECK).
    """

    route: RouteRule
    table: str
    asks_for_causal: bool
    always_passes_o: bool
    out_16_nosplit: Callable[[int], int]
    fp8_q_needs_scales: bool
    checks_end_process: bool


@dataclass(frozen=True, slots=True)
class DecodeRules:
    """mla_decode_fwd. leaves_persistent_mode: whether a call with metadata runs without it, of (device, arguments, batch).

    logits_are_o: with one split, whether logits are a view of o and there is no second stage. least_split_tokens: KV tokens
    that a split has at least in the Triton merge's view (mgc). merging_heads: head counts whose kernels for one query never
    write bf16 rows into fp32 logits. reduces_by_splits: whether num_kv_splits, where given, widens the reduction.
    counts_valid_splits: whether the Triton merge has a tensor of valid split counts. unfolded: see Unfolded.
    """

    leaves_persistent_mode: Callable[[TargetGpu, DecodeArguments, int], bool]
    logits_are_o: Callable[[KernelKey], bool]
    least_split_tokens: Callable[[KernelKey], int]
    merging_heads: tuple[int, ...]
    reduces_by_splits: bool
    counts_valid_splits: bool
    unfolded: Unfolded


def zero_without_o(splits: int) -> int:
    """The launcher of 2026-06 sets out_16_nosplit to 0 where it does not pass o."""
    return 0


def one_for_one_split(splits: int) -> int:
    """The launcher of 2026-08 says so where there is one split."""
    return int(splits == 1)


def stays_persistent(device: TargetGpu, arguments: DecodeArguments, batch: int) -> bool:
    """To 2026-06 a call with metadata is always persistent."""
    return False


def leaves_at_large_batches(device: TargetGpu, arguments: DecodeArguments, batch: int) -> bool:
    """Whether a large batch leaves the persistent kernel: `_use_persistent_mla_decode` of 2026-08."""
    return (
        arguments.num_kv_splits is None
        and batch >= PERSISTENT_MAX_BATCH
        and arguments.num_head == 16
        and arguments.max_seqlen_q == 1
        and device.arch is Arch.GFX950
        and arguments.q_dtype is DType.BF16
        and arguments.kv_dtype is DType.BF16
    )


def logits_are_o_2025_11(key: KernelKey) -> bool:
    """Whether one split's logits are a view of o in 2025-11: with fp8 q, or four queries."""
    return key.q_dtype is DType.FP8 or key.max_seqlen_q == 4


def logits_are_o_2026_06(key: KernelKey) -> bool:
    """Whether one split's logits are a view of o in 2026-06: as in 2025-11, and with 32 heads and bf16 KV."""
    return logits_are_o_2025_11(key) or (key.kv_dtype is DType.BF16 and key.gqa_ratio == 32)


def logits_are_o_2026_08(key: KernelKey) -> bool:
    """Whether one split's logits are a view of o in 2026-08: as in 2026-06, and with 8 heads and bf16 KV."""
    return logits_are_o_2026_06(key) or (key.kv_dtype is DType.BF16 and key.gqa_ratio == 8)


def least_split_tokens_2025_11(key: KernelKey) -> int:
    """64 for 16 heads with one query."""
    return 64 if key.gqa_ratio == 16 and key.max_seqlen_q == 1 else 16


def least_split_tokens_2026_06(key: KernelKey) -> int:
    """By heads, dtypes and queries."""
    heads, queries = key.gqa_ratio, key.max_seqlen_q
    both_fp8 = key.q_dtype is DType.FP8 and key.kv_dtype is DType.FP8
    both_bf16 = key.q_dtype is DType.BF16 and key.kv_dtype is DType.BF16
    if (heads == 128 and both_fp8) or (heads == 64 and both_bf16 and queries == 1):
        return 32
    return 64 if heads in (8, 16) and queries == 1 else 16


def least_split_tokens_2026_08(key: KernelKey) -> int:
    """Tokens as in 2026-06, but 64 for 8 heads with two queries."""
    return 64 if key.gqa_ratio == 8 and key.max_seqlen_q == 2 else least_split_tokens_2026_06(key)
