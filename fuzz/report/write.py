"""Writes a campaign's report: the page, JSON, JUnit XML and the job summary, each whole or not at all."""

from __future__ import annotations

import os
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from backend.codec import to_plain
from fuzz.campaign.read_summary import load_summary
from fuzz.campaign.store import store_path
from fuzz.campaign.summary import CampaignSummary
from fuzz.report.campaign import campaign_report
from fuzz.report.page.campaign_page import campaign_page
from fuzz.report.page.detail import Detail, details
from fuzz.report.render import json_text, junit, markdown
from fuzz.report.statement import statement
from reprod.folder import unwritable

FORMAT = 2
"""Of report.json; raised when a field changes its meaning or goes."""

PAGE, JSON, JUNIT, MARKDOWN = "report.html", "report.json", "report.xml", "summary.md"


@dataclass(frozen=True, slots=True, eq=False)
class WrittenPage:
    """What was written. page: the HTML file; its siblings lie beside it."""

    summary: CampaignSummary
    page: Path
    json: Path
    junit: Path
    markdown: Path


def write_report(store: Path, out: Path | None = None) -> WrittenPage:
    """Writes the four files of a store (the database, or its folder) into `out`, by default the store's folder.

    Files of an earlier report are replaced. Raises UsageError where there is no store or `out` cannot be written to,
    CannotRunError on a full disk.
    """
    root = store_path(store).parent
    return report_of(load_summary(store), root, out if out is not None else root)


def report_of(summary: CampaignSummary, root: Path, out: Path) -> WrittenPage:
    """The same of a summary that is read already. root: folder of the store."""
    said, found = statement(summary), details(summary, root)
    report = campaign_report(summary, said)
    plain = {"format": FORMAT, "statement": said, "summary": summary, "findings": [_plain(detail) for detail in found]}
    texts = {
        PAGE: campaign_page(report, summary, said, found, out),
        JSON: json_text(replace(report, data=plain)),
        JUNIT: junit(report),
        MARKDOWN: markdown(report),
    }
    try:
        out.mkdir(parents=True, exist_ok=True)
        for name, text in texts.items():
            _replace(out / name, text)
    except OSError as error:
        raise unwritable("--out", out, error, "folder") from error
    return WrittenPage(summary, *(out / name for name in (PAGE, JSON, JUNIT, MARKDOWN)))


def _plain(detail: Detail) -> dict[str, Any]:
    """What the summary does not have of a finding."""
    return {
        "signature": detail.finding.signature,
        "blame": to_plain(detail.blame),
        "memory_map": to_plain(detail.memory),
        "would_hardware_fault": to_plain(detail.hardware),
        "files": list(detail.files),
        "why_not_run_again": detail.why_not,
    }


def _replace(path: Path, text: str) -> None:
    """Under another name first: a reader never sees half a file."""
    handle, temporary = tempfile.mkstemp(prefix=f".{path.name}-", dir=path.parent)
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
        Path(temporary).chmod(0o644)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
