"""What the gate is worth: small faults planted in sglang's real backend file, and how many the gate blames on the change.

    python -m benchmarks.gate_mutants [NAME ...] [--shard I/N] [-j PROCESSES]

A mutant is killed where a scenario of the sweep shows a fault that the file as shipped does not show in it: the gate would exit
1 for it. Random lives come on top in a real gate and are tried here on what the sweep lets through. A name: only mutants with
it. A shard: each Nth mutant, from the Ith on, counted from 1. mutants.toml has them, and says how one is read.
"""

from __future__ import annotations

import argparse
import itertools
import sys
import time
import tomllib
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from backend.devices.kinds import open_device
from backend.errors import CannotRunError, NoSuchStepError
from backend.real.frameworks.fetch import open_source
from backend.real.frameworks.scenarios import Scenario
from backend.real.frameworks.session import SourceSession
from backend.real.frameworks.switches import switches_of
from backend.real.python.outline import text_change
from fuzz.gate.comparison import Before
from fuzz.gate.judge import Judge, Judged
from fuzz.gate.life import EVERYTHING, under
from fuzz.gate.order import everything, first_of_each, touched_first, what
from fuzz.gate.scenarios import random_lives
from fuzz.gate.sweep import GFX950, HEADS
from reprod.text import table

SOURCE = "sglang==0.5.13"
"""Whose file they are changes of."""


@dataclass(frozen=True, slots=True)
class Mutant:
    """One change of the file: in `function`, the first `old` behind `after` becomes `new`.

    survives: why no gate can blame anybody for it, "" where one should.
    """

    area: str
    name: str
    function: str
    old: str
    new: str
    after: str = ""
    survives: str = ""

    def text(self, original: str) -> str:
        """The file with the change; raises ValueError where the place is not there."""
        at = original.index(f"    def {self.function}(")
        at = original.index(self.after, at)
        at = original.index(self.old, at)
        return original[:at] + self.new + original[at + len(self.old) :]


EVERY_MUTANT = tuple(
    Mutant(function=row.pop("in"), **row)
    for row in tomllib.loads((Path(__file__).parent / "mutants.toml").read_text(encoding="utf-8"))["mutant"]
)

RANDOM_LIVES = 60
"""Tried on a mutant that the sweep lets through: what a gate of a minute has time for."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """killed: by the sweep; by_random: by random lives only. how: the fault that was blamed, "" for none. ran: whether any of
    its lines did; where none did, the gate leaves the question open.
    """

    mutant: Mutant
    killed: bool
    by_random: bool
    how: str
    seconds: float
    ran: bool


class Mutation:
    """The file as shipped, and each mutant held against it, scenario by scenario."""

    def __init__(self, heads: Sequence[int] = HEADS, lives: int = RANDOM_LIVES) -> None:
        self._shipped, self._session = SourceSession(SOURCE), SourceSession(SOURCE)
        self._judge = Judge(open_device("model", None))
        self._original = open_source(SOURCE).target.text
        release = self._session.release
        self._sweep = everything(GFX950, heads, release)
        self._heads, self._count = heads, lives
        self._known: dict[Scenario, Before] = {}

    def __enter__(self) -> Mutation:
        return self

    def __exit__(self, *exception: object) -> None:
        self._session.close()
        self._shipped.close()

    def verdict(self, mutant: Mutant) -> Verdict:
        """Runs a mutant until something is blamed on it, in the order in which the gate does."""
        started = time.monotonic()
        text = mutant.text(self._original)
        self._session.use(text)
        edited = text_change(self._original, text)
        first, touched = first_of_each(self._sweep), set[str]()
        how = self._blamed(first, edited.lines, touched)
        rest = [each for each in self._sweep if each not in first]
        how = how or self._blamed(touched_first(rest, touched), edited.lines, touched)
        by_random = how == "" and (how := self._blamed(self._lives(), edited.lines, touched)) != ""
        ran = bool(touched) or not edited.lines
        return Verdict(mutant, how != "" and not by_random, by_random, how, time.monotonic() - started, ran)

    def _lives(self) -> list[Scenario]:
        """Those of a gate that lets the mutant run: first under each variable that it alone reads."""
        shipped, its = (
            tuple((switch.name, value) for switch in switches_of(source) for value in switch.values)
            for source in (self._shipped.source, self._session.source)
        )
        release = self._session.release
        alone = [under(each, GFX950[0], 16, release, EVERYTHING) for each in its if each not in shipped]
        every = random_lives(GFX950, self._heads, release, 0, EVERYTHING, tuple(dict.fromkeys((*its, *shipped))))
        return [*alone, *itertools.islice(every, self._count)]

    def _blamed(self, those: Sequence[Scenario], edited: frozenset[int], touched: set[str]) -> str:
        """What a gate with the shipped file as its base would blame. touched: what executes an edited line is added to it."""
        for scenario in those:
            try:
                judged = self._judged(self._session, scenario)
            except NoSuchStepError:
                continue
            except CannotRunError as error:
                return f"exit 3: {error}"
            if judged.executed & edited:
                touched.add(what(scenario))
            for sighting in judged.sightings:
                before = self._before(scenario)
                if not (before.shows(sighting) or before.hider(sighting)):
                    return f"{sighting.signature}, {sighting.shape}"
        return ""

    def _before(self, scenario: Scenario) -> Before:
        """What the file as shipped shows in a scenario."""
        if scenario not in self._known:
            judged = self._judged(self._shipped, scenario)
            self._known[scenario] = Before([judged], judged.sightings)
        return self._known[scenario]

    def _judged(self, session: SourceSession, scenario: Scenario) -> Judged:
        return self._judge.judged(scenario, session.run(scenario))


def main(arguments: Sequence[str]) -> int:
    """The table and the score; 1 below what is asked for."""
    parser = argparse.ArgumentParser(prog="benchmarks.gate_mutants")
    parser.add_argument("names", nargs="*", metavar="NAME")
    parser.add_argument("--shard", default="1/1", metavar="I/N")
    parser.add_argument("-j", type=int, default=1, metavar="PROCESSES", dest="processes")
    asked = parser.parse_args(arguments)
    at, _, of = asked.shard.partition("/")
    named = [mutant for mutant in EVERY_MUTANT if not asked.names or any(name in mutant.name for name in asked.names)]
    wanted = named[int(at) - 1 :: int(of)]
    if not wanted:
        parser.error(f"no mutant in the shard {asked.shard} has one of these in its name: {', '.join(asked.names)}")
    made = []
    with ProcessPoolExecutor(asked.processes) as pool:
        for verdict in pool.map(_verdict, wanted):
            made.append(verdict)
            how = verdict.how or ("survives" if verdict.ran else "open: its lines did not run")
            print(f"{verdict.seconds:6.1f} s  {verdict.mutant.area}: {verdict.mutant.name}: {how}", flush=True)
    rows = [(v.mutant.area, v.mutant.name, _outcome(v), v.how or v.mutant.survives) for v in made]
    for line in table(("area", "mutant", "", "how"), rows):
        print(line)
    killed = sum(v.killed or v.by_random for v in made)
    print(f"{killed} of {len(made)} killed ({killed / len(made):.0%}), {sum(v.by_random for v in made)} by random lives only")
    faulty = len(made) - sum(v.mutant.survives != "" for v in made)
    return 0 if killed >= 0.95 * faulty else 1


_mutation: list[Mutation] = []
"""Of this process, which lives as long."""


def _verdict(mutant: Mutant) -> Verdict:
    if not _mutation:
        _mutation.append(Mutation())
    return _mutation[0].verdict(mutant)


def _outcome(verdict: Verdict) -> str:
    return "killed" if verdict.killed else "killed by chance" if verdict.by_random else "SURVIVES" if verdict.ran else "OPEN"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
