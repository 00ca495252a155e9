"""Bisection: the search on made-up histories, real host code of AITER against the built-in rules, and the founding fault."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest

from backend.aiter.arguments import BufferSizes, DecodeArguments, SizingArguments, TargetGpu
from backend.aiter.codefiles import open_source
from backend.aiter.fold import fold_heads
from backend.aiter.release import release
from backend.case import NUM_CU, RELEASES, Arch, Case, DType, MetadataMode
from backend.errors import CannotRunError, UsageError
from backend.findings import Finding, FindingKind, Party, Severity
from backend.host import Doubt, Part
from backend.outcome import Outcome, reported
from backend.path import Path as CasePath
from backend.revision.decode import executed_decode
from backend.revision.host_code import (
    DECODE_FILE,
    SIZING_FILE,
    HostCodeError,
    RefusedByHostCode,
    executed_sizes,
)
from backend.revision.revision import PLANNER_FILES, SAME_PLANNERS, Revision, spelled_alike
from fuzz.cli import main
from reprod.bisect import (
    Bisection,
    RevisionTrials,
    Trial,
    TrialVerdict,
    bisect,
    bisection_lines,
    same_fault,
    try_revision,
    wanted_of,
)
from reprod.history import Commit, commit, commits_between

FOUNDING = Case(num_head=64, kv_lens=(1,), backend="sglang-before-27188")

FAULT = Finding(FindingKind.HEAD_WIDTH, Severity.WRITE, Party.CALLER, "planner v1_0", "", "x")


def outcome(*findings: Finding) -> Outcome:
    return reported(FOUNDING, findings, None)


def history(states: str) -> tuple[list[str], Callable[[str], Trial]]:
    """One revision a letter: g good, b bad, o another fault, ? unknown."""
    names = [f"r{i}" for i in range(len(states))]
    verdicts = {"g": TrialVerdict.GOOD, "b": TrialVerdict.BAD, "o": TrialVerdict.OTHER, "?": TrialVerdict.SKIPPED}
    return names, lambda name: Trial(name, verdicts[states[int(name[1:])]], "", (), 1, True)


def search(states: str) -> Bisection:
    names, attempt = history(states)
    return bisect(names[1:], names[0], names[-1], attempt)


@pytest.mark.parametrize("length", range(2, 12))
def test_every_boundary_is_found_in_logarithmic_time(length: int) -> None:
    for first in range(1, length):
        found = search("g" * first + "b" * (length - first))
        assert (found.changed, found.before, found.exact) == (f"r{first}", f"r{first - 1}", True)
        assert len(found.trials) <= 3 + np.log2(length)


@pytest.mark.parametrize(
    ("states", "first_bad", "last_good", "between"),
    [
        ("g?b", "r2", "r0", ("r1",)),
        ("gg??bb", "r4", "r1", ("r2", "r3")),
        ("g?gb?b", "r3", "r2", ()),
        ("goob", "r3", "r2", ()),
        ("g??????b", "r7", "r0", tuple(f"r{i}" for i in range(1, 7))),
    ],
)
def test_what_cannot_be_judged_makes_a_range_and_never_a_guess(
    states: str, first_bad: str, last_good: str, between: tuple[str, ...]
) -> None:
    found = search(states)
    assert (found.changed, found.before, found.between) == (first_bad, last_good, between)


@pytest.mark.parametrize(
    ("states", "said"), [("bb", "--good r0: shows the fault"), ("gg", "--bad r1: silent"), ("g?", "--bad r1")]
)
def test_ends_that_are_not_what_they_should_be(states: str, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        search(states)


def test_a_fault_that_comes_and_goes_is_bad_and_not_steady() -> None:
    shown = iter([outcome(), outcome(FAULT), outcome()])
    trial = try_revision("r", FAULT, lambda _: (next(shown), ()))
    assert (trial.verdict, trial.steady, trial.tries) == (TrialVerdict.BAD, False, 3)


def judged(party: Party, parts: Sequence[Part], nearest: bool = False) -> TrialVerdict:
    wanted = Finding(FindingKind.OUT_OF_BOUNDS_READ, Severity.READ, party, "k.co", "q", "x")
    unknown = [Doubt(part, "unknown") for part in parts]
    return try_revision("r", wanted, lambda _: (outcome(wanted), unknown), nearest=nearest).verdict


def test_doubts_count_where_the_fault_depends_on_them() -> None:
    assert judged(Party.PLANNER, [Part.LAUNCHER]) is TrialVerdict.BAD
    assert judged(Party.CALLER, [Part.PLANNER]) is TrialVerdict.SKIPPED
    assert judged(Party.KERNEL, [Part.LAUNCHER]) is TrialVerdict.SKIPPED
    assert judged(Party.KERNEL, []) is TrialVerdict.BAD
    assert judged(Party.KERNEL, [Part.LAUNCHER], nearest=True) is TrialVerdict.BAD


def test_a_refusal_by_a_launcher_that_is_not_its_own_is_no_evidence() -> None:
    """fp8 with 16 heads and 5 rows: the launcher of 2026-06 refuses; whether another revision's does is not known."""
    refused = CasePath().run(Case(num_head=16, kv_lens=(9,), max_seqlen_q=5, backend="direct"))
    assert refused.refused is not None
    own = try_revision("r", FAULT, lambda _: (refused, ()))
    stands_in = try_revision("r", FAULT, lambda _: (refused, [Doubt(Part.LAUNCHER, "unknown")]))
    assert (own.verdict, stands_in.verdict) == (TrialVerdict.REFUSED, TrialVerdict.SKIPPED)


def test_a_revision_that_cannot_run_is_skipped_with_its_reason() -> None:
    def fails(_: str) -> tuple[Outcome, tuple[Doubt, ...]]:
        raise CannotRunError("no such code object")

    trial = try_revision("r", FAULT, fails)
    assert (trial.verdict, trial.detail) == (TrialVerdict.SKIPPED, "no such code object")


def test_a_renamed_kernel_is_the_same_fault_and_another_tensor_is_not() -> None:
    wanted = Finding(FindingKind.OUT_OF_BOUNDS_READ, Severity.READ, Party.KERNEL, "a.co", "q", "x")
    assert same_fault(wanted, Finding(wanted.kind, wanted.severity, wanted.party, "b.co", "q", "y"))
    assert not same_fault(wanted, Finding(wanted.kind, wanted.severity, wanted.party, "a.co", "o", "x"))
    assert not same_fault(wanted, Finding(wanted.kind, wanted.severity, wanted.party, "mla_reduce_v1", "q", "x"))
    assert not same_fault(wanted, None)


def test_the_answer_names_the_commit_or_says_that_it_is_a_range() -> None:
    names = [Commit(f"r{i}", "2026-04-08", f"subject {i}") for i in range(4)]
    exact, ranged = list(bisection_lines(search("ggbb"), names)), list(bisection_lines(search("g??b"), names))
    assert exact[0] == "first bad: r2 (2026-04-08, subject 2)"
    assert exact[1] == "before it, r1 (2026-04-08, subject 1): silent"
    assert ranged[0] == "between r0 (2026-04-08, subject 0): silent; and r3 (2026-04-08, subject 3): shows the fault"
    assert ranged[1].startswith("2 revisions between the two cannot be judged")


def test_host_code_that_is_not_provided_for_ends_the_run() -> None:
    device = TargetGpu(Arch.GFX950, 256)
    arguments = SizingArguments(1, 1, 16, DType.FP8, DType.FP8, False, True, 32, False)
    parameters = "batch_size, max_seqlen_qo, num_head_qo, q_dtype, kv_dtype, is_sparse, fast_mode=True, num_kv_splits=32"
    for body, wanted in (
        ("return unheard_of(3)", HostCodeError),
        ("if something.else_entirely: return 1", HostCodeError),
        ("return open('/etc/passwd')", HostCodeError),
        ("import os\n    return os", HostCodeError),
        ("assert num_head_qo % 32 == 0, 'no'", RefusedByHostCode),
    ):
        with pytest.raises(wanted):
            executed_sizes(f"def get_mla_metadata_info_v1({parameters}):\n    {body}\n", device, arguments)
    with pytest.raises(HostCodeError, match="defines no"):
        executed_sizes("x = 1", device, arguments)


@pytest.fixture(params=RELEASES)
def named_release(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


def text_of(checkout: Path, name: str, path: str) -> str:
    content = open_source(f"{checkout}@{release(name).commit}").read(path)
    assert content is not None
    return content.decode()


@pytest.mark.checkout
def test_sizing_and_fold_executed_are_those_that_are_built_in(aiter_checkout: Path, named_release: str) -> None:
    sizing, decode = (text_of(aiter_checkout, named_release, path) for path in (SIZING_FILE, DECODE_FILE))
    compared, rules = 0, release(named_release)
    for arch, q, kv, heads, qlen in itertools.product(Arch, DType, DType, (8, 16, 32, 48, 64, 96, 112, 128), (1, 2, 3, 4, 5)):
        device = TargetGpu(arch, NUM_CU[arch])
        for fast, intra in ((True, False), (False, True), (False, False)):
            arguments = SizingArguments(7, qlen, heads, q, kv, False, fast, 64, intra)
            answer = rules.sizing(device, arguments)
            built_in = None if isinstance(answer, str) else answer
            assert sizes_or_none(sizing, device, arguments) == built_in
        folded = fold_heads(rules.fold, device, q, kv, heads, qlen, True)
        built_in_fold = None if folded is None else (7 * qlen * folded.fold, folded.heads_in_kernel, qlen)
        assert stage1_or_none(decode, device, decode_arguments(heads, qlen, q, kv)) == built_in_fold
        compared += 1
    assert compared == 2 * 2 * 2 * 8 * 5


def sizes_or_none(text: str, device: TargetGpu, arguments: SizingArguments) -> BufferSizes | None:
    try:
        return executed_sizes(text, device, arguments)
    except RefusedByHostCode:
        return None


def stage1_or_none(text: str, device: TargetGpu, arguments: DecodeArguments) -> tuple[int, int, int] | None:
    try:
        shown = executed_decode(text, "", device, arguments, {}, lambda _: None)
    except RefusedByHostCode:
        return None
    assert shown.stage1 is not None
    q = shown.stage1[0]
    return q.shape[0], q.shape[1], shown.stage1[10]


def decode_arguments(heads: int, qlen: int, q: DType, kv: DType) -> DecodeArguments:
    indptr = np.arange(8, dtype=np.int32)
    pages, ones = np.arange(7, dtype=np.int32), np.ones(7, np.int32)
    sizes = BufferSizes(257, 64, 8, 16, 64)
    return DecodeArguments(7 * qlen, heads, 7, 1, q, kv, indptr * qlen, indptr, pages, ones, qlen, sizes, 64, False)


@pytest.mark.checkout
@pytest.mark.parametrize("recognised", [True, False])
def test_a_release_by_its_revision_is_the_release(aiter_checkout: Path, named_release: str, recognised: bool) -> None:
    """Same calls, same findings, no doubts, be it recognised as built in or evaluated from its text."""
    host = Revision(open_source(f"{aiter_checkout}@{release(named_release).commit}"))
    if not recognised:
        host._built_in = None
    revision = CasePath(host)
    built_in = CasePath()
    for heads, kv, mode in itertools.product((16, 48, 64, 128), DType, (MetadataMode.FAST, MetadataMode.FAKE, None)):
        case = Case(num_head=heads, kv_lens=(1, 700), kv_dtype=kv, release=named_release, mode=mode)
        one, other = built_in.run(case), revision.run(case)
        assert other.decision is None or not host.doubts(other.decision)
        assert [f.signature for f in one.findings] == [f.signature for f in other.findings]
        assert [dict(f.evidence) for f in one.findings] == [dict(f.evidence) for f in other.findings]
        assert (one.refused is None) == (other.refused is None)


@pytest.mark.checkout
def test_planner_spellings_are_those_of_the_releases(aiter_checkout: Path) -> None:
    found = {}
    for name, path in itertools.product(RELEASES, PLANNER_FILES.values()):
        content = open_source(f"{aiter_checkout}@{release(name).commit}").read(path)
        if content is not None:
            found[spelled_alike(content.decode())] = name
    assert found == SAME_PLANNERS


def test_spelling_is_no_meaning() -> None:
    one = "// a comment\n#include <x.h>\nint a = ck_tile::min( b,\n  c ); /* more */"
    assert spelled_alike(one) == spelled_alike("int a=opus::min(b,c);")
    assert spelled_alike(one) != spelled_alike("int a=opus::max(b,c);")


@pytest.mark.checkout
def test_the_commit_that_made_64_heads_fault(aiter_checkout: Path) -> None:
    """aiter#2636 made 64 heads native on gfx950, which sglang's gate did not know."""
    checkout = str(aiter_checkout)
    good, bad = commit(checkout, "5e4c537c6b"), commit(checkout, release("2026-06").commit)
    commits = commits_between(checkout, good.name, bad.name)
    judge = RevisionTrials(checkout, FOUNDING)
    wanted = wanted_of(judge(bad.name)[0], FOUNDING)
    found = bisect([c.name for c in commits], good.name, bad.name, lambda name: try_revision(name, wanted, judge))
    assert found.exact
    assert found.steady
    assert found.changed.startswith("899002193c")
    assert found.before.startswith("6416c6f512")
    assert len(found.trials) < len(commits) / 3


@pytest.mark.checkout
def test_the_command_names_it(aiter_checkout: Path, capsys: pytest.CaptureFixture[str]) -> None:
    entry = Path(__file__).parents[2] / "corpus" / "F1-head-gate-64.json"
    code = main(["bisect", str(entry), "--aiter", str(aiter_checkout), "--good", "6416c6f512", "--bad", "22db4ebb70"])
    shown = capsys.readouterr().out
    assert code == 0
    assert "looking for: head-width/planner v1_0" in shown
    assert "first bad: 899002193c (2026-04-08, Replace qseqlen fold with native qh64 kernel" in shown


@pytest.mark.checkout
def test_history_is_checked(aiter_checkout: Path, capsys: pytest.CaptureFixture[str]) -> None:
    entry = str(Path(__file__).parents[2] / "corpus" / "F1-head-gate-64.json")
    checkout = ["--aiter", str(aiter_checkout)]
    assert main(["bisect", entry, *checkout, "--good", "5e4c537c6b", "--bad", "6416c6f512^"]) == 0
    assert "first bad: ce27de0132 (2026-03-26, Add LSE output support for MLA decode" in capsys.readouterr().out
    assert main(["bisect", entry, *checkout, "--good", "unheard-of", "--bad", "6416c6f512"]) == 2
    assert main(["bisect", entry, *checkout, "--good", "6416c6f512"]) == 2
    assert "--bad missing" in capsys.readouterr().err
    assert main(["bisect", entry, *checkout, "--backend-sources", "sglang==0.5.13"]) == 2
    assert main(["bisect", entry + ".absent", *checkout, "--good", "a", "--bad", "b"]) == 2
