"""What the quality tests share: searches on the real path, rules changed for one test, planners changed in their source."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path as FilePath
from types import ModuleType
from typing import Any

import pytest

from backend.aiter.planners import run
from backend.case import Case
from backend.path import Path
from backend.serving.policy import Choice, Policy
from backend.serving.registry import BACKENDS
from fuzz.search import Budget, Fault, Found, Search, Tally
from fuzz.space import CaseSpace, Wishes, space

PATH = Path("model")
"""One path for all tests: it holds no state of a case."""


def search(wishes: Wishes, cases: int, seed: int = 0) -> Tally:
    """The tally of a whole search, each fault shrunk."""
    return search_within(space(wishes), cases, seed)


def search_within(bounds: CaseSpace, cases: int, seed: int = 0) -> Tally:
    """The same in any space."""
    made = Search(bounds, PATH, seed)
    for _ in made.events(Budget(cases=cases)):
        pass
    return made.tally


def first_fault(wishes: Wishes, kind: str, cases: int, seed: int) -> Fault | None:
    """The first fault whose signature begins with `kind`, None where the search does not meet it in so many cases."""
    made = Search(space(wishes), PATH, seed)
    for event in made.events(Budget(cases=cases)):
        if isinstance(event, Found) and event.fault.signature.startswith(kind):
            return event.fault
    return None


def use_rule(monkeypatch: pytest.MonkeyPatch, backend: str, rule: Policy) -> None:
    """`backend` decides by another rule for the rest of a test."""
    monkeypatch.setitem(BACKENDS, backend, rule)


def choosing(backend: str, **changes: Any) -> Policy:
    """The backend's rule with some of its choices changed; a callable is asked with (case, choice)."""
    rule = BACKENDS[backend]

    def changed(case: Case) -> Choice:
        choice = rule(case)
        given = {name: value(case, choice) if isinstance(value, Callable) else value for name, value in changes.items()}
        return dataclasses.replace(choice, **given)

    return changed


def use_source(monkeypatch: pytest.MonkeyPatch, planner: ModuleType, function: str, old: str, new: str) -> None:
    """Replaces `old` in a planner's source for the rest of a test; its own functions run in plain Python then."""
    source = FilePath(planner.__file__ or "").read_text(encoding="utf-8")
    assert source.count(old) == 1, f"{old!r} is in {planner.__name__} {source.count(old)} times"
    source = source.replace(old, new).replace("@compiled\n", "").replace("@inlined\n", "")
    names: dict[str, Any] = {"__name__": f"{planner.__name__}_changed"}
    exec(compile(source, f"{planner.__name__}_changed", "exec"), names)
    assert hasattr(run, function)
    monkeypatch.setattr(run, function, names[function])
