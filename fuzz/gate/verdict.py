"""Base and change beside each other: what the change brings, what it mends, what was there before and what is known.

A fault of a source is a signature at a shape; how many steps showed it and in which phases is evidence, not identity.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum

from backend.findings import Severity
from backend.real.frameworks.record import DecisionRow, Phase
from fuzz.campaign.summary import KnownReference
from fuzz.gate.frameworks import Identity, identity
from fuzz.gate.judge import Shape, Sighting


class Standing(StrEnum):
    """How a fault of the change stands."""

    NEW = "new"  # the base does not have it: blamed on the change
    FOUND = "found"  # there is no base to compare with
    BEFORE = "in the base too"
    REFUSED = "refused by the source"  # it raises on purpose, and there is no base that did not
    KNOWN = "known, open"  # an entry of the corpus that nothing mends yet


BLAMED = frozenset({Standing.NEW, Standing.FOUND})


@dataclass(frozen=True, slots=True)
class Fault:
    """One signature at one shape. rows: query rows a request that showed it; phases: eager, capture, replay."""

    signature: str
    shape: Shape
    severity: Severity
    rows: tuple[int, ...]
    phases: tuple[Phase, ...]
    message: str
    line: str | None
    smallest: Sighting
    known: KnownReference | None
    standing: Standing

    @property
    def blamed(self) -> bool:
        """Whether it fails the gate."""
        return self.standing in BLAMED


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the gate says. faults: of the change, worst first; mended: of the base that the change does not have any more.

    decisions: the change's decision table; changed: rows that differ from the base's as (base, change), None without a base.
    """

    faults: tuple[Fault, ...]
    mended: tuple[Fault, ...]
    decisions: tuple[DecisionRow, ...]
    changed: tuple[tuple[DecisionRow, DecisionRow], ...] | None

    @property
    def blamed(self) -> tuple[Fault, ...]:
        """The faults that fail the gate."""
        return tuple(fault for fault in self.faults if fault.blamed)


Reference = Callable[[Sighting], KnownReference | None]
"""The corpus entry of a sighting, if there is one."""


def faults(
    sightings: Iterable[Sighting], standing: Callable[[Sighting, KnownReference | None], Standing], known: Reference
) -> tuple[Fault, ...]:
    """Sightings folded by identity, worst first.

    A fault is known only where every sighting of it is: a known fault needs a certain life, and one seen without it is another.
    """
    grouped: dict[Identity, list[Sighting]] = {}
    for sighting in sightings:
        grouped.setdefault(identity(sighting), []).append(sighting)
    made = []
    for (signature, shape, _), group in grouped.items():
        references = {scenario: known(each) for scenario, each in {each.scenario: each for each in group}.items()}
        unknown = [each for each in group if references[each.scenario] is None]
        smallest = min(unknown or group, key=_size)
        reference = references[smallest.scenario]
        made.append(
            Fault(
                signature=signature,
                shape=shape,
                severity=max(each.severity for each in group),
                rows=tuple(sorted({each.rows for each in group})),
                phases=tuple(phase for phase in Phase if phase in {each.phase for each in group}),
                message=smallest.message,
                line=smallest.line,
                smallest=smallest,
                known=reference,
                standing=standing(smallest, reference),
            )
        )
    return tuple(sorted(made, key=lambda fault: (-fault.severity, fault.signature, fault.shape)))


def judged(
    change: Sequence[Sighting],
    base: Sequence[Sighting] | None,
    decisions: tuple[tuple[DecisionRow, ...], tuple[DecisionRow, ...] | None],
    known: Reference,
    is_open: Callable[[KnownReference], bool],
) -> Verdict:
    """The verdict on a change. is_open: whether a known fault has no remedy yet, so that nobody can be asked for one."""
    before = None if base is None else {identity(each) for each in base}
    after = {identity(each) for each in change}

    # A step is judged by its first cause: what a worse fault of the base hid at a shape shows once that one is mended.
    worse = {(each.shape, each.severity) for each in base or ()}

    def standing(sighting: Sighting, reference: KnownReference | None) -> Standing:
        excused = reference is not None and is_open(reference)
        if before is None and sighting.severity is Severity.REFUSED:
            return Standing.REFUSED
        if before is None:
            return Standing.KNOWN if excused else Standing.FOUND
        if identity(sighting) in before:
            return Standing.BEFORE
        hidden = any(shape == sighting.shape and severity > sighting.severity for shape, severity in worse)
        return Standing.KNOWN if excused and hidden else Standing.NEW

    gone = [each for each in base or () if identity(each) not in after]
    table, base_table = decisions
    changed = None
    if base_table is not None:
        earlier = {(row.num_head, row.kv_dtype): row for row in base_table}
        pairs = ((earlier.get((row.num_head, row.kv_dtype)), row) for row in table)
        changed = tuple((old, new) for old, new in pairs if old is not None and old != new)
    mended = faults(gone, lambda *_: Standing.BEFORE, known)
    return Verdict(faults(change, standing, known), mended, table, changed)


def _size(sighting: Sighting) -> tuple[int, int, int]:
    case = sighting.case
    tokens = sum(case.kv_lens) if case is not None else 0
    batch = len(case.kv_lens) if case is not None else 0
    return batch, sighting.rows, tokens
