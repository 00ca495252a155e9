"""What the quality tests share: searches on the real path, rules changed for one test, planners changed in their source."""

from __future__ import annotations

import dataclasses
import sys
from dataclasses import dataclass
from pathlib import Path as FilePath
from types import ModuleType
from typing import Any

import pytest

from backend.case import Case
from backend.path import Path
from backend.serving.backends import BACKENDS
from backend.serving.policy import Choice, Policy
from fuzz.search import Budget, Fault, Found, Search, Tally
from fuzz.space import CaseSpace, space
from fuzz.spec import Spec

PATH = Path()
"""One path for all tests: it holds no state of a case."""


def search(spec: Spec, cases: int, seed: int = 0) -> Tally:
    """The tally of a whole search, each fault shrunk."""
    return search_within(space(spec), cases, seed)


def search_within(bounds: CaseSpace, cases: int, seed: int = 0) -> Tally:
    """The same in any space."""
    made = Search(bounds, PATH, seed)
    for _ in made.events(Budget(cases=cases)):
        pass
    return made.tally


def first_fault(spec: Spec, kind: str, cases: int, seed: int) -> Fault | None:
    """The first fault whose signature begins with `kind`, None where the search does not meet it in so many cases."""
    made = Search(space(spec), PATH, seed)
    for event in made.events(Budget(cases=cases)):
        if isinstance(event, Found) and event.fault.signature.startswith(kind):
            return event.fault
    return None


def use_rule(monkeypatch: pytest.MonkeyPatch, backend: str, rule: Policy) -> None:
    """`backend` decides by another rule for the rest of a test."""
    monkeypatch.setitem(BACKENDS, backend, dataclasses.replace(BACKENDS[backend], rule=rule))


def choosing(backend: str, **changes: Any) -> Policy:
    """The backend's rule with some of its choices changed; a callable is asked with (case, choice)."""
    rule = BACKENDS[backend].rule

    def changed(case: Case) -> Choice:
        choice = rule(case)
        given = {name: value(case, choice) if callable(value) else value for name, value in changes.items()}
        return dataclasses.replace(choice, **given)

    return changed


@dataclass(frozen=True)
class Rewritten:
    """A function of a module with `old` replaced by `new` in the module's source, put where `user` calls it."""

    module: ModuleType
    function: str
    user: ModuleType
    old: str
    new: str

    def use(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """For the rest of a test; a planner's own functions run in plain Python then."""
        source = FilePath(self.module.__file__ or "").read_text(encoding="utf-8")
        assert source.count(self.old) == 1, f"{self.old!r} is in {self.module.__name__} {source.count(self.old)} times"
        source = source.replace(self.old, self.new).replace("@compiled\n", "").replace("@inlined\n", "")
        name = f"{self.module.__name__}_rewritten"
        rewritten = ModuleType(name)
        monkeypatch.setitem(sys.modules, name, rewritten)  # a dataclass looks its module up there
        exec(compile(source, name, "exec"), vars(rewritten))
        monkeypatch.setattr(self.user, self.function, getattr(rewritten, self.function))
