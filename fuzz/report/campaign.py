"""The Report of a campaign (run, campaign, nightly, report): its summary and its statement as sections and tests."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from backend.words import counted, noun
from fuzz.campaign.summary import CampaignSummary, FindingStanding, Reason, TriagedFinding
from fuzz.report.causes import by_cause, numbered
from fuzz.report.figures import duration, moment, rate, severity, span
from fuzz.report.report import Code, Report, Result, Room, Section, Test
from fuzz.report.served import refusals_by_shape, served
from fuzz.report.statement import ShapeVerdict, Statement, aiter_named, aiter_of, named, statement
from fuzz.space import CaseSpace, not_drawn
from reprod.case_line import case_line

REASONS_SHOWN, FINDINGS_SHOWN, SHAPES_SHOWN = 8, 30, 20
"""Rows; a job's page takes a megabyte, and its reader less."""


def campaign_report(summary: CampaignSummary, said: Statement | None = None, at: str = "") -> Report:
    """What a campaign came to.

    said: its statement, where somebody made it already. at: the store's folder from where the reader stands, "" beside it.
    """
    said = said if said is not None else statement(summary)
    member = summary.members[0]
    title = f"aiterfuzz {member.space.backend}"
    return Report(
        title=title,
        verdict=summary.verdict,
        headline=said.headline,
        notice=said.notice,
        about=tuple(_about(summary, said)),
        sections=tuple(_sections(summary, said, at)),
        explained=tuple(_in_words(group) for group in by_cause(summary.findings)[:FINDINGS_SHOWN] if group[0].is_blamed),
        notes=(),
        tests=tuple(replace(test, classname=title.replace(".", "_")) for test in _tests(summary, said)),
        data={"findings": summary.findings},
        seconds=summary.seconds,
        began=moment(member.created).replace(" UTC", ":00Z").replace(" ", "T"),
    )


def _about(summary: CampaignSummary, said: Statement) -> Iterator[str]:
    member, counts = summary.members[0], summary.counts
    yield f"{member.space.backend}, {aiter_of([member])}, device {member.config.device}, seed {member.seed}"
    speed = f"{counted(counts.cases, 'case')} in {duration(summary.seconds)} ({rate(summary.rate)}/s)"
    yield f"{speed}, {counts.ran:,} ran, coverage {summary.features:,}"
    if summary.losses:
        named = sum(loss.case is not None for loss in summary.losses)
        yield f"{counted(len(summary.losses), 'worker')} lost and replaced, at a case that is known: {named:,}"
    yield from said.details


def _sections(summary: CampaignSummary, said: Statement, at: str) -> Iterator[Section]:
    rows = ((s.name, s.verdict.value, s.clean, s.faulty, s.cases, span(s.batch), span(s.kv_len)) for s in said.shapes)
    yield Section("", ("shape", "verdict", "clean", "faulty", "drawn", "batch", "longest KV"), tuple(rows), room=Room.PAGES)
    cases = summary.counts.cases
    yield from _served(summary)
    yield from _refused(summary)
    yield from _left_out(summary.members[0].space)
    yield from _reasons(
        summary.unmodelled_reasons,
        f"of {counted(cases, 'case is', 'cases are')} not modelled; nothing is known of {noun(cases, 'it', 'them')}",
    )
    found = summary.findings
    if found:
        yield _findings(found, at)
    if summary.not_reproduced:
        what = "a process died once and not again, which is no finding; kept for a retry"
        unclear = ((each.count, str(each.reliability), each.message, _place(each, at)) for each in summary.not_reproduced)
        heading = f"{len(summary.not_reproduced):,} not reproduced: {what}"
        yield Section(heading, ("cases", "repeated", "what happened", "folder"), tuple(unclear))
    if summary.comparison is not None and summary.comparison.gone:
        gone = (
            (Code(each.signature), each.message, each.known.entry if each.known is not None else "")
            for each in summary.comparison.gone
        )
        heading = f"{len(summary.comparison.gone):,} gone since last time ({summary.comparison.store})"
        yield Section(heading, ("signature", "what it was", "known"), tuple(gone))
    for scope in said.scopes:
        yield Section("", ("drawn from", ""), tuple(scope.drawn_from.items()), room=Room.SMALL_PRINT)
    yield Section("Not covered", (), tuple((limit,) for limit in said.not_covered), room=Room.SMALL_PRINT)


def _served(summary: CampaignSummary) -> Iterator[Section]:
    """The table of heads by types by query rows."""
    table = served(summary)
    columns = sorted({rows for row in table for rows in (*row.ran, *row.refused, *row.stopped)})
    header = ("cases that ran", "GPU", "q", "KV", "AITER", *(counted(rows, "row") for rows in columns))
    rows = tuple(
        (
            named(row.heads, summary.members),
            *(row.arch, row.q_dtype, row.kv_dtype, aiter_named(row.release, summary.members)),
            *(row.cell(each) for each in columns),
        )
        for row in table[:SHAPES_SHOWN]
    )
    if rows:
        yield Section("Query rows a request: 1 is plain decode, more are draft tokens.", header, rows, len(table) - len(rows))


def _left_out(space: CaseSpace) -> Iterator[Section]:
    left = not_drawn(space)
    if left:
        yield Section("Not drawn, though the framework sends it:", (), tuple((each,) for each in left))


def _refused(summary: CampaignSummary) -> Iterator[Section]:
    found = refusals_by_shape(summary)
    if found:
        who = summary.members
        rows = tuple(
            (each.cases, each.sentence(named(each.heads, who), aiter_named(each.release, who)))
            for each in found[:REASONS_SHOWN]
        )
        heading = (
            f"{summary.counts.refused:,} of {counted(summary.counts.cases, 'case was', 'cases were')} refused, which is not "
            "a fault"
        )
        yield Section(heading, ("cases", "what is refused"), rows, len(found) - len(rows))


def _reasons(reasons: Sequence[Reason], what: str) -> Iterator[Section]:
    if reasons:
        rows = tuple((reason.cases, reason.text) for reason in reasons[:REASONS_SHOWN])
        heading = f"{sum(reason.cases for reason in reasons):,} {what}"
        yield Section(heading, ("cases", "reason"), rows, len(reasons) - len(rows))


def _findings(found: Sequence[TriagedFinding], at: str) -> Section:
    """The findings by their cause: the same number in the first column for what one cause explains."""
    groups = by_cause(found)
    header = ("fault", "worst", "cases", "repeated", "known", "signature", "smallest case", "folder")
    rows = tuple((number, *_row(finding, at)) for number, finding in numbered(found))
    heading = counted(len(found), "finding")
    if len(groups) < len(found):
        heading += f" of {counted(len(groups), 'fault')}: those with one number have one cause"
    return Section(heading, header, rows[:FINDINGS_SHOWN], max(0, len(rows) - FINDINGS_SHOWN))


def _row(finding: TriagedFinding, at: str) -> tuple[object, ...]:
    known = finding.known.entry if finding.known is not None else ""
    return (
        finding.severity.name.lower(),
        finding.count,
        str(finding.reliability),
        ", ".join(part for part in (known, standing(finding)) if part) or "-",
        Code(finding.signature),
        case_line(finding.smallest, finding.aiter) + ("" if finding.minimal else " (not minimal yet)"),
        _place(finding, at),
    )


def _place(finding: TriagedFinding, at: str) -> str:
    return str(Path(at, finding.folder)) if finding.folder is not None else ""


def standing(finding: TriagedFinding) -> str:
    """Whether it is expected, and new or not; "" where nothing is to be said."""
    compared = "" if finding.standing is FindingStanding.NOT_COMPARED else finding.standing.value
    return ", ".join(part for part in ("expected" if finding.expected else "", compared) if part)


def _in_words(group: Sequence[TriagedFinding]) -> str:
    """A fault, what it is known as and what passes it over, and under what other signatures it shows."""
    finding, *others = group
    known = finding.known
    upstream = f" (known as {known.where}; --expect {known.entry} passes it over)" if known is not None else ""
    shows_too = f"; shows as {', '.join(each.signature for each in others)} too" if others else ""
    return f"{finding.kind.row.title}: {finding.message}{upstream}{shows_too}"


def _tests(summary: CampaignSummary, said: Statement) -> Iterator[Test]:
    """One for each shape and each fault; what is gone has passed.

    The test of a shape fails for whatever is wrong with it, and each finding has one of its own. A fault that the configuration
    expects is skipped with its name. A campaign that ran less than it was asked to is an error.
    """
    doubts = "; ".join(summary.doubts)
    result = Result.ERROR if doubts else Result.PASSED
    yield Test("the campaign ran what it was asked to", "", result, doubts, seconds=summary.seconds)
    expected = {finding.signature for finding in summary.findings if finding.expected}
    for shape in said.shapes:
        test = Test(f"nothing wrong on {shape.name}", "", message=shape.sentence)
        text = _text([shape.sentence, said.notice, *(f"found here: {signature}" for signature in shape.signatures)])
        if shape.verdict is ShapeVerdict.CONFIRMED:
            yield replace(test, text=text)
        elif shape.verdict is ShapeVerdict.NOTHING_RAN:
            yield replace(test, result=Result.ERROR, text=text)
        elif set(shape.signatures) <= expected:
            yield replace(test, result=Result.SKIPPED, message=f"expected: {shape.sentence}")
        else:
            yield replace(test, result=Result.FAILURE, text=text)
    yield from (_test(finding) for finding in summary.findings)
    for unclear in summary.not_reproduced:
        yield Test(unclear.signature, "", Result.SKIPPED, f"not reproduced, {unclear.reliability}: {unclear.message}")
    for gone in summary.comparison.gone if summary.comparison is not None else ():
        yield Test(gone.signature, "", text=_text(["gone since last time", gone.message]))


def _test(finding: TriagedFinding) -> Test:
    title = f"{finding.kind.row.title}: {finding.message}"
    if finding.expected:
        return Test(finding.signature, "", Result.SKIPPED, f"expected: {title}")
    known = "" if finding.known is None else f"known as {finding.known.where}"
    text = [
        title,
        f"{severity(finding)}, {counted(finding.count, 'case')}, repeated: {finding.reliability}, {finding.standing.value}",
        f"smallest case: {case_line(finding.smallest, finding.aiter)}",
        known,
        *(f"{each.party.value}, {each.stage}: {each.message}" for each in finding.findings),
        f"files: {finding.folder}" if finding.folder is not None else "",
    ]
    return Test(finding.signature, "", Result.ERROR if finding.of_our_own else Result.FAILURE, title, _text(text))


def _text(parts: list[str]) -> str:
    return "\n".join(part for part in parts if part)
