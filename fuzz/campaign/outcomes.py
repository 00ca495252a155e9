"""Outcomes as they leave the process that runs cases: their labels, and those of cases that took it along.

Knows neither how cases are run nor how they are kept, and imports nothing slow: the process that hands out work needs it too.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from backend.case import Case
from backend.fate import Fate
from backend.findings import Finding, FindingKind, Party, Severity
from backend.outcome import Outcome, not_run, reported
from fuzz.campaign.report import Label
from fuzz.space import CaseSpace

if TYPE_CHECKING:
    from reprod.shrink import Runner

HANGS = "hang"
"""Discriminator of a case that does not come back; any other names a signal, an exit status or an exception."""


def died(case: Case, device: str, how: str, discriminator: str) -> Outcome:
    """The outcome of a case that took the program with it. how: completes "the process that ran the case ..."."""
    finding = Finding(
        FindingKind.HANG if discriminator == HANGS else FindingKind.DIED,
        Severity.SILENT,
        Party.PROJECT,
        f"device {device}",
        "",
        f"the process that ran the case {how}",
        discriminator=discriminator,
    )
    return reported(case, (finding,), None, Fate.DIED)


def label_of(outcome: Outcome) -> Label:
    """What became of a case."""
    cause = outcome.cause if outcome.faulty else None
    return Label(outcome.fate, cause.signature if cause is not None else outcome.reason or "")


@dataclass(frozen=True, slots=True)
class WithinSpace:
    """A path that takes the cases of a space only, for shrinking: whoever asks for TP2 wants to read of 64 heads."""

    path: Runner
    space: CaseSpace

    def run(self, case: Case) -> Outcome:
        """The outcome of a case of the space; any other is not run."""
        if not self.space.holds(case):
            return not_run(case, "not a case that the search was asked for")
        return self.path.run(case)
