"""Operand fields: scalar and vector source codes, register fields, inline constants and literals (ISA: "Source Operands").

Every operand is made once and shared, for kernels name the same few hundred operands ten thousand times.
"""

from __future__ import annotations

import struct
from functools import cache

from backend.cdna.decode.tables import FieldKind, OperandType, RefusedError
from backend.cdna.instruction import Operand, OperandKind

LITERAL = 255
SDWA_CODE = 249
DPP_CODE = 250
SGPRS = 102
MASK32 = 0xFFFFFFFF
MASK64 = (1 << 64) - 1
MASK_TYPE = OperandType(FieldKind.MASK, 64)
VCC = Operand(OperandKind.VCC, 0, 2)
OFF = Operand(OperandKind.OFF)

FLOAT_CONSTANTS = {240: 0.5, 241: -0.5, 242: 1.0, 243: -1.0, 244: 2.0, 245: -2.0, 246: 4.0, 247: -4.0}
INVERSE_TWO_PI = 248
_INVERSE_TWO_PI_BITS = {"e": 0x3118, "g": 0x3E22, "f": 0x3E22F983, "d": 0x3FC45F306DC9C882}

_PAIRS = {
    102: OperandKind.FLAT_SCRATCH,
    104: OperandKind.XNACK_MASK,
    106: OperandKind.VCC,
    126: OperandKind.EXEC,
}
_SINGLES = {124: OperandKind.M0, 251: OperandKind.VCCZ, 252: OperandKind.EXECZ, 253: OperandKind.SCC}


def _float_bits(code: int, width: str) -> int:
    if code == INVERSE_TWO_PI:
        return _INVERSE_TWO_PI_BITS[width]
    value = FLOAT_CONSTANTS[code]
    if width == "g":
        return int.from_bytes(struct.pack("<f", value), "little") >> 16
    return int.from_bytes(struct.pack("<" + width, value), "little")


def _float_width(operand_type: OperandType) -> str:
    if operand_type.kind is FieldKind.PACKED_F32:
        return "f"
    if operand_type.kind in (FieldKind.BFLOAT, FieldKind.PACKED_BFLOAT):
        return "g"
    if operand_type.kind is FieldKind.PACKED or operand_type.bits == 16:
        return "e"
    return "d" if operand_type.bits == 64 else "f"


def _value_mask(operand_type: OperandType) -> int:
    if operand_type.kind is FieldKind.PACKED_F32:
        return MASK32
    return {16: 0xFFFF, 64: MASK64}.get(operand_type.bits, MASK32)


def _constant(code: int, operand_type: OperandType) -> Operand:
    if code < 193:
        value = code - 128
    elif code < 209:
        value = (192 - code) & _value_mask(operand_type)
    else:
        value = _float_bits(code, _float_width(operand_type))
    return Operand(OperandKind.CONSTANT, code, operand_type.dwords, value)


@cache
def scalar_operand(code: int, operand_type: OperandType) -> Operand:
    """Operand of an 8-bit scalar source code (no literal); RefusedError for a reserved code or a misaligned register."""
    dwords = operand_type.dwords
    if code < SGPRS:
        return register(OperandKind.SGPR, code, dwords, SGPRS)
    if 108 <= code < 124:
        return register(OperandKind.TTMP, code - 108, dwords, 16)
    if operand_type == MASK_TYPE and code in (126, 127):
        raise RefusedError("exec where a lane mask is read")
    pair = _PAIRS.get(code & ~1)
    if pair is not None and code < 128:
        if dwords > 2 or (dwords == 2 and code & 1):
            raise RefusedError(f"{pair} is two dwords wide and aligned")
        return Operand(pair, code & 1, dwords)
    if code == 124 and dwords > 1:
        raise RefusedError("m0 where more than a dword is needed")
    if operand_type.kind in (FieldKind.SCALAR, FieldKind.MASK) and code != 124:
        raise RefusedError(f"source code {code} where a scalar register is needed")
    if code in _SINGLES:
        return Operand(_SINGLES[code], 0, dwords)
    if 235 <= code < 239:
        return Operand(OperandKind.APERTURE, code - 235, dwords)
    if 128 <= code < 209 or 240 <= code < 249:
        return _constant(code, operand_type)
    raise RefusedError(f"source code {code} is reserved")


@cache
def vector_operand(code: int, operand_type: OperandType) -> Operand:
    """Operand of a 9-bit source code (no literal): a scalar one below 256, else a VGPR."""
    if code >= 256:
        if operand_type.kind in (FieldKind.SCALAR, FieldKind.UNIFORM, FieldKind.MASK):
            raise RefusedError("a VGPR where a scalar register is needed")
        return vgpr(code - 256, operand_type.dwords)
    if operand_type.kind is FieldKind.VECTOR:
        raise RefusedError(f"source code {code} where a VGPR is needed")
    return scalar_operand(code, operand_type)


@cache
def scalar_destination(code: int, operand_type: OperandType) -> Operand:
    """Operand of a 7-bit scalar destination."""
    if code >= 128:
        raise RefusedError(f"destination code {code} is no register")
    return scalar_operand(code, OperandType(FieldKind.SCALAR, operand_type.bits))


@cache
def register(kind: OperandKind, index: int, dwords: int, limit: int) -> Operand:
    """A scalar register range: pairs are even, longer ranges a multiple of four (ISA: "SGPR Alignment")."""
    if index % min(dwords, 4) or index + dwords > limit:
        raise RefusedError(f"{kind} range of {dwords} dwords at {index}")
    return Operand(kind, index, dwords)


@cache
def vgpr(index: int, dwords: int, accumulator: bool = False) -> Operand:
    """A VGPR or AGPR range; ranges are even-aligned since CDNA2 (ISA: "VGPR Alignment")."""
    if index + dwords > 256 or (dwords > 1 and index & 1):
        raise RefusedError(f"vector register range of {dwords} dwords at {index}")
    return Operand(OperandKind.AGPR if accumulator else OperandKind.VGPR, index, dwords)


@cache
def literal_operand(literal: int, operand_type: OperandType) -> Operand:
    """A 32-bit literal as the operand sees it: f64 takes it as the high half, i64 signed, b64 unsigned."""
    value = literal
    if operand_type.bits == 64 and operand_type.kind is FieldKind.FLOAT:
        value = literal << 32
    elif operand_type.bits == 64 and operand_type.kind is FieldKind.SIGNED and literal >> 31:
        value = literal | (MASK32 << 32)
    elif operand_type.bits == 16 and literal >> 16:
        raise RefusedError(f"literal {literal:#x} where 16 bits are taken")
    if operand_type.kind in (FieldKind.SCALAR, FieldKind.MASK, FieldKind.VECTOR, FieldKind.ACCUMULATOR):
        raise RefusedError("a literal where a register is needed")
    return Operand(OperandKind.CONSTANT, LITERAL, operand_type.dwords, value)


@cache
def immediate(value: int) -> Operand:
    """A field that is no register."""
    return Operand(OperandKind.SIMM, 0, 1, value)


def sign_extend(value: int, bits: int) -> int:
    """Two's complement value of a field."""
    return value - (1 << bits) if value >> (bits - 1) else value
