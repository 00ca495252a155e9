"""What is looked into of one finding: shrunk, repeated, written up. Knows cases, not the process that they run in.

The process that runs cases does all of it by itself; whoever supervises it does, where a case takes the process along.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from backend.case import Case
from backend.codec import dumps
from backend.errors import UsageError
from backend.fate import Fate
from backend.findings import Finding
from backend.outcome import Outcome
from fuzz.campaign.messages import WorkerSetup
from fuzz.campaign.outcomes import WithinSpace, label_of
from fuzz.campaign.summary import Reliability
from reprod.folder import CASE, EXPLAIN, folder_name
from reprod.shrink import ShrinkResult, shrink

DIED_TRIES = 60
"""Cases tried at most to shrink one that kills its process: each that does costs a start of two seconds."""

PACE_RUNS, PACE_SECONDS = 5, 5.0
"""Runs of a case that tell its pace, as far as they fit into so many seconds."""

SHRINK_SECONDS = 60.0
"""For shrinking one finding; what is not minimal by then is said to be so."""


class RunsAlone(Protocol):
    """Where single cases are run."""

    def run(self, case: Case) -> Outcome:
        """The outcome of one case, without what stays in the process; a death is a finding."""
        ...

    def texts(self, case: Case, command: str) -> tuple[str, Mapping[str, str]] | None:
        """Folder name and files of a finding; None where the process does not survive them."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class Investigated:
    """A finding looked into. findings: of the smallest case. folder, files: its name, and texts by file name."""

    signature: str
    smallest: Case
    minimal: bool
    findings: tuple[Finding, ...]
    reliability: Reliability
    folder: str
    files: Mapping[str, str]


@dataclass(slots=True)
class Investigation:
    """Looks into the finding of a signature. cases: where they are run; command: how it was found, for its texts."""

    setup: WorkerSetup
    cases: RunsAlone
    signature: str
    command: str

    def run(self, case: Case) -> Investigated:
        """Looks into it, from a case that showed it."""
        first = self.cases.run(case)
        if not self._shows(first):
            # It showed once, in the company of other cases; alone, how often?
            return self._investigated(ShrinkResult(case, first, self.signature, 1, 0, minimal=False), self._repeat(case))
        fatal = label_of(first).fate is Fate.DIED
        tries = min(self.setup.shrink_tries, DIED_TRIES) if fatal else self._affordable_tries(case)
        try:
            shrunk = shrink(case, WithinSpace(self.cases, self.setup.space), self.signature, tries)
        except UsageError:  # shown when it was found and a moment ago, and not now
            shrunk = ShrinkResult(case, first, self.signature, 1, 0, minimal=False)
        reliability = self._repeat(shrunk.case)
        if not reliability.shown:
            # It did show again, as it was found: a fault that comes and goes misleads shrinking.
            again = self._repeat(case)
            reliability = Reliability(again.shown + 1, again.repeats + 1)
            shrunk = ShrinkResult(case, first, self.signature, shrunk.tried, 0, minimal=False)
        return self._investigated(shrunk, reliability)

    def _affordable_tries(self, case: Case) -> int:
        """As many as fit into SHRINK_SECONDS at the pace of this case, which is the largest that will be run.

        The fastest of a few runs is its pace: one alone may have waited for whatever else the machine does.
        """
        took = [self._seconds_of(case)]
        while len(took) < PACE_RUNS and sum(took) < PACE_SECONDS:
            took.append(self._seconds_of(case))
        return max(1, min(self.setup.shrink_tries, int(SHRINK_SECONDS / min(took))))

    def _seconds_of(self, case: Case) -> float:
        begin = time.perf_counter()
        self.cases.run(case)
        return time.perf_counter() - begin

    def _shows(self, outcome: Outcome) -> bool:
        cause = outcome.cause
        return outcome.faulty and cause is not None and cause.signature == self.signature

    def _repeat(self, case: Case) -> Reliability:
        shown = sum(self._shows(self.cases.run(case)) for _ in range(self.setup.repeats))
        return Reliability(shown, self.setup.repeats)

    def _investigated(self, shrunk: ShrinkResult, reliability: Reliability) -> Investigated:
        texts = None
        if self._shows(shrunk.outcome) and label_of(shrunk.outcome).fate is not Fate.DIED:
            texts = self.cases.texts(shrunk.case, self.command)
        folder, files = texts or self._short_texts(shrunk, reliability)
        findings = shrunk.outcome.findings
        return Investigated(self.signature, shrunk.case, shrunk.minimal, findings, reliability, folder, files)

    def _short_texts(self, shrunk: ShrinkResult, reliability: Reliability) -> tuple[str, Mapping[str, str]]:
        """Of a case that does not come to an outcome: the case, and how to try it."""
        ranks = f" --ranks {self.setup.ranks}" if self.setup.ranks > 1 else ""
        message = shrunk.outcome.cause.message if shrunk.outcome.cause is not None else "shown once, not again alone"
        explained = (
            f"{self.signature}\n{message}\nshown {reliability} times when repeated\n"
            f"aiterfuzz explain {CASE} --device {self.setup.device}{ranks}\n"
        )
        return folder_name(self.signature, shrunk.case), {CASE: dumps(shrunk.case) + "\n", EXPLAIN: explained}
