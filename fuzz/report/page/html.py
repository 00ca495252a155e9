"""The page: one self-contained HTML file. The frame of a Report's page: policy, verdict, navigation, sections in their order.

Nothing is loaded from anywhere: styles and script are inline, and the page's own policy forbids everything else. What a
campaign's sections hold is drawn in campaign_page.py; a gate's are the report's own tables.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources

from fuzz.report.page.markup import Child, Markup, element, join, table
from fuzz.report.page.memory_map import hatches
from fuzz.report.report import Code, Report, Section
from fuzz.verdict import Conclusion

TONES = {Conclusion.CLEAN: ("good", "✓"), Conclusion.FAULTY: ("bad", "✗"), Conclusion.OPEN: ("fair", "?")}


@dataclass(frozen=True, slots=True)
class PageSection:
    """One section under a heading of its own. name: its anchor."""

    name: str
    title: str
    bodies: Sequence[Child]


def report_page(report: Report) -> str:
    """The page of a report that has nothing to show but its own sections."""
    tables = [_table(section) for section in report.sections if section.rows]
    said = [element("ul", (element("li", each) for each in lines)) for lines in (report.explained, report.notes) if lines]
    bodies: list[Child] = [*tables, *said] or [element("p", "Nothing was found.", class_="nothing")]
    return page(report, report.title, (), (PageSection("findings", "Findings", bodies),))


def page(
    report: Report, kicker: str, figures: Sequence[tuple[str, Child]], sections: Sequence[PageSection], fair: bool = False
) -> str:
    """The whole file. kicker: what stands above the headline; figures: names and values in large; fair: not wholly clean."""
    style, script = Markup(_asset("page.css")), Markup(_asset("page.js"))
    hashed = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = f"default-src 'none'; style-src 'unsafe-inline'; script-src 'sha256-{hashed}'; img-src data:; base-uri 'none'"
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", http_equiv="Content-Security-Policy", content=policy),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", name="color-scheme", content="light dark"),
        element("title", f"{report.headline} – aiterfuzz"),
        element("link", rel="icon", href="data:,"),
        element("style", style),
    )
    body = element(
        "body",
        element("a", "Skip to the findings", href="#findings", class_="skip"),
        _verdict(report, kicker, figures, sections, fair),
        hatches(),
        element("main", [_section(section) for section in sections]),
        element("footer", element("p", f"{report.title}. {report.notice}")),
        element("script", script),
    )
    return f"<!DOCTYPE html>\n{element('html', head, body, lang='en')}\n"


def _asset(name: str) -> str:
    return resources.files("fuzz.report.page").joinpath(name).read_text(encoding="utf-8")


NOT_RUN_SHOWN = 5
"""Things that did not run which the head of a page shows; the others are folded below them."""


def _verdict(
    report: Report, kicker: str, figures: Sequence[tuple[str, Child]], sections: Sequence[PageSection], fair: bool
) -> Markup:
    tone, mark = TONES[report.verdict.conclusion]
    left = [f"Not run: {each}" for each in report.left_to_say]
    details, folded = [*report.about, *left[:NOT_RUN_SHOWN]], left[NOT_RUN_SHOWN:]
    return element(
        "header",
        element("p", kicker, class_="kicker"),
        element("h1", element("span", mark, class_="mark", aria_hidden="true"), element("span", report.headline)),
        element("p", report.notice, class_="notice"),
        element("ul", (element("li", each) for each in details), class_="details"),
        element(
            "details",
            element("summary", f"and {len(folded):,} more"),
            element("ul", (element("li", each) for each in folded), class_="details"),
        )
        if folded
        else None,
        element("dl", (element("div", element("dt", name), element("dd", value)) for name, value in figures), class_="figures")
        if figures
        else None,
        element(
            "nav",
            (element("a", section.title, href=f"#{section.name}") for section in sections),
            aria_label="Sections",
            class_="toc",
        ),
        class_=f"verdict {'fair' if fair else tone}",
    )


def _section(section: PageSection) -> Markup:
    name = section.name
    return element(
        "section", element("h2", section.title, id=f"{name}-title"), section.bodies, id=name, aria_labelledby=f"{name}-title"
    )


def _table(section: Section) -> Markup:
    if not section.header:
        return element("ul", (element("li", str(row[0])) for row in section.rows))
    rows = [tuple(_cell(cell) for cell in row) for row in section.rows]
    left = element("p", f"And {section.left_out:,} more.") if section.left_out else None
    return join(table(section.header, rows, section.heading or "What was found", "reasons"), left)


def _cell(cell: object) -> Child:
    if isinstance(cell, Code):
        return element("code", str(cell))
    return cell if isinstance(cell, int) else str(cell)
