"""Runs one chunk on a path and reports it. Knows the path and guidance; no process, no Ray, no store."""

from __future__ import annotations

import time
from array import array
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path as FilePath
from traceback import extract_tb
from typing import TYPE_CHECKING

import numpy as np

from backend.case import Case
from backend.checks.numerics import death_once
from backend.errors import CannotRunError, RuleFailedError, RuleLostError
from backend.fate import Fate
from backend.outcome import Outcome, not_run, unmodelled
from backend.words import counted
from fuzz.asked import facts
from fuzz.campaign.features import better, features, parent
from fuzz.campaign.guidance import COMMON, Frozen
from fuzz.campaign.outcomes import HANGS, died, label_of
from fuzz.campaign.report import (
    AITER,
    BACKEND,
    NO_PARENT,
    CallShape,
    CellCounts,
    CellKey,
    ChunkReport,
    Label,
    Parent,
    Reached,
    Shown,
    cell_of,
    refused_as,
)

if TYPE_CHECKING:
    from reprod.shrink import Runner

MOST_LOST = 3
CASES_A_LOSS = 50
"""A rule's process may be lost at so many cases of a chunk, and at one more in each fifty; each costs a start of a process."""

Note = Callable[[int, int], None]
"""Told (chunk, position) before a case runs, and (-1, -1) when none does."""


class Safe:
    """A path on which no case raises: an error of the program is a finding, what cannot run counts as not modelled, and a case
    for which the user's own rule gives no choice as not run: nothing is wrong but the rule.

    lost: how often a rule of the user's own was lost; why_lost: how, the last time.
    """

    def __init__(self, path: Runner, device: str) -> None:
        self.path = path
        self.device = device
        self.lost = 0
        self.why_lost = ""

    def run(self, case: Case) -> Outcome:
        """The outcome of a case, whatever it raises."""
        try:
            return self.path.run(case)
        except RuleFailedError as failed:
            if isinstance(failed, RuleLostError):
                self.lost += 1 if failed.how != HANGS else 1 + MOST_LOST
                self.why_lost = str(failed)
            return not_run(case, str(failed))
        except CannotRunError as error:
            return unmodelled(case, str(error))
        except Exception as error:
            return self._raised(case, error)

    def _raised(self, case: Case, error: BaseException) -> Outcome:
        where = extract_tb(error.__traceback__)[-1]
        place = f"{FilePath(where.filename).name}:{where.name}"
        how = f"raised {type(error).__name__} in {place}: {error}"
        return died(case, self.device, how, f"{type(error).__name__} in {place}")


def run_chunk(
    chunk: int,
    cases: Iterable[Case],
    path: Safe,
    frozen: Frozen,
    note: Note = lambda chunk, position: None,
    dead: Mapping[int, Outcome] | None = None,
    keep: bool = True,
    seen: Callable[[Shown], None] = lambda shown: None,
) -> ChunkReport:
    """Runs the cases of a chunk in their order. dead: outcomes of those that must not be run again, by position.

    keep: whether cases are reported whole that are the best so far to breed from for something that they reach. seen: is told
    of each finding that is new in the chunk when its case is judged.
    Raises RuleLostError where a rule of the user's own is lost so often that going on is of no use.
    """
    tally = _Tally(frozen, keep, seen)
    begin = time.perf_counter()
    for position, case in enumerate(cases):
        if dead is not None and position in dead:
            tally.count(position, case, dead[position])
            continue
        note(chunk, position)
        tally.count(position, case, path.run(case))
        if path.lost > MOST_LOST + position // CASES_A_LOSS:
            raise RuleLostError(f"{path.why_lost}; after {counted(position + 1, 'case')} it is not asked any more")
    note(-1, -1)
    return tally.report(chunk, time.perf_counter() - begin)


class _Tally:
    """Adds up the outcomes of one chunk."""

    def __init__(self, frozen: Frozen, keep: bool, seen: Callable[[Shown], None]) -> None:
        self._frozen = frozen
        self._keep = keep
        self._seen = seen
        self._labels: dict[Label, int] = {}
        self._codes = array("H")
        self._shown: dict[str, Shown] = {}
        self._cells: dict[CellKey, CellCounts] = {}
        self._refused: dict[tuple[int, str], tuple[int, Case]] = {}
        self._counts: dict[int, int] = {}
        self._best: dict[int, tuple[int, Parent]] = {}

    def count(self, position: int, case: Case, outcome: Outcome) -> None:
        """A case and what became of it."""
        label = label_of(outcome)
        self._code(label)
        cell = self._cell(case)
        cell.cases += 1
        if outcome.unknown:
            return
        if outcome.observation is not None and label.fate is not Fate.REFUSED:
            cell.ran += 1
            cell.kernels[outcome.observation.call.launched.code_object] += 1
            cell.ran_as[CallShape.of(case).text] += 1
            cell.facts.update(facts(case))
        if label.fate in (Fate.FAULTY, Fate.DIED):
            cell.faulty += 1
            cell.signatures[label.text] += 1
            if outcome.observation is None and label.fate is Fate.FAULTY:
                cell.stopped_as[CallShape.of(case).text] += 1
            if label.text not in self._shown:
                cause = outcome.cause
                assert cause is not None
                self._show(Shown(label.text, position, case, cause))
        elif label.fate is Fate.REFUSED:
            cell.refused[label.text] += 1
            shape = refused_as(case, BACKEND if outcome.decision is None else AITER, label.text)
            cell.refused_as[shape] += 1
            self._refused.setdefault((case.num_head, shape), (position, case))
        self._once(position, case, outcome)
        self._reach(position, outcome)

    def _once(self, position: int, case: Case, outcome: Outcome) -> None:
        """A death that did not come again is told beside what became of the case, which counts as if nothing had been."""
        death = death_once(outcome.observation) if outcome.observation is not None else None
        if death is not None and death.signature not in self._shown:
            self._show(Shown(death.signature, position, case, death))

    def _show(self, shown: Shown) -> None:
        self._shown[shown.signature] = shown
        self._seen(shown)

    def _reach(self, position: int, outcome: Outcome) -> None:
        offered = parent(outcome) if self._keep else None
        for feature in features(outcome):
            self._counts[feature] = self._counts.get(feature, 0) + 1
            if offered is not None:
                known = self._best[feature][1] if feature in self._best else self._frozen.parent(feature)
                if known is None or better(offered, known):
                    self._best[feature] = position, offered

    def _code(self, label: Label) -> None:
        self._codes.append(self._labels.setdefault(label, len(self._labels)))

    def _cell(self, case: Case) -> CellCounts:
        key = cell_of(case)
        cell = self._cells.get(key)
        if cell is None:
            cell = self._cells[key] = CellCounts()
        return cell

    def report(self, chunk: int, seconds: float) -> ChunkReport:
        """The report of the whole chunk."""
        hits, best = self._frozen.hits, self._best
        features = [feature for feature in self._counts if feature in best or hits.get(feature, 0) < COMMON]
        reached = Reached(
            np.array(features, np.int64),
            np.array([self._counts[feature] for feature in features], np.uint32),
            np.array([best[feature][0] if feature in best else NO_PARENT for feature in features], np.uint16),
        )
        return ChunkReport(
            chunk,
            seconds,
            tuple(self._labels),
            np.array(self._codes, np.uint16),
            tuple(self._shown.values()),
            self._cells,
            reached,
            dict(best.values()),
            dict(self._refused.values()),
        )
