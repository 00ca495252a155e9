"""Which shapes are affected, as one table of a screen: a row for each thing that differs, values by what they show."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from backend.aiter.release import release
from backend.case import Case
from backend.devices.kinds import device_kind
from reprod.sweep import DTYPE_PAIRS, Effect, SweptSurroundings
from reprod.text import listed, markdown_table

HEADER = ("what differs", "affected", "not affected", "refused", "another fault, or not known")


LISTED_ROWS = "queries a request, each a row with a list"
"""What is swept where each query has its own list of tokens: then max_seqlen_q is 1 for any number of them."""


def affected_table(around: SweptSurroundings, case: Case) -> list[str]:
    """The table of a sweep around a case, with a line above that says what ran it."""
    introduction = f"Affected shapes, {_ran(around.ran)}, all else as in the smallest case:"
    return [introduction, "", *markdown_table(HEADER, list(_rows(around, case)))]


def _rows(around: SweptSurroundings, case: Case) -> Iterator[tuple[str, ...]]:
    for place, (q, kv) in enumerate(DTYPE_PAIRS):
        effects = [(str(heads), effects[place]) for heads, effects in around.by_heads]
        yield _row(f"heads, q {q}, KV {kv}", effects)
    dimensions = dict.fromkeys(shape.dimension for shape in around.one_by_one)
    for dimension in dimensions:
        name = LISTED_ROWS if case.topk and dimension == "max_seqlen_q" else dimension
        shapes = [(_value(dimension, shape.value), shape.effect) for shape in around.one_by_one if shape.dimension == dimension]
        yield _row(name, shapes)


def _row(what: str, shapes: Sequence[tuple[str, Effect]]) -> tuple[str, ...]:
    def having(*effects: Effect) -> str:
        return ", ".join(dict.fromkeys(value for value, effect in shapes if effect in effects))

    affected = having(Effect.AFFECTED)
    return (
        what,
        f"**{affected}**" if affected else "",
        having(Effect.UNAFFECTED),
        having(Effect.REFUSED),
        having(Effect.OTHER, Effect.UNKNOWN),
    )


def _value(dimension: str, value: str) -> str:
    """A release is known by its commit to whoever has not read this project's documentation."""
    return release(value).commit[:12] if dimension == "release" else value


def _ran(devices: Mapping[str, bool]) -> str:
    """How a sweep came by what it tells. devices: by name, with whether o was compared with attention."""
    ways = [device_kind(device).how_swept(numbers) for device, numbers in devices.items()]
    return listed(ways) if ways else "by AITER's host code alone"
