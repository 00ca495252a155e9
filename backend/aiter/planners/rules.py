"""Host-side rules that a planner is launched by, release by release: who is native, how heads fold, how rows are packed.

Source: the host functions at the end of csrc/kernels/mla/metadata/v1_{0,1,2}_device.cuh. Variants that only
AITER_ENABLE_EXPERIMENTAL switches on are left out. Knows no kernel.
"""

from __future__ import annotations

from backend.aiter.arguments import Device, PlanArguments
from backend.case import Arch, DType

FOLDED_HEADS = 16
"""Heads of a group when a head count that no kernel takes is planned as several rows."""

LDS_BYTES = {Arch.GFX942: 65536, Arch.GFX950: 163840}
"""Local memory of a compute unit (maxSharedMemoryPerMultiProcessor); every planner is launched with all of it."""

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


def heads(arguments: PlanArguments) -> int:
    """Query heads over all KV heads, as every planner starts from."""
    return arguments.num_heads_k * arguments.num_heads_per_head_k


def fold_by_head_count(num_heads: int) -> int:
    """Head groups in v1_0, v1_1 and all of 2025-11: by the head count alone, whatever the dtypes and the architecture."""
    if num_heads not in (16, 128) and num_heads % FOLDED_HEADS == 0 and num_heads < 128:
        return num_heads // FOLDED_HEADS
    return 1


def native_2026_06(device: Device, arguments: PlanArguments) -> bool:
    """Whether v1_2 of 2026-06 plans these heads as they are."""
    num_heads, queries = heads(arguments), arguments.max_seqlen_qo
    if num_heads == 16:
        return True
    if device.arch is Arch.GFX942:
        return is_fp8(arguments) and num_heads == 128
    if is_fp8(arguments):
        return num_heads in (64, 128) or (num_heads == 32 and queries in (2, 4))
    return is_bf16(arguments)


def native_2026_08(device: Device, arguments: PlanArguments) -> bool:
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


def fold_by_native(release: str, device: Device, arguments: PlanArguments) -> int:
    """Head groups in v1_2 of 2026: what is not native is folded, where it can be."""
    native = native_2026_06 if release == "2026-06" else native_2026_08
    num_heads = heads(arguments)
    if native(device, arguments) or num_heads % FOLDED_HEADS:
        return 1
    return num_heads // FOLDED_HEADS


def accepted_by_v1_2(release: str, device: Device, arguments: PlanArguments, planned_heads: int) -> bool:
    """v1_2's own check of the head count after folding (2026)."""
    if planned_heads in (16, 128) or (planned_heads == 32 and is_fp8(arguments)):
        return True
    if device.arch is Arch.GFX942:
        eight = planned_heads == 8 and arguments.max_seqlen_qo == 2 and is_bf16(arguments)
        return eight or (release == "2026-08" and planned_heads == 64 and is_fp8(arguments) and arguments.max_seqlen_qo == 1)
    if is_bf16(arguments):
        return True
    return is_fp8(arguments) and (planned_heads == 64 or (planned_heads == 8 and arguments.max_seqlen_qo == 4))


PACKED_ROWS = 128
"""(head, query) rows that one workgroup takes."""


def packed_rows(release: str, device: Device, arguments: PlanArguments, planned_heads: int) -> int:
    """(head, query) rows that one workgroup takes in v1_2 of 2026; a longer row is cut along its queries."""
    queries = arguments.max_seqlen_qo
    if device.arch is Arch.GFX950 and is_bf16(arguments):
        packed = planned_heads * queries
        if packed >= 64 and planned_heads <= 64 and (packed < 128 or planned_heads == 48):
            return 64
    if release == "2026-08" and device.arch is Arch.GFX950 and is_fp8(arguments) and planned_heads == 32 and queries == 3:
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


def trims_causal(release: str, arguments: PlanArguments) -> bool:
    """Whether v1_2 ends a query tile at what its last query may see; 2026-06 does so whatever is_causal says."""
    return release == "2026-06" or arguments.is_causal


def topk_in_pages(arguments: PlanArguments) -> int:
    """topk as v1_2 of 2026 counts KV."""
    return arguments.topk if arguments.topk < 0 else -(-arguments.topk // arguments.page_size)


def runs_parallel(release: str, device: Device, arguments: PlanArguments, fold: int, cuts_queries: bool) -> bool:
    """Whether v1_2 takes its parallel path; AITER_MLA_META_USE_PARALLEL=0, which turns it off, is taken as unset."""
    if release != "2026-08" or arguments.max_seqlen_qo != 1 or cuts_queries:
        return False
    if arguments.topk >= 0 or arguments.page_size != 1 or fold != 1:
        return False
    sequences = arguments.kv_indptr.size - 1
    query_bytes = 0 if arguments.uni_seqlen_qo > 0 else 4 * sequences
    return 4 * (3 + 5 * sequences) + query_bytes <= LDS_BYTES[device.arch]


def v1_1_lds_bytes(rows: int, planned_heads: int, max_seqlen_qo: int, num_cu: int) -> int:
    """Local memory that v1_1 asks for; it raises where that is more than there is."""
    tiles = rows * -(-max(max_seqlen_qo, 1) * planned_heads // PACKED_ROWS)
    per_row = 4 * (3 * rows + rows + 1)
    power_of_two = 1 << (rows - 1).bit_length() if rows > 1 else rows
    sorting = per_row + 8 * (-(-power_of_two // 64) * 64)
    return max(per_row + 8 * num_cu + 16 * tiles, sorting)
