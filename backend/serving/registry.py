"""Backends by name, and a user's own policy given as `module:name` or as a file `path.py[:name]`.

A policy of one's own is code. It is run where a person names it, on the command line or in the configuration of a campaign that
is begun; what is only read (a case, a corpus entry, a store) names built-in backends alone, or one that was named so.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import types
from functools import cache
from pathlib import Path

from backend.errors import RuleFailedError, UsageError
from backend.serving.backends import BACKENDS
from backend.serving.bounds import OWN_POLICY, ServedBounds
from backend.serving.head_table import read_head_table
from backend.serving.own_rule import OwnRule, called
from backend.serving.policy import Policy

DEFAULT_FUNCTION = "policy"
"""Name looked for in a policy file that names none."""

_ADVICE = "or your own as module:name, path/to/file.py[:name] (a function of a Case that returns a Choice) or rule.toml"


_named: set[str] = set()


def named_policy(name: str) -> Policy:
    """The policy that a person has named; from here on `policy` knows it too. Raises UsageError where there is none.

    Never to be called with a name that was read from a file of unknown origin: it imports the module, or executes the file.
    """
    found = BACKENDS[name].rule if name in BACKENDS else _own(name)
    _named.add(name)
    return found


def policy(name: str) -> Policy:
    """The built-in policy of that name, or one that was named before; raises UsageError for any other, without running it."""
    if name in BACKENDS:
        return BACKENDS[name].rule
    if name in _named:
        return _own(name)
    if ":" not in name and not name.endswith((".py", ".toml")):
        raise UsageError.not_allowed("backend", name, ", ".join(BACKENDS), _ADVICE)
    raise UsageError(
        f"backend {name!r}: a rule that a case, a corpus entry or a store names is not run; give --backend {name} if you trust "
        f"it, or one of {', '.join(BACKENDS)}"
    )


def runs_code(name: str) -> bool:
    """Whether asking that backend runs code of the user's own."""
    return name not in BACKENDS and (":" in name or name.endswith(".py"))


def bounds_of(name: str) -> ServedBounds:
    """What the backend of that name really sends; of a user's own policy, what any serving backend may."""
    found = BACKENDS.get(name)
    return found.bounds if found is not None else OWN_POLICY


@cache
def _own(name: str) -> Policy:
    """A user's own policy, loaded once: a search asks for it with every case."""
    if name.partition(":")[0].endswith(".py"):
        return _from_file(name)
    if name.endswith(".toml"):
        return read_head_table(Path(name))
    if ":" in name:
        return _from_module(name)
    raise UsageError.not_allowed("backend", name, ", ".join(BACKENDS), _ADVICE)


def _from_module(name: str) -> Policy:
    module_name, _, function = name.partition(":")
    try:
        with called(name):
            module = importlib.import_module(module_name)
    except RuleFailedError as error:
        # A ValueError or TypeError is of a name that no module has: ":x", ".:x".
        if not isinstance(error.__cause__, (ImportError, ValueError, TypeError)):
            raise
        raise UsageError(
            f"backend {name!r}: module {module_name!r} cannot be imported ({error.__cause__}); {_ADVICE}"
        ) from error
    return _callable(getattr(module, function, None), name, function)


def _from_file(name: str) -> Policy:
    path_text, _, function = name.partition(":")
    path = Path(path_text)
    if not path.is_file():
        raise UsageError(f"backend {name!r}: no such file {path_text!r}; {_ADVICE}")
    try:
        with called(name):
            module = _executed(path.resolve(), path.stat().st_mtime_ns)
    except RuleFailedError as error:
        if not isinstance(error.__cause__, Exception):
            raise
        raise UsageError(f"backend {name!r}: the file cannot be loaded: {error}") from error
    return _callable(getattr(module, function or DEFAULT_FUNCTION, None), name, function or DEFAULT_FUNCTION)


@functools.lru_cache(maxsize=8)
def _executed(path: Path, modified: int) -> types.ModuleType:
    """The module of a file, executed once for each state of the file and not once for each case."""
    del modified
    spec = importlib.util.spec_from_file_location(f"aiterfuzz_policy_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _callable(found: object, name: str, function: str) -> Policy:
    if not callable(found):
        raise UsageError(f"backend {name!r}: no function {function!r} there; {_ADVICE}")
    return OwnRule(name, found)
