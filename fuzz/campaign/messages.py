"""What a worker asks of the process that runs cases, and its answers. They go through backend.codec, as one JSON line each.

An answer's type follows from the task's; tasks are told apart by their fields.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from backend.case import Case
from backend.fate import Fate
from backend.findings import Finding
from backend.outcome import Outcome, reported
from fuzz.provenance import Provenance
from fuzz.space import CaseSpace


@dataclass(frozen=True, slots=True)
class WorkerSetup:
    """What all workers of a campaign are told: enough to make any of its chunks and to run any of its cases.

    space, seed, count: of the campaign, count being cases a chunk. guided: whether cases are kept to be mutated.

    device, aiter, numbers, ranks: what runs cases (see CampaignConfig).
    seconds_a_case: after which a case hangs. memory: MiB that the process may hold. repeats, shrink_tries: of a
    finding that is looked into. made_by: goes into its texts.
    """

    space: CaseSpace
    seed: int
    count: int
    guided: bool
    device: str
    aiter: str | None
    seconds_a_case: float
    memory: int
    repeats: int
    shrink_tries: int
    made_by: Provenance
    numbers: bool = False
    ranks: int = 1


@dataclass(frozen=True, slots=True)
class SetUp:
    """The first task of a process. slot: file in which it names the case that it is at."""

    setup: WorkerSetup
    slot: str


@dataclass(frozen=True, slots=True)
class Ready:
    """Answers SetUp. missing: what the device or the rule lacks on this machine, None where it can start."""

    missing: str | None


@dataclass(frozen=True, slots=True)
class DeadCase:
    """A case that took a process along, by its position; what becomes of it without running it again.

    how: completes "the process that ran the case ..."; discriminator: of the finding.
    """

    position: int
    how: str
    discriminator: str


@dataclass(frozen=True, slots=True)
class RunChunk:
    """All cases of a chunk but the dead. frozen: of its generation, None where the process has it; name: positions whose
    cases the answer must hold."""

    chunk: int
    generation: int
    frozen: str | None
    dead: tuple[DeadCase, ...]
    name: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class ChunkRan:
    """Answers RunChunk. report: ChunkReport.to_message(); named: position and case of each that was asked for.

    missing: why it was given up, where a rule of the user's own is lost again and again; there is no report then.
    """

    report: Mapping[str, Any]
    named: tuple[tuple[int, Case], ...]
    missing: str | None = None


@dataclass(frozen=True, slots=True)
class RunCase:
    """A single case, run alone. device: another than that of the setup, None for that one."""

    case: Case
    device: str | None = None


@dataclass(frozen=True, slots=True)
class CaseRan:
    """Answers RunCase: the outcome without what stays in the process that ran it."""

    fate: Fate
    findings: tuple[Finding, ...]
    refused: str | None

    @classmethod
    def of(cls, outcome: Outcome) -> CaseRan:
        """What is said of an outcome."""
        return cls(outcome.fate, outcome.findings, outcome.refused)

    def outcome(self, case: Case) -> Outcome:
        """Back to an outcome of the case."""
        return reported(case, self.findings, self.refused, self.fate)


@dataclass(frozen=True, slots=True)
class WriteTexts:
    """The texts of the finding that a case shows. command: how it was found."""

    case: Case
    command: str


@dataclass(frozen=True, slots=True)
class TextsWritten:
    """Answers WriteTexts. folder: its name; files: texts by file name."""

    folder: str
    files: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class Investigate:
    """All that is looked into of the finding that a case shows. Answered by Investigated."""

    case: Case
    signature: str
    command: str


ChildTask = SetUp | RunChunk | RunCase | WriteTexts | Investigate
