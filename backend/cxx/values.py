"""What an expression or a name stands for while Python is written: code, type and what is known of it already."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from backend.cxx.syntax import Node
from backend.cxx.types import BOOL, INT, Int, Pointer


@dataclass(slots=True, eq=False)
class Value:
    """An expression's value.

    code: Python for it; of a pointer into a memory space its offset in elements. const: the value where it is known.
    varying: whether lanes of a wave may have different ones (then code speaks of the lane `lane`). reads: whether it loads
    memory. space: number of the memory space that a pointer points into; target: what a pointer to a local points to.
    parts: members of a record, a tuple or a braced list. linear: lane number plus a multiple of the wave's lanes.
    place: where it can be stored.
    """

    code: str
    type: Any
    const: Any = None
    varying: bool = False
    reads: bool = False
    space: int | None = None
    target: Any = None
    parts: dict[str, Any] | None = None
    linear: bool = False
    simple: bool = False
    place: Any = None

    @property
    def is_null(self) -> bool:
        """Whether it is a null pointer, known to be one."""
        return isinstance(self.type, Pointer) and self.code == "0" and self.space is None and self.target is None


@dataclass(slots=True, eq=False)
class Variable:
    """A variable of a kernel. mask: lanes that were active where it was declared. space: of a pointer."""

    name: str
    key: tuple[Any, ...]
    type: Any
    varying: bool
    crossing: bool
    mask: str | None
    phase: int
    constant: bool = False
    space: int | None = None
    linear: bool = False

    @property
    def code(self) -> str:
        """Where its value is, in the Python that is written."""
        lanes = ["wave"] if self.crossing else []
        lanes += ["lane"] if self.varying else []
        return f"{self.name}[{', '.join(lanes)}]" if lanes else self.name


@dataclass(slots=True, eq=False)
class Aggregate:
    """A record or tuple held member by member."""

    type: Any
    members: dict[str, Any]


@dataclass(slots=True, eq=False)
class Memory:
    """One element of a memory space as the target of a store; word: index in int32 words."""

    space: int
    word: str
    type: Any
    varying: bool
    reads: bool


@dataclass(slots=True, eq=False)
class Lambda:
    """A lambda that captured by reference: its text and the names that it saw."""

    node: Node
    scope: Scope
    file: str


@dataclass(slots=True, eq=False)
class TypeName:
    """A name that stands for a type."""

    type: Any


@dataclass(slots=True, eq=False)
class TemplateName:
    """A template given as an argument."""

    text: str


@dataclass(slots=True, eq=False)
class Scope:
    """Names of a block and of those around it. record: whose members are visible, inside of its functions."""

    parent: Scope | None = None
    names: dict[str, Any] = field(default_factory=dict)
    record: Any = None

    def find(self, name: str) -> Any:
        """What a name stands for; None for nothing here."""
        return next((scope.names[name] for scope in self.chain() if name in scope.names), None)

    def chain(self) -> Iterator[Scope]:
        """This scope and those around it."""
        scope: Scope | None = self
        while scope is not None:
            yield scope
            scope = scope.parent


def constant(value: Any, of: Any = INT) -> Value:
    """A value that is known; a bool is written as one."""
    if isinstance(of, Int):
        value = of.wrapped(int(value))
        code = str(bool(value)) if of == BOOL else (f"({value})" if value < 0 else str(value))
        return Value(code, of, const=value, simple=True)
    return Value(repr(value), of, const=value, simple=True)
