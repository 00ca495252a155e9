"""A gate's report for people and for CI: text, Markdown for a job's page, annotations, JUnit XML and plain data.

One model, `GateReport`, which the gate of a source and the gate of a rule both make; nothing here decides what is clean. Every
text of a stranger is folded (reprod.text) on its way out.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from backend.codec import to_plain
from fuzz.junit import Result, Test, junit
from fuzz.verdict import Conclusion, Verdict
from reprod.text import as_markdown, markdown_table, one_line, table


@dataclass(frozen=True, slots=True)
class Entry:
    """One fault as a test. place: FILE, line; ("", 1) where nobody knows. detail: further lines of a JUnit failure."""

    classname: str
    name: str
    message: str
    blamed: bool
    place: tuple[str, int] = ("", 1)
    detail: str = ""


@dataclass(frozen=True, slots=True)
class GateReport:
    """What a gate came to.

    title: names the JUnit suite. about: what was examined. header, rows: the table of faults. explained: the blamed ones in
    words. notes: what else is said, one line each. subject: completes "no memory fault that the ..."; brings: begins the
    headline of faults ("the change brings"). rest: faults that are nobody's here. notice: what the device is worth. plain:
    further plain data.
    """

    title: str
    verdict: Verdict
    about: tuple[str, ...]
    header: tuple[str, ...]
    rows: tuple[tuple[object, ...], ...]
    entries: tuple[Entry, ...]
    explained: tuple[str, ...]
    notes: tuple[str, ...]
    subject: str
    brings: str
    rest: int
    notice: str
    plain: Mapping[str, Any]


MARKS = {Conclusion.CLEAN: "✅", Conclusion.FAULTY: "❌", Conclusion.OPEN: "❔"}


def headline(report: GateReport) -> str:
    """One sentence; what was asked for and did not run stands in it, whatever else there is to say."""
    verdict, count = report.verdict, report.verdict.blamed
    questions = verdict.open_questions
    left = f"; not all of it ran: {len(questions)} open, listed above" if questions else ""
    if count:
        return f"FAULTY: {report.brings} {count} fault{'' if count == 1 else 's'}{left} ({report.notice})"
    kept = f"; {report.rest} known or in the base too" if report.rest else ""
    if verdict.conclusion is Conclusion.OPEN:
        more = f" (and {len(questions) - 1} more, listed above)" if len(questions) > 1 else ""
        said = f"not run: {one_line(questions[0])}{more}; no fault in what did run"
        return f"OPEN: {said if verdict.counts.ran else f'nothing ran: {one_line(questions[0])}{more}'}{kept} ({report.notice})"
    return f"clean: no memory fault that the {report.subject}{kept} ({report.notice})"


def lines(report: GateReport) -> Iterator[str]:
    """The whole for a terminal; the headline comes last."""
    yield from map(one_line, report.about)
    if report.rows:
        yield from table(report.header, [[_folded(cell) for cell in row] for row in report.rows])
    yield from report.explained
    yield from map(one_line, report.notes)
    yield from (f"not run: {one_line(each)}" for each in report.verdict.open_questions)
    yield headline(report)


def annotation_lines(report: GateReport) -> Iterator[str]:
    """GitHub workflow commands: an error for each blamed fault, at its place, and one for each thing that did not run."""
    for entry in report.entries:
        if entry.blamed:
            file, line = entry.place
            message = f"{entry.classname}: {entry.message}"
            yield f"::error file={_property(file)},line={line},title={_property(entry.name)}::{_data(message)}"
    for question in report.verdict.open_questions:
        yield f"::error title=not run::{_data(question)}"


def markdown(report: GateReport) -> str:
    """A job's summary."""
    made = [f"## {MARKS[report.verdict.conclusion]} {as_markdown(headline(report))}", ""]
    made += [f"* {as_markdown(each)}" for each in report.about]
    made.append("")
    if report.rows:
        rows = [[as_markdown(cell) if isinstance(cell, str) else cell for cell in row] for row in report.rows]
        made += [*markdown_table(report.header, rows, escaped=True), ""]
    made += [f"* {as_markdown(each)}" for each in report.notes]
    made += [f"* **not run**: {as_markdown(each)}" for each in report.verdict.open_questions]
    return "\n".join(made) + "\n"


def plain(report: GateReport) -> dict[str, Any]:
    """Plain data, for machines."""
    verdict = report.verdict
    return {
        "verdict": verdict.conclusion.value,
        "exit_code": verdict.exit_code,
        "headline": headline(report),
        "counts": to_plain(verdict.counts),
        "not_run": [one_line(each) for each in verdict.open_questions],
        **report.plain,
    }


def gate_xml(report: GateReport) -> str:
    """A test for each fault, those that are not blamed skipped; an error for each thing that did not run; one for the whole."""
    tests = [
        Test(entry.name, entry.classname, Result.FAILURE if entry.blamed else Result.SKIPPED, entry.message, entry.detail)
        for entry in report.entries
    ]
    for question in report.verdict.open_questions:
        tests.append(Test(question.partition(":")[0], "gate", Result.ERROR, question))
    if report.verdict.conclusion is Conclusion.CLEAN:
        tests.append(Test("no fault to blame the source for", "gate"))
    return junit(report.title, tests)


def _folded(cell: object) -> object:
    return one_line(cell) if isinstance(cell, str) else cell


def _property(text: str) -> str:
    return _data(text).replace(":", "%3A").replace(",", "%2C")


def _data(text: str) -> str:
    return one_line(text).replace("%", "%25")
