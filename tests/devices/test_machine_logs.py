"""The slice makes exactly the accesses of the full run, and the fast path records exactly what the slow one does.

Compared are, for every memory instruction, the number of lanes and a hash of (address, lane, wave, workgroup), everything found
wrong with its extent, the branch edges, and how many instructions a full run takes.
"""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from machine_launches import Prepared, prepare, wheel

from backend.aiter.codefiles import open_source
from backend.case import Arch, Case, DType, MetadataMode
from backend.cdna.machine import Machine
from backend.cdna.record import RecordOptions
from backend.cdna.result import AccessKind, Mode, RunResult
from tests.run_facts import equivalent_instructions

LENGTHS = (70, 9, 200)
FAST, SPLIT = MetadataMode.FAST, MetadataMode.NON_PERSISTENT
BF16 = {"q_dtype": DType.BF16, "kv_dtype": DType.BF16}

# Code object, the case whose launch it gets, and whether that is the kernel which AITER itself chooses there.
SHAPES: list[tuple[str, dict[str, Any], bool]] = [
    ("mla_a8w8_qh16_qseqlen1_gqaratio16_ps.co", {"num_head": 16, "mode": FAST}, True),
    ("mla_a8w8_qh16_qseqlen1_gqaratio16.co", {"num_head": 16, "mode": SPLIT}, True),
    ("mla_a8w8_qh16_qseqlen2_gqaratio16_ps.co", {"num_head": 16, "mode": FAST, "max_seqlen_q": 2}, True),
    ("mla_a8w8_qh16_qseqlen2_gqaratio16.co", {"num_head": 16, "mode": SPLIT, "max_seqlen_q": 2}, True),
    ("mla_a8w8_qh16_qseqlen4_gqaratio16_ps.co", {"num_head": 16, "mode": FAST, "max_seqlen_q": 4}, True),
    ("mla_a8w8_qh16_qseqlen4_gqaratio16.co", {"num_head": 16, "mode": SPLIT, "max_seqlen_q": 4}, True),
    ("mla_a8w8_qh128_m32x4_n16x2_msk0_ps.co", {"num_head": 128, "mode": FAST}, True),
    ("mla_a8w8_qh128_m32x4_n16x2_msk1.co", {"num_head": 128, "mode": SPLIT}, True),
    ("mla_a16w8_qh16_m16x4_n16x1_coex0_mask1_ps.co", {"num_head": 16, "mode": FAST, "q_dtype": DType.BF16}, True),
    ("mla_a16w16_qh16_m16x4_n16x1_coex0_mask1_ps.co", {"num_head": 16, "mode": FAST, **BF16}, True),
    ("mla_a16w16_qh16_m16x4_n16x1_coex0_mask1.co", {"num_head": 16, "mode": SPLIT, "max_seqlen_q": 2, **BF16}, True),
    ("mla_dec_stage1_bf16_a16w16_subQ16_mqa16.co", {"num_head": 16, "mode": SPLIT, **BF16}, True),
    ("mla_dec_stage1_bf16_a16w16_subQ128_mqa128.co", {"num_head": 128, "mode": SPLIT, **BF16}, True),
    ("mla_a16w16_qh16_m32x4_n16x1_coex0_mask1.co", {"num_head": 16, "mode": SPLIT, "max_seqlen_q": 4, **BF16}, False),
]
ONLY_GFX950: list[tuple[str, dict[str, Any], bool]] = [
    ("mla_a8w8_qh128_m32x4_n16x2_msk0.co", {"num_head": 128, "mode": SPLIT}, False),
    ("mla_a8w8_qh128_m32x4_n16x2_msk1_ps.co", {"num_head": 128, "mode": FAST}, False),
    ("mla_a8w8_qh16_qseqlen2_gqaratio16_ps_page.co", {"num_head": 16, "mode": FAST, "max_seqlen_q": 2}, False),
    ("mla_a8w8_qh16_qseqlen4_gqaratio16_ps_page.co", {"num_head": 16, "mode": FAST, "max_seqlen_q": 4}, False),
]
WHEEL = [(Arch.GFX942, *shape) for shape in SHAPES] + [(Arch.GFX950, *shape) for shape in SHAPES + ONLY_GFX950]
COMMITS = ("2988812e134a7dbb08948092a9d89df48a2585d3", "e4048607a535ace3a2b51ded31b1c8c2d45c0879")
FAULT_BLOBS = ("7a0493c0e4", "4b1c3132de", "7c120bb006", "b98d1cd32f", "6e17055c", "1001c077", "07763aaa")


def name_of(case: tuple[Arch, str, dict[str, Any], bool]) -> str:
    return f"{case[0]} {case[1]}"


def log_of(result: RunResult) -> tuple[Any, ...]:
    """Everything that must not depend on how the run was made."""
    events = sorted((e.kind, e.pc, e.workgroup, e.wave, e.lanes, e.address, e.element) for e in result.events)
    return (
        result.log.counts,
        result.log.hashes,
        sorted(map(repr, result.totals)),
        result.edges.tolist(),
        equivalent_instructions(result),
        events,
    )


def same_logs(make: Any) -> RunResult:
    """Full, slice, and slice lane by lane; each on fresh memory."""
    logs = []
    for mode, slow_path in ((Mode.FULL, False), (Mode.SLICE, False), (Mode.SLICE, True)):
        prepared: Prepared = make()
        record = RecordOptions(hashes=True, slow_path=slow_path, max_events=1 << 16)
        result = Machine(prepared.kernel).run(prepared.launch, prepared.space, mode, record=record, max_instructions=20_000_000)
        logs.append((mode, result, log_of(result)))
    (_, full, wanted), *others = logs
    assert full.executed == equivalent_instructions(full)
    assert sum(wanted[0].values()) > 1000
    for mode, result, log in others:
        assert result.executed < full.executed
        for part, expected in zip(log, wanted, strict=True):
            assert part == expected, mode
    return full


def check_wheel(arch: Arch, code_object: str, shape: dict[str, Any], own: bool) -> None:
    case = Case(kv_lens=LENGTHS, arch=arch, release="2025-11", num_cu=8, **shape)
    chosen = prepare(case, has_data=False).call.launched.code_object
    assert (chosen == code_object) is own
    result = same_logs(lambda: prepare(case, has_data=False, code_object=None if own else code_object))
    if own:
        assert result.bad_accesses == ()


@pytest.mark.parametrize("case", WHEEL[::4], ids=name_of)
def test_slice_log_is_the_full_log(case: tuple[Arch, str, dict[str, Any], bool]) -> None:
    check_wheel(*case)


@pytest.mark.slow
@pytest.mark.parametrize("case", WHEEL, ids=name_of)
def test_slice_log_is_the_full_log_for_every_wheel_kernel(case: tuple[Arch, str, dict[str, Any], bool]) -> None:
    check_wheel(*case)


@pytest.mark.parametrize("share", [0.0, 0.02, 1.0])
def test_pages_are_judged_alike_on_every_path(share: float) -> None:
    """Work items may touch a random part of the pool's pages; `share` of them they may not."""
    case = Case(kv_lens=LENGTHS, num_head=16, arch=Arch.GFX950, release="2025-11", num_cu=8, mode=FAST)
    items, pages = 64, sum(LENGTHS)
    allowed = np.random.default_rng(1).random((items, pages)) >= share
    full = same_logs(lambda: prepare(case, has_data=False, allowed=allowed))
    forbidden = sum(total.lanes for total in full.totals if total.kind is AccessKind.PAGE_NOT_ALLOWED)
    touched = sum(full.log.counts.values())
    assert (forbidden > 0) == (share > 0)
    assert forbidden < touched


def all_kernels(checkout: Path, commit: str, arch: Arch) -> list[str]:
    """Decode kernels of a checkout; the prefill ones take other arguments."""
    command = ["git", "-C", str(checkout), "ls-tree", "--name-only", commit, f"hsa/{arch}/mla/"]
    listed = subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()
    return [Path(path).name for path in listed if path.endswith(".co") and "_pfl_" not in path]


@pytest.mark.slow
@pytest.mark.checkout
@pytest.mark.parametrize("arch", list(Arch))
@pytest.mark.parametrize("commit", COMMITS)
def test_slice_log_is_the_full_log_for_every_checkout_kernel(commit: str, arch: Arch, aiter_checkout: Path) -> None:
    """Each with the arguments of a call of its release that is near to it; what they mean to it does not matter here."""
    source = open_source(f"{aiter_checkout}@{commit}")
    release = "2026-06" if commit == COMMITS[0] else "2026-08"
    for name in all_kernels(aiter_checkout, commit, arch):
        case = near_case(name, arch, release)
        same_logs(lambda name=name, case=case: prepare(case, source, has_data=False, code_object=name))


def near_case(name: str, arch: Arch, release: str) -> Case:
    """A case whose launch has the kind of grid and tensors that a kernel's name speaks of."""
    heads = 128 if "qh128" in name or "128" in name else 16
    dtypes: dict[str, Any] = {} if "a8w8" in name else ({"q_dtype": DType.BF16} if "a16w8" in name else BF16)
    mode = FAST if name.endswith("ps.co") or "_ps_" in name else SPLIT
    return Case(num_head=heads, kv_lens=LENGTHS, arch=arch, release=release, num_cu=8, mode=mode, **dtypes)


@pytest.mark.checkout
@pytest.mark.parametrize("blob", FAULT_BLOBS)
def test_slice_log_is_the_full_log_for_blobs_of_known_faults(blob: str, aiter_checkout: Path) -> None:
    source = open_source(f"{aiter_checkout}@{blob}")
    content = source.read("hsa/gfx950/mla/any.co")
    persistent = blob not in ("7a0493c0e4", "4b1c3132de", "07763aaa")
    dtypes = {} if blob in ("7c120bb006", "b98d1cd32f", "6e17055c", "1001c077") else BF16
    case = Case(
        num_head=16,
        kv_lens=LENGTHS,
        arch=Arch.GFX950,
        release="2025-11",
        num_cu=8,
        mode=FAST if persistent else SPLIT,
        **dtypes,
    )
    same_logs(lambda: prepare(case, wheel(), has_data=False, content=content))
