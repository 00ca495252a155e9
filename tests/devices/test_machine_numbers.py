"""AITER's machine code computes attention on the machine: error against a reference tiled as the kernel, and against float64.

Ragged lengths, splits (partial rows) and unsplit requests (bf16 rows of o), both schedules. Kernels that a wheel does not have
need
a checkout.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from machine_launches import Prepared, decode_bfloat16, encode_bfloat16, plain_attention, prepare, tiled_attention

from backend.aiter.codefiles import open_source
from backend.case import Arch, Case, DType, MetadataMode
from backend.cdna.machine import Machine
from backend.cdna.result import AccessKind, Mode, Schedule

LIMIT = 1e-6
"""Relative rms error of an fp32 partial row of one head."""

TIES = 0.02
TIE_LIMIT = 5e-3
"""Share of heads in which one weight may lie so close to a rounding tie of fp8 or bf16 that it rounds the other way, and the
error that this may bring. Most launches have none."""

COSINE = 0.9997
"""Least cosine between a request's output, all heads, and attention in float64."""
BF16 = {"q_dtype": DType.BF16, "kv_dtype": DType.BF16}
WHEEL = [
    ("qh16 fp8", {"num_head": 16}, Arch.GFX942, 64),
    ("qh16 fp8", {"num_head": 16}, Arch.GFX950, 64),
    ("qh128 fp8", {"num_head": 128}, Arch.GFX942, 32),
    ("qh128 fp8", {"num_head": 128}, Arch.GFX950, 32),
    ("qh16 bf16", {"num_head": 16, **BF16}, Arch.GFX942, 16),
    ("qh16 bf16", {"num_head": 16, **BF16}, Arch.GFX950, 16),
    ("qh16 bf16 q, fp8 KV", {"num_head": 16, "q_dtype": DType.BF16}, Arch.GFX950, 16),
]
CHECKOUT = [
    ("qh64 fp8 2026-06", "2026-06", {"num_head": 64}, Arch.GFX950, 64),
    ("qh64 fp8 2026-08", "2026-08", {"num_head": 64}, Arch.GFX950, 64),
    ("qh64 fp8 2026-08", "2026-08", {"num_head": 64}, Arch.GFX942, 32),
    ("qh32 fp8 2026-08", "2026-08", {"num_head": 32}, Arch.GFX950, 128),
    ("qh64 bf16 2026-06", "2026-06", {"num_head": 64, **BF16}, Arch.GFX950, 32),
    ("qh64 bf16 2026-08", "2026-08", {"num_head": 64, **BF16}, Arch.GFX950, 32),
    ("qh16 fp8 2026-06", "2026-06", {"num_head": 16}, Arch.GFX950, 128),
    ("folded qh32 fp8 2026-06", "2026-06", {"num_head": 32}, Arch.GFX950, 128),
]
COMMITS = {"2026-06": "2988812e134a7dbb08948092a9d89df48a2585d3", "2026-08": "e4048607a535ace3a2b51ded31b1c8c2d45c0879"}
BATCHES = [(300, 77, 13), (1,), (1000, 64, 129, 5)]


def relative_rms(got: np.ndarray, wanted: np.ndarray) -> float:
    return float(np.sqrt(((got - wanted) ** 2).mean() / (wanted.astype(np.float64) ** 2).mean()))


def check(prepared: Prepared, schedule: Schedule, tile: int) -> None:
    result = Machine(prepared.kernel).run(prepared.launch, prepared.space, Mode.FULL, schedule)
    assert [total for total in result.totals if total.kind is not AccessKind.CLAMPED] == []
    case, heads = prepared.case, prepared.heads
    q = prepared.values("q", case.q_dtype, 576).reshape(-1, heads, 576)
    kv = prepared.values("kv_buffer", case.kv_dtype, 576)
    o = prepared.values("o", DType.BF16, 512).reshape(-1, heads, 512)
    logits, lse = prepared.partial("logits", 512), prepared.partial("attn_lse", 1)
    weights = DType.FP8 if case.q_dtype is DType.FP8 else DType.BF16
    for _, place, row, _, first, end, _, _ in prepared.work_items:
        tokens = kv[prepared.call.decode.kv_indices[first:end]]
        wanted, wanted_lse = tiled_attention(q[row], tokens, tile, weights, prepared.fnuz)
        plain = plain_attention(q[row], tokens)
        if place >= 0:
            got = logits[place]
            errors = np.array([relative_rms(got[head], wanted[head]) for head in range(heads)])
            assert (errors > LIMIT).sum() <= max(1, TIES * heads)
            assert errors.max() <= TIE_LIMIT
            assert (np.abs(lse[place, :, 0] - wanted_lse) / np.abs(wanted_lse).clip(1)).max() <= 1e-6
        else:
            got = o[row]
            rounded = decode_bfloat16(encode_bfloat16(wanted.astype(np.float32)))
            assert (got != rounded).mean() < 0.02  # a weight's tie moves a head's row, an output's tie one number
            assert relative_rms(got, rounded) <= TIE_LIMIT / 10
        assert (got * plain).sum() / (np.linalg.norm(got) * np.linalg.norm(plain)) >= COSINE


@pytest.mark.parametrize("lengths", BATCHES[:2], ids=str)
@pytest.mark.parametrize(("name", "shape", "arch", "tile"), WHEEL, ids=[f"{name} {arch}" for name, _, arch, _ in WHEEL])
def test_wheel_kernels_compute_attention(name: str, shape: dict, arch: Arch, tile: int, lengths: tuple[int, ...]) -> None:
    case = Case(kv_lens=lengths, arch=arch, release="2025-11", mode=MetadataMode.FAST, num_cu=8, **shape)
    check(prepare(case), Schedule.ROUND_ROBIN, tile)


@pytest.mark.parametrize(("name", "shape", "arch", "tile"), WHEEL[:4], ids=[f"{name} {arch}" for name, _, arch, _ in WHEEL[:4]])
def test_wheel_kernels_in_the_timed_schedule(name: str, shape: dict, arch: Arch, tile: int) -> None:
    case = Case(kv_lens=BATCHES[0], arch=arch, release="2025-11", mode=MetadataMode.FAST, num_cu=8, **shape)
    check(prepare(case, seed=1), Schedule.TIMED, tile)


@pytest.mark.checkout
@pytest.mark.parametrize("schedule", list(Schedule))
@pytest.mark.parametrize(
    ("name", "release", "shape", "arch", "tile"), CHECKOUT, ids=[f"{name} {arch}" for name, _, _, arch, _ in CHECKOUT]
)
def test_checkout_kernels_compute_attention(
    name: str, release: str, shape: dict, arch: Arch, tile: int, schedule: Schedule, aiter_checkout: Path
) -> None:
    source = open_source(f"{aiter_checkout}@{COMMITS[release]}")
    case = Case(kv_lens=BATCHES[0], arch=arch, release=release, mode=MetadataMode.FAST, num_cu=8, **shape)
    check(prepare(case, source), schedule, tile)


@pytest.mark.slow(guard="test_wheel_kernels_compute_attention")
@pytest.mark.parametrize("lengths", BATCHES, ids=str)
@pytest.mark.parametrize(("name", "shape", "arch", "tile"), WHEEL, ids=[f"{name} {arch}" for name, _, arch, _ in WHEEL])
def test_wheel_kernels_on_whole_gpus(name: str, shape: dict, arch: Arch, tile: int, lengths: tuple[int, ...]) -> None:
    case = Case(kv_lens=lengths, arch=arch, release="2025-11", mode=MetadataMode.FAST, **shape)
    for schedule in Schedule:
        check(prepare(case, seed=2), schedule, tile)


def test_the_error_budget_can_fail() -> None:
    """A tile of another size puts the weights' rounding elsewhere."""
    case = Case(kv_lens=(300, 77, 13), num_head=16, arch=Arch.GFX950, release="2025-11", mode=MetadataMode.FAST, num_cu=8)
    with pytest.raises(AssertionError):
        check(prepare(case), Schedule.ROUND_ROBIN, 128)
