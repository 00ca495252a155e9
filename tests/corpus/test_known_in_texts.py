"""What is printed of a known fault, its party and its contract, is what its entry says, not what rules make of it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from backend.outcome import Outcome
from backend.path import Path as CasePath
from fuzz.provenance import provenance
from reprod.blame import blame
from reprod.corpus import CorpusEntry, Side, load_corpus
from reprod.explain import explain_text
from reprod.folder import EXPLAIN, ISSUE
from reprod.issue import Evidence, issue_text
from reprod.known import known_as
from reprod.reference import KnownReference
from reprod.sweep import SweptSurroundings

CORPUS = Path(__file__).parents[2] / "corpus"

ENTRIES = {entry.id: entry for entry in load_corpus(CORPUS)}

OTHERWISE_BY_RULE = {"F9", "O20", "O21", "O23", "O26", "O29", "O33", "O34", "O37", "O39", "O41"}
"""Entries whose contract rules alone would tell otherwise: nobody but who read the sources knows it."""


def shown_sides() -> Iterator[tuple[CorpusEntry, Side, Outcome]]:
    """Every side that the built-in model shows as its entry says; others need a checkout, or numbers."""
    path = CasePath()
    for entry in ENTRIES.values():
        for side in entry.faulty:
            outcome = path.run(next(side.cases()))
            if outcome.cause is not None and side.expect[0].same_place(outcome.cause):
                yield entry, side, outcome


@pytest.fixture(scope="module")
def shown() -> list[tuple[CorpusEntry, Side, Outcome]]:
    return list(shown_sides())


def test_party_and_contract_are_the_entrys(shown: list[tuple[CorpusEntry, Side, Outcome]]) -> None:
    assert len({entry.id for entry, _, _ in shown}) >= 40
    by_rule = set()
    for _, side, outcome in shown:
        known = known_as(outcome)
        if known is None:  # mended at this release, so that meeting it is news
            continue
        found, entry = blame(outcome, known), ENTRIES[known.entry]
        assert found.verdict is entry.verdict, (known.entry, outcome.case)
        assert side.expect[0].party in (None, found.party), (known.entry, outcome.case)
        if blame(outcome).verdict is not entry.verdict:
            by_rule.add(known.entry)
    assert by_rule == OTHERWISE_BY_RULE


def test_texts_tell_the_entrys(shown: list[tuple[CorpusEntry, Side, Outcome]]) -> None:
    first = {entry.id: outcome for entry, _, outcome in reversed(shown)}
    for name in OTHERWISE_BY_RULE:
        outcome, known = first[name], known_as(first[name])
        assert known is not None
        assert known.entry == name
        verdict = ENTRIES[name].verdict.value
        assert f"\n  contract: {verdict}\n" in explain_text(outcome, known=known)
        assert f"\n* {verdict}: " in issue_text(outcome, evidence(known), provenance("model", ["2026-08"], None))
        unknown = issue_text(outcome, evidence(None), provenance("model", ["2026-08"], None))
        assert f"\n* {blame(outcome).verdict.value}: " in unknown
        assert f"\n* {verdict}: " not in unknown


def evidence(known: KnownReference | None) -> Evidence:
    return Evidence(SweptSurroundings((), (), {}), "", None, None, "", known=known)


def test_folders_tell_the_entrys() -> None:
    folders = sorted(path for path in (CORPUS / "findings").iterdir() if path.is_dir())
    assert folders
    for folder in folders:
        entry = next(entry for entry in ENTRIES.values() if any(folder.name in line for line in entry.about))
        told = (folder / EXPLAIN).read_text(encoding="utf-8")
        assert f"\nknown: {entry.id}, " in told
        assert f"\n  contract: {entry.verdict.value}\n" in told
        assert f"Known to it as {entry.id}, " in (folder / ISSUE).read_text(encoding="utf-8")
        signature = told.partition("\n  signature: ")[2].partition("\n")[0]
        side = next(side for side in entry.faulty if side.signature == signature)
        kind, party = side.expect[0].kind.value, side.expect[0].party
        assert f"] {kind} ({party.value if party is not None else ''}" in told
