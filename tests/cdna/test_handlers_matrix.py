"""Matrix instructions against numpy's product of whole matrices; layouts as the ISA documents draw them."""

from __future__ import annotations

import numpy as np
import pytest
from build import a, c, ins, v
from number_formats import decode_bfloat16, decode_float8
from numpy.typing import NDArray
from single_wave import SingleWave, WaveState, random_state

SHAPES = [
    ("v_mfma_f32_16x16x16_bf16", "gfx942", 16, 16, "bf16"),
    ("v_mfma_f32_16x16x16_f16", "gfx942", 16, 16, "f16"),
    ("v_mfma_f32_32x32x8_bf16", "gfx942", 32, 8, "bf16"),
    ("v_mfma_f32_16x16x4_f32", "gfx942", 16, 4, "f32"),
    ("v_mfma_f32_32x32x2_f32", "gfx942", 32, 2, "f32"),
    ("v_mfma_f32_16x16x32_fp8_fp8", "gfx942", 16, 32, "fp8"),
    ("v_mfma_f32_32x32x16_bf8_bf8", "gfx942", 32, 16, "bf8"),
    ("v_mfma_f32_16x16x32_fp8_fp8", "gfx950", 16, 32, "fp8"),
    ("v_mfma_f32_16x16x32_bf16", "gfx950", 16, 32, "bf16"),
    ("v_mfma_f32_32x32x16_bf16", "gfx950", 32, 16, "bf16"),
    ("v_mfma_f32_16x16x128_f8f6f4", "gfx950", 16, 128, "fp8"),
    ("v_mfma_f32_32x32x64_f8f6f4", "gfx950", 32, 64, "fp8"),
]
BITS = {"bf16": 16, "f16": 16, "f32": 32, "fp8": 8, "bf8": 8}


def random_codes(rng: np.random.Generator, shape: tuple[int, int], kind: str, fnuz: bool) -> tuple[NDArray, NDArray]:
    """(codes, values) of random numbers of a kind."""
    if kind == "f32":
        values = rng.standard_normal(shape).astype(np.float32)
        return values.view(np.uint32), values
    if kind == "f16":
        values = rng.standard_normal(shape).astype(np.float16)
        return values.view(np.uint16), values.astype(np.float32)
    if kind == "bf16":
        codes = (rng.standard_normal(shape).astype(np.float32).view(np.uint32) >> 16).astype(np.uint16)
        return codes, decode_bfloat16(codes)
    codes = rng.integers(0, 256, shape, np.uint8)
    codes[~np.isfinite(decode_float8(codes, "e4m3" if kind == "fp8" else "e5m2", fnuz))] = 0
    return codes, decode_float8(codes, "e4m3" if kind == "fp8" else "e5m2", fnuz)


def to_registers(codes: NDArray, size: int) -> NDArray[np.uint32]:
    """[row, k] to [register, lane]: lane % size is the row; lane // size says which contiguous part of k it holds."""
    parts = 64 // size
    by_lane = codes.reshape(size, parts, -1).transpose(1, 0, 2).reshape(64, -1)
    return np.ascontiguousarray(np.ascontiguousarray(by_lane).view(np.uint32).T)


def result_matrix(rows: NDArray[np.uint32], size: int) -> NDArray[np.float32]:
    """D from its registers: row 4 * (lane / 16) + r for 16x16, row 8 * (r / 4) + 4 * (lane / 32) + r % 4 for 32x32."""
    matrix = np.zeros((size, size), np.float32)
    for register in range(size * size // 64):
        for lane in range(64):
            row = 4 * (lane // 16) + register if size == 16 else 8 * (register // 4) + 4 * (lane // 32) + register % 4
            matrix[row, lane % size] = rows[register].view(np.float32)[lane]
    return matrix


@pytest.mark.parametrize(("mnemonic", "arch", "size", "depth", "kind"), SHAPES)
def test_matrix_product(mnemonic: str, arch: str, size: int, depth: int, kind: str) -> None:
    rng = np.random.default_rng(depth)
    first, left = random_codes(rng, (size, depth), kind, arch == "gfx942")
    second, right = random_codes(rng, (size, depth), kind, arch == "gfx942")
    state = random_state(rng, exec_mask=0x1234)  # EXEC must not matter
    operands = to_registers(first, size), to_registers(second, size)
    registers, results = len(operands[0]), size * size // 64
    state.vectors[32 : 32 + registers], state.vectors[256 + 64 : 256 + 64 + registers] = operands
    addend = rng.standard_normal((results, 64)).astype(np.float32)
    state.vectors[96 : 96 + results] = addend.view(np.uint32)
    blgp = {"bf8": 1}.get(kind, 0) if "f8f6f4" in mnemonic else 0
    instruction = ins(mnemonic, v(96, results), (v(32, registers), a(64, registers), v(96, results)), cbsz=blgp, blgp=blgp)
    after = SingleWave(arch).run((instruction,), state)
    expected = left.astype(np.float64) @ right.astype(np.float64).T + result_matrix(addend.view(np.uint32), size)
    scale = np.abs(left.astype(np.float64)) @ np.abs(right.astype(np.float64)).T + 1
    error = np.abs(result_matrix(after.vectors[96 : 96 + results], size) - expected) / scale
    assert error.max() < 1e-6


def test_a_constant_fills_the_third_operand() -> None:
    state: WaveState = random_state(np.random.default_rng(0))
    state.vectors[0:4] = 0
    after = SingleWave("gfx950").run((ins("v_mfma_f32_16x16x16_bf16", v(8, 4), (v(0, 2), v(2, 2), c(0x40490FDB, 4))),), state)
    assert (after.vectors[8:12] == 0x40490FDB).all()
