"""What a campaign came to, as one frozen value: the read side of the store, for pages, tables and comparisons.

Whoever shows a campaign needs this module alone. It knows no Ray, no worker and no table of the database; of a store it is
made by fuzz.campaign.read_summary. Times of day are seconds since the epoch; durations are seconds.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from backend.case import Case
from backend.child.process_end import EndKind
from backend.findings import TAKES_PROCESS, Finding, FindingKind, Party, Severity
from fuzz.campaign.config import CampaignConfig
from fuzz.provenance import Provenance
from fuzz.space import CaseSpace
from fuzz.verdict import Counts, Verdict
from reprod.reference import KnownReference


@dataclass(frozen=True, slots=True)
class Span:
    """A bucket of whole numbers, both ends inclusive."""

    low: int
    high: int

    def __str__(self) -> str:
        return str(self.low) if self.low == self.high else f"{self.low}..{self.high}"


@dataclass(frozen=True, slots=True)
class Reason:
    """Why cases were refused (or not modelled), and how many of them."""

    text: str
    cases: int


@dataclass(frozen=True, slots=True)
class Sample:
    """The campaign at one moment.

    seconds: of running time, all sessions one after the other, pauses between them left out. cases, features, findings: up to
    then; features are distinct coverage identifiers and their combinations, findings distinct signatures. rate: cases a second
    since the sample before.
    """

    seconds: float
    cases: int
    rate: float
    features: int
    findings: int


@dataclass(frozen=True, slots=True)
class CoverageCell:
    """One field of the coverage map.

    batch: requests of the case as it was drawn. kv_len: KV tokens of its longest request. cases: all of them; ran: those
    that reached a kernel and were not refused behind it; faulty: those that showed a fault, died ones included. kernels: code
    objects launched, with cases.
    refused: reasons. signatures: of the findings met here. not_reproduced: cases whose death did not come again; they are not
    among the faulty ones. ran_as, refused_as, stopped_as: cases by shape, as in CellCounts.
    """

    num_head: int
    batch: Span
    kv_len: Span
    cases: int
    ran: int
    faulty: int
    kernels: Mapping[str, int]
    refused: tuple[Reason, ...]
    signatures: tuple[str, ...]
    not_reproduced: int = 0
    ran_as: Mapping[str, int] = field(default_factory=dict)
    refused_as: Mapping[str, int] = field(default_factory=dict)
    stopped_as: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Reliability:
    """How often the fault showed when its smallest case was repeated: `shown` of `repeats` times. 0 of 0: not repeated yet."""

    shown: int
    repeats: int

    def __str__(self) -> str:
        return f"{self.shown} of {self.repeats}" if self.repeats else "not repeated yet"


DEATHS = (*TAKES_PROCESS, FindingKind.MEMORY_FAULT)
"""Kinds that somebody else can bring about: a kill, the host's out-of-memory killer, a GPU that was reset under the process."""


AGAIN_ALONE, AGAIN_AFTER = "again_when_alone", "after"
"""Evidence of a death that was seen again in a fresh process: how often alone; after what else."""


def seen_again(cause: Finding) -> bool:
    """Whether the evidence of a death says that it came again."""
    return bool(cause.evidence.get(AGAIN_ALONE)) or AGAIN_AFTER in cause.evidence


def is_weather(cause: Finding, reliability: Reliability) -> bool:
    """Whether a death is nobody's fault: repeated, and never seen again.

    Who runs a dead case again in a fresh process and sees an end again, alone or after another case, says so in its evidence;
    that counts as seen again. What is not a death (bytes written, a wrong number) was seen and stays a finding.
    """
    return cause.kind in DEATHS and reliability.repeats > 0 and not reliability.shown and not seen_again(cause)


class FindingStanding(StrEnum):
    """A finding against the campaign that this one is compared with."""

    NEW = "new"
    STILL_THERE = "still there"
    NOT_COMPARED = "not compared"


@dataclass(frozen=True, slots=True)
class TriagedFinding:
    """One entry for each signature.

    kind .. message: of the cause that the smallest case shows. count: cases that showed it. first_seen, last_seen: when.
    first: the first case met; smallest: the smallest known; minimal: whether shrinking ran to its end. findings: all that the
    smallest case shows, causes first. known: upstream reference, None for a fault that corpus/ does not hold. expected: the
    configuration names it, so that it does not fail the campaign. folder: of its script and texts, relative to the store's
    folder; None where it is not written yet. origin: "seed/chunk/position" of the first case, which draws it again;
    "an earlier campaign" for one that was not met in this one. aiter: whose text the smallest case ran by, in words; "" for
    the built-in release that the case names.
    """

    signature: str
    kind: FindingKind
    severity: Severity
    party: Party
    stage: str
    tensor: str
    message: str
    count: int
    first_seen: float
    last_seen: float
    first: Case
    smallest: Case
    minimal: bool
    reliability: Reliability
    findings: tuple[Finding, ...]
    known: KnownReference | None
    expected: bool
    standing: FindingStanding
    folder: str | None
    origin: str
    aiter: str = ""

    @property
    def of_our_own(self) -> bool:
        """Whether aiterfuzz raised an error or left: no fault of AITER, and nothing is known of the case.

        A signal, a hang and memory that runs out are not among these: compiled code may be what did it.
        """
        how = self.signature.rpartition("/")[2]
        left = how.startswith("exit ") or " in " in how
        return self.kind is FindingKind.DIED and self.party is Party.PROJECT and left

    @property
    def is_blamed(self) -> bool:
        """Whether it fails the campaign."""
        return not self.expected and not self.of_our_own


@dataclass(frozen=True, slots=True)
class Gone:
    """A finding of the campaign compared with that this one did not meet."""

    signature: str
    severity: Severity
    message: str
    known: KnownReference | None


@dataclass(frozen=True, slots=True)
class CampaignComparison:
    """Against an earlier campaign (last night's). created: when it began; cases: it ran. The three lists hold signatures."""

    store: str
    created: float
    cases: int
    rules: str
    new: tuple[str, ...]
    still_there: tuple[str, ...]
    gone: tuple[Gone, ...]


LossKind = EndKind
"""What became of a worker."""


@dataclass(frozen=True, slots=True)
class Loss:
    """A worker lost, and the case that it was at; the rest of its chunk went on elsewhere.

    seconds: of running time. case: None where it was between two cases, or where that is not known (a lost node).
    """

    seconds: float
    kind: LossKind
    worker: str
    detail: str
    chunk: int | None
    position: int | None
    case: Case | None


@dataclass(frozen=True, slots=True)
class Session:
    """One start of the campaign. ended: None while it runs. rules: fingerprint of the sources of aiterfuzz.

    reason: "running", "finished", "interrupted", "killed", "failed", or "no worker left: why".
    """

    began: float
    ended: float | None
    reason: str
    workers: int
    cluster: str
    rules: str


@dataclass(frozen=True, slots=True)
class Environment:
    """The machine that drove the campaign, and what Ray lent it. resources: of the cluster, by Ray's names."""

    host: str
    system: str
    cpus: int
    memory_bytes: int
    nodes: int
    resources: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Member:
    """One campaign of a store: a store that was merged holds several. identity: unique, the same in every copy of a store."""

    identity: str
    created: float
    seed: int
    config: CampaignConfig
    space: CaseSpace
    provenance: Provenance
    environment: Environment
    sessions: tuple[Session, ...]
    cases: int


@dataclass(frozen=True, slots=True)
class CampaignSummary:
    """Everything that a report needs.

    members: campaigns in the store, the first one first. complete: whether every member ran out its budget. seconds: of running
    time. refused_reasons, unmodelled_reasons: the most frequent first. samples: throughput and coverage over time, at most some
    hundreds. cells: the coverage map, by (num_head, batch, kv_len). kernels: code objects launched, with cases. features:
    distinct ones known at the end. findings: the worst first, then by count. comparison: None where there is nothing to compare
    with. losses: workers lost, in order of time. lost_chunks: chunks set aside because their worker died too often; they are
    not among the counts. doubts: what leaves the question open, one sentence each; never_ran: of them, what was asked for.
    not_reproduced: deaths that did not come again (`is_weather`), which are no findings; their cases are kept and tried again
    by the campaign that goes on with this one or is compared with it.
    """

    members: tuple[Member, ...]
    complete: bool
    seconds: float
    counts: Counts
    refused_reasons: tuple[Reason, ...]
    unmodelled_reasons: tuple[Reason, ...]
    samples: tuple[Sample, ...]
    cells: tuple[CoverageCell, ...]
    kernels: Mapping[str, int]
    features: int
    findings: tuple[TriagedFinding, ...]
    comparison: CampaignComparison | None
    losses: tuple[Loss, ...]
    lost_chunks: tuple[int, ...]
    doubts: tuple[str, ...]
    not_reproduced: tuple[TriagedFinding, ...] = ()
    never_ran: tuple[str, ...] = ()

    @property
    def rate(self) -> float:
        """Cases a second over the whole running time."""
        return self.counts.cases / self.seconds if self.seconds > 0 else 0.0

    @property
    def verdict(self) -> Verdict:
        """What the campaign comes to, by the rule of all commands."""
        return Verdict(self.counts, sum(finding.is_blamed for finding in self.findings), self.doubts)

    @property
    def exit_code(self) -> int:
        """0 nothing found but what is expected, 1 findings, 3 less ran than was asked for."""
        return self.verdict.exit_code
