"""Matrix instructions of the reference executor: plain float32 sums of products, layouts from the ISA documents."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import numpy as np
from number_formats import decode_bfloat16, decode_float8
from numpy.typing import NDArray
from reference_arithmetic import flush, fma32

from backend.cdna.instruction import Instruction, Operand, OperandKind

if TYPE_CHECKING:
    from reference_executor import ReferenceWave


def elements(wave: ReferenceWave, operand: Operand, kind: str, size: int) -> NDArray[np.float32]:
    """An operand as [part of K, element of the part, row or column]: lane % size is the row, lane // size the part."""
    rows = wave.vectors[wave.row(operand) : wave.row(operand) + operand.count]
    by_lane = np.ascontiguousarray(rows.T)  # [lane, register]
    if kind in ("fp8", "bf8"):
        values = decode_float8(by_lane.view(np.uint8), "e4m3" if kind == "fp8" else "e5m2", wave.fnuz)
    elif kind == "bf16":
        values = decode_bfloat16(by_lane.view(np.uint16))
    elif kind == "f16":
        values = by_lane.view(np.float16).astype(np.float32)
    elif kind == "xf32":
        bits = by_lane.astype(np.uint64)
        values = (
            ((bits + 0xFFF + (bits >> np.uint64(13) & np.uint64(1))) & np.uint64(0xFFFFE000)).astype(np.uint32).view(np.float32)
        )
    else:
        values = flush(by_lane.view(np.float32), wave.keep_denormals)
    return values.reshape(64 // size, size, -1).transpose(0, 2, 1)


def place_of(row: int, column: int, size: int) -> tuple[int, int]:
    """(register, lane) of an element of the result."""
    if size == 16:
        return row % 4, 16 * (row // 4) + column
    return 4 * (row // 8) + row % 4, 32 * (row // 4 % 2) + column


def matrix(wave: ReferenceWave, instruction: Instruction) -> None:
    """V_MFMA_F32_*: for the first element of every part of K, then the second, ...: D = fma(A, B, D)."""
    match = re.match(r"v_mfma_f32_(\d+)x\d+x\d+_(\w+)$", instruction.mnemonic)
    assert match is not None
    size, types = int(match[1]), match[2]
    if types == "f8f6f4":
        kinds = ["fp8" if code == 0 else "bf8" for code in (instruction.modifiers.cbsz, instruction.modifiers.blgp)]
    else:
        kinds = (types.split("_") * 2)[:2]
    first, second, third = instruction.sources
    a, b = elements(wave, first, kinds[0], size), elements(wave, second, kinds[1], size)
    total = np.zeros((size, size), np.float32)
    constant = third.kind not in (OperandKind.VGPR, OperandKind.AGPR)
    for row in range(size):
        for column in range(size):
            register, lane = place_of(row, column, size)
            bits = np.uint32(third.value) if constant else wave.vectors[wave.row(third) + register, lane]
            total[row, column] = bits.view(np.float32)
    for element in range(a.shape[1]):
        for part in range(a.shape[0]):
            shape = (size, size)
            left, right = np.broadcast_to(a[part, element][:, None], shape), np.broadcast_to(b[part, element][None, :], shape)
            total = fma32(left, right, total)
    for row in range(size):
        for column in range(size):
            register, lane = place_of(row, column, size)
            wave.vectors[wave.row(instruction.destinations[0]) + register, lane] = total[row, column].view(np.uint32)
