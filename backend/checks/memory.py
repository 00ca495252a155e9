"""Violations of the memory contract that a device saw, as findings. The same for every device."""

from __future__ import annotations

from backend.aiter.planners.result import EDITED
from backend.aiter.reduction import SecondStageKind
from backend.findings import Finding, FindingKind, Party, Severity
from backend.observation import Observation, Violation, ViolationKind
from backend.words import number_of

_REDUCTIONS = {kind.value for kind in SecondStageKind}

ABOUT_ROWS = (
    ViolationKind.LOST,
    ViolationKind.MISPLACED,
    ViolationKind.NO_OUTPUT,
    ViolationKind.UNREAD,
    ViolationKind.CAPACITY,
    ViolationKind.LDS,
)
"""No access of its own is bad: a row, token or byte of LDS is left out, mislaid or too many, and `why` says so in full."""


def check_violations(observation: Observation) -> list[Finding]:
    """One finding for each violation, with the first offender."""
    return [_finding(violation) for violation in observation.violations]


def _finding(violation: Violation) -> Finding:
    kind = _kind(violation)
    figures: dict[str, int | str] = {
        "first_offset": violation.first_offset,
        "end_offset": violation.end_offset,
        "bytes_outside": violation.extent,
        "count": violation.count,
    }
    if violation.work_item_index is not None:
        figures["work_item"] = violation.work_item_index
    if violation.pc is not None:
        figures["pc"] = violation.pc
    if violation.instruction:
        figures["instruction"] = violation.instruction
    return Finding(
        kind=kind,
        severity=_severity(kind, violation),
        party=_party(violation),
        stage=violation.stage,
        tensor=violation.tensor,
        message=_message(violation),
        evidence=figures,
    )


def _party(violation: Violation) -> Party:
    if violation.kind is ViolationKind.NULL:  # a kernel uses what it is given
        return Party.LAUNCHER
    if violation.stage == EDITED:
        return Party.CALLER
    return Party.REDUCTION if violation.stage in _REDUCTIONS else Party.KERNEL


_KINDS = {
    ViolationKind.NULL: FindingKind.NULL_POINTER,
    ViolationKind.FOREIGN_PAGE: FindingKind.FOREIGN_PAGE,
    ViolationKind.UNWRITTEN: FindingKind.UNWRITTEN_READ,
    ViolationKind.READ_ONLY: FindingKind.OUT_OF_BOUNDS_WRITE,
    ViolationKind.RACE: FindingKind.WRITE_RACE,
    ViolationKind.LOST: FindingKind.NOT_COVERED,
    ViolationKind.MISPLACED: FindingKind.MISPLACED_ROW,
    ViolationKind.NO_OUTPUT: FindingKind.ROW_NOT_WRITTEN,
    ViolationKind.UNREAD: FindingKind.NOT_COVERED,
    ViolationKind.CAPACITY: FindingKind.SPLIT_CAP,
    ViolationKind.LDS: FindingKind.TOO_MUCH_LDS,
}
"""What each kind of violation is; one out of bounds is a write or a read."""


def _kind(violation: Violation) -> FindingKind:
    if violation.kind is ViolationKind.OUT_OF_BOUNDS:
        return FindingKind.OUT_OF_BOUNDS_WRITE if violation.is_write else FindingKind.OUT_OF_BOUNDS_READ
    return _KINDS[violation.kind]


def _severity(kind: FindingKind, violation: Violation) -> Severity:
    """That of the access where a finding of the kind can be either."""
    if Severity.WRITE in kind.row.severities and violation.is_write:
        return Severity.WRITE
    return kind.severity


def _message(violation: Violation) -> str:
    access = "write" if violation.is_write else "read"
    if violation.kind is ViolationKind.OUT_OF_BOUNDS:
        side = "before the start" if violation.first_offset < 0 else "past the end"
        return f"{access} of {violation.tensor or 'LDS'} {number_of(violation.extent, 'byte')} {side}: {violation.why}"
    if violation.kind is ViolationKind.NULL:
        return f"{access} through a null pointer: {violation.why}"
    if violation.kind in ABOUT_ROWS:
        return violation.why
    if violation.kind is ViolationKind.UNWRITTEN and violation.is_write:  # a store that is missing, not an access
        return violation.why
    return f"{access} of {violation.tensor}, {violation.kind.value}: {violation.why}"
