"""What a case reached, as numbers that count as new, and which case is the better one to breed from.

**Features.** Identifiers of an observation's coverage (branches of the planner, the dispatched kernel, edges of machine code),
and besides, so that combinations count as new too: the set of planner branches with the kernel, the fault, and the set of
findings. A refusal is a feature of its own.

**The better parent** of a feature is one without a fault: what is wrong with its children is theirs, whereas those of a faulty
case mostly show their parent's fault, which hides any that comes later on the path. Of two alike it is the cheaper.

This module knows outcomes and cases; not how cases are made, and not where any of it is kept.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from typing import TYPE_CHECKING

from backend.case import Case
from backend.outcome import Outcome
from fuzz.campaign.report import Parent

if TYPE_CHECKING:
    from backend.aiter.planners.result import Plan

CHEAPER = 1.25
"""A case takes a parent's place where that costs so many times as much; small gains are not worth a report."""

_COMBINATION = 1 << 40
"""Added to hashes of combinations, which keeps them apart from the identifiers of devices, whose hashes have 33 bits."""

_FAULT = 1 << 41
"""Added to hashes of a fault's signature."""


def features(outcome: Outcome) -> list[int]:
    """Identifiers of what a case reached, the same in every process."""
    from backend.aiter.launch import Refusal

    found = list(outcome.observation.coverage) if outcome.observation is not None else []
    call = outcome.call
    branches = call.plan.branches if call is not None and call.plan is not None else 0
    if call is None:
        found.append(_hash("refused by the backend"))
    elif isinstance(call.launch, Refusal):
        # Who refuses, not why: reasons name the case's own figures, which would make every refusal a new one.
        found.append(_hash(f"refused by {call.launch.raised_by}, {branches}"))
    else:
        found.append(_hash(f"{branches} {call.launch.code_object} {call.launch.fold} {call.launch.second_stage.kind}"))
    if call is not None and call.plan is not None and call.plan.rejected is None:
        found += [_hash(f"{call.plan.planner} {what} {left.bit_length()}") for what, left in margins(call.plan)]
    if outcome.findings:
        found.append(_hash(" ".join(sorted({finding.signature for finding in outcome.findings}))))
    if outcome.faulty and outcome.cause is not None:
        found.append(_FAULT + _hash(outcome.cause.signature))
    return found


def margins(plan: Plan) -> Iterator[tuple[str, int]]:
    """How far a plan stays from what the checks object to, by what: int32 words left behind what was written of each buffer,
    tokens of the shortest piece. Nothing of what has been passed."""
    for name, buffer in plan.buffers.items():
        if buffer.last < buffer.allocated:
            yield name, buffer.allocated - 1 - buffer.last
    items = plan.work_items
    if len(items):
        shortest = int((items[:, 5] - items[:, 4]).min())
        if shortest > 0:
            yield "piece", shortest


def names_fault(feature: int) -> bool:
    """Whether a feature stands for a fault's signature."""
    return bool(feature & _FAULT)


def parent(outcome: Outcome) -> Parent | None:
    """The case as one to breed from; None for one that reached no kernel, which has nothing to hand on."""
    if outcome.observation is None:
        return None
    cause = outcome.cause if outcome.faulty else None
    family = f"{cause.kind.value} {cause.tensor}".strip() if cause is not None else ""
    case = outcome.case
    return Parent(case, f"{case.release} {outcome.observation.call.launched.code_object}", family, cost(case))


def better(one: Parent, other: Parent) -> bool:
    """Whether `one` takes the place of `other` as the parent of a feature that both have."""
    if bool(one.family) is not bool(other.family):
        return not one.family
    return CHEAPER * one.cost < other.cost


def cost(case: Case) -> float:
    """What a case takes to run, in thousands of KV tokens: tokens and pages are what planners, models and kernels go through,
    beside what every case takes (measured on device model: 0.25 ms a case, 4 us for a thousand tokens or pages)."""
    tokens = sum(case.kv_lens) / 1000
    return 60.0 + tokens + tokens / case.page_size


def _hash(text: str) -> int:
    return _COMBINATION + zlib.crc32(text.encode())
