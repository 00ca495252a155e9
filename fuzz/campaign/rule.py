"""Whether there is a rule of that name, and what its file holds. A stranger's code is not run in this process."""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path

from backend.serving.backends import BACKENDS
from backend.serving.own_rule import OwnRule
from backend.serving.policy import Policy
from backend.serving.registry import named_policy, policy, runs_code
from fuzz.fence_line import say_what_the_fence_lacks


def rule_of_a_person(name: str) -> Policy:
    """The rule that a person has named (see named_policy), after a line on stderr where it is fenced less than promised."""
    if runs_code(name):
        say_what_the_fence_lacks()
    return named_policy(name)


def require_rule(name: str, named: bool = True) -> None:
    """Raises UsageError where there is no such rule, CannotRunError where loading it goes wrong.

    named: whether a person names it, on the command line or in a configuration, and not a store; others are not loaded.
    """
    found = rule_of_a_person(name) if named else policy(name)
    if isinstance(found, OwnRule):
        found.close()  # cases are decided by it in the processes of the workers


def rule_content(name: str) -> dict[str, str]:
    """The sha256 of a rule's file, by "rule NAME"; empty for a built-in one, and for a module that is not found.

    What the file imports is not looked at. The file of a module is found by its name, below the folders of sys.path.
    """
    if name in BACKENDS:
        return {}
    place = name.partition(":")[0]
    if place.endswith((".py", ".toml")):
        candidates = [Path(place)]
    else:
        path = Path(*place.split("."))
        candidates = [Path(root or ".", file) for root in sys.path for file in (path.with_suffix(".py"), path / "__init__.py")]
    for file in candidates:
        if file.is_file():
            return {f"rule {name}": hashlib.sha256(file.read_bytes()).hexdigest()}
    return {}
