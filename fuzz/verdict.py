"""The Verdict: what a run of any command comes to, and the exit code that follows. Data and one rule; knows no renderer.

Whoever tells of a run (terminal, Markdown, JUnit, JSON, annotations, page) asks `Verdict.conclusion`, and nobody works out
"clean" for himself: clean means that all that was asked for ran and nothing was found.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Conclusion(StrEnum):
    """What is said of the whole."""

    FAULTY = "faulty"  # at least one fault that the subject is to blame for
    OPEN = "open"  # no such fault, but something that was asked for did not run, or nothing did: the question stays open
    CLEAN = "clean"  # all of it ran, and nothing was found


EXIT_CODES = {Conclusion.CLEAN: 0, Conclusion.FAULTY: 1, Conclusion.OPEN: 3}
"""Exit code of each conclusion; 2 is for wrong usage alone, which never comes to a verdict."""


@dataclass(frozen=True, slots=True)
class Counts:
    """Cases, or steps of a process, by what became of them; one unit throughout a Verdict.

    asked: how many were to be tried, None where time was the limit. drawn: how many were tried; each of these is exactly one of
    ran (judged to its end, faulty ones among them), refused (by the rule, the file under test or AITER) and not_run (not
    modelled, died outside of the subject's doing, no such step, not tried). faulty: of those that ran. Raises ValueError
    where they do not add up.
    """

    asked: int | None
    drawn: int
    ran: int
    refused: int
    not_run: int
    faulty: int

    def __post_init__(self) -> None:
        """Counts that contradict each other are an error of this program."""
        numbers = (self.drawn, self.ran, self.refused, self.not_run, self.faulty)
        if min(numbers) < 0 or self.ran + self.refused + self.not_run != self.drawn or self.faulty > self.ran:
            raise ValueError(f"{self}: does not add up")


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
