"""Writes a campaign's report: the page, JSON, JUnit XML and the job summary, each whole or not at all."""

from __future__ import annotations

import os
import tempfile
from dataclasses import dataclass
from pathlib import Path

from backend.errors import UsageError
from fuzz.campaign.read_summary import load_summary
from fuzz.campaign.store import store_path
from fuzz.campaign.summary import CampaignSummary
from fuzz.page.detail import details
from fuzz.page.html import page
from fuzz.page.junit_tests import report_xml
from fuzz.page.markdown import markdown
from fuzz.page.report_json import plain
from fuzz.page.statement import statement

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

    Files of an earlier report are replaced. Raises UsageError where there is no store or `out` cannot be written to.
    """
    root = store_path(store).parent
    return report_of(load_summary(store), root, out if out is not None else root)


def report_of(summary: CampaignSummary, root: Path, out: Path) -> WrittenPage:
    """The same of a summary that is read already. root: folder of the store."""
    said, found = statement(summary), details(summary, root)
    texts = {
        PAGE: page(summary, said, found, out),
        JSON: plain(summary, said, found),
        JUNIT: report_xml(summary, said),
        MARKDOWN: markdown(summary, said),
    }
    try:
        out.mkdir(parents=True, exist_ok=True)
        for name, text in texts.items():
            _replace(out / name, text)
    except OSError as error:
        raise UsageError(
            f"--out: given {str(out)!r}; it cannot be written to ({error.strerror or error}); give another"
        ) from error
    return WrittenPage(summary, *(out / name for name in (PAGE, JSON, JUNIT, MARKDOWN)))


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
