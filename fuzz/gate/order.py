"""What a sweep runs, and in which order: whatever time cuts off is what the change touches least. Plain data; runs nothing."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence

from backend.case import DType
from backend.real.frameworks.record import DecisionRow
from backend.real.frameworks.scenarios import Scenario
from backend.words import counted
from fuzz.gate.corpus import corpus_scenarios
from fuzz.gate.frameworks import framework_scenarios
from fuzz.gate.sweep import Tensors, by_kernels, scenarios

TOGETHER = 4
"""Scenarios that a worker runs between two looks at the clock: less than a second."""


def everything(tensors: Sequence[Tensors], heads: Sequence[int], release: str) -> tuple[Scenario, ...]:
    """The table sweep, chosen kernels, the corpus and the lives of known faults of frameworks, each scenario once."""
    asked = tensors, heads, release
    return tuple(
        dict.fromkeys((*scenarios(*asked), *by_kernels(*asked), *corpus_scenarios(*asked), *framework_scenarios(*asked)))
    )


def what(scenario: Scenario) -> str:
    """What a scenario does, whatever its heads and types: "verify 2 rows"."""
    parts = scenario.name.split(", ")
    return ", ".join(parts[: next((at for at, part in enumerate(parts) if part.endswith(" heads")), 1)])


def first_of_each(asked: Iterable[Scenario]) -> tuple[Scenario, ...]:
    """One scenario of everything that is done, in the order given."""
    first: dict[str, Scenario] = {}
    for each in asked:
        first.setdefault(what(each), each)
    return tuple(first.values())


def touched_first(asked: Sequence[Scenario], touched: Collection[str]) -> tuple[Scenario, ...]:
    """Those that do what was seen to execute a changed line before the others; the order given within both."""
    return tuple(sorted(asked, key=lambda each: what(each) not in touched))


AHEAD = 40
"""Random lives that are put into an order at a time."""


def likely_first(lives: Iterable[Scenario], ran: Mapping[Scenario, bool]) -> Iterator[Scenario]:
    """Those first, of each AHEAD, that do most of what has executed changed lines. ran: scenarios, and whether they did."""
    seen, touched = Counter[Trait](), Counter[Trait]()
    for scenario, did in ran.items():
        seen.update(_traits(scenario))
        touched.update(_traits(scenario) if did else ())

    def unlikely(life: Scenario) -> float:
        return -sum(touched[trait] / seen[trait] for trait in sorted(_traits(life), key=repr) if touched[trait])

    rest = iter(lives)
    while ahead := list(itertools.islice(rest, AHEAD)):
        yield from sorted(ahead, key=unlikely)


Trait = tuple[str, object]
"""What is done or set, and how."""


def _traits(scenario: Scenario) -> set[Trait]:
    """What decides which lines of a backend run."""
    used = {(step.backend, step.kind, step.graph) for step in scenario.steps}
    made: set[Trait] = {("step", (kind, graph)) for _, kind, graph in used}
    made |= {("variable", setting) for setting in scenario.environment}
    for config in (scenario.backends[at] for at, _, _ in used):
        made |= {("pages", config.page_size > 1), ("rows", config.draft_tokens), ("parallel", config.dp_attention)}
        made.add(("tree", config.branches > 1))
        made |= {("shape", (config.num_head, config.kv_dtype)), ("ordinary", config.kv_heads is not None)}
    return made


def decided_otherwise(
    change: Iterable[DecisionRow], base: Iterable[DecisionRow]
) -> tuple[tuple[DecisionRow, DecisionRow], ...]:
    """Rows of the decision table that differ, as (base, change); a shape that one of them lacks is left out."""
    earlier = {(row.num_head, row.kv_dtype): row for row in base}
    pairs = ((earlier.get((row.num_head, row.kv_dtype)), row) for row in change)
    return tuple((old, new) for old, new in pairs if old is not None and old != new)


def otherwise_first(asked: Sequence[Scenario], shapes: Collection[tuple[int, DType]]) -> tuple[Scenario, ...]:
    """Those with a backend of a shape (heads, type of KV) that is decided otherwise, then the rest; each in the order given."""
    return tuple(sorted(asked, key=lambda each: not any((one.num_head, one.kv_dtype) in shapes for one in each.backends)))


def batches(asked: Sequence[Scenario], workers: int) -> Iterator[tuple[Scenario, ...]]:
    """What is run between two looks at the clock."""
    size = TOGETHER * workers
    return (tuple(asked[at : at + size]) for at in range(0, len(asked), size))


NAMED = 4
"""Kinds of scenarios that a line names; the rest is a number."""


def in_words(left: Sequence[Scenario], of: int) -> str:
    """What was left out of a sweep: "12 of 280 scenarios: verify 2 rows, long requests"; "" for nothing."""
    names = list(dict.fromkeys(what(each) for each in left))
    named = names if len(names) <= NAMED + 1 else [*names[:NAMED], f"and {len(names) - NAMED:,} kinds more"]
    return f"{len(left):,} of {counted(of, 'scenario')}: {', '.join(named)}" if left else ""
