"""Findings that one cause explains, as one fault with its consequences. Compares what the smallest cases show; runs nothing."""

from __future__ import annotations

from collections.abc import Sequence

from backend.findings import FindingKind, Party
from fuzz.campaign.summary import TriagedFinding

Trace = tuple[object, ...]
"""What two findings have in common where one cause explains both."""

_KINDS = tuple(FindingKind)
"""In causal order."""


def by_cause(findings: Sequence[TriagedFinding]) -> tuple[tuple[TriagedFinding, ...], ...]:
    """The findings in groups that one cause explains each: the cause first, then what follows of it.

    One cause: one entry of the corpus, or for one number of heads the same complaint about what caller or planner did, among
    all that the smallest cases show. So a gate that sends 64 heads to the wrong planner is one fault, whatever the dtypes,
    the query rows and whether the launcher refuses afterwards.
    """
    groups: list[tuple[set[Trace], list[TriagedFinding]]] = []
    for finding in findings:
        traces, members = _traces(finding), [finding]
        for group in [each for each in groups if each[0] & traces]:
            groups.remove(group)
            traces, members = traces | group[0], [*group[1], *members]
        groups.append((traces, members))
    order = {finding.signature: position for position, finding in enumerate(findings)}
    made = (tuple(sorted(members, key=lambda each: (_rank(each), order[each.signature]))) for _, members in groups)
    return tuple(sorted(made, key=lambda group: min(order[each.signature] for each in group)))


def numbered(findings: Sequence[TriagedFinding]) -> tuple[tuple[str, TriagedFinding], ...]:
    """Each with the number of its fault: `1` the cause, `1, too` what it explains."""
    return tuple(
        (str(number) if place == 0 else f"{number}, too", finding)
        for number, group in enumerate(by_cause(findings), 1)
        for place, finding in enumerate(group)
    )


def _traces(finding: TriagedFinding) -> set[Trace]:
    """What it has in common with others of its cause; itself, and so nothing, for a case that took its process along."""
    traces: set[Trace] = {("itself", finding.signature)}
    if finding.kind.row.takes_its_process:
        return traces
    if finding.known is not None:
        traces.add(("entry", finding.known.entry))
    heads = finding.smallest.num_head
    return traces | {
        (heads, each.kind, each.stage, each.tensor) for each in finding.findings if each.party in (Party.CALLER, Party.PLANNER)
    }


def _rank(finding: TriagedFinding) -> tuple[object, ...]:
    """A cause before what follows of it: blamed, then known upstream, then by causal order."""
    public = finding.known is not None and bool(finding.known.references)
    return not finding.is_blamed, not public, _KINDS.index(finding.kind)
