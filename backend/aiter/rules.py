"""What AITER's host side does otherwise from release to release: planning, the second stage, mla_decode_fwd, the launcher.

Values that a Release holds, and the functions they are made of; reduction.py, planners/ and launch.py apply them. Fold,
splits, sizing and the way to a kernel have modules of their own (fold.py, splits.py, sizing.py, kernel_rules.py). Knows no
release by name.
Sources: the host functions at the end of csrc/kernels/mla/metadata/v1_{0,1,2}_device.cuh (without what only
AITER_ENABLE_EXPERIMENTAL switches on), csrc/kernels/mla/reduce.cu, aiter/mla.py, csrc/py_itfs_cu/asm_mla.cu.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

from backend.aiter.arguments import DecodeArguments, PlanArguments, TargetGpu
from backend.aiter.fold import FOLDED_HEADS
from backend.aiter.kernel_rules import KernelKey, RouteRule
from backend.case import Arch, DType, OutputType

if TYPE_CHECKING:
    pass


WAVE = 64

OCCUPANCY = 8
"""Workgroups of the reduction that share a compute unit (MlaReduceKernelV1Traits)."""


@dataclass(frozen=True, slots=True)
class ReductionRules:
    """heads: those that mla_reduce_v1 is compiled for with 512 elements a row; it raises for any other.

    lds_bytes: that a workgroup is launched with, by the splits that it has room for. workgroups_share_lds: whether it may have
    its share of a compute unit's LDS only. keeps_map: whether reduce_partial_map is kept in LDS, so that rows past its room are
    read elsewhere. shares_queries: whether several workgroups share the queries of a tile and head.
    merges_tokens: whether the Triton merge counts the tokens of a request; without, it takes its pages for tokens.
    output_types_refused: element types of o that mla_reduce_v1 raises for, by what its message calls them.
    """

    heads: tuple[int, ...]
    lds_bytes: Callable[[int], int]
    workgroups_share_lds: bool
    keeps_map: bool
    shares_queries: bool
    merges_tokens: bool
    output_types_refused: Mapping[OutputType, str]


def lds_bytes_2025_11(max_splits: int) -> int:
    """Scales and spilled LSEs, one word a split."""
    return 8 * max_splits


def lds_bytes_2026_06(max_splits: int) -> int:
    """Map, scales and spilled LSEs, one word a split."""
    return _lds_bytes_2026(max_splits, scales=max_splits)


def lds_bytes_2026_08(max_splits: int) -> int:
    """The same, the scales in whole waves."""
    scales = WAVE if max_splits <= WAVE else 4 * WAVE if max_splits <= 4 * WAVE else -(-max_splits // WAVE) * WAVE
    return _lds_bytes_2026(max_splits, scales)


def _lds_bytes_2026(max_splits: int, scales: int) -> int:
    return 4 * (max_splits + scales + max(0, scales - 4 * WAVE))


REFUSED_BY_TORCH = {OutputType.FP8: "Float8_e4m3fn", OutputType.FP32: "Float"}
"""Output types that DISPATCH_MLA_REDUCE_KERNEL has no case for, as torch names them; gfx942's fp8 is Float8_e4m3fnuz."""

REFUSED_BY_AITER = {OutputType.FP8: "fp8", OutputType.FP32: "fp32"}
"""The same as AiterDtype_to_str names them (csrc/include/aiter_enum.h), since tensors are AITER's own (2026-08)."""


@dataclass(frozen=True, slots=True)
class FirstFastRules:
    """v1_2 as it was in 2025-11: planners/v1_2_first.py, which has no options."""


@dataclass(frozen=True, slots=True)
class FastRules:
    """v1_2 since 2026 (planners/v1_2.py, v1_2_parallel.py) and the host rules that it is launched by.

    native: whether heads are planned as they are. accepts: its check of the heads after folding. packed_rows: (head, query)
    rows that one workgroup takes. trims_causal: whether a query tile ends at what its last query may see.
    has_parallel_path: whether a part of the calls is planned by eight waves.
    """

    native: Callable[[TargetGpu, PlanArguments], bool]
    accepts: Callable[[TargetGpu, PlanArguments, int], bool]
    packed_rows: Callable[[TargetGpu, PlanArguments, int], int]
    trims_causal: Callable[[PlanArguments], bool]
    has_parallel_path: bool


@dataclass(frozen=True, slots=True)
class PlannerRules:
    """get_mla_metadata_v1 of a built-in release, as what it differs by.

    has_v1_0: whether there is a planner v1_0 and the argument intra_batch_mode. has_page_size: whether it takes a page size.
    fast: the planner of fast_mode. checks_end_process: a failed check of it or of a planner is std::abort (AITER_CHECK, from
    c16d44b93 on), not an exception (TORCH_CHECK). has_round_robin: whether it takes is_cp_round_robin, which fast alone uses.
    """

    has_v1_0: bool
    has_page_size: bool
    fast: FirstFastRules | FastRules
    checks_end_process: bool
    has_round_robin: bool = False


V1_0_TOKENS_PER_PIECE = 196
V1_0_FIXED_PIECES = {Arch.GFX942: 16}
"""Pieces of a row where the kernel is compiled for this architecture, whatever the caller asked for."""
V1_0_SHORT_TAIL = 4
"""Tokens of a last piece, at most, that go to the piece before it."""

V1_2_FIRST_OVERHEAD = 16
"""Blocks charged for a piece in release 2025-11, whatever the page size."""


def is_fp8(arguments: PlanArguments) -> bool:
    """Both q and KV are fp8."""
    return arguments.q_dtype is DType.FP8 and arguments.kv_dtype is DType.FP8


def is_bf16(arguments: PlanArguments) -> bool:
    """Neither q nor KV is fp8."""
    return arguments.q_dtype is not DType.FP8 and arguments.kv_dtype is not DType.FP8


def trims_among_ranks(arguments: PlanArguments, fold: int) -> bool:
    """Whether v1_2 trims as it does without context parallelism: round-robin ranks keep all of their KV, except that folded
    heads are trimmed all the same (2026-08, csrc/kernels/mla/metadata/v1_2_device.cuh)."""
    return not arguments.is_cp_round_robin or (fold != 1 and arguments.topk < 0)


def heads(arguments: PlanArguments) -> int:
    """Query heads over all KV heads, as every planner starts from."""
    return arguments.num_heads_k * arguments.num_heads_per_head_k


def fold_by_head_count(num_heads: int) -> int:
    """Head groups in v1_0, v1_1 and all of 2025-11: by the head count alone, whatever the dtypes and the architecture."""
    if num_heads not in (16, 128) and num_heads % FOLDED_HEADS == 0 and num_heads < 128:
        return num_heads // FOLDED_HEADS
    return 1


def native_2026_06(device: TargetGpu, arguments: PlanArguments) -> bool:
    """Whether v1_2 of 2026-06 plans these heads as they are."""
    num_heads, queries = heads(arguments), arguments.max_seqlen_qo
    if num_heads == 16:
        return True
    if device.arch is Arch.GFX942:
        return is_fp8(arguments) and num_heads == 128
    if is_fp8(arguments):
        return num_heads in (64, 128) or (num_heads == 32 and queries in (2, 4))
    return is_bf16(arguments)


def native_2026_08(device: TargetGpu, arguments: PlanArguments) -> bool:
    """Whether v1_2 of 2026-08 plans these heads as they are."""
    num_heads, queries = heads(arguments), arguments.max_seqlen_qo
    if num_heads == 16:
        return True
    if is_fp8(arguments) and num_heads == 64 and queries == 1:
        return True
    if device.arch is Arch.GFX942:
        return is_fp8(arguments) and num_heads == 128
    if is_fp8(arguments):
        return num_heads in (32, 64, 128)
    return is_bf16(arguments)


def fold_by_native(rules: FastRules, device: TargetGpu, arguments: PlanArguments) -> int:
    """Head groups in v1_2 of 2026: what is not native is folded, where it can be."""
    num_heads = heads(arguments)
    if rules.native(device, arguments) or num_heads % FOLDED_HEADS:
        return 1
    return num_heads // FOLDED_HEADS


def accepted_2026_08(device: TargetGpu, arguments: PlanArguments, planned_heads: int) -> bool:
    """The check of 2026-08: that of 2026-06, and 64 heads of one query in fp8 on any architecture."""
    one_query_of_64 = planned_heads == 64 and is_fp8(arguments) and arguments.max_seqlen_qo == 1
    return one_query_of_64 or accepted_2026_06(device, arguments, planned_heads)


def accepted_2026_06(device: TargetGpu, arguments: PlanArguments, planned_heads: int) -> bool:
    """v1_2's own check of the head count after folding."""
    if planned_heads in (16, 128) or (planned_heads == 32 and is_fp8(arguments)):
        return True
    if device.arch is Arch.GFX942:
        return planned_heads == 8 and arguments.max_seqlen_qo == 2 and is_bf16(arguments)
    if is_bf16(arguments):
        return True
    return is_fp8(arguments) and (planned_heads == 64 or (planned_heads == 8 and arguments.max_seqlen_qo == 4))


PACKED_ROWS = 128
"""(head, query) rows that one workgroup takes."""


def packed_rows_2026_08(device: TargetGpu, arguments: PlanArguments, planned_heads: int) -> int:
    """As in 2026-06, and 64 rows for 32 heads with three queries in fp8 on gfx950."""
    three_of_32 = planned_heads == 32 and arguments.max_seqlen_qo == 3
    if three_of_32 and device.arch is Arch.GFX950 and is_fp8(arguments):
        return 64
    return packed_rows_2026_06(device, arguments, planned_heads)


def packed_rows_2026_06(device: TargetGpu, arguments: PlanArguments, planned_heads: int) -> int:
    """(head, query) rows that one workgroup takes in v1_2; a longer row is cut along its queries."""
    queries = arguments.max_seqlen_qo
    if device.arch is Arch.GFX950 and is_bf16(arguments):
        packed = planned_heads * queries
        if packed >= 64 and planned_heads <= 64 and (packed < 128 or planned_heads == 48):
            return 64
    return PACKED_ROWS


def cuts_queries(arguments: PlanArguments, packed: int) -> bool:
    """Whether v1_2 runs its variant that cuts rows along their queries: by the heads before folding."""
    return not 0 < arguments.max_seqlen_qo * arguments.num_heads_per_head_k <= packed


def overhead_blocks(page_size: int) -> int:
    """Blocks that a piece is charged for besides its own (v1_2 of 2026)."""
    return max(1, (16 + page_size - 1) // page_size)


def tail_threshold(arguments: PlanArguments) -> int:
    """A remainder of fewer KV tokens than this goes to the compute unit that leaves it (v1_2 of 2026)."""
    return arguments.max_seqlen_qo


def shares(arguments: PlanArguments, compute_units: int, rows: int) -> int:
    """Parts that v1_2 divides the blocks into."""
    if arguments.max_split_per_batch < 0:
        return compute_units
    return min(compute_units, arguments.max_split_per_batch * rows)


def plans_per_query_ends(arguments: PlanArguments, planned_heads: int) -> bool:
    """Whether v1_0 gives each query position's row its own causal end: 128 heads and q not bf16."""
    return planned_heads == 128 and arguments.q_dtype is not DType.BF16


def trims_always(arguments: PlanArguments) -> bool:
    """v1_2 of 2026-06 ends a query tile at what its last query may see, whatever is_causal says."""
    return True


def trims_if_causal(arguments: PlanArguments) -> bool:
    """v1_2 of 2026-08 does so for causal attention."""
    return arguments.is_causal


def topk_in_pages(arguments: PlanArguments) -> int:
    """topk as v1_2 of 2026 counts KV."""
    return arguments.topk if arguments.topk < 0 else -(-arguments.topk // arguments.page_size)


def runs_parallel(device: TargetGpu, arguments: PlanArguments, fold: int, cuts_queries: bool) -> bool:
    """Whether v1_2 takes its parallel path, if it has one; AITER_MLA_META_USE_PARALLEL=0, which turns it off, is unset."""
    if arguments.max_seqlen_qo != 1 or cuts_queries:
        return False
    if arguments.topk >= 0 or arguments.page_size != 1 or fold != 1:
        return False
    sequences = arguments.kv_indptr.size - 1
    query_bytes = 0 if arguments.uni_seqlen_qo > 0 else 4 * sequences
    return 4 * (3 + 5 * sequences) + query_bytes <= device.lds_bytes


def v1_1_lds_bytes(rows: int, planned_heads: int, max_seqlen_qo: int, num_cu: int) -> int:
    """Local memory that v1_1 asks for; it raises where that is more than there is."""
    tiles = rows * -(-max(max_seqlen_qo, 1) * planned_heads // PACKED_ROWS)
    per_row = 4 * (3 * rows + rows + 1)
    power_of_two = 1 << (rows - 1).bit_length() if rows > 1 else rows
    sorting = per_row + 8 * (-(-power_of_two // 64) * 64)
    return max(per_row + 8 * num_cu + 16 * tiles, sorting)


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
