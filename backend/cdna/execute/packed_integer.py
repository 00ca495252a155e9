"""Integer arithmetic on both halves of a dword; op_sel has been applied to the sources (modifiers.py).

ISA documents, "VOP3P Instructions": results are the low 16 bits, or with clamp the nearest number of the type.
"""

from __future__ import annotations

from enum import IntEnum

import numpy as np

from backend.cdna.execute import layout as at
from backend.cdna.execute.lanes import commit, record_of, rows_of, source_row
from backend.cdna.execute.native import handler, inlined

R = at.RESULT_ROWS


PackedInteger = IntEnum(
    "PackedInteger",
    """
    V_PK_MAD_I16 V_PK_ADD_I16 V_PK_SUB_I16 V_PK_MAX_I16 V_PK_MIN_I16 V_PK_ASHRREV_I16 V_PK_MAD_U16 V_PK_ADD_U16
    V_PK_SUB_U16 V_PK_MAX_U16 V_PK_MIN_U16 V_PK_LSHRREV_B16 V_PK_LSHLREV_B16 V_PK_MUL_LO_U16
    """,
    start=0,
)
"""Arithmetic on both 16-bit halves of a dword."""


@inlined
def is_signed(opcode: int) -> bool:
    """Whether an instruction of `PackedInteger` takes its sources for signed numbers."""
    return (
        opcode == PackedInteger.V_PK_MAD_I16
        or opcode == PackedInteger.V_PK_ADD_I16
        or opcode == PackedInteger.V_PK_SUB_I16
        or opcode == PackedInteger.V_PK_MAX_I16
        or opcode == PackedInteger.V_PK_MIN_I16
        or opcode == PackedInteger.V_PK_ASHRREV_I16
    )


@inlined
def packed_integer_part(opcode: int, x: int, y: int, z: int, saturates: bool) -> int:
    """One half: 16 bits of each source, and of the result."""
    signed = is_signed(opcode)
    if signed:
        x, y, z = (x ^ 0x8000) - 0x8000, (y ^ 0x8000) - 0x8000, (z ^ 0x8000) - 0x8000
    if opcode == PackedInteger.V_PK_ADD_I16 or opcode == PackedInteger.V_PK_ADD_U16:
        result = x + y
    elif opcode == PackedInteger.V_PK_SUB_I16 or opcode == PackedInteger.V_PK_SUB_U16:
        result = x - y
    elif opcode == PackedInteger.V_PK_MAD_I16 or opcode == PackedInteger.V_PK_MAD_U16:
        result = x * y + z
    elif opcode == PackedInteger.V_PK_MAX_I16 or opcode == PackedInteger.V_PK_MAX_U16:
        result = max(x, y)
    elif opcode == PackedInteger.V_PK_MIN_I16 or opcode == PackedInteger.V_PK_MIN_U16:
        result = min(x, y)
    elif opcode == PackedInteger.V_PK_LSHLREV_B16:
        result = y << (x & 15)
    elif opcode == PackedInteger.V_PK_MUL_LO_U16:
        result = x * y
    else:
        result = y >> (x & 15)
    if saturates:
        low, high = (-32768, 32767) if signed else (0, 65535)
        result = min(max(result, low), high)
    return result & 0xFFFF


@handler
def packed_integer(wave: int, record: int, context: int) -> None:
    """Instructions of `PackedInteger`. IMMEDIATE: 1 with clamp."""
    fields, rows = record_of(record), rows_of(wave)
    opcode, saturates = fields[at.OPCODE], fields[at.IMMEDIATE] != 0
    a = source_row(wave, fields[at.SOURCE_0], 0)
    b = source_row(wave, fields[at.SOURCE_1], 1)
    c = source_row(wave, fields[at.SOURCE_2], 2)
    for lane in range(at.LANES):
        x, y, z = np.int64(rows[a, lane]), np.int64(rows[b, lane]), np.int64(rows[c, lane])
        low = packed_integer_part(opcode, x & 0xFFFF, y & 0xFFFF, z & 0xFFFF, saturates)
        high = packed_integer_part(opcode, x >> 16, y >> 16, z >> 16, saturates)
        rows[R, lane] = np.uint32(low | high << 16)
    commit(wave, fields[at.DESTINATION], 1, R)
