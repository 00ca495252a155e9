"""Matrix instructions of the reference executor: plain float32 sums of products, layouts from the ISA documents."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import numpy as np
from number_formats import decode_bfloat16, decode_float8
from numpy.typing import NDArray
from reference_arithmetic import flush, fma32, fma64

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
    """V_MFMA and V_SMFMAC."""
    if is_plain(instruction):
        plain_matrix(wave, instruction)
    else:
        rare_matrix(wave, instruction)


def is_plain(instruction: Instruction) -> bool:
    """Floating point of one block without broadcasts, 8-bit f8f6f4 included: plain_matrix."""
    modifiers = instruction.modifiers
    if "f8f6f4" in instruction.mnemonic:
        return "scale" not in instruction.mnemonic and modifiers.cbsz < 2 and modifiers.blgp < 2
    return (
        re.match(r"v_mfma_f32_\d+x\d+x\d+_[a-z]", instruction.mnemonic) is not None
        and not (modifiers.cbsz or modifiers.abid or modifiers.blgp)
    )  # fmt: skip


def plain_matrix(wave: ReferenceWave, instruction: Instruction) -> None:
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


# Everything else: an operand's elements by lane and number, and where they are in A, B and D by AMD's matrix instruction
# calculator (cdna3, "Matrix element to register mapping").

SMALL = {"fp6": (3, 1), "bf6": (2, 3), "fp4": (1, 1)}
"""4- and 6-bit floats: bits of the fraction, bias."""


def _small(code: int, kind: str, bits: int) -> float:
    fraction_bits, bias = SMALL[kind]
    sign = -1.0 if code >> (bits - 1) else 1.0
    exponent, fraction = code % (1 << (bits - 1)) >> fraction_bits, code % (1 << fraction_bits)
    if exponent == 0:
        return sign * fraction * 2.0 ** (1 - bias - fraction_bits)
    return sign * (1 + fraction / (1 << fraction_bits)) * 2.0 ** (exponent - bias)


def lane_elements(wave: ReferenceWave, operand: Operand, kind: str) -> NDArray[np.float64]:
    """float64 [64 lanes, elements]."""
    rows = wave.vectors[wave.row(operand) : wave.row(operand) + operand.count]
    by_lane = np.ascontiguousarray(rows.T)
    if kind == "i8":
        return by_lane.view(np.int8).astype(np.float64)
    if kind == "f64":
        return by_lane.view(np.float64)
    if kind in SMALL:
        bits = 4 if kind == "fp4" else 6
        table = np.array([_small(code, kind, bits) for code in range(1 << bits)])
        stream = np.unpackbits(by_lane.view(np.uint8), axis=1, bitorder="little").reshape(64, -1, bits)
        return table[(stream << np.arange(bits, dtype=np.uint8)).sum(2)]
    return elements(wave, operand, kind, 64)[0].T.astype(np.float64)


def _accumulator(wave: ReferenceWave, operand: Operand, register: int, lane: int) -> np.uint32:
    if operand.kind in (OperandKind.VGPR, OperandKind.AGPR):
        return wave.vectors[wave.row(operand) + register, lane]
    return np.uint32(operand.value >> 32 * (register % operand.count if operand.value >> 32 else 0) & 0xFFFFFFFF)


def rare_matrix(wave: ReferenceWave, instruction: Instruction) -> None:
    match = re.match(r"v_(mfma|mfma_scale|smfmac)_(\w\d+)_(\d+)x\d+x(\d+)(?:_(\d+)b)?_(\w+)$", instruction.mnemonic)
    assert match is not None
    what, result, size, blocks, types = match[1], match[2], int(match[3]), int(match[5] or 1), match[6]
    if types == "f8f6f4":
        kinds = [("fp8", "bf8", "fp6", "bf6", "fp4")[code] for code in (instruction.modifiers.cbsz, instruction.modifiers.blgp)]
    else:
        kinds = (types.split("_") * 2)[:2]
    a, b = (lane_elements(wave, operand, kind) for operand, kind in zip(instruction.sources, kinds, strict=False))
    if result == "f64":
        _double(wave, instruction, a[:, 0], b[:, 0], size)
    elif types == "f8f6f4":
        _scaled(wave, instruction, a, b, kinds, size)
    elif what == "smfmac":
        _sparse(wave, instruction, a, b, size, result)
    else:
        _blocks(wave, instruction, a, b, size, blocks, result)


def _places(block: int, size: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """(registers, lanes), [row, column], of a block of D."""
    row, column = np.indices((size, size))
    if size == 32:
        return 16 * block + 4 * (row // 8) + row % 4, 32 * (row // 4 % 2) + column
    if size == 16:
        return 4 * block + row % 4, 16 * (row // 4) + column
    return row, 4 * block + column


def _by_row(values: NDArray, parts: list[int], size: int) -> NDArray:
    """An operand's elements [size, elements of all parts] in the order of the sum: the first of each part, then the second."""
    lanes = np.array(parts)[:, None] * size + np.arange(size)
    return values[lanes].transpose(1, 2, 0).reshape(size, -1)


def _chains(old: NDArray[np.uint32], x: NDArray, y: NDArray, result: str) -> NDArray[np.uint32]:
    """D = C plus the products along the last axis, one after the other. old: [row, column], x and y: [row, column, k]."""
    if result == "i32":
        total = old.astype(np.int64) + (x.astype(np.int64) * y.astype(np.int64)).sum(-1)
        return (total & 0xFFFFFFFF).astype(np.uint32)
    number = np.ascontiguousarray(old).view(np.float32)
    for k in range(x.shape[-1]):
        number = fma32(x[..., k].astype(np.float32), y[..., k].astype(np.float32), number)
    return number.view(np.uint32)


def _blocks(wave, instruction, a, b, size, blocks, result) -> None:  # type: ignore[no-untyped-def]
    cbsz, abid, blgp = instruction.modifiers.cbsz, instruction.modifiers.abid, instruction.modifiers.blgp
    lanes = np.arange(64)
    patterns = [lanes, lanes % 32, lanes % 32 + 32, (lanes + 16) % 64, *(lanes % 16 + 16 * group for group in range(4))]
    b = b[patterns[blgp]]
    if blocks > 1 and cbsz:
        group = 1 << cbsz
        a = a[((lanes // size // group * group + abid) % blocks) * size + lanes % size]
    c, destination = instruction.sources[2], instruction.destinations[0]
    written = []
    for block in range(blocks):
        parts = [block] if blocks > 1 else list(range(64 // size))
        left, right = _by_row(a, parts, size)[:, None], _by_row(b, parts, size)[None]
        shape = (size, size, left.shape[-1])
        places = _places(block, size)
        old = np.vectorize(lambda register, lane: _accumulator(wave, c, register, lane), otypes=[np.uint32])(*places)
        written.append((places, _chains(old, np.broadcast_to(left, shape), np.broadcast_to(right, shape), result)))
    for (registers, places), values in written:
        wave.vectors[wave.row(destination) + registers, places] = values


def _sparse(wave, instruction, a, b, size, result) -> None:  # type: ignore[no-untyped-def]
    destination = instruction.destinations[0]
    index = wave.vectors[wave.row(instruction.sources[2])].astype(np.int64)
    count, parts = a.shape[1], np.arange(64 // size)
    first = 2 * count * instruction.modifiers.abid if instruction.modifiers.cbsz == 0 else 0
    row, column, element, part = np.ix_(np.arange(size), np.arange(size), np.arange(count), parts)
    choice = index[part * size + row] >> (first + 2 * element) & 3
    right = b[part * size + column, element // 2 * 4 + choice].reshape(size, size, -1)
    left = np.broadcast_to(_by_row(a, list(parts), size)[:, None], right.shape)
    registers, lanes = _places(0, size)
    old = wave.vectors[wave.row(destination) + registers, lanes]
    wave.vectors[wave.row(destination) + registers, lanes] = _chains(old, left, right, result)


def _scaled(wave, instruction, a, b, kinds, size) -> None:  # type: ignore[no-untyped-def]
    """Lanes hold 32 consecutive k of 4 and 6 bits, twice 16 of 8 bits; scales of k and a row: lane size * (k // 32) + row."""
    parts = 64 // size
    matrices = []
    for values, kind in ((a, kinds[0]), (b, kinds[1])):
        wide = np.zeros((size, 32 * parts))
        for lane in range(64):
            for element in range(32):
                part = lane // size
                k = 16 * part + element % 16 + 16 * parts * (element // 16) if kind in ("fp8", "bf8") else 32 * part + element
                wide[lane % size, k] = values[lane, element]
        matrices.append(wide)
    scales = [np.ones((size, parts))] * 2
    if len(instruction.sources) == 5:
        low, high = instruction.modifiers.op_sel, instruction.modifiers.op_sel_hi
        for place in range(2):
            byte = (
                wave.vectors[wave.row(instruction.sources[3 + place])] >> np.uint32(8 * (low[place] + 2 * high[place])) & 0xFF
            )
            number = np.where(byte == 255, np.nan, 2.0 ** (byte.astype(np.float64) - 127))
            scales[place] = number.reshape(parts, size).T
    c, destination = instruction.sources[2], instruction.destinations[0]
    registers, lanes = _places(0, size)
    old = np.vectorize(lambda register, lane: _accumulator(wave, c, register, lane), otypes=[np.uint32])(registers, lanes)
    total = old.view(np.float32)
    with np.errstate(all="ignore"):
        for k in range(32 * parts):
            product = matrices[0][:, None, k] * matrices[1][None, :, k]
            product = product * (scales[0][:, None, k // 32] * scales[1][None, :, k // 32])
            total = (total.astype(np.float64) + product).astype(np.float32)
    wave.vectors[wave.row(destination) + registers, lanes] = total.view(np.uint32)


def _double(wave, instruction, a, b, size) -> None:  # type: ignore[no-untyped-def]
    """A[i][k] and B[k][i] of block n: lane 16 k + 4 n + i; D[i][j]: lane 16 (i % 4) + 4 n + j, pair i // 4."""
    signs = [-1.0 if instruction.modifiers.blgp >> bit & 1 else 1.0 for bit in range(3)]
    c, destination = instruction.sources[2], instruction.destinations[0]
    written = {}
    for block in range(4 if size == 4 else 1):
        for row in range(size):
            for column in range(size):
                register, lane = 2 * (row // 4), 16 * (row % 4) + 4 * block + column
                if c.kind in (OperandKind.VGPR, OperandKind.AGPR):
                    words = [int(wave.vectors[wave.row(c) + register + n, lane]) for n in range(2)]
                    old = words[0] | words[1] << 32
                else:
                    old = c.value
                total = signs[2] * float(np.array(old, np.uint64).view(np.float64))
                for k in range(4):
                    x, y = a[16 * k + 4 * block + row], b[16 * k + 4 * block + column]
                    total = fma64(float(signs[0] * x), float(signs[1] * y), total)
                written[register, lane] = total
    for (register, lane), value in written.items():
        bits = int(np.array(value).view(np.uint64))
        wave.vectors[wave.row(destination) + register : wave.row(destination) + register + 2, lane] = (
            bits & 0xFFFFFFFF,
            bits >> 32,
        )
