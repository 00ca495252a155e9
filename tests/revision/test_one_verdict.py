"""Whoever asks about a revision gets the same answer: a campaign's process, the gate of a rule, bisect."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

from backend.aiter.codefiles import open_source
from backend.aiter.release import release
from backend.case import RELEASES, Arch, Case, DType
from backend.errors import UsageError
from backend.fate import ENDS_PROCESS
from backend.host import Basis
from backend.outcome import Outcome
from backend.path import Path as CasePath
from backend.revision.revision import Revision, host_of
from fuzz.gate.policy import gate_policy
from fuzz.space import space
from fuzz.spec import Spec
from reprod.bisect import RevisionTrials, TrialVerdict, try_revision

SHAPES = tuple(
    itertools.product(
        (64, 32),
        (1, 2, 4),
        (
            (Arch.GFX950, DType.FP8, DType.FP8),
            (Arch.GFX950, DType.BF16, DType.FP8),
            (Arch.GFX950, DType.BF16, DType.BF16),
            (Arch.GFX942, DType.BF16, DType.FP8),
            (Arch.GFX942, DType.BF16, DType.BF16),
        ),
    )
)


def case_of(heads: int, queries: int, tensors: tuple[Arch, DType, DType]) -> Case:
    arch, q, kv = tensors
    lengths = (700, 33, 5000, 4)
    return Case(
        num_head=heads,
        kv_lens=lengths,
        max_seqlen_q=queries,
        q_dtype=q,
        kv_dtype=kv,
        arch=arch,
        release="2026-06",
        backend="sglang-27188",
    )


def said(outcome: Outcome) -> tuple[object, ...]:
    """What a person is told of it."""
    return outcome.fate, None if outcome.cause is None else outcome.cause.signature, outcome.refused


@pytest.mark.checkout
@pytest.mark.slow
@pytest.mark.parametrize("revision", ["v0.1.9", "v0.1.12.post1", "v0.1.14"])
def test_run_gate_and_bisect(aiter_checkout: Path, revision: str) -> None:
    """sglang's rule of #27188 over TP2 and TP4; work_info_set is as large as v0.1.9's own sizing makes it."""
    where = f"{aiter_checkout}@{revision}"
    path = CasePath(host_of(open_source(where)))
    outcomes = {shape: path.run(case_of(*shape)) for shape in SHAPES}
    assert any(outcome.observation is not None for outcome in outcomes.values())
    assert not any(
        "work_info_set" in finding.signature and "write" in finding.signature
        for outcome in outcomes.values()
        for finding in outcome.findings
    )
    for shape, outcome in outcomes.items():
        trials = RevisionTrials(str(aiter_checkout), case_of(*shape))
        assert said(trials(revision)[0]) == said(outcome)
        if outcome.faulty and outcome.cause is not None:
            assert try_revision(revision, outcome.cause, trials, repeats=1).verdict is TrialVerdict.BAD
    gated = gate_policy(space(Spec(heads=(64, 32))), None, CasePath(host_of(open_source(where))), 2.5, 1)
    for fault in gated.faults:
        outcome = path.run(fault.smallest)
        assert (outcome.faulty, outcome.cause and outcome.cause.signature) == (True, fault.signature)
    seen = {outcome.cause.signature for outcome in outcomes.values() if outcome.faulty and outcome.cause is not None}
    assert seen <= {fault.signature for fault in gated.faults}


@pytest.mark.checkout
def test_switches_are_a_revision_of_their_own(aiter_checkout: Path) -> None:
    """e4048607a5 is built in byte for byte; with a switch that its text asks for it is evaluated; another one is refused."""
    plain = host_of(open_source(f"{aiter_checkout}@e4048607a5"))
    switched = host_of(open_source(f"{aiter_checkout}@e4048607a5,AITER_ENABLE_EXPERIMENTAL=1"))
    assert isinstance(plain, Revision)
    assert isinstance(switched, Revision)
    assert "byte for byte" in (plain.warning() or "")
    assert "evaluated" in (switched.warning() or "")
    decided = CasePath(plain).call(Case(num_head=16, kv_lens=(40,), release="2026-08"))
    assert not isinstance(decided, Outcome)
    assert set(plain.bases(decided.decision).values()) == {Basis.BUILT_IN}
    with pytest.raises(UsageError, match="AITER_MLA_META_PARALLEL"):
        host_of(open_source(f"{aiter_checkout}@e4048607a5,AITER_MLA_META_PARALLEL=0"))
    with pytest.raises(UsageError, match="AITER_NAME=VALUE"):
        open_source(f"{aiter_checkout}@e4048607a5,EXPERIMENTAL=1")


@pytest.mark.checkout
@pytest.mark.parametrize(("revision", "ends"), [("v0.1.19", False), ("e4048607a5,AITER_ENABLE_EXPERIMENTAL=0", True)])
def test_a_failed_check_of_the_planner_raises_or_ends_the_process(aiter_checkout: Path, revision: str, ends: bool) -> None:
    """c16d44b93 took torch out of the planners, whose checks abort since."""
    path = CasePath(host_of(open_source(f"{aiter_checkout}@{revision}")))
    case = Case(num_head=8, kv_lens=(40,), q_dtype=DType.FP8, kv_dtype=DType.FP8, release="2026-08", backend="direct")
    refused = path.run(case).refused
    assert "get_mla_metadata_v1_2_device: only supports #heads in [16, 64, 128]" in (refused or "")
    assert ("ends the process" in (refused or "")) == ends


REFUSED = {
    "no kernel for nine queries": {"num_head": 16, "kv_lens": (90,), "max_seqlen_q": 9, "kv_dtype": DType.FP8},
    "no plan for 8 heads": {"num_head": 8, "kv_lens": (40,), "q_dtype": DType.FP8, "kv_dtype": DType.FP8},
    "no plan for 24 heads": {"num_head": 24, "kv_lens": (40,)},
}


@pytest.mark.checkout
@pytest.mark.parametrize("name", RELEASES)
def test_built_in_rules_end_the_process_where_the_text_does(aiter_checkout: Path, name: str) -> None:
    """The launcher's checks abort from a6bb49937 on, the planners' from c16d44b93 on; a switch has the text evaluated."""
    source = open_source(f"{aiter_checkout}@{release(name).commit}")
    built_in, evaluated = CasePath(), CasePath(Revision(source, {"AITER_ENABLE_EXPERIMENTAL": "0"}))
    seen: list[bool] = []
    for said, fields in REFUSED.items():
        case = Case(**fields, release=name, backend="direct")  # type: ignore[arg-type]
        refused = [path.run(case).refused for path in (built_in, evaluated)]
        ends = [each is not None and ENDS_PROCESS in each for each in refused]
        assert (refused[0] is None, ends[0]) == (refused[1] is None, ends[1]), (said, refused)
        seen += [ends[0]] if refused[0] is not None else []
    assert seen
    assert any(seen) == (name != "2025-11")
