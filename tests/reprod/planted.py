"""A path whose faults are planted: predicates over a Case instead of a planner and a device."""

from __future__ import annotations

from collections.abc import Callable

from backend.case import Case
from backend.findings import Finding, FindingKind, Party, Severity
from backend.outcome import Outcome, reported

Predicate = Callable[[Case], bool]


class PlantedPath:
    """Shows, in this order of causes, the fault of every predicate that holds; refuses what `refuse` holds for."""

    def __init__(self, *faults: Predicate, refuse: Predicate = lambda case: False) -> None:
        self.faults = faults
        self.refuse = refuse
        self.runs: list[Case] = []

    def run(self, case: Case) -> Outcome:
        self.runs.append(case)
        if self.refuse(case):
            return reported(case, (), "planted refusal")
        kinds = (FindingKind.HEAD_WIDTH, FindingKind.OUT_OF_BOUNDS_WRITE)
        findings = tuple(
            Finding(kind, Severity.WRITE, Party.PLANNER, "planted", "o", "planted")
            for kind, fault in zip(kinds, self.faults, strict=False)
            if fault(case)
        )
        return reported(case, findings, None)


FIRST = "head-width/planted/o"
SECOND = "out-of-bounds-write/planted/o"
