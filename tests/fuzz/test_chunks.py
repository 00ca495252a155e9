"""Chunks on a path whose faults are known: drawn by the seed alone, each fault shown once, what is refused is counted."""

from __future__ import annotations

from collections.abc import Callable

from backend.case import Case
from backend.fate import Fate
from backend.findings import Finding, FindingKind, Party, Severity
from backend.outcome import Outcome, reported, unmodelled
from fuzz.campaign.chunks import Safe, run_chunk
from fuzz.campaign.guidance import Frozen
from fuzz.campaign.outcomes import WithinSpace
from fuzz.campaign.report import ChunkReport, Label
from fuzz.space import space
from fuzz.spec import Spec
from fuzz.strategies import CHUNK, chunk_cases
from reprod.shrink import shrink

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


def ran(path: FakePath, seed: int = 0, chunks: int = 2) -> list[ChunkReport]:
    safe = Safe(path, "model")
    return [run_chunk(chunk, chunk_cases(SPACE, seed, chunk), safe, Frozen(), keep=False) for chunk in range(chunks)]


def test_a_seed_gives_the_same_cases_and_chunks_stand_alone() -> None:
    first, again, other = FakePath(two_faults), FakePath(two_faults), FakePath(two_faults)
    ran(first), ran(again), ran(other, seed=1)
    assert first.ran == again.ran
    assert first.ran != other.ran
    assert first.ran[CHUNK:] == chunk_cases(SPACE, 0, 1)
    assert chunk_cases(SPACE, 0, 1, 17) == first.ran[CHUNK : CHUNK + 17]


def test_each_fault_is_shown_once_a_chunk_with_its_first_case_and_counted() -> None:
    path = FakePath(two_faults)
    for report in ran(path):
        cases = path.ran[report.chunk * CHUNK : (report.chunk + 1) * CHUNK]
        verdicts = [two_faults(case) for case in cases]
        assert report.fates()[Fate.REFUSED] == verdicts.count("too many heads") > 0
        for shown in report.shown:
            kind = shown.finding.kind
            assert shown.position == verdicts.index(kind)
            assert shown.case == cases[shown.position]
            label = report.labels.index(Label(Fate.FAULTY, shown.signature))
            assert report.codes.tolist().count(label) == verdicts.count(kind)
        assert {shown.finding.kind for shown in report.shown} == {v for v in verdicts if isinstance(v, FindingKind)}


def test_a_finding_that_is_only_a_refusal_is_no_fault() -> None:
    class NoKernel(FakePath):
        def run(self, case: Case) -> Outcome:
            return reported(case, (finding(FindingKind.NO_KERNEL, Severity.REFUSED),), "no row")

    (report,) = ran(NoKernel(two_faults), chunks=1)
    assert report.labels == (Label(Fate.REFUSED, "no row"),)
    assert not report.shown


def test_shrinking_stays_within_what_was_asked_for() -> None:
    tp2 = space(Spec("sglang-27188", shapes=("tp2",)))
    path = FakePath(lambda case: FindingKind.HEAD_WIDTH)
    shrunk = shrink(chunk_cases(tp2, 0, 0)[7], WithinSpace(path, tp2), "head-width/a planted fault")
    assert shrunk.case.num_head == 64
    assert shrunk.case.kv_lens == (1,)


def test_an_error_of_our_own_is_told_from_a_fault() -> None:
    def broken(case: Case) -> None:
        raise ZeroDivisionError

    (report,) = ran(FakePath(broken), chunks=1)
    assert report.fates() == {Fate.DIED: CHUNK}
    assert "raised ZeroDivisionError in test_chunks.py:broken" in report.shown[0].finding.message


def test_what_is_not_modelled_is_counted_apart_and_shrinking_goes_round_it() -> None:
    class Partly(FakePath):
        def run(self, case: Case) -> Outcome:
            return unmodelled(case, "two rows") if case.max_seqlen_q == 2 else super().run(case)

    def rule(case: Case) -> FindingKind | None:
        return FindingKind.HEAD_WIDTH if case.max_seqlen_q > 2 and case.num_head == 32 else None

    path = Partly(rule)
    (report,) = ran(path, chunks=1)
    assert report.fates()[Fate.UNMODELLED] == sum(case.max_seqlen_q == 2 for case in chunk_cases(SPACE, 0, 0)) > 0
    (shown,) = report.shown
    assert shrink(shown.case, WithinSpace(path, SPACE), shown.signature).case.max_seqlen_q == 3
