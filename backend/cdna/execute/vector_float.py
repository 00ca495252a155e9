"""Vector floating-point unit: fp32, packed fp32 and fp64 arithmetic; comparisons are in compare.py, halves in half.py.

What each does to a value is said in float_values.py.
"""

from __future__ import annotations

import math
from enum import IntEnum
from typing import Any

import numpy as np

from backend.cdna.execute import layout as at
from backend.cdna.execute.float_values import (
    INFINITY,
    NAN,
    SMALLEST_NORMAL,
    div_fixup,
    div_fmas,
    div_scale,
    exp2,
    flushed,
    fused,
    ieee_mode,
    larger,
    logarithm,
    median,
    power_of_two,
    product_of,
    quieted_or_nan,
    rounded,
    smaller,
    sum_of,
)
from backend.cdna.execute.lanes import (
    commit,
    float_rows_of,
    record_of,
    result_row,
    rows_of,
    scalar_pair,
    scalars_of,
    set_scalar_pair,
    set_value64,
    signed_rows_of,
    source_pair,
    three_sources,
    two_sources,
    value64,
)
from backend.cdna.execute.native import (
    bits_double,
    bits_float,
    double_bits,
    fused_multiply_add,
    handler,
    inlined,
    quieted,
)

VectorFloat = IntEnum(
    "VectorFloat",
    """
    V_ADD_F32 V_SUB_F32 V_SUBREV_F32 V_MUL_F32 V_MAX_F32 V_MIN_F32 V_EXP_F32 V_LOG_F32 V_RCP_F32 V_RCP_IFLAG_F32 V_RSQ_F32
    V_SQRT_F32 V_FRACT_F32 V_TRUNC_F32 V_CEIL_F32 V_RNDNE_F32 V_FLOOR_F32 V_LDEXP_F32 V_FREXP_MANT_F32 V_FREXP_EXP_I32_F32
    V_MUL_LEGACY_F32
    """,
    start=0,
)
"""Instructions on fp32 with up to two sources."""

Float3 = IntEnum(
    "Float3",
    """
    V_FMA_F32 V_MAX3_F32 V_MIN3_F32 V_MED3_F32 V_MAXIMUM3_F32 V_MINIMUM3_F32 V_DIV_FIXUP_F32 V_DIV_FMAS_F32
    V_DIV_SCALE_F32
    """,
    start=0,
)
"""Instructions on fp32 with three sources."""

FloatPair = IntEnum(
    "FloatPair",
    "V_PK_MUL_F32 V_PK_ADD_F32 V_PK_FMA_F32 V_ADD_F64 V_MUL_F64 V_FMA_F64 V_MAX_F64 V_MIN_F64",
    start=0,
)
"""Packed fp32 and fp64: every operand is a register pair."""


@handler
def float_alu(wave: int, record: int, context: int) -> None:
    """Runs the instructions of `VectorFloat`."""
    fields = record_of(record)
    opcode = fields[at.OPCODE]
    rows = float_rows_of(wave)
    a, b = two_sources(wave, fields)
    destination = np.int64(fields[at.DESTINATION])
    r = result_row(wave, destination, 1, a, b, b)
    keep, ieee = bits_float(scalars_of(wave)[at.DENORMAL_F32]), ieee_mode(scalars_of(wave))
    if opcode == VectorFloat.V_MUL_F32:
        for lane in range(at.LANES):
            rows[r, lane] = flushed(product_of(flushed(rows[a, lane], keep), flushed(rows[b, lane], keep)), keep)
    elif opcode == VectorFloat.V_ADD_F32:
        for lane in range(at.LANES):
            rows[r, lane] = flushed(sum_of(flushed(rows[a, lane], keep), flushed(rows[b, lane], keep)), keep)
    elif opcode == VectorFloat.V_SUB_F32:
        for lane in range(at.LANES):
            rows[r, lane] = flushed(sum_of(flushed(rows[a, lane], keep), -flushed(rows[b, lane], keep)), keep)
    elif opcode == VectorFloat.V_SUBREV_F32:
        for lane in range(at.LANES):
            rows[r, lane] = flushed(sum_of(flushed(rows[b, lane], keep), -flushed(rows[a, lane], keep)), keep)
    elif opcode == VectorFloat.V_MAX_F32:
        for lane in range(at.LANES):
            rows[r, lane] = larger(flushed(rows[a, lane], keep), flushed(rows[b, lane], keep), ieee)
    elif opcode == VectorFloat.V_MIN_F32:
        for lane in range(at.LANES):
            rows[r, lane] = smaller(flushed(rows[a, lane], keep), flushed(rows[b, lane], keep), ieee)
    elif opcode == VectorFloat.V_EXP_F32:
        for lane in range(at.LANES):
            x = flushed(rows[a, lane], SMALLEST_NORMAL)
            cut = min(max(np.float64(x), -1000.0), 1000.0)
            result = np.float32(exp2(cut)) if x == x else quieted_or_nan(x)
            rows[r, lane] = flushed(result, SMALLEST_NORMAL)
    elif opcode == VectorFloat.V_LDEXP_F32:
        signed = signed_rows_of(wave)
        for lane in range(at.LANES):
            scale = power_of_two(np.int64(min(max(signed[b, lane], -400), 400)))
            rows[r, lane] = flushed(np.float32(np.float64(flushed(rows[a, lane], keep)) * scale), keep)
    else:
        for lane in range(at.LANES):
            rows[r, lane] = unary_lane(opcode, rows[a, lane], rows[b, lane], keep)
    commit(wave, destination, 1, r)


@inlined
def unary_lane(opcode: int, raw: Any, second: Any, keep: Any) -> Any:
    """Computes one lane of the rarer fp32 instructions."""
    x = flushed(raw, SMALLEST_NORMAL)
    if opcode == VectorFloat.V_RCP_F32 or opcode == VectorFloat.V_RCP_IFLAG_F32:
        return flushed(np.float32(1.0) / x, SMALLEST_NORMAL)
    if opcode == VectorFloat.V_RSQ_F32:
        return np.float32(1.0 / math.sqrt(np.float64(x))) if x >= 0 else quieted_or_nan(x)
    if opcode == VectorFloat.V_SQRT_F32:
        return np.float32(math.sqrt(np.float64(x))) if x >= 0 else quieted_or_nan(x)
    if opcode == VectorFloat.V_LOG_F32:
        return logarithm(x)
    x = flushed(raw, keep)
    if opcode == VectorFloat.V_TRUNC_F32:
        return np.float32(np.trunc(x))
    if opcode == VectorFloat.V_CEIL_F32:
        return np.float32(np.ceil(x))
    if opcode == VectorFloat.V_FLOOR_F32:
        return np.float32(np.floor(x))
    if opcode == VectorFloat.V_RNDNE_F32:
        if x != x:
            return quieted(x)
        return x if not abs(x) < np.float32(8388608.0) else np.float32(math.copysign(rounded(np.float64(x)), np.float64(x)))
    if opcode == VectorFloat.V_FRACT_F32:
        if not abs(x) < INFINITY:
            return quieted_or_nan(x)
        return min(x - np.float32(np.floor(x)), bits_float(np.uint32(0x3F7FFFFF)))
    if opcode == VectorFloat.V_MUL_LEGACY_F32:
        y = flushed(second, keep)
        return np.float32(0.0) if x == 0 or y == 0 else flushed(product_of(x, y), keep)
    return split_float(opcode, x)


@inlined
def split_float(opcode: int, x: Any) -> Any:
    """V_FREXP_MANT_F32, or V_FREXP_EXP_I32_F32 as the bits of an integer. Zero, infinity and NaN give themselves and 0."""
    if x == 0 or not abs(x) < INFINITY:
        number = quieted(x) if x != x else x
        return bits_float(np.uint32(0)) if opcode == VectorFloat.V_FREXP_EXP_I32_F32 else number
    mantissa, exponent = math.frexp(np.float64(x))
    if opcode == VectorFloat.V_FREXP_EXP_I32_F32:
        return bits_float(np.uint32(np.int32(exponent)))
    return np.float32(mantissa)


@handler
def float_alu3(wave: int, record: int, context: int) -> None:
    """Runs the instructions of `Float3`; V_FMAC, V_FMAMK and V_FMAAK run as V_FMA. V_DIV_SCALE's mask goes to DESTINATION_2."""
    fields = record_of(record)
    opcode = fields[at.OPCODE]
    rows = float_rows_of(wave)
    a, b, c = three_sources(wave, fields)
    destination = np.int64(fields[at.DESTINATION])
    r = result_row(wave, destination, 1, a, b, c)
    scalars = scalars_of(wave)
    keep, ieee = bits_float(scalars[at.DENORMAL_F32]), ieee_mode(scalars)
    if opcode == Float3.V_FMA_F32:
        for lane in range(at.LANES):
            x, y, z = flushed(rows[a, lane], keep), flushed(rows[b, lane], keep), flushed(rows[c, lane], keep)
            rows[r, lane] = flushed(fused(x, y, z), keep)
    elif opcode == Float3.V_MAX3_F32:
        for lane in range(at.LANES):
            pair = larger(flushed(rows[a, lane], keep), flushed(rows[b, lane], keep), ieee)
            rows[r, lane] = larger(pair, flushed(rows[c, lane], keep), ieee)
    elif opcode == Float3.V_DIV_SCALE_F32:
        mask = np.uint64(0)
        for lane in range(at.LANES):
            value, scaled = div_scale(rows[a, lane], rows[b, lane], rows[c, lane])
            rows[r, lane] = value
            if scaled:
                mask |= np.uint64(1) << np.uint64(lane)
        mask &= scalar_pair(scalars, at.EXEC)
        commit(wave, destination, 1, r)
        set_scalar_pair(scalars, fields[at.DESTINATION_2], mask)
        return
    elif opcode == Float3.V_DIV_FMAS_F32:
        vcc = scalar_pair(scalars, at.VCC)
        for lane in range(at.LANES):
            scaled = (vcc >> np.uint64(lane)) & np.uint64(1) != np.uint64(0)
            rows[r, lane] = div_fmas(rows[a, lane], rows[b, lane], rows[c, lane], scaled, keep)
    else:
        for lane in range(at.LANES):
            x, y, z = flushed(rows[a, lane], keep), flushed(rows[b, lane], keep), flushed(rows[c, lane], keep)
            rows[r, lane] = ternary_float_lane(opcode, x, y, z, ieee)
    commit(wave, destination, 1, r)


@inlined
def ternary_float_lane(opcode: int, x: Any, y: Any, z: Any, ieee: bool) -> Any:
    """Computes one lane of the rarer instructions with three sources."""
    any_nan = x != x or y != y or z != z
    if opcode == Float3.V_MIN3_F32:
        return smaller(smaller(x, y, ieee), z, ieee)
    if opcode == Float3.V_MED3_F32:
        return median(x, y, z, ieee)
    if opcode == Float3.V_MAXIMUM3_F32:
        return NAN if any_nan else larger(larger(x, y, False), z, False)
    if opcode == Float3.V_MINIMUM3_F32:
        return NAN if any_nan else smaller(smaller(x, y, False), z, False)
    return div_fixup(x, y, z)


@handler
def float_pair(wave: int, record: int, context: int) -> None:
    """Runs the instructions of `FloatPair`."""
    fields = record_of(record)
    opcode = fields[at.OPCODE]
    rows = float_rows_of(wave)
    a = source_pair(wave, fields[at.SOURCE_0], 0)
    b = source_pair(wave, fields[at.SOURCE_1], 1)
    c = source_pair(wave, fields[at.SOURCE_2], 2)
    destination = np.int64(fields[at.DESTINATION])
    r = result_row(wave, destination, 2, a, b, c)
    keep, ieee = bits_float(scalars_of(wave)[at.DENORMAL_F32]), ieee_mode(scalars_of(wave))
    if opcode == FloatPair.V_PK_MUL_F32:
        for half in range(2):
            for lane in range(at.LANES):
                x, y = flushed(rows[a + half, lane], keep), flushed(rows[b + half, lane], keep)
                rows[r + half, lane] = flushed(product_of(x, y), keep)
    elif opcode == FloatPair.V_PK_ADD_F32:
        for half in range(2):
            for lane in range(at.LANES):
                x, y = flushed(rows[a + half, lane], keep), flushed(rows[b + half, lane], keep)
                rows[r + half, lane] = flushed(sum_of(x, y), keep)
    elif opcode == FloatPair.V_PK_FMA_F32:
        for half in range(2):
            for lane in range(at.LANES):
                x, y = flushed(rows[a + half, lane], keep), flushed(rows[b + half, lane], keep)
                rows[r + half, lane] = flushed(fused(x, y, flushed(rows[c + half, lane], keep)), keep)
    else:
        bits = rows_of(wave)
        for lane in range(at.LANES):
            x, y = bits_double(value64(bits, a, lane)), bits_double(value64(bits, b, lane))
            result = double_lane(opcode, x, y, bits_double(value64(bits, c, lane)), ieee)
            set_value64(bits, r, lane, double_bits(result))
    commit(wave, destination, 2, r)


@inlined
def double_lane(opcode: int, x: Any, y: Any, z: Any, ieee: bool) -> Any:
    """One lane of the fp64 instructions; their denormals are kept in every mode that code at hand sets."""
    if opcode == FloatPair.V_ADD_F64:
        return x + y
    if opcode == FloatPair.V_MUL_F64:
        return x * y
    if opcode == FloatPair.V_FMA_F64:
        return fused_multiply_add(x, y, z)
    return larger(x, y, ieee) if opcode == FloatPair.V_MAX_F64 else smaller(x, y, ieee)
