"""A report as SARIF 2.1.0, which code scanning takes (GitHub, GitLab, editors): a result for each fault with a place.

What did not run has no place in a file: it is a notification of the tool's, and the run is then no success.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
from typing import Any

from fuzz.report.report import Report, Result, Test
from fuzz.verdict import Conclusion
from reprod.text import one_line

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
