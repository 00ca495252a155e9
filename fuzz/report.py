"""What a search came to, told to a person: the table of faults and what was refused."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from backend.case import Case, PageOrder
from fuzz.search import Tally
from reprod.text import lengths, table

REASONS_SHOWN = 8


def told(case: Case) -> str:
    """A case in one line: what every case has, then what is unusual about it."""
    parts = [
        f"{case.num_head} heads",
        f"{case.q_dtype}/{case.kv_dtype}",
        f"qlen {case.max_seqlen_q}",
        f"kv {lengths(case.kv_lens)}",
        case.arch.value,
        case.release,
    ]
    unusual = {
        "rows": None if case.query_lens is None else lengths(case.query_lens),
        "page": case.page_size if case.page_size != 1 else None,
        "mode": case.mode,
        "CUs": case.num_cu or None,
        "graph": case.graph_batch,
        "max_batch": case.max_batch,
        "first page": case.first_page or None,
        "pages": None if case.page_order is PageOrder.SEQUENTIAL else case.page_order,
    }
    parts += [f"{name} {value}" for name, value in unusual.items() if value is not None]
    return ", ".join(parts)


def lines(tally: Tally, folders: Mapping[str, Path]) -> Iterator[str]:
    """The report, line by line."""
    refused = tally.refused.total()
    if refused:
        yield f"{refused:,} of {tally.cases:,} cases were refused, which is not a fault:"
        reasons = tally.refused.most_common()
        yield from table(("cases", "reason"), [(count, reason) for reason, count in reasons[:REASONS_SHOWN]])
        if len(reasons) > REASONS_SHOWN:
            yield f"  and {len(reasons) - REASONS_SHOWN:,} more reasons, in the results file"
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
