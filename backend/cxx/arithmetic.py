"""Integers of a GPU kernel as compiled Python has them, and the checked memory spaces that a kernel reads and writes.

Knows no kernel. A space is a window of one arena of int32 words; what is written farther out is noted, and the run repeated
with a larger window. Spaces do not alias: what lands past the end of one does not change another.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import numba
import numpy as np
import numpy.typing as npt

POISON = 0xA5A5A5A5 - (1 << 32)
"""int32 word of memory that nobody wrote."""

ORIGIN, FIRST, LIMIT, LOW, HIGH = range(5)
"""Columns of `spans`, a row a space: index of its word 0; words [FIRST, LIMIT) that it has; lowest and highest written."""
NOTHING_LOW, NOTHING_HIGH = 1 << 62, -(1 << 62)

LANES = 64

Words = npt.NDArray[np.int32]
Marks = npt.NDArray[np.uint8]
Table = npt.NDArray[np.int64]
Function = TypeVar("Function", bound=Callable[..., Any])

SOURCE = Path(__file__)


def inlined(function: Function) -> Function:
    """Compiled into whoever calls it."""
    made: Any = typed_by_kind(numba.njit(nogil=True, forceinline=True)(function))
    return made  # type: ignore[no-any-return]


def typed_by_kind(dispatcher: Any) -> Any:
    """Has compiled code that calls it with a constant call what takes any number, rather than compile it for that constant."""
    template = getattr(dispatcher, "get_call_template", None)
    if template is not None:  # else NUMBA_DISABLE_JIT
        kind_of: Any = numba.types.unliteral
        dispatcher.get_call_template = lambda args, kws: template(
            tuple(map(kind_of, args)), {name: kind_of(each) for name, each in kws.items()}
        )
    return dispatcher


@inlined
def i32(value: int) -> int:
    """`value` modulo 2^32 as int32."""
    return ((value + 0x80000000) & 0xFFFFFFFF) - 0x80000000


@inlined
def u32(value: int) -> int:
    """`value` modulo 2^32, which is what a uint32 holds."""
    return value & 0xFFFFFFFF


@inlined
def divide(numerator: int, denominator: int) -> int:
    """int32 `numerator / denominator`, truncated as in C; CDNA has no instruction for it.

    By zero it is |x| + 1 with the numerator's sign, 2 for 0: LLVM expands the division (AMDGPUCodeGenPrepare,
    expandDivRem32) into an estimate, which is 2^32 - 1 then, and two corrections, which both apply.
    """
    if denominator > 0 and numerator >= 0:
        return numerator // denominator
    if denominator == 0:
        quotient = abs(numerator) + 1 if numerator != 0 else 2
    else:
        quotient = abs(numerator) // abs(denominator)
    return quotient if (numerator < 0) == (denominator < 0) else -quotient


@inlined
def remainder(numerator: int, denominator: int) -> int:
    """`numerator % denominator` with the numerator's sign; x % 0 is x, by the same expansion."""
    if denominator == 0:
        return numerator
    rest = abs(numerator) % abs(denominator)
    return rest if numerator >= 0 else -rest


@inlined
def trailing_zeros(value: int) -> int:
    """Number of zero bits below the lowest one; 32 for zero, as v_ffbl_b32 has it after the compiler's clamp."""
    if value == 0:
        return 32
    count = 0
    while (value >> count) & 1 == 0:
        count += 1
    return count


@inlined
def float_to_i32(value: float) -> int:
    """A float as int32: truncated, saturating (v_cvt_i32_f32); 0 for NaN."""
    if value != value:
        return 0
    if value >= 2147483647.0:
        return 2147483647
    if value <= -2147483648.0:
        return -2147483648
    return int(value)


@typed_by_kind
@numba.njit(nogil=True)
def note_stray_read(strays: Table, space: int, word: int) -> None:
    """Record a read of what nobody wrote; strays[0, 0] counts them, also beyond the table's end."""
    count = strays[0, 0]
    if count > 0 and count < strays.shape[0] and strays[count, 0] == space and strays[count, 1] == word:
        return
    strays[0, 0] = count + 1
    if count + 1 < strays.shape[0]:
        strays[count + 1, 0] = space
        strays[count + 1, 1] = word


@inlined
def load(words: Words, written: Marks, spans: Table, strays: Table, space: int, word: int) -> int:
    """One word of a space; the poison, and a note of it, where nothing was written."""
    if spans[space, FIRST] <= word < spans[space, LIMIT]:
        at = spans[space, ORIGIN] + word
        if written[at]:
            return int(words[at])
    note_stray_read(strays, space, word)
    return POISON


@inlined
def store(words: Words, written: Marks, spans: Table, space: int, word: int, value: int) -> None:
    """Write one word of a space, wherever it lies."""
    if word < spans[space, LOW]:
        spans[space, LOW] = word
    if word > spans[space, HIGH]:
        spans[space, HIGH] = word
    if spans[space, FIRST] <= word < spans[space, LIMIT]:
        at = spans[space, ORIGIN] + word
        words[at] = i32(value)
        written[at] = 1


@typed_by_kind
@numba.njit(nogil=True)
def clear(words: Words, written: Marks, spans: Table, strays: Table) -> None:
    """Take back what the previous run wrote, and forget its stray reads."""
    for space in range(spans.shape[0]):
        low = max(spans[space, LOW], spans[space, FIRST])
        high = min(spans[space, HIGH], spans[space, LIMIT] - 1)
        if low <= high:
            begin, end = spans[space, ORIGIN] + low, spans[space, ORIGIN] + high + 1
            words[begin:end] = POISON
            written[begin:end] = 0
        spans[space, LOW] = NOTHING_LOW
        spans[space, HIGH] = NOTHING_HIGH
    strays[0, 0] = 0
