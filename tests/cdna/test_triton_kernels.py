"""Kernels that Triton compiled for gfx942 and gfx950 run on the machine and compute what numpy computes.

Other code than AITER's: masks in EXEC, global and DS instructions of every width, divisions, lane permutations.
Triton asks for LDS at launch and not in the code object, so the launches here give all that there is.
"""

from __future__ import annotations

import itertools
import struct
from dataclasses import dataclass

import numpy as np
import pytest
from code_object_files import triton_files
from number_formats import decode_bfloat16, decode_float8, encode_bfloat16, encode_float8
from numpy.typing import NDArray

from backend.cdna.code_object import Kernel, load_code_object
from backend.cdna.machine import LDS_BYTES, Machine, MachineLaunch
from backend.cdna.memory import AddressSpace
from backend.cdna.record import RecordOptions
from backend.cdna.result import AccessKind, Mode, RunResult
from tests.run_facts import equivalent_instructions

ARCHS = ("gfx942", "gfx950")
LENGTHS = (70, 3, 129)
PAGES = 300


def arguments(kernel: Kernel, *values: int | float) -> bytes:
    """The kernarg block: pointers and numbers at the offsets that the metadata says, the compiler's own arguments 0."""
    block = bytearray(kernel.kernarg_size)
    for argument, value in zip(kernel.arguments, values, strict=False):
        code = "<f" if isinstance(value, float) else {4: "<i", 8: "<Q"}[argument.size]
        struct.pack_into(code, block, argument.offset, value)
    return bytes(block)


@dataclass
class Element:
    """A tensor element type: how numpy holds it."""

    name: str
    fnuz: bool

    def encode(self, values: NDArray[np.floating]) -> NDArray[np.generic]:
        if self.name == "bf16":
            return encode_bfloat16(values)
        if self.name == "f16":
            return values.astype(np.float16)
        return values.astype(np.float32) if self.name == "f32" else encode_float8(values, "e4m3", self.fnuz)

    def decode(self, codes: NDArray[np.generic]) -> NDArray[np.float64]:
        if self.name == "bf16":
            return decode_bfloat16(codes).astype(np.float64)
        if self.name in ("f16", "f32"):
            return codes.astype(np.float64)
        return decode_float8(codes, "e4m3", self.fnuz).astype(np.float64)


def run(
    kernel: Kernel, space: AddressSpace, grid: tuple[int, int, int], waves: int, kernarg: bytes, mode: Mode = Mode.FULL
) -> RunResult:
    launch = MachineLaunch(grid, (64 * waves, 1, 1), kernarg, dynamic_lds=LDS_BYTES[kernel.arch] - kernel.lds_size)
    return Machine(kernel).run(launch, space, mode, record=RecordOptions(hashes=True))


ATTENTION = [
    # sample, element of q, k and v, of the result, width, rows a program, waves
    ("attention_bf16", "bf16", "bf16", 64, 32, 4),
    ("attention_bf16_wide", "bf16", "bf16", 512, 16, 8),
    ("attention_f16", "f16", "f16", 64, 64, 2),
    ("attention_fp8", "fp8", "bf16", 128, 16, 4),
]
LIMITS = {"bf16": 5e-3, "f16": 1e-3, "fp8": 3e-2}
"""Relative rms error: the rounding of the weights, and of the result."""


def prepare_attention(arch: str, sample: tuple[str, str, str, int, int, int]):  # type: ignore[no-untyped-def]
    name, inner, outer, width, rows, waves = sample
    element, result = Element(inner, arch == "gfx942"), Element(outer, arch == "gfx942")
    (kernel,) = load_code_object(triton_files()[f"{name}_{arch}"]).kernels
    rng = np.random.default_rng(width)
    q = element.encode(rng.standard_normal((len(LENGTHS), rows, width)))
    pool = element.encode(rng.standard_normal((PAGES, width)))
    pages = rng.permutation(PAGES)[: sum(LENGTHS)].astype(np.int32)
    indptr = np.cumsum([0, *LENGTHS]).astype(np.int32)
    o = np.zeros((len(LENGTHS), rows, width), result.encode(np.zeros(1)).dtype)
    space = AddressSpace()
    tensors = {"q": q, "pool": pool, "o": o, "indptr": indptr, "pages": pages}
    bases = {key: space.add_array(key, array, writable=key == "o").base for key, array in tensors.items()}
    places = [bases[key] for key in ("q", "pool", "pool", "o", "indptr", "pages")]
    kernarg = arguments(kernel, *places, rows * width, width, float(width**-0.5 * np.log2(np.e)))
    return kernel, space, (len(LENGTHS), 1, 1), waves, kernarg, element, result, tensors


@pytest.mark.parametrize("arch", ARCHS)
@pytest.mark.parametrize("sample", ATTENTION, ids=lambda sample: sample[0])
def test_attention(arch: str, sample: tuple[str, str, str, int, int, int]) -> None:
    kernel, space, grid, waves, kernarg, element, result, tensors = prepare_attention(arch, sample)
    found = run(kernel, space, grid, waves, kernarg)
    assert found.bad_accesses == ()
    q, pool, got = element.decode(tensors["q"]), element.decode(tensors["pool"]), result.decode(tensors["o"])
    for request, (first, end) in enumerate(itertools.pairwise(tensors["indptr"])):
        keys = pool[tensors["pages"][first:end]]
        scores = q[request] @ keys.T * keys.shape[1] ** -0.5
        weights = np.exp(scores - scores.max(1, keepdims=True))
        wanted = weights @ keys / weights.sum(1, keepdims=True)
        rows = slice(0, sample[4] - 1)  # the kernel masks its last row
        error = np.sqrt(((got[request, rows] - wanted[rows]) ** 2).mean() / (wanted[rows] ** 2).mean())
        assert error < LIMITS[sample[1]]
    assert not got[:, -1].any()


@pytest.mark.parametrize("arch", ARCHS)
@pytest.mark.parametrize("sample", ATTENTION[:2], ids=lambda sample: sample[0])
def test_the_slice_makes_the_same_accesses(arch: str, sample: tuple[str, str, str, int, int, int]) -> None:
    logs = []
    for mode in Mode:
        kernel, space, grid, waves, kernarg, *_ = prepare_attention(arch, sample)
        found = run(kernel, space, grid, waves, kernarg, mode)
        logs.append((found.log.counts, found.log.hashes, equivalent_instructions(found)))
    # counts and hashes are of global memory in both: LDS has totals of findings only
    assert logs[0] == logs[1]


@pytest.mark.parametrize("arch", ARCHS)
def test_pages_past_the_pool_are_found_in_compiled_code_too(arch: str) -> None:
    kernel, space, grid, waves, kernarg, *_, tensors = prepare_attention(arch, ATTENTION[0])
    tensors["pages"][5] = PAGES
    found = run(kernel, space, grid, waves, kernarg, Mode.SLICE)
    assert {event.kind for event in found.bad_accesses} == {AccessKind.OUT_OF_BOUNDS}
    assert {event.region for event in found.bad_accesses} == {"pool"}
    assert min(event.offset for event in found.bad_accesses) == 0


@pytest.mark.parametrize("arch", ARCHS)
def test_merge_of_split_rows(arch: str) -> None:
    (kernel,) = load_code_object(triton_files()[f"merge_bf16_{arch}"]).kernels
    rng = np.random.default_rng(1)
    width, heads, splits = 512, 2, np.array([0, 3, 4], np.int32)
    stride = 16 * width
    partial = rng.standard_normal((splits[-1], 16, width)).astype(np.float32)
    lse = rng.standard_normal((splits[-1], 16)).astype(np.float32)
    o = np.zeros((2, 16, width), np.uint16)
    space = AddressSpace()
    tensors = {"partial": partial, "lse": lse, "o": o, "indptr": splits}
    bases = [space.add_array(key, array, writable=key == "o").base for key, array in tensors.items()]
    found = run(kernel, space, (2, heads, 1), 4, arguments(kernel, *bases, width, stride))
    assert found.event_count == 0
    for request, (first, end) in enumerate(itertools.pairwise(splits)):
        weights = np.exp(lse[first:end].astype(np.float64))
        wanted = (weights[:, :, None] * partial[first:end]).sum(0) / weights.sum(0)[:, None]
        assert np.allclose(decode_bfloat16(o[request, :heads]), wanted[:heads], rtol=1e-2, atol=1e-2)
