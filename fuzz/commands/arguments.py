"""Values of command line arguments, read strictly: each error says what was given and what is allowed."""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable
from enum import StrEnum
from typing import TypeVar

from backend.case import Arch
from backend.errors import UsageError

WHAT_IT_IS = "a finding's folder, its case.json, a corpus entry or its id (F1)"

PRODUCTS = {"mi300x": Arch.GFX942, "mi325x": Arch.GFX942, "mi350x": Arch.GFX950, "mi355x": Arch.GFX950}
"""GPUs by the names that they are sold under, for whoever does not have the architecture's at hand."""

E = TypeVar("E", bound=StrEnum)
T = TypeVar("T")


def names(text: str) -> tuple[str, ...]:
    """`a,b` as a tuple; entries are checked by whoever knows them."""
    entries = tuple(entry.strip() for entry in text.split(","))
    if not all(entries):
        raise UsageError.not_allowed("list", text, "entries separated by single commas")
    return entries


def expected(text: str) -> tuple[str, ...]:
    """Entries and signatures as a tuple; what is no beginning of either belongs to the signature before: some hold a comma."""
    return names(text) if "/" not in text else tuple(each.strip() for each in _NEXT_EXPECTED.split(text))


_NEXT_EXPECTED = re.compile(r",(?! )|, (?=[A-Z]+\d+[a-z]?\b|[a-z-]+/)")


def numbers(what: str) -> Callable[[str], tuple[int, ...]]:
    """A reader of `1,4,16`."""

    def read(text: str) -> tuple[int, ...]:
        try:
            return tuple(int(entry) for entry in names(text))
        except ValueError:
            raise UsageError.not_allowed(what, text, "whole numbers separated by commas") from None

    return read


def number(what: str, least: int) -> Callable[[str], int]:
    """A reader of one whole number of at least `least`."""

    def read(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            value = least - 1
        if value < least:
            raise UsageError.not_allowed(what, text, f"a whole number of at least {least}")
        return value

    return read


def duration(what: str) -> Callable[[str], float]:
    """A reader of a positive number of seconds."""

    def read(text: str) -> float:
        try:
            value = float(text)
        except ValueError:
            value = 0.0
        if not 0 < value < float("inf"):
            raise UsageError.not_allowed(what, text, "a number of seconds above 0")
        return value

    return read


seconds = duration("--seconds")


def one_of(what: str, kind: type[E]) -> Callable[[str], E]:
    """A reader of one member of an enumeration."""

    def read(text: str) -> E:
        meant = PRODUCTS.get(text.lower(), text) if issubclass(kind, Arch) else text
        try:
            return kind(meant)
        except ValueError:
            allowed = [*kind, *(PRODUCTS if issubclass(kind, Arch) else ())]
            raise UsageError.not_allowed(what, text, ", ".join(allowed)) from None

    return read


def several(read_one: Callable[[str], T]) -> Callable[[str], tuple[T, ...]]:
    """A reader of values separated by commas."""
    return lambda text: tuple(read_one(entry) for entry in names(text))


def some_of(what: str, kind: type[E]) -> Callable[[str], tuple[E, ...]]:
    """A reader of several members, separated by commas."""
    return several(one_of(what, kind))


def truth(what: str) -> Callable[[str], bool]:
    """A reader of `true` or `false`."""

    def read(text: str) -> bool:
        if text not in ("true", "false"):
            raise UsageError.not_allowed(what, text, "true, false")
        return text == "true"

    return read


read_arch = one_of("--arch", Arch)


def add_aiter(to: argparse._ActionsContainer) -> None:
    """The flag for a revision of AITER, which means the same for every command."""
    what = "a revision of ROCm/aiter, exactly: host code from its own text, its kernel table and code objects"
    to.add_argument("--aiter", metavar="PATH[@REV]", help=what)
