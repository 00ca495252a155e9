"""The Verdict: what a run of any command comes to, and the exit code that follows. Data and one rule; knows no renderer.

Whoever tells of a run (terminal, Markdown, JUnit, JSON, annotations, page) asks `Verdict.conclusion`, and nobody works out
"clean" for himself: clean means that all that was asked for ran and nothing was found.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from backend.fate import Fate


class Conclusion(StrEnum):
    """What is said of the whole."""

    FAULTY = "faulty"  # at least one fault that the subject is to blame for
    OPEN = "open"  # no such fault, but something that was asked for did not run, or nothing did: the question stays open
    CLEAN = "clean"  # all of it ran, and nothing was found, or nothing but what is known or expected


EXIT_CODES = {Conclusion.CLEAN: 0, Conclusion.FAULTY: 1, Conclusion.OPEN: 3}
"""Exit code of each conclusion; 2 is for wrong usage alone, which never comes to a verdict."""


@dataclass(frozen=True, slots=True)
class Counts:
    """Cases, or steps of a process, by their fate (backend.fate says what each means); one unit throughout a Verdict."""

    clean: int = 0
    faulty: int = 0
    refused: int = 0
    unmodelled: int = 0
    died: int = 0
    not_run: int = 0

    @classmethod
    def of(cls, fates: Mapping[Fate, int]) -> Counts:
        """From numbers by fate."""
        return cls(**{fate.name.lower(): count for fate, count in fates.items()})

    @property
    def cases(self) -> int:
        """All of them, each once."""
        return self.ran + self.refused + self.unjudged

    @property
    def ran(self) -> int:
        """Those that were judged to their end."""
        return self.clean + self.faulty

    @property
    def unjudged(self) -> int:
        """Those of which nothing is known: not modelled, not tried, or their process was lost."""
        return self.unmodelled + self.died + self.not_run


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a run comes to.

    blamed: distinct faults that the subject is to blame for; known or expected ones, and those of a base, are not among them.
    missing: each thing that was asked for and never ran (a shape, a device, a release, a scenario, a kind of step), in words
    that name it and say why: "64 heads: refused by the rule (a typo)"; every renderer shows all of them in its headline's
    reach. A refusal that was to be expected (a head count that no release of the file takes) is counted and is not missing.
    """

    counts: Counts
    blamed: int = 0
    missing: tuple[str, ...] = ()

    @property
    def conclusion(self) -> Conclusion:
        """Faults before anything else; clean only where something ran and nothing is missing."""
        if self.blamed:
            return Conclusion.FAULTY
        return Conclusion.OPEN if self.missing or not self.counts.ran else Conclusion.CLEAN

    @property
    def exit_code(self) -> int:
        """1 for faults, 3 for an open question, 0 for clean."""
        return EXIT_CODES[self.conclusion]

    @property
    def open_questions(self) -> tuple[str, ...]:
        """What a headline must name, whatever the conclusion: everything missing; that nothing ran, where nothing says so."""
        if self.missing or self.counts.ran:
            return self.missing
        return ("nothing ran",)
