"""Flags made of a specification's fields: the name, the reader, the explanation and the default of each are the field's own.

A field `query_rows: tuple[int, ...] | None` becomes `--query-rows N[,N]`, a bool `--NAME`, or `--no-NAME` where it is true.
What is not given on the command line is None in the namespace, so that a file or a command's own default may stand for it.
"""

from __future__ import annotations

import argparse
import dataclasses
import typing
from collections.abc import Callable, Collection, Mapping
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from backend.case import FIELDS
from backend.case_fields import REQUIRED
from fuzz.commands.arguments import duration, expected, names, number, numbers, one_of, several, truth

if TYPE_CHECKING:
    from fuzz.spec import Spec

METAVARS = {
    "backend": "NAME",
    "release": "R",
    "model": "M",
    "releases": "R[,R]",
    "shapes": "TP[,TP]",
    "device": "D",
    "aiter": "PATH[@REV]",
    "address": "A",
    "worker_memory": "MIB",
    "corpus": "DIR",
    "expect": "ID[,ID]",
    "compare": "STORE",
    "out": "DIR",
}
"""What stands for a value in `--help`, where the type alone says too little."""

READERS: Mapping[str, Callable[[str], Any]] = {"expect": expected}
"""What reads a value that its type alone says too little of."""


def add_flags(
    to: argparse._ArgumentGroup | argparse.ArgumentParser,
    kind: type[Spec],
    without: Collection[str] = (),
    defaults: Mapping[str, Any] | None = None,
) -> None:
    """A flag for each field of `kind`. without: fields that get none. defaults: of a command that has others, for the help."""
    hints = typing.get_type_hints(kind)
    for field in dataclasses.fields(kind):
        if field.name in without:
            continue
        flag = "--" + field.name.replace("_", "-")
        text = str(field.metadata["explained"])
        formerly = [field.metadata["formerly"]] if field.metadata["formerly"] else []
        if hints[field.name] is bool:
            if field.default:
                flag, text = flag.replace("--", "--no-", 1), f"{field.name} = false: {text.partition('; false: ')[2]}"
            action = "store_false" if field.default else "store_true"
            to.add_argument(flag, *formerly, dest=field.name, action=action, default=None, help=text.replace("%", "%%"))
            continue
        metavar, read = _reader(flag, hints[field.name], field.metadata["least"])
        read = READERS.get(field.name, read)
        default = (defaults or {}).get(field.name, field.default)
        stands = "" if default is None or default == () else f" ({_text(default)})"
        to.add_argument(
            *(flag, *formerly),
            dest=field.name,
            metavar=METAVARS.get(field.name, metavar),
            type=read,
            help=(text + stands).replace("%", "%%"),
        )


def given(arguments: argparse.Namespace, kind: type[Spec]) -> dict[str, Any]:
    """The fields of `kind` that flags set."""
    found = {field.name: getattr(arguments, field.name, None) for field in dataclasses.fields(kind)}
    return {name: value for name, value in found.items() if value is not None}


def _text(value: object) -> str:
    return ",".join(str(each) for each in value) if isinstance(value, tuple) else str(value)


def add_case_flags(
    to: argparse._ArgumentGroup | argparse.ArgumentParser,
    names_: Collection[str] | None = None,
    defaults: Mapping[str, str] | None = None,
) -> None:
    """A flag for each field of a Case, whose value is that of one case. names_: the fields that get one, None for all.

    defaults: what the help calls the value of a flag that is not given.
    """
    for field in FIELDS:
        if names_ is not None and field.name not in names_:
            continue
        flags = [field.flag, field.formerly] if field.formerly else [field.flag]
        stands = (defaults or {}).get(field.name) or _neutral(field.neutral)
        text = (field.explained + (f" ({stands})" if stands else "")).replace("%", "%%")
        if field.kind is bool:
            to.add_argument(*flags, dest=field.name, action=argparse.BooleanOptionalAction, default=None, help=text)
            continue
        metavar, read = _reader(field.flag, field.kind, field.least)
        to.add_argument(*flags, dest=field.name, metavar=METAVARS.get(field.name, metavar), type=read, help=text)


def _neutral(value: object) -> str:
    """The value of a field that is not given, as the help shows it; "" where one must be given, or none says enough."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    return "" if value is None or value is REQUIRED else _text(value)


def given_case_fields(arguments: argparse.Namespace) -> dict[str, Any]:
    """The fields of a Case that flags set."""
    found = {field.name: getattr(arguments, field.name, None) for field in FIELDS}
    return {name: value for name, value in found.items() if value is not None}


def _reader(flag: str, hint: Any, least: int | None) -> tuple[str, Callable[[str], Any]]:
    """(what stands for a value, reader) of a type: str, int, float, bool, an enumeration, a tuple of one, or None besides."""
    if type(None) in typing.get_args(hint):
        hint = next(each for each in typing.get_args(hint) if each is not type(None))
    if typing.get_origin(hint) is tuple:
        entry = typing.get_args(hint)[0]
        if entry is int:
            return "N[,N]", numbers(flag)
        metavar, read = _reader(flag, entry, least)
        return f"{metavar}[,{metavar}]", names if entry is str else several(read)
    if hint is int:
        return "N", number(flag, 0 if least is None else least)
    if hint is float:
        return "S", duration(flag)
    if hint is bool:
        return "true|false", truth(flag)
    if issubclass(hint, StrEnum):
        return hint.__name__[0], one_of(flag, hint)
    return hint.__name__[0].upper(), str
