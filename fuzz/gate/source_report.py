"""The report of a gated source: its faults folded by shape, what is mended, which decisions differ. Words only."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from backend.codec import to_plain
from backend.devices.kinds import notice
from backend.real.frameworks.record import DecisionRow
from backend.real.noted_call import SourceLine
from fuzz.gate.comparison import Comparison, Fault
from fuzz.gate.gate import Examined
from fuzz.gate.headline import headline, question_tests
from fuzz.report.model import Code, Report, Result, Room, Section, Test
from reprod.case_line import case_line
from reprod.text import one_line

HEADER = ("worst", "shape", "rows", "phases", "fault", "standing", "line")

SHOWN = 5
"""Functions of which the report says how little of them ran; gate.json has every one."""


def report(
    found: Comparison, change: Examined, base: Examined | None, gate: SourceLine | None = None, who: str = "change"
) -> Report:
    """gate: the line of the file that decides for the fast planner, None where there is none. who: what is judged."""
    explained = []
    for alike in _alike(found.blamed):
        fault = alike[0]
        explained.append(f"{_shapes(alike)}: {one_line(fault.message)}")
        if fault.smallest.case is not None:
            explained.append(f"  smallest: {case_line(fault.smallest.case)}; {fault.smallest.scenario.name}")
    subject, has = (f"{who} brings", f"the {who} brings") if base is not None else ("source is to blame for", "the source has")
    rest = sum(not fault.blamed and not fault.smallest.did_not_run for fault in found.faults)
    return Report(
        title=f"aiterfuzz gate {change.label}",
        verdict=found.verdict,
        headline=headline(found.verdict, subject, has, rest, _limits(found, change)),
        notice=notice(change.device),
        about=(*_about(who, change), *(_about("base", base) if base is not None else ())),
        sections=(*_faults(found), *_executed(change)),
        explained=tuple(explained),
        notes=(*_mended(found), *_changed(found), *_change_run(found)),
        tests=(*(_test(fault, gate) for fault in found.faults), *question_tests(found.verdict)),
        plain={
            "faults": [_plain_fault(fault) for fault in found.faults],
            "mended": [_plain_fault(fault) for fault in found.mended],
            "executed": None if change.executed is None else change.executed.plain(),
            "changed_lines": None if found.change_run is None else to_plain(found.change_run),
            "decisions": to_plain(found.decisions),
            "changed": to_plain(found.changed),
            "change": _plain_examined(change),
            "base": None if base is None else _plain_examined(base),
        },
    )


def _faults(found: Comparison) -> Iterator[Section]:
    if found.faults:
        yield Section("", HEADER, tuple(_rows_of(found.faults)))


def _limits(found: Comparison, change: Examined) -> tuple[str, str]:
    """What a clean headline says of what ran: of the file, and of the changed lines where some did not."""
    if change.is_the_base:
        return "as the base is (file and package are its, byte for byte; not swept)", ""
    if change.executed is None:
        return "", ""
    within, besides = change.executed.headline_says()
    ran = found.change_run
    part = f"{len(ran.lines - ran.ran):,} of {len(ran.lines):,} changed lines did not run" if ran and ran.not_run else ""
    return within, "; ".join(each for each in (part, besides) if each)


def _executed(change: Examined) -> Iterator[Section]:
    """What of the file did not run: by function, and the calls into AITER."""
    ran = change.executed
    if ran is None:
        return
    rows = tuple((Code(name), f"{lines:,} of {of:,}") for name, lines, of in ran.least_run)
    if rows:
        yield Section("Least executed:", ("function", "lines run"), rows[:SHOWN], left_out=max(len(rows) - SHOWN, 0))
    calls = tuple((Code(each.name), str(each.line)) for each in ran.calls_not_run)
    if calls:
        yield Section("Calls into AITER that did not run:", ("function", "line"), calls, room=Room.PAGES)


def _about(which: str, examined: Examined) -> Iterator[str]:
    counts = examined.counts
    yield (
        f"{which}: {examined.label}; AITER: {examined.aiter}; {examined.scenarios:,} scenarios "
        f"({examined.random:,} of them random), {counts.ran:,} steps judged, {counts.refused:,} refused by the file or AITER, "
        f"{counts.unjudged:,} not judged"
    )
    if examined.executed is not None:
        yield f"  {examined.executed.says()}"
    if examined.by_arguments:
        names = ", ".join(f"{name} {count:,}" for name, count in examined.by_arguments.items())
        yield f"  kernels not run, the arguments of their calls judged: {names}"
    if examined.warning:
        yield f"  {examined.warning}"
    for reason, count in examined.not_run.items():
        yield f"  {count:,} not judged: {reason}"


def _test(fault: Fault, gate: SourceLine | None) -> Test:
    """A fault as a test; one that nobody is blamed for is skipped."""
    message = f"{_rows(fault)}, {', '.join(fault.phases)}: {fault.message}"
    result = Result.FAILURE if fault.blamed else Result.SKIPPED
    detail = f"{fault.standing.value}; {fault.line or ''}"
    return Test(fault.signature, str(fault.shape), result, message, detail, place=_place(fault, gate))


def _rows_of(faults: Sequence[Fault]) -> list[tuple[object, ...]]:
    """One row for all shapes that differ in nothing but their heads."""
    return [(alike[0].severity.name.lower(), _shapes(alike), *_cells(alike[0])) for alike in _alike(faults)]


def _alike(faults: Sequence[Fault]) -> list[list[Fault]]:
    """Faults that a person would call one: only the heads differ; in the order of the first of each."""
    made: dict[object, list[Fault]] = {}
    for fault in faults:
        made.setdefault((fault.severity, fault.shape.tensors, _cells(fault)), []).append(fault)
    return list(made.values())


def _shapes(alike: Sequence[Fault]) -> str:
    heads = ", ".join(str(head) for head in sorted({fault.shape.num_head for fault in alike}))
    return f"{heads} heads, {alike[0].shape.tensors}"


def _cells(fault: Fault) -> tuple[object, ...]:
    known = f" ({fault.known.entry})" if fault.known is not None else ""
    return (
        ",".join(map(str, fault.rows)),
        " ".join(fault.phases),
        Code(fault.signature),
        f"{fault.standing.value}{known}",
        _short_line(fault.line),
    )


def _rows(fault: Fault) -> str:
    return f"{', '.join(map(str, fault.rows))} {'row' if fault.rows == (1,) else 'rows'} a request"


def _short_line(line: str | None) -> str:
    if line is None:
        return ""
    path, _, number = line.rpartition(":")
    return f"{path.rpartition('/')[2]}:{number}"


def _mended(found: Comparison) -> Iterator[str]:
    for alike in _alike(found.mended):
        known = alike[0].known
        reference = f" ({known.entry})" if known is not None else ""
        yield f"mended: {_shapes(alike)}, {_rows(alike[0])}: {alike[0].signature}{reference}"


def _changed(found: Comparison) -> Iterator[str]:
    if found.changed is None:
        return
    for old, new in found.changed:
        yield f"decides otherwise: {difference(old, new)}"
    yield "no other decision differs" if found.changed else "no decision differs from the base's"


def _change_run(found: Comparison) -> Iterator[str]:
    if found.change_run is not None:
        yield found.change_run.says()


def difference(old: DecisionRow, new: DecisionRow) -> str:
    """What differs between two rows of the same shape."""
    return f"{new.num_head} heads, {new.kv_dtype} KV: {_short(old)} -> {_short(new)}"


def _short(row: DecisionRow) -> str:
    return f"raises ({one_line(row.refused)})" if row.refused is not None else f"{row.flags}/{_number(row.splits)}"


def _number(value: int | None) -> str:
    return "-" if value is None else str(value)


def _place(fault: Fault, gate: SourceLine | None) -> tuple[str, int]:
    if gate is not None and fault.signature.startswith("head-width"):
        return gate.file, gate.line
    file, _, line = (fault.line or "").rpartition(":")
    return (file, int(line)) if file and line.isdigit() else ("", 1)


def _plain_fault(fault: Fault) -> dict[str, Any]:
    return {
        "signature": fault.signature,
        "severity": fault.severity.name.lower(),
        "shape": to_plain(fault.shape),
        "rows": list(fault.rows),
        "phases": [phase.value for phase in fault.phases],
        "message": fault.message,
        "line": fault.line,
        "standing": fault.standing.value,
        "blamed": fault.blamed,
        "known": to_plain(fault.known),
        "smallest": to_plain(fault.smallest.case),
        "scenario": to_plain(fault.smallest.scenario),
    }


def _plain_examined(examined: Examined) -> dict[str, Any]:
    names = ("label", "aiter", "device", "scenarios", "random", "counts", "not_run", "warning", "peak_memory", "by_arguments")
    return {name: to_plain(getattr(examined, name)) for name in names}
