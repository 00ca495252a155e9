"""Scalar unit: the 64-bit instructions of SOP1, SOP2 and SOPC, those that save and change EXEC included."""

from __future__ import annotations

from enum import IntEnum, auto
from typing import Any

import numpy as np

from backend.cdna.execute import layout as at
from backend.cdna.execute.lanes import record_of, scalar_pair, scalars_of, set_scalar_pair
from backend.cdna.execute.native import handler, inlined
from backend.cdna.execute.scalar import count_ones, leading_zeros, lowest_one, quads, reversed_bits

Plain64 = IntEnum(
    "Plain64",
    """
    S_MOV_B64 S_CMOV_B64 S_BREV_B64 S_FF0_I32_B64 S_FF1_I32_B64 S_FLBIT_I32_B64 S_FLBIT_I32_I64 S_BITSET0_B64
    S_BITSET1_B64 S_CSELECT_B64 S_BFM_B64 S_BITREPLICATE_B64_B32
    """,
    start=0,
)
"""Instructions of 64 bits that leave SCC as it is."""

Logic64 = IntEnum(
    "Logic64",
    """
    S_NOT_B64 S_AND_B64 S_OR_B64 S_XOR_B64 S_ANDN2_B64 S_ORN2_B64 S_NAND_B64 S_NOR_B64 S_XNOR_B64 S_LSHL_B64 S_LSHR_B64
    S_ASHR_I64 S_BFE_U64 S_BFE_I64 S_QUADMASK_B64 S_WQM_B64
    """,
    start=0,
)
"""Instructions of 64 bits whose SCC is "the result is not zero"."""


class Count64(IntEnum):
    """One result dword; SCC is "it is not zero"."""

    S_BCNT0_I32_B64 = 0
    S_BCNT1_I32_B64 = auto()


Compare64 = IntEnum("Compare64", "S_CMP_EQ_U64 S_CMP_LG_U64 S_BITCMP0_B64 S_BITCMP1_B64", start=0)
"""Comparisons of 64 bits, whose only result is SCC."""

Exec64 = IntEnum(
    "Exec64",
    """
    S_AND_SAVEEXEC_B64 S_OR_SAVEEXEC_B64 S_XOR_SAVEEXEC_B64 S_ANDN2_SAVEEXEC_B64 S_ORN2_SAVEEXEC_B64 S_NAND_SAVEEXEC_B64
    S_NOR_SAVEEXEC_B64 S_XNOR_SAVEEXEC_B64 S_ANDN1_SAVEEXEC_B64 S_ORN1_SAVEEXEC_B64 S_ANDN1_WREXEC_B64 S_ANDN2_WREXEC_B64
    """,
    start=0,
)
"""Changes EXEC. The SAVEEXEC forms give its old value, the WREXEC forms the new one."""


@inlined
def saved_exec(opcode: int, value: Any, mask: Any) -> Any:
    """The new EXEC of S_*_SAVEEXEC and S_*_WREXEC from the source and the old EXEC."""
    if opcode == Exec64.S_AND_SAVEEXEC_B64:
        return value & mask
    if opcode == Exec64.S_OR_SAVEEXEC_B64:
        return value | mask
    if opcode == Exec64.S_XOR_SAVEEXEC_B64:
        return value ^ mask
    if opcode == Exec64.S_ANDN2_SAVEEXEC_B64 or opcode == Exec64.S_ANDN2_WREXEC_B64:
        return value & ~mask
    if opcode == Exec64.S_ORN2_SAVEEXEC_B64:
        return value | ~mask
    if opcode == Exec64.S_NAND_SAVEEXEC_B64:
        return ~(value & mask)
    if opcode == Exec64.S_NOR_SAVEEXEC_B64:
        return ~(value | mask)
    if opcode == Exec64.S_XNOR_SAVEEXEC_B64:
        return ~(value ^ mask)
    if opcode == Exec64.S_ORN1_SAVEEXEC_B64:
        return ~value | mask
    return ~value & mask


@inlined
def logic64(opcode: int, a: Any, b: Any) -> Any:
    """Computes 64-bit instructions whose SCC is "the result is not zero"."""
    shift = b & np.uint64(63)
    if opcode == Logic64.S_AND_B64:
        return a & b
    if opcode == Logic64.S_OR_B64:
        return a | b
    if opcode == Logic64.S_XOR_B64:
        return a ^ b
    if opcode == Logic64.S_ANDN2_B64:
        return a & ~b
    if opcode == Logic64.S_ORN2_B64:
        return a | ~b
    if opcode == Logic64.S_NAND_B64:
        return ~(a & b)
    if opcode == Logic64.S_NOR_B64:
        return ~(a | b)
    if opcode == Logic64.S_XNOR_B64:
        return ~(a ^ b)
    if opcode == Logic64.S_NOT_B64:
        return ~a
    if opcode == Logic64.S_LSHL_B64:
        return a << shift
    if opcode == Logic64.S_LSHR_B64:
        return a >> shift
    if opcode == Logic64.S_ASHR_I64:
        return np.uint64(np.int64(a) >> np.int64(shift))
    if opcode == Logic64.S_QUADMASK_B64 or opcode == Logic64.S_WQM_B64:
        return quads(a, 64, opcode == Logic64.S_WQM_B64)
    offset, size = np.int64(shift), np.int64((b >> np.uint64(16)) & np.uint64(0x7F))
    if size == 0:
        return np.uint64(0)
    unused = max(64 - size, 0)
    if opcode == Logic64.S_BFE_U64:
        return (a >> np.uint64(offset)) & (np.uint64(0xFFFF_FFFF_FFFF_FFFF) >> np.uint64(unused))
    kept = min(size, 64 - offset)
    return np.uint64(np.int64(a << np.uint64(64 - offset - kept)) >> np.int64(64 - kept))


@inlined
def operands64(wave: int, record: int) -> tuple[Any, Any]:
    """Both sources, zero-extended. COUNT bits 0 and 1: source 0, source 1 is a pair."""
    scalars, fields = scalars_of(wave), record_of(record)
    first, second, pairs = fields[at.SOURCE_0], fields[at.SOURCE_1], fields[at.COUNT]
    a = scalar_pair(scalars, first) if pairs & 1 else np.uint64(scalars[first])
    b = scalar_pair(scalars, second) if pairs & 2 else np.uint64(scalars[second])
    return a, b


@handler
def scalar_logic64(wave: int, record: int, context: int) -> None:
    """Runs the instructions of `Logic64`."""
    scalars, fields = scalars_of(wave), record_of(record)
    a, b = operands64(wave, record)
    result = logic64(fields[at.OPCODE], a, b)
    set_scalar_pair(scalars, fields[at.DESTINATION], result)
    scalars[at.SCC] = np.uint32(1 if result else 0)


@handler
def scalar_exec64(wave: int, record: int, context: int) -> None:
    """Runs the instructions of `Exec64`."""
    scalars, fields = scalars_of(wave), record_of(record)
    opcode = fields[at.OPCODE]
    a, _ = operands64(wave, record)
    old = scalar_pair(scalars, at.EXEC)
    new = saved_exec(opcode, a, old)
    gives_new = opcode == Exec64.S_ANDN1_WREXEC_B64 or opcode == Exec64.S_ANDN2_WREXEC_B64
    set_scalar_pair(scalars, fields[at.DESTINATION], new if gives_new else old)
    set_scalar_pair(scalars, at.EXEC, new)
    scalars[at.SCC] = np.uint32(1 if new else 0)


@handler
def scalar_count64(wave: int, record: int, context: int) -> None:
    """Runs the instructions of `Count64`."""
    scalars, fields = scalars_of(wave), record_of(record)
    a, _ = operands64(wave, record)
    count = count_ones(a if fields[at.OPCODE] == Count64.S_BCNT1_I32_B64 else ~a)
    scalars[fields[at.DESTINATION]] = np.uint32(count)
    scalars[at.SCC] = np.uint32(1 if count else 0)


@handler
def scalar_compare64(wave: int, record: int, context: int) -> None:
    """Runs the instructions of `Compare64`."""
    opcode = record_of(record)[at.OPCODE]
    a, b = operands64(wave, record)
    bit = (a >> (b & np.uint64(63))) & np.uint64(1)
    if opcode == Compare64.S_CMP_EQ_U64:
        holds = a == b
    elif opcode == Compare64.S_CMP_LG_U64:
        holds = a != b
    else:
        holds = bit == np.uint64(1 if opcode == Compare64.S_BITCMP1_B64 else 0)
    scalars_of(wave)[at.SCC] = np.uint32(1 if holds else 0)


@handler
def scalar_plain64(wave: int, record: int, context: int) -> None:
    """Runs the instructions of `Plain64`."""
    scalars, fields = scalars_of(wave), record_of(record)
    opcode, destination = fields[at.OPCODE], fields[at.DESTINATION]
    a, b = operands64(wave, record)
    one = np.uint64(1)
    if opcode == Plain64.S_MOV_B64:
        set_scalar_pair(scalars, destination, a)
    elif opcode == Plain64.S_CSELECT_B64:
        set_scalar_pair(scalars, destination, a if scalars[at.SCC] else b)
    elif opcode == Plain64.S_CMOV_B64:
        if scalars[at.SCC]:
            set_scalar_pair(scalars, destination, a)
    elif opcode == Plain64.S_BREV_B64:
        set_scalar_pair(scalars, destination, reversed_bits(a, 64))
    elif opcode == Plain64.S_FF0_I32_B64:
        scalars[destination] = np.uint32(lowest_one(~a, 64))
    elif opcode == Plain64.S_FF1_I32_B64:
        scalars[destination] = np.uint32(lowest_one(a, 64))
    elif opcode == Plain64.S_FLBIT_I32_B64:
        scalars[destination] = np.uint32(leading_zeros(a, 64))
    elif opcode == Plain64.S_FLBIT_I32_I64:
        scalars[destination] = np.uint32(leading_zeros(a ^ np.uint64(np.int64(a) >> 63), 64))
    elif opcode == Plain64.S_BITSET0_B64:
        set_scalar_pair(scalars, destination, scalar_pair(scalars, destination) & ~(one << (a & np.uint64(63))))
    elif opcode == Plain64.S_BITSET1_B64:
        set_scalar_pair(scalars, destination, scalar_pair(scalars, destination) | (one << (a & np.uint64(63))))
    elif opcode == Plain64.S_BITREPLICATE_B64_B32:
        result = np.uint64(0)
        for index in range(32):
            result |= (((a >> np.uint64(index)) & one) * np.uint64(3)) << np.uint64(2 * index)
        set_scalar_pair(scalars, destination, result)
    else:
        set_scalar_pair(scalars, destination, ((one << (a & np.uint64(63))) - one) << (b & np.uint64(63)))
