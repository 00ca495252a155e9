"""vLLM's real sparse MLA backend: rows that attend to lists, and slips in the file that the judge blames on it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from backend.case import DType
from backend.devices.kinds import open_device
from backend.errors import NoSuchStepError
from backend.findings import Party
from backend.real.frameworks.fetch import cache_folder
from backend.real.frameworks.record import Phase
from backend.real.frameworks.scenarios import BackendConfig, Scenario, Step, StepKind
from backend.real.frameworks.session import SourceSession
from backend.real.python.outline import outline
from fuzz.gate.executed import PACKAGE, Executed
from fuzz.gate.judge import Judge, Judged
from tests.scenes import eager_decode, graph_decode
from tests.tiers import one_of_each

FP8, BF16 = DType.FP8, DType.BF16
RELEASE = "vllm==0.33.0"
TOPK = 2048

pytestmark = pytest.mark.skipif(
    not list((cache_folder() / "wheels").glob(f"{RELEASE.replace('==', '-')}-*.whl")), reason=f"{RELEASE} is not in the cache"
)


@pytest.fixture(scope="module")
def session() -> Iterator[SourceSession]:
    with SourceSession(f"{RELEASE}:rocm_aiter_mla_sparse.py", release="2026-08") as opened:
        yield opened


def judged(session: SourceSession, scenario: Scenario) -> Judged:
    return Judge(open_device("model", None)).judged(scenario, session.run(scenario))


def test_a_row_attends_to_what_the_indexer_chose(session: SourceSession) -> None:
    recording = session.run(eager_decode(16, (1, TOPK - 1, TOPK, TOPK + 1)))
    assert (recording.refused, recording.failed, recording.unknown_calls) == (None, (), ())
    (step,) = recording.steps
    assert step.kv_lens == (1, TOPK - 1, TOPK, TOPK)
    assert step.decode.kv_indices[: step.slots.size].tolist() == step.slots.tolist()
    assert len(set(step.slots[-TOPK:].tolist())) == TOPK
    assert step.planning is not None
    assert (step.fast_mode, step.planning.topk, step.planning.max_seqlen_qo, step.strays) == (True, -1, 1, ())


@pytest.mark.parametrize("kv", [FP8, BF16])
def test_verification_and_graphs(session: SourceSession, kv: DType) -> None:
    """A graph converts the lists itself, so that a replay has those of its own batch; padding has rows and no tokens."""
    config = BackendConfig(16, kv, kv, draft_tokens=2, max_requests=8, graph_batches=(1, 4), page_size=16)
    scenario = graph_decode(config, ((40, TOPK - 1, 9), (700,)), StepKind.TARGET_VERIFY)
    recording = session.run(scenario)
    replayed = [step for step in recording.steps if step.phase is Phase.REPLAY]
    assert [(step.batch, step.padded) for step in replayed] == [(8, 2), (2, 0)]
    assert replayed[0].kv_lens == (41, 42, TOPK, TOPK, 10, 11)
    assert all(step.decode.kv_indices[: step.slots.size].tolist() == step.slots.tolist() for step in recording.steps)
    made = Judge(open_device("model", None)).judged(scenario, recording)
    assert (made.sightings, dict(made.not_run)) == ([], {})


@pytest.mark.slow(guard="test_a_row_attends_to_what_the_indexer_chose")
def test_prompts_longer_than_a_list_go_through_it(session: SourceSession) -> None:
    steps = (
        Step(StepKind.PREFILL, (1, 77)),
        Step(StepKind.PREFILL, (TOPK + 3, 33, 1), query_lens=(5, 3, 1)),
        Step(StepKind.PREFILL, (TOPK + 3,), query_lens=(5,)),
    )
    scenario = Scenario("prompts", (BackendConfig(16, BF16, BF16),), steps)
    recording = session.run(scenario)
    assert [(step.step, step.kv_lens[:4], step.persistent) for step in recording.steps] == [
        (0, (1,), True),
        (1, (1, 31, 32, 33), True),
        (2, (TOPK - 1, TOPK, TOPK, TOPK), False),
    ]
    assert {each.name for each in recording.checked} == {"flash_attn_varlen_func"}
    assert not Judge(open_device("model", None)).judged(scenario, recording).sightings


@pytest.mark.slow(guard="test_a_row_attends_to_what_the_indexer_chose")
def test_at_least_half_of_the_file_runs(session: SourceSession) -> None:
    lines: set[int] = set()
    config = BackendConfig(8, page_size=16, graph_batches=(2,))
    for scenario in (graph_decode(config, ((TOPK + 1,),)), eager_decode(16, (9,), BF16)):
        lines |= set(session.run(scenario).executed)
    target = session.source.target
    ran = Executed(target.filename, target.text, outline(target, PACKAGE), frozenset(lines))
    assert ran.percent >= 50
    assert {each.name for each in ran.calls_not_run} == {"mla_decode_fwd_lse", "triton_sparse_mla_fwd"}


ALIKE = tuple(Step(StepKind.DECODE, lens) for lens in ((400, 17, 33), (400, 33, 17)))


SLIPS = {
    "list of another batch": (
        "[max_num_batched_tokens * self.topk_tokens]",
        "[self.topk_tokens]",
        "bad-indptr/recorded/kv_indptr/past kv_indices",
    ),
    "block table of one request": (
        "                attn_metadata.block_table,\n",
        "                attn_metadata.block_table[:1].clone(),\n",
        "contradiction/_convert_req_index_to_global_index_kernel",
    ),
    "rows of the first request": (
        "np.arange(seg_lengths.shape[0], dtype=np.int32), seg",
        "np.zeros(seg_lengths.shape[0], dtype=np.int32), seg",
        "contradiction/kv_indices",
    ),
    "type of the output": (
        "attn_out_dtype = self.model_dtype",
        "attn_out_dtype = torch.float32",
        "aiter-refuses/mla_decode_fwd",
    ),
    "heads not repeated": (
        "mla_padded_q = AiterMLAHelper.get_mla_padded_q(self.num_heads, q)",
        "mla_padded_q = q",
        "aiter-refuses/no-kernel/release 2026-08/gfx950 fp8/fp8",
    ),
    "lists longer than topk": (
        "sparse_seqlen + 1 < topk_token, sparse_seqlen + 1, topk_token",
        "sparse_seqlen >= 0, sparse_seqlen + 1, topk_token",
        "beyond-sequence/planner v1_2/work_info_set",
    ),
    "plan of a batch of the same size": (
        "                clamped_seq_lens.tobytes(),\n                clamped_context_lens.tobytes(),\n",
        "",
        "plan-mismatch/recorded/kv_indptr",
    ),
    "sized for one row": (
        "            max_num_batched_tokens,\n            1,\n            self._num",
        "            1,\n            1,\n            self._num",
        "buffer-too-small/recorded/sized for another batch, num_kv_splits",
    ),
}


@pytest.mark.parametrize("slip", one_of_each(SLIPS))
def test_a_slip_is_blamed_on_the_file(session: SourceSession, slip: str) -> None:
    """By the first finding that is the caller's, by what the batch contradicts, or by a refusal of what it passes."""
    old, new, signature = SLIPS[slip]
    text = session.source.target.text
    assert text.count(old) == 1
    lens = (400, 17, 33), (400, 33, 17), (9, TOPK + 300)
    steps = tuple(Step(StepKind.DECODE, each) for each in lens)
    scenario = Scenario("a slip", (BackendConfig(8),), steps, release="2026-08")
    assert not judged(session, scenario).sightings
    session.use(text.replace(old, new))
    try:
        seen = judged(session, scenario).sightings
    finally:
        session.use(None)
    assert signature in {each.signature for each in seen}
    for each in seen:
        callers = each.finding is None or each.finding.party is Party.CALLER
        assert callers or each.contradicts or each.did_not_run, each.message


def test_what_the_file_has_no_part_in(session: SourceSession) -> None:
    with pytest.raises(NoSuchStepError, match="no context-parallel ranks"):
        session.run(Scenario("ranks", (BackendConfig(16, context_parallel=2),), (Step(StepKind.DECODE, (5,)),)))
