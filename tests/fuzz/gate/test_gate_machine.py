"""A serving process as a state machine: any order of eager steps, replays and batches, on buffers that live across them.

The rules choose the process's steps, and the life is run at its end: it is a value, of which Hypothesis cuts off what the
fault does not need. On the fixed file no life shows a fault; a planted stale buffer is found and shrunk.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import ClassVar

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, precondition, rule, run_state_machine_as_test

from backend.case import DType
from backend.devices.kinds import open_device
from backend.real.frameworks.fetch import open_source
from backend.real.frameworks.scenarios import BackendConfig, Scenario, Step, StepKind
from backend.real.frameworks.session import SourceSession
from fuzz.gate.judge import Judge
from tests.kept_sources import KeptSources

FIXED = "sglang==0.5.13"
MAX_STEPS = 4

KV_LENS = st.lists(st.integers(4, 40), min_size=1, max_size=3).map(tuple)


class Life(RuleBasedStateMachine):
    """One process of a fast-mode shape; `session` and `shown` are set by the test that runs it."""

    session: ClassVar[SourceSession]
    shown: ClassVar[list[Scenario]]

    @initialize(
        num_head=st.sampled_from((32, 64)),
        dtype=st.sampled_from((DType.FP8, DType.BF16)),
        draft_tokens=st.sampled_from((None, 2)),
        dp_attention=st.booleans(),
    )
    def start(self, num_head: int, dtype: DType, draft_tokens: int | None, dp_attention: bool) -> None:
        self.config = BackendConfig(
            num_head,
            dtype,
            dtype,
            draft_tokens=draft_tokens,
            max_requests=4,
            graph_batches=(2, 4),
            dp_attention=dp_attention,
        )
        self.steps: list[Step] = []

    @precondition(lambda self: len(self.steps) < MAX_STEPS)
    @rule(kv_lens=KV_LENS)
    def eager(self, kv_lens: tuple[int, ...]) -> None:
        self.take(kv_lens, graph=False)

    @precondition(lambda self: len(self.steps) < MAX_STEPS)
    @rule(kv_lens=KV_LENS)
    def replay(self, kv_lens: tuple[int, ...]) -> None:
        self.take(kv_lens, graph=True)

    @precondition(lambda self: self.steps and len(self.steps) < MAX_STEPS)
    @rule()
    def the_same_again(self) -> None:
        last = self.steps[-1]
        self.take(last.kv_lens, last.graph)

    def take(self, kv_lens: tuple[int, ...], graph: bool) -> None:
        kind = StepKind.DECODE if self.config.draft_tokens is None else StepKind.TARGET_VERIFY
        self.steps.append(Step(kind, kv_lens, graph=graph))

    def teardown(self) -> None:
        life = Scenario("life", (self.config,), tuple(self.steps))
        seen = Judge(open_device("model", None)).judged(life, self.session.run(life)).sightings
        if seen:
            self.shown.append(life)
        assert not seen, seen[0].message


@pytest.fixture(scope="module")
def session(kept_sources: KeptSources) -> Iterator[SourceSession]:
    with kept_sources.open(FIXED) as opened:
        yield opened


def run(session: SourceSession, examples: int) -> list[Scenario]:
    """Runs the machine; the lives that showed a fault, the last of them shrunk."""

    class Run(Life):
        shown: ClassVar[list[Scenario]] = []

    Run.session = session
    chosen = settings(
        max_examples=examples,
        stateful_step_count=MAX_STEPS,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    try:
        run_state_machine_as_test(Run, settings=chosen)
    except AssertionError:
        assert Run.shown
    return Run.shown


def test_the_fixed_file_shows_nothing_in_any_order(session: SourceSession) -> None:
    assert run(session, 15 if os.environ.get("AITERFUZZ_SLOW") else 6) == []


@pytest.mark.slow(guard="test_the_fixed_file_shows_nothing_in_any_order")
def test_a_plan_left_over_from_another_batch_is_found_and_shrunk(session: SourceSession) -> None:
    """Planted: in plain decode, a replay plans only where its graph is not the one that was replayed before it."""
    text = open_source(FIXED).target.text
    at = text.index("    def _apply_cuda_graph_metadata(")
    call, done = "self.make_mla_meta_data(", "work_metadata = self.work_metadata\n"
    planted = "(self.make_mla_meta_data if self.__dict__.get('_planned') != bs else (lambda *given, **named: None))("
    kept = f"self._planned = bs if seq_lens_sum is not None else None\n                    {done}"
    session.use(text[:at] + text[at:].replace(call, planted, 1).replace(done, kept, 1))
    try:
        shown = run(session, 100)
    finally:
        session.use(None)
    smallest = shown[-1]
    assert smallest.backends[0].draft_tokens is None
    assert [(step.graph, len(step.kv_lens)) for step in smallest.steps] == [(True, 1), (True, 1)]
    assert sorted(step.kv_lens for step in smallest.steps) == [(4,), (5,)], "any other length, and the plan is another's"
