"""What is looked into of one finding: shrunk, repeated, written up. Knows cases, not the process that they run in.

The process that runs cases does all of it by itself; whoever supervises it does, where a case takes the process along.

Of a device that runs machine code a faster one foretells what it shows (`DeviceKind.shrunk_on`). A smaller case is tried there
first, and counts where the device that was asked for shows the fault too; where the faster one does not know the fault, all is
tried on the other.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Protocol

from backend.case import Case
from backend.codec import dumps
from backend.devices.kinds import device_kind
from backend.errors import UsageError
from backend.fate import Fate
from backend.findings import Finding
from backend.outcome import Outcome, not_run
from fuzz.campaign.messages import WorkerSetup
from fuzz.campaign.outcomes import WithinSpace, label_of
from fuzz.campaign.summary import Reliability
from reprod.folder import CASE, EXPLAIN, folder_name
from reprod.shrink import Runner, ShrinkResult, shrink

DIED_TRIES = 60
"""Cases tried at most to shrink one that kills its process: each that does costs a start of two seconds."""

PACE_RUNS, PACE_SECONDS = 5, 5.0
"""Runs of a case that tell its pace, as far as they fit into so many seconds."""

SHRINK_SECONDS = 60.0
"""For shrinking one finding; what is not minimal by then is said to be so."""


class RunsAlone(Protocol):
    """Where single cases are run."""

    def run(self, case: Case, device: str | None = None) -> Outcome:
        """The outcome of one case, without what stays in the process; a death is a finding. device: None for the setup's."""
        ...

    def texts(self, case: Case, command: str) -> tuple[str, Mapping[str, str]] | None:
        """Folder name and files of a finding; None where the process does not survive them."""
        ...


@dataclass(frozen=True, slots=True, eq=False)
class Investigated:
    """A finding looked into. findings: of the smallest case, as the device that was asked for shows it.

    minimal: whether shrinking ran to its end; of a smaller case that a faster device does not show, its word is taken. folder,
    files: its name, and texts by file name.
    """

    signature: str
    smallest: Case
    minimal: bool
    findings: tuple[Finding, ...]
    reliability: Reliability
    folder: str
    files: Mapping[str, str]


@dataclass(slots=True)
class _Foretold:
    """A path that asks a faster device first: a case that does not show the fault there is not run on the slower one.

    left: cases that may yet be run on the slower one, which is the one that was asked for.
    """

    cases: RunsAlone
    faster: str
    shows: Callable[[Outcome], bool]
    left: int

    def run(self, case: Case) -> Outcome:
        """The outcome on the slower device, where the faster one shows the fault."""
        foretold = self.cases.run(case, self.faster)
        if not self.shows(foretold):
            return foretold
        self.left -= 1
        return self.cases.run(case) if self.left >= 0 else not_run(case, "no time is left")


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
        shrunk = self._shrunk(case, first)
        reliability = self._repeat(shrunk.case)
        if not reliability.shown:
            # It did show again, as it was found: a fault that comes and goes misleads shrinking.
            again = self._repeat(case)
            reliability = Reliability(again.shown + 1, again.repeats + 1)
            shrunk = ShrinkResult(case, first, self.signature, shrunk.tried, 0, minimal=False)
        return self._investigated(shrunk, reliability)

    def _shrunk(self, case: Case, first: Outcome) -> ShrinkResult:
        """The smallest case. first: the outcome of the case, which shows the fault."""
        if label_of(first).fate is Fate.DIED:
            found = self._smallest(self.cases, case, min(self.setup.shrink_tries, DIED_TRIES))
        else:
            tries = self._affordable_tries(case)
            found = self._foretold(case, tries) or self._smallest(self.cases, case, tries)
        # None: shown when it was found and a moment ago, and not now
        return found or ShrinkResult(case, first, self.signature, 1, 0, minimal=False)

    def _foretold(self, case: Case, tries: int) -> ShrinkResult | None:
        """As `_smallest`, with the help of a faster device; None where there is none, or it does not show the fault."""
        faster = device_kind(self.setup.device).shrunk_on
        if not faster:
            return None
        path = _Foretold(self.cases, faster, self._shows, tries)
        found = self._smallest(path, case, self._affordable_tries(case, faster))
        return found and replace(found, minimal=found.minimal and path.left >= 0)

    def _smallest(self, path: Runner, case: Case, tries: int) -> ShrinkResult | None:
        """What shrinking on a path comes to, None where that does not show the fault."""
        try:
            return shrink(case, WithinSpace(path, self.setup.space), self.signature, tries)
        except UsageError:
            return None

    def _affordable_tries(self, case: Case, device: str | None = None) -> int:
        """As many as fit into SHRINK_SECONDS at the pace of this case, which is the largest that will be run.

        The fastest of a few runs is its pace: one alone may have waited for whatever else the machine does. device: see
        RunsAlone.run.
        """
        took = [self._seconds_of(case, device)]
        while len(took) < PACE_RUNS and sum(took) < PACE_SECONDS:
            took.append(self._seconds_of(case, device))
        return max(1, min(self.setup.shrink_tries, int(SHRINK_SECONDS / min(took))))

    def _seconds_of(self, case: Case, device: str | None) -> float:
        begin = time.perf_counter()
        self.cases.run(case, device)
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
