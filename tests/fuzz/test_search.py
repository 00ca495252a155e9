"""The search on a path whose faults are known: deterministic, each fault once, what is refused is counted, budgets hold."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from backend.case import Case
from backend.errors import UsageError
from backend.findings import Finding, FindingKind, Party, Severity
from backend.outcome import Outcome, reported, unmodelled
from fuzz.search import CHUNK, Budget, Event, Found, Ran, Search, Started, case_at, chunk_cases
from fuzz.space import space
from fuzz.spec import Spec

SPACE = space(Spec("sglang-27188"))


def finding(kind: FindingKind, severity: Severity = Severity.WRITE) -> Finding:
    return Finding(kind, severity, Party.PLANNER, "a planted fault", "", "planted")


class FakePath:
    """Shows what `rule` says of a case: a kind of fault, a reason to refuse it, or nothing."""

    def __init__(self, rule: Callable[[Case], FindingKind | str | None]) -> None:
        self.rule = rule
        self.ran: list[Case] = []

    def run(self, case: Case) -> Outcome:
        self.ran.append(case)
        verdict = self.rule(case)
        if isinstance(verdict, FindingKind):
            return reported(case, (finding(verdict),), None)
        return reported(case, (), verdict)


def two_faults(case: Case) -> FindingKind | str | None:
    if case.num_head == 64 and max(case.kv_lens) >= 197:
        return FindingKind.HEAD_WIDTH
    if case.max_seqlen_q == 5 and case.batch >= 3:
        return FindingKind.SHORT_PIECE
    return "too many heads" if case.num_head == 128 else None


def events(path: FakePath, seed: int = 0, cases: int = 2 * CHUNK + 1) -> tuple[list[Event], Search]:
    search = Search(SPACE, path, seed)
    return list(search.events(Budget(cases=cases))), search


def test_a_seed_gives_the_same_events_and_chunks_stand_alone() -> None:
    first, _ = events(FakePath(two_faults))
    again, _ = events(FakePath(two_faults))
    other, _ = events(FakePath(two_faults), seed=1)
    cases = [event.case for event in first if isinstance(event, Started)]
    assert cases == [event.case for event in again if isinstance(event, Started)]
    assert cases != [event.case for event in other if isinstance(event, Started)]
    assert cases[CHUNK : 2 * CHUNK] == chunk_cases(SPACE, 0, 1)
    for event in first:
        if isinstance(event, Started) and event.number % 97 == 0:
            assert case_at(SPACE, 0, event.chunk, event.position) == event.case


def test_each_fault_is_found_once_shrunk_and_counted() -> None:
    path = FakePath(two_faults)
    happened, search = events(path)
    found = {event.fault.signature: event.fault for event in happened if isinstance(event, Found)}
    assert set(found) == {"head-width/a planted fault", "short-piece/a planted fault"} == set(search.tally.faults)
    heads, piece = found["head-width/a planted fault"], found["short-piece/a planted fault"]
    assert heads.shrunk.case == heads.first.replace(
        num_head=64, kv_lens=(197,), max_seqlen_q=1, graph_batch=None, max_batch=None, first_page=0, num_cu=0,
        page_order=heads.shrunk.case.page_order, q_dtype=heads.shrunk.case.q_dtype, kv_dtype=heads.shrunk.case.kv_dtype,
    )  # fmt: skip
    assert piece.shrunk.case.kv_lens == (1, 1, 1)
    assert piece.shrunk.case.max_seqlen_q == 5
    cases = [event.case for event in happened if isinstance(event, Started)]
    for fault, kind in ((heads, FindingKind.HEAD_WIDTH), (piece, FindingKind.SHORT_PIECE)):
        assert fault.count == sum(two_faults(case) is kind for case in cases)
        assert two_faults(cases[fault.number - 1]) is kind
        assert not any(two_faults(case) is kind for case in cases[: fault.number - 1])


def test_a_case_is_announced_before_it_runs_and_reported_after() -> None:
    path = FakePath(two_faults)
    search = Search(SPACE, path, 3)
    for event in search.events(Budget(cases=20)):
        if isinstance(event, Started):
            assert event.case not in path.ran[-1:]
            assert event.number == search.tally.cases + 1
        if isinstance(event, Ran):
            assert event.outcome is not None
            assert event.outcome.case is path.ran[-1]
            assert event.number == search.tally.cases


def test_refusals_are_counted_by_reason_and_are_no_faults() -> None:
    happened, search = events(FakePath(two_faults))
    refused = [event.refused for event in happened if isinstance(event, Ran) and event.refused is not None]
    assert search.tally.refused == {"too many heads": len(refused)}
    assert refused
    assert search.tally.ran == search.tally.cases - len(refused)


def test_a_finding_that_is_only_a_refusal_is_no_fault() -> None:
    class NoKernel(FakePath):
        def run(self, case: Case) -> Outcome:
            return reported(case, (finding(FindingKind.NO_KERNEL, Severity.REFUSED),), "no row")

    _, search = events(NoKernel(two_faults), cases=5)
    assert search.tally.refused == {"no row": 5}
    assert not search.tally.faults


def test_shrinking_stays_within_what_was_asked_for() -> None:
    tp2 = space(Spec("sglang-27188", shapes=("tp2",)))
    search = Search(tp2, FakePath(lambda case: FindingKind.HEAD_WIDTH), 0)
    list(search.events(Budget(cases=1)))
    (fault,) = search.tally.faults.values()
    assert fault.shrunk.case.num_head == 64
    assert fault.shrunk.case.kv_lens == (1,)


def test_budgets() -> None:
    clean = FakePath(lambda case: None)
    assert len(Search(SPACE, clean, 0).tally.refused) == 0
    assert sum(isinstance(event, Ran) for event in Search(SPACE, clean, 0).events(Budget(cases=7))) == 7
    assert not list(Search(SPACE, clean, 0).events(Budget(seconds=1e-9)))
    for wrong in ({}, {"cases": 0}, {"seconds": -1.0}):
        with pytest.raises(UsageError, match="of the search"):
            Budget(**wrong)


def test_a_crash_of_our_own_names_its_case() -> None:
    def broken(case: Case) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError) as raised:
        list(Search(SPACE, FakePath(broken), 0).events(Budget(cases=5)))
    assert "while running case 1:" in raised.value.__notes__[0]
    assert '"kv_lens": [1]' in raised.value.__notes__[0]


def test_what_is_not_modelled_is_counted_apart_and_does_not_stop_the_search() -> None:
    class Partly(FakePath):
        def run(self, case: Case) -> Outcome:
            return unmodelled(case, "two rows") if case.max_seqlen_q == 2 else super().run(case)

    def rule(case: Case) -> FindingKind | None:
        return FindingKind.HEAD_WIDTH if case.max_seqlen_q > 2 and case.num_head == 32 else None

    happened, search = events(Partly(rule))
    reasons = [event.unmodelled for event in happened if isinstance(event, Ran) and event.unmodelled is not None]
    assert search.tally.unmodelled == {"two rows": len(reasons)}
    assert reasons
    assert search.tally.ran == search.tally.cases - len(reasons)
    (fault,) = search.tally.faults.values()
    assert fault.shrunk.case.max_seqlen_q == 3  # shrinking meets the unmodelled case and goes round it
