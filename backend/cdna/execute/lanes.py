"""Views of a wave, and what every vector handler does with them: fetch sources, commit results under EXEC.

Small functions that numba compiles into each handler; the memory behind them is described in layout.py.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from backend.cdna.execute import layout as at
from backend.cdna.execute.native import (
    inlined,
    view_f32,
    view_i32,
    view_i64,
    view_u8,
    view_u32,
    view_u64,
)

ALL_LANES = np.uint64(0xFFFF_FFFF_FFFF_FFFF)


@inlined
def scalars_of(wave: int) -> Any:
    """Views the wave's scalar registers and state, uint32 [SCALARS]."""
    return view_u32(wave, (at.SCALARS,))


@inlined
def rows_of(wave: int) -> Any:
    """Views the wave's vector registers, uint32 [ROWS, 64]."""
    return view_u32(wave + at.ROWS_OFFSET, (at.ROWS, at.LANES))


@inlined
def signed_rows_of(wave: int) -> Any:
    """Views the wave's vector registers as int32 [ROWS, 64]."""
    return view_i32(wave + at.ROWS_OFFSET, (at.ROWS, at.LANES))


@inlined
def float_rows_of(wave: int) -> Any:
    """Views the wave's vector registers as float32 [ROWS, 64]."""
    return view_f32(wave + at.ROWS_OFFSET, (at.ROWS, at.LANES))


@inlined
def record_of(record: int) -> Any:
    """Views the words of an encoded instruction, int32 [RECORD_WORDS]."""
    return view_i32(record, (at.RECORD_WORDS,))


@inlined
def context_of(context: int) -> Any:
    """Views the words of a context, int64 [CONTEXT_WORDS]."""
    return view_i64(context, (at.CONTEXT_WORDS,))


@inlined
def words_at(address: int, count: int) -> Any:
    """Views the words at an address, int64 [count]."""
    return view_i64(address, (count,))


@inlined
def unsigned_words_at(address: int, count: int) -> Any:
    """Views the words at an address, uint64 [count]."""
    return view_u64(address, (count,))


@inlined
def bytes_at(address: int, count: int) -> Any:
    """Views the bytes at an address, uint8 [count]."""
    return view_u8(address, (count,))


@inlined
def scalar_pair(scalars: Any, index: int) -> Any:
    """Gives the 64 bits of two consecutive scalars, the lower one first."""
    return np.uint64(scalars[index]) | (np.uint64(scalars[index + 1]) << np.uint64(32))


@inlined
def set_scalar_pair(scalars: Any, index: int, value: Any) -> None:
    """Writes 64 bits to two consecutive scalars, the lower half first."""
    scalars[index] = np.uint32(value & np.uint64(0xFFFF_FFFF))
    scalars[index + 1] = np.uint32(value >> np.uint64(32))


@inlined
def source_row(wave: int, code: int, slot: int) -> int:
    """The row that holds the one-dword source `code`; a scalar is spread over the first working row of `slot`."""
    if code < at.SCALAR_OPERAND:
        return code
    row = at.SOURCE_ROWS + slot * at.ROWS_PER_SOURCE
    value = scalars_of(wave)[code - at.SCALAR_OPERAND]
    rows = rows_of(wave)
    for lane in range(at.LANES):
        rows[row, lane] = value
    return row


@inlined
def two_sources(wave: int, fields: Any) -> tuple[int, int]:
    """Gives the rows of the first and the second source of an instruction, a dword each."""
    return source_row(wave, fields[at.SOURCE_0], 0), source_row(wave, fields[at.SOURCE_1], 1)


@inlined
def three_sources(wave: int, fields: Any) -> tuple[int, int, int]:
    """Gives the rows of the three sources of an instruction, a dword each."""
    a, b = two_sources(wave, fields)
    return a, b, source_row(wave, fields[at.SOURCE_2], 2)


@inlined
def source_pair(wave: int, code: int, slot: int) -> int:
    """As source_row for a source of two dwords: the first of two rows."""
    if code < at.SCALAR_OPERAND:
        return code
    row = at.SOURCE_ROWS + slot * at.ROWS_PER_SOURCE
    low = scalars_of(wave)[code - at.SCALAR_OPERAND]
    high = scalars_of(wave)[code - at.SCALAR_OPERAND + 1]
    rows = rows_of(wave)
    for lane in range(at.LANES):
        rows[row, lane] = low
        rows[row + 1, lane] = high
    return row


@inlined
def result_row(wave: int, destination: int, count: int, a: int, b: int, c: int) -> int:
    """Where a handler puts its `count` (1 or 2) result rows: the destination itself when all lanes are enabled and no source
    row (nor its neighbour) is also a result row, so that the compiler's vector loops need not fear it; else working rows."""
    apart = abs(destination - a) >= count and abs(destination - b) >= count and abs(destination - c) >= count
    if apart and scalar_pair(scalars_of(wave), at.EXEC) == ALL_LANES:
        return destination
    return at.RESULT_ROWS


@inlined
def commit(wave: int, destination: int, count: int, result: int) -> None:
    """Copy `count` result rows from `result` to the destination in the lanes that EXEC enables."""
    if result == destination:
        return
    rows = rows_of(wave)
    exec_mask = scalar_pair(scalars_of(wave), at.EXEC)
    if exec_mask == ALL_LANES:
        for index in range(count):
            for lane in range(at.LANES):
                rows[destination + index, lane] = rows[result + index, lane]
    else:
        commit_masked(rows, destination, result, count, exec_mask)


@inlined
def commit_masked(rows: Any, destination: int, source: int, count: int, mask: Any) -> None:
    """Copies `count` rows in the lanes of `mask`, a bit a lane."""
    for index in range(count):
        for lane in range(at.LANES):
            if (mask >> np.uint64(lane)) & np.uint64(1):
                rows[destination + index, lane] = rows[source + index, lane]


@inlined
def value64(rows: Any, row: int, lane: int) -> Any:
    """Gives the 64 bits of a register pair in one lane."""
    return np.uint64(rows[row, lane]) | (np.uint64(rows[row + 1, lane]) << np.uint64(32))


@inlined
def set_value64(rows: Any, row: int, lane: int, value: Any) -> None:
    """Writes the 64 bits of a register pair in one lane."""
    rows[row, lane] = np.uint32(value & np.uint64(0xFFFF_FFFF))
    rows[row + 1, lane] = np.uint32(value >> np.uint64(32))
