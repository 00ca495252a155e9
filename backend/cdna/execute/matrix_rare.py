"""Matrix unit: the instructions that matrix.py has no fast way for. Integers, fp64, several blocks, sparse A, 4- and 6-bit
floats and block scales, and blocks or lanes of an operand broadcast (cbsz, abid, blgp).

Layout (ISA documents, "Matrix layouts"; AMD's matrix instruction calculator), for M x M results: lane % M is A's row and B's
column. lane // M says which part of K the lane holds, or, of several blocks, which block; fp64 4x4x4 has both, the block in the
lane's second pair of bits. A sparse A holds two of every four k, and an index says which.

Element order and rounding are as in matrix.py; scaled products are exact in float64 and each sum is rounded to fp32.
Integer results wrap at 32 bits.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Any

import numpy as np

from backend.cdna.execute import layout as at
from backend.cdna.execute.convert import fp4_value, fp8_to_float, small_float
from backend.cdna.execute.float_values import flushed
from backend.cdna.execute.lanes import context_of, record_of, rows_of, scalars_of, set_value64, unsigned_words_at, value64
from backend.cdna.execute.matrix import half_value
from backend.cdna.execute.native import (
    bits_double,
    bits_float,
    double_bits,
    float_bits,
    fused_multiply_add,
    handler,
    inlined,
    view_f32,
    view_i32,
)

R = at.RESULT_ROWS
CAPACITY = 4096  # elements of an operand


ElementKind = IntEnum("ElementKind", "F32 F16 BF16 FP8 BF8 FP6 BF6 FP4 I8", start=0)
"""Type of an operand's elements."""


@inlined
def element_bits(kind: int) -> int:
    """Gives the width of an element in bits."""
    if kind == ElementKind.F32:
        return 32
    if kind == ElementKind.F16 or kind == ElementKind.BF16:
        return 16
    if kind == ElementKind.FP4:
        return 4
    return 6 if kind == ElementKind.FP6 or kind == ElementKind.BF6 else 8


@inlined
def raw_element(rows: Any, source: int, lane: int, index: int, bits: int) -> Any:
    """Element `index` of a lane; elements lie one behind the other from the lowest bit of the first register."""
    place = index * bits
    word, shift = source + (place >> 5), place & 31
    value = np.uint64(rows[word, lane])
    if shift + bits > 32:
        value |= np.uint64(rows[word + 1, lane]) << np.uint64(32)
    return np.uint32((value >> np.uint64(shift)) & np.uint64((1 << bits) - 1))


@inlined
def element_value(raw: Any, kind: int, fnuz: bool, keep: Any) -> Any:
    """Gives a floating-point element as float32."""
    if kind == ElementKind.F32:
        return flushed(bits_float(raw), keep)
    if kind == ElementKind.F16:
        return half_value(raw)
    if kind == ElementKind.BF16:
        return bits_float(np.uint32(raw << np.uint32(16)))
    if kind == ElementKind.FP4:
        return fp4_value(np.int64(raw))
    if kind == ElementKind.FP6:
        return small_float(np.int64(raw), 2, 3, 1)
    if kind == ElementKind.BF6:
        return small_float(np.int64(raw), 3, 2, 3)
    return fp8_to_float(np.int64(raw), kind == ElementKind.BF8, fnuz)


@inlined
def broadcast_lane(lane: int, pattern: int) -> int:
    """Gives the lane that `lane` takes B from (BLGP, ISA documents)."""
    if pattern == 0:
        return lane
    if pattern == 1:
        return lane & 31
    if pattern == 2:
        return lane | 32
    if pattern == 3:
        return (lane + 16) & 63
    return (lane & 15) | (pattern - 4) << 4


@inlined
def source_lane(lane: int, size: int, blocks: int, modifiers: int, is_a: bool) -> int:
    """The lane whose registers an operand's lane is filled from: CBSZ and ABID broadcast a block of A, BLGP lanes of B."""
    if not is_a:
        return broadcast_lane(lane, (modifiers >> 7) & 7)
    group = modifiers & 7
    if blocks == 1 or group == 0:
        return lane
    block = ((lane // size) >> group << group) + ((modifiers >> 3) & 15)
    return (block % blocks) * size + lane % size


@inlined
def element_place(index: int, lane: int, count: int, size: int, blocks: int) -> int:
    """Where a lane's element `index` of `count` lies in an unpacked operand, [block, k, size]."""
    if blocks == 1:
        return (index * (at.LANES // size) + lane // size) * size + lane % size
    return ((lane // size) * count + index) * size + lane % size


@inlined
def unpack_floats(
    rows: Any, source: int, target: Any, kind: int, count: int, size: int, blocks: int, modifiers: int, is_a: bool, fnuz: bool,
    keep: Any,
) -> None:  # fmt: skip
    """An operand as float32 [block, k, size] with k in the order of summation: element after element, of each part of K."""
    bits = element_bits(kind)
    for index in range(count):
        for lane in range(at.LANES):
            raw = raw_element(rows, source, source_lane(lane, size, blocks, modifiers, is_a), index, bits)
            value = element_value(raw, kind, fnuz, keep)
            target[element_place(index, lane, count, size, blocks)] = value


@inlined
def unpack_integers(
    rows: Any, source: int, target: Any, count: int, size: int, blocks: int, modifiers: int, is_a: bool
) -> None:
    """Unpacks signed bytes to int32, as unpack_floats does floats."""
    for index in range(count):
        shift = np.uint32(8 * (index & 3))
        for lane in range(at.LANES):
            word = rows[source + (index >> 2), source_lane(lane, size, blocks, modifiers, is_a)]
            value = (np.int32(word >> shift & np.uint32(0xFF)) ^ np.int32(0x80)) - np.int32(0x80)
            target[element_place(index, lane, count, size, blocks)] = value


@inlined
def result_register(row: int, block: int, size: int) -> int:
    """Gives the register of a result's row, counted from the first."""
    if size == 32:
        return 16 * block + 4 * (row >> 3) + (row & 3)
    return 4 * block + (row & 3) if size == 16 else row


@inlined
def result_lane(row: int, block: int, size: int) -> int:
    """Gives the lane of a result's row in column 0; columns are consecutive lanes."""
    if size == 32:
        return 32 * ((row >> 2) & 1)
    return 16 * (row >> 2) if size == 16 else 4 * block


@inlined
def addend(rows: Any, scalars: Any, source: int, register: int, lane: int) -> Any:
    """Gives a dword of C, which may be a constant."""
    if source >= at.SCALAR_OPERAND:
        return scalars[source - at.SCALAR_OPERAND]
    return rows[source + register, lane]


@inlined
def deliver_result(rows: Any, destination: int, registers: int) -> None:
    """Copies the result rows into the destination."""
    for register in range(registers):
        for lane in range(at.LANES):
            rows[destination + register, lane] = rows[R + register, lane]


@inlined
def shape_of(fields: Any) -> tuple[int, int, int, int]:
    """OPCODE: size | blocks << 8. IMMEDIATE: elements of A in a lane | of B << 8. Returns size, blocks and both counts."""
    opcode, counts = np.int64(fields[at.OPCODE]), np.int64(fields[at.IMMEDIATE])
    return opcode & 0xFF, opcode >> 8, counts & 0xFF, counts >> 8


@handler
def matrix_integer(wave: int, record: int, context_address: int) -> None:
    """Runs V_MFMA_I32. TARGET: cbsz | abid << 3 | blgp << 7."""
    context, fields, rows, scalars = context_of(context_address), record_of(record), rows_of(wave), scalars_of(wave)
    size, blocks, count, _ = shape_of(fields)
    modifiers = np.int64(fields[at.TARGET])
    a = view_i32(context[at.CTX_MATRIX_A], (CAPACITY,))
    b = view_i32(context[at.CTX_MATRIX_B], (CAPACITY,))
    unpack_integers(rows, fields[at.SOURCE_0], a, count, size, blocks, modifiers, True)
    unpack_integers(rows, fields[at.SOURCE_1], b, count, size, blocks, modifiers, False)
    depth = count * (at.LANES // size) if blocks == 1 else count
    c = np.int64(fields[at.SOURCE_2])
    for block in range(blocks):
        base = block * depth * size
        for row in range(size):
            register, lane = result_register(row, block, size), result_lane(row, block, size)
            for column in range(size):
                total = np.int32(addend(rows, scalars, c, register, lane + column))
                rows[R + register, lane + column] = np.uint32(total)
            for k in range(depth):
                factor = a[base + k * size + row]
                for column in range(size):
                    product = np.uint32(factor * b[base + k * size + column])
                    rows[R + register, lane + column] += product
    deliver_result(rows, fields[at.DESTINATION], size * size * blocks // at.LANES)


@handler
def matrix_blocks(wave: int, record: int, context_address: int) -> None:
    """V_MFMA_F32 of several blocks, or with operands broadcast. COUNT: kind of A | of B << 8."""
    context, fields, rows, scalars = context_of(context_address), record_of(record), rows_of(wave), scalars_of(wave)
    size, blocks, a_count, b_count = shape_of(fields)
    modifiers, kinds = np.int64(fields[at.TARGET]), np.int64(fields[at.COUNT])
    fnuz = context[at.CTX_ARCH] == 942
    keep = bits_float(scalars[at.DENORMAL_F32])
    a = view_f32(context[at.CTX_MATRIX_A], (CAPACITY,))
    b = view_f32(context[at.CTX_MATRIX_B], (CAPACITY,))
    unpack_floats(rows, fields[at.SOURCE_0], a, kinds & 0xFF, a_count, size, blocks, modifiers, True, fnuz, keep)
    unpack_floats(rows, fields[at.SOURCE_1], b, kinds >> 8, b_count, size, blocks, modifiers, False, fnuz, keep)
    depth = a_count * (at.LANES // size) if blocks == 1 else a_count
    c = np.int64(fields[at.SOURCE_2])
    for block in range(blocks):
        base = block * depth * size
        for row in range(size):
            register, lane = result_register(row, block, size), result_lane(row, block, size)
            for column in range(size):
                total = bits_float(addend(rows, scalars, c, register, lane + column))
                for k in range(depth):
                    total = fused_multiply_add(a[base + k * size + row], b[base + k * size + column], total)
                rows[R + register, lane + column] = float_bits(total)
    deliver_result(rows, fields[at.DESTINATION], size * size * blocks // at.LANES)


@inlined
def scale_factor(byte: int) -> Any:
    """Gives 2 ** (byte - 127) as float64; a byte of 255 is NaN."""
    if byte == 255:
        return np.nan
    return bits_double(np.uint64((byte - 127 + 1023) << 52))


@inlined
def unpack_in_order(rows: Any, source: int, target: Any, kind: int, size: int) -> None:
    """An operand of V_MFMA_*_F8F6F4 as float32 [k, size]: a lane has 32 consecutive elements of 4 or 6 bits, or twice 16
    consecutive ones of 8 bits, half of all k apart."""
    bits, groups = element_bits(kind), at.LANES // size
    for index in range(32):
        for lane in range(at.LANES):
            group = lane // size
            k = 32 * group + index
            if bits == 8:
                k = 16 * (groups * (index >> 4) + group) + (index & 15)
            raw = raw_element(rows, source, lane, index, bits)
            target[k * size + lane % size] = element_value(raw, kind, False, np.float32(0.0))


@inlined
def unpack_scales(rows: Any, target: int, scales: int) -> Any:
    """uint64 [64]: the float64 bits of each lane's scale. scales: row | byte of it << 16, or -1 where there are none."""
    factors = unsigned_words_at(target, at.LANES)
    for lane in range(at.LANES):
        byte = 127
        if scales >= 0:
            byte = np.int64(rows[scales & 0xFFFF, lane] >> np.uint32(8 * (scales >> 16))) & 0xFF
        factors[lane] = double_bits(scale_factor(byte))
    return factors


@handler
def matrix_scaled(wave: int, record: int, context_address: int) -> None:
    """V_MFMA_F32_*_F8F6F4, scaled or not. COUNT: kind of A | of B << 8. DESTINATION_2, TARGET: scales of A and B.

    The scale of row (or column) n and k from 32 m to 32 m + 31 is in lane size * m + n of the scale operand.
    """
    context, fields, rows, scalars = context_of(context_address), record_of(record), rows_of(wave), scalars_of(wave)
    size = np.int64(fields[at.OPCODE]) & 0xFF
    kinds = np.int64(fields[at.COUNT])
    a = view_f32(context[at.CTX_MATRIX_A], (CAPACITY,))
    b = view_f32(context[at.CTX_MATRIX_B], (CAPACITY,))
    unpack_in_order(rows, fields[at.SOURCE_0], a, kinds & 0xFF, size)
    unpack_in_order(rows, fields[at.SOURCE_1], b, kinds >> 8, size)
    a_scales = unpack_scales(rows, context[at.CTX_MATRIX_A] + 2 * CAPACITY, np.int64(fields[at.DESTINATION_2]))
    b_scales = unpack_scales(rows, context[at.CTX_MATRIX_B] + 2 * CAPACITY, np.int64(fields[at.TARGET]))
    c = np.int64(fields[at.SOURCE_2])
    for row in range(size):
        register, lane = result_register(row, 0, size), result_lane(row, 0, size)
        for column in range(size):
            total = bits_float(addend(rows, scalars, c, register, lane + column))
            for group in range(at.LANES // size):
                scale = bits_double(a_scales[group * size + row]) * bits_double(b_scales[group * size + column])
                for k in range(32 * group, 32 * group + 32):
                    product = np.float64(a[k * size + row]) * np.float64(b[k * size + column])
                    total = np.float32(np.float64(total) + product * scale)
            rows[R + register, lane + column] = float_bits(total)
    deliver_result(rows, fields[at.DESTINATION], size * size // at.LANES)


@inlined
def sparse_choice(index_word: Any, element: int, first_bit: int) -> int:
    """Tells which k of its group of four an element of a sparse A has."""
    return np.int64(index_word >> np.uint32(first_bit + 2 * element)) & 3


@handler
def matrix_sparse(wave: int, record: int, context_address: int) -> None:
    """V_SMFMAC: D += A * B. SOURCE_2: row of A's indices. TARGET: first bit of the index register that is used.

    A lane of A holds half as many elements as one of B; elements 2n and 2n + 1 lie among its k from 4n to 4n + 3.
    """
    context, fields, rows, scalars = context_of(context_address), record_of(record), rows_of(wave), scalars_of(wave)
    size, _, a_count, b_count = shape_of(fields)
    kinds = np.int64(fields[at.COUNT])
    a_kind, b_kind = kinds & 0xFF, kinds >> 8
    fnuz = context[at.CTX_ARCH] == 942
    keep = bits_float(scalars[at.DENORMAL_F32])
    b = view_f32(context[at.CTX_MATRIX_B], (CAPACITY,))
    is_integer = a_kind == ElementKind.I8
    for index in range(b_count):
        for lane in range(at.LANES):
            raw = raw_element(rows, fields[at.SOURCE_1], lane, index, element_bits(b_kind))
            signed = (np.int64(raw) ^ 0x80) - 0x80
            b[index * at.LANES + lane] = np.float32(signed) if is_integer else element_value(raw, b_kind, fnuz, keep)
    for row in range(size):
        register, lane = result_register(row, 0, size), result_lane(row, 0, size)
        for column in range(size):
            old = rows[fields[at.DESTINATION] + register, lane + column]
            total, whole = bits_float(old), np.int64(np.int32(old))
            for element in range(a_count):
                for group in range(at.LANES // size):
                    holder = group * size + row
                    choice = sparse_choice(rows[fields[at.SOURCE_2], holder], element, np.int64(fields[at.TARGET]))
                    k = 4 * (element >> 1) + choice
                    raw = raw_element(rows, fields[at.SOURCE_0], holder, element, element_bits(a_kind))
                    other = b[k * at.LANES + group * size + column]
                    if is_integer:
                        whole += ((np.int64(raw) ^ 0x80) - 0x80) * np.int64(other)
                    else:
                        total = fused_multiply_add(element_value(raw, a_kind, fnuz, keep), other, total)
            result = np.uint32(whole & 0xFFFF_FFFF) if is_integer else float_bits(total)
            rows[R + register, lane + column] = result
    deliver_result(rows, fields[at.DESTINATION], size * size // at.LANES)


@handler
def matrix_double(wave: int, record: int, context_address: int) -> None:
    """V_MFMA_F64. OPCODE: size. TARGET: BLGP, whose three bits negate A, B and C. 16x16: register row // 4, lanes from
    16 * (row % 4); 4x4 in four blocks: lane 16 * row + 4 * block + column. A and B have k where D has the row."""
    fields, rows, scalars = record_of(record), rows_of(wave), scalars_of(wave)
    size, negations = np.int64(fields[at.OPCODE]), np.int64(fields[at.TARGET])
    a_sign = -1.0 if negations & 1 else 1.0
    b_sign = -1.0 if negations & 2 else 1.0
    c_sign = -1.0 if negations & 4 else 1.0
    c = np.int64(fields[at.SOURCE_2])
    blocks = 4 if size == 4 else 1
    for block in range(blocks):
        for row in range(size):
            register = 2 * (row >> 2)
            for column in range(size):
                lane = 16 * (row & 3) + 4 * block + column
                if c >= at.SCALAR_OPERAND:
                    low, high = scalars[c - at.SCALAR_OPERAND], scalars[c - at.SCALAR_OPERAND + 1]
                    total = c_sign * bits_double(np.uint64(low) | np.uint64(high) << np.uint64(32))
                else:
                    total = c_sign * bits_double(value64(rows, c + register, lane))
                for k in range(4):
                    x = a_sign * bits_double(value64(rows, fields[at.SOURCE_0], 16 * k + 4 * block + row))
                    y = b_sign * bits_double(value64(rows, fields[at.SOURCE_1], 16 * k + 4 * block + column))
                    total = fused_multiply_add(x, y, total)
                set_value64(rows, R + register, lane, double_bits(total))
    deliver_result(rows, fields[at.DESTINATION], 8 if size == 16 else 2)
