"""A card for each finding: what it is, how sure, how it comes about, where the accesses went, and how to see it oneself."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

from backend.findings import Finding
from backend.words import counted
from fuzz.campaign.summary import FindingStanding, TriagedFinding
from fuzz.report.campaign import standing
from fuzz.report.figures import moment, percent, severity
from fuzz.report.page.detail import Detail
from fuzz.report.page.markup import Child, Markup, element, join, table
from fuzz.report.page.memory_map import memory_figure
from reprod.case_line import case_line
from reprod.folder import CASE
from reprod.layouts import HEADER, assumptions, rows
from reprod.reference import NO_REFERENCE, KnownReference

UPSTREAM = "https://github.com/{}/issues/{}"


def card(detail: Detail, ran: int, out: Path) -> Markup:
    """The card. ran: cases that reached a kernel. out: folder of the page, which links to files lead from."""
    finding = detail.finding
    return element(
        "article",
        element(
            "header",
            element("p", list(_badges(finding)), class_="badges"),
            element("h3", finding.kind.row.title, id=detail.anchor),
            element("p", element("code", finding.signature), class_="signature"),
        ),
        element("p", _cause(detail), class_="cause"),
        _facts(detail, ran),
        element("p", detail.why_not[0].upper() + detail.why_not[1:] + ".", class_="note") if detail.why_not else None,
        _chain(detail),
        _memory(detail),
        _hardware(detail),
        _reproduce(detail, out),
        class_=f"card {finding.severity.name.lower()}",
        aria_labelledby=detail.anchor,
    )


def _cause(detail: Detail) -> str:
    """The cause as a sentence that names who did it."""
    finding = detail.finding
    sentence = detail.blame.sentence if detail.blame is not None else _sentence(finding.message)
    if finding.stage in sentence:
        return sentence
    stage = finding.stage[:1].upper() + finding.stage[1:] if finding.stage.partition(" ")[0].isalpha() else finding.stage
    return f"{stage}: {sentence[:1].lower()}{sentence[1:]}"


def index(details: tuple[Detail, ...]) -> Markup:
    """The findings in one table, worst first, each a link to its card."""
    return table(
        ("finding", "fault", "severity", "cases", "repeated", "since last time", "known as"),
        [
            (
                join(
                    element("a", each.finding.kind.row.title, href=f"#{each.anchor}"),
                    element("code", each.finding.signature, class_="signature"),
                ),
                each.fault,
                severity(each.finding),
                each.finding.count,
                str(each.finding.reliability),
                standing(each.finding) or "–",
                each.finding.known.entry if each.finding.known is not None else "–",
            )
            for each in details
        ],
        "Findings, the worst first, what one cause explains together",
        "index stack",
    )


def _badges(finding: TriagedFinding) -> Iterator[Markup]:
    yield element("span", severity(finding), class_=f"badge {finding.severity.name.lower()}")
    if finding.standing is not FindingStanding.NOT_COMPARED:
        yield element("span", finding.standing.value, class_="badge " + finding.standing.name.lower().replace("_", "-"))
    if finding.expected:
        yield element("span", "expected", class_="badge expected")
    if finding.known is not None:
        yield element("span", f"known: {finding.known.entry}", class_="badge")


def _facts(detail: Detail, ran: int) -> Markup:
    finding = detail.finding
    unfinished = "" if finding.minimal else " (shrinking did not finish)"
    facts: list[tuple[str, Child]] = [
        ("Cases", f"{finding.count:,} ({percent(finding.count, max(ran, finding.count))} of those that ran)"),
        ("Shown again", f"{finding.reliability} times" if finding.reliability.repeats else str(finding.reliability)),
        ("First seen", f"{moment(finding.first_seen)}, case {finding.origin} (seed/chunk/position)"),
        ("Last seen", moment(finding.last_seen)),
        ("At fault", _at_fault(detail)),
        ("Known fault", _known(finding.known)),
        ("Smallest case", case_line(finding.smallest, finding.aiter) + unfinished),
    ]
    if detail.blame is not None:
        facts += [
            ("AITER's contract", detail.blame.verdict.value.replace("-", " ")),
            ("To put it right", _sentence(detail.blame.advice)),
        ]
    return element("dl", (element("div", element("dt", name), element("dd", value)) for name, value in facts), class_="facts")


def _at_fault(detail: Detail) -> str:
    if detail.blame is None:
        return detail.finding.party.value
    return f"{detail.blame.party.value}: {detail.blame.reason}"


def _known(known: KnownReference | None) -> Child:
    if known is None:
        return "no: nothing in the corpus shows the same fault"
    return join(
        f"{known.entry}, {known.title}: ", *_separated([_upstream(each) for each in known.references or (NO_REFERENCE,)])
    )


def _upstream(reference: str) -> Markup | str:
    repository, hash_, number = reference.partition("#")
    if not (hash_ and number.isdecimal()):
        return reference
    return element("a", reference, href=UPSTREAM.format(quote(repository), number), rel="noreferrer")


def _separated(parts: list[Markup | str]) -> list[Child]:
    return [child for i, part in enumerate(parts) for child in ((", ", part) if i else (part,))]


def _chain(detail: Detail) -> Markup | None:
    """What follows from what, in the order of a case's path."""
    findings = detail.finding.findings
    if not findings:
        return None
    return element(
        "section",
        element("h4", "How it comes about"),
        element("ol", (_link(finding) for finding in findings), class_="chain"),
    )


def _link(finding: Finding) -> Markup:
    return element(
        "li",
        element("span", finding.party.value, class_="who"),
        " ",
        element("span", severity(finding), class_=f"badge {finding.severity.name.lower()}"),
        element("div", _sentence(finding.message)),
        element("div", finding.stage, class_="where") if finding.stage not in finding.message else None,
    )


def _memory(detail: Detail) -> Markup | None:
    if detail.memory is None:
        return None
    body = memory_figure(detail.memory)
    if detail.memory.strays:
        return element("section", element("h4", "Memory map"), body)
    return element(
        "section",
        element("h4", "Memory map"),
        element("details", element("summary", "Every access stays inside of its tensor"), body),
    )


def _hardware(detail: Detail) -> Markup | None:
    found = detail.hardware
    if found is None:
        return None
    return element(
        "section",
        element("h4", "Would hardware fault?"),
        element(
            "p",
            "A GPU complains only where an access leaves mapped memory. In how many layouts of torch's allocator one does, "
            "worked out, not measured:",
        ),
        table(HEADER, rows(found), "Share of memory layouts that fault", "stack"),
        element(
            "details",
            element("summary", "What this assumes"),
            element("ul", (element("li", _sentence(line)) for line in assumptions(found))),
        ),
    )


def _reproduce(detail: Detail, out: Path) -> Markup:
    explain = f"aiterfuzz explain {_shown_path(detail, out)}" if CASE in detail.files else ""
    return element(
        "section",
        element("h4", "See it yourself"),
        copyable("Script for a GPU, needs torch and aiter only", detail.script, f"{detail.anchor}-script", True)
        if detail.script
        else element("p", "The script is not in the store's folder (it is written once the finding has been looked into)."),
        copyable("Smallest case", detail.case, f"{detail.anchor}-case", False),
        _files(detail, out),
        copyable("Explained, stage by stage, without a GPU", explain, f"{detail.anchor}-explain", False) if explain else None,
    )


def copyable(title: str, content: str, name: str, folded: bool) -> Markup:
    """Text with a button that copies it; the button shows only where scripts run."""
    button = element("button", "Copy", type="button", class_="copy", data_copy=name, aria_label=f"Copy: {title}", hidden=True)
    status = element("span", class_="copied", role="status")
    body = element("pre", element("code", content, id=name), tabindex=0, role="region", aria_label=title)
    head = element("div", element("span", title, class_="title"), status, button, class_="bar-of-code")
    if not folded:
        return element("div", head, body, class_="code")
    lines = content.count("\n")
    return element("div", head, element("details", element("summary", f"Show {counted(lines, 'line')}"), body), class_="code")


def _files(detail: Detail, out: Path) -> Markup | None:
    if detail.folder is None:
        return None
    base = _shown_path(detail, out).rpartition("/")[0]
    links = [element("a", name, href=quote(f"{base}/{name}")) for name in detail.files]
    return element("p", "Files: ", _separated(list(links)), class_="files")


def _shown_path(detail: Detail, out: Path) -> str:
    assert detail.folder is not None
    return Path(os.path.relpath(detail.folder.resolve(), out.resolve())).as_posix() + f"/{CASE}"


def _sentence(words: str) -> str:
    """Begins large and ends with a full stop."""
    return words[:1].upper() + words[1:] + ("" if words.endswith((".", "!", "?")) else ".")
