"""What a page draws of a campaign: the covered map, and curves over time.

The map is one table for each number of heads, batch down, KV length across, shaded by how many cases ran; a field says in words
what its shade says, and carries the rest for the line of text below. Curves are inline SVG of lines only; figures stand beside
it as text.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from backend.words import counted
from fuzz.campaign.summary import CoverageCell, Sample, Span
from fuzz.report.figures import duration, rate, short
from fuzz.report.page.markup import Markup, element, join
from fuzz.report.statement import ShapeStatement

SHADES = 6
"""Steps of the scale, from a single case to the fullest field; from each to the next it is the same ratio of cases."""

ROUNDING = 1e-9
"""Above the error of a logarithm, below the distance of two counts on its scale."""

KERNELS_NAMED = 3
REASONS_NAMED = 2


def heat_map(shape: ShapeStatement, cells: Sequence[CoverageCell], most: int) -> Markup:
    """The table of one shape. most: cases of the fullest field of all maps, so that maps compare."""
    mine = {(cell.batch.low, cell.kv_len.low): cell for cell in cells if cell.num_head == shape.num_head}
    if not mine:
        return element("p", f"No case of {shape.name} was drawn.")
    batches = _axis([cell.batch for cell in cells])
    lengths = _axis([cell.kv_len for cell in cells])
    head = element(
        "tr",
        element("th", element("span", "batch", class_="down"), class_="corner", scope="col"),
        (element("th", element("span", short(span.low)), scope="col", title=f"KV {span}") for span in lengths),
    )
    rows = (
        element(
            "tr",
            element("th", short(batch.low), scope="row", title=f"batch {batch}"),
            (_field(mine.get((batch.low, length.low)), batch, length, most) for length in lengths),
        )
        for batch in batches
    )
    readout = f"map-{shape.num_head}-readout"
    return element(
        "figure",
        element(
            "figcaption", element("strong", shape.name), f": {shape.ran:,} of {counted(shape.cases, 'case')} reached a kernel"
        ),
        element(
            "table",
            element("thead", head),
            element("tbody", rows),
            class_="heat",
            role="grid",
            aria_label=f"Cases by batch and KV length, {shape.name}",
            data_readout=readout,
        ),
        element("p", "KV tokens of the longest request →", class_="axis"),
        element("p", "Point at a field, or move with the arrow keys.", class_="readout", id=readout, aria_live="polite"),
        class_="map",
    )


def legend(most: int) -> Markup:
    """What the shades mean."""
    steps = [element("span", element("i", class_=f"key h{shade}"), label, class_="entry") for shade, label in _steps(most)]
    return element(
        "p",
        element("span", "Cases that reached a kernel: ", class_="entry"),
        *steps,
        element("span", element("i", class_="key h2 faulty"), "with faults", class_="entry"),
        element("span", element("i", class_="key refused"), "all refused", class_="entry"),
        element("span", element("i", class_="key none"), "not drawn", class_="entry"),
        class_="legend",
    )


def shade_of(ran: int, most: int) -> int:
    """1 for a single case to SHADES for the fullest field, by ratio; 0 for none."""
    if not ran:
        return 0
    return 1 + int((SHADES - 1) * math.log(ran) / math.log(most) + ROUNDING) if most > 1 else SHADES


def _steps(most: int) -> list[tuple[int, str]]:
    """Each shade that can occur with the fewest cases that it stands for."""
    lows: dict[int, int] = {}
    for shade in range(1, SHADES + 1):
        low = math.ceil(most ** ((shade - 1) / (SHADES - 1)) - ROUNDING)
        found = shade_of(low, most)
        lows.setdefault(found, low)
    return [(shade, f"{low:,}+") for shade, low in sorted(lows.items())]


def _axis(spans: Sequence[Span]) -> list[Span]:
    """Every bucket that occurs, without gaps: a length that nothing was drawn of is to be seen."""
    lows = {span.low: span for span in spans}
    last = max(lows)
    low, axis = (0 if 0 in lows else 1), []
    while low <= last:
        axis.append(lows.get(low, Span(low, 2 * low - 1 if low else 0)))
        low = 2 * low or 1
    return axis


def _field(cell: CoverageCell | None, batch: Span, length: Span, most: int) -> Markup:
    where = f"batch {batch}, KV {length}"
    if cell is None:
        return element(
            "td", element("span", f"{where}: not drawn", class_="sr"), class_="none", data_text=f"{where}: not drawn"
        )
    classes = f"h{shade_of(cell.ran, most)}" + (" faulty" if cell.faulty else "" if cell.ran else " refused")
    counts = f"{where}: {counted(cell.cases, 'case')}, {cell.ran:,} reached a kernel" + (
        f", {cell.faulty:,} faulty" if cell.faulty else ""
    )
    more = [counts, *_more("kernels", cell.kernels, KERNELS_NAMED)]
    more += _more("refused", {reason.text: reason.cases for reason in cell.refused}, REASONS_NAMED)
    return element("td", element("span", counts, class_="sr"), class_=classes, data_text="\n".join(more))


def _more(what: str, counted: Mapping[str, int], limit: int) -> list[str]:
    if not counted:
        return []
    entries = sorted(counted.items(), key=lambda entry: -entry[1])
    rest = f" and {len(entries) - limit} more" if len(entries) > limit else ""
    return [f"{what}: " + ", ".join(f"{name} ({count:,})" for name, count in entries[:limit]) + rest]


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
