"""The policy is sglang's rule: for many cases, what it decides equals what sglang's own file hands to AITER, call by call.

The file runs as shipped in three releases: the last before sglang#27188, the first after it, and a late one. Each
configuration is one life of the framework's process: graphs captured, then steps, each of which is a case for the policy.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import numpy as np
import pytest

from backend.aiter.arguments import DecodeArguments, PlanArguments
from backend.case import Arch, Case, DType
from backend.codec import to_plain
from backend.decision import Decision
from backend.host import BuiltIn
from backend.real.frameworks.record import Phase, RecordedStep
from backend.real.frameworks.scenarios import BackendConfig, Scenario, Step, StepKind
from backend.real.frameworks.session import SourceSession
from backend.real.frameworks.steps import disagreements
from backend.serving.policy import decide
from backend.serving.registry import policy
from backend.serving.sglang import AiterMlaBackend
from tests.kept_sources import KeptSources
from tests.scenes import graph_decode

FP8, BF16 = DType.FP8, DType.BF16
BEFORE, AFTER, LATEST = "sglang==0.5.12.post1", "sglang==0.5.13", "sglang==0.5.23"
BACKEND = {BEFORE: "sglang-before-27188", AFTER: "sglang-27188", LATEST: "sglang-27188"}

HEADS = (4, 8, *range(16, 129, 16))
FEW_HEADS = (8, 48, 64, 128)
"""Where the combination of types and drafts is one more of the same."""

TYPES = ((Arch.GFX950, FP8, FP8), (Arch.GFX950, BF16, BF16), (Arch.GFX950, BF16, FP8), (Arch.GFX942, BF16, FP8))
CAPTURED = (2, 5, 8)

EAGER = ((1 + 8,), (30, 700, 9, 9, 64, 65, 129))
REPLAYED = ((9, 400), (17,), (260, 9, 33), (9,) * 6)
"""kv_lens of the steps, this step's tokens included, so that they hold for up to 9 of them. Two fill their graph."""


@pytest.fixture(scope="module", params=[BEFORE, AFTER, pytest.param(LATEST, marks=pytest.mark.slow)])
def source(request: pytest.FixtureRequest, kept_sources: KeptSources) -> Iterator[tuple[SourceSession, str]]:
    with kept_sources.open(request.param) as session:
        yield session, request.param


def cases_of(heads: int, types: tuple[Arch, DType, DType], drafts: int | None, page_size: int, wheel: str) -> list[Case]:
    arch, q_dtype, kv_dtype = types
    plain = Case(
        num_head=heads,
        kv_lens=(1,),
        max_seqlen_q=drafts or 1,
        page_size=page_size,
        q_dtype=q_dtype,
        kv_dtype=kv_dtype,
        arch=arch,
        backend=BACKEND[wheel],
    ).replace
    eager = [plain(kv_lens=kv_lens) for kv_lens in EAGER]
    if page_size > 1 and wheel == BEFORE:
        return eager  # its graphs have room for too few indices, and that file leaves its tensors
    graphs = [(kv_lens, min(size for size in CAPTURED if size >= len(kv_lens))) for kv_lens in REPLAYED]
    return eager + [plain(kv_lens=kv_lens, graph_batch=size, max_batch=max(CAPTURED)) for kv_lens, size in graphs]


def recorded(session: SourceSession, cases: list[Case]) -> list[RecordedStep]:
    """The steps that the file made of cases that differ in nothing but their batch."""
    first = cases[0]
    drafts = first.max_seqlen_q if first.max_seqlen_q > 1 else None
    graphs = CAPTURED if any(case.graph_batch for case in cases) else ()
    config = BackendConfig(
        first.num_head, first.kv_dtype, first.q_dtype, first.page_size, drafts, max_requests=8, graph_batches=graphs
    )
    kind = StepKind.DECODE if drafts is None else StepKind.TARGET_VERIFY
    steps = tuple(
        Step(kind, tuple(length - (drafts or 0) for length in case.kv_lens), graph=case.graph_batch is not None)
        for case in cases
    )
    recording = session.run(Scenario("cases", (config,), steps, arch=first.arch))
    assert recording.refused is None
    assert not recording.failed
    return [step for step in recording.steps if step.phase is not Phase.CAPTURE]


def decided(step: RecordedStep, case: Case, wheel: str) -> Decision:
    """The policy's decision, for a model of the context that the file was run with."""
    rule = policy(case.backend)
    assert isinstance(rule, AiterMlaBackend)
    if case.max_batch is not None:
        entries = step.decode.kv_indices.size // case.max_batch
        drafts = case.max_seqlen_q if case.max_seqlen_q > 1 and wheel != BEFORE else 0
        rule = dataclasses.replace(rule, context_len=entries - drafts)
    decision = decide(rule, case)
    assert isinstance(decision, Decision)
    return decision


def told(arguments: PlanArguments | DecodeArguments | None) -> dict[str, object] | None:
    """Plain values without those that are the pool's: which rows of it a request holds, and how large it is."""
    if arguments is None:
        return None
    if isinstance(arguments, DecodeArguments):
        arguments = dataclasses.replace(arguments, sm_scale=arguments.softmax_scale)
    plain: dict[str, object] = to_plain(arguments)
    return {name: value for name, value in plain.items() if name not in ("kv_pages", "kv_indices", "metadata")}


def assert_same(step: RecordedStep, decision: Decision) -> None:
    case = decision.case
    assert to_plain(step.sizing) == to_plain(decision.sizing), case
    assert told(step.planning) == told(decision.planning), case
    assert told(step.decode) == told(decision.decode), case
    assert step.decode.metadata == BuiltIn().call(decision).allocated, case
    assert (step.batch, step.head_repeat) == (len(decision.kv_lens), decision.head_repeat), case
    assert (*step.kv_lens, *[step.padded_kv_len] * step.padded) == decision.kv_lens, case
    assert not disagreements(step), case  # of the indices: real requests' rows, in the order of their tokens
    theirs, ours = step.decode.kv_indices[: step.slots.size], decision.decode.kv_indices[: step.slots.size]
    assert len(set(theirs.tolist())) == len(set(ours.tolist())) == sum(case.kv_lens), case


def combined() -> list[object]:
    """Types and draft tokens; two numbers of them with the first types, one with each others, and all in slow runs."""
    return [
        pytest.param(
            drafts,
            types,
            id=f"{drafts}-{'-'.join(types)}",
            marks=() if drafts == 4 or (drafts is None and types == TYPES[0]) else pytest.mark.slow,
        )
        for types in TYPES
        for drafts in (None, 2, 4, 8)
    ]


@pytest.mark.parametrize(("drafts", "types"), combined())
def test_each_call_is_the_file_s(
    source: tuple[SourceSession, str], types: tuple[Arch, DType, DType], drafts: int | None
) -> None:
    session, wheel = source
    every = types in TYPES[:2] and drafts in (None, 4) and wheel != LATEST
    for heads in HEADS if every else FEW_HEADS:
        cases = cases_of(heads, types, drafts, 1, wheel)
        steps = recorded(session, cases)
        assert len(steps) == len(cases)
        if wheel == LATEST and types == TYPES[2] and heads <= 16 and (drafts or 1) > 4:
            assert {step.decode.q_dtype for step in steps} == {FP8}, "the late file quantises q where bf16 has no kernel"
            continue
        for step, case in zip(steps, cases, strict=True):
            assert_same(step, decided(step, case, wheel))


@pytest.mark.parametrize("page_size", [16, 64])
def test_pages_of_several_tokens(source: tuple[SourceSession, str], page_size: int) -> None:
    """The file flattens them to tokens and tells the planner a granularity."""
    session, wheel = source
    for heads in (16, 32, 64, 128):
        for types, drafts in ((TYPES[0], None), (TYPES[1], 4)):
            cases = cases_of(heads, types, drafts, page_size, wheel)
            for step, case in zip(recorded(session, cases), cases, strict=True):
                assert_same(step, decided(step, case, wheel))


@pytest.mark.slow(guard="test_each_call_is_the_file_s")
def test_padding_before_20841_is_that_of_draft_extension() -> None:
    """The rule of F10: the oldest file's graphs fill 1, which verification lengthens and draft extension leaves."""
    case = Case(num_head=16, kv_lens=(50,), max_seqlen_q=4, graph_batch=2, backend="sglang-before-20841")
    decision = decide(policy(case.backend), case)
    assert isinstance(decision, Decision)
    # With fp8 it hands over no scales, which AITER 2026-06 asks for; the length of a padding row is the same either way.
    config = BackendConfig(16, BF16, BF16, draft_tokens=4, max_requests=2, graph_batches=(2,))
    seen = {}
    with SourceSession("sglang==0.5.9") as session:
        for kind in (StepKind.DRAFT_EXTEND, StepKind.TARGET_VERIFY):
            steps = session.run(graph_decode(config, ((50,),), kind)).steps
            (replayed,) = (step for step in steps if step.phase is Phase.REPLAY)
            seen[kind] = int(np.diff(replayed.decode.kv_indptr)[-1])
    assert seen == {StepKind.DRAFT_EXTEND: decision.kv_lens[-1], StepKind.TARGET_VERIFY: 1 + 4}
