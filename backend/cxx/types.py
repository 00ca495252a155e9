"""Types of C++ as the lowerings see them, and the integer conversions of the language. Knows no syntax.

An integer of either lowering is a Python int (under numba an int64) that always holds a value of its type.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Int:
    """An integer type of 8 to 64 bits; bool is Int(1, False)."""

    bits: int
    signed: bool

    def wrapped(self, value: int) -> int:
        """`value` modulo 2^bits, as this type holds it."""
        value &= (1 << self.bits) - 1
        return value - (1 << self.bits) if self.signed and value >> (self.bits - 1) else value

    def holds(self, other: Int) -> bool:
        """Whether every value of `other` is one of this type."""
        if self.signed == other.signed:
            return self.bits >= other.bits
        return self.signed and self.bits > other.bits

    @property
    def size(self) -> int:
        """The bytes that a value takes."""
        return max(1, self.bits // 8)


@dataclass(frozen=True, slots=True)
class Float:
    """The types float and double."""

    bits: int

    @property
    def size(self) -> int:
        """The bytes that a value takes."""
        return self.bits // 8


@dataclass(frozen=True, slots=True)
class Pointer:
    """T*. An array decays to it."""

    to: Any

    size = 8


@dataclass(frozen=True, slots=True)
class Opaque:
    """A class of which only its name and what is provided for it is known: std::string, a tensor, a stream; `void`, too."""

    name: str


@dataclass(frozen=True, slots=True)
class Array:
    """An array type: T[length]."""

    of: Any
    length: int

    @property
    def size(self) -> int:
        """The bytes that a value takes."""
        return self.length * (size_of(self.of) or 0)


@dataclass(frozen=True, slots=True)
class Field:
    """A data member. offset: bytes."""

    name: str
    type: Any
    offset: int


@dataclass(frozen=True, slots=True, eq=False)
class Record:
    """A struct, class or union with its data members laid out; members of an anonymous struct are its own.

    declaration: what syntax.py found. arguments: template arguments by parameter, empty for a plain record.
    """

    name: str
    fields: tuple[Field, ...]
    size: int
    align: int
    is_union: bool
    declaration: Any
    arguments: Any

    def field(self, name: str) -> Field | None:
        """The member of that name."""
        return next((each for each in self.fields if each.name == name), None)


@dataclass(frozen=True, slots=True)
class Tuple:
    """std::tuple, and what a braced list is until a type takes it."""

    of: tuple[Any, ...]


BOOL = Int(1, False)
INT, UINT = Int(32, True), Int(32, False)
LONG, ULONG = Int(64, True), Int(64, False)
FLOAT, DOUBLE = Float(32), Float(64)
VOID = Opaque("void")
STRING = Opaque("std::string")
UNKNOWN = Opaque("?")

BY_NAME: dict[str, Any] = {
    "bool": BOOL,
    "char": Int(8, True),
    "signed char": Int(8, True),
    "unsigned char": Int(8, False),
    "short": Int(16, True),
    "unsigned short": Int(16, False),
    "int": INT,
    "signed": INT,
    "unsigned": UINT,
    "unsigned int": UINT,
    "long": LONG,
    "long int": LONG,
    "unsigned long": ULONG,
    "unsigned long int": ULONG,
    "long long": LONG,
    "unsigned long long": ULONG,
    "int8_t": Int(8, True),
    "uint8_t": Int(8, False),
    "int16_t": Int(16, True),
    "uint16_t": Int(16, False),
    "int32_t": INT,
    "uint32_t": UINT,
    "int64_t": LONG,
    "uint64_t": ULONG,
    "size_t": ULONG,
    "ssize_t": LONG,
    "ptrdiff_t": LONG,
    "intptr_t": LONG,
    "uintptr_t": ULONG,
    "float": FLOAT,
    "double": DOUBLE,
    "void": VOID,
    "string": STRING,
    "std::string": STRING,
    "std::string_view": STRING,
    "std::size_t": ULONG,
}


def size_of(of: Any) -> int | None:
    """Bytes of a type; None where they are not known."""
    size: int | None = getattr(of, "size", None)
    return size


def align_of(of: Any) -> int:
    """The alignment of a type, bytes."""
    if isinstance(of, Record):
        return of.align
    return align_of(of.of) if isinstance(of, Array) else int(size_of(of) or 1)


def promoted(of: Any) -> Any:
    """Integer promotion: what is narrower than int becomes int."""
    return INT if isinstance(of, Int) and of.bits < 32 else of


def common(left: Any, right: Any) -> Any:
    """The usual arithmetic conversions of two arithmetic types; None where either is none."""
    if not isinstance(left, (Int, Float)) or not isinstance(right, (Int, Float)):
        return None
    if isinstance(left, Float) or isinstance(right, Float):
        return Float(max(each.bits for each in (left, right) if isinstance(each, Float)))
    left, right = promoted(left), promoted(right)
    bits = max(left.bits, right.bits)
    signed = all(each.signed or each.bits < bits for each in (left, right))
    return Int(bits, signed)
