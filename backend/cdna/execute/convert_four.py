"""Conversions to and from 4-bit floats (e2m1) with a scale, CDNA4: V_CVT_SCALEF32_PK_*.

The scale is the power of two in the exponent of an fp32 operand. Results round to nearest even and saturate at 6; the format
has neither NaN nor infinity, so that these give 6 too. Two results make a byte, the first one low.
"""

from __future__ import annotations

from enum import IntEnum, auto
from typing import Any

import numpy as np

from backend.cdna.execute import layout as at
from backend.cdna.execute.convert import scale_of
from backend.cdna.execute.float_values import flushed
from backend.cdna.execute.half import (
    bf16_to_float,
    double_to_half,
    float_to_bf16,
    half_overflow_saturates,
    half_to_double,
)
from backend.cdna.execute.lanes import commit, record_of, rows_of, scalars_of, source_row
from backend.cdna.execute.matrix_rare import fp4_value
from backend.cdna.execute.native import bits_float, float_bits, handler, inlined

R = at.RESULT_ROWS


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
    """The nearest 4-bit float's code, ties to the even code."""
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
    """Instructions of `ToFour`. IMMEDIATE: which byte of the destination."""
    fields, rows = record_of(record), rows_of(wave)
    opcode, byte = fields[at.OPCODE], np.uint32(8 * fields[at.IMMEDIATE])
    keep = bits_float(scalars_of(wave)[at.DENORMAL_F32])
    a = source_row(wave, fields[at.SOURCE_0], 0)
    b = source_row(wave, fields[at.SOURCE_1], 1)
    c = source_row(wave, fields[at.SOURCE_2], 2)
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
    """Instructions of `FromFour`. IMMEDIATE: which byte of the source."""
    fields, rows = record_of(record), rows_of(wave)
    saturate = half_overflow_saturates(scalars_of(wave))
    a = source_row(wave, fields[at.SOURCE_0], 0)
    b = source_row(wave, fields[at.SOURCE_1], 1)
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
    """Instructions of `FromFourPair`. IMMEDIATE: which byte of the source."""
    fields, rows = record_of(record), rows_of(wave)
    a = source_row(wave, fields[at.SOURCE_0], 0)
    b = source_row(wave, fields[at.SOURCE_1], 1)
    for lane in range(at.LANES):
        code = np.int64(rows[a, lane] >> np.uint32(8 * fields[at.IMMEDIATE])) & 0xFF
        scale = scale_of(rows[b, lane])
        rows[R, lane] = float_bits(np.float32(np.float64(fp4_value(code & 15)) * scale))
        rows[R + 1, lane] = float_bits(np.float32(np.float64(fp4_value(code >> 4)) * scale))
    commit(wave, fields[at.DESTINATION], 2, R)
