"""Vector integer unit: VOP1, VOP2 and VOP3 integer arithmetic, logic and moves of 32 bits. Those of 16 bits: half.py."""

from __future__ import annotations

from enum import IntEnum
from typing import Any

import numpy as np

from backend.cdna.execute import layout as at
from backend.cdna.execute.lanes import (
    ALL_LANES,
    commit,
    record_of,
    result_row,
    rows_of,
    scalar_pair,
    scalars_of,
    signed_rows_of,
    source_row,
    two_sources,
)
from backend.cdna.execute.native import add_lanes, handler, inlined

Vector = IntEnum(
    "Vector",
    """
    V_MOV_B32 V_ADD_U32 V_SUB_U32 V_SUBREV_U32 V_MUL_I32_I24 V_MUL_U32_U24 V_MUL_LO_U32 V_MUL_HI_U32 V_MUL_HI_I32
    V_MIN_I32 V_MAX_I32 V_MIN_U32 V_MAX_U32 V_AND_B32 V_OR_B32 V_XOR_B32 V_XNOR_B32 V_NOT_B32 V_LSHLREV_B32 V_LSHRREV_B32
    V_ASHRREV_I32
    """,
    start=0,
)
"""One result dword, up to two sources of a dword."""

Bits = IntEnum(
    "Bits",
    """
    V_MUL_HI_I32_I24 V_MUL_HI_U32_U24 V_BFM_B32 V_BFREV_B32 V_FFBH_U32 V_FFBH_I32 V_FFBL_B32 V_BCNT_U32_B32
    V_MBCNT_LO_U32_B32 V_MBCNT_HI_U32_B32 V_PACK_B32_F16
    """,
    start=0,
)
"""One result dword: bit fields, bit searches and counts, and the upper halves of 24-bit products."""

Vector3 = IntEnum(
    "Vector3",
    """
    V_ADD3_U32 V_LSHL_ADD_U32 V_ADD_LSHL_U32 V_LSHL_OR_B32 V_AND_OR_B32 V_OR3_B32 V_XAD_U32 V_BFE_U32 V_BFE_I32 V_BFI_B32
    V_ALIGNBIT_B32 V_ALIGNBYTE_B32 V_PERM_B32 V_MAD_U32_U24 V_MAD_I32_I24 V_MIN3_I32 V_MIN3_U32 V_MAX3_I32 V_MAX3_U32
    V_MED3_I32 V_MED3_U32 V_BITOP3_B32 V_BITOP3_B16 V_SAD_U32 V_CNDMASK_B32
    """,
    start=0,
)
"""One result dword, three sources of a dword."""


@inlined
def signed24(value: Any) -> int:
    """Takes the lowest 24 bits for a signed number."""
    return np.int64(np.int32(value << np.uint32(8)) >> 8)


@inlined
def low_half(value: Any) -> int:
    """Takes the lowest 16 bits for an unsigned number."""
    return np.int64(value) & 0xFFFF


@handler
def vector_alu(wave: int, record: int, context: int) -> None:
    """Runs the instructions of `Vector`."""
    fields = record_of(record)
    opcode = fields[at.OPCODE]
    rows, signed = rows_of(wave), signed_rows_of(wave)
    destination = np.int64(fields[at.DESTINATION])
    a = source_row(wave, fields[at.SOURCE_0], 0)
    if opcode == Vector.V_MOV_B32:
        r = result_row(wave, destination, 1, a, a, a)
        for lane in range(at.LANES):
            rows[r, lane] = rows[a, lane]
        commit(wave, destination, 1, r)
        return
    b = source_row(wave, fields[at.SOURCE_1], 1)
    if opcode == Vector.V_ADD_U32:  # half of all address arithmetic, mostly onto one of its sources
        r = destination if scalar_pair(scalars_of(wave), at.EXEC) == ALL_LANES else at.RESULT_ROWS
        base = wave + at.ROWS_OFFSET
        add_lanes(base + r * at.ROW_BYTES, base + a * at.ROW_BYTES, base + b * at.ROW_BYTES)
        commit(wave, destination, 1, r)
        return
    r = result_row(wave, destination, 1, a, b, b)
    if opcode == Vector.V_SUB_U32:
        for lane in range(at.LANES):
            rows[r, lane] = rows[a, lane] - rows[b, lane]
    elif opcode == Vector.V_SUBREV_U32:
        for lane in range(at.LANES):
            rows[r, lane] = rows[b, lane] - rows[a, lane]
    elif opcode == Vector.V_MUL_I32_I24:
        for lane in range(at.LANES):
            rows[r, lane] = np.uint32(signed24(rows[a, lane]) * signed24(rows[b, lane]))
    elif opcode == Vector.V_MUL_U32_U24:
        for lane in range(at.LANES):
            rows[r, lane] = (rows[a, lane] & np.uint32(0xFFFFFF)) * (rows[b, lane] & np.uint32(0xFFFFFF))
    elif opcode == Vector.V_MUL_LO_U32:
        for lane in range(at.LANES):
            rows[r, lane] = rows[a, lane] * rows[b, lane]
    elif opcode == Vector.V_MUL_HI_U32:
        for lane in range(at.LANES):
            rows[r, lane] = np.uint32((np.uint64(rows[a, lane]) * np.uint64(rows[b, lane])) >> np.uint64(32))
    elif opcode == Vector.V_MUL_HI_I32:
        for lane in range(at.LANES):
            rows[r, lane] = np.uint32((np.int64(signed[a, lane]) * np.int64(signed[b, lane])) >> 32)
    elif opcode == Vector.V_MIN_I32:
        for lane in range(at.LANES):
            signed[r, lane] = min(signed[a, lane], signed[b, lane])
    elif opcode == Vector.V_MAX_I32:
        for lane in range(at.LANES):
            signed[r, lane] = max(signed[a, lane], signed[b, lane])
    elif opcode == Vector.V_MIN_U32:
        for lane in range(at.LANES):
            rows[r, lane] = min(rows[a, lane], rows[b, lane])
    elif opcode == Vector.V_MAX_U32:
        for lane in range(at.LANES):
            rows[r, lane] = max(rows[a, lane], rows[b, lane])
    elif opcode == Vector.V_AND_B32:
        for lane in range(at.LANES):
            rows[r, lane] = rows[a, lane] & rows[b, lane]
    elif opcode == Vector.V_OR_B32:
        for lane in range(at.LANES):
            rows[r, lane] = rows[a, lane] | rows[b, lane]
    elif opcode == Vector.V_XOR_B32:
        for lane in range(at.LANES):
            rows[r, lane] = rows[a, lane] ^ rows[b, lane]
    elif opcode == Vector.V_XNOR_B32:
        for lane in range(at.LANES):
            rows[r, lane] = np.uint32(~(rows[a, lane] ^ rows[b, lane]))
    elif opcode == Vector.V_NOT_B32:
        for lane in range(at.LANES):
            rows[r, lane] = np.uint32(~rows[a, lane])
    elif opcode == Vector.V_LSHLREV_B32:
        for lane in range(at.LANES):
            rows[r, lane] = rows[b, lane] << (rows[a, lane] & np.uint32(31))
    elif opcode == Vector.V_LSHRREV_B32:
        for lane in range(at.LANES):
            rows[r, lane] = rows[b, lane] >> (rows[a, lane] & np.uint32(31))
    else:
        for lane in range(at.LANES):
            signed[r, lane] = signed[b, lane] >> (signed[a, lane] & np.int32(31))
    commit(wave, destination, 1, r)


@handler
def vector_bits(wave: int, record: int, context: int) -> None:
    """Runs the instructions of `Bits`."""
    fields, rows = record_of(record), rows_of(wave)
    a, b = two_sources(wave, fields)
    for lane in range(at.LANES):
        rows[at.RESULT_ROWS, lane] = np.uint32(bits_lane(fields[at.OPCODE], rows[a, lane], rows[b, lane], lane))
    commit(wave, fields[at.DESTINATION], 1, at.RESULT_ROWS)


@inlined
def bits_lane(opcode: int, x: Any, y: Any, lane: int) -> int:
    """One lane of `Bits`: x, y are the sources as uint32; the result's lowest 32 bits count."""
    if opcode == Bits.V_MUL_HI_I32_I24:
        return (signed24(x) * signed24(y)) >> 32
    if opcode == Bits.V_MUL_HI_U32_U24:
        return ((np.int64(x) & 0xFFFFFF) * (np.int64(y) & 0xFFFFFF)) >> 32
    if opcode == Bits.V_BFM_B32:
        return ((1 << (np.int64(x) & 31)) - 1) << (np.int64(y) & 31)
    if opcode == Bits.V_PACK_B32_F16:
        return low_half(x) | (low_half(y) << 16)
    return counting_lane(opcode, np.int64(x), np.int64(y), lane)


@inlined
def counting_lane(opcode: int, x: int, y: int, lane: int) -> int:
    """Bit reversal, bit search and bit counts of one lane; x, y unsigned."""
    if opcode == Bits.V_BFREV_B32:
        result = 0
        for index in range(32):
            result |= ((x >> index) & 1) << (31 - index)
        return result
    if opcode == Bits.V_FFBH_U32 or opcode == Bits.V_FFBH_I32:
        if opcode == Bits.V_FFBH_I32 and x >> 31:
            x = ~x & 0xFFFF_FFFF
        for index in range(32):
            if (x >> (31 - index)) & 1:
                return index
        return -1
    if opcode == Bits.V_FFBL_B32:
        for index in range(32):
            if (x >> index) & 1:
                return index
        return -1
    if opcode == Bits.V_MBCNT_LO_U32_B32:
        x &= (1 << min(lane, 32)) - 1
    elif opcode == Bits.V_MBCNT_HI_U32_B32:
        x &= (1 << max(lane - 32, 0)) - 1
    for index in range(32):
        y += (x >> index) & 1
    return y


@handler
def vector_alu3(wave: int, record: int, context: int) -> None:
    """Runs `Vector3`. V_CNDMASK's SOURCE_2 is the scalar index of its mask, V_BITOP3's truth table is IMMEDIATE."""
    fields = record_of(record)
    opcode = fields[at.OPCODE]
    rows = rows_of(wave)
    destination = np.int64(fields[at.DESTINATION])
    a, b = two_sources(wave, fields)
    if opcode == Vector3.V_CNDMASK_B32:
        mask = scalar_pair(scalars_of(wave), fields[at.SOURCE_2])
        r = result_row(wave, destination, 1, a, b, b)
        for lane in range(at.LANES):
            rows[r, lane] = rows[b, lane] if (mask >> np.uint64(lane)) & np.uint64(1) else rows[a, lane]
        commit(wave, destination, 1, r)
        return
    c = source_row(wave, fields[at.SOURCE_2], 2)
    r = result_row(wave, destination, 1, a, b, c)
    if opcode == Vector3.V_ADD3_U32:
        for lane in range(at.LANES):
            rows[r, lane] = rows[a, lane] + rows[b, lane] + rows[c, lane]
    elif opcode == Vector3.V_LSHL_ADD_U32:
        for lane in range(at.LANES):
            rows[r, lane] = (rows[a, lane] << (rows[b, lane] & np.uint32(31))) + rows[c, lane]
    elif opcode == Vector3.V_ADD_LSHL_U32:
        for lane in range(at.LANES):
            rows[r, lane] = (rows[a, lane] + rows[b, lane]) << (rows[c, lane] & np.uint32(31))
    elif opcode == Vector3.V_LSHL_OR_B32:
        for lane in range(at.LANES):
            rows[r, lane] = (rows[a, lane] << (rows[b, lane] & np.uint32(31))) | rows[c, lane]
    elif opcode == Vector3.V_AND_OR_B32:
        for lane in range(at.LANES):
            rows[r, lane] = (rows[a, lane] & rows[b, lane]) | rows[c, lane]
    elif opcode == Vector3.V_OR3_B32:
        for lane in range(at.LANES):
            rows[r, lane] = rows[a, lane] | rows[b, lane] | rows[c, lane]
    elif opcode == Vector3.V_XAD_U32:
        for lane in range(at.LANES):
            rows[r, lane] = (rows[a, lane] ^ rows[b, lane]) + rows[c, lane]
    elif opcode == Vector3.V_BFI_B32:
        for lane in range(at.LANES):
            rows[r, lane] = (rows[a, lane] & rows[b, lane]) | (~rows[a, lane] & rows[c, lane])
    elif opcode == Vector3.V_PERM_B32:
        permute_bytes(rows, a, b, c, r, fields[at.SOURCE_2] >= at.SCALAR_OPERAND)
    else:
        table = np.int64(fields[at.IMMEDIATE])
        for lane in range(at.LANES):
            value = ternary_lane(opcode, np.int64(rows[a, lane]), np.int64(rows[b, lane]), np.int64(rows[c, lane]), table)
            rows[r, lane] = np.uint32(value)
    commit(wave, destination, 1, r)


@inlined
def ternary_lane(opcode: int, x: int, y: int, z: int, table: int) -> int:
    """The rarer instructions of `Vector3` in one lane; x, y, z unsigned; the result's lowest 32 bits count."""
    if opcode == Vector3.V_BFE_U32:
        return (x >> (y & 31)) & ((1 << (z & 31)) - 1)
    if opcode == Vector3.V_BFE_I32:
        width = z & 31
        if width == 0:
            return 0
        field = (np.int64(np.int32(x)) >> (y & 31)) & ((1 << width) - 1)
        return field - ((field >> (width - 1)) << width)
    if opcode == Vector3.V_ALIGNBIT_B32:
        return ((y >> (z & 31)) | (x << (32 - (z & 31)))) & 0xFFFF_FFFF
    if opcode == Vector3.V_ALIGNBYTE_B32:
        return ((y >> (8 * (z & 3))) | (x << (32 - 8 * (z & 3)))) & 0xFFFF_FFFF
    if opcode == Vector3.V_MAD_U32_U24:
        return (x & 0xFFFFFF) * (y & 0xFFFFFF) + z
    if opcode == Vector3.V_MAD_I32_I24:
        return signed24(np.uint32(x)) * signed24(np.uint32(y)) + z
    if opcode == Vector3.V_SAD_U32:
        return abs(x - y) + z
    if opcode == Vector3.V_BITOP3_B32 or opcode == Vector3.V_BITOP3_B16:
        result = truth_table(x, y, z, table)
        return result & 0xFFFF if opcode == Vector3.V_BITOP3_B16 else result
    if opcode == Vector3.V_MIN3_U32:
        return min(x, y, z)
    if opcode == Vector3.V_MAX3_U32:
        return max(x, y, z)
    if opcode == Vector3.V_MED3_U32:
        return max(min(x, y), min(max(x, y), z))
    a, b, c = np.int64(np.int32(x)), np.int64(np.int32(y)), np.int64(np.int32(z))
    if opcode == Vector3.V_MIN3_I32:
        return min(a, b, c)
    if opcode == Vector3.V_MAX3_I32:
        return max(a, b, c)
    return max(min(a, b), min(max(a, b), c))


@inlined
def truth_table(x: int, y: int, z: int, table: int) -> int:
    """V_BITOP3: bit (x << 2 | y << 1 | z) of the table, at every bit position."""
    result = 0
    for term in range(8):
        if (table >> term) & 1:
            result |= (x if term & 4 else ~x) & (y if term & 2 else ~y) & (z if term & 1 else ~z)
    return result & 0xFFFF_FFFF


@inlined
def permute_bytes(rows: Any, a: int, b: int, c: int, r: int, uniform: bool) -> None:
    """V_PERM_B32 into the result row: bytes 0-3 are the second source's, 4-7 the first's; 8-11 are signs, 12 zero, above all
    ones.

    A selector that is one scalar, and has nothing but bytes, takes shifts that are the same in all lanes.
    """
    selector = np.int64(rows[c, 0])
    if uniform and selector & 0xF8F8_F8F8 == 0:
        first, second = (a if selector & 4 else b), (a if selector & 0x400 else b)
        third, fourth = (a if selector & 0x4_0000 else b), (a if selector & 0x400_0000 else b)
        shift_1, shift_2 = np.uint32(8 * (selector & 3)), np.uint32(8 * (selector >> 8 & 3))
        shift_3, shift_4 = np.uint32(8 * (selector >> 16 & 3)), np.uint32(8 * (selector >> 24 & 3))
        byte = np.uint32(0xFF)
        for lane in range(at.LANES):
            low = ((rows[first, lane] >> shift_1) & byte) | ((rows[second, lane] >> shift_2) & byte) << np.uint32(8)
            high = ((rows[third, lane] >> shift_3) & byte) | ((rows[fourth, lane] >> shift_4) & byte) << np.uint32(8)
            rows[r, lane] = np.uint32(low | high << np.uint32(16))
        return
    for lane in range(at.LANES):
        data = np.uint64(rows[b, lane]) | (np.uint64(rows[a, lane]) << np.uint64(32))
        result = np.uint64(0)
        for index in range(4):
            select = (np.uint64(rows[c, lane]) >> np.uint64(8 * index)) & np.uint64(0xFF)
            byte = (data >> (np.uint64(8) * (select & np.uint64(7)))) & np.uint64(0xFF)
            sign = (data >> (np.uint64(16) * (select & np.uint64(3)) + np.uint64(15))) & np.uint64(1)
            special = np.uint64(0xFF) * sign if select < np.uint64(12) else np.uint64(0xFF)
            special = np.uint64(0) if select == np.uint64(12) else special
            result |= (byte if select < np.uint64(8) else special) << np.uint64(8 * index)
        rows[r, lane] = np.uint32(result)
