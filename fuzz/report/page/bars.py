"""A memory map drawn: one bar for each tensor, writes above, reads below, what leaves the tensor on a scale that shows it.

SVG with places in percent and no view box, so that a bar fits any screen; every figure stands beside it as text.
"""

from __future__ import annotations

from fuzz.report.figures import size
from fuzz.report.page.markup import Markup, element, join, text
from fuzz.report.page.memory_map import Bar, MemoryMap, Scale, Touched, Who, scale_of

HEIGHT, LANE, TOP = 26, 9, 4
"""Pixels: of a bar, of a lane, and above the first lane."""

LEAST_WIDTH = 0.35
"""Percent of a bar that a stretch has at least: a word of a gigabyte must be seen."""

CLASSES = {
    Who.PLANNER_WRITE: "planner-write",
    Who.WRITE: "kernel-write",
    Who.READ: "kernel-read",
    Who.PLANNER_READ: "planner-read",
}

WRITES = (Who.PLANNER_WRITE, Who.WRITE)


def memory_figure(found: MemoryMap) -> Markup:
    """The map: tensors that something went wrong with first, each with what went wrong."""
    wrong = [bar for bar in found.bars if bar.sentences]
    fine = [bar for bar in found.bars if not bar.sentences]
    return element(
        "div",
        _legend(found),
        element("ul", (_row(bar) for bar in wrong), class_="bars") if wrong else None,
        _rest(fine, bool(wrong)) if fine else None,
        class_="memory",
    )


def hatches() -> Markup:
    """Patterns that bars refer to; once in a page, before the first bar."""
    patterns = [
        element(
            "pattern",
            element("rect", width="7", height="7", class_="back"),
            element("rect", width="3.5", height="7", class_=class_),
            id=f"hatch-{class_}",
            width="7",
            height="7",
            patternUnits="userSpaceOnUse",
            patternTransform="rotate(45)",
        )
        for class_ in CLASSES.values()
    ]
    return element("svg", element("defs", patterns), class_="sr", width="0", height="0", aria_hidden="true", focusable="false")


def _rest(bars: list[Bar], folded: bool) -> Markup:
    rows = element("ul", (_row(bar) for bar in bars), class_="bars")
    if not folded:
        return rows
    names = ", ".join(bar.tensor for bar in bars)
    return element("details", element("summary", f"{len(bars)} tensors that all accesses stay inside of: {names}"), rows)


def _legend(found: MemoryMap) -> Markup:
    used = {each.who for bar in found.bars for each in (*bar.touched, *bar.bad)}
    entries = [
        element("span", element("i", class_=f"key {CLASSES[who]}"), who.value, class_="entry") for who in Who if who in used
    ]
    return element(
        "p",
        *entries,
        element("span", element("i", class_="key tensor"), "the tensor", class_="entry"),
        element("span", element("i", class_="key bad"), "outside of it, or otherwise wrong", class_="entry")
        if found.strays
        else None,
        element("span", f"Writes above, reads below; from device {found.device}.", class_="entry") if found.device else None,
        class_="legend",
    )


def _row(bar: Bar) -> Markup:
    scale = scale_of(bar)
    items = [element("li", sentence) for sentence in bar.sentences]
    return element(
        "li",
        element("div", element("strong", bar.tensor), " ", element("span", size(bar.nbytes)), _shape(bar), class_="name"),
        _drawing(bar, scale),
        _ruler(bar, scale),
        element("ul", items, class_="sentences") if items else None,
    )


def _shape(bar: Bar) -> Markup | None:
    return element("span", bar.shape) if bar.shape else None


def _drawing(bar: Bar, scale: Scale) -> Markup:
    lanes = [_stretch(each, scale, CLASSES[each.who]) for each in bar.touched]
    outside = [_stretch(each, scale, f"{CLASSES[each.who]} outside") for each in bar.bad]
    tensor = _rect(scale.start, scale.end, 0, HEIGHT, "tensor")
    edges = [_edge(place) for place, there in ((scale.start, bar.before), (scale.end, bar.past)) if there]
    return element(
        "svg",
        join(tensor, lanes, outside, edges),
        class_="bar",
        role="img",
        aria_label=_label(bar),
        width="100%",
        height=str(HEIGHT),
    )


def _label(bar: Bar) -> str:
    wrong = "; ".join(bar.sentences) or "all accesses inside"
    return f"{bar.tensor}, {bar.nbytes:,} bytes: {wrong}"


def _stretch(each: Touched, scale: Scale, class_: str) -> Markup:
    begin, end = max(each.begin, -scale.before), min(each.end, scale.nbytes + scale.past)
    y = TOP if each.who in WRITES else TOP + LANE
    return _rect(scale.at(begin), scale.at(end), y, LANE, class_)


def _rect(begin: float, end: float, y: int, height: int, class_: str) -> Markup:
    width = max(100 * (end - begin), LEAST_WIDTH)
    x = min(100 * begin, 100 - width)
    return Markup(f'<rect x="{x:.2f}%" y="{y}" width="{width:.2f}%" height="{height}" class="{text(class_)}"/>')


def _edge(place: float) -> Markup:
    return Markup(f'<line x1="{100 * place:.2f}%" x2="{100 * place:.2f}%" y1="0" y2="{HEIGHT}" class="edge"/>')


def _ruler(bar: Bar, scale: Scale) -> Markup | None:
    """Figures below a bar that is left: the tensor's end, the far ends, and whether the scale is broken."""
    if not bar.before and not bar.past:
        return None
    broken = ", not to scale (logarithmic)" if scale.broken else ""
    marks: list[Markup] = []
    if bar.before:
        marks.append(element("span", f"−{bar.before:,} B before the start{broken}"))
    if bar.past:
        times = f", {_times(bar.past / bar.nbytes)} × the tensor" if bar.nbytes else ""
        marks.append(element("span", f"+{bar.past:,} B past the end{times}{broken}", class_="right"))
    return element("div", marks, class_="ruler", aria_hidden="true")


def _times(ratio: float) -> str:
    """A number of times: `3.0`, `0.062`, `4,096.0`."""
    return f"{ratio:,.1f}" if ratio >= 1 else f"{ratio:.2g}"
