"""What stands in for everything that could not be had: values that may be carried around but never decide anything.

A stranger's file asks for far more than the part under test needs. `Poison` may be passed, called, indexed and
subclassed, so that what is never used costs nothing; it raises where a value would steer the program (bool,
comparison, arithmetic, length, iteration). `Declared` stands for a framework's configuration object: only what was
declared can be read. Both fail with `Undecidable`, which a bare `except Exception` of the stranger does not swallow.
This module knows no framework.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NoReturn


class Undecidable(BaseException):
    """A stranger's file needs a value that nobody declared. The message says which, where, and what to declare.

    Derived from BaseException: files probe optional features with `except Exception`, and a probe that fails for want
    of a declaration would silently take the other branch.
    listener: told of each one's message, None for nobody: whatever swallows it, it was there.
    """

    listener: Callable[[str], None] | None = None

    def __init__(self, message: str) -> None:
        super().__init__(message)
        listener = type(self).listener
        if listener is not None:
            listener(message)


class Poison:
    """An unknown value. `path` says what it is, `reason` why it could not be had.

    Anything that would let it take part in a decision raises Undecidable.
    """

    __slots__ = ("__weakref__", "_on_call", "_path", "_reason")

    def __init__(self, path: str, reason: str, on_call: Callable[[Poison], None] | None = None) -> None:
        """`on_call` is told when the poison is called, and may raise: an op of aiter must not pass as "did nothing"."""
        self._path = path
        self._reason = reason
        self._on_call = on_call

    @property
    def poison_reason(self) -> str:
        """Name and reason in one line."""
        return f"{self._path} ({self._reason})"

    def _child(self, step: str) -> Poison:
        return Poison(f"{self._path}{step}", self._reason, self._on_call)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") and name.endswith("__"):
            raise AttributeError(name)
        return self._child(f".{name}")

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if self._on_call is not None:
            self._on_call(self)
        return self._child("(...)")

    def __getitem__(self, key: Any) -> Any:
        return self._child("[...]")

    def __mro_entries__(self, bases: tuple[Any, ...]) -> tuple[type, ...]:
        return ()

    def __or__(self, other: Any) -> Poison:
        """`X | None` in an annotation that is evaluated; with a number it would be arithmetic."""
        if isinstance(other, (bool, int, float)):
            self._refuse("|")
        return self._child("")

    __ror__ = __or__

    def __repr__(self) -> str:
        return f"<unknown {self._path}: {self._reason}>"

    def __hash__(self) -> int:
        return id(self)

    def _refuse(self, operation: str) -> NoReturn:
        raise Undecidable(f"{self._path} is unknown here ({self._reason}) and {operation} of it was asked for; declare it")

    def __iter__(self) -> Iterator[Any]:
        self._refuse("iteration")

    def __contains__(self, item: Any) -> bool:
        self._refuse("membership")

    def __instancecheck__(self, instance: Any) -> bool:
        self._refuse("isinstance")


def _refusal(operation: str) -> Callable[..., Any]:
    def refuse(self: Poison, *args: Any) -> Any:
        self._refuse(operation)

    return refuse


_BINARY = ["add", "sub", "mul", "truediv", "floordiv", "mod", "divmod", "pow", "matmul", "lshift", "rshift", "and", "xor"]

_REFUSED = {
    "truth": ["bool"],
    "length": ["len", "length_hint"],
    "conversion to a number": ["int", "float", "complex", "index", "round", "trunc", "floor", "ceil"],
    "comparison": ["eq", "ne", "lt", "le", "gt", "ge"],
    "arithmetic": [prefix + name for name in _BINARY for prefix in ("", "r", "i")] + ["neg", "pos", "abs", "invert"],
    "entering": ["enter", "aenter"],
    "awaiting": ["await"],
}

for _operation, _names in _REFUSED.items():
    for _name in _names:
        setattr(Poison, f"__{_name}__", _refusal(_operation))


class Declared:
    """A framework's object of which exactly the declared fields can be read; further ones may be set, then read.

    Reading another raises Undecidable naming object and field. `hasattr` and `getattr` with a default are answered
    "absent" when they come through `probing_builtins`, and are noted in `probes`.
    """

    def __init__(self, object_name: str, probes: list[str] | None = None, **fields: Any) -> None:
        self.__dict__.update(fields)
        self.__dict__["_declared_name"] = object_name
        self.__dict__["_declared_probes"] = probes if probes is not None else []

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__") and name.endswith("__"):
            raise AttributeError(name)
        known = ", ".join(sorted(k for k in self.__dict__ if not k.startswith("_declared")))
        raise Undecidable(f"{self._declared_name}.{name} is read but not declared; declared: {known or 'nothing'}")

    def __repr__(self) -> str:
        return f"<declared {self._declared_name}>"


def probing_builtins() -> dict[str, Any]:
    """`hasattr` and `getattr` that know Declared: an undeclared field is absent, and the question is noted.

    They are put in front of the builtins of the stranger's modules.
    """

    def probe(target: Any, name: str) -> bool:
        if isinstance(target, Declared):
            found = name in target.__dict__ or hasattr(type(target), name)
            if not found:
                target.__dict__["_declared_probes"].append(f"{target._declared_name}.{name}")
            return found
        return hasattr(target, name)

    def read(target: Any, name: str, *default: Any) -> Any:
        if isinstance(target, Declared) and default and not probe(target, name):
            return default[0]
        return getattr(target, name, *default)

    return {"hasattr": probe, "getattr": read}
