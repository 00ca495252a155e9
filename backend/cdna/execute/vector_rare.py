"""Vector instructions that hardly matter for speed: one lane after the other, a function for each kind of operand.

fp16 functions, dot products, mixed precision, saturating integer arithmetic, sine and cosine. What hardware computes to within
1 ulp is given correctly rounded, as in float_values.py.
"""

from __future__ import annotations

import math
from enum import IntEnum, auto
from typing import Any

import numpy as np

from backend.cdna.execute import layout as at
from backend.cdna.execute.float_values import NAN64, flushed
from backend.cdna.execute.half import (
    bf16_to_float,
    double_to_half,
    half_overflow_saturates,
    half_to_double,
)
from backend.cdna.execute.lanes import (
    commit,
    record_of,
    rows_of,
    scalars_of,
    source_row,
    three_sources,
    two_sources,
)
from backend.cdna.execute.native import bits_float, float_bits, fused_multiply_add, handler, inlined, quieted
from backend.cdna.execute.vector_double import nearest_even

R = at.RESULT_ROWS


HalfFunction = IntEnum(
    "HalfFunction",
    """
    V_SQRT_F16 V_RSQ_F16 V_LOG_F16 V_EXP_F16 V_FLOOR_F16 V_CEIL_F16 V_TRUNC_F16 V_RNDNE_F16 V_FRACT_F16 V_SIN_F16
    V_COS_F16 V_FREXP_MANT_F16 V_FREXP_EXP_I16_F16 V_CVT_U16_F16 V_CVT_I16_F16
    """,
    start=0,
)
"""fp16 from one fp16; the last ones an integer."""


class Trigonometric(IntEnum):
    """fp32 of an angle in turns."""

    V_SIN_F32 = 0
    V_COS_F32 = auto()


Dot = IntEnum(
    "Dot",
    "V_DOT2_F32_F16 V_DOT2_F32_BF16 V_DOT2_I32_I16 V_DOT2_U32_U16 V_DOT4_I32_I8 V_DOT4_U32_U8 V_DOT8_I32_I4 V_DOT8_U32_U4",
    start=0,
)
"""A third source plus products of the parts of two."""

Mix = IntEnum("Mix", "V_FMA_MIX_F32 V_FMA_MIXLO_F16 V_FMA_MIXHI_F16", start=0)
"""a * b + c, each fp32 or a half of a register."""

Saturating = IntEnum("Saturating", "V_ADD_U32 V_SUB_U32 V_SUBREV_U32 V_ADD_I32 V_SUB_I32", start=0)
"""Additions of 32-bit integers with clamp."""

Packing = IntEnum(
    "Packing",
    "V_CVT_PK_I16_I32 V_CVT_PK_U16_U32 V_SAT_PK_U8_I16 V_CVT_PK_U8_F32 V_CVT_OFF_F32_I4 V_PRNG_B32",
    start=0,
)
"""Saturated and packed; a byte in the place of another; a table."""


@inlined
def invalid(x: Any) -> Any:
    """What a function gives outside of its domain: its operand quieted where that is NaN, else NaN."""
    return quieted(x) if x != x else NAN64


@inlined
def turns(x: Any, cosine: bool) -> Any:
    """Sine or cosine of x turns; beyond 256 turns 0 or 1, of infinity NaN (ISA documents, V_SIN_F32)."""
    if not abs(x) < np.inf:
        return invalid(x)
    if abs(x) > 256.0:
        return 1.0 if cosine else 0.0
    fraction = x - np.floor(x)
    if cosine:
        return 0.0 if fraction == 0.25 or fraction == 0.75 else math.cos(fraction * 6.283185307179586)
    if fraction == 0 or fraction == 0.5:
        return math.copysign(0.0, x) if fraction == 0 else 0.0
    return math.sin(fraction * 6.283185307179586)


@handler
def trigonometric(wave: int, record: int, context: int) -> None:
    """Runs the instructions of `Trigonometric`; denormals follow the mode."""
    fields, rows = record_of(record), rows_of(wave)
    keep = bits_float(scalars_of(wave)[at.DENORMAL_F32])
    a = source_row(wave, fields[at.SOURCE_0], 0)
    for lane in range(at.LANES):
        x = np.float64(flushed(bits_float(rows[a, lane]), keep))
        result = np.float32(turns(x, fields[at.OPCODE] == Trigonometric.V_COS_F32))
        rows[R, lane] = float_bits(flushed(result, keep))
    commit(wave, fields[at.DESTINATION], 1, R)


@inlined
def half_function_lane(opcode: int, x: Any, saturate: bool) -> int:
    """Computes an instruction of `HalfFunction`; gives the result's 16 bits."""
    if opcode == HalfFunction.V_FREXP_EXP_I16_F16:
        return 0 if x == 0 or not abs(x) < np.inf else math.frexp(x)[1] & 0xFFFF
    if opcode == HalfFunction.V_CVT_U16_F16:
        return 0 if x != x else np.int64(min(max(np.trunc(x), 0.0), 65535.0))
    if opcode == HalfFunction.V_CVT_I16_F16:
        return 0 if x != x else np.int64(min(max(np.trunc(x), -32768.0), 32767.0)) & 0xFFFF
    result = x
    if opcode == HalfFunction.V_SQRT_F16:
        result = math.sqrt(x) if x >= 0 else invalid(x)
    elif opcode == HalfFunction.V_RSQ_F16:
        result = 1.0 / math.sqrt(x) if x >= 0 else invalid(x)
    elif opcode == HalfFunction.V_LOG_F16:
        result = (x if x == np.inf else math.log2(x)) if x > 0 else (-np.inf if x == 0 else invalid(x))
    elif opcode == HalfFunction.V_EXP_F16:
        result = math.pow(2.0, x) if x == x else invalid(x)
    elif opcode == HalfFunction.V_FLOOR_F16:
        result = np.floor(x)
    elif opcode == HalfFunction.V_CEIL_F16:
        result = np.ceil(x)
    elif opcode == HalfFunction.V_TRUNC_F16:
        result = np.trunc(x)
    elif opcode == HalfFunction.V_RNDNE_F16:
        result = nearest_even(x)
    elif opcode == HalfFunction.V_FRACT_F16:
        result = min(x - np.floor(x), 0.99951171875) if abs(x) < np.inf else invalid(x)
    elif opcode == HalfFunction.V_SIN_F16:
        result = turns(x, False)
    elif opcode == HalfFunction.V_COS_F16:
        result = turns(x, True)
    elif x != 0 and abs(x) < np.inf:
        result = math.frexp(x)[0]
    return double_to_half(result, saturate)


@handler
def half_function(wave: int, record: int, context: int) -> None:
    """Runs the instructions of `HalfFunction`."""
    fields, rows = record_of(record), rows_of(wave)
    saturate = half_overflow_saturates(scalars_of(wave))
    a = source_row(wave, fields[at.SOURCE_0], 0)
    for lane in range(at.LANES):
        x = half_to_double(np.int64(rows[a, lane]) & 0xFFFF)
        rows[R, lane] = np.uint32(half_function_lane(fields[at.OPCODE], x, saturate))
    commit(wave, fields[at.DESTINATION], 1, R)


@inlined
def part_of(word: Any, index: int, bits: int, signed: bool) -> int:
    """Gives part `index` of `bits` bits of a dword."""
    value = np.int64(word >> np.uint32(index * bits)) & ((1 << bits) - 1)
    return value - ((value >> (bits - 1)) << bits) if signed else value


@inlined
def integer_dot(x: Any, y: Any, z: Any, bits: int, signed: bool) -> Any:
    """Adds the products of parts to z, in 32 bits."""
    total = np.int64(z)
    for index in range(32 // bits):
        total += part_of(x, index, bits, signed) * part_of(y, index, bits, signed)
    return np.uint32(total & 0xFFFF_FFFF)


@inlined
def dot_lane(opcode: int, x: Any, y: Any, z: Any) -> Any:
    """Computes instructions of `Dot`: fp32 sums one product after the other, each fused; denormals are kept."""
    if opcode == Dot.V_DOT2_F32_F16 or opcode == Dot.V_DOT2_F32_BF16:
        total = bits_float(z)
        for half in range(2):
            a, b = (np.int64(x) >> (16 * half)) & 0xFFFF, (np.int64(y) >> (16 * half)) & 0xFFFF
            if opcode == Dot.V_DOT2_F32_F16:
                total = fused_multiply_add(np.float32(half_to_double(a)), np.float32(half_to_double(b)), total)
            else:
                total = fused_multiply_add(bf16_to_float(a), bf16_to_float(b), total)
        return float_bits(total)
    if opcode == Dot.V_DOT2_I32_I16:
        return integer_dot(x, y, z, 16, True)
    if opcode == Dot.V_DOT2_U32_U16:
        return integer_dot(x, y, z, 16, False)
    if opcode == Dot.V_DOT4_I32_I8:
        return integer_dot(x, y, z, 8, True)
    if opcode == Dot.V_DOT4_U32_U8:
        return integer_dot(x, y, z, 8, False)
    return integer_dot(x, y, z, 4, opcode == Dot.V_DOT8_I32_I4)


@handler
def dot(wave: int, record: int, context: int) -> None:
    """Runs the instructions of `Dot`; the C forms run with their destination as third source."""
    fields, rows = record_of(record), rows_of(wave)
    a, b, c = three_sources(wave, fields)
    for lane in range(at.LANES):
        rows[R, lane] = dot_lane(fields[at.OPCODE], rows[a, lane], rows[b, lane], rows[c, lane])
    commit(wave, fields[at.DESTINATION], 1, R)


@inlined
def mixed_source(word: Any, choices: int, place: int, keep: Any) -> Any:
    """A source of `Mix` as float32: choices has op_sel_hi, op_sel, neg and abs, three bits each."""
    value = flushed(bits_float(word), keep)
    if (choices >> place) & 1:
        half = np.int64(word) >> 16 if (choices >> (3 + place)) & 1 else np.int64(word)
        value = np.float32(half_to_double(half & 0xFFFF))
    if (choices >> (9 + place)) & 1:
        value = abs(value)
    return -value if (choices >> (6 + place)) & 1 else value


@handler
def mix(wave: int, record: int, context: int) -> None:
    """Runs `Mix`: fused in fp32; MIXLO and MIXHI round that to fp16 and keep the other half of the destination."""
    fields, rows, scalars = record_of(record), rows_of(wave), scalars_of(wave)
    opcode, choices = fields[at.OPCODE], np.int64(fields[at.IMMEDIATE])
    keep, saturate = bits_float(scalars[at.DENORMAL_F32]), half_overflow_saturates(scalars)
    a, b, c = three_sources(wave, fields)
    old = fields[at.DESTINATION]
    for lane in range(at.LANES):
        x, y = mixed_source(rows[a, lane], choices, 0, keep), mixed_source(rows[b, lane], choices, 1, keep)
        total = flushed(fused_multiply_add(x, y, mixed_source(rows[c, lane], choices, 2, keep)), keep)
        if opcode == Mix.V_FMA_MIX_F32:
            rows[R, lane] = float_bits(total)
            continue
        half = np.uint32(double_to_half(np.float64(total), saturate))
        if opcode == Mix.V_FMA_MIXLO_F16:
            rows[R, lane] = (rows[old, lane] & np.uint32(0xFFFF_0000)) | half
        else:
            rows[R, lane] = (rows[old, lane] & np.uint32(0xFFFF)) | half << np.uint32(16)
    commit(wave, fields[at.DESTINATION], 1, R)


@inlined
def clipped(value: int, low: int, high: int) -> int:
    """Cuts `value` to low..high, both inclusive."""
    return low if value < low else (high if value > high else value)


@inlined
def saturated(opcode: int, x: int, y: int) -> int:
    """Computes an instruction of `Saturating` on unsigned sources."""
    if opcode == Saturating.V_ADD_U32:
        return min(x + y, 0xFFFF_FFFF)
    if opcode == Saturating.V_SUB_U32:
        return max(x - y, 0)
    if opcode == Saturating.V_SUBREV_U32:
        return max(y - x, 0)
    a, b = np.int64(np.int32(np.uint32(x))), np.int64(np.int32(np.uint32(y)))
    total = a + b if opcode == Saturating.V_ADD_I32 else a - b
    return clipped(total, -2147483648, 2147483647) & 0xFFFF_FFFF


@handler
def saturating(wave: int, record: int, context: int) -> None:
    """Runs the instructions of `Saturating`."""
    fields, rows = record_of(record), rows_of(wave)
    a, b = two_sources(wave, fields)
    for lane in range(at.LANES):
        rows[R, lane] = np.uint32(saturated(fields[at.OPCODE], np.int64(rows[a, lane]), np.int64(rows[b, lane])))
    commit(wave, fields[at.DESTINATION], 1, R)


@inlined
def packing_lane(opcode: int, x: Any, y: Any, z: Any) -> Any:
    """Computes an instruction of `Packing` for one lane."""
    if opcode == Packing.V_CVT_PK_I16_I32:
        a, b = np.int64(np.int32(x)), np.int64(np.int32(y))
        low, high = clipped(a, -32768, 32767) & 0xFFFF, clipped(b, -32768, 32767) & 0xFFFF
        return np.uint32(low | high << 16)
    if opcode == Packing.V_CVT_PK_U16_U32:
        return np.uint32(clipped(np.int64(x), 0, 0xFFFF) | clipped(np.int64(y), 0, 0xFFFF) << 16)
    if opcode == Packing.V_SAT_PK_U8_I16:
        low, high = part_of(x, 0, 16, True), part_of(x, 1, 16, True)
        return np.uint32(clipped(low, 0, 255) | clipped(high, 0, 255) << 8)
    if opcode == Packing.V_CVT_OFF_F32_I4:
        return float_bits(np.float32(part_of(x, 0, 4, True)) * np.float32(0.0625))
    if opcode == Packing.V_PRNG_B32:
        return np.uint32((x << np.uint32(1)) ^ (np.uint32(197) if x >> np.uint32(31) else np.uint32(0)))
    value = np.float64(bits_float(x))
    byte = np.int64(0) if value != value else np.int64(min(max(nearest_even(value), 0.0), 255.0))
    shift = 8 * (np.int64(y) & 3)
    return np.uint32((np.int64(z) & ~(0xFF << shift)) | byte << shift)


@handler
def packing(wave: int, record: int, context: int) -> None:
    """Runs the instructions of `Packing`."""
    fields, rows = record_of(record), rows_of(wave)
    a, b, c = three_sources(wave, fields)
    for lane in range(at.LANES):
        rows[R, lane] = packing_lane(fields[at.OPCODE], rows[a, lane], rows[b, lane], rows[c, lane])
    commit(wave, fields[at.DESTINATION], 1, R)
