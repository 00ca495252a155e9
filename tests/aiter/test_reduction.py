"""The second stage's rows against slow references: loops over workgroups as reduce.cu and the Triton kernel have them."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from backend.aiter.arguments import TargetGpu
from backend.aiter.reduction import (
    MergedRows,
    SecondStage,
    SecondStageKind,
    expand,
    reduce_refusal,
    reduce_stage,
    reduced_rows,
    split_rows,
    workgroups_per_head,
)
from backend.aiter.release import release
from backend.case import RELEASES, Arch
from backend.errors import UnmodelledError

GPU = TargetGpu(Arch.GFX950, 256)
MI300X = TargetGpu(Arch.GFX942, 304)


def int32(*values: int) -> np.ndarray:
    return np.array(values, np.int32)


def stage(name: str, tiles: int, gpu: TargetGpu = GPU, max_splits: int = 256, max_seqlen_q: int = 1) -> SecondStage:
    return reduce_stage(release(name), gpu, 16, tiles, max_splits, max_seqlen_q, stores_lse=False)


def triton_stage(splits: int, mgc: int = 16, maybe_final_out: bool = True, merges_tokens: bool = False) -> SecondStage:
    return SecondStage(
        SecondStageKind.TRITON,
        16,
        splits,
        stores_lse=False,
        mgc=mgc,
        merges_tokens=merges_tokens,
        maybe_final_out=maybe_final_out,
    )


def single_rows(rows: MergedRows) -> tuple[set[tuple[int, int]], set[tuple[int, int]]]:
    """(owner, row) written and read, one by one."""
    written = zip(
        np.repeat(rows.output_owner, rows.output_end - rows.output_begin).tolist(),
        expand(rows.output_begin, rows.output_end).tolist(),
        strict=True,
    )
    read = zip(
        np.repeat(rows.partial_owner, rows.partial_end - rows.partial_begin).tolist(),
        expand(rows.partial_begin, rows.partial_end).tolist(),
        strict=True,
    )
    return set(written), set(read)


def reduce_works(num_head: int, groups: int, tiles: int, indptr: np.ndarray, num_cu: int) -> Iterator[tuple[int, int]]:
    """(tile, group) of every work that mla_reduce_v1 gets to, for any head."""
    grid = num_cu * 16
    total = num_head * groups * tiles
    strides = total > grid
    for block in range(min(grid, total)):
        for work in range(block, total, grid):
            tile = work // (num_head * groups)
            if strides and indptr[tile] == indptr[tiles]:
                break
            yield tile, work // num_head % groups


def reduce_reference(
    num_cu: int, num_head: int, groups: int, indptr: np.ndarray, final_map: np.ndarray, partial_map: np.ndarray
) -> tuple[set[tuple[int, int]], set[tuple[int, int]]]:
    written, read = set(), set()
    for tile, group in reduce_works(num_head, groups, len(indptr) - 1, indptr, num_cu):
        begin, end = int(indptr[tile]), int(indptr[tile + 1])
        if end - begin < 2:
            continue
        q_begin, q_end = final_map[tile].tolist()
        for row in range(q_begin + group, q_end, groups):
            written.add((tile, row))
            read |= {(tile, int(partial_map[word]) + row - q_begin) for word in range(begin, end)}
    return written, read


@st.composite
def plans(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A reduce plan, now and then with an indptr that falls."""
    splits = draw(st.lists(st.integers(0, 5), min_size=1, max_size=12))
    indptr = np.cumsum([0, *splits]).astype(np.int32)
    size = int(indptr[-1])
    if draw(st.booleans()):
        indptr[draw(st.integers(0, len(splits)))] = draw(st.integers(0, size))
    lengths = draw(st.lists(st.integers(0, 5), min_size=len(splits), max_size=len(splits)))
    ends = np.cumsum(lengths)
    final_map = np.stack([ends - lengths, ends], axis=1).astype(np.int32)
    partial = draw(st.lists(st.integers(0, 200), min_size=size, max_size=size))
    return indptr, final_map, np.array(partial, np.int32)


@settings(max_examples=300 if os.environ.get("AITERFUZZ_SLOW") else 100, deadline=None)
@given(plan=plans(), num_cu=st.sampled_from([1, 2, 256]), max_seqlen_q=st.integers(1, 8), name=st.sampled_from(RELEASES))
def test_reduced_rows_equal_the_loops_of_the_kernel(
    plan: tuple[np.ndarray, np.ndarray, np.ndarray], num_cu: int, max_seqlen_q: int, name: str
) -> None:
    indptr, final_map, partial_map = plan
    tiles, gpu = len(indptr) - 1, TargetGpu(Arch.GFX950, num_cu)
    groups = 1 if name == "2025-11" else workgroups_per_head(gpu, tiles, max_seqlen_q, 16)
    made = reduced_rows(stage(name, tiles, gpu, max_seqlen_q=max_seqlen_q), indptr, final_map, partial_map)
    assert single_rows(made) == reduce_reference(num_cu, 16, groups, indptr, final_map, partial_map)
    assert not len(made.over_capacity)
    assert not len(made.partial_map_outside)


def test_a_tile_with_one_partial_row_is_passed_over() -> None:
    rows = reduced_rows(stage("2026-06", 2), int32(0, 1, 3), int32(0, 1, 1, 2).reshape(2, 2), int32(7, 8, 9))
    assert single_rows(rows) == ({(1, 1)}, {(1, 8), (1, 9)})


def test_words_outside_the_maps_are_told_and_not_followed() -> None:
    rows = reduced_rows(stage("2026-06", 3), int32(-1, 2, 6, 9), int32(0, 1, 1, 2), int32(4, 5, 6, 7))
    assert rows.partial_map_outside.tolist() == [[-1, 0], [4, 6], [6, 9]]
    assert rows.final_map_outside.tolist() == [2]
    assert single_rows(rows) == ({(0, 0), (1, 1)}, {(0, 4), (0, 5), (1, 6), (1, 7)})


def test_more_partial_rows_than_lds_holds() -> None:
    count = 300
    plan = (int32(0, count), int32(0, 1), np.arange(count, dtype=np.int32))
    kept = reduced_rows(stage("2026-06", 1), *plan)
    assert kept.over_capacity.tolist() == [0]
    assert len(kept.partial_begin) == 256  # the map of the others is overwritten in LDS
    reread = reduced_rows(stage("2025-11", 1), *plan)
    assert reread.over_capacity.tolist() == [0]
    assert len(reread.partial_begin) == count  # 2025-11 reads the map again
    roomy = reduced_rows(stage("2026-08", 1, max_splits=512), *plan)
    assert not len(roomy.over_capacity)


def test_a_kernel_without_maps_takes_tiles_for_rows() -> None:
    """The maps that it does not read say rows 5 and 7, and partial rows 3, 4, 5, 6; a row past the pool is read as zero."""
    without = dataclasses.replace(stage("2026-06", 3), without_maps=2)
    rows = reduced_rows(without, int32(0, 2, 6, 9), int32(5, 6, 7, 8, 9, 10), int32(3, 4, 5, 6))
    assert single_rows(rows) == ({(0, 0), (1, 1)}, {(0, 0), (0, 1), (1, 2), (1, 3)})
    assert not len(rows.partial_map_outside)
    assert not len(rows.over_capacity)


def test_a_garbled_indptr_stops_instead_of_filling_memory() -> None:
    indptr = np.tile(int32(0, 1 << 14), 1100)
    size = 1 << 14
    with pytest.raises(UnmodelledError, match="garbage"):
        reduced_rows(
            stage("2026-06", len(indptr) - 1, TargetGpu(Arch.GFX950, 1 << 20), 1 << 20),
            indptr,
            np.zeros((len(indptr), 2), np.int32),
            np.zeros(size, np.int32),
        )


def triton_reference(
    splits: int, mgc: int, maybe_final_out: bool, qo: np.ndarray, lengths: list[int]
) -> tuple[set[tuple[int, int]], set[tuple[int, int]]]:
    """Offsets as the Triton kernel forms them, turned back into rows of [rows * splits, heads, 512]."""
    heads, value = 16, 512
    stride_ob, stride_os = splits * heads, heads
    written, read = set(), set()
    indptr = np.arange(len(lengths) + 1) * splits
    final_out = maybe_final_out and indptr[len(lengths)] == len(lengths)
    for batch, length in enumerate(lengths):
        offset = int(qo[batch]) * stride_ob * value
        valid = min(int(indptr[batch + 1] - indptr[batch]), -(-length // mgc))
        for row in range(int(qo[batch]), int(qo[batch + 1])):
            written.add((batch, row))
            if final_out:
                read.add((batch, value * row * stride_os // (heads * value)))
                continue
            read |= {(batch, (offset + split * stride_os * value) // (heads * value)) for split in range(valid)}
            offset += stride_ob * value
    return written, read


@settings(max_examples=200 if os.environ.get("AITERFUZZ_SLOW") else 70, deadline=None)
@given(
    rows=st.lists(st.integers(1, 5), min_size=1, max_size=6),
    data=st.data(),
    splits=st.integers(1, 20),
    mgc=st.sampled_from([16, 32, 64]),
    maybe_final_out=st.booleans(),
    merges_tokens=st.booleans(),
)
def test_split_rows_equal_the_loops_of_the_triton_kernel(
    rows: list[int], data: st.DataObject, splits: int, mgc: int, maybe_final_out: bool, merges_tokens: bool
) -> None:
    lengths = data.draw(st.lists(st.integers(0, 700), min_size=len(rows), max_size=len(rows)))
    qo, kv = np.cumsum([0, *rows]).astype(np.int32), np.cumsum([0, *lengths]).astype(np.int32)
    ones = np.ones(len(rows), np.int32)
    made = split_rows(triton_stage(splits, mgc, maybe_final_out, merges_tokens), 1, qo, kv, ones)
    assert single_rows(made) == triton_reference(splits, mgc, maybe_final_out, qo, lengths)
    assert made.copies_bf16 == (maybe_final_out and splits == 1)


def test_pages_are_taken_for_tokens_before_2026_08() -> None:
    # One request of 10 pages of 64 tokens, the last with 3: 579 tokens, so all 8 splits of at least 16 tokens hold something.
    tensors = (64, int32(0, 1), int32(0, 10), int32(3))
    assert [release(name).reduction.merges_tokens for name in RELEASES] == [False, False, True]
    assert single_rows(split_rows(triton_stage(8), *tensors))[1] == {(0, 0)}
    assert single_rows(split_rows(triton_stage(8, merges_tokens=True), *tensors))[1] == {(0, row) for row in range(8)}


def test_nothing_is_merged_where_logits_are_o() -> None:
    stage = SecondStage(SecondStageKind.NONE, 16, 1, stores_lse=False, mgc=16, logits_is_o=True, maybe_final_out=True)
    made = split_rows(stage, 1, int32(0, 1, 2), int32(0, 5, 9), int32(1, 1))
    assert single_rows(made) == (set(), set())


def test_what_the_reduction_refuses() -> None:
    assert reduce_refusal(release("2026-06"), GPU, 64, 256) is None
    assert "24" in (reduce_refusal(release("2026-06"), GPU, 24, 256) or "")
    assert reduce_refusal(release("2026-08"), GPU, 24, 256) is None
    assert "more than 65536" in (reduce_refusal(release("2026-08"), MI300X, 16, 8192) or "")
    assert reduce_refusal(release("2026-08"), GPU, 16, 8192) is None
    assert "more than 8192" in (reduce_refusal(release("2025-11"), MI300X, 16, 1025) or "")
    with pytest.raises(UnmodelledError, match="rows of 128: for which heads it is compiled is not known"):
        reduce_refusal(release("2026-08"), GPU, 1, 256, v_head_dim=128)  # AITER has one: its list of heads is of rows of 512


@pytest.mark.parametrize(
    ("name", "splits", "words"),
    [
        ("2025-11", 304, 2 * 304),
        ("2026-06", 256, 2 * 256),
        ("2026-06", 304, 304 + 304 + 48),
        ("2026-08", 80, 80 + 256),
        ("2026-08", 304, 304 + 320 + 64),
    ],
)
def test_lds_of_the_reduction(name: str, splits: int, words: int) -> None:
    assert release(name).reduction.lds_bytes(splits) == 4 * words


@pytest.mark.parametrize(
    ("tiles", "max_seqlen_q", "num_head", "groups"),
    [(1, 1, 16, 1), (1, 3, 16, 4), (1, 8, 16, 8), (200, 8, 16, 1), (100, 8, 16, 2)],
)
def test_workgroups_of_a_head(tiles: int, max_seqlen_q: int, num_head: int, groups: int) -> None:
    # 256 CUs x 8 workgroups x 1.3 = 2662 wanted; shared among tiles x heads, at most one a query, rounded up to a power of two.
    assert workgroups_per_head(GPU, tiles, max_seqlen_q, num_head) == groups
