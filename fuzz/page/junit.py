"""report.xml: JUnit XML for the test tab of a CI system. A test for each shape and each fault; what is gone has passed.

The test of a shape is about memory; a wrong result fails in the test of its own. A fault that the configuration expects is
skipped with its name. A campaign that ran less than it was asked to is an error.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from xml.etree import ElementTree

from fuzz.campaign.summary import CampaignSummary, TriagedFinding
from fuzz.page.statement import Statement, Verdict
from fuzz.page.words import moment, severity
from reprod.explain import told

_ILLEGAL = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""What XML 1.0 cannot hold."""


def junit(summary: CampaignSummary, said: Statement) -> str:
    """The file's text."""
    name = f"aiterfuzz {summary.members[0].space.backend}"
    suite = ElementTree.Element("testsuite", {"name": _legal(name), "time": f"{summary.seconds:.3f}"})
    for test in _tests(summary, said):
        test.set("classname", _legal(name.replace(".", "_")))
        suite.append(test)
    for attribute, tag in (("failures", "failure"), ("errors", "error"), ("skipped", "skipped")):
        suite.set(attribute, str(len(suite.findall(f"testcase/{tag}"))))
    suite.set("tests", str(len(suite.findall("testcase"))))
    suite.set("timestamp", moment(summary.members[0].created).replace(" UTC", ":00Z").replace(" ", "T"))
    root = ElementTree.Element("testsuites")
    root.append(suite)
    ElementTree.indent(root)
    return "<?xml version='1.0' encoding='utf-8'?>\n" + ElementTree.tostring(root, encoding="unicode") + "\n"


def _tests(summary: CampaignSummary, said: Statement) -> Iterator[ElementTree.Element]:
    yield _complete(summary)
    expected = {finding.signature for finding in summary.findings if finding.expected}
    for shape in said.shapes:
        test = _test(f"no memory fault on {shape.name}")
        told_of = _text([shape.sentence, said.notice, *(f"found here: {signature}" for signature in shape.signatures)])
        if shape.verdict in (Verdict.CONFIRMED, Verdict.WRONG_RESULTS):
            ElementTree.SubElement(test, "system-out").text = told_of
        elif shape.verdict is Verdict.NOTHING_RAN:
            _outcome(test, "error", shape.sentence, told_of)
        elif set(shape.signatures) <= expected:
            _outcome(test, "skipped", f"expected: {shape.sentence}", "")
        else:
            _outcome(test, "failure", shape.sentence, told_of)
        yield test
    yield from (_finding(finding) for finding in summary.findings)
    for unclear in summary.not_reproduced:
        test = _test(unclear.signature)
        _outcome(test, "skipped", f"not reproduced, {unclear.reliability}: {unclear.message}", "")
        yield test
    for gone in summary.comparison.gone if summary.comparison is not None else ():
        test = _test(gone.signature)
        ElementTree.SubElement(test, "system-out").text = _text(["gone since last time", gone.message])
        yield test


def _complete(summary: CampaignSummary) -> ElementTree.Element:
    test = _test("the campaign ran what it was asked to")
    test.set("time", f"{summary.seconds:.3f}")
    if summary.doubts:
        _outcome(test, "error", "; ".join(summary.doubts), "")
    return test


def _finding(finding: TriagedFinding) -> ElementTree.Element:
    test = _test(finding.signature)
    title = f"{finding.kind.row.title}: {finding.message}"
    if finding.expected:
        _outcome(test, "skipped", f"expected: {title}", "")
        return test
    known = "" if finding.known is None else f"known as {finding.known.entry}: {', '.join(finding.known.references)}"
    lines = [
        title,
        f"{severity(finding)}, {finding.count:,} cases, repeated: {finding.reliability}, {finding.standing.value}",
        f"smallest case: {told(finding.smallest)}",
        known,
        *(f"{each.party.value}, {each.stage}: {each.message}" for each in finding.findings),
        f"files: {finding.folder}" if finding.folder is not None else "",
    ]
    _outcome(test, "failure", title, _text(lines))
    return test


def _test(name: str) -> ElementTree.Element:
    return ElementTree.Element("testcase", {"name": _legal(name)})


def _outcome(test: ElementTree.Element, tag: str, message: str, body: str) -> None:
    ElementTree.SubElement(test, tag, {"message": _legal(message)}).text = body or None


def _text(lines: list[str]) -> str:
    return _legal("\n".join(line for line in lines if line))


def _legal(text: str) -> str:
    return _ILLEGAL.sub("\ufffd", text)
