"""Flags that a project keeps in a file: aiterfuzz.toml, or [tool.aiterfuzz] of pyproject.toml, where a command is typed.

    aiter = "/path/to/aiter"        # for every command that has the flag
    [gate]
    heads = [64, 48]
    [corpus.replay]
    matrix = true

They are put before what is typed, so that the same readers read them and what is typed prevails. $AITERFUZZ_CONFIG names
another file, and none where it is empty: a gate in a stranger's checkout must not take its flags from there.
"""

from __future__ import annotations

import argparse
import os
import shlex
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from backend.errors import UsageError, meant
from reprod.text import one_line

VARIABLE = "AITERFUZZ_CONFIG"
OWN, SHARED = "aiterfuzz.toml", "pyproject.toml"


Settings = tuple[str, Mapping[str, Any]]
"""A file and its table of flags."""


def with_settings(typed: Sequence[str], parser: argparse.ArgumentParser, found: Settings | None) -> list[str]:
    """What was typed, with the flags of the file behind the command's name; a line on stderr says which.

    Raises UsageError for a section that is no command and a flag that its command does not have.
    """
    path, command = _command(typed, parser)
    if found is None or not path:
        return list(typed)
    file, table = found
    flags = _flags(file, table, path, parser, command)
    if flags:
        print(one_line(f"flags of {file}: {shlex.join(flags)}"), file=sys.stderr)
    return [*path, *flags, *typed[len(path) :]]


def settings_here() -> Settings | None:
    """Those of where a command is typed, None where there are none. Raises UsageError for a file that is no TOML."""
    named = os.environ.get(VARIABLE)
    if named == "":
        return None
    for file in (named,) if named else (OWN, SHARED):
        if not named and not Path(file).is_file():
            continue
        from backend.file_text import text_of, toml_of

        read = toml_of(text_of(Path(file), "a TOML file"), file, "see `aiterfuzz --help`")
        if Path(file).name == SHARED:
            read = read.get("tool", {}).get("aiterfuzz", {})
        if read:
            return file, read
    return None


def _choices(parser: argparse.ArgumentParser) -> Mapping[str, argparse.ArgumentParser]:
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            return action.choices
    return {}


def _command(typed: Sequence[str], parser: argparse.ArgumentParser) -> tuple[list[str], argparse.ArgumentParser]:
    """The words that name the command, and its parser."""
    path: list[str] = []
    for word in typed:
        below = _choices(parser).get(word)
        if below is None:
            break
        path.append(word)
        parser = below
    return path, parser


def _flags(
    file: str,
    table: Mapping[str, Any],
    path: Sequence[str],
    parser: argparse.ArgumentParser,
    command: argparse.ArgumentParser,
) -> list[str]:
    """Those for every command, then those of the command's own section."""
    for name, value in table.items():
        if isinstance(value, dict) and name not in _choices(parser):
            raise UsageError.not_allowed(f"{file}: section", name, ", ".join(_choices(parser)))
    own: Any = table
    for word in path:
        own = own.get(word, {}) if isinstance(own, dict) else {}
    known = {option.lstrip("-"): action for action in command._actions for option in action.option_strings}
    known |= {name.removeprefix("no-"): action for name, action in known.items() if name.removeprefix("no-") not in known}
    shared = {name: value for name, value in table.items() if not isinstance(value, dict) and _flag(name) in known}
    made: list[str] = []
    for name, value in (shared | own).items() if isinstance(own, dict) else ():
        if isinstance(value, dict):
            raise UsageError.not_allowed(f"{file}: section", ".".join((*path, name)), "a command, or a part of one")
        if _flag(name) not in known:
            near = meant(_flag(name), [*known])
            raise UsageError(f"{file}: {' '.join(path)} has no flag --{_flag(name)}{near}; see {command.prog} --help")
        made += _as_typed(_flag(name), value, known)
    return made


def _flag(name: str) -> str:
    return name.replace("_", "-")


def _as_typed(name: str, value: object, known: Mapping[str, argparse.Action]) -> list[str]:
    """A value as it is typed: a list with commas, a truth as the flag or its --no- form, where there is one."""
    if isinstance(value, bool) and known[name].nargs == 0:
        wanted = f"--{name}" if value else f"--no-{name}"
        return [wanted] if wanted in known[name].option_strings else []
    if isinstance(value, bool):
        return [f"--{name}", "true" if value else "false"]
    return [f"--{name}", ",".join(map(str, value)) if isinstance(value, list) else str(value)]
