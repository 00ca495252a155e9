"""Whole kernels on the machine and on the reference executor: memory and registers bit for bit, and the same findings."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import pytest
from machine_launches import Prepared, prepare
from reference_executor import ReferenceWave, run_workgroup
from reference_memory import ReferenceMemory

from backend.case import Arch, Case, DType, MetadataMode
from backend.cdna.decode import decode
from backend.cdna.execute import layout as at
from backend.cdna.machine import QUANTUM, Machine
from backend.cdna.result import Mode

BF16 = {"q_dtype": DType.BF16, "kv_dtype": DType.BF16}
KERNELS = [
    ({"num_head": 16, "kv_lens": (5,)}, Arch.GFX950),
    ({"num_head": 16, "kv_lens": (70,)}, Arch.GFX942),
    ({"num_head": 16, "kv_lens": (3,), **BF16}, Arch.GFX942),
]
SLOW = [
    ({"num_head": 128, "kv_lens": (40,)}, Arch.GFX950),
    ({"num_head": 128, "kv_lens": (40,)}, Arch.GFX942),
    ({"num_head": 16, "kv_lens": (9,), **BF16}, Arch.GFX950),
    ({"num_head": 16, "kv_lens": (9,), "max_seqlen_q": 4}, Arch.GFX950),
]


def reference_wave(prepared: Prepared, memory: ReferenceMemory, index: int) -> ReferenceWave:
    """A wave as the launch starts it: kernarg pointer in s[0:1], workgroup 0, work-item ids in v0, fp32 denormals flushed."""
    wave = ReferenceWave(prepared.kernel.arch, memory, index=index)
    base = memory.space["kernarg"].base
    wave.set_scalar64(0, base)
    wave.set_scalar64(126, (1 << 64) - 1)
    wave.vectors[0] = np.arange(64) + 64 * index
    mode = prepared.kernel.float_mode
    wave.mode = int(mode.denormals_32) << 4 | int(mode.denormals_16_64) << 6 | mode.dx10_clamp << 8 | mode.ieee << 9
    return wave


def run_both(shape: dict[str, Any], arch: Arch) -> None:
    case = Case(arch=arch, release="2025-11", num_cu=1, mode=MetadataMode.FAST, **shape)
    mine, theirs = prepare(case), prepare(case)
    theirs.space.add_array("kernarg", np.frombuffer(theirs.launch.kernarg, np.uint8).copy())
    lds = np.full(theirs.kernel.lds_size, theirs.space.poison, np.uint8)
    memory = ReferenceMemory(theirs.space, lds)
    waves = [reference_wave(theirs, memory, index) for index in range(theirs.launch.waves)]
    executed = run_workgroup(decode(theirs.kernel.text, arch), waves, QUANTUM)

    machine = Machine(mine.kernel)
    result = machine.run(mine.launch, mine.space, Mode.FULL)
    assert result.executed == executed
    for index, wave in enumerate(waves):
        block = machine.wave_block(index)
        scalars = block[: at.ROWS_OFFSET].view(np.uint32)[:128]
        rows = block[at.ROWS_OFFSET :].view(np.uint32).reshape(at.ROWS, at.LANES)[:512]
        assert np.array_equal(scalars, wave.scalars)
        assert np.array_equal(rows, wave.vectors)
    for name in ("logits", "attn_lse", "o"):
        if mine.space[name].size:
            assert np.array_equal(mine.space[name].contents, theirs.space[name].contents), name
            assert np.array_equal(mine.space[name].written, theirs.space[name].written), name
    found = Counter({(total.kind.name, total.pc): total.lanes for total in result.totals})
    assert found == memory.findings


@pytest.mark.parametrize(("shape", "arch"), KERNELS, ids=str)
def test_a_whole_kernel_agrees_with_the_reference_executor(shape: dict[str, Any], arch: Arch) -> None:
    run_both(shape, arch)


@pytest.mark.slow
@pytest.mark.parametrize(("shape", "arch"), SLOW, ids=str)
def test_larger_kernels_agree_with_the_reference_executor(shape: dict[str, Any], arch: Arch) -> None:
    run_both(shape, arch)
