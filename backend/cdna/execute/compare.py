"""Vector comparisons (VOPC and its VOP3 form): a mask of lanes, bits of inactive lanes 0. V_CMPX writes EXEC as well."""

from __future__ import annotations

from typing import Any

import numpy as np

from backend.cdna.execute import layout as at
from backend.cdna.execute.float_values import flushed
from backend.cdna.execute.half import half_to_double
from backend.cdna.execute.lanes import (
    float_rows_of,
    record_of,
    rows_of,
    scalar_pair,
    scalars_of,
    set_scalar_pair,
    signed_rows_of,
    source_pair,
    source_row,
    two_sources,
    value64,
)
from backend.cdna.execute.native import bits_double, bits_float, handler, inlined

# An opcode is a type times RELATIONS, plus a relation.
RELATIONS = 16
FLOAT_RELATIONS = ("f", "lt", "eq", "le", "gt", "lg", "ge", "o", "u", "nge", "nlg", "ngt", "nle", "neq", "nlt", "tru")
INTEGER_RELATIONS = ("f", "lt", "eq", "le", "gt", "ne", "ge", "t")
TYPES = ("f32", "f16", "f64", "i32", "u32", "i16", "u16", "i64", "u64", "class_f32", "class_f16", "class_f64")
F32, F16, F64, I32, U32, I16, U16, I64, U64, CLASS_F32, CLASS_F16, CLASS_F64 = range(12)
FIRST_PAIR_TYPES = (F64, I64, U64)


@inlined
def relation_holds(relation: int, a: Any, b: Any) -> bool:
    """FLOAT_RELATIONS by number; the integer ones are their first seven, and 7 ("t") which is never NaN's question."""
    unordered = a != a or b != b
    base = relation
    if relation >= 8:
        base = 15 - relation
    result = False
    if base == 1:
        result = a < b
    elif base == 2:
        result = a == b
    elif base == 3:
        result = a <= b
    elif base == 4:
        result = a > b
    elif base == 5:
        result = a < b or a > b
    elif base == 6:
        result = a >= b
    elif base == 7:
        result = not unordered
    return not result if relation >= 8 else result


@inlined
def ballot(rows: Any, relation: int, a: int, b: int) -> Any:
    """Mask of the lanes in which the relation holds between two rows."""
    mask = np.uint64(0)
    if relation == 1:
        for lane in range(at.LANES):
            mask |= np.uint64(rows[a, lane] < rows[b, lane]) << np.uint64(lane)
    elif relation == 2:
        for lane in range(at.LANES):
            mask |= np.uint64(rows[a, lane] == rows[b, lane]) << np.uint64(lane)
    elif relation == 3:
        for lane in range(at.LANES):
            mask |= np.uint64(rows[a, lane] <= rows[b, lane]) << np.uint64(lane)
    elif relation == 4:
        for lane in range(at.LANES):
            mask |= np.uint64(rows[a, lane] > rows[b, lane]) << np.uint64(lane)
    else:
        for lane in range(at.LANES):
            mask |= np.uint64(relation_holds(relation, rows[a, lane], rows[b, lane])) << np.uint64(lane)
    return mask


@inlined
def float_ballot(rows: Any, relation: int, a: int, b: int, keep: Any) -> Any:
    """Compares as `ballot` does, with denormals flushed."""
    mask = np.uint64(0)
    for lane in range(at.LANES):
        x, y = flushed(rows[a, lane], keep), flushed(rows[b, lane], keep)
        mask |= np.uint64(relation_holds(relation, x, y)) << np.uint64(lane)
    return mask


@inlined
def class_of(bits: int, exponent_bits: int, fraction_bits: int) -> int:
    """Gives the bit number of V_CMP_CLASS for a float of any width, by its bits.

    0 is a signalling NaN, 1 a quiet one, then come -inf, -normal, -denormal, -0, +0, +denormal, +normal, +inf.
    """
    fraction, sign = bits & ((1 << fraction_bits) - 1), (bits >> (exponent_bits + fraction_bits)) & 1
    exponent, largest = (bits >> fraction_bits) & ((1 << exponent_bits) - 1), (1 << exponent_bits) - 1
    if exponent == largest and fraction:
        return (fraction >> (fraction_bits - 1)) & 1
    negative_class = 3
    if exponent == largest:
        negative_class = 2
    elif exponent == 0:
        negative_class = 4 if fraction else 5
    return negative_class if sign else 11 - negative_class


@inlined
def double_class_ballot(wave: int, fields: Any) -> Any:
    """Runs V_CMP_CLASS_F64, whose second source is one dword."""
    rows, mask = rows_of(wave), np.uint64(0)
    a = source_pair(wave, fields[at.SOURCE_0], 0)
    b = source_row(wave, fields[at.SOURCE_1], 1)
    for lane in range(at.LANES):
        number = class_of(np.int64(value64(rows, a, lane)), 11, 52)
        mask |= np.uint64((rows[b, lane] >> np.uint32(number)) & np.uint32(1)) << np.uint64(lane)
    return mask


@inlined
def other_ballot(wave: int, fields: Any, kind: int, relation: int) -> Any:
    """Compares halves, pairs and classes; gives a bit for each lane."""
    rows = rows_of(wave)
    mask = np.uint64(0)
    if kind == CLASS_F64:
        return double_class_ballot(wave, fields)
    if kind == F64 or kind == I64 or kind == U64:
        a = source_pair(wave, fields[at.SOURCE_0], 0)
        b = source_pair(wave, fields[at.SOURCE_1], 1)
        for lane in range(at.LANES):
            x, y = value64(rows, a, lane), value64(rows, b, lane)
            if kind == U64:
                holds = relation_holds(relation, x, y)
            elif kind == I64:
                holds = relation_holds(relation, np.int64(x), np.int64(y))
            else:
                holds = relation_holds(relation, bits_double(x), bits_double(y))
            mask |= np.uint64(holds) << np.uint64(lane)
        return mask
    a, b = two_sources(wave, fields)
    for lane in range(at.LANES):
        x, y = np.int64(rows[a, lane]) & 0xFFFF, np.int64(rows[b, lane]) & 0xFFFF
        if kind == CLASS_F32:
            holds = (rows[b, lane] >> np.uint32(class_of(np.int64(rows[a, lane]), 8, 23))) & np.uint32(1) != np.uint32(0)
        elif kind == CLASS_F16:
            holds = (rows[b, lane] >> np.uint32(class_of(x, 5, 10))) & np.uint32(1) != np.uint32(0)
        elif kind == U16:
            holds = relation_holds(relation, x, y)
        elif kind == I16:
            holds = relation_holds(relation, (x ^ 0x8000) - 0x8000, (y ^ 0x8000) - 0x8000)
        else:
            holds = relation_holds(relation, half_to_double(x), half_to_double(y))
        mask |= np.uint64(holds) << np.uint64(lane)
    return mask


@handler
def vector_compare(wave: int, record: int, context: int) -> None:
    """OPCODE: type * RELATIONS + relation. DESTINATION: scalar index of the mask. COUNT 1: V_CMPX."""
    fields = record_of(record)
    kind, relation = fields[at.OPCODE] >> 4, fields[at.OPCODE] & 15
    scalars = scalars_of(wave)
    if kind == F32 or kind == I32 or kind == U32:
        a = source_row(wave, fields[at.SOURCE_0], 0)
        b = source_row(wave, fields[at.SOURCE_1], 1)
        if kind == F32:
            mask = float_ballot(float_rows_of(wave), relation, a, b, bits_float(scalars[at.DENORMAL_F32]))
        elif kind == I32:
            mask = ballot(signed_rows_of(wave), relation, a, b)
        else:
            mask = ballot(rows_of(wave), relation, a, b)
    else:
        mask = other_ballot(wave, fields, kind, relation)
    mask &= scalar_pair(scalars, at.EXEC)
    set_scalar_pair(scalars, fields[at.DESTINATION], mask)
    if fields[at.COUNT]:
        set_scalar_pair(scalars, at.EXEC, mask)
