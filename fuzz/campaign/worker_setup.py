"""What a worker is told once: enough to make any chunk of a campaign and to run any case of it."""

from __future__ import annotations

from dataclasses import dataclass

from fuzz.provenance import Provenance
from fuzz.space import CaseSpace


@dataclass(frozen=True, slots=True)
class WorkerSetup:
    """space, seed, count: of the campaign, count being cases a chunk. guided: whether cases are kept to be mutated.

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
