"""What a specification asks for by name, and whether any case ran of it. Knows no store and no command.

A search draws at random and rules refuse what they like, so that a value which somebody named may run in no case at all; where
nothing was found, that must be said. What is left to the backend was not asked for.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping

from backend.case import ORDINARY, Case
from backend.words import counted
from fuzz.space import heads_of
from fuzz.spec import Spec

WORDS = {
    "releases": ("release", "release"),
    "archs": ("arch", "architecture"),
    "modes": ("mode", "metadata mode"),
    "query_rows": ("max_seqlen_q", "query rows a request of"),
    "page_sizes": ("page_size", "page size"),
    "q_dtype": ("q_dtype", "q of"),
    "kv_dtype": ("kv_dtype", "a KV cache of"),
    **{each.name: (each.name, each.name) for each in ORDINARY},
}
"""Field of a Spec -> field of a Case, and what a person calls it. Heads are apart: all else is asked of each of them."""

RELEASE = "release "
"""What the one fact begins with that every case has once."""


def facts(case: Case) -> Iterator[str]:
    """What a case is, by the fields that can be asked for: "release 2026-06", "page_size 64"."""
    for field, _ in WORDS.values():
        yield f"{field} {getattr(case, field)}"


def never_ran(
    spec: Spec, ran: Mapping[int, Collection[str]], drawn: Mapping[int, int], refused: Mapping[int, int]
) -> Iterator[str]:
    """What `spec` names and no case ran of, a sentence each; of each head count too, where some are named.

    ran: facts of the cases that ran, by heads a rank; drawn, refused: how many were, by heads a rank.
    """
    shapes = {heads_of(spec.model, shape): shape.upper() for shape in spec.shapes or ()}
    named = {count: f"{shape} ({counted(count, 'head')})" for count, shape in shapes.items()}
    named |= {count: f"{counted(count, 'head')}" for count in spec.heads or () if count not in shapes}
    for count, shape in named.items():
        if not ran.get(count):
            yield f"no case of {shape} ran: {_instead(drawn.get(count, 0), refused.get(count, 0))}"
    everywhere = {fact for found in ran.values() for fact in found}
    for fact, what in _asked(spec):
        if fact not in everywhere:
            yield f"no case with {what} ran"
            continue
        for count, shape in named.items():
            if ran.get(count) and fact not in ran[count]:
                yield f"no case of {shape} with {what} ran"


def _instead(drawn: int, refused: int) -> str:
    """What became of cases of which none ran."""
    said = [f"{refused:,} were refused"] if refused else []
    said += [f"{drawn - refused:,} came to no end or are not modelled"] if drawn > refused else []
    return " and ".join(said) or "none was drawn"


def _asked(spec: Spec) -> Iterator[tuple[str, str]]:
    """(fact, words) of each value that is named."""
    for name, (field, words) in WORDS.items():
        values = getattr(spec, name)
        for value in values if isinstance(values, tuple) else () if values is None else (values,):
            yield f"{field} {value}", f"{words} {value}"
