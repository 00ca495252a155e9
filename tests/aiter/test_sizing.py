"""Buffer sizes by AITER's rule, worked out by hand, and the shapes that AITER refuses to size."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from planner_cases import BF16, FP8, MI300X, MI355X

from backend.aiter.arguments import BufferSizes, SizingArguments, TargetGpu
from backend.aiter.release import release as named
from backend.aiter.sizing import SizingRefusedError, buffer_sizes, refusal


def arguments(batch: int, queries: int, heads: int, dtype: Any = FP8, **changes: Any) -> SizingArguments:
    values: dict[str, Any] = {"fast_mode": False, "num_kv_splits": 64, "intra_batch_mode": False, "is_sparse": False}
    return SizingArguments(batch, queries, heads, dtype, dtype, **(values | changes))


def tiles(release: str, device: TargetGpu, given: SizingArguments) -> int:
    return (buffer_sizes(named(release).sizing, device, given).reduce_indptr - 1) // given.batch


@pytest.mark.parametrize(
    ("release", "device", "queries", "heads", "dtype", "expected"),
    [
        ("2025-11", MI355X, 1, 64, FP8, 4),
        ("2025-11", MI355X, 4, 16, FP8, 1),
        ("2025-11", MI300X, 2, 128, FP8, 2),
        ("2025-11", MI300X, 1, 128, BF16, 8),
        ("2026-06", MI355X, 1, 64, FP8, 1),
        ("2026-06", MI300X, 1, 64, FP8, 4),
        ("2026-06", MI355X, 4, 32, FP8, 1),
        ("2026-06", MI355X, 3, 32, FP8, 6),
        ("2026-06", MI355X, 1, 96, BF16, 1),
        ("2026-06", MI355X, 3, 96, BF16, 3),
        ("2026-06", MI355X, 4, 64, BF16, 2),
        ("2026-06", MI355X, 1, 64, BF16, 4),
        ("2026-06", MI355X, 4, 48, BF16, 12),
        ("2026-08", MI355X, 1, 64, BF16, 1),
        ("2026-08", MI355X, 4, 48, BF16, 4),
        ("2026-08", MI355X, 3, 32, FP8, 2),
        ("2026-08", MI300X, 1, 64, FP8, 1),
        ("2026-08", MI300X, 2, 64, FP8, 8),
        ("2026-08", MI355X, 6, 16, BF16, 2),
        ("2026-06", MI355X, 6, 16, BF16, 1),
    ],
)
def test_tiles_of_a_sequence(release: str, device: TargetGpu, queries: int, heads: int, dtype: Any, expected: int) -> None:
    assert tiles(release, device, arguments(3, queries, heads, dtype)) == expected


def test_mixed_dtypes_are_not_native_but_2025_11_asks_the_kv_dtype_only() -> None:
    mixed = SizingArguments(1, 1, 128, BF16, FP8, False, False, 64, False)
    assert [tiles(release, MI355X, mixed) for release in ("2025-11", "2026-06", "2026-08")] == [1, 8, 8]


def test_fake_mode_of_the_founding_case() -> None:
    """B sequences of one tile, 64 pieces each: not four, as v1_0 plans them."""
    given_arguments = arguments(7, 1, 64, intra_batch_mode=True)
    assert buffer_sizes(named("2026-06").sizing, MI355X, given_arguments) == BufferSizes(257, 8 * 7 * 64, 8, 14, 7 * 64)


def test_fast_mode() -> None:
    """(B + CU - 1) items a tile, and as many partial tiles up to 2 (CU - 1); 2025-11 counts the tiles of the batch."""
    given_arguments = arguments(300, 2, 96, BF16, fast_mode=True)
    assert buffer_sizes(named("2026-06").sizing, MI355X, given_arguments) == BufferSizes(257, 8 * 555 * 2, 601, 1200, 510 * 2)
    assert buffer_sizes(named("2025-11").sizing, MI355X, given_arguments) == BufferSizes(
        257, 8 * (3600 + 255), 3601, 7200, 510 * 12
    )


def test_greedy_mode() -> None:
    assert buffer_sizes(named("2026-06").sizing, MI355X, arguments(2, 1, 48)) == BufferSizes(257, 8 * 6 * 256, 7, 12, 6 * 256)


def test_split_cap_of_2026_08() -> None:
    """max_split_per_batch widens the partial map to tiles + min(CU, cap * batch); nothing else, and nothing before."""
    capped = arguments(64, 1, 16, fast_mode=True, max_split_per_batch=4)
    small = TargetGpu(MI355X.arch, 20)
    assert buffer_sizes(named("2026-08").sizing, small, capped).reduce_partial_map == 64 + 20
    assert buffer_sizes(named("2026-06").sizing, small, capped).reduce_partial_map == 38


@given(st.integers(1, 300), st.integers(1, 8), st.sampled_from([16, 32, 64, 96, 128]), st.booleans())
def test_sparse_rows_are_sequences_of_one_query(batch: int, queries: int, heads: int, fast: bool) -> None:
    sparse = arguments(batch, queries, heads, is_sparse=True, fast_mode=fast)
    plain = arguments(batch * queries, 1, heads, fast_mode=fast)
    for release in ("2026-06", "2026-08"):
        assert buffer_sizes(named(release).sizing, MI355X, sparse) == buffer_sizes(named(release).sizing, MI355X, plain)


@pytest.mark.parametrize(
    ("release", "given_arguments", "reason"),
    [
        ("2026-06", arguments(1, 1, 12), "multiple of 8"),
        ("2025-11", arguments(1, 1, 8), "multiple of 16"),
        ("2025-11", arguments(1, 1, 16, intra_batch_mode=True), "intra_batch_mode"),
        ("2026-06", arguments(1, 1, 16, intra_batch_mode=True, num_kv_splits=None), "None"),
    ],
)
def test_what_aiter_refuses(release: str, given_arguments: SizingArguments, reason: str) -> None:
    assert reason in (refusal(named(release).sizing, MI355X, given_arguments) or "")
    with pytest.raises(SizingRefusedError, match=reason):
        buffer_sizes(named(release).sizing, MI355X, given_arguments)
