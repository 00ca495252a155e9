"""summary.md: what a CI job's page shows ($GITHUB_STEP_SUMMARY takes it as it is). The verdict, the statement, the findings."""

from __future__ import annotations

import re
from collections.abc import Iterator

from fuzz.campaign.summary import CampaignConclusion, CampaignSummary, TriagedFinding
from fuzz.page.cards import standing
from fuzz.page.figures import duration, rate, severity, span
from fuzz.page.statement import Statement, refusals
from reprod.case_line import case_line
from reprod.text import markdown_table

FINDINGS_SHOWN = 30
REASONS_SHOWN = 10
"""Rows; a job's page takes a megabyte, and its reader less."""

MARKS = {
    CampaignConclusion.CONFIRMED: "✅",
    CampaignConclusion.EXPECTED_ONLY: "✅",
    CampaignConclusion.FOUND: "❌",
    CampaignConclusion.INCOMPLETE: "⚠️",
}


_ENTITIES = str.maketrans({"&": "&amp;", "<": "&lt;", ">": "&gt;", "`": "&#96;", "@": "&#64;"})
"""A backslash does not keep a backtick from closing code that began before it; an "@" would call somebody."""


def markdown(summary: CampaignSummary, said: Statement) -> str:
    """The file's text."""
    return "\n".join(_lines(summary, said)) + "\n"


def _lines(summary: CampaignSummary, said: Statement) -> Iterator[str]:
    member = summary.members[0]
    yield f"## {MARKS[summary.conclusion]} {_safe(said.headline)}"
    yield ""
    device, releases = member.config.device, ", ".join(member.space.releases)
    yield f"**{said.notice}** {_safe(member.space.backend)}, AITER {releases}, device {device}, seed {member.seed}, "
    yield f"{summary.counts.cases:,} cases in {duration(summary.seconds)} ({rate(summary.rate)}/s)."
    yield ""
    yield from (f"* {_safe(each)}" for each in said.details)
    yield ""
    rows = [(s.name, s.verdict.value, s.clean, s.faulty, s.cases, span(s.batch), span(s.kv_len)) for s in said.shapes]
    yield from markdown_table(("shape", "verdict", "clean", "faulty", "drawn", "batch", "longest KV"), rows)
    yield from _findings(summary)
    yield from _not_reproduced(summary)
    yield from _gone(summary)
    yield from _small_print(said)


def _findings(summary: CampaignSummary) -> Iterator[str]:
    if not summary.findings:
        return
    yield ""
    yield f"### {len(summary.findings)} finding{'' if len(summary.findings) == 1 else 's'}"
    yield ""
    header = ("finding", "severity", "cases", "repeated", "since last time", "known", "smallest case")
    yield from markdown_table(header, [_row(finding) for finding in summary.findings[:FINDINGS_SHOWN]])
    if len(summary.findings) > FINDINGS_SHOWN:
        yield ""
        yield f"And {len(summary.findings) - FINDINGS_SHOWN} more, in the page."


def _row(finding: TriagedFinding) -> tuple[str | int, ...]:
    return (
        f"{finding.kind.row.title}<br>{_code(finding.signature)}",
        severity(finding),
        finding.count,
        str(finding.reliability),
        standing(finding),
        "–" if finding.known is None else ", ".join(_safe(each) for each in finding.known.references) or finding.known.entry,
        _safe(case_line(finding.smallest)),
    )


def _not_reproduced(summary: CampaignSummary) -> Iterator[str]:
    if not summary.not_reproduced:
        return
    yield ""
    yield f"### {len(summary.not_reproduced)} not reproduced"
    yield ""
    yield "A process was lost once and not again when the case was repeated: no finding; the cases are kept for a retry."
    yield ""
    rows = [(_safe(each.message), str(each.reliability), _safe(case_line(each.smallest))) for each in summary.not_reproduced]
    yield from markdown_table(("what happened", "repeated", "case"), rows)


def _gone(summary: CampaignSummary) -> Iterator[str]:
    if summary.comparison is None or not summary.comparison.gone:
        return
    yield ""
    yield f"### {len(summary.comparison.gone)} gone since last time"
    yield ""
    yield from (f"* {_code(gone.signature)}: {_safe(gone.message)}" for gone in summary.comparison.gone)


def _small_print(said: Statement) -> Iterator[str]:
    yield ""
    yield "<details><summary>What this covers, and what not</summary>"
    yield ""
    for scope in said.scopes:
        yield from markdown_table(("drawn from", ""), [(name, _safe(value)) for name, value in scope.drawn_from.items()])
        yield ""
    yield "Not covered:"
    yield ""
    yield from (f"* {_safe(limit)}" for limit in said.not_covered)
    reasons = refusals(said.shapes)
    if reasons:
        yield ""
        rows = [(_safe(text), sum(counts.values())) for text, counts in reasons[:REASONS_SHOWN]]
        yield from markdown_table(("refused because", "cases"), rows)
        if len(reasons) > REASONS_SHOWN:
            yield ""
            yield f"And {len(reasons) - REASONS_SHOWN} more reasons, in the page."
    yield ""
    yield f"Statement sha256 `{said.digest}`."
    yield ""
    yield "</details>"


def _safe(text: str) -> str:
    """Text as text: no markup, no HTML, one line."""
    escaped = re.sub(r"([\\*_\[\]#~])", r"\\\1", " ".join(text.split()))
    return escaped.translate(_ENTITIES)


def _code(text: str) -> str:
    """Text as code; a backtick in it would end it early."""
    return "`" + " ".join(text.split()).replace("`", "'") + "`"
