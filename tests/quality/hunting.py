"""What the quality tests share: searches on the real path, rules changed for one test, planners changed in their source."""

from __future__ import annotations

import dataclasses
import itertools
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path as FilePath
from types import ModuleType
from typing import Any

import pytest

from backend.case import Case
from backend.fate import Fate
from backend.path import Path
from backend.serving.backends import BACKENDS
from backend.serving.policy import Choice, Policy
from fuzz.campaign.chunks import Safe, run_chunk
from fuzz.campaign.guidance import Frozen
from fuzz.campaign.outcomes import WithinSpace
from fuzz.campaign.report import ChunkReport
from fuzz.space import CaseSpace, space
from fuzz.spec import Spec
from fuzz.strategies import CHUNK, chunk_cases
from reprod.shrink import ShrinkResult, shrink

PATH = Path()
"""One path for all tests: it holds no state of a case."""

AT_ONCE = 20
"""Cases between two looks at what was met."""


@dataclass(frozen=True)
class Hunt:
    """What a search came to. ran: cases neither refused nor unmodelled. faults: shrunk, by signature, as they were met."""

    ran: int
    faults: dict[str, ShrinkResult]


def search(spec: Spec, cases: int, seed: int = 0) -> Hunt:
    """A whole search, each fault shrunk."""
    return search_within(space(spec), cases, seed)


def search_within(bounds: CaseSpace, cases: int, seed: int = 0) -> Hunt:
    """The same in any space."""
    ran, faults = 0, {}
    for report in _chunks(bounds, cases, seed):
        fates = report.fates()
        assert not fates[Fate.DIED], report.shown
        ran += fates[Fate.CLEAN] + fates[Fate.FAULTY]
        for shown in report.shown:
            if shown.signature not in faults:
                faults[shown.signature] = shrink(shown.case, WithinSpace(PATH, bounds), shown.signature)
    return Hunt(ran, faults)


def signatures(spec: Spec, cases: int, seed: int = 0) -> Iterator[str]:
    """Of the faults that a search meets, as it meets them, none of them shrunk: whoever waits for one need not run the rest."""
    path, drawn = Safe(PATH, "model"), iter(chunk_cases(space(spec), seed, 0, cases))
    while some := list(itertools.islice(drawn, AT_ONCE)):
        report = run_chunk(0, some, path, Frozen(), keep=False)
        assert not report.fates()[Fate.DIED], report.shown
        yield from (shown.signature for shown in report.shown)


def first_fault(spec: Spec, kind: str, cases: int, seed: int) -> ShrinkResult | None:
    """The first fault whose signature begins with `kind`, None where the search does not meet it in so many cases."""
    bounds = space(spec)
    for report in _chunks(bounds, cases, seed):
        for shown in report.shown:
            if shown.signature.startswith(kind):
                return shrink(shown.case, WithinSpace(PATH, bounds), shown.signature)
    return None


def _chunks(bounds: CaseSpace, cases: int, seed: int) -> Iterator[ChunkReport]:
    """Chunks of at most CHUNK cases, until there were so many cases."""
    count = min(cases, CHUNK)
    path = Safe(PATH, "model")
    for chunk in range(-(-cases // count)):
        yield run_chunk(chunk, chunk_cases(bounds, seed, chunk, count), path, Frozen(), keep=False)


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
