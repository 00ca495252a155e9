"""Curves over time as inline SVG: coverage, findings, throughput. The SVG holds lines only; figures stand beside it as text."""

from __future__ import annotations

from collections.abc import Sequence

from fuzz.campaign.summary import Sample
from fuzz.report.figures import duration, rate
from fuzz.report.page.markup import Markup, element, join

WIDTH, HEIGHT = 600, 120
"""Units of the drawing, which is stretched to its place: nothing in it has a shape that stretching would spoil."""


def charts(samples: Sequence[Sample]) -> Markup:
    """The three curves; a sentence where there are too few samples for any."""
    if len(samples) < 2:
        return element("p", "Too short for a curve: fewer than two moments were recorded.")
    seconds = [sample.seconds for sample in samples]
    last = samples[-1]
    return element(
        "div",
        chart("Coverage", "distinct features", seconds, [sample.features for sample in samples], f"{last.features:,}"),
        chart(
            "Findings",
            "distinct signatures",
            seconds,
            [sample.findings for sample in samples],
            f"{last.findings:,}",
            stepped=True,
        ),
        chart("Throughput", "cases a second", seconds, [sample.rate for sample in samples], f"{rate(last.rate)}/s"),
        class_="charts",
    )


def chart(
    title: str, unit: str, seconds: Sequence[float], values: Sequence[float], now: str, *, stepped: bool = False
) -> Markup:
    """One curve from (0, 0). stepped: the value holds until the next moment."""
    end, top = seconds[-1], max(*values, 1)
    points = [(0.0, 0.0)] if title != "Throughput" else [(0.0, values[0])]
    for second, value in zip(seconds, values, strict=True):
        if stepped:
            points.append((second, points[-1][1]))
        points.append((second, value))
    placed = [(WIDTH * (x / end if end else 0.0), HEIGHT * (1 - y / top)) for x, y in points]
    line = " ".join(f"{x:.1f},{y:.1f}" for x, y in placed)
    area = f"0,{HEIGHT} {line} {WIDTH},{HEIGHT}"
    drawing = element(
        "svg",
        element("polygon", points=area, class_="area"),
        element("polyline", points=line, class_="line", vector_effect="non-scaling-stroke"),
        viewBox=f"0 0 {WIDTH} {HEIGHT}",
        preserveAspectRatio="none",
        role="img",
        aria_label=f"{title}, {unit}: from {values[0]:,.0f} at {duration(seconds[0])} to {values[-1]:,.0f} at {duration(end)}",
    )
    return element(
        "figure",
        element("figcaption", element("strong", title), f" {unit}", element("b", now)),
        element("div", element("span", f"{top:,.0f}"), element("span", "0"), class_="y", aria_hidden="true"),
        element("div", drawing, class_="plot"),
        element("div", element("span", "0 s"), element("span", duration(end)), class_="x", aria_hidden="true"),
        class_="chart",
    )


def bar(part: int, whole: int) -> Markup:
    """A bar of a table: how much of the whole, for the eye only."""
    return element(
        "svg",
        join(
            element("rect", width="100%", height="100%", class_="rail"),
            element("rect", width=f"{100 * part / max(whole, 1):.1f}%", height="100%", class_="fill"),
        ),
        class_="share",
        aria_hidden="true",
        focusable="false",
    )
