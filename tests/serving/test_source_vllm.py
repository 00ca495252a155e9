"""vLLM's real backend file through the same loader.

Its wheel is hundreds of megabytes, so the source is a tree named by AITERFUZZ_VLLM_TREE (anything that `open_source` takes),
or what an earlier run left in the cache.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator

import numpy as np
import pytest

from backend.case import Case, DType
from backend.codec import to_plain
from backend.decision import Decision
from backend.errors import NoSuchStepError
from backend.real.frameworks.fetch import cache_folder
from backend.real.frameworks.record import Phase, RecordedStep
from backend.real.frameworks.scenarios import BackendConfig, Scenario, Step, StepKind
from backend.real.frameworks.session import SourceSession
from backend.serving.policy import decide
from backend.serving.registry import policy
from tests.scenes import eager_decode, graph_decode

FP8, BF16 = DType.FP8, DType.BF16


def source() -> str | None:
    named = os.environ.get("AITERFUZZ_VLLM_TREE")
    cached = sorted((cache_folder() / "wheels").glob("vllm-*.whl"))
    return named or (str(cached[-1]) if cached else None)


pytestmark = pytest.mark.skipif(source() is None, reason="no vLLM at hand: set AITERFUZZ_VLLM_TREE to a checkout or wheel")


@pytest.fixture(scope="module")
def session() -> Iterator[SourceSession]:
    with SourceSession(source() or "") as opened:
        yield opened


def only(session: SourceSession, scenario: Scenario, phase: Phase) -> list[RecordedStep]:
    recording = session.run(scenario)
    assert recording.refused is None
    assert not recording.failed
    assert not recording.unknown_calls
    return [step for step in recording.steps if step.phase is phase]


def test_decision_table(session: SourceSession) -> None:
    """From 16 heads on, always the fast planner without a cap, whatever the dtype."""
    rows = session.decide(heads=(16, 32, 64, 96, 128))
    assert {(row.flags, row.splits, row.splits_speculative) for row in rows} == {("TTF", -1, -1)}
    assert all(row.num_head_kernel == row.num_head for row in rows)


@pytest.mark.parametrize("kv", [FP8, BF16])
def test_eager_decode(session: SourceSession, kv: DType) -> None:
    for heads in (16, 128):
        (step,) = only(session, eager_decode(heads, (5, 100, 1), kv), Phase.EAGER)
        assert step.decode.kv_indptr.tolist() == [0, 5, 105, 106]
        assert step.decode.qo_indptr.tolist() == [0, 1, 2, 3]
        assert step.decode.kv_indices[:106].tolist() == step.slots.tolist()
        assert step.planning is not None
        assert (step.planning.is_causal, step.planning.kv_granularity, step.planning.page_size) == (True, 16, 1)
        assert (step.planning.q_dtype, step.planning.kv_dtype) == (kv, kv)
        assert step.sizing is not None
        assert step.sizing.batch == 16, "sized once for max_num_seqs"
        assert not step.strays


def test_graphs_pad_with_empty_requests(session: SourceSession) -> None:
    config = BackendConfig(64, max_requests=8, graph_batches=(1, 4, 8), page_size=16)
    steps = only(session, graph_decode(config, ((40, 50, 60), (700,), (9,) * 8)), Phase.REPLAY)
    assert [(step.batch, step.padded) for step in steps] == [(4, 1), (1, 0), (8, 0)]
    assert np.diff(steps[0].decode.kv_indptr).tolist() == [40, 50, 60, 0]
    for step in steps:
        assert step.decode.kv_indices[: step.slots.size].tolist() == step.slots.tolist()
        assert not step.swapped_buffers
    assert len({buffer.tag for step in steps for buffer in step.decode_buffers}) == 6


def test_speculative_verification(session: SourceSession) -> None:
    config = BackendConfig(64, draft_tokens=3, max_requests=8, graph_batches=(4,))
    (step,) = only(session, graph_decode(config, ((40, 50),), StepKind.TARGET_VERIFY), Phase.REPLAY)
    assert step.kv_lens == (43, 53)
    assert step.decode.kv_indptr[:3].tolist() == [0, 43, 96]
    assert step.decode.qo_indptr[:3].tolist() == [0, 3, 6]
    assert step.decode.max_seqlen_q == 3


@pytest.mark.parametrize(("kv", "whole"), [(FP8, "mla_prefill_ps_asm_fwd"), (BF16, "flash_attn_varlen_func")])
def test_prompts_whole_and_behind_what_is_cached_of_them(session: SourceSession, kv: DType, whole: str) -> None:
    """A request of one row is decoded first, as the scheduler orders them; the others' kernels are judged by arguments."""
    steps = Step(StepKind.PREFILL, (1, 300, 77)), Step(StepKind.PREFILL, (400, 9), query_lens=(33, 9))
    recording = session.run(Scenario("prompts", (BackendConfig(16, kv, kv),), steps))
    assert not recording.failed
    (decoded,) = recording.steps
    assert (decoded.kv_lens, decoded.query_lens, decoded.kind) == ((1,), (1,), StepKind.PREFILL)
    assert not any(each.faults for each in recording.checked)
    names = [{each.name for each in recording.checked if each.step == at} for at in (0, 1)]
    assert whole in names[0]
    assert {"flash_attn_varlen_func", "gather_and_maybe_dequant_cache"} <= names[1]


def test_few_heads_in_bf16_are_decoded_by_gluon_where_aiter_has_it(session: SourceSession) -> None:
    recording = session.run(eager_decode(8, (17, 400), BF16))
    assert recording.refused is None
    assert not recording.failed
    assert not recording.steps
    assert {each.name for each in recording.checked} <= {"mla_gluon", "mla_decode_gluon"}
    assert recording.checked
    assert not any(each.faults for each in recording.checked)


@pytest.mark.slow(guard="test_eager_decode")
def test_a_rank_of_two_decodes_what_it_holds_with_the_heads_of_both() -> None:
    """Verification of 4 rows takes a kernel for such ranks, of 2 rows AITER's Triton one, which is judged by arguments."""
    plain = BackendConfig(64, max_requests=8, graph_batches=(4,), context_parallel=2)
    configs = plain, *(dataclasses.replace(plain, draft_tokens=drafts) for drafts in (4, 2))
    kinds = StepKind.DECODE, StepKind.TARGET_VERIFY, StepKind.TARGET_VERIFY
    steps = tuple(Step(kind, (17, 41), backend=at) for at, kind in enumerate(kinds))
    with SourceSession(source() or "", release="2026-08") as newest:
        try:
            recording = newest.run(Scenario("ranks", configs, steps, release="2026-08"))
        except NoSuchStepError:
            pytest.skip("a vLLM whose backend serves no context-parallel ranks")
    assert not recording.failed
    decoded, verified = recording.steps
    assert (decoded.kv_lens, decoded.decode.num_head, decoded.decode.return_lse) == ((8, 20), 128, True)
    assert (verified.kv_lens, verified.decode.cp_world_size, verified.decode.cp_rank) == ((10, 22), 2, 1)
    assert verified.decode.g_kv_indptr is not None
    assert verified.decode.g_kv_indptr.tolist() == [0, 21, 66]
    (segmented,) = recording.checked
    assert (segmented.name, segmented.faults) == ("triton mla_decode_fwd", ())


@pytest.mark.slow(guard="test_steps_that_vllm_does_not_have")
def test_what_the_class_of_the_backend_does_not_serve_is_refused_by_it() -> None:
    named = source() or ""
    with SourceSession(named) as own:
        text = own.source.target.text
        edited = text.replace("return invalid_reasons", 'return [*invalid_reasons, "nothing goes"]')
        if edited == text:
            pytest.skip("a vLLM without validate_configuration in this file")
        own.use(edited)
        refused = own.run(eager_decode(16, (17,))).not_started
    assert refused is not None
    assert (refused.says.is_refusal, "nothing goes" in refused.error) == (True, True)


def test_steps_that_vllm_does_not_have(session: SourceSession) -> None:
    scenario = Scenario("x", (BackendConfig(64, draft_tokens=2),), (Step(StepKind.DRAFT_EXTEND, (5,)),))
    with pytest.raises(NoSuchStepError, match="no step of the kind draft_extend; allowed: decode, target_verify, prefill"):
        session.run(scenario)


def test_the_policy_decides_as_the_real_file_does(session: SourceSession) -> None:
    for heads in (16, 32, 64, 128):
        for kv in (FP8, BF16):
            case = Case(num_head=heads, kv_lens=(7, 100, 9), q_dtype=kv, kv_dtype=kv, backend="vllm", max_batch=16)
            decision = decide(policy("vllm"), case)
            assert isinstance(decision, Decision)
            (step,) = only(session, eager_decode(heads, case.kv_lens, kv), Phase.EAGER)
            assert step.sizing is not None
            assert decision.sizing is not None
            default_splits = dataclasses.replace(decision.sizing, num_kv_splits=32)  # not given by vLLM; unused in fast mode
            assert step.sizing == default_splits, case
            assert to_plain(step.planning) == to_plain(decision.planning), case
            real, ours = (
                to_plain(dataclasses.replace(decode, sm_scale=decode.softmax_scale))
                for decode in (step.decode, decision.decode)
            )
            for name in ("kv_pages", "kv_indices", "metadata"):
                del real[name], ours[name]
            assert real == ours, case


def test_heads_of_others_are_seen(session: SourceSession) -> None:
    """Of 8 heads, which a kernel of 16 computes: what comes back of o."""
    old, new = "return tensor[:, :: m // num_heads, ...]", "return tensor[:, :num_heads, ...]"
    text = session.source.target.text
    if old not in text:
        pytest.skip("this vLLM repeats heads in other words")
    scenario = eager_decode(8, (5, 100), FP8)
    assert not [call for call in session.run(scenario).checked if call.faults]
    session.use(text.replace(old, new))
    try:
        faults = [call for call in session.run(scenario).checked if call.faults]
    finally:
        session.use(None)
    assert [(call.name, fault.subject) for call in faults for fault in call.faults] == [("forward_mqa", "o")]
