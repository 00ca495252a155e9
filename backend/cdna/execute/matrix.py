"""Matrix unit: V_MFMA_F32_*. D = A * B + C over all 64 lanes, whatever EXEC says.

Layout (ISA documents, "Matrix layouts"): for an M x M result lane % M is A's row and B's column, lane // M says which part of
K the
lane holds. Element (row, column) of a 16x16 result is in register row % 4 of lane 16 * (row // 4) + column; of a 32x32
result in register 4 * (row // 8) + row % 4 of lane 32 * (row // 4 % 2) + column.

Each result is a chain of fused multiply-adds in float32: the first element of each part of K, in the order of the parts, then
the
second, and so on. Products of 8- and 16-bit floats are exact, so the one thing that hardware may do otherwise is the order
of the additions. fp32 inputs follow MODE's denormal mode (ISA documents, "Matrix arithmetic"), C and the result do not, and
narrower inputs keep their denormals. xf32 rounds its inputs to 10 fraction bits.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import IntEnum
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from backend.cdna.execute import layout as at
from backend.cdna.execute.convert import fp8_to_float
from backend.cdna.execute.float_values import flushed
from backend.cdna.execute.lanes import context_of, record_of, rows_of, scalars_of
from backend.cdna.execute.native import bits_float, float_bits, handler, inlined, view_f32

R = at.RESULT_ROWS
COLUMNS = 16  # of a panel
ROWS = 16


Element = IntEnum("Element", "F32 XF32 BF16 F16 FP8 BF8", start=0)
"""Type of an operand's elements."""


@inlined
def half_value(bits: Any) -> Any:
    """fp16 to float32 without branches: rescaled bits, and an exponent of all ones for infinity and NaN."""
    magnitude = (bits & np.uint32(0x7FFF)) << np.uint32(13)
    value = bits_float(np.uint32(magnitude)) * bits_float(np.uint32(0x7780_0000))  # 2^112
    special = np.uint32(0x7F80_0000) if magnitude >= np.uint32(0x0F80_0000) else np.uint32(0)
    return bits_float(float_bits(value) | special | ((bits & np.uint32(0x8000)) << np.uint32(16)))


@inlined
def e4m3_value(byte: Any, fnuz: bool) -> Any:
    """Converts e4m3 to float32 without branches in the common case."""
    magnitude = np.uint32((byte & np.uint32(0x7F)) << np.uint32(20))
    sign = (byte & np.uint32(0x80)) << np.uint32(24)
    if fnuz:
        nan = np.uint32(0x7FC0_0000) if byte == np.uint32(0x80) else np.uint32(0)
        value = bits_float(magnitude) * bits_float(np.uint32((254 - 8) << 23))
    else:
        nan = np.uint32(0x7FC0_0000) if byte & np.uint32(0x7F) == np.uint32(0x7F) else np.uint32(0)
        value = bits_float(magnitude) * bits_float(np.uint32((254 - 7) << 23))
    return bits_float(float_bits(value) | sign | nan)


@inlined
def unpack(rows: Any, source: int, target: Any, element: int, registers: int, fnuz: bool, keep: Any) -> None:
    """Spread an operand's registers into float32 [elements of a lane, 64 lanes], which is [k, M] with k in the module's
    order."""
    per_register = elements_per_register(element)
    for register in range(registers):
        row = source + register
        for index in range(per_register):
            place = (register * per_register + index) * at.LANES
            if element == Element.FP8:
                for lane in range(at.LANES):
                    byte = (rows[row, lane] >> np.uint32(8 * index)) & np.uint32(0xFF)
                    target[place + lane] = e4m3_value(np.uint32(byte), fnuz)
            elif element == Element.BF16:
                for lane in range(at.LANES):
                    target[place + lane] = bits_float(np.uint32((rows[row, lane] >> np.uint32(16 * index)) << np.uint32(16)))
            elif element == Element.F16:
                for lane in range(at.LANES):
                    word = (rows[row, lane] >> np.uint32(16 * index)) & np.uint32(0xFFFF)
                    target[place + lane] = half_value(np.uint32(word))
            elif element == Element.F32:
                for lane in range(at.LANES):
                    target[place + lane] = flushed(bits_float(rows[row, lane]), keep)
            elif element == Element.BF8:
                for lane in range(at.LANES):
                    byte = (rows[row, lane] >> np.uint32(8 * index)) & np.uint32(0xFF)
                    target[place + lane] = fp8_to_float(np.int64(byte), True, fnuz)
            else:
                for lane in range(at.LANES):
                    bits = np.int64(rows[row, lane])
                    bits = (bits + 0xFFF + ((bits >> 13) & 1)) & 0xFFFF_E000
                    target[place + lane] = bits_float(np.uint32(bits))


@inlined
def elements_per_register(element: int) -> int:
    """Gives the number of elements in a dword."""
    if element == Element.F32 or element == Element.XF32:
        return 1
    return 2 if element == Element.BF16 or element == Element.F16 else 4


def _panel(row_offsets: list[int]) -> Callable[..., Any]:
    """An intrinsic: 16 rows by 16 columns of D = C + A * B, the accumulators kept in vector registers.

    row_offsets: byte offset of each result row from the address of D (and C): 16 consecutive lanes of one register.
    Arguments: addresses of D, C, A (float32 [k, size] at its first row), B (likewise at its first column), the number of
    k and the bytes between two k.
    """

    def panel(typing_context: Any, d: Any, c: Any, a: Any, b: Any, depth: Any, stride: Any) -> Any:
        signature = types.void(types.int64, types.int64, types.int64, types.int64, types.int64, types.int64)

        def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
            d, c, a, b, depth, stride = arguments
            vector, word = ir.VectorType(ir.FloatType(), COLUMNS), ir.IntType(64)

            def pointer(base: Any, offset: Any, element: Any) -> Any:
                return builder.inttoptr(builder.add(base, offset), element.as_pointer())

            def constant(value: int) -> Any:
                return ir.Constant(word, value)

            fma = cgutils.get_or_insert_function(
                builder.module, ir.FunctionType(vector, [vector] * 3), f"llvm.fma.v{COLUMNS}f32"
            )
            sums = [cgutils.alloca_once(builder, vector) for _ in row_offsets]
            for total, offset in zip(sums, row_offsets, strict=True):
                builder.store(builder.load(pointer(c, constant(offset), vector), align=4), total)
            with cgutils.for_range(builder, depth, intp=word) as loop:
                here = builder.mul(loop.index, stride)
                column = builder.load(pointer(b, here, vector), align=4)
                for row, total in enumerate(sums):
                    scalar = builder.load(pointer(builder.add(a, here), constant(4 * row), ir.FloatType()))
                    lane = builder.insert_element(ir.Constant(vector, ir.Undefined), scalar, ir.Constant(ir.IntType(32), 0))
                    spread = builder.shuffle_vector(
                        lane, ir.Constant(vector, ir.Undefined), ir.Constant(ir.VectorType(ir.IntType(32), COLUMNS), None)
                    )
                    builder.store(builder.call(fma, [spread, column, builder.load(total)]), total)
            for total, offset in zip(sums, row_offsets, strict=True):
                builder.store(builder.load(total), pointer(d, constant(offset), vector), align=4)
            return context.get_dummy_value()

        return signature, generate

    return intrinsic(panel)  # type: ignore[no-any-return]


panel_of_16 = _panel([(row % 4) * at.ROW_BYTES + (row // 4) * 64 for row in range(ROWS)])
panel_of_32 = _panel([(4 * (row // 8) + row % 4) * at.ROW_BYTES + (row // 4 % 2) * 128 for row in range(ROWS)])
SECOND_ROWS = 8 * at.ROW_BYTES  # rows 16..31 of a 32x32 result begin eight registers on
SECOND_COLUMNS = 64


@handler
def matrix(wave: int, record: int, context_address: int) -> None:
    """V_MFMA. OPCODE: M (16 or 32). COUNT: element of A | of B << 8. IMMEDIATE: registers of A | of B << 8.

    SOURCE_2: row of C, or the operand code of a constant that fills it.
    """
    context, fields, rows = context_of(context_address), record_of(record), rows_of(wave)
    size = np.int64(fields[at.OPCODE])
    fnuz = context[at.CTX_ARCH] == 942
    keep = bits_float(scalars_of(wave)[at.DENORMAL_F32])
    a_address, b_address = context[at.CTX_MATRIX_A], context[at.CTX_MATRIX_B]
    a_registers, b_registers = fields[at.IMMEDIATE] & 0xFF, fields[at.IMMEDIATE] >> 8
    a_element, b_element = fields[at.COUNT] & 0xFF, fields[at.COUNT] >> 8
    unpack(rows, fields[at.SOURCE_0], view_f32(a_address, (4096,)), a_element, a_registers, fnuz, keep)
    unpack(rows, fields[at.SOURCE_1], view_f32(b_address, (4096,)), b_element, b_registers, fnuz, keep)
    depth = np.int64(a_registers * elements_per_register(a_element) * (at.LANES // size))
    base = wave + at.ROWS_OFFSET
    d, c = base + fields[at.DESTINATION] * at.ROW_BYTES, base + fields[at.SOURCE_2] * at.ROW_BYTES
    if fields[at.SOURCE_2] >= at.SCALAR_OPERAND:
        value = scalars_of(wave)[fields[at.SOURCE_2] - at.SCALAR_OPERAND]
        for register in range(size * size // at.LANES):
            for lane in range(at.LANES):
                rows[R + register, lane] = value
        c = base + R * at.ROW_BYTES
    stride = 4 * size
    if size == 16:
        panel_of_16(d, c, a_address, b_address, depth, stride)
    else:
        for second_rows in range(2):
            for second_columns in range(2):
                shift = second_rows * SECOND_ROWS + second_columns * SECOND_COLUMNS
                a, b = a_address + 64 * second_rows, b_address + 64 * second_columns
                panel_of_32(d + shift, c + shift, a, b, depth, stride)
