"""get_mla_metadata_info_v1 by release: how large AITER says that the metadata buffers must be.

Source: aiter/ops/attention.py of each release. Variants that only AITER_ENABLE_EXPERIMENTAL switches on are left out. Knows
nothing of planners: where the two disagree, a plan does not fit.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from backend.aiter.arguments import BufferSizes, PlanArguments, SizingArguments, TargetGpu
from backend.case import Arch, DType
from backend.errors import AiterfuzzError

WORK_ITEM_WORDS = 8
"""int32 words of a work item."""


class SizingRefusedError(AiterfuzzError):
    """AITER itself raises on these sizing arguments; `refusal` says why without raising."""


Sizing = Callable[[TargetGpu, SizingArguments], BufferSizes | str]
"""What get_mla_metadata_info_v1 answers: words of each buffer, or why it raises."""


def refusal(sizing: Sizing, device: TargetGpu, arguments: SizingArguments) -> str | None:
    """Why get_mla_metadata_info_v1 raises on these arguments; None where it answers."""
    answer = sizing(device, arguments)
    return answer if isinstance(answer, str) else None


def sizing_of(planning: PlanArguments, given: SizingArguments) -> SizingArguments:
    """The sizing call that matches a planning call; the split cap is the planner's where it has one, else that of `given`."""
    return SizingArguments(
        batch=len(planning.qo_indptr) - 1,
        max_seqlen_q=planning.max_seqlen_qo,
        num_head=planning.num_heads_per_head_k * planning.num_heads_k,
        q_dtype=planning.q_dtype,
        kv_dtype=planning.kv_dtype,
        is_sparse=planning.topk >= 0,
        fast_mode=planning.fast_mode,
        num_kv_splits=planning.max_split_per_batch if planning.max_split_per_batch > 0 else given.num_kv_splits,
        intra_batch_mode=planning.intra_batch_mode,
    )


def buffer_sizes(sizing: Sizing, device: TargetGpu, arguments: SizingArguments) -> BufferSizes:
    """Words of each buffer by AITER's rule; raises SizingRefusedError where AITER raises (see `refusal`)."""
    answer = sizing(device, arguments)
    if isinstance(answer, str):
        raise SizingRefusedError(answer)
    return answer


@dataclass(frozen=True, slots=True)
class SizingRule:
    """The function of a built-in release, as what it differs by. It is called like the function (see `Sizing`).

    head_multiple: what num_head must divide by. tiles: query tiles that a sequence is counted for.
    fast_work_items: work items in fast mode, of (sequences, tiles of a sequence, compute units).
    has_intra_batch_mode: whether there is such an argument. counts_split_cap: whether it knows max_split_per_batch.
    """

    head_multiple: int
    tiles: Callable[[Arch, SizingArguments], int]
    fast_work_items: Callable[[int, int, int], int]
    has_intra_batch_mode: bool
    counts_split_cap: bool

    def __call__(self, device: TargetGpu, arguments: SizingArguments) -> BufferSizes | str:
        """Words of each buffer, or why AITER raises."""
        if arguments.num_head % self.head_multiple:
            return f"num_head_qo {arguments.num_head} is not a multiple of {self.head_multiple}"
        if arguments.intra_batch_mode and not self.has_intra_batch_mode:
            return "get_mla_metadata_info_v1 has no argument intra_batch_mode"
        if arguments.intra_batch_mode and arguments.num_kv_splits is None:
            return "num_kv_splits None cannot be multiplied, and intra_batch_mode sizes by it"
        return words(self, device, arguments)


def words(rule: SizingRule, device: TargetGpu, arguments: SizingArguments) -> BufferSizes:
    """Words of each buffer for arguments that the rule answers."""
    tiles = rule.tiles(device.arch, arguments)
    batch = arguments.batch * arguments.max_seqlen_q if arguments.is_sparse else arguments.batch
    units = device.num_cu
    all_tiles = batch * tiles
    if arguments.fast_mode:
        work_items = rule.fast_work_items(batch, tiles, units)
        partial_tiles = min(batch + units - 1, (units - 1) * 2) * tiles
    else:
        work_items = partial_tiles = all_tiles * units
    if rule.counts_split_cap and arguments.max_split_per_batch > 0:
        partial_tiles = max(partial_tiles, all_tiles + min(units, arguments.max_split_per_batch * batch))
    if arguments.intra_batch_mode:
        work_items = partial_tiles = all_tiles * (arguments.num_kv_splits or 0)
    return BufferSizes(units + 1, WORK_ITEM_WORDS * work_items, all_tiles + 1, 2 * all_tiles, partial_tiles)


def query_tiles_2025_11(arch: Arch, arguments: SizingArguments) -> int:
    """Tiles a sequence is counted for: by the KV dtype only, and all of max_seqlen_q under sparse attention too."""
    packed = arguments.max_seqlen_q * arguments.num_head
    native = arguments.num_head == 16 or (arguments.num_head == 128 and arguments.kv_dtype is DType.FP8)
    return _up(packed, 128) if native else _up(packed, 16)


def query_tiles_2026_06(arch: Arch, arguments: SizingArguments) -> int:
    """Tiles a sequence is counted for in 2026-06."""
    packed = _queries(arguments) * arguments.num_head
    if _one_tile_for_128_rows(arch, arguments):
        return _up(packed, 128)
    return _bf16_tiles(arguments) if _bf16_cut_by_128(arch, arguments) else _up(packed, 16)


def query_tiles_2026_08(arch: Arch, arguments: SizingArguments) -> int:
    """Tiles a sequence is counted for in 2026-08, which knows workgroups of 64 rows."""
    queries, num_head = _queries(arguments), arguments.num_head
    packed = queries * num_head
    bf16_64 = _is(arguments, DType.BF16) and packed >= 64 and num_head <= 64 and (packed < 128 or num_head == 48)
    fp8_64 = _is(arguments, DType.FP8) and num_head == 32 and queries == 3
    if arch is Arch.GFX950 and (bf16_64 or fp8_64):
        return queries if num_head * 2 > 64 else _up(packed, 64)
    if _one_tile_for_128_rows(arch, arguments) or (_is(arguments, DType.FP8) and num_head == 64 and queries == 1):
        return _up(packed, 128)
    return _bf16_tiles(arguments) if _bf16_cut_by_128(arch, arguments) else _up(packed, 16)


def work_items_2025_11(sequences: int, tiles: int, compute_units: int) -> int:
    """Work items in fast mode: each compute unit may add one piece."""
    return sequences * tiles + compute_units - 1


def work_items_2026(sequences: int, tiles: int, compute_units: int) -> int:
    """Work items in fast mode: each compute unit may add one piece of every query tile."""
    return (sequences + compute_units - 1) * tiles


def _one_tile_for_128_rows(arch: Arch, arguments: SizingArguments) -> bool:
    """Heads that 2026 counts as native, for all but bf16 on gfx950."""
    num_head = arguments.num_head
    if num_head == 16:
        return True
    if not _is(arguments, DType.FP8):
        return False
    if arch is Arch.GFX942:
        return num_head == 128
    return num_head in (64, 128) or (num_head == 32 and _queries(arguments) == 4)


def _bf16_cut_by_128(arch: Arch, arguments: SizingArguments) -> bool:
    num_head = arguments.num_head
    large = _queries(arguments) * num_head >= 128 or num_head > 64
    return arch is Arch.GFX950 and _is(arguments, DType.BF16) and large and num_head != 48


def _bf16_tiles(arguments: SizingArguments) -> int:
    queries = _queries(arguments)
    return queries if arguments.num_head * 2 > 128 else _up(queries * arguments.num_head, 128)


def _queries(arguments: SizingArguments) -> int:
    return 1 if arguments.is_sparse else arguments.max_seqlen_q


def _is(arguments: SizingArguments, dtype: DType) -> bool:
    return arguments.q_dtype is dtype and arguments.kv_dtype is dtype


def _up(value: int, step: int) -> int:
    return -(-value // step)
