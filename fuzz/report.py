"""What a search came to, told to a person: the table of faults and what was refused."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path

from fuzz.search import Tally
from reprod.explain import told
from reprod.text import table

REASONS_SHOWN = 8


def lines(tally: Tally, folders: Mapping[str, Path]) -> Iterator[str]:
    """The report, line by line."""
    yield from _reasons(tally.refused, f"of {tally.cases:,} cases were refused, which is not a fault:")
    yield from _reasons(tally.unmodelled, f"of {tally.cases:,} cases are not modelled, so that nothing is known of them:")
    if not tally.faults:
        yield f"no fault in {tally.ran:,} cases"
        return
    yield f"{len(tally.faults):,} distinct fault{'s' if len(tally.faults) > 1 else ''} in {tally.ran:,} cases, the worst first:"
    worst_first = sorted(tally.faults.values(), key=lambda fault: (-fault.severity, fault.number))
    rows = [
        (
            fault.severity.name.lower(),
            fault.count,
            fault.number,
            fault.signature,
            told(fault.shrunk.case) + ("" if fault.shrunk.minimal else " (not minimal yet)"),
            folders.get(fault.signature, ""),
        )
        for fault in worst_first
    ]
    yield from table(("worst", "cases", "first", "signature", "smallest case", "folder"), rows)


def _reasons(counted: Counter[str], what: str) -> Iterator[str]:
    if not counted:
        return
    yield f"{counted.total():,} {what}"
    yield from table(("cases", "reason"), [(count, reason) for reason, count in counted.most_common(REASONS_SHOWN)])
    if len(counted) > REASONS_SHOWN:
        yield f"  and {len(counted) - REASONS_SHOWN:,} more reasons, in the results file"
