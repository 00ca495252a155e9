"""Vector floating-point unit: fp32, packed fp32 and fp64 arithmetic; comparisons are in compare.py, halves in half.py.

Denormals: the MODE register says whether fp32 denormals are flushed on the way in and out; a wave keeps the threshold as a
float (0.0 keeps all), so that flushing costs one comparison. V_EXP, V_LOG, V_RCP, V_RSQ and V_SQRT flush always, which is
why compilers scale around them. Where hardware may be off by 1 ulp (transcendentals) the correctly rounded value is given.

NaN (fp32): an operation that is invalid gives NAN, one with a NaN among its operands gives one of those, quieted; which of two
is not modelled (minimum and maximum follow the documents: the second). Kernels look at the bits: AITER's
mla_a8w8_qh64_qseqlen4_gqaratio16_ps (#2128) takes V_EXP of infinity minus infinity for 0 where it equals 0xffc00000. The fp64
instructions leave the NaN to the host, but for minimum and maximum.
"""

from __future__ import annotations

import math
from enum import IntEnum, auto
from typing import Any

import numpy as np

from backend.cdna.execute import layout as at
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
    source_row,
    value64,
)
from backend.cdna.execute.native import (
    bits_double,
    bits_float,
    double_bits,
    float_bits,
    fused_multiply_add,
    handler,
    inlined,
)

IEEE_BIT = 9  # MODE
SMALLEST_NORMAL = np.float32(2.0**-126)
INFINITY = np.float32(np.inf)
NAN = np.uint32(0xFFC0_0000).view(np.float32)
"""What an invalid operation gives (ISA documents, the examples of V_LOG_F32 and V_SQRT_F32: negative, unlike C's NAN)."""


class VectorFloat(IntEnum):
    """fp32, up to two sources."""

    V_ADD_F32 = 0
    V_SUB_F32 = auto()
    V_SUBREV_F32 = auto()
    V_MUL_F32 = auto()
    V_MAX_F32 = auto()
    V_MIN_F32 = auto()
    V_EXP_F32 = auto()
    V_LOG_F32 = auto()
    V_RCP_F32 = auto()
    V_RCP_IFLAG_F32 = auto()
    V_RSQ_F32 = auto()
    V_SQRT_F32 = auto()
    V_FRACT_F32 = auto()
    V_TRUNC_F32 = auto()
    V_CEIL_F32 = auto()
    V_RNDNE_F32 = auto()
    V_FLOOR_F32 = auto()
    V_LDEXP_F32 = auto()
    V_FREXP_MANT_F32 = auto()
    V_FREXP_EXP_I32_F32 = auto()
    V_MUL_LEGACY_F32 = auto()


class Float3(IntEnum):
    """fp32, three sources."""

    V_FMA_F32 = 0
    V_MAX3_F32 = auto()
    V_MIN3_F32 = auto()
    V_MED3_F32 = auto()
    V_MAXIMUM3_F32 = auto()
    V_MINIMUM3_F32 = auto()
    V_DIV_FIXUP_F32 = auto()
    V_DIV_FMAS_F32 = auto()
    V_DIV_SCALE_F32 = auto()


class FloatPair(IntEnum):
    """Packed fp32 and fp64: every operand is a register pair."""

    V_PK_MUL_F32 = 0
    V_PK_ADD_F32 = auto()
    V_PK_FMA_F32 = auto()
    V_ADD_F64 = auto()
    V_MUL_F64 = auto()
    V_FMA_F64 = auto()
    V_MAX_F64 = auto()
    V_MIN_F64 = auto()


@inlined
def flushed(value: Any, threshold: Any) -> Any:
    """`value` with magnitudes below `threshold` made a zero of the same sign."""
    return value * np.float32(0.0) if abs(value) < threshold else value


@inlined
def invalid_as_nan(result: Any, operands_are_numbers: Any) -> Any:
    """`result` of an operation; where it is a NaN that no operand brought in, the one that the GPU gives."""
    return NAN if result != result and operands_are_numbers else result


@inlined
def quieted_or_nan(value: Any) -> Any:
    """What a function gives outside of its domain: its operand quieted where that is NaN, else NAN."""
    return bits_float(float_bits(value) | np.uint32(0x0040_0000)) if value != value else NAN


@inlined
def product_of(x: Any, y: Any) -> Any:
    """The product, and NAN where it is invalid and no operand is NaN."""
    return invalid_as_nan(x * y, x == x and y == y)


@inlined
def sum_of(x: Any, y: Any) -> Any:
    """The sum, and NAN where it is invalid and no operand is NaN."""
    return invalid_as_nan(x + y, x == x and y == y)


@inlined
def fused(x: Any, y: Any, z: Any) -> Any:
    """The product plus z with one rounding, and NAN where that is invalid and no operand is NaN."""
    return invalid_as_nan(fused_multiply_add(x, y, z), x == x and y == y and z == z)


@inlined
def signals(value: Any) -> Any:
    """Whether a float32 is a signalling NaN."""
    return value != value and float_bits(value) & np.uint32(0x0040_0000) == np.uint32(0)


@inlined
def quieted(value: Any) -> Any:
    """A float32 NaN as a quiet one."""
    return bits_float(float_bits(value) | np.uint32(0x0040_0000))


@inlined
def larger(a: Any, b: Any, ieee: bool) -> Any:
    """V_MAX_F32: +0 above -0; a number if only one is NaN, but with MODE.IEEE a signalling NaN is quieted and given."""
    if ieee and (signals(a) or signals(b)):
        return quieted(a if signals(a) else b)
    if a == b:
        return bits_float(float_bits(a) & float_bits(b))
    if a != a:
        return b
    return b if a < b else a


@inlined
def smaller(a: Any, b: Any, ieee: bool) -> Any:
    """V_MIN_F32: as `larger`, with -0 below +0."""
    if ieee and (signals(a) or signals(b)):
        return quieted(a if signals(a) else b)
    if a == b:
        return bits_float(float_bits(a) | float_bits(b))
    if a != a:
        return b
    return b if a > b else a


@inlined
def ieee_mode(scalars: Any) -> bool:
    """MODE.IEEE."""
    return (scalars[at.MODE] >> np.uint32(IEEE_BIT)) & np.uint32(1) != np.uint32(0)


@inlined
def larger_double(x: Any, y: Any, ieee: bool) -> Any:
    """`larger` of float64."""
    if ieee and (double_signals(x) or double_signals(y)):
        return quieted_double(x if double_signals(x) else y)
    if x == y:
        return bits_double(double_bits(x) & double_bits(y))
    if x != x:
        return y
    return y if x < y else x


@inlined
def smaller_double(x: Any, y: Any, ieee: bool) -> Any:
    """`smaller` of float64."""
    if ieee and (double_signals(x) or double_signals(y)):
        return quieted_double(x if double_signals(x) else y)
    if x == y:
        return bits_double(double_bits(x) | double_bits(y))
    if x != x:
        return y
    return y if x > y else x


@inlined
def double_signals(value: Any) -> Any:
    """Whether a float64 is a signalling NaN."""
    return value != value and double_bits(value) & np.uint64(1 << 51) == np.uint64(0)


@inlined
def quieted_double(value: Any) -> Any:
    """A float64 NaN as a quiet one."""
    return bits_double(double_bits(value) | np.uint64(1 << 51))


@inlined
def rounded(value: Any) -> Any:
    """A float64 below 2^51 in magnitude, rounded to an integer, ties to even. Adding 1.5 * 2^52 leaves no fraction bits."""
    return (value + 6755399441055744.0) - 6755399441055744.0


@inlined
def power_of_two(exponent: int) -> Any:
    """2.0 ** exponent for -1022..1023, by its bits."""
    return bits_double(np.uint64((exponent + 1023) << 52))


@inlined
def exp2(value: Any) -> Any:
    """2 ** value in float64 to within 1e-16, for float32 arguments that have been cut to -1000..1000: Taylor to degree 13."""
    whole = rounded(value)
    t = (value - whole) * 0.6931471805599453
    series = 1.0 / 6227020800.0
    series = series * t + 1.0 / 479001600.0
    series = series * t + 1.0 / 39916800.0
    series = series * t + 1.0 / 3628800.0
    series = series * t + 1.0 / 362880.0
    series = series * t + 1.0 / 40320.0
    series = series * t + 1.0 / 5040.0
    series = series * t + 1.0 / 720.0
    series = series * t + 1.0 / 120.0
    series = series * t + 1.0 / 24.0
    series = series * t + 1.0 / 6.0
    series = series * t + 0.5
    series = series * t + 1.0
    series = series * t + 1.0
    return series * power_of_two(np.int64(whole))


@inlined
def exponent_of(value: Any) -> int:
    """The biased exponent field of a float32."""
    return np.int64((float_bits(value) >> np.uint32(23)) & np.uint32(0xFF))


@inlined
def is_denormal(value: Any) -> bool:
    """A float32 that is neither zero nor normal."""
    return value != 0 and abs(value) < SMALLEST_NORMAL


@handler
def float_alu(wave: int, record: int, context: int) -> None:
    """Instructions of `VectorFloat`."""
    fields = record_of(record)
    opcode = fields[at.OPCODE]
    rows = float_rows_of(wave)
    a = source_row(wave, fields[at.SOURCE_0], 0)
    b = source_row(wave, fields[at.SOURCE_1], 1)
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
    """One lane of the rarer fp32 instructions."""
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
def logarithm(x: Any) -> Any:
    """Base-2 logarithm of a float32."""
    if x > 0:
        return x if x == INFINITY else np.float32(math.log2(np.float64(x)))
    return -INFINITY if x == 0 else quieted_or_nan(x)


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
    """Instructions of `Float3`; V_FMAC, V_FMAMK and V_FMAAK run as V_FMA. V_DIV_SCALE's mask goes to DESTINATION_2."""
    fields = record_of(record)
    opcode = fields[at.OPCODE]
    rows = float_rows_of(wave)
    a = source_row(wave, fields[at.SOURCE_0], 0)
    b = source_row(wave, fields[at.SOURCE_1], 1)
    c = source_row(wave, fields[at.SOURCE_2], 2)
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
    """One lane of the rarer instructions with three sources."""
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


@inlined
def median(x: Any, y: Any, z: Any, ieee: bool) -> Any:
    """V_MED3 (ISA document): of what is left when the largest, the first of equal ones, is taken away, the larger."""
    if x != x or y != y or z != z:
        return smaller(smaller(x, y, ieee), z, ieee)
    largest = larger(larger(x, y, False), z, False)
    if largest == x:
        return larger(y, z, False)
    return larger(x, z, False) if largest == y else larger(x, y, False)


@inlined
def scale64(value: Any, up: bool) -> Any:
    """value * 2^64 or 2^-64, one rounding."""
    return np.float32(np.float64(value) * (18446744073709551616.0 if up else 5.421010862427522e-20))


@inlined
def div_scale(value: Any, denominator: Any, numerator: Any) -> tuple[Any, bool]:
    """V_DIV_SCALE_F32 (ISA document): the source, scaled so that the division's steps neither overflow nor go denormal."""
    if numerator == 0 or denominator == 0:
        return NAN, False
    is_denominator = value == denominator
    if exponent_of(numerator) - exponent_of(denominator) >= 96:
        return (scale64(value, True) if is_denominator else value), True
    if is_denormal(denominator):
        return scale64(value, True), False
    reciprocal_denormal = is_denormal(np.float32(1.0 / np.float64(denominator)))
    quotient_denormal = is_denormal(np.float32(np.float64(numerator) / np.float64(denominator)))
    if reciprocal_denormal and quotient_denormal:
        return (scale64(value, True) if is_denominator else value), True
    if reciprocal_denormal:
        return scale64(value, False), False
    if quotient_denormal:
        return (scale64(value, True) if value == numerator else value), True
    if exponent_of(numerator) <= 23:
        return scale64(value, True), False
    return value, False


@inlined
def div_fmas(x: Any, y: Any, z: Any, scaled: bool, keep: Any) -> Any:
    """V_DIV_FMAS_F32: the fused multiply-add, and what V_DIV_SCALE scaled by 2^64 undone where it set the mask."""
    result = fused(flushed(x, keep), flushed(y, keep), flushed(z, keep))
    if scaled:
        result = scale64(result, exponent_of(z) > 127)
    return flushed(result, keep)


@inlined
def div_fixup(quotient: Any, denominator: Any, numerator: Any) -> Any:
    """V_DIV_FIXUP_F32 (ISA document): the quotient, or what the special cases give.

    That a quotient beyond 2^128 gives infinity is not in the document's text, but what compilers' division relies on.
    """
    sign = (float_bits(denominator) ^ float_bits(numerator)) & np.uint32(0x8000_0000)
    if numerator != numerator:
        return quieted(numerator)
    if denominator != denominator:
        return quieted(denominator)
    infinite_denominator, infinite_numerator = abs(denominator) == INFINITY, abs(numerator) == INFINITY
    if (denominator == 0 and numerator == 0) or (infinite_denominator and infinite_numerator):
        return NAN
    if denominator == 0 or infinite_numerator:
        return bits_float(np.uint32(0x7F80_0000) | sign)
    if infinite_denominator or numerator == 0:
        return bits_float(sign)
    distance = exponent_of(numerator) - exponent_of(denominator)
    if distance < -150:
        return bits_float(sign)
    if distance > 128:
        return bits_float(np.uint32(0x7F80_0000) | sign)
    return bits_float((float_bits(quotient) & np.uint32(0x7FFF_FFFF)) | sign)


@handler
def float_pair(wave: int, record: int, context: int) -> None:
    """Instructions of `FloatPair`."""
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
    return larger_double(x, y, ieee) if opcode == FloatPair.V_MAX_F64 else smaller_double(x, y, ieee)
