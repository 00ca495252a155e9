"""A draft model's steps that make a tree: each branch has the request's tokens and its own, wherever those lie."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from backend.devices.kinds import open_device
from backend.errors import UsageError
from backend.real.frameworks.fetch import open_source
from backend.real.frameworks.record import Phase
from backend.real.frameworks.scenarios import BackendConfig, Scenario, Step, StepKind
from backend.real.frameworks.session import SourceSession
from fuzz.gate.judge import Judge, Judged
from tests.kept_sources import KeptSources

SOURCE = "sglang==0.5.13"
CONTEXT = 40


@pytest.fixture(scope="module")
def session(kept_sources: KeptSources) -> Iterator[SourceSession]:
    with kept_sources.open(SOURCE) as session:
        yield session


def judged(session: SourceSession, config: BackendConfig, *lens: tuple[int, ...], edit: tuple[str, str] = ("", "")) -> Judged:
    text = open_source(SOURCE).target.text
    assert edit[0] in text
    session.use(text.replace(*edit) if edit[0] else None)
    steps = tuple(Step(StepKind.MULTI_STEP_DRAFT, each, graph=bool(config.graph_batches)) for each in lens)
    scenario = Scenario("a tree", (config,), steps, context=CONTEXT)
    return Judge(open_device("model", None)).judged(scenario, session.run(scenario))


def drafting(branches: int, page_size: int = 1, drafts: int = 4, graphs: tuple[int, ...] = ()) -> BackendConfig:
    return BackendConfig(
        16, draft_tokens=drafts, is_draft=True, branches=branches, page_size=page_size, graph_batches=graphs, max_requests=32
    )


@pytest.mark.parametrize(("page_size", "branches"), [(1, 2), (1, 4), (16, 2), (16, 3), (64, 4)])
def test_branches_have_their_own_tokens(session: SourceSession, page_size: int, branches: int) -> None:
    """At the context's end too, and where a page ends within a branch."""
    seen = judged(session, drafting(branches, page_size), (37, 37, 5), (15, 16, 17), (1,))
    assert not seen.sightings
    assert seen.ran.total() == 3 * 2, "each step has two decodes behind the one that comes with catching up"


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("forward_batch.batch_size, self.topk, self", "forward_batch.batch_size, 1, self"),
        ("self.kv_indptr[i, : bs + 1]", "self.kv_indptr[i, : num_seqs + 1]"),
        ("(self.speculative_num_steps, num_seqs, self.topk)", "(self.speculative_num_steps, num_seqs, 1)"),
    ],
    ids=["room for one branch", "ends of the requests", "one branch looked up"],
)
def test_slips_that_a_chain_does_not_show(session: SourceSession, old: str, new: str) -> None:
    """Indices have room for one branch of each request; the first branches alone are described, or looked up."""
    assert not judged(session, drafting(1), (37, 37, 5), edit=(old, new)).sightings
    assert judged(session, drafting(2), (37, 37, 5), edit=(old, new)).sightings


def test_a_tree_in_graphs_has_fewer_requests_in_qo_indptr_than_in_kv_indptr(session: SourceSession) -> None:
    seen = judged(session, drafting(2, graphs=(4,)), (37, 5, 17))
    assert {each.signature for each in seen.sightings} == {"plan-mismatch/recorded/requests of kv_indptr"}
    assert {each.phase for each in seen.sightings} == {Phase.CAPTURE, Phase.REPLAY}


def test_only_a_draft_model_has_a_tree() -> None:
    with pytest.raises(UsageError, match="branches"):
        BackendConfig(16, draft_tokens=4, branches=2)
