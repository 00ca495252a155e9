"""What the engine needs of whom it works with: who shows, who is told, who knows of known faults, who runs scripts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

from backend.case import Case
from fuzz.campaign.progress import Status
from fuzz.campaign.report import ChunkReport
from fuzz.campaign.store import FindingRow
from fuzz.campaign.verifying import Verified
from reprod.reference import KnownReference


class View(Protocol):
    """What the engine needs of a Live."""

    def update(self, status: Status) -> None: ...
    def say(self, text: str) -> None: ...


class Log(Protocol):
    """Who is told of everything that is recorded, when it is."""

    def ran(self, report: ChunkReport) -> None:
        """A chunk was recorded."""
        ...

    def found(self, row: FindingRow) -> None:
        """A finding was looked into."""
        ...


class NoLog:
    """Of a campaign whose store is enough."""

    def ran(self, report: ChunkReport) -> None:
        """Does nothing with it."""

    def found(self, row: FindingRow) -> None:
        """Does nothing with it."""


class Triage(Protocol):
    """What the engine needs of KnownFaults."""

    def reference(self, cause: Any, case: Case) -> KnownReference | None: ...


class Verifying(Protocol):
    """What the engine needs of a Verifier."""

    @property
    def given(self) -> int:
        """Folders that were taken in, all together."""
        ...

    @property
    def pending(self) -> int: ...
    def give(self, folder: str, files: Mapping[str, str], case: Case, aiter: str | None) -> None: ...
    def take(self) -> list[Verified]: ...
