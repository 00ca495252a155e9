"""Vector integer unit: results of two dwords, and additions with a carry mask."""

from __future__ import annotations

from enum import IntEnum
from typing import Any

import numpy as np

from backend.cdna.execute import layout as at
from backend.cdna.execute.lanes import (
    commit,
    record_of,
    result_row,
    rows_of,
    scalar_pair,
    scalars_of,
    set_scalar_pair,
    set_value64,
    source_pair,
    source_row,
    two_sources,
    value64,
)
from backend.cdna.execute.native import handler, inlined

Vector64 = IntEnum(
    "Vector64",
    "V_MOV_B64 V_LSHLREV_B64 V_LSHRREV_B64 V_ASHRREV_I64 V_LSHL_ADD_U64 V_MAD_U64_U32 V_MAD_I64_I32 V_PK_MOV_B32",
    start=0,
)
"""A result of two dwords."""

VectorCarry = IntEnum(
    "VectorCarry",
    "V_ADD_CO_U32 V_SUB_CO_U32 V_SUBREV_CO_U32 V_ADDC_CO_U32 V_SUBB_CO_U32 V_SUBBREV_CO_U32",
    start=0,
)
"""A carry out of, and into, one dword."""


@handler
def vector_alu64(wave: int, record: int, context: int) -> None:
    """Runs `Vector64`. COUNT: bit n set, source n is a pair. DESTINATION_2: scalar index of a carry mask."""
    fields = record_of(record)
    opcode = fields[at.OPCODE]
    rows = rows_of(wave)
    pairs = fields[at.COUNT]
    a = source_pair(wave, fields[at.SOURCE_0], 0) if pairs & 1 else source_row(wave, fields[at.SOURCE_0], 0)
    destination = np.int64(fields[at.DESTINATION])
    if opcode == Vector64.V_MOV_B64:
        r = result_row(wave, destination, 2, a, a, a)
        for lane in range(at.LANES):
            rows[r, lane] = rows[a, lane]
            rows[r + 1, lane] = rows[a + 1, lane]
        commit(wave, destination, 2, r)
        return
    b = source_pair(wave, fields[at.SOURCE_1], 1) if pairs & 2 else source_row(wave, fields[at.SOURCE_1], 1)
    c = source_pair(wave, fields[at.SOURCE_2], 2) if pairs & 4 else a
    r = result_row(wave, destination, 2, a, b, c)
    if opcode == Vector64.V_LSHL_ADD_U64:
        for lane in range(at.LANES):
            shift = np.uint64(rows[b, lane] & np.uint32(7))
            set_value64(rows, r, lane, (value64(rows, a, lane) << shift) + value64(rows, c, lane))
    elif opcode == Vector64.V_LSHLREV_B64:
        for lane in range(at.LANES):
            set_value64(rows, r, lane, value64(rows, b, lane) << np.uint64(rows[a, lane] & np.uint32(63)))
    elif opcode == Vector64.V_LSHRREV_B64:
        for lane in range(at.LANES):
            set_value64(rows, r, lane, value64(rows, b, lane) >> np.uint64(rows[a, lane] & np.uint32(63)))
    elif opcode == Vector64.V_ASHRREV_I64:
        for lane in range(at.LANES):
            shifted = np.int64(value64(rows, b, lane)) >> np.int64(rows[a, lane] & np.uint32(63))
            set_value64(rows, r, lane, np.uint64(shifted))
    elif opcode == Vector64.V_PK_MOV_B32:
        for lane in range(at.LANES):
            rows[r, lane] = rows[a, lane]
            rows[r + 1, lane] = rows[b, lane]  # op_sel has chosen the half
    else:
        overflow = multiply_add64(wave, opcode, rows, a, b, c, r)
        commit(wave, destination, 2, r)
        set_scalar_pair(scalars_of(wave), fields[at.DESTINATION_2], overflow)
        return
    commit(wave, destination, 2, r)


@inlined
def multiply_add64(wave: int, opcode: int, rows: Any, a: int, b: int, c: int, r: int) -> Any:
    """V_MAD_U64_U32 and V_MAD_I64_I32 into the result rows; returns the mask of overflows (inactive lanes give 0)."""
    overflow = np.uint64(0)
    for lane in range(at.LANES):
        addend = value64(rows, c, lane)
        if opcode == Vector64.V_MAD_U64_U32:
            total = np.uint64(rows[a, lane]) * np.uint64(rows[b, lane]) + addend
            carry = total < addend
        else:
            product = np.int64(np.int32(rows[a, lane])) * np.int64(np.int32(rows[b, lane]))
            signed_total = product + np.int64(addend)
            carry = ((product ^ signed_total) & (np.int64(addend) ^ signed_total)) < 0
            total = np.uint64(signed_total)
        set_value64(rows, r, lane, total)
        if carry:
            overflow |= np.uint64(1) << np.uint64(lane)
    return overflow & scalar_pair(scalars_of(wave), at.EXEC)


@handler
def vector_carry(wave: int, record: int, context: int) -> None:
    """Runs `VectorCarry`. DESTINATION_2 is the scalar index of the mask that comes out, SOURCE_2 of what goes in.

    Inactive lanes give a carry of 0.
    """
    fields, rows, scalars = record_of(record), rows_of(wave), scalars_of(wave)
    opcode = fields[at.OPCODE]
    a, b = two_sources(wave, fields)
    carry_in = np.uint64(0)
    if opcode == VectorCarry.V_ADDC_CO_U32 or opcode == VectorCarry.V_SUBB_CO_U32 or opcode == VectorCarry.V_SUBBREV_CO_U32:
        carry_in = scalar_pair(scalars, fields[at.SOURCE_2])
    adds = opcode == VectorCarry.V_ADD_CO_U32 or opcode == VectorCarry.V_ADDC_CO_U32
    if opcode == VectorCarry.V_SUBREV_CO_U32 or opcode == VectorCarry.V_SUBBREV_CO_U32:
        a, b = b, a
    carry_out = np.uint64(0)
    for lane in range(at.LANES):
        carry = np.int64((carry_in >> np.uint64(lane)) & np.uint64(1))
        x, y = np.int64(rows[a, lane]), np.int64(rows[b, lane])
        total = x + y + carry if adds else x - y - carry
        rows[at.RESULT_ROWS, lane] = np.uint32(total & 0xFFFF_FFFF)
        carry_out |= np.uint64((total >> 32) & 1) << np.uint64(lane)
    carry_out &= scalar_pair(scalars, at.EXEC)
    commit(wave, fields[at.DESTINATION], 1, at.RESULT_ROWS)
    set_scalar_pair(scalars, fields[at.DESTINATION_2], carry_out)
