"""Arithmetic on 16 bits, one or two in a dword: fp16, bf16 by its bits, integers (op_sel: see modifiers.py).

A result of fp16 goes through float64 and is rounded once; denormals are kept, as in every mode that is allowed. A NaN keeps its
sign and as much of its payload as fits. MODE.FP16_OVFL: what overflows becomes the largest finite number; infinities stay.
Integers (ISA documents, "VOP3P Instructions"): the low 16 bits, or with clamp the nearest number of the type.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Any

import numpy as np

from backend.cdna.execute import layout as at
from backend.cdna.execute.float_values import ieee_mode, larger, median, smaller
from backend.cdna.execute.lanes import commit, record_of, rows_of, scalars_of, three_sources, two_sources
from backend.cdna.execute.native import (
    bits_double,
    bits_float,
    double_bits,
    float_bits,
    fused_multiply_add,
    handler,
    inlined,
)
from backend.cdna.execute.vector_double import div_fixup64

R = at.RESULT_ROWS
FP16_OVERFLOW_BIT = 23  # MODE


class Half(IntEnum):
    """Arithmetic on fp16: on the low half of a dword, or on both halves (PK); up to three sources."""

    V_ADD_F16 = V_PK_ADD_F16 = 0
    V_MUL_F16 = V_PK_MUL_F16 = 1
    V_FMA_F16 = V_PK_FMA_F16 = 2
    V_MAX_F16 = V_PK_MAX_F16 = 3
    V_MIN_F16 = V_PK_MIN_F16 = 4
    V_SUB_F16 = 5
    V_SUBREV_F16 = 6
    V_RCP_F16 = 7
    V_MIN3_F16 = 8
    V_MAX3_F16 = 9
    V_MED3_F16 = 10
    V_DIV_FIXUP_F16 = 11


@inlined
def half_to_double(bits: int) -> Any:
    """Gives the fp16 number in the lowest 16 bits as float64."""
    sign = np.uint64((bits >> 15) & 1) << np.uint64(63)
    exponent, fraction = (bits >> 10) & 31, bits & 1023
    if exponent == 31:
        return bits_double(sign | np.uint64(0x7FF << 52) | (np.uint64(fraction) << np.uint64(42)))
    if exponent == 0:
        magnitude = np.float64(fraction) * 5.960464477539063e-08  # 2^-24
        return -magnitude if sign else magnitude
    return bits_double(sign | np.uint64((exponent + 1008) << 52) | (np.uint64(fraction) << np.uint64(42)))


@inlined
def double_to_half(value: Any, saturate: bool) -> int:
    """The nearest fp16 number's bits, ties to even; too large gives infinity, or 65504 to `saturate`."""
    bits = double_bits(value)
    sign = np.int64(bits >> np.uint64(63)) << 15
    magnitude = abs(value)
    if value != value:
        return sign | 0x7E00 | (np.int64(bits >> np.uint64(42)) & 0x3FF)
    if magnitude >= 65520.0:
        return sign | (0x7BFF if saturate and magnitude < np.inf else 0x7C00)
    if magnitude < 6.103515625e-05:  # 2^-14: a multiple of 2^-24, rounded by adding 2^28 (unit in the last place 2^-24)
        return sign | np.int64(((magnitude + 268435456.0) - 268435456.0) * 16777216.0)
    raw = np.int64(double_bits(magnitude))
    raw += (1 << 41) - 1 + ((raw >> 42) & 1)
    return sign | ((raw >> 42) - (1008 << 10))


@inlined
def half_overflow_saturates(scalars: Any) -> bool:
    """Tells whether the FP16_OVFL bit of MODE is set."""
    return (scalars[at.MODE] >> np.uint32(FP16_OVERFLOW_BIT)) & np.uint32(1) != np.uint32(0)


@inlined
def float_to_bf16(value: Any) -> int:
    """Gives the bits of the nearest bf16 number, ties to even."""
    bits = np.int64(float_bits(value))
    if value != value:
        return (bits >> 16) | 0x40
    return (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16


@inlined
def bf16_to_float(bits: int) -> Any:
    """Gives the float32 whose upper half is `bits`."""
    return bits_float(np.uint32(bits << 16))


@inlined
def half_result(opcode: int, x: Any, y: Any, z: Any, ieee: bool) -> Any:
    """Computes an instruction of `Half` on float64 values."""
    if opcode == Half.V_ADD_F16:
        return x + y
    if opcode == Half.V_MUL_F16:
        return x * y
    if opcode == Half.V_FMA_F16:
        return fused_multiply_add(x, y, z)
    if opcode == Half.V_MAX_F16:
        return larger(x, y, ieee)
    if opcode == Half.V_MIN_F16:
        return smaller(x, y, ieee)
    if opcode == Half.V_SUB_F16:
        return x - y
    if opcode == Half.V_SUBREV_F16:
        return y - x
    if opcode == Half.V_RCP_F16:
        return 1.0 / x
    if opcode == Half.V_MIN3_F16:
        return smaller(smaller(x, y, ieee), z, ieee)
    if opcode == Half.V_MAX3_F16:
        return larger(larger(x, y, ieee), z, ieee)
    return median(x, y, z, ieee) if opcode == Half.V_MED3_F16 else div_fixup64(x, y, z)


@inlined
def half_lane(opcode: int, x: Any, y: Any, z: Any, ieee: bool, saturate: bool) -> int:
    """Computes an instruction of `Half` on the lowest 16 bits of each source; gives 16 bits."""
    a, b, c = half_to_double(np.int64(x) & 0xFFFF), half_to_double(np.int64(y) & 0xFFFF), half_to_double(np.int64(z) & 0xFFFF)
    return double_to_half(half_result(opcode, a, b, c, ieee), saturate)


@handler
def half_alu(wave: int, record: int, context: int) -> None:
    """Runs the instructions of `Half` that are not packed, which clear the upper half of their result."""
    fields, rows, scalars = record_of(record), rows_of(wave), scalars_of(wave)
    a, b, c = three_sources(wave, fields)
    ieee, saturate = ieee_mode(scalars), half_overflow_saturates(scalars)
    for lane in range(at.LANES):
        x, y, z = rows[a, lane], rows[b, lane], rows[c, lane]
        rows[R, lane] = np.uint32(half_lane(fields[at.OPCODE], x, y, z, ieee, saturate))
    commit(wave, fields[at.DESTINATION], 1, R)


@handler
def packed_half_alu(wave: int, record: int, context: int) -> None:
    """Runs the packed instructions of `Half`; modifiers have put the sources in order."""
    fields, rows, scalars = record_of(record), rows_of(wave), scalars_of(wave)
    opcode, high = fields[at.OPCODE], np.uint32(16)
    a, b, c = three_sources(wave, fields)
    ieee, saturate = ieee_mode(scalars), half_overflow_saturates(scalars)
    for lane in range(at.LANES):
        x, y, z = rows[a, lane], rows[b, lane], rows[c, lane]
        upper = half_lane(opcode, x >> high, y >> high, z >> high, ieee, saturate)
        rows[R, lane] = np.uint32(half_lane(opcode, x, y, z, ieee, saturate) | upper << 16)
    commit(wave, fields[at.DESTINATION], 1, R)


class Short(IntEnum):
    """Arithmetic on 16-bit integers: on the low half of a dword, or on both halves (PK)."""

    V_PK_MAD_I16 = 0
    V_PK_MAD_U16 = 1
    V_ADD_I16 = V_PK_ADD_I16 = 2
    V_ADD_U16 = V_PK_ADD_U16 = 3
    V_SUB_I16 = V_PK_SUB_I16 = 4
    V_SUB_U16 = V_PK_SUB_U16 = 5
    V_SUBREV_U16 = 6
    V_MUL_LO_U16 = V_PK_MUL_LO_U16 = 7
    V_MAX_I16 = V_PK_MAX_I16 = 8
    V_MAX_U16 = V_PK_MAX_U16 = 9
    V_MIN_I16 = V_PK_MIN_I16 = 10
    V_MIN_U16 = V_PK_MIN_U16 = 11
    V_LSHLREV_B16 = V_PK_LSHLREV_B16 = 12
    V_LSHRREV_B16 = V_PK_LSHRREV_B16 = 13
    V_ASHRREV_I16 = V_PK_ASHRREV_I16 = 14


@inlined
def is_signed(opcode: int) -> bool:
    """Whether an instruction of `Short` takes its sources for signed numbers."""
    return (
        opcode == Short.V_PK_MAD_I16
        or opcode == Short.V_ADD_I16
        or opcode == Short.V_SUB_I16
        or opcode == Short.V_MAX_I16
        or opcode == Short.V_MIN_I16
        or opcode == Short.V_ASHRREV_I16
    )


@inlined
def short_part(opcode: int, x: int, y: int, z: int, saturates: bool) -> int:
    """Computes an instruction of `Short` on 16 bits of each source; gives 16 bits."""
    signed = is_signed(opcode)
    if signed:
        x, y, z = (x ^ 0x8000) - 0x8000, (y ^ 0x8000) - 0x8000, (z ^ 0x8000) - 0x8000
    if opcode == Short.V_ADD_I16 or opcode == Short.V_ADD_U16:
        result = x + y
    elif opcode == Short.V_SUB_I16 or opcode == Short.V_SUB_U16:
        result = x - y
    elif opcode == Short.V_SUBREV_U16:
        result = y - x
    elif opcode == Short.V_MUL_LO_U16:
        result = x * y
    elif opcode == Short.V_MAX_I16 or opcode == Short.V_MAX_U16:
        result = max(x, y)
    elif opcode == Short.V_MIN_I16 or opcode == Short.V_MIN_U16:
        result = min(x, y)
    elif opcode == Short.V_LSHLREV_B16:
        result = y << (x & 15)
    elif opcode == Short.V_LSHRREV_B16 or opcode == Short.V_ASHRREV_I16:
        result = y >> (x & 15)
    else:
        result = x * y + z
    if saturates:
        low, high = (-32768, 32767) if signed else (0, 65535)
        result = min(max(result, low), high)
    return result & 0xFFFF


@handler
def short(wave: int, record: int, context: int) -> None:
    """Runs the instructions of `Short` that are not packed, which clear the upper half. IMMEDIATE is 1 with clamp."""
    fields, rows = record_of(record), rows_of(wave)
    a, b = two_sources(wave, fields)
    for lane in range(at.LANES):
        x, y = np.int64(rows[a, lane]) & 0xFFFF, np.int64(rows[b, lane]) & 0xFFFF
        rows[R, lane] = np.uint32(short_part(fields[at.OPCODE], x, y, 0, fields[at.IMMEDIATE] != 0))
    commit(wave, fields[at.DESTINATION], 1, R)


@handler
def packed_short(wave: int, record: int, context: int) -> None:
    """Runs the packed instructions of `Short`. IMMEDIATE is 1 with clamp."""
    fields, rows = record_of(record), rows_of(wave)
    opcode, saturates = fields[at.OPCODE], fields[at.IMMEDIATE] != 0
    a, b, c = three_sources(wave, fields)
    for lane in range(at.LANES):
        x, y, z = np.int64(rows[a, lane]), np.int64(rows[b, lane]), np.int64(rows[c, lane])
        low = short_part(opcode, x & 0xFFFF, y & 0xFFFF, z & 0xFFFF, saturates)
        high = short_part(opcode, x >> 16, y >> 16, z >> 16, saturates)
        rows[R, lane] = np.uint32(low | high << 16)
    commit(wave, fields[at.DESTINATION], 1, R)
