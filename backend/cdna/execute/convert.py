"""Conversions: integers, fp16, bf16, the 8-bit formats (e4m3 and e5m2, OCP on gfx950, fnuz on gfx942) and CDNA4's 4-bit floats.

fp8 results round to nearest even; what does not fit becomes NaN (e4m3, fnuz) or infinity (OCP e5m2), or the largest finite
value where MODE.FP16_OVFL says so (ISA documents, "Mode register"). With 4-bit floats (e2m1, V_CVT_SCALEF32_PK_*) the scale is
the power of two in the exponent of an fp32 operand. Results round to nearest even and saturate at 6; the format has neither NaN
nor infinity, so that these give 6 too. Two results make a byte, the first one low.
"""

from __future__ import annotations

import math
from enum import IntEnum, auto
from typing import Any

import numpy as np

from backend.cdna.execute import layout as at
from backend.cdna.execute.float_values import flushed
from backend.cdna.execute.half import (
    bf16_to_float,
    double_to_half,
    float_to_bf16,
    half_overflow_saturates,
    half_to_double,
)
from backend.cdna.execute.lanes import (
    commit,
    context_of,
    float_rows_of,
    record_of,
    rows_of,
    scalars_of,
    set_value64,
    signed_rows_of,
    source_pair,
    source_row,
    three_sources,
    two_sources,
    value64,
)
from backend.cdna.execute.native import bits_double, bits_float, double_bits, float_bits, handler, inlined

R = at.RESULT_ROWS
NAN = np.float32(np.nan)


Convert = IntEnum(
    "Convert",
    """
    V_CVT_F32_I32 V_CVT_F32_U32 V_CVT_U32_F32 V_CVT_I32_F32 V_CVT_RPI_I32_F32 V_CVT_FLR_I32_F32 V_CVT_F16_F32
    V_CVT_F32_F16 V_CVT_F32_UBYTE0 V_CVT_F32_UBYTE1 V_CVT_F32_UBYTE2 V_CVT_F32_UBYTE3 V_CVT_F32_BF16 V_CVT_PK_BF16_F32
    V_CVT_PK_F16_F32 V_CVT_PKRTZ_F16_F32 V_CVT_F16_U16 V_CVT_F16_I16
    """,
    start=0,
)
"""One dword to one dword, integers, fp16 and bf16."""

ConvertEight = IntEnum(
    "ConvertEight",
    """
    V_CVT_F32_FP8 V_CVT_F32_BF8 V_CVT_PK_FP8_F32 V_CVT_PK_BF8_F32 V_CVT_SCALEF32_PK_FP8_F32 V_CVT_SCALEF32_PK_BF8_F32
    V_CVT_SCALEF32_PK_FP8_BF16 V_CVT_SCALEF32_PK_BF8_BF16 V_CVT_SCALEF32_PK_FP8_F16 V_CVT_SCALEF32_PK_BF8_F16
    V_CVT_SCALEF32_PK_BF16_FP8 V_CVT_SCALEF32_PK_BF16_BF8 V_CVT_SCALEF32_PK_F16_FP8 V_CVT_SCALEF32_PK_F16_BF8
    """,
    start=0,
)
"""To and from 8-bit floats; one dword results. Those that pack two bytes keep the other half of the destination."""

ConvertDouble = IntEnum("ConvertDouble", "V_CVT_F32_F64 V_CVT_I32_F64 V_CVT_U32_F64", start=0)
"""Conversions of fp64 to one dword."""

ConvertPair = IntEnum(
    "ConvertPair",
    "V_CVT_PK_F32_FP8 V_CVT_PK_F32_BF8 V_CVT_SCALEF32_PK_F32_FP8 V_CVT_SCALEF32_PK_F32_BF8",
    start=0,
)
"""Conversions of two 8-bit floats to two fp32."""

ConvertToDouble = IntEnum("ConvertToDouble", "V_CVT_F64_F32 V_CVT_F64_I32 V_CVT_F64_U32", start=0)
"""Conversions of one dword to fp64."""


@inlined
def fp8_to_float(byte: int, e5m2: bool, fnuz: bool) -> Any:
    """Value of an 8-bit float. The exponent and fraction, put where a float32 has them and scaled, also give denormals."""
    magnitude, sign = byte & 0x7F, np.uint32((byte & 0x80) << 24)
    if fnuz and byte == 0x80:
        return NAN
    bias = (16 if fnuz else 15) if e5m2 else (8 if fnuz else 7)
    shift = 21 if e5m2 else 20
    if not fnuz:
        if e5m2 and magnitude >= 0x7C:
            return NAN if magnitude > 0x7C else bits_float(sign | np.uint32(0x7F80_0000))
        if not e5m2 and magnitude == 0x7F:
            return NAN
    value = bits_float(np.uint32(magnitude << shift)) * bits_float(np.uint32((254 - bias) << 23))
    return bits_float(float_bits(value) | sign)


@inlined
def small_float(code: int, exponent_bits: int, fraction_bits: int, bias: int) -> Any:
    """Gives the value of a float of 4 or 6 bits, which has neither infinity nor NaN."""
    fraction = code & ((1 << fraction_bits) - 1)
    exponent = (code >> fraction_bits) & ((1 << exponent_bits) - 1)
    sign = np.float32(-1.0) if (code >> (fraction_bits + exponent_bits)) & 1 else np.float32(1.0)
    if exponent == 0:
        exponent = 1
    else:
        fraction += 1 << fraction_bits
    return sign * np.float32(fraction) * bits_float(np.uint32((127 + exponent - bias - fraction_bits) << 23))


@inlined
def fp4_value(code: int) -> Any:
    """Gives the value of a 4-bit float (e2m1)."""
    return small_float(code, 2, 1, 1)


@inlined
def float_to_fp8(value: Any, e5m2: bool, fnuz: bool, saturate: bool) -> int:
    """Gives the bits of the nearest 8-bit float, ties to even."""
    bits = np.int64(float_bits(value))
    sign, magnitude = (bits >> 24) & 0x80, abs(value)
    nan, largest = (0x80 if fnuz else sign | 0x7F), (0x7F if fnuz else (0x7B if e5m2 else 0x7E))
    if value != value:
        return nan
    bias = (16 if fnuz else 15) if e5m2 else (8 if fnuz else 7)
    fraction_bits = 2 if e5m2 else 3
    drop = 23 - fraction_bits
    smallest = bits_float(np.uint32((128 - bias) << 23))
    if magnitude < smallest:
        magic = bits_float(np.uint32((151 - bias - fraction_bits) << 23))  # its unit in the last place is that of a denormal
        code = np.int64(float_bits(magnitude + magic)) - np.int64(float_bits(magic))
    else:
        raw = bits & 0x7FFF_FFFF
        raw += (1 << (drop - 1)) - 1 + ((raw >> drop) & 1)
        code = (raw >> drop) - ((127 - bias) << fraction_bits)
    if code > largest:
        if saturate:
            return sign | largest
        return sign | 0x7C if e5m2 and not fnuz else nan
    if fnuz and code == 0:
        return 0
    return sign | code


@inlined
def float_to_e4m3(value: Any, fnuz: bool, saturate: bool) -> Any:
    """As float_to_fp8 for e4m3 in uint32 and without branches, so that 16 lanes go at once."""
    bits = float_bits(value)
    magnitude = bits & np.uint32(0x7FFF_FFFF)
    sign = (bits >> np.uint32(24)) & np.uint32(0x80)
    bias = np.uint32(8 if fnuz else 7)
    magic = bits_float((np.uint32(148) - bias) << np.uint32(23))  # its unit in the last place is that of a denormal
    low = float_bits(bits_float(magnitude) + magic) - float_bits(magic)
    rounded_up = magnitude + np.uint32(0x7FFFF) + ((magnitude >> np.uint32(20)) & np.uint32(1))
    high = (rounded_up >> np.uint32(20)) - ((np.uint32(127) - bias) << np.uint32(3))
    code = np.uint32(low if magnitude < (np.uint32(128) - bias) << np.uint32(23) else high)
    largest = np.uint32(0x7F if fnuz else 0x7E)
    sign = np.uint32(0) if fnuz and code == np.uint32(0) else sign
    nan = np.uint32(0x80) if fnuz else sign | np.uint32(0x7F)
    beyond = sign | largest if saturate else nan
    result = beyond if code > largest else sign | code
    return np.uint32(nan if magnitude > np.uint32(0x7F80_0000) else result)


@inlined
def integer_of(value: Any, lowest: float, highest: float) -> int:
    """Truncates towards zero and cuts to a range; NaN gives 0."""
    if value != value:
        return 0
    return np.int64(min(max(np.trunc(value), lowest), highest))


@inlined
def scale_of(bits: Any) -> Any:
    """The power of two whose exponent a scale operand holds (bits 30:23)."""
    return math.ldexp(1.0, np.int64((bits >> np.uint32(23)) & np.uint32(0xFF)) - 127)


@inlined
def half_to_zero(value: Any) -> int:
    """Rounds a float32 towards zero to fp16; gives its bits."""
    bits = double_to_half(np.float64(value), False)
    back = half_to_double(bits)
    if abs(back) > abs(np.float64(value)) and abs(value) != np.float32(np.inf):
        bits -= 1
    return bits


@handler
def convert(wave: int, record: int, context: int) -> None:
    """Runs the instructions of `Convert`."""
    fields = record_of(record)
    opcode = fields[at.OPCODE]
    rows, floats, signed = rows_of(wave), float_rows_of(wave), signed_rows_of(wave)
    scalars = scalars_of(wave)
    keep = bits_float(scalars[at.DENORMAL_F32])
    a = source_row(wave, fields[at.SOURCE_0], 0)
    if opcode == Convert.V_CVT_F32_I32:
        for lane in range(at.LANES):
            floats[R, lane] = np.float32(signed[a, lane])
    elif opcode == Convert.V_CVT_F32_U32:
        for lane in range(at.LANES):
            floats[R, lane] = np.float32(rows[a, lane])
    elif opcode == Convert.V_CVT_PK_BF16_F32:
        b = source_row(wave, fields[at.SOURCE_1], 1)
        for lane in range(at.LANES):
            low, high = float_to_bf16(flushed(floats[a, lane], keep)), float_to_bf16(flushed(floats[b, lane], keep))
            rows[R, lane] = np.uint32((low & 0xFFFF) | (high & 0xFFFF) << 16)
    else:
        b = source_row(wave, fields[at.SOURCE_1], 1)
        saturate = half_overflow_saturates(scalars)
        for lane in range(at.LANES):
            value = plain_lane(opcode, rows[a, lane], rows[b, lane], keep, saturate)
            rows[R, lane] = np.uint32(value & 0xFFFF_FFFF)
    commit(wave, fields[at.DESTINATION], 1, R)


@inlined
def plain_lane(opcode: int, x: Any, y: Any, keep: Any, saturate: bool) -> int:
    """Integer and half conversions of one lane; the result's lowest 32 bits count."""
    value = flushed(bits_float(x), keep)
    if opcode == Convert.V_CVT_U32_F32:
        return integer_of(np.float64(value), 0.0, 4294967295.0)
    if opcode == Convert.V_CVT_I32_F32:
        return integer_of(np.float64(value), -2147483648.0, 2147483647.0)
    if opcode == Convert.V_CVT_RPI_I32_F32:
        return integer_of(np.floor(np.float64(value) + 0.5), -2147483648.0, 2147483647.0)
    if opcode == Convert.V_CVT_FLR_I32_F32:
        return integer_of(np.floor(np.float64(value)), -2147483648.0, 2147483647.0)
    if opcode == Convert.V_CVT_F16_F32:
        return double_to_half(np.float64(value), saturate)
    if opcode == Convert.V_CVT_F32_F16:
        return np.int64(float_bits(np.float32(half_to_double(np.int64(x) & 0xFFFF))))
    if opcode == Convert.V_CVT_F32_BF16:
        return np.int64(x) << 16
    if opcode == Convert.V_CVT_F16_U16:
        return double_to_half(np.float64(np.int64(x) & 0xFFFF), saturate)
    if opcode == Convert.V_CVT_F16_I16:
        return double_to_half(np.float64(((np.int64(x) & 0xFFFF) ^ 0x8000) - 0x8000), saturate)
    second = flushed(bits_float(y), keep)
    if opcode == Convert.V_CVT_PK_F16_F32:
        return double_to_half(np.float64(value), saturate) | double_to_half(np.float64(second), saturate) << 16
    if opcode == Convert.V_CVT_PKRTZ_F16_F32:
        return half_to_zero(value) | half_to_zero(second) << 16
    shift = 0
    if opcode == Convert.V_CVT_F32_UBYTE1:
        shift = 8
    elif opcode == Convert.V_CVT_F32_UBYTE2:
        shift = 16
    elif opcode == Convert.V_CVT_F32_UBYTE3:
        shift = 24
    return np.int64(float_bits(np.float32((np.int64(x) >> shift) & 0xFF)))


@handler
def convert_double(wave: int, record: int, context: int) -> None:
    """Runs the instructions of `ConvertDouble`."""
    fields, rows = record_of(record), rows_of(wave)
    a = source_pair(wave, fields[at.SOURCE_0], 0)
    for lane in range(at.LANES):
        rows[R, lane] = from_double_lane(fields[at.OPCODE], bits_double(value64(rows, a, lane)))
    commit(wave, fields[at.DESTINATION], 1, R)


@inlined
def from_double_lane(opcode: int, value: Any) -> Any:
    """Converts one fp64 to a dword."""
    if opcode == ConvertDouble.V_CVT_F32_F64:
        return float_bits(np.float32(value))
    if opcode == ConvertDouble.V_CVT_I32_F64:
        return np.uint32(integer_of(value, -2147483648.0, 2147483647.0) & 0xFFFF_FFFF)
    return np.uint32(integer_of(value, 0.0, 4294967295.0))


@handler
def convert_to_double(wave: int, record: int, context: int) -> None:
    """Runs the instructions of `ConvertToDouble`."""
    fields, rows, floats, signed = record_of(record), rows_of(wave), float_rows_of(wave), signed_rows_of(wave)
    opcode = fields[at.OPCODE]
    a = source_row(wave, fields[at.SOURCE_0], 0)
    for lane in range(at.LANES):
        value = np.float64(floats[a, lane])
        if opcode == ConvertToDouble.V_CVT_F64_I32:
            value = np.float64(signed[a, lane])
        elif opcode == ConvertToDouble.V_CVT_F64_U32:
            value = np.float64(rows[a, lane])
        set_value64(rows, R, lane, double_bits(value))
    commit(wave, fields[at.DESTINATION], 2, R)


@handler
def convert_eight(wave: int, record: int, context: int) -> None:
    """Runs the instructions of `ConvertEight`. IMMEDIATE 1: two bytes go to the high half and the low half is kept."""
    fields = record_of(record)
    opcode = fields[at.OPCODE]
    rows, floats, scalars = rows_of(wave), float_rows_of(wave), scalars_of(wave)
    keep = bits_float(scalars[at.DENORMAL_F32])
    a, b = two_sources(wave, fields)
    fnuz = context_of(context)[at.CTX_ARCH] == 942
    saturate = half_overflow_saturates(scalars)
    old, high_half = fields[at.DESTINATION], fields[at.IMMEDIATE] != 0
    if opcode == ConvertEight.V_CVT_PK_FP8_F32:
        shift = np.uint32(16 if high_half else 0)
        keep_mask = np.uint32(0xFFFF_0000) >> shift
        for lane in range(at.LANES):
            packed = float_to_e4m3(floats[a, lane], fnuz, saturate)
            packed |= float_to_e4m3(floats[b, lane], fnuz, saturate) << np.uint32(8)
            rows[R, lane] = np.uint32((rows[old, lane] & keep_mask) | packed << shift)
    else:
        c = source_row(wave, fields[at.SOURCE_2], 2)
        for lane in range(at.LANES):
            packed, is_bytes = eight_lane(opcode, rows[a, lane], rows[b, lane], rows[c, lane], fnuz, saturate, keep)
            if is_bytes:
                kept = np.int64(rows[old, lane])
                packed = (kept & 0xFFFF) | (packed << 16) if high_half else (kept & 0xFFFF_0000) | packed
            rows[R, lane] = np.uint32(packed)
    commit(wave, fields[at.DESTINATION], 1, R)


@inlined
def eight_lane(opcode: int, x: Any, y: Any, z: Any, fnuz: bool, saturate: bool, keep: Any) -> tuple[int, bool]:
    """Conversions from and to 8-bit floats of one lane; two results are packed, the first one low. And: whether it is bytes."""
    if opcode == ConvertEight.V_CVT_F32_FP8:
        return np.int64(float_bits(fp8_to_float(np.int64(x) & 0xFF, False, fnuz))), False
    if opcode == ConvertEight.V_CVT_F32_BF8:
        return np.int64(float_bits(fp8_to_float(np.int64(x) & 0xFF, True, fnuz))), False
    if opcode == ConvertEight.V_CVT_SCALEF32_PK_BF16_FP8:
        return widened_lane(np.int64(x), scale_of(y), False, True, saturate), False
    if opcode == ConvertEight.V_CVT_SCALEF32_PK_BF16_BF8:
        return widened_lane(np.int64(x), scale_of(y), True, True, saturate), False
    if opcode == ConvertEight.V_CVT_SCALEF32_PK_F16_FP8:
        return widened_lane(np.int64(x), scale_of(y), False, False, saturate), False
    if opcode == ConvertEight.V_CVT_SCALEF32_PK_F16_BF8:
        return widened_lane(np.int64(x), scale_of(y), True, False, saturate), False
    e5m2 = (
        opcode == ConvertEight.V_CVT_PK_BF8_F32
        or opcode == ConvertEight.V_CVT_SCALEF32_PK_BF8_F32
        or opcode == ConvertEight.V_CVT_SCALEF32_PK_BF8_BF16
        or opcode == ConvertEight.V_CVT_SCALEF32_PK_BF8_F16
    )
    first, second = np.float64(flushed(bits_float(x), keep)), np.float64(flushed(bits_float(y), keep))
    scale = 1.0
    if opcode == ConvertEight.V_CVT_SCALEF32_PK_FP8_F32 or opcode == ConvertEight.V_CVT_SCALEF32_PK_BF8_F32:
        scale = scale_of(z)
    elif opcode == ConvertEight.V_CVT_SCALEF32_PK_FP8_BF16 or opcode == ConvertEight.V_CVT_SCALEF32_PK_BF8_BF16:
        scale = scale_of(y)
        first = np.float64(bf16_to_float(np.int64(x) & 0xFFFF))
        second = np.float64(bf16_to_float(np.int64(x) >> 16))
    elif opcode == ConvertEight.V_CVT_SCALEF32_PK_FP8_F16 or opcode == ConvertEight.V_CVT_SCALEF32_PK_BF8_F16:
        scale = scale_of(y)
        first, second = half_to_double(np.int64(x) & 0xFFFF), half_to_double(np.int64(x) >> 16)
    low = float_to_fp8(np.float32(first / scale), e5m2, fnuz, saturate)
    return low | float_to_fp8(np.float32(second / scale), e5m2, fnuz, saturate) << 8, True


@inlined
def widened_lane(x: int, scale: Any, e5m2: bool, to_bf16: bool, saturate: bool) -> int:
    """Two 8-bit floats (OCP) of the low half, times a scale, as two 16-bit floats."""
    first = np.float64(fp8_to_float(x & 0xFF, e5m2, False)) * scale
    second = np.float64(fp8_to_float((x >> 8) & 0xFF, e5m2, False)) * scale
    if to_bf16:
        return (float_to_bf16(np.float32(first)) & 0xFFFF) | (float_to_bf16(np.float32(second)) & 0xFFFF) << 16
    return double_to_half(first, saturate) | double_to_half(second, saturate) << 16


@handler
def convert_pair(wave: int, record: int, context: int) -> None:
    """Runs the instructions of `ConvertPair`."""
    fields = record_of(record)
    opcode = fields[at.OPCODE]
    rows, floats = rows_of(wave), float_rows_of(wave)
    a, b = two_sources(wave, fields)
    e5m2 = opcode == ConvertPair.V_CVT_PK_F32_BF8 or opcode == ConvertPair.V_CVT_SCALEF32_PK_F32_BF8
    scales = opcode == ConvertPair.V_CVT_SCALEF32_PK_F32_FP8 or opcode == ConvertPair.V_CVT_SCALEF32_PK_F32_BF8
    fnuz = context_of(context)[at.CTX_ARCH] == 942
    for lane in range(at.LANES):
        scale = scale_of(rows[b, lane]) if scales else 1.0
        word = np.int64(rows[a, lane])
        floats[R, lane] = np.float32(np.float64(fp8_to_float(word & 0xFF, e5m2, fnuz)) * scale)
        floats[R + 1, lane] = np.float32(np.float64(fp8_to_float((word >> 8) & 0xFF, e5m2, fnuz)) * scale)
    commit(wave, fields[at.DESTINATION], 2, R)


ToFour = IntEnum("ToFour", "V_CVT_SCALEF32_PK_FP4_F32 V_CVT_SCALEF32_PK_FP4_F16 V_CVT_SCALEF32_PK_FP4_BF16", start=0)
"""Two 4-bit floats; the other bytes of the destination stay."""


class FromFour(IntEnum):
    """Two 16-bit floats in one dword."""

    V_CVT_SCALEF32_PK_F16_FP4 = 0
    V_CVT_SCALEF32_PK_BF16_FP4 = auto()


class FromFourPair(IntEnum):
    """Two 4-bit floats of one byte as two fp32."""

    V_CVT_SCALEF32_PK_F32_FP4 = 0


@inlined
def to_fp4(value: Any) -> int:
    """Gives the code of the nearest 4-bit float, ties to the even code."""
    sign = 8 if value < 0 or (value == 0 and 1.0 / value < 0) else 0
    magnitude = abs(value)
    if not magnitude < 5.0:
        return sign | 7
    if magnitude <= 0.25:
        return sign
    if magnitude < 0.75:
        return sign | 1
    if magnitude <= 1.25:
        return sign | 2
    if magnitude < 1.75:
        return sign | 3
    if magnitude <= 2.5:
        return sign | 4
    return sign | (5 if magnitude < 3.5 else 6)


@handler
def convert_to_four(wave: int, record: int, context: int) -> None:
    """Runs the instructions of `ToFour`. IMMEDIATE: which byte of the destination."""
    fields, rows = record_of(record), rows_of(wave)
    opcode, byte = fields[at.OPCODE], np.uint32(8 * fields[at.IMMEDIATE])
    keep = bits_float(scalars_of(wave)[at.DENORMAL_F32])
    a, b, c = three_sources(wave, fields)
    for lane in range(at.LANES):
        x, word = rows[a, lane], np.int64(rows[a, lane])
        if opcode == ToFour.V_CVT_SCALEF32_PK_FP4_F32:
            first, second = np.float64(flushed(bits_float(x), keep)), np.float64(flushed(bits_float(rows[b, lane]), keep))
            scale = scale_of(rows[c, lane])
        elif opcode == ToFour.V_CVT_SCALEF32_PK_FP4_F16:
            first, second = half_to_double(word & 0xFFFF), half_to_double(word >> 16)
            scale = scale_of(rows[b, lane])
        else:
            first, second = np.float64(bf16_to_float(word & 0xFFFF)), np.float64(bf16_to_float(word >> 16))
            scale = scale_of(rows[b, lane])
        packed = np.uint32(to_fp4(first / scale) | to_fp4(second / scale) << 4)
        rows[R, lane] = (rows[fields[at.DESTINATION], lane] & ~(np.uint32(0xFF) << byte)) | packed << byte
    commit(wave, fields[at.DESTINATION], 1, R)


@handler
def convert_from_four(wave: int, record: int, context: int) -> None:
    """Runs the instructions of `FromFour`. IMMEDIATE: which byte of the source."""
    fields, rows = record_of(record), rows_of(wave)
    saturate = half_overflow_saturates(scalars_of(wave))
    a, b = two_sources(wave, fields)
    for lane in range(at.LANES):
        code = np.int64(rows[a, lane] >> np.uint32(8 * fields[at.IMMEDIATE])) & 0xFF
        scale = scale_of(rows[b, lane])
        first, second = np.float64(fp4_value(code & 15)) * scale, np.float64(fp4_value(code >> 4)) * scale
        if fields[at.OPCODE] == FromFour.V_CVT_SCALEF32_PK_F16_FP4:
            result = double_to_half(first, saturate) | double_to_half(second, saturate) << 16
        else:
            result = (float_to_bf16(np.float32(first)) & 0xFFFF) | (float_to_bf16(np.float32(second)) & 0xFFFF) << 16
        rows[R, lane] = np.uint32(result)
    commit(wave, fields[at.DESTINATION], 1, R)


@handler
def convert_four_pair(wave: int, record: int, context: int) -> None:
    """Runs the instructions of `FromFourPair`. IMMEDIATE: which byte of the source."""
    fields, rows = record_of(record), rows_of(wave)
    a, b = two_sources(wave, fields)
    for lane in range(at.LANES):
        code = np.int64(rows[a, lane] >> np.uint32(8 * fields[at.IMMEDIATE])) & 0xFF
        scale = scale_of(rows[b, lane])
        rows[R, lane] = float_bits(np.float32(np.float64(fp4_value(code & 15)) * scale))
        rows[R + 1, lane] = float_bits(np.float32(np.float64(fp4_value(code >> 4)) * scale))
    commit(wave, fields[at.DESTINATION], 2, R)
