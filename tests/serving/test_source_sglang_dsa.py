"""sglang's real DSA backend by AITER's kernels: rows that attend to lists, its two known faults, and slips blamed on the file.

Both faults are in every decode step, so slips are planted where they are mended.
"""

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
from fuzz.gate.frameworks import framework_faults
from fuzz.gate.judge import Judge, Judged
from fuzz.gate.sweep import GFX950, by_kernels
from reprod.corpus import shipped_corpus
from tests.scenes import graph_decode
from tests.tiers import one_of_each

FP8, BF16 = DType.FP8, DType.BF16
RELEASE = "sglang==0.5.23"
TOPK = 2048

pytestmark = pytest.mark.skipif(
    not list((cache_folder() / "wheels").glob(f"{RELEASE.replace('==', '-')}-*.whl")), reason=f"{RELEASE} is not in the cache"
)


@pytest.fixture(scope="module")
def session() -> Iterator[SourceSession]:
    with SourceSession(f"{RELEASE}:dsa_backend.py", release="2026-08") as opened:
        yield opened


def mended(text: str) -> str:
    """The file without S8 and S9."""
    assert text.count("        kv_indptr = self.kv_indptr\n") == 1
    assert text.count("kv_last_page_lens = metadata.cu_seqlens_q\n") == text.count("kv_last_page_lens = cu_seqlens_q\n") == 1
    text = text.replace("        kv_indptr = self.kv_indptr\n", "        kv_indptr = self.kv_indptr[: bs + 1]\n")
    ones = "kv_last_page_lens = torch.ones({}, dtype=torch.int32, device=self.device)\n"
    text = text.replace("kv_last_page_lens = metadata.cu_seqlens_q\n", ones.format("bs"))
    return text.replace("kv_last_page_lens = cu_seqlens_q\n", ones.format("num_tokens"))


@pytest.fixture(scope="module")
def without_faults(session: SourceSession) -> Iterator[SourceSession]:
    """The file without S8 and S9; a test that runs another text puts it back."""
    with SourceSession(f"{RELEASE}:dsa_backend.py", text=mended(session.source.target.text), release="2026-08") as opened:
        yield opened


def judged(session: SourceSession, scenario: Scenario) -> Judged:
    return Judge(open_device("model", None)).judged(scenario, session.run(scenario))


AROUND = (1, TOPK - 1, TOPK, TOPK + 1)


@pytest.mark.parametrize("kv", one_of_each([FP8, BF16]))
def test_decode_eager_and_from_graphs(without_faults: SourceSession, kv: DType) -> None:
    """A graph plans in itself; a replay has its own batch's lists and plan."""
    config = BackendConfig(8, kv, kv, max_requests=8, graph_batches=(1, 4), page_size=16)
    replays = graph_decode(config, ((40, TOPK + 1, 9), (700,)))
    scenario = Scenario("decode", (config,), (Step(StepKind.DECODE, AROUND), *replays.steps))
    recording = without_faults.run(scenario)
    assert (recording.refused, recording.failed, recording.unknown_calls) == (None, (), ())
    eager, *replayed = [step for step in recording.steps if step.phase is not Phase.CAPTURE]
    assert eager.kv_lens == (1, TOPK - 1, TOPK, TOPK)
    assert [(step.kv_lens, step.padded) for step in replayed] == [((40, TOPK, 9), 1), ((700,), 0)]
    for step in (eager, *replayed):
        assert step.decode.kv_indices[: step.slots.size].tolist() == step.slots.tolist()
        assert (step.persistent, step.decode.num_head) == (kv is FP8, 16)
        assert step.planning is None or step.planning.kv_indptr.tolist() == step.decode.kv_indptr.tolist()
    made = Judge(open_device("model", None)).judged(scenario, recording)
    assert (made.sightings, dict(made.not_run)) == ([], {})


def test_speculation_and_prompts(without_faults: SourceSession) -> None:
    plain = BackendConfig(16, max_requests=8, page_size=16)
    config = BackendConfig(16, draft_tokens=2, max_requests=8, graph_batches=(4,), page_size=16)
    steps = (
        Step(StepKind.TARGET_VERIFY, (TOPK - 2, 9)),
        Step(StepKind.DRAFT_EXTEND, (TOPK + 1, 9)),
        Step(StepKind.TARGET_VERIFY, (9, TOPK - 1, 40), graph=True),
        Step(StepKind.PREFILL, (33, 1), backend=1),
        Step(StepKind.PREFILL, (TOPK + 9, 40), query_lens=(3, 9), backend=1),
    )
    scenario = Scenario("speculation and prompts", (config, plain), steps)
    recording = without_faults.run(scenario)
    assert not recording.failed
    lens = {step.step: step.kv_lens for step in recording.steps if step.phase is not Phase.CAPTURE}
    assert lens[0] == (TOPK - 1, TOPK, 10, 11)
    assert lens[1] == (TOPK, TOPK, 8, 9)
    assert lens[2] == (10, 11, TOPK, TOPK, 41, 42)
    assert {(each.step, each.name) for each in recording.checked} == {
        (3, "flash_attn_varlen_func"),
        (4, "triton_sparse_mla_fwd"),
    }
    assert not Judge(open_device("model", None)).judged(scenario, recording).sightings


@pytest.mark.slow(guard="test_a_pool_of_the_batch_has_no_request_too_many")
def test_its_known_faults_show_and_are_gone_where_they_are_mended(
    session: SourceSession, without_faults: SourceSession
) -> None:
    entries = [entry for entry in framework_faults(shipped_corpus()) if entry.file == "dsa_backend.py"]
    assert [entry.id for entry in entries] == ["S8", "S9"]
    for entry in entries:
        for scenario in entry.scenarios:
            shown = judged(session, scenario).sightings
            assert shown
            assert all(entry.is_it(sighting) for sighting in shown)
            assert not judged(without_faults, scenario).sightings


def test_a_pool_of_the_batch_has_no_request_too_many(session: SourceSession) -> None:
    scenario = Scenario("full pool", (BackendConfig(16, max_requests=2),), (Step(StepKind.DECODE, (400, 17)),))
    assert not judged(session, scenario).sightings


@pytest.mark.slow(guard="test_decode_eager_and_from_graphs")
def test_every_call_is_reached_and_other_kernels_are_judged_by_their_arguments(session: SourceSession) -> None:
    wanted = list(by_kernels(GFX950, (8,), "2026-08"))
    lines: set[int] = set()
    names: set[str] = set()
    for scenario in wanted[:2]:
        recording = session.run(scenario)
        assert (recording.refused, recording.failed) == (None, ()), scenario.name
        assert not any(call.faults for call in recording.checked)
        lines |= set(recording.executed)
        names |= {call.name for call in recording.checked}
    assert names == {"tilelang_sparse_fwd", "triton_sparse_mla_fwd", "triton_sparse_mla_decode_splitk"}
    target = session.source.target
    ran = Executed(target.filename, target.text, outline(target, PACKAGE), frozenset(lines))
    assert {each.name for each in ran.calls_not_run} == {"flash_attn_varlen_func"}
    assert ran.percent >= 45


SLIPS = {
    "heads not repeated": (
        "16 // self.num_q_heads if self.num_q_heads < 16 else 1",
        "1",
        "aiter-refuses/get_mla_metadata_v1",
    ),
    "indices of one request": (
        "max_bs * self.dsa_index_topk,",
        "self.dsa_index_topk,",
        "bad-indptr/recorded/kv_indptr/past kv_indices",
    ),
    "lengths not summed": (
        "kv_indptr[1 : bs + 1] = torch.cumsum(non_minus1_counts, dim=0)",
        "kv_indptr[1 : bs + 1] = non_minus1_counts",
        "bad-indptr/recorded/kv_indptr/not monotonic",
    ),
    "list of one row": (
        "get_valid_kv_indices(page_table_1, kv_indptr, kv_indices, bs)",
        "get_valid_kv_indices(page_table_1[:1].clone(), kv_indptr, kv_indices, bs)",
        "contradiction/_get_valid_kv_indices_kernel",
    ),
    "type of the output": (
        "torch.bfloat16 if q.dtype == fp8_dtype else q.dtype",
        "q.dtype",
        "aiter-refuses/mla_decode_fwd",
    ),
    "sized for one row": (
        "batch_size=bs,",
        "batch_size=1,",
        "buffer-too-small/recorded/sized for another batch, num_kv_splits",
    ),
}


@pytest.mark.parametrize("slip", one_of_each(SLIPS))
def test_a_slip_is_blamed_on_the_file(without_faults: SourceSession, slip: str) -> None:
    old, new, signature = SLIPS[slip]
    text = without_faults.source.target.text
    assert old in text
    scenario = Scenario("a slip", (BackendConfig(8, max_requests=4),), (Step(StepKind.DECODE, (TOPK + 300, 17, 33)),))
    assert not judged(without_faults, scenario).sightings
    without_faults.use(text.replace(old, new))
    try:
        seen = judged(without_faults, scenario).sightings
    finally:
        without_faults.use(text)
    assert signature in {each.signature for each in seen}, [(each.signature, each.message) for each in seen]
    for each in seen:
        callers = each.finding is None or each.finding.party is Party.CALLER
        assert callers or each.contradicts or each.did_not_run, each.message


def test_what_the_file_has_no_part_in(session: SourceSession) -> None:
    with pytest.raises(NoSuchStepError, match="no ordinary attention"):
        session.run(Scenario("ordinary", (BackendConfig(16, kv_heads=2),), (Step(StepKind.DECODE, (5,)),)))
