"""What the gate of a source and the gate of a rule say in one way: headline, known faults, a test for each open question."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from backend.words import counted
from fuzz.report.report import Result, Section, Test
from fuzz.verdict import Conclusion, Verdict
from reprod.reference import NO_REFERENCE, KnownReference
from reprod.text import one_line


def headline(verdict: Verdict, subject: str, has: str, rest: int, limits: tuple[str, str] = ("", "")) -> str:
    """One sentence; what was asked for and did not run stands in it, whatever else there is to say.

    subject: completes "no memory fault that the ..."; has: begins the headline of faults ("the change brings"). rest: faults
    that are nobody's here. limits: what of the subject was executed, and what was not, in words; empty: not asked.
    """
    count, questions = verdict.blamed, verdict.open_questions
    if count:
        left = f"; not all of it ran: {len(questions)} open" if questions else ""
        return f"FAULTY: {has} {counted(count, 'fault')}{left}"
    kept = f"; {rest} known or in the base too" if rest else ""
    if verdict.conclusion is Conclusion.OPEN:
        more = f" (and {len(questions) - 1} more)" if len(questions) > 1 else ""
        said = f"not run: {one_line(questions[0])}{more}; no fault in what did run"
        return f"OPEN: {said if verdict.counts.ran else f'nothing ran: {one_line(questions[0])}{more}'}{kept}"
    within, besides = limits
    where = f" {within}" if within else ""
    return f"clean{where}: no memory fault that the {subject}{kept}{f'; {besides}' if besides else ''}"


def question_tests(verdict: Verdict) -> Iterator[Test]:
    """An error for each thing that did not run; one that passed where there is nothing to say."""
    for question in verdict.open_questions:
        yield Test(question.partition(":")[0], "gate", Result.ERROR, question)
    if verdict.conclusion is Conclusion.CLEAN:
        yield Test("no fault to blame the source for", "gate")


def what_ids_stand_for(known: Iterable[KnownReference | None]) -> Iterator[Section]:
    """The ids of a table of faults by title and public references; nothing where it has none. None: a fault nobody knows."""
    entries = {each.entry: each for each in known if each is not None}
    if entries:
        rows = tuple((each.entry, each.title, ", ".join(each.references) or NO_REFERENCE) for each in entries.values())
        yield Section("Known faults:", ("", "what", "where"), rows)
