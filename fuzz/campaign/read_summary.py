"""Reads a store into a CampaignSummary. The only module beside fuzz.campaign.store that knows its tables."""

from __future__ import annotations

import json
import sqlite3
from collections import Counter
from collections.abc import Container, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from backend.case import Case
from backend.codec import dumps, from_plain
from backend.errors import UsageError
from backend.fate import Fate
from backend.words import counted, noun
from fuzz.asked import never_ran
from fuzz.campaign.config import CampaignConfig
from fuzz.campaign.guidance import Guide
from fuzz.campaign.report import CellCounts, Label, bucket_end
from fuzz.campaign.soundness import damage_is_one_line, require_sound
from fuzz.campaign.store import FindingRow, connect, label_counts, read_findings, read_reached, store_path
from fuzz.campaign.summary import (
    CampaignComparison,
    CampaignSummary,
    CoverageCell,
    Environment,
    FindingStanding,
    Gone,
    Loss,
    LossKind,
    Member,
    Reason,
    Reliability,
    Sample,
    Session,
    Span,
    TriagedFinding,
    is_weather,
)
from fuzz.provenance import Provenance
from fuzz.space import CaseSpace
from fuzz.verdict import Counts
from reprod.text import listed

T = TypeVar("T")

MOST_SAMPLES = 300
"""Points of a curve: more than a page has pixels to tell apart."""

COMPARED = "compared"
"""Note that holds the comparison with an earlier campaign."""


def load_summary(given: Path) -> CampaignSummary:
    """The summary of a store (the database file, or the campaign's folder), also while its campaign runs.

    Raises UsageError where there is no store, it is of another version, or damaged.
    """
    path = store_path(given)
    db = connect(path)
    try:
        with damage_is_one_line(path):
            db.execute("BEGIN")  # one state throughout, while the campaign writes on
            require_sound(db)
            return _summary(db)
    finally:
        db.close()


def read_case(given: Path, chunk: int, position: int) -> Case:
    """The case at a place of a campaign, drawn again; raises UsageError where there is none."""
    from fuzz.campaign.maker import case_at

    path = store_path(given)
    db = connect(path)
    try:
        with damage_is_one_line(path):
            members = list(_members(db))
        if len(members) != 1:
            raise UsageError(f"{path}: was merged from {len(members)} campaigns; give the one that ran the case")
        config = members[0][1].config
        if not 0 <= position < config.cases_a_chunk or chunk < 0:
            raise UsageError.not_allowed(
                "case", f"{chunk}/{position}", f"a chunk from 0, a position in 0..{config.cases_a_chunk - 1}"
            )
        with damage_is_one_line(path):
            guide = Guide(config.generation_chunks, config.guided)
            found = {each.chunk: each for each in read_reached(db, members[0][0], chunk)}
            case = case_at(members[0][1].space, config.seed, config.cases_a_chunk, guide, found, chunk, position)
    finally:
        db.close()
    if case is None:
        raise UsageError(f"case {chunk}/{position}: chunks that it is made from are not in {path}")
    return case


def _summary(db: sqlite3.Connection) -> CampaignSummary:
    members = list(_members(db))
    numbers = [number for number, _ in members]
    labels: Counter[Label] = Counter()
    for number in numbers:
        labels.update(label_counts(db, number))
    comparison = _comparison(db)
    findings, weather = _findings(db, members, comparison)
    cells = list(_cells(db, {each.signature for each in weather}))
    kernels: Counter[str] = Counter()
    for cell in cells:
        kernels.update(cell.kernels)
    aside = [chunk for (chunk,) in db.execute("SELECT chunk FROM set_aside ORDER BY chunk")]
    complete = all(member.sessions and member.sessions[-1].reason == "finished" for _, member in members)
    counts = _counts(labels)
    never = tuple(dict.fromkeys(_never_ran(db, members)))
    (seconds,) = db.execute("SELECT TOTAL(COALESCE(ended, seen) - began) FROM sessions").fetchone()
    features = [n for (n,) in db.execute("SELECT MAX(features) FROM chunks GROUP BY campaign")]
    return CampaignSummary(
        members=tuple(member for _, member in members),
        complete=complete,
        seconds=seconds,
        counts=counts,
        refused_reasons=_reasons_of(labels, Fate.REFUSED),
        unmodelled_reasons=_reasons_of(labels, Fate.UNMODELLED),
        samples=tuple(_samples(db, numbers[0])),
        cells=tuple(cells),
        kernels=dict(kernels.most_common()),
        features=max(features, default=0),
        findings=findings,
        comparison=comparison,
        losses=tuple(_losses(db)),
        lost_chunks=tuple(aside),
        doubts=tuple(
            _doubts(
                counts, complete, aside, members, findings, never, _lost(labels, weather), _reasons_of(labels, Fate.NOT_RUN)
            )
        ),
        not_reproduced=weather,
        never_ran=never,
    )


def _members(db: sqlite3.Connection) -> Iterator[tuple[int, Member]]:
    for number, identity, created, seed, config, space, made_by, machine in db.execute(
        "SELECT * FROM campaigns ORDER BY created"
    ):
        sessions = [
            Session(*row)
            for row in db.execute(
                "SELECT began, ended, reason, workers, cluster, rules FROM sessions WHERE campaign = ? ORDER BY number",
                (number,),
            )
        ]
        (cases,) = db.execute("SELECT COALESCE(SUM(cases), 0) FROM chunks WHERE campaign = ?", (number,)).fetchone()
        yield (
            number,
            Member(
                identity=identity,
                created=created,
                seed=seed,
                config=_read(CampaignConfig, config),
                space=_read(CaseSpace, space),
                provenance=_read(Provenance, made_by),
                environment=_read(Environment, machine),
                sessions=tuple(sessions),
                cases=cases,
            ),
        )


def _read(kind: type[T], text: str) -> T:
    return from_plain(kind, json.loads(text))


def _counts(labels: Mapping[Label, int]) -> Counts:
    fates: Counter[Fate] = Counter()
    for label, count in labels.items():
        fates[label.fate] += count
    return Counts.of(fates)


def _reasons_of(labels: Mapping[Label, int], fate: Fate) -> tuple[Reason, ...]:
    return _reasons({label.text: count for label, count in labels.items() if label.fate is fate})


def _reasons(counted: Mapping[str, int]) -> tuple[Reason, ...]:
    return tuple(Reason(text, cases) for text, cases in sorted(counted.items(), key=lambda entry: (-entry[1], entry[0])))


def _samples(db: sqlite3.Connection, campaign: int) -> Iterator[Sample]:
    """Of the first campaign of a store: the time of several does not add up to one curve."""
    rows = db.execute(
        "SELECT done, cases, features, signatures FROM chunks WHERE campaign = ? ORDER BY done", (campaign,)
    ).fetchall()
    stride = max(1, len(rows) // MOST_SAMPLES)
    cases, before, at = 0, 0, 0.0
    for i, (done, count, features, signatures) in enumerate(rows):
        cases += count
        if i % stride == stride - 1 or i == len(rows) - 1:
            rate = (cases - before) / (done - at) if done > at else 0.0
            yield Sample(done, cases, rate, features, signatures)
            before, at = cases, done


def _cells(db: sqlite3.Connection, weather: Container[str]) -> Iterator[CoverageCell]:
    """weather: signatures of deaths that did not come again."""
    added: dict[tuple[int, int, int], CellCounts] = {}
    for num_head, batch, kv_len, text in db.execute("SELECT num_head, batch, kv_len, counts FROM cells"):
        added.setdefault((num_head, batch, kv_len), CellCounts()).add(CellCounts.from_row(json.loads(text)))
    for (num_head, batch, kv_len), counts in sorted(added.items()):
        once = sum(count for signature, count in counts.signatures.items() if signature in weather)
        yield CoverageCell(
            num_head,
            Span(batch, bucket_end(batch)),
            Span(kv_len, bucket_end(kv_len)),
            counts.cases,
            counts.ran,
            counts.faulty - once,
            dict(counts.kernels.most_common()),
            _reasons(counts.refused),
            tuple(sorted(signature for signature in counts.signatures if signature not in weather)),
            once,
            dict(counts.ran_as),
            dict(counts.refused_as),
            dict(counts.stopped_as),
        )


def _findings(
    db: sqlite3.Connection, members: Sequence[tuple[int, Member]], comparison: CampaignComparison | None
) -> tuple[tuple[TriagedFinding, ...], tuple[TriagedFinding, ...]]:
    """Findings, and deaths that did not come again."""
    rows: dict[str, list[tuple[FindingRow, Member]]] = {}
    for number, member in members:
        for row in read_findings(db, number):
            rows.setdefault(row.signature, []).append((row, member))
    every = [_triaged(found, comparison) for found in rows.values()]
    every.sort(key=lambda finding: (-finding.severity, -finding.count, finding.signature))
    weather = {
        signature for signature, found in rows.items() if all(is_weather(row.cause, row.reliability) for row, _ in found)
    }
    return (
        tuple(each for each in every if each.signature not in weather),
        tuple(each for each in every if each.signature in weather),
    )


def _triaged(found: Sequence[tuple[FindingRow, Member]], comparison: CampaignComparison | None) -> TriagedFinding:
    """One entry of what several campaigns say of a signature: the row that was looked into best tells of the smallest case."""
    from reprod.shrink import measure

    first, member = min(found, key=lambda entry: entry[0].first_seen)
    best, of = min(found, key=lambda entry: (not entry[0].minimal, measure(entry[0].smallest)))
    known = best.known.entry if best.known is not None else best.signature
    expected = all({best.signature, known} & set(each.config.expect) for _, each in found)  # each member speaks for itself
    standing = FindingStanding.NOT_COMPARED
    if comparison is not None:
        standing = FindingStanding.NEW if best.signature in comparison.new else FindingStanding.STILL_THERE
    return TriagedFinding(
        signature=best.signature,
        kind=best.cause.kind,
        severity=max((finding.severity for finding in best.findings), default=best.cause.severity),
        party=best.cause.party,
        stage=best.cause.stage,
        tensor=best.cause.tensor,
        message=best.cause.message,
        count=sum(row.count for row, _ in found),
        first_seen=first.first_seen,
        last_seen=max(row.last_seen for row, _ in found),
        first=first.first,
        smallest=best.smallest,
        minimal=best.minimal,
        reliability=Reliability(sum(r.reliability.shown for r, _ in found), sum(r.reliability.repeats for r, _ in found)),
        findings=best.findings,
        known=best.known,
        expected=expected,
        standing=standing,
        folder=best.folder,
        origin=f"{member.seed}/{first.chunk}/{first.position}" if first.chunk >= 0 else "an earlier campaign",
        aiter=of.config.revision,
    )


def _losses(db: sqlite3.Connection) -> Iterator[Loss]:
    for seconds, kind, worker, detail, chunk, position, case in db.execute(
        'SELECT seconds, kind, worker, detail, chunk, position, "case" FROM losses ORDER BY campaign, seconds'
    ):
        yield Loss(seconds, LossKind(kind), worker, detail, chunk, position, None if case is None else _read(Case, case))


def _doubts(
    counts: Counts,
    complete: bool,
    aside: Sequence[int],
    members: Sequence[tuple[int, Member]],
    findings: Sequence[TriagedFinding],
    never_ran: Sequence[str],
    lost: int,
    not_run: Sequence[Reason],
) -> Iterator[str]:
    """Why finding nothing would confirm less than was asked for."""
    if not counts.cases:
        yield "no case ran: it ended before the first chunk of cases was done"
    else:
        if not complete:
            yield "the campaign did not run to its end"
        if not counts.ran:
            yield f"no case ran: {_became_of(counts)}"
        yield from never_ran
    for each in findings:
        if each.of_our_own and not each.expected:
            yield (
                f"{counted(each.count, 'case')} came to no end, so nothing is known of {noun(each.count, 'it', 'them')}: "
                f"{each.message}"
            )
    if lost:
        yield f"nothing is known of {lost:,} that lost the process again and again, for no reason that showed when run alone"
    for reason in not_run[:REASONS_SAID]:
        yield f"{reason.cases:,} of {counted(counts.cases, 'case was', 'cases were')} not run: {reason.text}"
    if len(not_run) > REASONS_SAID:
        yield f"{counted(len(not_run) - REASONS_SAID, 'more reason')} why cases were not run"
    if counts.unmodelled:
        yield f"{counts.unmodelled:,} of {counted(counts.cases, 'case is', 'cases are')} not modelled"
    if aside:
        yield (
            f"{counted(len(aside), 'chunk was', 'chunks were')} set aside, because workers were lost over "
            f"{noun(len(aside), 'it', 'them')}"
        )
    for _, member in members:
        asked, limit = member.config.chunk_limit, member.config.time_limit
        seconds = sum((session.ended or session.began) - session.began for session in member.sessions)
        there = member.cases + len(aside) * member.config.cases_a_chunk
        short = asked is not None and there < asked * member.config.cases_a_chunk
        if complete and short and (limit is None or seconds < limit):
            yield f"{counted(there, 'case is', 'cases are')} there, and {member.config.cases:,} were asked for"
        if len({session.rules for session in member.sessions}) > 1:
            yield "the sources of aiterfuzz changed between two sessions of the campaign"


def _lost(labels: Mapping[Label, int], weather: Sequence[TriagedFinding]) -> int:
    """Cases whose death did not come again, and which have no other outcome."""
    once = {each.signature for each in weather}
    return sum(count for label, count in labels.items() if label.fate is Fate.DIED and label.text in once)


REASONS_SAID = 3
"""Why cases were not run, the most frequent reasons first."""


def _became_of(counts: Counts) -> str:
    """What became of cases none of which ran."""
    fates = {
        "refused": counts.refused,
        "not modelled": counts.unmodelled,
        "lost with their process": counts.died,
        "not run": counts.not_run,
    }
    return listed([f"{count:,} {fate}" for fate, count in fates.items() if count])


def _never_ran(db: sqlite3.Connection, members: Sequence[tuple[int, Member]]) -> Iterator[str]:
    """What a campaign asked for by name, of which no case of its own ran; of several, those that ran nothing."""
    for number, member in members:
        ran: dict[int, set[str]] = {}
        drawn: Counter[int] = Counter()
        refused: Counter[int] = Counter()
        for num_head, text in db.execute("SELECT num_head, counts FROM cells WHERE campaign = ?", (number,)):
            counts = CellCounts.from_row(json.loads(text))
            drawn[num_head] += counts.cases
            refused[num_head] += counts.refused.total()
            ran.setdefault(num_head, set()).update(counts.facts)
        if len(members) > 1 and not any(ran.values()):
            yield f"no case of backend {member.config.backend} with seed {member.seed} ran"
        yield from never_ran(member.config, ran, drawn, refused)


def _comparison(db: sqlite3.Connection) -> CampaignComparison | None:
    row = db.execute("SELECT value FROM notes WHERE name = ? ORDER BY campaign LIMIT 1", (COMPARED,)).fetchone()
    return None if row is None else _read(CampaignComparison, row[0])


def write_comparison(given: Path, comparison: CampaignComparison) -> None:
    """Keeps a comparison in a store that nobody writes any more."""
    db = connect(store_path(given), writing=True)
    try:
        db.execute(
            "INSERT OR REPLACE INTO notes SELECT number, ?, ? FROM campaigns ORDER BY number LIMIT 1",
            (COMPARED, dumps(comparison)),
        )
    finally:
        db.close()


def compare(now: CampaignSummary, before: CampaignSummary, store: str) -> CampaignComparison:
    """What is new, still there and gone against an earlier campaign."""
    shown = {finding.signature for finding in now.findings}
    unclear = {finding.signature for finding in now.not_reproduced}
    earlier = {finding.signature: finding for finding in before.findings}
    return CampaignComparison(
        store=store,
        created=before.members[0].created,
        cases=before.counts.cases,
        rules=before.members[0].provenance.rules,
        new=tuple(sorted(shown - set(earlier))),
        still_there=tuple(sorted(shown & set(earlier))),
        gone=tuple(
            Gone(signature, finding.severity, finding.message, finding.known)
            for signature, finding in sorted(earlier.items())
            if signature not in shown | unclear
        ),
    )
