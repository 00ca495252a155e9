"""Words of the page: severities, and numbers and times as people read them."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from pathlib import Path

from backend.findings import Finding, Severity
from fuzz.campaign.summary import Gone, Span, TriagedFinding

_SEVERITIES: Mapping[Severity, str] = {
    Severity.WRITE: "stray write",
    Severity.READ: "stray read",
    Severity.SILENT: "silent",
    Severity.REFUSED: "refused",
}


def severity(finding: Finding | TriagedFinding | Gone) -> str:
    """How bad, in words; a lost process is no silent fault, whatever its rank."""
    if not isinstance(finding, Gone) and finding.kind.row.takes_its_process:
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


def from_here(path: str | Path) -> str:
    """A path as somebody who stands in the current folder types it; whole where it lies elsewhere."""
    full, here = Path(path).absolute(), Path.cwd()
    return str(full.relative_to(here)) if full.is_relative_to(here) else os.path.normpath(full)
