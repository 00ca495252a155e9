"""Scalar unit: SOP1, SOP2, SOPC and SOPK arithmetic. Branches and waits are the loop's (run.py), scalar loads memory's.

Sources and destinations are scalar indices; a record's SOURCE_0.. index constants as well as registers.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Any

import numpy as np

from backend.cdna.execute import layout as at
from backend.cdna.execute.lanes import context_of, record_of, scalars_of
from backend.cdna.execute.native import handler, inlined

Plain = IntEnum(
    "Plain",
    """
    S_MOV_B32 S_CMOV_B32 S_BREV_B32 S_FF0_I32_B32 S_FF1_I32_B32 S_FLBIT_I32_B32 S_FLBIT_I32 S_SEXT_I32_I8 S_SEXT_I32_I16
    S_BITSET0_B32 S_BITSET1_B32 S_CSELECT_B32 S_BFM_B32 S_MUL_I32 S_MUL_HI_U32 S_MUL_HI_I32 S_PACK_LL_B32_B16
    S_PACK_LH_B32_B16 S_PACK_HH_B32_B16
    """,
    start=0,
)
"""Instructions that leave SCC as it is."""

Arithmetic = IntEnum(
    "Arithmetic",
    """
    S_ADD_U32 S_SUB_U32 S_ADD_I32 S_SUB_I32 S_ADDC_U32 S_SUBB_U32 S_MIN_I32 S_MIN_U32 S_MAX_I32 S_MAX_U32 S_LSHL1_ADD_U32
    S_LSHL2_ADD_U32 S_LSHL3_ADD_U32 S_LSHL4_ADD_U32
    """,
    start=0,
)
"""Instructions whose SCC is a carry, an overflow or the choice made."""

Logic = IntEnum(
    "Logic",
    """
    S_AND_B32 S_OR_B32 S_XOR_B32 S_ANDN2_B32 S_ORN2_B32 S_NAND_B32 S_NOR_B32 S_XNOR_B32 S_NOT_B32 S_LSHL_B32 S_LSHR_B32
    S_ASHR_I32 S_ABS_I32 S_ABSDIFF_I32 S_BCNT0_I32_B32 S_BCNT1_I32_B32 S_BFE_U32 S_BFE_I32 S_QUADMASK_B32 S_WQM_B32
    """,
    start=0,
)
"""Instructions whose SCC is "the result is not zero"."""

Compare = IntEnum(
    "Compare",
    """
    S_CMP_EQ_I32 S_CMP_LG_I32 S_CMP_GT_I32 S_CMP_GE_I32 S_CMP_LT_I32 S_CMP_LE_I32 S_CMP_EQ_U32 S_CMP_LG_U32 S_CMP_GT_U32
    S_CMP_GE_U32 S_CMP_LT_U32 S_CMP_LE_U32 S_BITCMP0_B32 S_BITCMP1_B32
    """,
    start=0,
)
"""Instructions whose only result is SCC."""

State = IntEnum(
    "State",
    "S_GETREG_B32 S_SETREG_B32 S_SET_GPR_IDX_ON S_SET_GPR_IDX_OFF S_SET_GPR_IDX_IDX S_SET_GPR_IDX_MODE S_SETVSKIP",
    start=0,
)
"""Instructions that set state which changes what later ones do."""


F32_SMALLEST_NORMAL_BITS = 0x0080_0000
HARDWARE_REGISTER_MODE = 1
# MODE register, ISA document "Mode register": FP_DENORM bits 4-5 (fp32; 0 flushes, 3 keeps), 6-7 (fp16 and fp64), 8 DX10_CLAMP.
DENORMAL_F32_SHIFT = 4
VSKIP_BIT = 28
MODELLED_MODE_BITS = 0b11_1111_0000 | 1 << 23


@inlined
def count_ones(value: Any) -> int:
    """Counts the set bits of a 64-bit value."""
    total = 0
    while value:
        value &= value - np.uint64(1)
        total += 1
    return total


@inlined
def lowest_one(value: Any, bits: int) -> int:
    """Gives the index of the lowest set bit, -1 for none."""
    for index in range(bits):
        if (value >> np.uint64(index)) & np.uint64(1):
            return index
    return -1


@inlined
def leading_zeros(value: Any, bits: int) -> int:
    """Counts the zeros above the highest set bit; -1 for value 0."""
    for index in range(bits):
        if (value >> np.uint64(bits - 1 - index)) & np.uint64(1):
            return index
    return -1


@inlined
def reversed_bits(value: Any, bits: int) -> Any:
    """Reverses the order of the lowest `bits` bits."""
    result = np.uint64(0)
    for index in range(bits):
        result |= ((value >> np.uint64(index)) & np.uint64(1)) << np.uint64(bits - 1 - index)
    return result


@inlined
def quads(value: Any, bits: int, whole: bool) -> Any:
    """S_QUADMASK: bit n says whether four bits from 4n on are not all zero. S_WQM (whole): all four bits say so."""
    result = np.uint64(0)
    for quad in range(bits // 4):
        if (value >> np.uint64(4 * quad)) & np.uint64(15):
            result |= np.uint64(15) << np.uint64(4 * quad) if whole else np.uint64(1) << np.uint64(quad)
    return result


@inlined
def sign_extended(value: int, bits: int) -> int:
    """Takes the lowest `bits` (1..63) bits of `value` for a signed number."""
    value &= (1 << bits) - 1
    return value - ((value >> (bits - 1)) << bits)


@inlined
def mode_is_modelled(mode: int) -> bool:
    """Whether arithmetic follows a MODE: rounding to nearest even (bits 3:0), fp32 denormals all flushed or all kept (5:4),
    those of fp16 and fp64 kept (7:6), no exceptions, and of the rest DX10_CLAMP (8), IEEE (9) and FP16_OVFL (23) alone."""
    denormals = (mode >> DENORMAL_F32_SHIFT) & 3
    return mode & ~MODELLED_MODE_BITS == 0 and (denormals == 0 or denormals == 3) and (mode >> 6) & 3 == 3


@inlined
def set_mode(scalars: Any, mode: int) -> None:
    """Write the MODE register and what follows from it: fp32 denormals (those of fp16 and fp64 are kept always)."""
    scalars[at.MODE] = mode
    smallest = np.uint32(F32_SMALLEST_NORMAL_BITS)
    scalars[at.DENORMAL_F32] = np.uint32(0) if (mode >> DENORMAL_F32_SHIFT) & 3 else smallest


@inlined
def hardware_register_bits(immediate: int) -> tuple[int, int]:
    """Gives (offset, size) in bits of the field of `hwreg(id, offset, size)`."""
    return (immediate >> 6) & 31, ((immediate >> 11) & 31) + 1


@inlined
def gpr_index(scalars: Any, opcode: int, value: int, immediate: int) -> None:
    """S_SET_GPR_IDX_*: M0[7:0] is the index, M0[15:12] which operands it applies to (ISA document, "GPR indexing")."""
    m0 = np.int64(scalars[at.M0])
    if opcode == State.S_SET_GPR_IDX_ON:
        scalars[at.M0] = np.uint32((m0 & 0xFFFF_0F00) | (value & 0xFF) | ((immediate & 15) << 12))
        scalars[at.GPR_INDEX] = 1
    elif opcode == State.S_SET_GPR_IDX_OFF:
        scalars[at.GPR_INDEX] = 0
    elif opcode == State.S_SET_GPR_IDX_IDX:
        scalars[at.M0] = np.uint32((m0 & 0xFFFF_FF00) | (value & 0xFF))
    else:
        scalars[at.M0] = np.uint32((m0 & 0xFFFF_0FFF) | ((immediate & 15) << 12))


@inlined
def compare(opcode: int, a: int, b: int, x: int, y: int) -> bool:
    """S_CMP_* and S_BITCMP*: a, b unsigned; x, y the same bits signed."""
    if opcode == Compare.S_CMP_EQ_I32 or opcode == Compare.S_CMP_EQ_U32:
        return a == b
    if opcode == Compare.S_CMP_LG_I32 or opcode == Compare.S_CMP_LG_U32:
        return a != b
    if opcode == Compare.S_CMP_GT_I32:
        return x > y
    if opcode == Compare.S_CMP_GE_I32:
        return x >= y
    if opcode == Compare.S_CMP_LT_I32:
        return x < y
    if opcode == Compare.S_CMP_LE_I32:
        return x <= y
    if opcode == Compare.S_CMP_GT_U32:
        return a > b
    if opcode == Compare.S_CMP_GE_U32:
        return a >= b
    if opcode == Compare.S_CMP_LT_U32:
        return a < b
    if opcode == Compare.S_CMP_LE_U32:
        return a <= b
    bit = (a >> (b & 31)) & 1
    return bit == (1 if opcode == Compare.S_BITCMP1_B32 else 0)


@inlined
def arithmetic(scalars: Any, opcode: int, a: int, b: int, x: int, y: int) -> int:
    """Instructions whose SCC is a carry, an overflow or the choice made; returns the 32-bit result in an int64."""
    scc = np.int64(scalars[at.SCC])
    carry = scc
    result = a
    if opcode == Arithmetic.S_ADD_U32:
        result = a + b
        carry = result >> 32
    elif opcode == Arithmetic.S_SUB_U32:
        result = a - b
        carry = 1 if b > a else 0
    elif opcode == Arithmetic.S_ADDC_U32:
        result = a + b + scc
        carry = result >> 32
    elif opcode == Arithmetic.S_SUBB_U32:
        result = a - b - scc
        carry = 1 if b + scc > a else 0
    elif opcode == Arithmetic.S_ADD_I32:
        result = x + y
        carry = 1 if result != sign_extended(result, 32) else 0
    elif opcode == Arithmetic.S_SUB_I32:
        result = x - y
        carry = 1 if result != sign_extended(result, 32) else 0
    elif opcode == Arithmetic.S_MIN_I32:
        result = min(x, y)
        carry = 1 if x < y else 0
    elif opcode == Arithmetic.S_MIN_U32:
        result = min(a, b)
        carry = 1 if a < b else 0
    elif opcode == Arithmetic.S_MAX_I32:
        result = max(x, y)
        carry = 1 if x >= y else 0
    elif opcode == Arithmetic.S_MAX_U32:
        result = max(a, b)
        carry = 1 if a >= b else 0
    else:
        shift = 1
        if opcode == Arithmetic.S_LSHL2_ADD_U32:
            shift = 2
        elif opcode == Arithmetic.S_LSHL3_ADD_U32:
            shift = 3
        elif opcode == Arithmetic.S_LSHL4_ADD_U32:
            shift = 4
        result = (a << shift) + b
        carry = 1 if result >> 32 else 0
    scalars[at.SCC] = np.uint32(carry)
    return result


@inlined
def logic(scalars: Any, opcode: int, a: int, b: int, x: int, y: int) -> int:
    """Instructions whose SCC is "the result is not zero"; returns the 32-bit result in an int64."""
    result = a
    if opcode == Logic.S_AND_B32:
        result = a & b
    elif opcode == Logic.S_OR_B32:
        result = a | b
    elif opcode == Logic.S_XOR_B32:
        result = a ^ b
    elif opcode == Logic.S_ANDN2_B32:
        result = a & ~b
    elif opcode == Logic.S_ORN2_B32:
        result = a | ~b
    elif opcode == Logic.S_NAND_B32:
        result = ~(a & b)
    elif opcode == Logic.S_NOR_B32:
        result = ~(a | b)
    elif opcode == Logic.S_XNOR_B32:
        result = ~(a ^ b)
    elif opcode == Logic.S_NOT_B32:
        result = ~a
    elif opcode == Logic.S_LSHL_B32:
        result = a << (b & 31)
    elif opcode == Logic.S_LSHR_B32:
        result = a >> (b & 31)
    elif opcode == Logic.S_ASHR_I32:
        result = x >> (b & 31)
    elif opcode == Logic.S_ABS_I32:
        result = abs(x)
    elif opcode == Logic.S_ABSDIFF_I32:
        result = abs(sign_extended(x - y, 32))
    elif opcode == Logic.S_BCNT0_I32_B32:
        result = 32 - count_ones(np.uint64(a))
    elif opcode == Logic.S_BCNT1_I32_B32:
        result = count_ones(np.uint64(a))
    elif opcode == Logic.S_QUADMASK_B32 or opcode == Logic.S_WQM_B32:
        result = np.int64(quads(np.uint64(a), 32, opcode == Logic.S_WQM_B32))
    else:
        offset, size = b & 31, (b >> 16) & 0x7F
        if size == 0:
            result = 0
        elif opcode == Logic.S_BFE_U32:
            result = (a >> offset) & ((1 << size) - 1)
        else:
            result = (x >> offset) if size >= 32 - offset else sign_extended(x >> offset, size)
    result &= 0xFFFF_FFFF
    scalars[at.SCC] = np.uint32(1 if result else 0)
    return result


@inlined
def plain(scalars: Any, opcode: int, a: int, b: int, x: int, y: int) -> int:
    """Instructions that leave SCC alone; returns the 32-bit result in an int64."""
    if opcode == Plain.S_MOV_B32:
        return a
    if opcode == Plain.S_MUL_I32:
        return x * y
    if opcode == Plain.S_MUL_HI_U32:
        return (a * b) >> 32 if a < 0x8000_0000 or b < 0x8000_0000 else np.int64((np.uint64(a) * np.uint64(b)) >> np.uint64(32))
    if opcode == Plain.S_MUL_HI_I32:
        return (x * y) >> 32
    if opcode == Plain.S_CSELECT_B32:
        return a if scalars[at.SCC] else b
    if opcode == Plain.S_BFM_B32:
        return ((1 << (a & 31)) - 1) << (b & 31)
    if opcode == Plain.S_PACK_LL_B32_B16:
        return (a & 0xFFFF) | (b << 16)
    if opcode == Plain.S_PACK_LH_B32_B16:
        return (a & 0xFFFF) | (b & 0xFFFF_0000)
    if opcode == Plain.S_PACK_HH_B32_B16:
        return (a >> 16) | (b & 0xFFFF_0000)
    if opcode == Plain.S_BREV_B32:
        return np.int64(reversed_bits(np.uint64(a), 32))
    if opcode == Plain.S_FF0_I32_B32:
        return lowest_one(np.uint64(~a & 0xFFFF_FFFF), 32)
    if opcode == Plain.S_FF1_I32_B32:
        return lowest_one(np.uint64(a), 32)
    if opcode == Plain.S_FLBIT_I32_B32:
        return leading_zeros(np.uint64(a), 32)
    if opcode == Plain.S_FLBIT_I32:
        return leading_zeros(np.uint64((a ^ (x >> 31)) & 0xFFFF_FFFF), 32)
    if opcode == Plain.S_SEXT_I32_I8:
        return sign_extended(a, 8)
    return sign_extended(a, 16)


@inlined
def operands(wave: int, record: int) -> tuple[int, int, int, int]:
    """Gives both sources as unsigned numbers, and again as signed ones."""
    scalars, fields = scalars_of(wave), record_of(record)
    a = np.int64(scalars[fields[at.SOURCE_0]])
    b = np.int64(scalars[fields[at.SOURCE_1]])
    return a, b, sign_extended(a, 32), sign_extended(b, 32)


@handler
def scalar_plain(wave: int, record: int, context: int) -> None:
    """Runs the instructions of `Plain`."""
    scalars, fields = scalars_of(wave), record_of(record)
    opcode, destination = fields[at.OPCODE], fields[at.DESTINATION]
    a, b, x, y = operands(wave, record)
    if opcode == Plain.S_CMOV_B32:
        if scalars[at.SCC]:
            scalars[destination] = np.uint32(a)
    elif opcode == Plain.S_BITSET0_B32:
        scalars[destination] &= np.uint32(~(1 << (a & 31)))
    elif opcode == Plain.S_BITSET1_B32:
        scalars[destination] |= np.uint32(1 << (a & 31))
    else:
        scalars[destination] = np.uint32(plain(scalars, opcode, a, b, x, y))


@handler
def scalar_arithmetic(wave: int, record: int, context: int) -> None:
    """Runs the instructions of `Arithmetic`."""
    scalars, fields = scalars_of(wave), record_of(record)
    a, b, x, y = operands(wave, record)
    scalars[fields[at.DESTINATION]] = np.uint32(arithmetic(scalars, fields[at.OPCODE], a, b, x, y))


@handler
def scalar_logic(wave: int, record: int, context: int) -> None:
    """Runs the instructions of `Logic`."""
    scalars, fields = scalars_of(wave), record_of(record)
    a, b, x, y = operands(wave, record)
    scalars[fields[at.DESTINATION]] = np.uint32(logic(scalars, fields[at.OPCODE], a, b, x, y))


@handler
def scalar_compare(wave: int, record: int, context: int) -> None:
    """Runs the instructions of `Compare`."""
    a, b, x, y = operands(wave, record)
    scalars_of(wave)[at.SCC] = np.uint32(1 if compare(record_of(record)[at.OPCODE], a, b, x, y) else 0)


@handler
def scalar_state(wave: int, record: int, context: int) -> None:
    """Runs the instructions of `State`. IMMEDIATE is the SIMM16 field. A float mode that has no model stops the run."""
    scalars, fields = scalars_of(wave), record_of(record)
    opcode, immediate = fields[at.OPCODE], np.int64(fields[at.IMMEDIATE])
    a = np.int64(scalars[fields[at.SOURCE_0]])
    mode = np.int64(scalars[at.MODE])
    offset, size = hardware_register_bits(immediate)
    if opcode == State.S_GETREG_B32:
        scalars[fields[at.DESTINATION]] = np.uint32((mode >> offset) & ((1 << size) - 1))
    elif opcode == State.S_SETREG_B32:
        mask = ((1 << size) - 1) << offset
        mode = (mode & ~mask) | ((a << offset) & mask)
        if mode_is_modelled(mode):
            set_mode(scalars, mode)
        else:
            context_of(context)[at.CTX_UNMODELLED] = fields[at.ORIGINAL]
            scalars[at.STATUS] = at.STATUS_UNMODELLED
    elif opcode == State.S_SETVSKIP:
        skip = (a >> (np.int64(scalars[fields[at.SOURCE_1]]) & 31)) & 1
        scalars[at.VSKIP] = np.uint32(skip)
        scalars[at.MODE] = np.uint32((mode & ~(1 << VSKIP_BIT)) | skip << VSKIP_BIT)
    else:
        gpr_index(scalars, opcode, a, immediate)
