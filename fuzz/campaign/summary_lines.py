"""A campaign's summary as lines for a terminal. Knows the summary and nothing of where it comes from."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from fuzz.campaign.summary import CampaignConclusion, CampaignSummary, Reason
from reprod.case_line import case_line
from reprod.text import table

REASONS_SHOWN = 8


def lines(summary: CampaignSummary) -> Iterator[str]:
    """The whole, line by line."""
    counts = summary.counts
    yield from _reasons(counts.refused_reasons, f"of {counts.cases:,} cases were refused, which is not a fault:")
    yield from _reasons(counts.unmodelled_reasons, f"of {counts.cases:,} cases are not modelled; nothing is known of them:")
    if summary.losses:
        named = sum(loss.case is not None for loss in summary.losses)
        yield f"{len(summary.losses):,} workers lost and replaced, at a case that is known: {named:,}"
    yield from _findings(summary)
    yield from _not_reproduced(summary)
    yield from _comparison(summary)
    ran = counts.ran
    speed = f"{counts.cases:,} cases in {summary.seconds:,.0f} s ({summary.rate:,.0f}/s)"
    yield f"{speed}, {ran:,} ran, coverage {summary.features:,}"
    match summary.conclusion:
        case CampaignConclusion.CONFIRMED:
            yield f"no fault in {ran:,} cases"
        case CampaignConclusion.EXPECTED_ONLY:
            yield f"expected faults only, in {ran:,} cases"
        case CampaignConclusion.FOUND:
            unexpected = summary.verdict.blamed
            yield f"{unexpected:,} distinct fault{'' if unexpected == 1 else 's'} that the configuration does not expect"
        case CampaignConclusion.INCOMPLETE:
            yield "nothing found that is not expected, which confirms less than was asked for: " + "; ".join(summary.doubts)


def _reasons(reasons: Sequence[Reason], what: str) -> Iterator[str]:
    if not reasons:
        return
    yield f"{sum(reason.cases for reason in reasons):,} {what}"
    yield from table(("cases", "reason"), [(reason.cases, reason.text) for reason in reasons[:REASONS_SHOWN]])
    if len(reasons) > REASONS_SHOWN:
        yield f"  and {len(reasons) - REASONS_SHOWN:,} more reasons"


def _findings(summary: CampaignSummary) -> Iterator[str]:
    if not summary.findings:
        return
    rows = [
        (
            finding.severity.name.lower(),
            finding.count,
            str(finding.reliability),
            _known(finding.known.entry if finding.known is not None else "", finding.expected, finding.standing.value),
            finding.signature,
            case_line(finding.smallest) + ("" if finding.minimal else " (not minimal yet)"),
            finding.folder or "",
        )
        for finding in summary.findings
    ]
    yield from table(("worst", "cases", "repeated", "known", "signature", "smallest case", "folder"), rows)


def _not_reproduced(summary: CampaignSummary) -> Iterator[str]:
    if not summary.not_reproduced:
        return
    what = "a process died once and not again, which is no finding; kept for a retry"
    yield f"{len(summary.not_reproduced):,} not reproduced: {what}"
    rows = [(each.count, str(each.reliability), each.message, each.folder or "") for each in summary.not_reproduced]
    yield from table(("cases", "repeated", "what happened", "folder"), rows)


def _known(entry: str, expected: bool, standing: str) -> str:
    parts = [entry, "expected" if expected else "", "" if standing == "not compared" else standing]
    return ", ".join(part for part in parts if part) or "-"


def _comparison(summary: CampaignSummary) -> Iterator[str]:
    compared = summary.comparison
    if compared is None:
        return
    counts = f"{len(compared.new)} new, {len(compared.still_there)} still there, {len(compared.gone)} gone"
    yield f"compared with {compared.store} ({compared.cases:,} cases): {counts}"
    for gone in compared.gone:
        known = f" ({gone.known.entry})" if gone.known is not None else ""
        yield f"  gone: {gone.signature}{known}"
