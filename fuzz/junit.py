"""JUnit XML, for the test tab of a CI system. The one writer of it; what the tests of a campaign or a gate are, these say."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from xml.etree import ElementTree

_ILLEGAL = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""What XML 1.0 cannot hold."""


class Result(StrEnum):
    """What became of a test; the values are JUnit's elements."""

    PASSED = "system-out"
    FAILURE = "failure"
    ERROR = "error"
    SKIPPED = "skipped"


@dataclass(frozen=True, slots=True)
class Test:
    """One test. message: in a few words; text: at length, of a test that passed what it says. seconds: that it took."""

    name: str
    classname: str
    result: Result = Result.PASSED
    message: str = ""
    text: str = ""
    seconds: float | None = None


def junit(name: str, tests: Sequence[Test], seconds: float | None = None, timestamp: str = "") -> str:
    """The file's text: one suite. timestamp: when it began, as ISO 8601, "" for not said."""
    root = ElementTree.Element("testsuites")
    suite = ElementTree.SubElement(root, "testsuite", {"name": _legal(name), "tests": str(len(tests))})
    for result, attribute in ((Result.FAILURE, "failures"), (Result.ERROR, "errors"), (Result.SKIPPED, "skipped")):
        suite.set(attribute, str(sum(test.result is result for test in tests)))
    if seconds is not None:
        suite.set("time", f"{seconds:.3f}")
    if timestamp:
        suite.set("timestamp", timestamp)
    for test in tests:
        made = ElementTree.SubElement(suite, "testcase", {"name": _legal(test.name), "classname": _legal(test.classname)})
        if test.seconds is not None:
            made.set("time", f"{test.seconds:.3f}")
        if test.result is not Result.PASSED:
            ElementTree.SubElement(made, test.result, {"message": _legal(test.message)}).text = _legal(test.text) or None
        elif test.text:
            ElementTree.SubElement(made, test.result).text = _legal(test.text)
    ElementTree.indent(root)
    return "<?xml version='1.0' encoding='utf-8'?>\n" + ElementTree.tostring(root, encoding="unicode") + "\n"


def _legal(text: str) -> str:
    return _ILLEGAL.sub("\ufffd", text)
