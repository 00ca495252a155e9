"""One run of the gate: the table sweep on change and base side by side, the corpus, random lives; what time each has."""

from __future__ import annotations

import dataclasses
import itertools
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, ThreadPoolExecutor
from functools import cache

from backend.real.frameworks.fetch import open_source
from backend.real.frameworks.scenarios import Scenario
from backend.real.python.outline import text_change
from backend.words import counted
from fuzz.gate.compiled import compile_once
from fuzz.gate.frameworks import identity
from fuzz.gate.gate import CORES, EVERY_RELEASE, Examination, Examined, GatePlan, Stack, Turns
from fuzz.gate.judge import Sighting
from fuzz.gate.life import Abilities, Setting, under
from fuzz.gate.order import (
    batches,
    decided_otherwise,
    first_of_each,
    likely_first,
    otherwise_first,
    touched_first,
    what,
)
from fuzz.gate.scenarios import random_lives, shrink

Say = Callable[[str], None]

Blamed = Callable[[Examined, Examined | None], Sequence[Sighting]]
"""What a change is blamed for beside its base, worst first: of each fault the sighting in its smallest life."""

LIVES, LAST = 0.1, 0.05
"""Shares of the time that are kept: for random lives, however much the sweep would take; for what is under way at the end."""


def run(
    stack: Stack, base: Stack | None, plan: GatePlan, say: Say, blamed: Blamed = lambda change, base: ()
) -> tuple[Examined, Examined | None]:
    """Examines a change and, where there is one, its base. What one of them shows is tried on the other too.

    Either may be the change: the source, or the AITER below it. blamed: then the worst fault of the sweep is shown in the
    smallest life that time allows to find, for which half of what is kept for random lives is taken where the sweep used up all
    else.
    """
    if base is not None and _is_untouched(stack, base):
        with Examination(stack, plan, workers=1) as same:
            same.glance()
            seen = dataclasses.replace(same.examined(), is_the_base=True)
            return seen, seen
    until = time.monotonic() + (1 - LAST) * plan.seconds
    kept = 0.0 if plan.lives == 0 else LIVES * plan.seconds
    for each in dict.fromkeys((one.aiter, one.release) for one in (stack, base) if one is not None):
        compile_once(*each)
    with Examination(stack, plan, workers=CORES if base is None else 1) as change, ThreadPoolExecutor(CORES) as both:
        if base is None:
            change.sweep(until - kept)
            say(_sweep_says(change))
            cut_down((change,), both, blamed, until - kept / 2)
            live((change,), both, blamed, plan, until)
            return change.examined(), None
        with Examination(base, plan, workers=1) as before:
            _sweep_both(change, before, both, until - kept)
            say(f"{_sweep_says(change)} on each side")
            cut_down((change, before), both, blamed, until - kept / 2)
            live((change, before), both, blamed, plan, until)
            return change.examined(), before.examined()


def _is_untouched(stack: Stack, base: Stack) -> bool:
    """Whether both sides run the same files on the same AITER; nothing else can make them differ."""
    return (stack.aiter, stack.release) == (base.aiter, base.release) and open_source(stack.source).same_as(
        open_source(base.source)
    )


def _sweep_both(change: Examination, before: Examination, both: Executor, until: float) -> None:
    """The same scenarios on both sides: one of everything that is done, then what executed a changed line, then the rest.

    In each of the three, shapes that the two sides decide otherwise come first.
    """

    def each(action: Callable[..., None], *given: Turns) -> None:
        for done in [both.submit(action, side, *given) for side in (change, before)]:
            done.result()

    def run_until(asked: Sequence[Scenario]) -> None:
        each(Examination.run_in_turn, Turns(tuple(batches(asked, workers=1)), until))

    each(Examination.decide)
    asked = _in_order(change, before)
    first = first_of_each(asked)
    run_until(first)
    touched = {what(scenario) for scenario, did in _touching(change, before).items() if did}
    run_until(touched_first([one for one in asked if one not in first], touched))


def _in_order(change: Examination, before: Examination) -> tuple[Scenario, ...]:
    """What is asked, shapes first that the two sides decide otherwise."""
    otherwise = decided_otherwise(change.decided, before.decided)
    return otherwise_first(change.asked, {(row.num_head, row.kv_dtype) for _, row in otherwise})


def _lives_in_order(
    sides: Sequence[Examination], plan: GatePlan, can: Abilities, settings: Sequence[Setting]
) -> Iterator[Scenario]:
    """The random lives that are tried, what may execute changed lines first, by the sweep; by its first pass alone where it was
    cut, so that how many of them run is the clock's, and which are not.
    """
    every = random_lives(plan.tensors, plan.heads, EVERY_RELEASE, plan.seed, can, settings)
    drawn = itertools.islice(every, plan.lives)
    if len(sides) < 2:
        return drawn
    change, before = sides
    touching = _touching(change, before)
    if change.examined().left_out:
        first = set(first_of_each(_in_order(change, before)))
        touching = {each: did for each, did in touching.items() if each in first}
    return likely_first(drawn, touching)


def _touching(change: Examination, before: Examination) -> dict[Scenario, bool]:
    """The scenarios that are kept, and whether each executed a changed line on either side."""
    differs = text_change(before.executed.text, change.executed.text)
    new, old = change.doing(differs.lines), before.doing(differs.removed)
    return {each: new.get(each, False) or old.get(each, False) for each in new | old}


def cut_down(sides: Sequence[Examination], both: Executor, blamed: Blamed, until: float) -> None:
    """The worst fault in the smallest life found until then in which it is still the change's, which both sides keep.

    sides: the change and, where there is one, its base.
    """
    worst = next(iter(blamed(*_pair([side.examined() for side in sides]))), None)
    if worst is None:
        return
    smallest = _smallest(worst, sides, both, blamed, until)
    for side in sides if smallest != worst.scenario else ():
        side.run([smallest])


def live(sides: Sequence[Examination], both: Executor, blamed: Blamed, plan: GatePlan, until: float) -> None:
    """Random lives, the same on all sides, until the monotonic clock says so; at least the first where it does not yet.

    A fault that the change is to blame for, and was not before, is kept in its smallest life; what else a side did not show
    before in the life that shows it. Some lives are under variables that the file reads: those that the change reads and the
    base does not are tried first; of the others each before the first life under it. Where the base runs nothing under one, or
    a source without a base is not right under it in what every server does, no life is.
    """
    if time.monotonic() >= until:
        return
    can = Abilities.common(both.map(Examination.abilities, sides))
    settings = tuple(dict.fromkeys(setting for side in sides for setting in side.settings))
    shape = sides[-1].starts()
    told = {identity(each) for each in blamed(*_pair([side.examined() for side in sides]))}

    def tried(together: Sequence[Scenario], are_random: bool) -> list[Examined]:
        seen = list(both.map(lambda side: side.alone(*together, are_random=are_random), sides))
        for fault in [each for each in blamed(*_pair(seen)) if identity(each) not in told]:
            told.add(identity(fault))
            smallest = _smallest(fault, sides, both, blamed, until)
            for side in sides:
                side.run([smallest])
        return seen

    @cache
    def can_be_under(setting: Setting) -> bool:
        scenario = under(setting, *shape, EVERY_RELEASE, can)
        seen = [sides[0].alone(scenario)] if len(sides) == 1 else tried((scenario,), are_random=False)
        return sides[-1].can_be_under(setting, seen[-1], needs_to_be_right=len(sides) == 1)

    for setting in sides[0].settings:
        if setting not in sides[-1].settings and time.monotonic() < until:
            can_be_under(setting)
    lives = (life for life in _lives_in_order(sides, plan, can, settings) if all(map(can_be_under, life.environment)))
    while together := tuple(itertools.islice(lives, CORES // len(sides))):
        seen = tried(together, are_random=True)
        more = set().union(*(side.shows_more(each) for side, each in zip(sides, seen, strict=True)))
        for side in sides if more else ():
            side.run([life for life in together if life in more])
        if time.monotonic() >= until:
            return


def _pair(seen: Sequence[Examined]) -> tuple[Examined, Examined | None]:
    return seen[0], seen[1] if len(seen) > 1 else None


def _smallest(fault: Sighting, sides: Sequence[Examination], both: Executor, blamed: Blamed, until: float) -> Scenario:
    """The smallest life found until then in which the change is to blame for a fault."""

    def shows(candidate: Scenario) -> bool:
        if time.monotonic() >= until:
            return False
        there = blamed(*_pair(list(both.map(lambda side: side.alone(candidate), sides))))
        return any((each.signature, each.shape) == (fault.signature, fault.shape) for each in there)

    return shrink(fault.scenario, shows)


def _sweep_says(side: Examination) -> str:
    seen = side.examined()
    left = len(seen.left_out)  # the report names them
    return f"swept {counted(seen.scenarios, 'scenario')}{f'; time was over before {left:,} of {seen.asked:,}' if left else ''}"
