"""Meanings of one fp32 or fp64 value: denormals, NaN, the extremes, functions, the steps of a division. No wave, no lane.

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
from typing import Any

import numpy as np

from backend.cdna.execute import layout as at
from backend.cdna.execute.native import (
    bits_double,
    bits_float,
    bits_of_both,
    bits_of_either,
    float_bits,
    fused_multiply_add,
    inlined,
    quieted,
    signals,
)

IEEE_BIT = 9  # MODE
SMALLEST_NORMAL = np.float32(2.0**-126)
INFINITY = np.float32(np.inf)
NAN = np.uint32(0xFFC0_0000).view(np.float32)
"""What an invalid operation gives (ISA documents, the examples of V_LOG_F32 and V_SQRT_F32: negative, unlike C's NAN)."""
NAN64 = np.uint64(0xFFF8_0000_0000_0000).view(np.float64)
"""The same in float64."""


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
    return quieted(value) if value != value else NAN


@inlined
def product_of(x: Any, y: Any) -> Any:
    """The product, and NAN where it is invalid and no operand is NaN."""
    return invalid_as_nan(x * y, x == x and y == y)


@inlined
def sum_of(x: Any, y: Any) -> Any:
    """Adds; gives NAN where that is invalid and no operand is NaN."""
    return invalid_as_nan(x + y, x == x and y == y)


@inlined
def fused(x: Any, y: Any, z: Any) -> Any:
    """The product plus z with one rounding, and NAN where that is invalid and no operand is NaN."""
    return invalid_as_nan(fused_multiply_add(x, y, z), x == x and y == y and z == z)


@inlined
def larger(a: Any, b: Any, ieee: bool) -> Any:
    """V_MAX_F32 and V_MAX_F64: +0 above -0; a number if only one is NaN, but with MODE.IEEE a signalling NaN, quieted."""
    if ieee and (signals(a) or signals(b)):
        return quieted(a if signals(a) else b)
    if a == b:
        return bits_of_both(a, b)
    if a != a:
        return b
    return b if a < b else a


@inlined
def smaller(a: Any, b: Any, ieee: bool) -> Any:
    """V_MIN_F32 and V_MIN_F64: as `larger`, with -0 below +0."""
    if ieee and (signals(a) or signals(b)):
        return quieted(a if signals(a) else b)
    if a == b:
        return bits_of_either(a, b)
    if a != a:
        return b
    return b if a > b else a


@inlined
def ieee_mode(scalars: Any) -> bool:
    """Tells whether the IEEE bit of MODE is set."""
    return (scalars[at.MODE] >> np.uint32(IEEE_BIT)) & np.uint32(1) != np.uint32(0)


@inlined
def rounded(value: Any) -> Any:
    """A float64 below 2^51 in magnitude, rounded to an integer, ties to even. Adding 1.5 * 2^52 leaves no fraction bits."""
    return (value + 6755399441055744.0) - 6755399441055744.0


@inlined
def power_of_two(exponent: int) -> Any:
    """Gives 2.0 ** exponent for an exponent of -1022..1023, by its bits."""
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
    """Gives the biased exponent field of a float32."""
    return np.int64((float_bits(value) >> np.uint32(23)) & np.uint32(0xFF))


@inlined
def is_denormal(value: Any) -> bool:
    """Tells whether a float32 is neither zero nor normal."""
    return value != 0 and abs(value) < SMALLEST_NORMAL


@inlined
def logarithm(x: Any) -> Any:
    """Gives the base-2 logarithm of a float32."""
    if x > 0:
        return x if x == INFINITY else np.float32(math.log2(np.float64(x)))
    return -INFINITY if x == 0 else quieted_or_nan(x)


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
    """Multiplies by 2^64 or 2^-64, with one rounding."""
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
