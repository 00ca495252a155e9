"""The tests that a campaign is for report.xml: one for each shape and each fault; what is gone has passed.

The test of a shape is about memory; a wrong result fails in the test of its own. A fault that the configuration expects is
skipped with its name. A campaign that ran less than it was asked to is an error.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from fuzz.campaign.summary import CampaignSummary, TriagedFinding
from fuzz.junit import Result, Test, junit
from fuzz.page.figures import moment, severity
from fuzz.page.statement import ShapeVerdict, Statement
from reprod.case_line import case_line


def report_xml(summary: CampaignSummary, said: Statement) -> str:
    """The file's text."""
    name = f"aiterfuzz {summary.members[0].space.backend}"
    tests = [replace(test, classname=name.replace(".", "_")) for test in _tests(summary, said)]
    began = moment(summary.members[0].created).replace(" UTC", ":00Z").replace(" ", "T")
    return junit(name, tests, summary.seconds, began)


def _tests(summary: CampaignSummary, said: Statement) -> Iterator[Test]:
    doubts = "; ".join(summary.doubts)
    result = Result.ERROR if doubts else Result.PASSED
    yield Test("the campaign ran what it was asked to", "", result, doubts, seconds=summary.seconds)
    expected = {finding.signature for finding in summary.findings if finding.expected}
    for shape in said.shapes:
        test = Test(f"no memory fault on {shape.name}", "", message=shape.sentence)
        text = _text([shape.sentence, said.notice, *(f"found here: {signature}" for signature in shape.signatures)])
        if shape.verdict in (ShapeVerdict.CONFIRMED, ShapeVerdict.WRONG_RESULTS):
            yield replace(test, text=text)
        elif shape.verdict is ShapeVerdict.NOTHING_RAN:
            yield replace(test, result=Result.ERROR, text=text)
        elif set(shape.signatures) <= expected:
            yield replace(test, result=Result.SKIPPED, message=f"expected: {shape.sentence}")
        else:
            yield replace(test, result=Result.FAILURE, text=text)
    yield from (_finding(finding) for finding in summary.findings)
    for unclear in summary.not_reproduced:
        yield Test(unclear.signature, "", Result.SKIPPED, f"not reproduced, {unclear.reliability}: {unclear.message}")
    for gone in summary.comparison.gone if summary.comparison is not None else ():
        yield Test(gone.signature, "", text=_text(["gone since last time", gone.message]))


def _finding(finding: TriagedFinding) -> Test:
    title = f"{finding.kind.row.title}: {finding.message}"
    if finding.expected:
        return Test(finding.signature, "", Result.SKIPPED, f"expected: {title}")
    known = "" if finding.known is None else f"known as {finding.known.entry}: {', '.join(finding.known.references)}"
    lines = [
        title,
        f"{severity(finding)}, {finding.count:,} cases, repeated: {finding.reliability}, {finding.standing.value}",
        f"smallest case: {case_line(finding.smallest)}",
        known,
        *(f"{each.party.value}, {each.stage}: {each.message}" for each in finding.findings),
        f"files: {finding.folder}" if finding.folder is not None else "",
    ]
    return Test(finding.signature, "", Result.ERROR if finding.of_our_own else Result.FAILURE, title, _text(lines))


def _text(lines: list[str]) -> str:
    return "\n".join(line for line in lines if line)
