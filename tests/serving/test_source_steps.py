"""Recorded steps through the checks: what the real files of three releases bring, and what a changed file contradicts."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from backend.aiter.launch import Refusal
from backend.case import DType
from backend.checks.check import check, check_call
from backend.codec import from_plain, to_plain
from backend.decision import Decision
from backend.devices.kinds import open_device
from backend.findings import FindingKind
from backend.host import BuiltIn
from backend.real.frameworks.fetch import open_source
from backend.real.frameworks.record import Phase, RecordedStep
from backend.real.frameworks.scenarios import BackendConfig, Scenario, Step, StepKind
from backend.real.frameworks.session import SourceSession
from backend.real.frameworks.steps import RECORDED, PassedBuffers, decision_of, disagreements
from tests.kept_sources import KeptSources, Sessions
from tests.scenes import graph_decode
from tests.tiers import one_of_each

BEFORE, AFTER, LATEST = "sglang==0.5.12.post1", "sglang==0.5.13", "sglang==0.5.23"
FP8, BF16 = DType.FP8, DType.BF16


@pytest.fixture(scope="module")
def sessions(kept_sources: KeptSources) -> Iterator[dict[str, SourceSession]]:
    opened = Sessions(kept_sources)
    yield opened
    opened.close()


def findings(step: RecordedStep) -> set[FindingKind]:
    made = PassedBuffers(BuiltIn(), step).call(decision_of(step, RECORDED))
    if isinstance(made.launch, Refusal):
        return {finding.kind for finding in check_call(made)}
    return {finding.kind for finding in check(open_device("model", None).observe(made))}


def scenario(heads: int, kv: DType, draft_tokens: int | None) -> Scenario:
    kind = StepKind.DECODE if draft_tokens is None else StepKind.TARGET_VERIFY
    config = BackendConfig(heads, kv, kv, draft_tokens=draft_tokens, max_requests=4, graph_batches=(1, 4))
    steps = (Step(kind, (5, 600)), Step(kind, (5, 6, 700), graph=True))
    return Scenario(f"{heads} {kv} {draft_tokens}", (config,), steps)


FAULTY = {
    BEFORE: {(64, FP8), (64, BF16), (48, BF16), (96, BF16)},
    AFTER: {(48, BF16), (96, BF16)},
    LATEST: {(48, BF16), (96, BF16)},
}
"""Heads and KV dtype that are planned in another width than they are launched in, on gfx950 with AITER 2026-06."""


@pytest.mark.parametrize("wheel", one_of_each([AFTER, BEFORE, LATEST]))
@pytest.mark.parametrize("draft_tokens", [None, 2])
def test_what_each_release_brings(sessions: dict[str, SourceSession], wheel: str, draft_tokens: int | None) -> None:
    for heads in (8, 16, 32, 48, 64, 96, 128):
        for kv in (FP8, BF16):
            recording = sessions[wheel].run(scenario(heads, kv, draft_tokens))
            assert not recording.failed
            for phase in Phase:
                found = set().union(*(findings(step) for step in recording.steps if step.phase is phase))
                assert (FindingKind.HEAD_WIDTH in found) == ((heads, kv) in FAULTY[wheel]), (heads, kv, phase)
                assert bool(found) == ((heads, kv) in FAULTY[wheel]), (heads, kv, phase, found)
            assert not [d for step in recording.steps for d in disagreements(step)]


@pytest.mark.parametrize(
    ("wheel", "heads", "faulty"), one_of_each([(AFTER, 16, True), (LATEST, 16, True), (AFTER, 64, False)], lambda row: row[2])
)
def test_an_eager_step_raises_the_splits_of_later_replays(
    sessions: dict[str, SourceSession], wheel: str, heads: int, faulty: bool
) -> None:
    """DP attention: graph buffers are sized with ceil(CUs / max batch) splits; a small eager batch sets the cap to 64 for
    every plan after it, and a replay of 40 long requests then plans 7 pieces each into room for 4 x 64.

    Fake mode only: fast mode's buffers do not depend on the splits.
    """
    config = BackendConfig(heads, max_requests=64, graph_batches=(40, 64), dp_attention=True)
    long = Step(StepKind.DECODE, (2000,) * 40, graph=True)
    recording = sessions[wheel].run(Scenario("dp", (config,), (long, Step(StepKind.DECODE, (7,)), long)))
    first, last = (s for s in recording.steps if s.phase is Phase.REPLAY)
    assert first.kv_lens == last.kv_lens
    assert (first.splits, last.splits) == (4, 64)
    assert not findings(first)
    assert (FindingKind.PLANNER_OVERRUN in findings(last)) == faulty


def test_a_decision_goes_through_json(sessions: dict[str, SourceSession]) -> None:
    for step in sessions[AFTER].run(scenario(16, FP8, 2)).steps:
        plain = to_plain(decision_of(step))
        assert to_plain(from_plain(Decision, plain)) == plain
        assert sum(plain["query_lens"]) == step.decode.q_rows
        assert len(plain["kv_lens"]) == step.batch


def changed_steps(session: SourceSession, old: str, new: str, run: Scenario) -> list[RecordedStep]:
    text = open_source(BEFORE).target.text
    assert old in text
    session.use(text.replace(old, new))
    try:
        recording = session.run(run)
    finally:
        session.use(None)
    assert not recording.failed
    return list(recording.steps)


@pytest.mark.parametrize(
    ("old", "new", "subject"),
    [
        ("kv_lens = seq_lens + self.num_draft_tokens", "kv_lens = seq_lens", "kv_indptr"),
        (
            "self.cuda_graph_kv_last_page_len = torch.ones(",
            "self.cuda_graph_kv_last_page_len = torch.zeros(",
            "kv_last_page_lens",
        ),
        ("0,\n                (1 + bs) * self.num", "1,\n                1 + (1 + bs) * self.num", "qo_indptr"),
        ("reduce_indptr=reduce_indptr,\n", "reduce_indptr=reduce_partial_map,\n", "reduce_indptr"),
        ("forward_metadata.kv_indices", "forward_metadata.kv_indices[1:]", "kv_indices"),
        ("self.num_head_padded // nhead_kv", "16", "num_head"),
        ("max_seqlen_qo=max_q_len", "max_seqlen_qo=max_q_len + 1", "max_seqlen_q"),
    ],
)
def test_contradictions_are_named_with_their_line(sessions: dict[str, SourceSession], old: str, new: str, subject: str) -> None:
    run = graph_decode(
        BackendConfig(32, draft_tokens=2, max_requests=4, graph_batches=(4,)), ((50, 60),), StepKind.TARGET_VERIFY
    )
    assert not [d for step in changed_steps(sessions[BEFORE], "\n", "\n", run) for d in disagreements(step)]
    steps = changed_steps(sessions[BEFORE], old, new, run)
    said = [d for step in steps if step.phase is Phase.REPLAY for d in disagreements(step)]
    assert subject in {d.subject for d in said}
    assert all(d.line is not None and "aiter_backend.py:" in d.line for d in said)


def test_buffers_are_judged_as_they_were_passed(sessions: dict[str, SourceSession]) -> None:
    """The sizing call is right and the file allocates half of it: only the real buffers show that."""
    old = "work_info_set_size,\n            dtype=work_info_set_type,"
    new = "(work_info_set_size[0] // 256, 8),\n            dtype=work_info_set_type,"
    run = Scenario("half", (BackendConfig(32),), (Step(StepKind.DECODE, (3000, 3000)),))
    (whole,) = changed_steps(sessions[BEFORE], "\n", "\n", run)
    (half,) = changed_steps(sessions[BEFORE], old, new, run)
    assert half.sizing == whole.sizing
    assert not findings(whole)
    assert FindingKind.PLANNER_OVERRUN in findings(half)


def test_a_graph_keeps_the_splits_of_its_capture(sessions: dict[str, SourceSession]) -> None:
    """Non-persistent: AITER chooses once, by the size of the graph's whole index buffer."""
    config = BackendConfig(16, BF16, BF16, max_requests=4, graph_batches=(1, 4))
    recording = sessions[AFTER].run(graph_decode(config, ((5,), (4000,), (9, 9, 9))))
    replayed = [step for step in recording.steps if step.phase is Phase.REPLAY]
    assert {step.decode.kv_indices.size for step in replayed} == {4 * 4064}
    assert replayed[0].decode.num_kv_splits == replayed[1].decode.num_kv_splits
    assert all(step.decode.num_kv_splits and not findings(step) for step in replayed)
