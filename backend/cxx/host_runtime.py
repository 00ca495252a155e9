"""What lowered host code needs while it runs: integers of fixed width, records, cells, and a failed check."""

from __future__ import annotations

import math
from typing import Any, NoReturn

import numpy as np

from backend.cxx.errors import CxxError, HostTrap

UNSET = None
"""A variable that nothing was assigned to."""


def i32(value: int) -> int:
    """`value` modulo 2^32 as int32."""
    return ((value + 0x80000000) & 0xFFFFFFFF) - 0x80000000


def u32(value: int) -> int:
    """`value` modulo 2^32, which is what a uint32 holds."""
    return value & 0xFFFFFFFF


def i64(value: int) -> int:
    """`value` modulo 2^64 as int64."""
    return ((value + (1 << 63)) & 0xFFFFFFFFFFFFFFFF) - (1 << 63)


def u64(value: int) -> int:
    """`value` modulo 2^64, which is what a uint64 holds."""
    return value & 0xFFFFFFFFFFFFFFFF


def wrapped(value: int, bits: int, signed: bool) -> int:
    """`value` modulo 2 to the power of `bits`."""
    value &= (1 << bits) - 1
    return value - (1 << bits) if signed and value >> (bits - 1) else value


def f32(value: float) -> float:
    """A number rounded to float."""
    return float(np.float32(value))


def log2f(value: float) -> float:
    """The C function: of 0 minus infinity, of less NaN."""
    if value > 0:
        return f32(math.log2(value))
    return -math.inf if value == 0 else math.nan


def divide(numerator: int, denominator: int) -> int:
    """`numerator / denominator`, truncated; raises HostTrap for a division by zero."""
    if denominator == 0:
        raise HostTrap("SIGFPE: an integer division by zero")
    quotient = abs(numerator) // abs(denominator)
    return quotient if (numerator < 0) == (denominator < 0) else -quotient


def remainder(numerator: int, denominator: int) -> int:
    """`numerator % denominator` with the numerator's sign; raises HostTrap for zero."""
    return numerator - divide(numerator, denominator) * denominator


def trailing_zeros(value: int) -> int:
    """__builtin_ctz on x86: of 0 it is undefined; tzcnt gives 32."""
    return (value & -value).bit_length() - 1 if value else 32


def leading_zeros(value: int) -> int:
    """__builtin_clz of an unsigned int: of 0 it is undefined; lzcnt gives 32."""
    return 32 - value.bit_length()


def element(array: tuple[Any, ...], index: int) -> Any:
    """An element of an array; raises HostTrap outside of it, where C++ says nothing."""
    if not 0 <= index < len(array):
        raise HostTrap(f"element {index} of an array of {len(array)}")
    return array[index]


def engaged(value: Any) -> Any:
    """The value of an optional that has one; raises HostTrap where it has none."""
    if value is None:
        raise HostTrap("std::bad_optional_access")
    return value


class Cell:
    """A number whose address is given away."""

    def __init__(self, value: Any) -> None:
        self.value = value


class RecordObject:
    """An object of a record; members without a value are not there. zeros: what `= {}` gives; offsets: bytes, by member."""

    zeros: dict[str, Any] = {}  # noqa: RUF012 - written for each subclass
    offsets: dict[str, tuple[int, int]] = {}  # noqa: RUF012
    size = 0

    @classmethod
    def zero(cls, **given: Any) -> RecordObject:
        """One whose members are zero but for those given."""
        made = cls()
        made.__dict__.update(cls.zeros)
        made.__dict__.update(given)
        return made

    def copy(self) -> RecordObject:
        """Another object with the same members."""
        made = type(self)()
        made.__dict__.update(self.__dict__)
        return made


class CheckFailedError(Exception):
    """A CHECK macro's condition does not hold. file, line: where; message: its parts, one after the other."""

    def __init__(self, file: str, line: int, message: str) -> None:
        super().__init__(f"{file}:{line} {message}")
        self.file = file
        self.line = line
        self.message = message


def check_failed(file: str, line: int, *parts: Any) -> NoReturn:
    """End a run by a CHECK macro."""
    raise CheckFailedError(file, line, "".join(str(part) for part in parts))


__all__ = [
    "UNSET",
    "Cell",
    "CheckFailedError",
    "CxxError",
    "RecordObject",
    "check_failed",
    "divide",
    "element",
    "engaged",
    "f32",
    "i32",
    "i64",
    "leading_zeros",
    "log2f",
    "remainder",
    "trailing_zeros",
    "u32",
    "u64",
    "wrapped",
]
