"""vLLM's backend of ordinary attention, which AITER's calls of paged attention and flash attention end in: judged by arguments.

Its wheel is hundreds of megabytes, so the source is a tree named by AITERFUZZ_VLLM_TREE, or what an earlier run left in the
cache.
"""

from __future__ import annotations

import dataclasses
import itertools
import os
from collections.abc import Iterator

import pytest

from backend.case import Arch, DType
from backend.devices.kinds import open_device
from backend.errors import CannotRunError, NoSuchStepError
from backend.real.frameworks.fetch import cache_folder
from backend.real.frameworks.record import Recording
from backend.real.frameworks.scenarios import BackendConfig, Scenario, Step, StepKind
from backend.real.frameworks.session import SourceSession
from backend.real.python.outline import outline
from fuzz.gate.executed import PACKAGE, Executed
from fuzz.gate.judge import Judge, Judged
from tests.tiers import one_of_each

NAME = "rocm_aiter_fa.py"
PLAIN = BackendConfig(16, DType.BF16, DType.BF16, page_size=16, kv_heads=2, max_requests=8, graph_batches=(1, 4))
DRAFTING = dataclasses.replace(PLAIN, draft_tokens=4)
SHUFFLED = (("VLLM_ROCM_SHUFFLE_KV_CACHE_LAYOUT", "1"),)


def newest() -> str | None:
    named = os.environ.get("AITERFUZZ_VLLM_TREE")
    cached = sorted((cache_folder() / "wheels").glob("vllm-0.[23]*.whl"))
    return named or (str(cached[-1]) if cached else None)


pytestmark = pytest.mark.skipif(newest() is None, reason="no vLLM at hand: set AITERFUZZ_VLLM_TREE to a checkout or wheel")


@pytest.fixture(scope="module")
def session() -> Iterator[SourceSession]:
    with SourceSession(f"{newest()}:{NAME}", release="2026-08") as opened:
        yield opened


def life(name: str, config: BackendConfig, *steps: Step, window: int = 0) -> Scenario:
    flags = (("sliding_window", str(window)),) if window else ()
    return Scenario(name, (config,), steps, release="2026-08", flags=flags)


SERVING = life(
    "serving",
    PLAIN,
    Step(StepKind.PREFILL, (300, 77)),
    Step(StepKind.PREFILL, (400, 9, 60), query_lens=(33, 9, 1)),
    Step(StepKind.DECODE, (17, 400)),
    Step(StepKind.DECODE, (9, 7, 30), graph=True),
    Step(StepKind.DECODE, (9, 700), graph=True),
)
WINDOW = dataclasses.replace(SERVING, name="window", flags=(("sliding_window", "40"),))
SHUFFLE = dataclasses.replace(SERVING, name="shuffled", environment=SHUFFLED)
SPECULATING = life(
    "speculating",
    DRAFTING,
    Step(StepKind.TARGET_VERIFY, (60, 700)),
    Step(StepKind.TARGET_VERIFY, (9, 7, 30), graph=True),
    Step(StepKind.MULTI_STEP_DRAFT, (9, 400)),
)


def of_type(scenario: Scenario, kv: DType) -> Scenario:
    return dataclasses.replace(scenario, backends=(dataclasses.replace(scenario.backends[0], kv_dtype=kv),))


def judged(session: SourceSession, scenario: Scenario) -> Judged:
    return Judge(open_device("model", None)).judged(scenario, session.run(scenario))


def called(recording: Recording, step: int) -> set[str]:
    return {each.name for each in recording.checked if each.step == step}


@pytest.mark.slow(guard="test_what_the_file_does_is_sound")
def test_each_step_ends_in_the_kernels_that_it_should(session: SourceSession) -> None:
    serving, shuffled, drafts = (session.run(scenario) for scenario in (SERVING, SHUFFLE, SPECULATING))
    for recording in (serving, shuffled, drafts):
        assert (recording.refused, recording.failed, recording.unknown_calls, recording.steps) == (None, (), (), ())
    assert "flash_attn_varlen_func" in called(serving, 0)
    assert {"flash_attn_varlen_func", "paged_attention_v1", "reshape_and_cache_flash"} <= called(serving, 1)
    for at in (2, 3, 4):
        assert ("paged_attention_v1" in called(serving, at), "paged_attention_common" in called(shuffled, at)) == (True, True)
    assert "reshape_and_cache_flash" not in called(shuffled, 2)
    assert {"unified_attention"} <= called(drafts, 1)
    assert sum(each.name == "paged_attention_v1" for each in drafts.checked if each.step == 2) == 3  # one a draft


@pytest.mark.parametrize(
    ("scenario", "kv"),
    one_of_each(
        itertools.product((SERVING, WINDOW, SHUFFLE, SPECULATING), (DType.FP8, DType.BF16)),
        lambda row: None,
        lambda row: f"{row[0].name}-{row[1]}",
    ),
)
def test_what_the_file_does_is_sound(session: SourceSession, scenario: Scenario, kv: DType) -> None:
    made = judged(session, of_type(scenario, kv))
    assert (made.sightings, dict(made.not_run)) == ([], {})


@pytest.mark.slow(guard="test_what_the_file_does_is_sound")
def test_at_least_80_percent_of_the_file_runs(session: SourceSession) -> None:
    lives = (of_type(each, DType.FP8) for each in (SERVING, WINDOW, SHUFFLE, SPECULATING))
    lines = {line for each in lives for line in session.run(each).executed}
    target = session.source.target
    ran = Executed(target.filename, target.text, outline(target, PACKAGE), frozenset(lines))
    assert ran.percent >= 80
    calls = {each.name for each in ran.outline.calls}
    assert "paged_attention_v1" in calls
    assert calls - {each.name for each in ran.calls_not_run} >= {"paged_attention_v1", "paged_attention_common"}


SLIPS = {
    "lengths of all but one": (
        SERVING,
        "decode_seq_lens = attn_metadata.seq_lens[:num_decodes]",
        "decode_seq_lens = attn_metadata.seq_lens[: num_decodes - 1]",
        "arguments/paged_attention_v1/context_lens",
    ),
    "workspace of one request": (
        SERVING,
        "                    (num_seqs * num_heads * max_num_partitions * head_size)\n",
        "                    (num_heads * max_num_partitions * head_size)\n",
        "arguments/paged_attention_v1/workspace_buffer",
    ),
    "longest of the window": (
        SERVING,
        "decode_max_seq_len = attn_metadata.max_seq_len",
        "decode_max_seq_len = attn_metadata.decode_metadata.max_query_len",
        "arguments/paged_attention_v1/max_context_len",
    ),
    "table of the window before": (
        WINDOW,
        "swa_seq_lens.copy_(lens - first_block * self.block_size)",
        "swa_seq_lens.copy_(lens)",
        "arguments/paged_attention_v1/max_context_len",
    ),
    "rows of the first prompt": (
        SERVING,
        "max_query_len=query_lens_for_prefill.max().item(),",
        "max_query_len=query_lens_for_prefill.min().item(),",
        "arguments/flash_attn_varlen_func/max_seqlen_q",
    ),
    "ends of all rows": (
        SERVING,
        "query_start_loc=query_start_loc_device - query_start_loc_device[0],\n                chunk_context",
        "query_start_loc=query_start_loc_device,\n                chunk_context",
        "arguments/flash_attn_varlen_func/cu_seqlens_q",
    ),
    "partial results of one request": (
        SHUFFLE,
        "(num_seqs, num_heads, max_num_partitions, head_size),",
        "(1, num_heads, max_num_partitions, head_size),",
        "arguments/paged_attention_common/tmp_out",
    ),
    "verified rows of all": (
        SPECULATING,
        "seqused_k=attn_metadata.seq_lens[:num_decodes],\n                        max_seqlen_k=attn_metadata.max_seq_len,",
        "seqused_k=attn_metadata.seq_lens[:num_decodes] * 64,\n                        max_seqlen_k=attn_metadata.max_seq_len,",
        "arguments/unified_attention/block_table",
    ),
}


@pytest.mark.parametrize("slip", one_of_each(SLIPS))
def test_a_slip_is_blamed_on_the_file(session: SourceSession, slip: str) -> None:
    scenario, old, new, signature = SLIPS[slip]
    text = session.source.target.text
    if text.count(old) != 1:
        pytest.skip("a vLLM whose file has these lines otherwise")
    session.use(text.replace(old, new))
    try:
        seen = {each.signature for each in judged(session, scenario).sightings}
    finally:
        session.use(None)
    assert any(each.startswith(signature) for each in seen), seen


@pytest.mark.parametrize(
    ("scenario", "words"),
    [
        (dataclasses.replace(SERVING, backends=(dataclasses.replace(PLAIN, kv_heads=None),)), "has no MLA; give kv_heads"),
        (dataclasses.replace(SERVING, backends=(dataclasses.replace(PLAIN, page_size=1),)), "pages of 16 tokens"),
        (dataclasses.replace(SERVING, backends=(dataclasses.replace(PLAIN, context_parallel=2),)), "are not driven"),
        (dataclasses.replace(SERVING, flags=(("index_topk", "2048"),)), "flag sliding_window=TOKENS alone"),
        (life("drafts", DRAFTING, Step(StepKind.MULTI_STEP_DRAFT, (9,), graph=True)), "graphs of a draft model"),
    ],
)
def test_what_the_file_has_no_part_in(session: SourceSession, scenario: Scenario, words: str) -> None:
    with pytest.raises(NoSuchStepError, match=words):
        session.run(scenario)


def test_what_tritons_interpreter_lacks_is_said(session: SourceSession) -> None:
    with pytest.raises(CannotRunError, match="has no float8_e4m3fnuz"):
        session.run(dataclasses.replace(of_type(SERVING, DType.FP8), arch=Arch.GFX942))


def test_a_file_without_mla_decides_nothing(session: SourceSession) -> None:
    assert session.decide(heads=(16,)) == []
