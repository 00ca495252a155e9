"""HIP code as hipcc makes it: bitsandbytes' kernels for gfx942 and gfx950, and its blockwise quantisation by numpy.

Needs libbitsandbytes_rocm72.so of the wheel bitsandbytes 0.50.2, its path in AITERFUZZ_BITSANDBYTES. Arguments and launches are
those of csrc/kernels.cu and csrc/ops.cu of bitsandbytes: a quantised value is the nearest one of the code book to x / absmax,
absmax the largest magnitude of its block; 4-bit codes are packed two a byte, the first one high.
"""

from __future__ import annotations

import os
import struct
from collections import Counter
from functools import cache
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from backend.cdna.bundle import code_objects
from backend.cdna.code_object import Kernel, load_code_object
from backend.cdna.machine import Machine, MachineLaunch
from backend.cdna.memory import AddressSpace
from backend.cdna.result import MachineEnd, Mode
from benchmarks.code_objects import missing
from tests.run_facts import written_bytes

VARIABLE = "AITERFUZZ_BITSANDBYTES"
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        not os.environ.get(VARIABLE), reason=f"needs bitsandbytes' library for ROCm: set {VARIABLE} to its path"
    ),
]

NF4 = (
    -1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453, -0.28444138169288635, -0.18477343022823334,
    -0.09105003625154495, 0.0, 0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224,
    0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0,
)  # fmt: skip
"""bitsandbytes' normal float of 4 bits (functional.py), by code."""
TYPES = {"f": np.float32, "6__half": np.float16, "14__hip_bfloat16": np.uint16}


@cache
def kernels(arch: str) -> dict[str, Kernel]:
    found = code_objects(Path(os.environ[VARIABLE]).read_bytes(), (arch,))
    return {kernel.name: kernel for each in found for kernel in load_code_object(each.content).kernels}


def kernel_for(arch: str, prefix: str) -> Kernel:
    (found,) = (kernel for name, kernel in kernels(arch).items() if name.startswith(prefix))
    return found


@pytest.mark.parametrize("arch", ["gfx942", "gfx950"])
def test_kernels_start(arch: str) -> None:
    lacking = {name: missing(kernel) for name, kernel in kernels(arch).items()}
    can_start = sum(not reasons and not kernels(arch)[name].unmodelled for name, reasons in lacking.items())
    assert len(lacking) > 100
    assert can_start >= 0.9 * len(lacking), sum(lacking.values(), Counter())


def to_type(values: NDArray[np.float32], kind: str) -> NDArray[np.generic]:
    if kind == "14__hip_bfloat16":
        bits = values.view(np.uint32).astype(np.uint64)
        return ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16).astype(np.uint16)
    return values.astype(TYPES[kind])


def numbers(values: NDArray[np.generic]) -> NDArray[np.float32]:
    if values.dtype == np.uint16:
        return (values.astype(np.uint32) << 16).view(np.float32)
    return values.astype(np.float32)


def code_book() -> NDArray[np.float32]:
    """256 increasing values from -1 to 1, denser near zero, as dynamic quantisation has them."""
    half = np.linspace(0, 1, 129)[1:] ** 2
    return np.sort(np.concatenate([-half[:-1], [0.0], half])).astype(np.float32)


def launch(kernel: Kernel, space: AddressSpace, groups: int, threads: int, arguments: bytes) -> None:
    result = Machine(kernel).run(MachineLaunch((groups, 1, 1), (threads, 1, 1), arguments), space, Mode.FULL)
    assert result.outcome is MachineEnd.DONE
    assert result.bad_accesses == ()


BLOCKS = {4096: 4, 2048: 4, 1024: 4, 512: 2, 256: 2, 128: 2, 64: 2}
"""Block size -> values of a thread (ops.cu, quantizeBlockwise)."""


@pytest.mark.parametrize("arch", ["gfx942", "gfx950"])
@pytest.mark.parametrize("kind", list(TYPES))
@pytest.mark.parametrize(("block", "count", "bits"), [(256, 1001, 8), (64, 1001, 4), (4096, 5003, 8)])
def test_quantised_and_back(arch: str, kind: str, block: int, count: int, bits: int) -> None:
    rng = np.random.default_rng(count)
    source = to_type((rng.standard_normal(count) * 3).astype(np.float32), kind)
    book = code_book() if bits == 8 else np.array(NF4, np.float32)
    blocks, size = -(-count // block), count if bits == 8 else (count + 1) // 2
    space = AddressSpace()
    code = space.add_array("code", book) if bits == 8 else space.add_array("code", np.zeros(256, np.float32))
    a, absmax, out = space.add_array("a", source), space.add_blank("absmax", 4 * blocks), space.add_blank("out", size)
    data_type = 0 if bits == 8 else 2
    quantise = kernel_for(arch, f"_Z18kQuantizeBlockwiseI{kind}Li{block}ELi{BLOCKS[block]}ELi0ELi{data_type}EE")
    arguments = struct.pack("<QQQQQii", code.base, a.base, absmax.base, out.base, 0, 0, count)
    launch(quantise, space, blocks, block // BLOCKS[block], arguments)
    assert absmax.contents is not None
    assert out.contents is not None
    scales, values = absmax.contents.view(np.float32), numbers(source)
    for number in range(blocks):
        assert scales[number] == np.abs(values[number * block : (number + 1) * block]).max()
    stored = out.contents
    codes = stored if bits == 8 else np.stack([stored >> 4, stored & 15], 1).reshape(-1)[:count]
    normal = values / np.repeat(scales, block)[:count]
    distances = np.abs(normal[:, None].astype(np.float64) - book[None])
    chosen = distances[np.arange(count), codes]
    assert (chosen <= distances.min(1) + 1e-6).all()
    assert (chosen == distances.min(1)).mean() > 0.99

    target = space.add_blank("back", source.nbytes)
    per_group = 512 if bits == 8 else 1024
    back = kernel_for(arch, f"_Z20kDequantizeBlockwiseI{kind}Li512ELi64ELi8ELi{data_type}EE")
    arguments = struct.pack("<QQQQii", code.base, out.base, absmax.base, target.base, block, count)
    if bits == 4:
        arguments = struct.pack("<QQQQii", code.base, out.base, absmax.base, target.base, block // 2, count)
    launch(back, space, -(-count // per_group), 64, arguments)
    assert target.contents is not None
    assert written_bytes(target).all()
    wanted = to_type((book[codes] * np.repeat(scales, block)[:count]).astype(np.float32), kind)
    got = target.contents.view(source.dtype)
    assert np.array_equal(got, wanted)
