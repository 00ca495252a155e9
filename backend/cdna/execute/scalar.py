"""Scalar unit: SOP1, SOP2, SOPK and SOPC arithmetic, logic and moves of 32 and 64 bits, EXEC's included; GPR indexing; MODE.

Sources and destinations are scalar indices; a record's SOURCE_0.. index constants as well. COUNT says what is a pair: bit n of
source n, PAIR_RESULT of the result.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Any

import numpy as np

from backend.cdna.execute import layout as at
from backend.cdna.execute.lanes import ALL_LANES, context_of, record_of, scalar_pair, scalars_of, set_scalar_pair
from backend.cdna.execute.native import handler, inlined

PAIR_RESULT = 4


class Plain(IntEnum):
    """Instructions that leave SCC as it is, by what they compute."""

    S_MOV_B32 = S_MOV_B64 = 0
    S_CMOV_B32 = S_CMOV_B64 = 1
    S_CSELECT_B32 = S_CSELECT_B64 = 2
    S_BREV_B32 = S_BREV_B64 = 3
    S_FF0_I32_B32 = S_FF0_I32_B64 = 4
    S_FF1_I32_B32 = S_FF1_I32_B64 = 5
    S_FLBIT_I32_B32 = S_FLBIT_I32_B64 = 6
    S_FLBIT_I32 = S_FLBIT_I32_I64 = 7
    S_BITSET0_B32 = S_BITSET0_B64 = 8
    S_BITSET1_B32 = S_BITSET1_B64 = 9
    S_BFM_B32 = S_BFM_B64 = 10
    S_BITREPLICATE_B64_B32 = 11
    S_SEXT_I32_I8 = 12
    S_SEXT_I32_I16 = 13
    S_MUL_I32 = 14
    S_MUL_HI_U32 = 15
    S_MUL_HI_I32 = 16
    S_PACK_LL_B32_B16 = 17
    S_PACK_LH_B32_B16 = 18
    S_PACK_HH_B32_B16 = 19


Arithmetic = IntEnum(
    "Arithmetic",
    """
    S_ADD_U32 S_SUB_U32 S_ADD_I32 S_SUB_I32 S_ADDC_U32 S_SUBB_U32 S_MIN_I32 S_MIN_U32 S_MAX_I32 S_MAX_U32 S_LSHL1_ADD_U32
    S_LSHL2_ADD_U32 S_LSHL3_ADD_U32 S_LSHL4_ADD_U32
    """,
    start=0,
)
"""Instructions whose SCC is a carry, an overflow or the choice made."""


class Logic(IntEnum):
    """Instructions whose SCC is "the result is not zero", by what they compute; second source of the EXEC forms is EXEC."""

    S_AND_B32 = S_AND_B64 = S_AND_SAVEEXEC_B64 = 0
    S_OR_B32 = S_OR_B64 = S_OR_SAVEEXEC_B64 = 1
    S_XOR_B32 = S_XOR_B64 = S_XOR_SAVEEXEC_B64 = 2
    S_ANDN2_B32 = S_ANDN2_B64 = S_ANDN2_SAVEEXEC_B64 = S_ANDN2_WREXEC_B64 = 3
    S_ORN2_B32 = S_ORN2_B64 = S_ORN2_SAVEEXEC_B64 = 4
    S_NAND_B32 = S_NAND_B64 = S_NAND_SAVEEXEC_B64 = 5
    S_NOR_B32 = S_NOR_B64 = S_NOR_SAVEEXEC_B64 = 6
    S_XNOR_B32 = S_XNOR_B64 = S_XNOR_SAVEEXEC_B64 = 7
    S_ANDN1_SAVEEXEC_B64 = S_ANDN1_WREXEC_B64 = 8
    S_ORN1_SAVEEXEC_B64 = 9
    S_NOT_B32 = S_NOT_B64 = 10
    S_LSHL_B32 = S_LSHL_B64 = 11
    S_LSHR_B32 = S_LSHR_B64 = 12
    S_ASHR_I32 = S_ASHR_I64 = 13
    S_ABS_I32 = 14
    S_ABSDIFF_I32 = 15
    S_BCNT0_I32_B32 = S_BCNT0_I32_B64 = 16
    S_BCNT1_I32_B32 = S_BCNT1_I32_B64 = 17
    S_BFE_U32 = S_BFE_U64 = 18
    S_BFE_I32 = S_BFE_I64 = 19
    S_QUADMASK_B32 = S_QUADMASK_B64 = 20
    S_WQM_B32 = S_WQM_B64 = 21


class Compare(IntEnum):
    """Instructions whose only result is SCC, by what they compare."""

    S_CMP_EQ_I32 = S_CMP_EQ_U32 = S_CMP_EQ_U64 = 0
    S_CMP_LG_I32 = S_CMP_LG_U32 = S_CMP_LG_U64 = 1
    S_CMP_GT_I32 = 2
    S_CMP_GE_I32 = 3
    S_CMP_LT_I32 = 4
    S_CMP_LE_I32 = 5
    S_CMP_GT_U32 = 6
    S_CMP_GE_U32 = 7
    S_CMP_LT_U32 = 8
    S_CMP_LE_U32 = 9
    S_BITCMP0_B32 = S_BITCMP0_B64 = 10
    S_BITCMP1_B32 = S_BITCMP1_B64 = 11


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
def signed_of(value: Any, bits: int) -> int:
    """Takes a zero-extended number of 32 or 64 bits for a signed one."""
    return np.int64(value << np.uint64(64 - bits)) >> (64 - bits)


@inlined
def compare(opcode: int, a: Any, b: Any, bits: int) -> bool:
    """Compares as an instruction of `Compare` does; a, b are zero-extended."""
    if opcode == Compare.S_CMP_EQ_I32:
        return a == b
    if opcode == Compare.S_CMP_LG_I32:
        return a != b
    if opcode == Compare.S_CMP_GT_U32:
        return a > b
    if opcode == Compare.S_CMP_GE_U32:
        return a >= b
    if opcode == Compare.S_CMP_LT_U32:
        return a < b
    if opcode == Compare.S_CMP_LE_U32:
        return a <= b
    x, y = signed_of(a, bits), signed_of(b, bits)
    if opcode == Compare.S_CMP_GT_I32:
        return x > y
    if opcode == Compare.S_CMP_GE_I32:
        return x >= y
    if opcode == Compare.S_CMP_LT_I32:
        return x < y
    if opcode == Compare.S_CMP_LE_I32:
        return x <= y
    bit = (a >> (b & np.uint64(bits - 1))) & np.uint64(1)
    return bit == np.uint64(1 if opcode == Compare.S_BITCMP1_B32 else 0)


@inlined
def arithmetic(opcode: int, a: int, b: int, scc: int) -> tuple[int, int]:
    """Computes an instruction of `Arithmetic`: its result, of which the lowest 32 bits count, and the new SCC.

    a, b: zero-extended sources of 32 bits. scc: before.
    """
    if opcode == Arithmetic.S_ADD_U32:
        return a + b, (a + b) >> 32
    if opcode == Arithmetic.S_ADDC_U32:
        return a + b + scc, (a + b + scc) >> 32
    if opcode == Arithmetic.S_SUB_U32:
        return a - b, np.int64(b > a)
    if opcode == Arithmetic.S_SUBB_U32:
        return a - b - scc, np.int64(b + scc > a)
    if opcode == Arithmetic.S_MIN_U32:
        return min(a, b), np.int64(a < b)
    if opcode == Arithmetic.S_MAX_U32:
        return max(a, b), np.int64(a >= b)
    x, y = sign_extended(a, 32), sign_extended(b, 32)
    if opcode == Arithmetic.S_ADD_I32:
        return x + y, np.int64(x + y != sign_extended(x + y, 32))
    if opcode == Arithmetic.S_SUB_I32:
        return x - y, np.int64(x - y != sign_extended(x - y, 32))
    if opcode == Arithmetic.S_MIN_I32:
        return min(x, y), np.int64(x < y)
    if opcode == Arithmetic.S_MAX_I32:
        return max(x, y), np.int64(x >= y)
    shift = 4
    if opcode == Arithmetic.S_LSHL1_ADD_U32:
        shift = 1
    elif opcode == Arithmetic.S_LSHL2_ADD_U32:
        shift = 2
    elif opcode == Arithmetic.S_LSHL3_ADD_U32:
        shift = 3
    total = (a << shift) + b
    return total, np.int64(total >> 32 != 0)


@inlined
def bitwise(opcode: int, a: Any, b: Any) -> Any:
    """Computes the instructions of `Logic` that look at each bit by itself."""
    if opcode == Logic.S_AND_B32:
        return a & b
    if opcode == Logic.S_OR_B32:
        return a | b
    if opcode == Logic.S_XOR_B32:
        return a ^ b
    if opcode == Logic.S_ANDN2_B32:
        return a & ~b
    if opcode == Logic.S_ORN2_B32:
        return a | ~b
    if opcode == Logic.S_NAND_B32:
        return ~(a & b)
    if opcode == Logic.S_NOR_B32:
        return ~(a | b)
    if opcode == Logic.S_XNOR_B32:
        return ~(a ^ b)
    if opcode == Logic.S_ANDN1_SAVEEXEC_B64:
        return ~a & b
    if opcode == Logic.S_ORN1_SAVEEXEC_B64:
        return ~a | b
    return ~a


@inlined
def bit_field(value: Any, offset: int, size: int, bits: int, signed: bool) -> Any:
    """Gives `size` (0..127) bits of a zero-extended number of `bits` bits from bit `offset` on, without those past its end."""
    if size == 0:
        return np.uint64(0)
    kept = min(size, bits - offset)
    field = value << np.uint64(64 - offset - kept)
    return np.uint64(np.int64(field) >> np.int64(64 - kept)) if signed else field >> np.uint64(64 - kept)


@inlined
def logic(opcode: int, a: Any, b: Any, bits: int) -> Any:
    """Computes an instruction of `Logic` on zero-extended sources of 32 or 64 bits; the result's lowest `bits` bits count."""
    shift = b & np.uint64(bits - 1)
    if opcode == Logic.S_LSHL_B32:
        return a << shift
    if opcode == Logic.S_LSHR_B32:
        return a >> shift
    if opcode == Logic.S_ASHR_I32:
        return np.uint64(signed_of(a, bits) >> np.int64(shift))
    if opcode == Logic.S_ABS_I32:
        return np.uint64(abs(signed_of(a, bits)))
    if opcode == Logic.S_ABSDIFF_I32:
        return np.uint64(abs(signed_of(a - b, bits)))
    if opcode == Logic.S_BCNT0_I32_B32:
        return np.uint64(bits - count_ones(a))
    if opcode == Logic.S_BCNT1_I32_B32:
        return np.uint64(count_ones(a))
    if opcode == Logic.S_QUADMASK_B32 or opcode == Logic.S_WQM_B32:
        return quads(a, bits, opcode == Logic.S_WQM_B32)
    if opcode == Logic.S_BFE_U32 or opcode == Logic.S_BFE_I32:
        return bit_field(a, np.int64(shift), np.int64((b >> np.uint64(16)) & np.uint64(0x7F)), bits, opcode == Logic.S_BFE_I32)
    return bitwise(opcode, a, b)


@inlined
def plain(opcode: int, a: Any, b: Any, old: Any, chosen: bool, bits: int) -> Any:
    """Computes an instruction of `Plain` on zero-extended sources; as many bits count as the result has.

    old: the destination before. chosen: whether SCC is set. bits: 64 where a source or the result is a pair, else 32.
    """
    one, most = np.uint64(1), np.uint64(bits - 1)
    if opcode == Plain.S_MOV_B32:
        return a
    if opcode == Plain.S_CMOV_B32:
        return a if chosen else old
    if opcode == Plain.S_CSELECT_B32:
        return a if chosen else b
    if opcode == Plain.S_BITSET0_B32:
        return old & ~(one << (a & most))
    if opcode == Plain.S_BITSET1_B32:
        return old | one << (a & most)
    if opcode == Plain.S_BFM_B32:
        return ((one << (a & most)) - one) << (b & most)
    if opcode == Plain.S_BREV_B32:
        return reversed_bits(a, bits)
    if opcode == Plain.S_FF0_I32_B32:
        return np.uint64(lowest_one(~a, bits))
    if opcode == Plain.S_FF1_I32_B32:
        return np.uint64(lowest_one(a, bits))
    if opcode == Plain.S_FLBIT_I32_B32:
        return np.uint64(leading_zeros(a, bits))
    if opcode == Plain.S_FLBIT_I32:
        return np.uint64(leading_zeros(a ^ np.uint64(signed_of(a, bits) >> 63), bits))
    return narrow(opcode, a, b)


@inlined
def narrow(opcode: int, a: Any, b: Any) -> Any:
    """Computes the instructions of `Plain` that there are on sources of 32 bits alone."""
    low, high = np.uint64(0xFFFF), np.uint64(0xFFFF_0000)
    if opcode == Plain.S_BITREPLICATE_B64_B32:
        result = np.uint64(0)
        for index in range(32):
            result |= (((a >> np.uint64(index)) & np.uint64(1)) * np.uint64(3)) << np.uint64(2 * index)
        return result
    if opcode == Plain.S_MUL_I32:
        return a * b
    if opcode == Plain.S_MUL_HI_U32:
        return (a * b) >> np.uint64(32)
    if opcode == Plain.S_MUL_HI_I32:
        return np.uint64((signed_of(a, 32) * signed_of(b, 32)) >> 32)
    if opcode == Plain.S_PACK_LL_B32_B16:
        return (a & low) | (b & low) << np.uint64(16)
    if opcode == Plain.S_PACK_LH_B32_B16:
        return (a & low) | (b & high)
    if opcode == Plain.S_PACK_HH_B32_B16:
        return (a >> np.uint64(16)) | (b & high)
    return np.uint64(sign_extended(np.int64(a), 8 if opcode == Plain.S_SEXT_I32_I8 else 16))


@inlined
def operands(wave: int, record: int) -> tuple[Any, Any]:
    """Gives both sources as uint64, zero-extended where they are no pairs."""
    scalars, fields = scalars_of(wave), record_of(record)
    first, second, pairs = fields[at.SOURCE_0], fields[at.SOURCE_1], fields[at.COUNT]
    a = scalar_pair(scalars, first) if pairs & 1 else np.uint64(scalars[first])
    b = scalar_pair(scalars, second) if pairs & 2 else np.uint64(scalars[second])
    return a, b


@inlined
def deliver(scalars: Any, fields: Any, result: Any) -> None:
    """Writes a result, of which the lowest 32 bits count where it is no pair."""
    if fields[at.COUNT] & PAIR_RESULT:
        set_scalar_pair(scalars, fields[at.DESTINATION], result)
    else:
        scalars[fields[at.DESTINATION]] = np.uint32(result & np.uint64(0xFFFF_FFFF))


@handler
def scalar_plain(wave: int, record: int, context: int) -> None:
    """Runs the instructions of `Plain`."""
    scalars, fields = scalars_of(wave), record_of(record)
    a, b = operands(wave, record)
    is_pair, destination = fields[at.COUNT] & PAIR_RESULT, fields[at.DESTINATION]
    old = scalar_pair(scalars, destination) if is_pair else np.uint64(scalars[destination])
    bits = 64 if fields[at.COUNT] & (PAIR_RESULT | 1) else 32
    deliver(scalars, fields, plain(fields[at.OPCODE], a, b, old, scalars[at.SCC] != 0, bits))


@handler
def scalar_logic(wave: int, record: int, context: int) -> None:
    """Runs the instructions of `Logic` that do not name EXEC."""
    scalars, fields = scalars_of(wave), record_of(record)
    a, b = operands(wave, record)
    bits = 64 if fields[at.COUNT] & 1 else 32
    result = logic(fields[at.OPCODE], a, b, bits) & (ALL_LANES >> np.uint64(64 - bits))
    deliver(scalars, fields, result)
    scalars[at.SCC] = np.uint32(1 if result else 0)


@handler
def scalar_exec(wave: int, record: int, context: int) -> None:
    """Runs those of `Logic` that change EXEC. IMMEDIATE is 1 where the new EXEC is the result, 0 where the old one."""
    scalars, fields = scalars_of(wave), record_of(record)
    a, _ = operands(wave, record)
    old = scalar_pair(scalars, at.EXEC)
    new = bitwise(fields[at.OPCODE], a, old)
    set_scalar_pair(scalars, fields[at.DESTINATION], new if fields[at.IMMEDIATE] else old)
    set_scalar_pair(scalars, at.EXEC, new)
    scalars[at.SCC] = np.uint32(1 if new else 0)


@handler
def scalar_compare(wave: int, record: int, context: int) -> None:
    """Runs the instructions of `Compare`."""
    a, b = operands(wave, record)
    fields = record_of(record)
    scalars_of(wave)[at.SCC] = np.uint32(1 if compare(fields[at.OPCODE], a, b, 64 if fields[at.COUNT] & 1 else 32) else 0)


@handler
def scalar_arithmetic(wave: int, record: int, context: int) -> None:
    """Runs the instructions of `Arithmetic`."""
    scalars, fields = scalars_of(wave), record_of(record)
    a, b = operands(wave, record)
    result, scc = arithmetic(fields[at.OPCODE], np.int64(a), np.int64(b), np.int64(scalars[at.SCC]))
    scalars[fields[at.DESTINATION]], scalars[at.SCC] = np.uint32(result), np.uint32(scc)


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
