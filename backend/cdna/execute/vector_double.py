"""Vector fp64 functions and the steps of a division in fp64, one lane after the other.

Denormals are kept, as in every mode that is allowed. What hardware computes approximately (reciprocals, roots) is given
correctly rounded.
"""

from __future__ import annotations

import math
from enum import IntEnum, auto
from typing import Any

import numpy as np
from numpy.typing import NDArray

from backend.cdna.execute import layout as at
from backend.cdna.execute.float_values import NAN64
from backend.cdna.execute.lanes import (
    commit,
    record_of,
    rows_of,
    scalar_pair,
    scalars_of,
    set_scalar_pair,
    set_value64,
    source_pair,
    source_row,
    value64,
)
from backend.cdna.execute.native import bits_double, double_bits, fused_multiply_add, handler, inlined, quieted

R = at.RESULT_ROWS


Double = IntEnum(
    "Double",
    "V_TRUNC_F64 V_CEIL_F64 V_RNDNE_F64 V_FLOOR_F64 V_RCP_F64 V_RSQ_F64 V_SQRT_F64 V_FRACT_F64 V_FREXP_MANT_F64",
    start=0,
)
"""Functions of one fp64 that give an fp64."""


class DoubleScaled(IntEnum):
    """fp64 from fp64 and an integer, or an integer from fp64."""

    V_LDEXP_F64 = 0
    V_TRIG_PREOP_F64 = auto()


class DoubleExponent(IntEnum):
    """An integer from fp64."""

    V_FREXP_EXP_I32_F64 = 0


DoubleDivision = IntEnum("DoubleDivision", "V_DIV_SCALE_F64 V_DIV_FMAS_F64 V_DIV_FIXUP_F64", start=0)
"""Steps of a division in fp64."""


def _two_over_pi_words() -> NDArray[np.uint64]:
    """The first 1201 bits behind the binary point of 2 / pi, 64 in a word, then zeros, as far as V_TRIG_PREOP_F64 reaches."""
    one = 1 << 1300

    def inverse_tangent(denominator: int) -> int:  # of 1 / denominator, by its series
        term, total, odd = one // denominator, 0, 1
        while term:
            total += term // odd if odd % 4 == 1 else -(term // odd)
            term, odd = term // denominator**2, odd + 2
        return total

    pi = 4 * (4 * inverse_tangent(5) - inverse_tangent(239))
    bits = ((2 * one << 1201) // pi) << (64 * 43 - 1201)
    return np.array([bits >> 64 * (42 - word) & (1 << 64) - 1 for word in range(43)], np.uint64)


TWO_OVER_PI = _two_over_pi_words()


@inlined
def two_over_pi_part(x: Any, part: int) -> Any:
    """V_TRIG_PREOP_F64 (ISA document): 53 bits of 2 / pi from bit 53 * part on, further where the exponent of x is large."""
    exponent = exponent64(x)
    shift = part * 53 + max(exponent - 1077, 0)
    word, offset = shift >> 6, np.uint64(shift & 63)
    bits = TWO_OVER_PI[word] << offset
    if offset:
        bits |= TWO_OVER_PI[word + 1] >> (np.uint64(64) - offset)
    return math.ldexp(np.float64(bits >> np.uint64(11)), (128 if exponent >= 1968 else 0) - 53 - shift)


@inlined
def nearest_even(x: Any) -> Any:
    """Rounds to an integer, ties to even."""
    if not abs(x) < 4503599627370496.0:
        return x
    return math.copysign((abs(x) + 4503599627370496.0) - 4503599627370496.0, x)


@inlined
def double_function(opcode: int, x: Any) -> Any:
    """Computes an instruction of `Double` for one lane."""
    if x != x:
        return quieted(x)
    if opcode == Double.V_TRUNC_F64:
        return np.trunc(x)
    if opcode == Double.V_CEIL_F64:
        return np.ceil(x)
    if opcode == Double.V_FLOOR_F64:
        return np.floor(x)
    if opcode == Double.V_RNDNE_F64:
        return nearest_even(x)
    if opcode == Double.V_RCP_F64:
        return 1.0 / x
    if opcode == Double.V_RSQ_F64:
        return 1.0 / math.sqrt(x) if x >= 0 else NAN64
    if opcode == Double.V_SQRT_F64:
        return math.sqrt(x) if x >= 0 else NAN64
    if opcode == Double.V_FRACT_F64:
        return min(x - np.floor(x), 0.9999999999999999) if abs(x) < np.inf else NAN64
    if x == 0 or not abs(x) < np.inf:
        return x
    return math.frexp(x)[0]


@handler
def double_unary(wave: int, record: int, context: int) -> None:
    """Runs the instructions of `Double`."""
    fields, rows = record_of(record), rows_of(wave)
    a = source_pair(wave, fields[at.SOURCE_0], 0)
    for lane in range(at.LANES):
        set_value64(rows, R, lane, double_bits(double_function(fields[at.OPCODE], bits_double(value64(rows, a, lane)))))
    commit(wave, fields[at.DESTINATION], 2, R)


@handler
def double_scaled(wave: int, record: int, context: int) -> None:
    """Runs the instructions of `DoubleScaled`."""
    fields, rows = record_of(record), rows_of(wave)
    a = source_pair(wave, fields[at.SOURCE_0], 0)
    b = source_row(wave, fields[at.SOURCE_1], 1)
    for lane in range(at.LANES):
        x = bits_double(value64(rows, a, lane))
        if fields[at.OPCODE] == DoubleScaled.V_LDEXP_F64:
            result = math.ldexp(x, min(max(np.int64(np.int32(rows[b, lane])), -5000), 5000))
        else:
            result = two_over_pi_part(x, np.int64(rows[b, lane]) & 31)
        set_value64(rows, R, lane, double_bits(result))
    commit(wave, fields[at.DESTINATION], 2, R)


@handler
def double_exponent(wave: int, record: int, context: int) -> None:
    """Runs V_FREXP_EXP_I32_F64, which gives 0 for zero, infinity and NaN."""
    fields, rows = record_of(record), rows_of(wave)
    a = source_pair(wave, fields[at.SOURCE_0], 0)
    for lane in range(at.LANES):
        x = bits_double(value64(rows, a, lane))
        exponent = 0 if x == 0 or not abs(x) < np.inf else math.frexp(x)[1]
        rows[R, lane] = np.uint32(np.int32(exponent))
    commit(wave, fields[at.DESTINATION], 1, R)


@inlined
def exponent64(x: Any) -> int:
    """Gives the biased exponent field of a float64."""
    return np.int64((double_bits(x) >> np.uint64(52)) & np.uint64(0x7FF))


@inlined
def is_denormal64(x: Any) -> bool:
    """Tells whether a float64 is neither zero nor normal."""
    return x != 0 and exponent64(x) == 0


@inlined
def div_scale64(value: Any, denominator: Any, numerator: Any) -> tuple[Any, bool]:
    """Computes V_DIV_SCALE_F64 (ISA document), as div_scale in float64."""
    if numerator == 0 or denominator == 0:
        return NAN64, False
    up, down = math.ldexp(value, 128), math.ldexp(value, -128)
    if exponent64(numerator) - exponent64(denominator) >= 768:
        return (up if value == denominator else value), True
    if is_denormal64(denominator):
        return up, False
    reciprocal_denormal, quotient_denormal = is_denormal64(1.0 / denominator), is_denormal64(numerator / denominator)
    if reciprocal_denormal and quotient_denormal:
        return (up if value == denominator else value), True
    if reciprocal_denormal:
        return down, False
    if quotient_denormal:
        return (up if value == numerator else value), True
    if exponent64(numerator) <= 53:
        return up, False
    return value, False


@inlined
def div_fixup64(quotient: Any, denominator: Any, numerator: Any) -> Any:
    """V_DIV_FIXUP_F64 (ISA document); a quotient beyond the range gives infinity, as divisions rely on."""
    sign = (double_bits(denominator) ^ double_bits(numerator)) & np.uint64(1 << 63)
    infinity = bits_double(np.uint64(0x7FF0_0000_0000_0000) | sign)
    if numerator != numerator:
        return quieted(numerator)
    if denominator != denominator:
        return quieted(denominator)
    if (denominator == 0 and numerator == 0) or (abs(denominator) == np.inf and abs(numerator) == np.inf):
        return NAN64
    if denominator == 0 or abs(numerator) == np.inf:
        return infinity
    distance = exponent64(numerator) - exponent64(denominator)
    if abs(denominator) == np.inf or numerator == 0 or distance < -1075:
        return bits_double(sign)
    if distance > 1024:
        return infinity
    return bits_double((double_bits(quotient) & np.uint64(0x7FFF_FFFF_FFFF_FFFF)) | sign)


@handler
def double_division(wave: int, record: int, context: int) -> None:
    """Runs `DoubleDivision`. V_DIV_SCALE's mask goes to DESTINATION_2; V_DIV_FMAS undoes it in lanes of VCC."""
    fields, rows, scalars = record_of(record), rows_of(wave), scalars_of(wave)
    opcode = fields[at.OPCODE]
    a = source_pair(wave, fields[at.SOURCE_0], 0)
    b = source_pair(wave, fields[at.SOURCE_1], 1)
    c = source_pair(wave, fields[at.SOURCE_2], 2)
    vcc, mask = scalar_pair(scalars, at.VCC), np.uint64(0)
    for lane in range(at.LANES):
        x, y = bits_double(value64(rows, a, lane)), bits_double(value64(rows, b, lane))
        z = bits_double(value64(rows, c, lane))
        if opcode == DoubleDivision.V_DIV_SCALE_F64:
            result, scaled = div_scale64(x, y, z)
            mask |= np.uint64(scaled) << np.uint64(lane)
        elif opcode == DoubleDivision.V_DIV_FMAS_F64:
            result = fused_multiply_add(x, y, z)
            if (vcc >> np.uint64(lane)) & np.uint64(1):
                result = math.ldexp(result, 128 if exponent64(z) > 1023 else -128)
        else:
            result = div_fixup64(x, y, z)
        set_value64(rows, R, lane, double_bits(result))
    commit(wave, fields[at.DESTINATION], 2, R)
    if opcode == DoubleDivision.V_DIV_SCALE_F64:
        set_scalar_pair(scalars, fields[at.DESTINATION_2], mask & scalar_pair(scalars, at.EXEC))
