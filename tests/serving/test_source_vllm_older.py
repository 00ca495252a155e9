"""Older releases of vLLM's MLA backend: what they have of the younger ones' steps runs, the rest is refused in words."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import pytest

from backend.case import DType
from backend.devices.kinds import open_device
from backend.errors import NoSuchStepError
from backend.findings import Party
from backend.real.frameworks.fetch import cache_folder
from backend.real.frameworks.scenarios import BackendConfig, Scenario, Step, StepKind
from backend.real.frameworks.session import SourceSession
from backend.real.python.outline import outline
from fuzz.gate.executed import PACKAGE, Executed
from fuzz.gate.judge import Judge, Judged
from tests.tiers import one_of_each

CONFIG = BackendConfig(16, DType.BF16, DType.BF16, max_requests=8, graph_batches=(1, 4))
STEPS = (
    Step(StepKind.DECODE, (17, 400)),
    Step(StepKind.DECODE, (5000, 1, 33), graph=True),
    Step(StepKind.PREFILL, (1, 300, 77)),
    Step(StepKind.PREFILL, (400, 9), query_lens=(33, 9)),
)
RELEASES = {"0.11.0": "2025-11", "0.15.1": "2025-11", "0.20.0": "2026-06"}
"""Releases of vLLM, and AITER's built-in rules nearest to what each was built with."""


def life(session: SourceSession, config: BackendConfig = CONFIG, steps: tuple[Step, ...] = STEPS) -> Scenario:
    return Scenario("an older life", (config,), steps, release=session.release)


def judged(session: SourceSession, scenario: Scenario) -> Judged:
    return Judge(open_device("model", None)).judged(scenario, session.run(scenario))


@pytest.fixture(scope="module", params=one_of_each(RELEASES))
def session(request: pytest.FixtureRequest) -> Iterator[SourceSession]:
    if not list((cache_folder() / "wheels").glob(f"vllm-{request.param}-*.whl")):
        pytest.skip(f"vllm=={request.param} is not in the cache")
    with SourceSession(f"vllm=={request.param}", release=RELEASES[request.param]) as opened:
        yield opened


def test_decode_graphs_and_prompts(session: SourceSession) -> None:
    scenario = life(session)
    recording = session.run(scenario)
    assert (recording.refused, recording.failed, recording.unknown_calls) == (None, (), ())
    assert all(step.decode.kv_indices[: step.slots.size].tolist() == step.slots.tolist() for step in recording.steps)
    assert {each.name for each in recording.checked} == {"flash_attn_varlen_func", "gather_and_maybe_dequant_cache"}
    made = Judge(open_device("model", None)).judged(scenario, recording)
    assert (made.sightings, dict(made.not_run)) == ([], {})
    target = session.source.target
    ran = Executed(target.filename, target.text, outline(target, PACKAGE), frozenset(recording.executed))
    assert ran.percent >= 80
    assert ran.calls_not_run == ()


def test_what_the_release_does_not_have_is_said(session: SourceSession) -> None:
    if session.source.release != "0.11.0":
        pytest.skip("of 0.11.0 alone")
    verified = (Step(StepKind.TARGET_VERIFY, (9,)),)
    with pytest.raises(NoSuchStepError, match=r"decodes 1 row\(s\) a request; leave draft_tokens out"):
        session.run(life(session, dataclasses.replace(CONFIG, draft_tokens=2), verified))
    with pytest.raises(NoSuchStepError, match="serves no context-parallel ranks"):
        session.run(life(session, dataclasses.replace(CONFIG, context_parallel=2)))
    few = session.run(life(session, dataclasses.replace(CONFIG, num_head=32)))
    assert few.refused is not None
    assert "only supports 16 or 128 number of heads" in few.refused
    fp8 = judged(session, life(session, dataclasses.replace(CONFIG, kv_dtype=DType.FP8, q_dtype=DType.FP8), STEPS[:1]))
    assert [(each.did_not_run, each.message) for each in fp8.sightings] == [
        (True, "std::bad_optional_access (q_scale, kv_scale)")
    ]


SLIPS = {
    "pages of the first request": (
        "block_table_tensor[mask]",
        "block_table_tensor[:1][mask[:1]]",
        "bad-indptr/recorded/kv_indptr",
    ),
    "one row too few": ("qo_indptr = self.qo_indptr[:1 + num_reqs]", "qo_indptr = self.qo_indptr[:num_reqs]", ""),
    "a token more each": ("block_table_bounds.cumsum(", "(block_table_bounds + 1).cumsum(", "bad-indptr/recorded/kv_indptr"),
}


@pytest.mark.parametrize("slip", one_of_each(SLIPS))
def test_a_slip_is_blamed_on_the_file(session: SourceSession, slip: str) -> None:
    old, new, signature = SLIPS[slip]
    text = session.source.target.text
    if session.source.release != "0.11.0":
        pytest.skip("of 0.11.0 alone")
    assert text.count(old) == 1
    session.use(text.replace(old, new))
    try:
        seen = judged(session, life(session)).sightings
    finally:
        session.use(None)
    assert any(each.signature.startswith(signature) for each in seen)
    for each in seen:
        callers = each.finding is None or each.finding.party is Party.CALLER
        assert callers or each.contradicts or each.did_not_run, each.message
