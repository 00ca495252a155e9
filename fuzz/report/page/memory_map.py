"""Where a case's accesses went: each tensor with the bytes read and written, inside of it, before its start and past its end.

Built from an Outcome, of which it needs no more than footprints, violations and the plan; positions on a bar are worked out
here too, so that nothing has to be measured on the page. Drawn as one bar for each tensor, writes above, reads below, what
leaves the tensor on a scale that shows it: SVG with places in percent and no view box, so that a bar fits any screen; every
figure stands beside it as text.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import pairwise

import numpy as np

from backend.aiter.launch import Refusal
from backend.call import Call
from backend.observation import Observation, Violation, ViolationKind
from backend.outcome import Outcome
from backend.words import counted
from fuzz.report.figures import size
from fuzz.report.page.markup import Markup, element, join, text
from reprod.layouts import INDICES, METADATA, tensor_bytes

INT32 = 4

MOST_SPANS = 64
"""Stretches told of one access of one tensor: more cannot be told apart on a bar; the closest are drawn as one."""

PRINCIPAL = ("q", "kv_buffer", "logits", "o")
"""Shown with every map beside the planner's buffers; others only where something went wrong with them."""


class Who(StrEnum):
    """Who touched which bytes."""

    PLANNER_WRITE = "planner writes"
    WRITE = "kernel writes"
    READ = "kernel reads"
    PLANNER_READ = "planner reads"


@dataclass(frozen=True, slots=True)
class Touched:
    """Bytes [begin, end) from the tensor's start; negative before it, from the tensor's size on past its end."""

    who: Who
    begin: int
    end: int


@dataclass(frozen=True, slots=True)
class Bar:
    """One tensor. shape: as launched, "" for a buffer. bad: what breaks the contract, all of it outside unless it is a page
    or word that is not theirs. sentences: what went wrong, one sentence each.
    """

    tensor: str
    nbytes: int
    shape: str
    touched: tuple[Touched, ...]
    bad: tuple[Touched, ...]
    sentences: tuple[str, ...]

    @property
    def before(self) -> int:
        """Bytes from the farthest access before the start to the start."""
        return max(0, *(-each.begin for each in self.bad), 0)

    @property
    def past(self) -> int:
        """Bytes from the end to the farthest access past it."""
        return max(0, *(each.end - self.nbytes for each in self.bad), 0)


@dataclass(frozen=True, slots=True)
class MemoryMap:
    """device: that the accesses were recorded on. bars: the planner's buffers first, then the tensors of the kernels."""

    device: str
    bars: tuple[Bar, ...]

    @property
    def strays(self) -> bool:
        """Whether anything went wrong with any tensor."""
        return any(bar.sentences for bar in self.bars)


def memory_map(outcome: Outcome) -> MemoryMap | None:
    """The map of an outcome whose device recorded footprints; None where no tensors are known."""
    call, observation = outcome.call, outcome.observation
    if call is None:
        return None
    violations = observation.violations if observation is not None else ()
    sizes = dict(tensor_bytes(call))
    if not isinstance(call.launch, Refusal):
        sizes |= {name: call.launch.tensors[name].nbytes for name in call.launch.aliases}
    for violation in violations:
        sizes.setdefault(violation.tensor, 0)
    touched, sentences = _touched(call, observation, sizes), _sentences_by_tensor(call, violations)
    inside = _bad_inside(violations, sizes)
    bars = []
    for name in _order(sizes):
        size = sizes[name]
        accesses = touched.get(name, [])
        bad = tuple(dict.fromkeys([*_outside(accesses, size), *inside.get(name, [])]))
        if bad or sentences.get(name) or name in PRINCIPAL or name in METADATA:
            shown = tuple(each for each in accesses if each.end > 0 and each.begin < size)
            bars.append(Bar(name, size, _shape(call, name), shown, bad, tuple(sentences.get(name, ()))))
    return MemoryMap(observation.device if observation is not None else "", tuple(bars)) if bars else None


def _order(sizes: Mapping[str, int]) -> Iterator[str]:
    first = [*METADATA, *INDICES, *PRINCIPAL]
    yield from (name for name in first if name in sizes)
    yield from (name for name in sizes if name not in first)


def _shape(call: Call, name: str) -> str:
    if isinstance(call.launch, Refusal) or name not in call.launch.tensors:
        return ""
    spec = call.launch.tensors[name]
    return f"{spec.dtype.value} [{', '.join(str(n) for n in spec.shape)}]"


def _touched(call: Call, observation: Observation | None, sizes: Mapping[str, int]) -> dict[str, list[Touched]]:
    """All accesses by tensor, those outside included."""
    found: dict[str, list[Touched]] = {}
    if call.plan is not None:
        for name, buffer in call.plan.buffers.items():
            edges = np.flatnonzero(np.diff(np.concatenate([[0], buffer.marks, [0]]).astype(np.int8))) + buffer.first
            runs = [(int(a) * INT32, int(b) * INT32) for a, b in edges.reshape(-1, 2)]
            found.setdefault(name, []).extend(_few(Who.PLANNER_WRITE, runs, sizes.get(name, 0)))
        reads = sorted({(read.array, read.index) for read in call.plan.reads_past_end if read.array in sizes})
        for name, index in reads:
            found.setdefault(name, []).append(Touched(Who.PLANNER_READ, index * INT32, (index + 1) * INT32))
    for footprint in observation.footprints.values() if observation is not None else ():
        for who, ranges in ((Who.WRITE, footprint.writes), (Who.READ, footprint.reads)):
            for name, spans in ranges.items():
                if name in sizes:
                    pairs = [(int(a), int(b)) for a, b in spans]
                    found.setdefault(name, []).extend(_few(who, pairs, sizes[name]))
    for violation in observation.violations if observation is not None else ():
        if violation.extent > 0:
            who = Who.WRITE if violation.is_write else Who.READ
            known = [each for each in found.get(violation.tensor, ()) if each.who is who]
            if not any(each.begin <= violation.first_offset and violation.end_offset <= each.end for each in known):
                stretch = Touched(who, violation.first_offset, violation.end_offset)
                found.setdefault(violation.tensor, []).append(stretch)
    return found


def _few(who: Who, runs: Sequence[tuple[int, int]], size: int) -> list[Touched]:
    """Runs cut at the tensor's ends, the closest made one until they are few; what is inside is never joined to what is not."""
    cut: list[tuple[int, int]] = []
    for begin, end in runs:
        marks = sorted({begin, end, *(edge for edge in (0, size) if begin < edge < end)})
        cut += list(pairwise(marks))
    gaps = sorted(b - a for (_, a), (b, _) in pairwise(cut))
    allowed = gaps[len(cut) - MOST_SPANS - 1] if len(cut) > MOST_SPANS else -1
    joined: list[tuple[int, int]] = []
    for begin, end in cut:
        if joined and begin - joined[-1][1] <= allowed and not any(joined[-1][1] <= edge <= begin for edge in (0, size)):
            joined[-1] = (joined[-1][0], end)
        else:
            joined.append((begin, end))
    return [Touched(who, begin, end) for begin, end in joined]


def _outside(accesses: Iterable[Touched], size: int) -> Iterator[Touched]:
    for each in accesses:
        if each.begin < 0:
            yield Touched(each.who, each.begin, min(each.end, 0))
        if each.end > size:
            yield Touched(each.who, max(each.begin, size), each.end)


def _bad_inside(violations: Sequence[Violation], sizes: Mapping[str, int]) -> dict[str, list[Touched]]:
    """What breaks the contract inside of a tensor: foreign pages, bytes and rows that nobody wrote or merges, races."""
    found: dict[str, list[Touched]] = {}
    for each in violations:
        begin, end = max(each.first_offset, 0), min(each.end_offset, sizes[each.tensor])
        if each.extent == 0 and begin < end:
            found.setdefault(each.tensor, []).append(Touched(Who.WRITE if each.is_write else Who.READ, begin, end))
    return found


def _sentences_by_tensor(call: Call, violations: Sequence[Violation]) -> dict[str, list[str]]:
    """What went wrong, by tensor, in the order of the path."""
    found: dict[str, list[str]] = {}
    plan = call.plan
    if plan is not None:
        for run in plan.overruns:
            side = "past the end" if run.first_word >= 0 else "before the start"
            found.setdefault(run.buffer, []).append(
                f"planner {plan.planner.value} writes {counted(run.words, 'int32 word')} ({run.words * INT32:,} B) {side}: "
                f"words {run.first_word:,}..{run.last_word:,} of {plan.buffers[run.buffer].allocated:,}"
            )
        for read in dict.fromkeys(plan.reads_past_end):
            if read.array in INDICES:
                found.setdefault(read.array, []).append(
                    f"planner {plan.planner.value} reads [{read.index:,}], which is not there"
                )
    for each in violations:
        found.setdefault(each.tensor, []).append(violation_sentence(each))
    return found


ROWS = (ViolationKind.LOST, ViolationKind.MISPLACED, ViolationKind.NO_OUTPUT, ViolationKind.CAPACITY)
"""Violations that are about rows and no access of their own: something is not merged or not written."""


def violation_sentence(each: Violation) -> str:
    """One violation as a sentence with its numbers."""
    verb = "writes" if each.is_write else "reads"
    times = counted(each.count, "time")
    where = f"bytes {each.first_offset:,}..{each.end_offset - 1:,}" if each.end_offset > each.first_offset else ""
    if each.extent > 0:
        side = "before the start" if each.first_offset < 0 else "past the end"
        what = f"{each.stage} {verb} {each.extent:,} B {side} ({where}), {times}"
    elif each.kind in ROWS:
        what = f"{each.stage}: {each.kind.value}, {times}" + (f", {where}" if where else "")
    else:
        what = (
            f"{each.stage} {verb} {where}: {each.kind.value}, {times}" if where else f"{each.stage}: {each.kind.value}, {times}"
        )
    return what + (f", first by work item {each.work_item_index:,}" if each.work_item_index is not None else "")


# ---- Scale of a bar

LEAST_SHARE = 0.12
"""Of a bar's width that a zone must have to be read; where one true scale leaves a zone less, the scale breaks."""

OUTSIDE_SHARE = 0.34
"""Of a bar's width for each zone outside of the tensor, once the scale is broken."""


@dataclass(frozen=True, slots=True)
class Scale:
    """Bytes of a tensor to shares of its bar, 0 to 1.

    start, end: where the tensor starts and ends. broken: outside of the tensor the scale is another one, logarithmic in the
    distance, so that a word and a gigabyte past the end can both be seen.
    """

    nbytes: int
    before: int
    past: int
    start: float
    end: float
    broken: bool

    def at(self, offset: int) -> float:
        """Place of a byte offset."""
        if offset < 0:
            return self.start * (1 - _share(-offset, self.before, self.broken))
        if offset > self.nbytes:
            return self.end + (1 - self.end) * _share(offset - self.nbytes, self.past, self.broken)
        return self.start + (self.end - self.start) * (offset / self.nbytes if self.nbytes else 1.0)


def scale_of(bar: Bar) -> Scale:
    """One true scale where every zone can be read on it, a broken one otherwise."""
    total = bar.before + bar.nbytes + bar.past
    zones = [zone for zone in (bar.before, bar.nbytes, bar.past) if zone]
    if total and all(zone / total >= LEAST_SHARE for zone in zones) and bar.nbytes:
        return Scale(bar.nbytes, bar.before, bar.past, bar.before / total, 1 - bar.past / total, False)
    start, end = OUTSIDE_SHARE * bool(bar.before), 1 - OUTSIDE_SHARE * bool(bar.past)
    return Scale(bar.nbytes, bar.before, bar.past, start, end, True)


def _share(distance: int, farthest: int, logarithmic: bool) -> float:
    if not logarithmic:
        return distance / farthest
    return math.log1p(distance) / math.log1p(farthest)


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
    return element(
        "details", element("summary", f"{counted(len(bars), 'tensor')} that all accesses stay inside of: {names}"), rows
    )


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
    shape = element("span", bar.shape) if bar.shape else None
    return element(
        "li",
        element("div", element("strong", bar.tensor), " ", element("span", size(bar.nbytes)), shape, class_="name"),
        _drawing(bar, scale),
        _ruler(bar, scale),
        element("ul", items, class_="sentences") if items else None,
    )


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
    return f"{bar.tensor}, {counted(bar.nbytes, 'byte')}: {wrong}"


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
