"""The gate's verdict for people and for CI: a table, Markdown for a job's page, annotations, JUnit XML and plain data."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any
from xml.etree import ElementTree

from backend.codec import to_plain
from backend.real.frameworks.record import DecisionRow, SourceLine
from fuzz.gate.gate import Examined
from fuzz.gate.verdict import Fault, Verdict
from fuzz.page.devices import notice
from reprod.explain import told
from reprod.text import markdown_table, table

HEADER = ("worst", "shape", "rows", "phases", "fault", "standing", "line")


def lines(verdict: Verdict, change: Examined, base: Examined | None) -> Iterator[str]:
    """The whole for a terminal."""
    yield from _about("change", change)
    if base is not None:
        yield from _about("base", base)
    if verdict.faults:
        yield from table(HEADER, _rows_of(verdict.faults))
    for alike in _alike(verdict.blamed):
        fault = alike[0]
        yield f"{_shapes(alike)}: {fault.message}"
        if fault.smallest.case is not None:
            yield f"  smallest: {told(fault.smallest.case)}; {fault.smallest.scenario.name}"
    yield from _mended(verdict)
    yield from _changed(verdict)
    yield headline(verdict, change, base)


def headline(verdict: Verdict, change: Examined, base: Examined | None) -> str:
    """One sentence."""
    count = len(verdict.blamed)
    if count:
        brings = "the change brings" if base is not None else "the source has"
        return f"FAULTY: {brings} {count} fault{'' if count == 1 else 's'} ({notice(change.device)})"
    kept = len(verdict.faults)
    rest = f"; {kept} known or in the base too" if kept else ""
    blamed_for = "change brings" if base is not None else "source is to blame for"
    return f"clean: no memory fault that the {blamed_for}{rest} ({notice(change.device)})"


def annotation_lines(verdict: Verdict, gate: SourceLine | None) -> Iterator[str]:
    """GitHub workflow commands that point at the line which decides, or at the call where there is no such line."""
    for fault in verdict.blamed:
        file, line = _place(fault, gate)
        message = f"{fault.shape}, {_rows(fault)}, {', '.join(fault.phases)}: {fault.message}"
        yield f"::error file={_property(file)},line={line},title={_property(fault.signature)}::{_data(message)}"


def markdown(verdict: Verdict, change: Examined, base: Examined | None) -> str:
    """A job's summary."""
    mark = "❌" if verdict.blamed else "✅"
    made = [f"## {mark} {headline(verdict, change, base)}", "", *_markdown_about(change, base), ""]
    if verdict.faults:
        made += markdown_table(HEADER, _rows_of(verdict.faults))
        made.append("")
    made += [f"* {line}" for line in (*_mended(verdict), *_changed(verdict))]
    return "\n".join(made) + "\n"


def plain(verdict: Verdict, change: Examined, base: Examined | None) -> dict[str, Any]:
    """Plain data, for machines."""
    return {
        "verdict": "faulty" if verdict.blamed else "clean",
        "headline": headline(verdict, change, base),
        "faults": [_plain_fault(fault) for fault in verdict.faults],
        "mended": [_plain_fault(fault) for fault in verdict.mended],
        "decisions": to_plain(verdict.decisions),
        "changed": to_plain(verdict.changed),
        "change": _plain_examined(change),
        "base": None if base is None else _plain_examined(base),
    }


def junit(verdict: Verdict, change: Examined) -> str:
    """A test for each fault; those in the base too or known are skipped, and a clean gate is one test that passed."""
    suite = ElementTree.Element("testsuite", {"name": f"aiterfuzz gate {change.label}"})
    for fault in verdict.faults or ():
        test = ElementTree.SubElement(suite, "testcase", {"classname": str(fault.shape), "name": fault.signature})
        told_of = {"message": _legal(fault.message)}
        kind = "failure" if fault.blamed else "skipped"
        ElementTree.SubElement(test, kind, told_of).text = _legal(f"{fault.standing.value}; {fault.line or ''}")
    if not verdict.blamed:
        ElementTree.SubElement(suite, "testcase", {"classname": "gate", "name": "no fault to blame the source for"})
    for attribute, tag in (("failures", "failure"), ("skipped", "skipped")):
        suite.set(attribute, str(len(suite.findall(f"testcase/{tag}"))))
    suite.set("tests", str(len(suite.findall("testcase"))))
    ElementTree.indent(suite)
    return "<?xml version='1.0' encoding='utf-8'?>\n" + ElementTree.tostring(suite, encoding="unicode") + "\n"


def difference(old: DecisionRow, new: DecisionRow) -> str:
    """What differs between two rows of the same shape."""
    return f"{new.num_head} heads, {new.kv_dtype} KV: {_short(old)} -> {_short(new)}"


def _about(which: str, examined: Examined) -> Iterator[str]:
    yield (
        f"{which}: {examined.label}; AITER {examined.release}; {examined.scenarios:,} scenarios "
        f"({examined.random:,} of them random), {examined.steps:,} steps judged, {examined.refused:,} refused by AITER"
    )
    if examined.warning:
        yield f"  {examined.warning}"
    for reason in examined.unmodelled:
        yield f"  not judged: {reason}"


def _rows_of(faults: Sequence[Fault]) -> list[tuple[object, ...]]:
    """One row for all shapes that differ in nothing but their heads."""
    return [(alike[0].severity.name.lower(), _shapes(alike), *_cells(alike[0])) for alike in _alike(faults)]


def _alike(faults: Sequence[Fault]) -> list[list[Fault]]:
    """Faults that a person would call one: only the heads differ; in the order of the first of each."""
    made: dict[object, list[Fault]] = {}
    for fault in faults:
        shape = fault.shape
        made.setdefault((fault.severity, shape.arch, shape.q_dtype, shape.kv_dtype, _cells(fault)), []).append(fault)
    return list(made.values())


def _shapes(alike: Sequence[Fault]) -> str:
    shape = alike[0].shape
    heads = ", ".join(str(head) for head in sorted({fault.shape.num_head for fault in alike}))
    return f"{heads} heads, {shape.arch} q {shape.q_dtype} KV {shape.kv_dtype}"


def _cells(fault: Fault) -> tuple[object, ...]:
    known = f" ({fault.known.entry})" if fault.known is not None else ""
    return (
        ",".join(map(str, fault.rows)),
        " ".join(fault.phases),
        fault.signature,
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


def _mended(verdict: Verdict) -> Iterator[str]:
    for alike in _alike(verdict.mended):
        known = alike[0].known
        reference = f" ({known.entry})" if known is not None else ""
        yield f"mended: {_shapes(alike)}, {_rows(alike[0])}: {alike[0].signature}{reference}"


def _changed(verdict: Verdict) -> Iterator[str]:
    if verdict.changed is None:
        return
    for old, new in verdict.changed:
        yield f"decides otherwise: {difference(old, new)}"
    if not verdict.changed:
        yield "no decision differs from the base's"
    else:
        yield "no other decision differs"


def _short(row: DecisionRow) -> str:
    return f"raises ({row.refused})" if row.refused is not None else f"{row.flags}/{_number(row.splits)}"


def _number(value: int | None) -> str:
    return "-" if value is None else str(value)


def _place(fault: Fault, gate: SourceLine | None) -> tuple[str, int]:
    if gate is not None and fault.signature.startswith("head-width"):
        return gate.file, gate.line
    file, _, line = (fault.line or "").rpartition(":")
    return (file, int(line)) if file and line.isdigit() else ("", 1)


def _markdown_about(change: Examined, base: Examined | None) -> Iterator[str]:
    for which, examined in (("change", change), ("base", base)):
        if examined is not None:
            yield from _about(which, examined)


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
    names = ("label", "release", "scenarios", "random", "steps", "refused", "unmodelled", "warning", "peak_memory")
    return {name: to_plain(getattr(examined, name)) for name in names}


def _property(text: str) -> str:
    return _data(text).replace(":", "%3A").replace(",", "%2C")


def _data(text: str) -> str:
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _legal(text: str) -> str:
    return re.sub("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]", "?", text)
