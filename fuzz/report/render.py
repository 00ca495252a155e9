"""A Report as text for a terminal, Markdown for a CI job's page, annotations, JUnit XML, JSON and SARIF; the HTML is in page/.

Nothing here decides what is clean. Every text of a stranger is folded (reprod.text) on its way out.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import os
import re
from collections.abc import Iterator, Mapping
from enum import Enum, auto
from typing import Any
from xml.etree import ElementTree

from backend.codec import to_plain
from fuzz.report.report import Code, Report, Result, Room, Section, Test
from fuzz.verdict import Conclusion
from reprod.text import as_code, as_markdown, markdown_table, one_line, table

MARKS = {Conclusion.CLEAN: "✅", Conclusion.FAULTY: "❌", Conclusion.OPEN: "❔"}

_ILLEGAL = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""What XML 1.0 cannot hold."""


class Amount(Enum):
    """How much of a report a terminal shows."""

    QUIET = auto()  # what did not run, and the headline
    USUAL = auto()
    ALL = auto()  # what else a page has


def printed(report: Report, annotate: bool = False, amount: Amount = Amount.USUAL) -> Iterator[str]:
    """What a command prints: the lines for a terminal, and annotations where asked for or where GitHub runs it."""
    yield from lines(report, amount)
    if annotate or os.environ.get("GITHUB_ACTIONS"):
        yield from annotation_lines(report)


def lines(report: Report, amount: Amount = Amount.USUAL) -> Iterator[str]:
    """The whole for a terminal; the headline comes last, and what did not run and is not said there right before it."""
    if amount is not Amount.QUIET:
        yield from map(_folded, report.about)
        for section in report.sections:
            if section.room is Room.EVERYWHERE or amount is Amount.ALL:
                yield from _section_lines(section)
        yield from report.explained
        yield from map(one_line, report.notes)
    yield from (f"not run: {each}" for each in report.left_to_say)
    yield f"{one_line(report.headline)} ({report.notice})"


def annotation_lines(report: Report) -> Iterator[str]:
    """GitHub workflow commands: an error for each test that failed, at its place, and one for each thing that did not run."""
    for test in report.tests:
        if test.result is Result.FAILURE:
            file, line = test.place
            message = f"{test.classname}: {test.message}"
            yield f"::error file={_property(file)},line={line},title={_property(test.name)}::{_data(message)}"
    for question in report.verdict.open_questions:
        yield f"::error title=not run::{_data(question)}"


def markdown(report: Report) -> str:
    """A job's summary ($GITHUB_STEP_SUMMARY takes it as it is)."""
    made = [f"## {MARKS[report.verdict.conclusion]} {as_markdown(report.headline)}", "", f"**{report.notice}**", ""]
    made += [f"* {as_markdown(each)}" for each in report.about]
    for section in report.sections:
        if section.room is not Room.SMALL_PRINT:
            made += _section_markdown(section)
    said = [f"* {as_markdown(each)}" for each in (*report.explained, *report.notes)]
    said += [f"* **not run**: {as_markdown(each)}" for each in report.left_to_say]
    made += ["", *said] if said else []
    small = [section for section in report.sections if section.room is Room.SMALL_PRINT]
    if small:
        made += ["", "<details><summary>What this covers, and what not</summary>"]
        made += [line for section in small for line in _section_markdown(section)]
        made += ["", "</details>"]
    return "\n".join(made) + "\n"


def json_text(report: Report) -> str:
    """Plain data, for programs: one line for each part, so that two files can be compared."""
    verdict = report.verdict
    parts = {
        "verdict": verdict.conclusion,
        "exit_code": verdict.exit_code,
        "headline": report.headline,
        "counts": verdict.counts,
        "not_run": [one_line(each) for each in verdict.open_questions],
        **report.data,
    }
    return parts_text(parts)


def parts_text(parts: Mapping[str, object]) -> str:
    """A JSON object with a line for each of its parts, which have JSON forms."""
    made = (f"{json.dumps(name)}: {json.dumps(to_plain(value), allow_nan=False)}" for name, value in parts.items())
    return "{\n" + ",\n".join(made) + "\n}\n"


def junit(report: Report) -> str:
    """JUnit XML: one suite, for the test tab of a CI system."""
    root = ElementTree.Element("testsuites")
    suite = ElementTree.SubElement(root, "testsuite", {"name": _legal(report.title), "tests": str(len(report.tests))})
    for result, attribute in ((Result.FAILURE, "failures"), (Result.ERROR, "errors"), (Result.SKIPPED, "skipped")):
        suite.set(attribute, str(sum(test.result is result for test in report.tests)))
    if report.seconds is not None:
        suite.set("time", f"{report.seconds:.3f}")
    if report.began:
        suite.set("timestamp", report.began)
    for test in report.tests:
        made = ElementTree.SubElement(suite, "testcase", {"name": _legal(test.name), "classname": _legal(test.classname)})
        if test.seconds is not None:
            made.set("time", f"{test.seconds:.3f}")
        if test.result is not Result.PASSED:
            ElementTree.SubElement(made, test.result, {"message": _legal(test.message)}).text = _legal(test.text) or None
        elif test.text:
            ElementTree.SubElement(made, test.result).text = _legal(test.text)
    ElementTree.indent(root)
    return "<?xml version='1.0' encoding='utf-8'?>\n" + ElementTree.tostring(root, encoding="unicode") + "\n"


def _section_lines(section: Section) -> Iterator[str]:
    if section.heading:
        yield one_line(section.heading)
    if section.header:
        yield from table(section.header, [[_folded(cell) for cell in row] for row in section.rows])
    else:
        yield from (f"  {_folded(row[0])}" for row in section.rows)
    if section.left_out:
        yield f"  and {section.left_out:,} more"


def _section_markdown(section: Section) -> Iterator[str]:
    yield ""
    if section.heading:
        yield from (f"### {as_markdown(section.heading)}", "")
    rows = [[_cell(cell) for cell in row] for row in section.rows]
    if section.header:
        yield from markdown_table(section.header, rows, escaped=True)
    else:
        yield from (f"* {row[0]}" for row in rows)
    if section.left_out:
        yield from ("", f"And {section.left_out:,} more.")


def _cell(cell: object) -> object:
    if isinstance(cell, Code):
        return as_code(cell) if cell else ""
    return as_markdown(cell) if isinstance(cell, str) else cell


def _folded(cell: object) -> object:
    return one_line(cell) if isinstance(cell, str) else cell


def _legal(text: str) -> str:
    return _ILLEGAL.sub("\ufffd", text)


def _property(text: str) -> str:
    return _data(text).replace(":", "%3A").replace(",", "%2C")


def _data(text: str) -> str:
    return one_line(text).replace("%", "%25")


SCHEMA = "https://json.schemastore.org/sarif-2.1.0.json"

LEVELS = {Result.FAILURE: "error", Result.SKIPPED: "note"}
"""Of results: a fault that is blamed, one that nobody is blamed for. A test that passed is none."""


def sarif(report: Report) -> str:
    """The text of a .sarif file."""
    shown = [test for test in report.tests if test.result in LEVELS]
    rules = dict.fromkeys(test.name for test in shown)
    notices = [{"level": "warning", "message": {"text": one_line(each)}} for each in report.verdict.open_questions]
    run = {
        "tool": {
            "driver": {
                "name": "aiterfuzz",
                "version": importlib.metadata.version("aiterfuzz"),
                "rules": [{"id": name, "shortDescription": {"text": name}} for name in rules],
            }
        },
        "invocations": [
            {
                "executionSuccessful": report.verdict.conclusion is not Conclusion.OPEN,
                "exitCode": report.verdict.exit_code,
                "toolExecutionNotifications": notices,
            }
        ],
        "results": [_result(test) for test in shown],
        "properties": {"headline": one_line(report.headline), "notice": report.notice},
    }
    return json.dumps({"$schema": SCHEMA, "version": "2.1.0", "runs": [run]}, indent=1) + "\n"


def _result(test: Test) -> dict[str, Any]:
    """A fault; its fingerprint is of what it is and where it shows, not of the line, which moves."""
    file, line = test.place
    place = {"physicalLocation": {"artifactLocation": {"uri": file}, "region": {"startLine": line}}}
    fingerprint = hashlib.sha256(f"{test.name}\n{test.classname}".encode()).hexdigest()
    made = {
        "ruleId": test.name,
        "level": LEVELS[test.result],
        "message": {"text": one_line(f"{test.classname}: {test.message}")},
        "locations": [place] if file else [],
        "partialFingerprints": {"fault/v1": fingerprint},
    }
    if test.result is Result.SKIPPED:
        made["suppressions"] = [{"kind": "external", "justification": one_line(test.text)}]
    return made
