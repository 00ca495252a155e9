"""The one JSON codec: frozen dataclasses to plain JSON values and back, strictly.

Reading refuses unknown fields, missing fields and wrong types with a UsageError that names the place; nothing is guessed.
int32 arrays become lists of ints; packed, for a pipe, a text of their bytes (base64, little-endian). A union of dataclasses
is told apart by its field names.
"""

from __future__ import annotations

import base64
import dataclasses
import functools
import json
import types
import typing
from collections.abc import Mapping
from enum import Enum
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from backend.errors import UsageError
from backend.file_text import json_of, text_of
from backend.words import number_of

T = TypeVar("T")

PLAIN = frozenset((bool, int, float, str))
"""What a JSON value may be as it is. Asked for first, as most values of a message are one of them."""


def to_plain(value: Any, *, packed: bool = False) -> Any:
    """JSON value of a dataclass tree: dicts, lists, str, int, float, bool, None.

    packed: int32 arrays as a text, which takes a tenth of the time to write and to read; `from_plain` takes both.
    """
    if type(value) in PLAIN or value is None:
        return value
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray):
        return _packed(value) if packed and value.dtype == np.int32 and value.ndim == 1 else value.tolist()
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: to_plain(getattr(value, f.name), packed=packed) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(to_plain(key)): to_plain(item, packed=packed) for key, item in value.items()}
    if isinstance(value, (tuple, list)):
        return [to_plain(item, packed=packed) for item in value]
    if isinstance(value, (frozenset, set)):
        return sorted(to_plain(item) for item in value)
    raise TypeError(f"no JSON form for {type(value).__name__}")


def from_plain(kind: type[T], plain: Any, where: str = "") -> T:
    """The dataclass (or other annotated type) `kind` from a JSON value; UsageError names the field that does not fit."""
    result: T = _read(kind, plain, where or getattr(kind, "__name__", str(kind)).lower())
    return result


def replaced(value: T, plain: Mapping[str, Any], where: str) -> T:
    """A copy of a dataclass with some of its fields from JSON values; UsageError names the field that does not fit."""
    fields = _known_fields(type(value), plain, where)
    changes = {name: _read(fields[name][0], each, f"{where}.{name}") for name, each in plain.items()}
    changed: T = dataclasses.replace(value, **changes)  # type: ignore[type-var]
    return changed


def dumps(value: Any) -> str:
    """One line of JSON, keys in field order."""
    return json.dumps(to_plain(value), separators=(", ", ": "))


def read_file(kind: type[T], path: Path) -> T:
    """A dataclass from a JSON file; UsageError for an unreadable file, broken JSON or a field that does not fit."""
    return from_plain(kind, json_of(text_of(path, "a JSON file"), str(path)), str(path))


@functools.cache
def _fields(kind: type) -> dict[str, tuple[Any, bool]]:
    hints = typing.get_type_hints(kind)
    return {
        f.name: (hints[f.name], f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING)
        for f in dataclasses.fields(kind)
    }


def _read(kind: Any, plain: Any, where: str) -> Any:
    if type(plain) is kind and kind in PLAIN:
        return plain
    origin = _origin(kind)
    if origin in (types.UnionType, typing.Union):
        return _read_union(kind, plain, where)
    if origin is tuple:
        return _read_tuple(kind, plain, where)
    if origin is np.ndarray or kind is np.ndarray:
        return _unpacked(plain, where) if type(plain) is str else _array(plain, where)
    if origin is not None and issubclass(origin, Mapping):
        item = typing.get_args(kind)[1]
        return {key: _read(item, value, f"{where}.{key}") for key, value in _expect(dict, plain, where, "an object").items()}
    if kind is Any:
        return plain
    if isinstance(kind, type) and issubclass(kind, Enum):
        try:
            return kind(plain)
        except ValueError:
            raise UsageError.not_allowed(where, plain, ", ".join(str(e.value) for e in kind)) from None
    if dataclasses.is_dataclass(kind) and isinstance(kind, type):
        return _read_dataclass(kind, plain, where)
    if kind is type(None):
        return _expect(type(None), plain, where, "null")
    if kind is float and type(plain) is int:
        return float(plain)
    return _expect(kind, plain, where, getattr(kind, "__name__", str(kind)))


def _packed(array: Any) -> str:
    return base64.b64encode(array.astype("<i4").tobytes()).decode()


def _unpacked(text: str, where: str) -> Any:
    try:
        return np.frombuffer(base64.b64decode(text, validate=True), "<i4").astype(np.int32)
    except ValueError as error:
        raise UsageError(f"{where}: is no text of whole int32 words in base64 ({error})") from None


def _array(plain: Any, where: str) -> Any:
    return np.asarray(_expect(list, plain, where, "a list of integers"), np.int32)


def _origin(kind: Any) -> Any:
    """X of X[...]; for a name made by a `type` statement, as NumPy's NDArray is from 2.5 on, X of what it stands for."""
    origin = typing.get_origin(kind)
    named = getattr(origin, "__value__", None)
    return origin if named is None else typing.get_origin(named)


def _read_dataclass(kind: type, plain: Any, where: str) -> Any:
    given = _expect(dict, plain, where, "an object")
    fields = _known_fields(kind, given, where)
    missing = [name for name, (_, required) in fields.items() if required and name not in given]
    if missing:
        raise UsageError(
            f"{where}: field {missing[0]!r} is missing; needed: {', '.join(n for n, (_, r) in fields.items() if r)}"
        )
    return kind(**{name: _read(fields[name][0], value, f"{where}.{name}") for name, value in given.items()})


def _known_fields(kind: type, given: Mapping[str, Any], where: str) -> dict[str, tuple[Any, bool]]:
    """The fields of a dataclass; raises UsageError where something is given that is none of them."""
    fields = _fields(kind)
    unknown = sorted(set(given) - set(fields))
    if unknown:
        raise UsageError.not_allowed(f"{where}: unknown field", unknown[0], ", ".join(fields))
    return fields


def _read_union(kind: Any, plain: Any, where: str) -> Any:
    members = typing.get_args(kind)
    if plain is None and type(None) in members:
        return None
    complaint: UsageError | None = None
    for member in members:
        if member is type(None):
            continue
        try:
            return _read(member, plain, where)
        except UsageError as error:
            complaint = error
    raise complaint or UsageError.not_allowed(where, plain, str(kind))


def _read_tuple(kind: Any, plain: Any, where: str) -> tuple[Any, ...]:
    items = _expect(list, plain, where, "a list")
    arguments = typing.get_args(kind)
    if len(arguments) == 2 and arguments[1] is Ellipsis:
        if arguments[0] in PLAIN and all(type(item) is arguments[0] for item in items):
            return tuple(items)
        return tuple(_read(arguments[0], item, f"{where}[{i}]") for i, item in enumerate(items))
    if len(items) != len(arguments):
        raise UsageError.not_allowed(where, items, f"{number_of(len(arguments), 'entry')}")
    return tuple(
        _read(argument, item, f"{where}[{i}]") for i, (argument, item) in enumerate(zip(arguments, items, strict=True))
    )


def _expect(kind: type, plain: Any, where: str, allowed: str) -> Any:
    if type(plain) is not kind:
        raise UsageError.not_allowed(where, plain, allowed)
    return plain
