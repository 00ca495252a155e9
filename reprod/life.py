"""The life of a find, from the day it was seen to the day upstream has mended or refused it. Knows no entry."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum

from backend.case import RELEASES
from backend.errors import UsageError


class LifeStage(StrEnum):
    """Where a find stands, in the order in which it gets there."""

    NEW = "new"
    WRITTEN_UP = "written up"
    FILED = "filed"
    CONFIRMED = "confirmed"
    MENDED = "mended"
    WONT_FIX = "won't fix"
    INVALID = "invalid"


OPEN_STAGES = (LifeStage.NEW, LifeStage.WRITTEN_UP, LifeStage.FILED, LifeStage.CONFIRMED, LifeStage.WONT_FIX)
"""Stages in which nothing mends the fault, so that whoever meets it has not brought it."""


@dataclass(frozen=True, slots=True)
class LifeOfFind:
    """stage: where it stands. issue: OWNER/REPO#N, from FILED on. commit: of upstream that mends it; release: the first
    built-in release that has the commit, "" for none yet."""

    stage: LifeStage
    issue: str = ""
    commit: str = ""
    release: str = ""

    @property
    def standing(self) -> str:
        """In a few words: "filed as ROCm/aiter#1", "mended by 1234abc"."""
        parts = [self.stage.value]
        if self.issue:
            parts.append(f"as {self.issue}" if self.stage is LifeStage.FILED else f"({self.issue})")
        if self.commit:
            parts.append(f"by {self.commit}")
        if self.release:
            parts.append(f"since {self.release}")
        return " ".join(parts)

    @property
    def is_upstream(self) -> bool:
        """Whether it has been told to anybody."""
        return self.stage not in (LifeStage.NEW, LifeStage.WRITTEN_UP)

    def is_mended_at(self, release: str) -> bool:
        """Whether a built-in release has what mends it, so that whoever meets it there has met another fault or a relapse."""
        since = self.release
        return self.stage is LifeStage.MENDED and since in RELEASES and RELEASES.index(release) >= RELEASES.index(since)

    def check(self, where: str) -> None:
        """Raises UsageError where a stage lacks what it needs. where: what is complained of."""
        if self.issue and not re.fullmatch(r"[\w.-]+/[\w.-]+#\d+", self.issue):
            raise UsageError.not_allowed(f"{where}: issue", self.issue, "OWNER/REPO#N")
        if self.commit and not re.fullmatch(r"[0-9a-f]{7,40}", self.commit):
            raise UsageError.not_allowed(f"{where}: commit", self.commit, "7 to 40 hexadecimal digits")
        if self.release and self.release not in RELEASES:
            raise UsageError.not_allowed(f"{where}: release", self.release, f"none yet, or one of {', '.join(RELEASES)}")
        if self.stage in (LifeStage.FILED, LifeStage.CONFIRMED) and not self.issue:
            raise UsageError(f"{where}: a find that is {self.stage.value} has an issue; give --issue OWNER/REPO#N")
        if self.stage is LifeStage.MENDED and not self.commit:
            raise UsageError(f"{where}: a find that is mended has a commit; give --commit")
        if self.release and self.stage is not LifeStage.MENDED:
            raise UsageError.not_allowed(f"{where}: release", self.release, "none before the find is mended")
