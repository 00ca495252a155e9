"""Host-side rules that a planner is launched by, release by release: who is native, how heads fold, how rows are packed.

Source: the host functions at the end of csrc/kernels/mla/metadata/v1_{0,1,2}_device.cuh. Variants that only
AITER_ENABLE_EXPERIMENTAL switches on are left out. Knows no kernel.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from backend.aiter.arguments import PlanArguments, TargetGpu
from backend.aiter.fold import FOLDED_HEADS
from backend.case import Arch, DType


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
