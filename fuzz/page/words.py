"""Words of the page: what each kind of finding is called in a title, and numbers and times as people read them."""

from __future__ import annotations

import time
from collections.abc import Mapping

from backend.findings import Finding, FindingKind, Severity
from fuzz.campaign.summary import Gone, Span, TriagedFinding

TITLES: Mapping[FindingKind, str] = {
    FindingKind.BAD_INDPTR: "An index tensor does not fit its batch",
    FindingKind.BAD_LAST_PAGE_LEN: "A last page is longer than a page",
    FindingKind.BAD_PAGE_ID: "A page id lies outside of the KV pool",
    FindingKind.SHORT_SEQUENCE: "A request has fewer KV tokens than query rows",
    FindingKind.BUFFER_TOO_SMALL: "Metadata buffers are sized for another batch",
    FindingKind.HEAD_WIDTH: "The planner groups heads otherwise than the kernel",
    FindingKind.METADATA_REJECTED: "AITER rejects the metadata arguments",
    FindingKind.NO_KERNEL: "No kernel for the key",
    FindingKind.PLANNER_READ: "The planner reads past its inputs",
    FindingKind.PLANNER_OVERRUN: "The planner writes outside of its buffers",
    FindingKind.SHORT_PIECE: "A piece of KV is shorter than the query rows",
    FindingKind.SPLIT_CAP: "More pieces than the reduction holds",
    FindingKind.NULL_POINTER: "Access through a null pointer",
    FindingKind.OUT_OF_BOUNDS_WRITE: "Write outside of a tensor",
    FindingKind.OUT_OF_BOUNDS_READ: "Read outside of a tensor",
    FindingKind.MEMORY_FAULT: "The GPU reported a memory fault",
    FindingKind.FOREIGN_PAGE: "KV pages of another request are read",
    FindingKind.UNWRITTEN_READ: "Bytes are read that nobody wrote",
    FindingKind.NOT_COVERED: "KV tokens that no work item covers",
    FindingKind.COVERED_TWICE: "KV tokens that two work items cover",
    FindingKind.BEYOND_SEQUENCE: "Tokens beyond the request's end are attended to",
    FindingKind.MISPLACED_ROW: "A partial row is merged into another row",
    FindingKind.ROW_NOT_WRITTEN: "An output row that nobody writes",
    FindingKind.WRITE_RACE: "Two workgroups write the same bytes",
    FindingKind.NUMERICS: "Numbers outside of the error budget",
    FindingKind.NOT_A_NUMBER: "Output is not a number",
    FindingKind.HANG: "The case does not come back",
    FindingKind.DIED: "The case takes its process along",
    FindingKind.DEVICE_DISAGREEMENT: "Two devices of aiterfuzz disagree",
}

LETHAL = (FindingKind.DIED, FindingKind.HANG)
"""Kinds that say that a process was lost, and nothing of memory."""

_SEVERITIES: Mapping[Severity, str] = {
    Severity.WRITE: "stray write",
    Severity.READ: "stray read",
    Severity.SILENT: "silent",
    Severity.REFUSED: "refused",
}


def severity(finding: Finding | TriagedFinding | Gone) -> str:
    """How bad, in words; a lost process is no silent fault, whatever its rank."""
    if not isinstance(finding, Gone) and finding.kind in LETHAL:
        return "process lost"
    return _SEVERITIES[finding.severity]


def moment(seconds: float) -> str:
    """A time of day, in UTC: `2026-06-30 04:05 UTC`."""
    return time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(seconds))


def duration(seconds: float) -> str:
    """`42 s`, `3 min 20 s`, `2 h 05 min`."""
    whole = round(seconds)
    if whole < 100:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    hours, left = divmod(minutes, 60)
    return f"{hours:,} h {left:02} min" if hours else f"{minutes} min {rest:02} s"


def rate(cases_a_second: float) -> str:
    """`831`, and `3.7` below ten."""
    return f"{cases_a_second:,.0f}" if cases_a_second >= 10 else f"{cases_a_second:.1f}"


def size(nbytes: int) -> str:
    """`36,864 B`, and what that is in larger units from 10 KiB on: `110,592 B (108 KiB)`."""
    exact = f"{nbytes:,} B"
    if nbytes < 10 * 1024:
        return exact
    power = min((nbytes.bit_length() - 1) // 10, 4)
    return f"{exact} ({nbytes / 1024**power:,.1f} {'KMGT'[power - 1]}iB)"


def span(low_and_high: Span | None) -> str:
    """`1..131,072`; a dash where there is none."""
    if low_and_high is None:
        return "–"
    low, high = low_and_high.low, low_and_high.high
    return f"{low:,}" if low == high else f"{low:,}..{high:,}"


def short(number: int) -> str:
    """A bucket's end on an axis: powers of two from 1,024 on in Ki and Mi."""
    for unit, scale in (("Mi", 1 << 20), ("Ki", 1 << 10)):
        if number >= scale and number % scale == 0:
            return f"{number // scale}{unit}"
    return str(number)


def percent(part: int, whole: int) -> str:
    """A share; one that is neither none nor all never rounds to either."""
    if not whole or part in (0, whole):
        return "100 %" if part and whole else "0 %"
    return f"{min(max(100 * part / whole, 0.1), 99.9):.1f} %"
