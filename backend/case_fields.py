"""A field of a Case as one row: its type, what is neutral, what is allowed, how it is drawn, made smaller, told and asked for.

The row stands where the field does (backend/case.py) and is all that an ordinary field needs: a whole number, a bool or an
enumeration is validated, drawn, mutated, shrunk, explained, written into scripts, and given by a flag, as its type says.
What is special about a field has code of its own in the room that it is special to, and the row says so. This module knows
no policy, no search and no shrinker.
"""

from __future__ import annotations

import dataclasses
import functools
import types
import typing
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from typing import Any

from backend.errors import UsageError


@dataclass(frozen=True, slots=True)
class CaseField:
    """One field.

    text: what it means, a phrase for `--help`. name, kind, optional, neutral: of the dataclass field itself; kind is the type
    without None, optional whether None is allowed, neutral the value that changes nothing (REQUIRED where there is none).
    least, most: of a whole number, inclusive; None for no limit. allowed: those limits in words, where figures say too little.
    choices: every value allowed, ascending; () where the limits say it.
    steps: values that shrinking tries from the smallest; () for every number up to the present one.
    formerly: a flag of earlier versions that still stands for it.
    word: what precedes its value where a case is told in one line; "" for the name. stands_after: name of the field behind
    which it stands in that line, "" for its place among the fields.
    argument: keyword of aiter.mla.mla_decode_fwd that is handed its value where that is not neutral, "" for none.
    special: drawn and mutated together with other fields, by code of its own (fuzz/strategies.py, fuzz/campaign/mutate.py).
    of_model: a dimension of the model, which a framework has no say in and takes as it is.
    below: name of the field whose value it stays below (0 where that is 0), "" for none.
    shrunk: place among the fields that shrinking makes smaller one by one, of equals the first to stand; None: never by itself.
    """

    text: str
    least: int | None = None
    most: int | None = None
    allowed: str = ""
    choices: tuple[Any, ...] = ()
    steps: tuple[int, ...] = ()
    formerly: str = ""
    word: str = ""
    stands_after: str = ""
    argument: str = ""
    special: bool = False
    of_model: bool = False
    below: str = ""
    shrunk: int | None = 100
    name: str = ""
    kind: Any = None
    optional: bool = False
    neutral: Any = None

    @property
    def flag(self) -> str:
        """Its flag: the name with dashes."""
        return "--" + self.name.replace("_", "-")

    @property
    def explained(self) -> str:
        """What it means, and which values an enumeration has."""
        values = (
            tuple(self.kind)
            if isinstance(self.kind, type) and issubclass(self.kind, Enum)
            else self.choices
            if not self.allowed
            else ()
        )
        return self.text + (f": {', '.join(map(str, values))}" if values else "")

    @property
    def ordinary(self) -> bool:
        """Whether it is drawn by itself, over the values that a specification names."""
        return not self.special

    def holds(self, value: Any) -> bool:
        """Whether a value of the field's type is within its limits."""
        if value is None:
            return self.optional
        if self.choices:
            return value in self.choices
        return (self.least is None or value >= self.least) and (self.most is None or value <= self.most)

    def check(self, value: Any) -> None:
        """Raises UsageError for a value that is not allowed."""
        if not self.holds(value):
            raise UsageError.not_allowed(f"case field {self.name}", value, self.allowed_text())

    def allowed_text(self) -> str:
        """Says what `check` allows."""
        limits = ", ".join(map(str, self.choices)) or f"{self.least}..{self.most}"
        return self.allowed or ("null or " if self.optional else "") + limits

    def size(self, value: Any) -> int:
        """How far a value is from neutral: what shrinking compares. 0 for neutral, and for no other."""
        if value == self.neutral:
            return 0
        if isinstance(value, bool) or not isinstance(value, int):
            return 1
        return 1 + abs(value - (self.neutral if isinstance(self.neutral, int) else 0))

    def in_line(self, value: Any) -> str:
        """A value that is not neutral, in a few words: "page 16", "with return_lse"."""
        if self.kind is bool:
            return f"{'with' if value else 'without'} {self.word or self.name}"
        return f"{self.word or self.name.replace('_', ' ')} {value}"


REQUIRED = object()
"""Neutral value of a field that every case must give."""


def row(neutral: Any = REQUIRED, text: str = "", **properties: Any) -> Any:
    """A dataclass field that carries its row. properties: those of CaseField."""
    described = CaseField(text, **properties)
    if neutral is REQUIRED:
        return dataclasses.field(metadata={"row": described})
    return dataclasses.field(default=neutral, metadata={"row": described})


@functools.cache
def fields_of(case: type) -> tuple[CaseField, ...]:
    """The rows of a class of cases, in the order of its fields."""
    hints = typing.get_type_hints(case)
    return tuple(_completed(each, hints[each.name]) for each in dataclasses.fields(case))


def _completed(each: dataclasses.Field[Any], hint: Any) -> CaseField:
    optional = typing.get_origin(hint) in (types.UnionType, typing.Union)
    kind = next(member for member in typing.get_args(hint) if member is not type(None)) if optional else hint
    neutral = REQUIRED if each.default is dataclasses.MISSING else each.default
    written: CaseField = each.metadata["row"]
    if not written.special and (optional or neutral is REQUIRED):
        raise TypeError(f"{each.name}: a field that is drawn by itself has a neutral value other than None")
    return dataclasses.replace(written, name=each.name, kind=kind, optional=optional, neutral=neutral)


Check = Callable[[Any], None]


def limited(fields: tuple[CaseField, ...]) -> tuple[tuple[str, Check], ...]:
    """(name, check) of the fields whose type alone does not say what is allowed."""
    return tuple((each.name, each.check) for each in fields if each.choices or each.least is not None or each.most is not None)
