"""report.json: the statement, the summary and what is known of each finding, for programs. One format, versioned."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from backend.codec import to_plain
from fuzz.campaign.summary import CampaignSummary
from fuzz.page.detail import Detail
from fuzz.page.statement import Statement

FORMAT = 1
"""Raised when a field changes its meaning or goes."""


def plain(summary: CampaignSummary, said: Statement, details: Sequence[Detail]) -> str:
    """The file's text, one line for each part so that two of them can be compared."""
    parts: dict[str, Any] = {
        "format": FORMAT,
        "conclusion": summary.conclusion,
        "exit_code": summary.exit_code,
        "statement": said,
        "summary": summary,
        "findings": [_finding(detail) for detail in details],
    }
    lines = [f"{json.dumps(name)}: {json.dumps(to_plain(value), allow_nan=False)}" for name, value in parts.items()]
    return "{\n" + ",\n".join(lines) + "\n}\n"


def _finding(detail: Detail) -> dict[str, Any]:
    """What the summary does not have of a finding."""
    return {
        "signature": detail.finding.signature,
        "blame": to_plain(detail.blame),
        "memory_map": to_plain(detail.memory),
        "would_hardware_fault": to_plain(detail.hardware),
        "files": list(detail.files),
        "why_not_run_again": detail.why_not,
    }
