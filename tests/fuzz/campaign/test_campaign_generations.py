"""Which cases a campaign runs: a partition of chunks, made from earlier ones alone, the same in any order and process."""

from __future__ import annotations

from random import Random

import pytest
from undisturbed import reports

from backend.case import Case
from backend.serving.bounds import AllocatedFor
from fuzz.campaign.config import CampaignConfig
from fuzz.campaign.guidance import LAG, Frozen, Generations, Guide
from fuzz.campaign.maker import Maker
from fuzz.campaign.mutate import Mutator
from fuzz.campaign.store_blobs import StoredChunk
from fuzz.space import CaseSpace
from fuzz.strategies import MEMORY, NEAR_POOL

CONFIG = CampaignConfig(backend="direct", cases=400, chunk_cases=20, generation_chunks=4)


@pytest.mark.parametrize("most", [1, 2, 3, 4, 7, 64])
def test_generations_partition_the_chunks(most: int) -> None:
    generations = Generations(most)
    chunks = [generations.of(chunk) for chunk in range(10 * most + 10)]
    assert chunks == sorted(chunks)
    for generation in range(chunks[-1]):
        first, after = generations.first_chunk(generation), generations.first_chunk(generation + 1)
        assert [chunk for chunk, each in enumerate(chunks) if each == generation] == list(range(first, after))
        assert 1 <= after - first <= most
    assert chunks.count(chunks[-2]) <= most


@pytest.mark.parametrize("most", [1, 3, 64])
def test_a_generation_is_made_from_all_but_the_one_before_it(most: int) -> None:
    generations = Generations(most)
    for generation in range(12):
        made_from = generations.made_from(generation)
        assert made_from == (0 if generation < LAG else generations.first_chunk(generation - 1))
        assert all(generations.of(chunk) <= generation - LAG for chunk in range(made_from))


def test_cases_do_not_depend_on_the_order_in_which_chunks_are_done() -> None:
    """Chunks come back in any order that the hand-out allows; what later chunks are made of stays the same."""
    found = reports(CONFIG)
    wanted = _cases_in_order(CONFIG, found)
    random = Random(5)
    guide = Guide(CONFIG.generation_chunks, guided=True)
    maker = Maker(CONFIG.space(), CONFIG.seed, CONFIG.cases_a_chunk)
    waiting, handed, made = list(range(len(found))), [], {}
    while waiting or handed:
        frozen = guide.frozen(waiting[0]) if waiting else None
        if frozen is not None and (not handed or random.random() < 0.7):
            made[waiting[0]] = maker.cases(waiting[0], frozen)
            handed.append(waiting.pop(0))
        else:
            done = handed.pop(random.randrange(len(handed)))
            guide.take(StoredChunk(done, found[done].reached, found[done].kept))
    assert made == wanted


def test_guided_chunks_differ_from_fresh_ones_and_keep_a_fresh_part() -> None:
    found = reports(CONFIG)
    guided = _cases_in_order(CONFIG, found)
    unguided = _cases_in_order(CONFIG.replace(guided=False), found)
    last = len(found) - 1
    assert guided[0] == unguided[0]
    assert guided[1] == unguided[1]
    assert guided[last] != unguided[last]
    assert guided[last][: CONFIG.cases_a_chunk // 4] == unguided[last][: CONFIG.cases_a_chunk // 4]


def test_a_frozen_state_survives_its_text() -> None:
    guide = Guide(CONFIG.generation_chunks, guided=True)
    for report in reports(CONFIG.replace(cases=80)):
        guide.take(StoredChunk(report.chunk, report.reached, report.kept))
    frozen = guide.frozen(3)
    assert frozen is not None
    assert frozen.parents
    again = Frozen.from_text(frozen.to_text())
    assert (again.generation, again.hits, again.parents, again.parent_of) == (
        frozen.generation,
        frozen.hits,
        frozen.parents,
        frozen.parent_of,
    )
    maker = Maker(CONFIG.space(), 0, 20)
    assert maker.cases(3, again) == Maker(CONFIG.space(), 0, 20).cases(3, frozen)


@pytest.mark.parametrize("backend", ["sglang-27188", "vllm", "direct"])
def test_mutants_are_cases_that_could_be_drawn(backend: str) -> None:
    """Thirty steps away from a drawn case every mutant and every crossing still keeps to the bounds of its space."""
    space = CampaignConfig(backend=backend, max_kv_len=5000, max_batch=40).space()
    mutator, random = Mutator(space), Random(1)
    drawn = Maker(space, 0, 50).cases(0, Frozen())
    for parent in drawn:
        case = parent
        for _ in range(10):
            case = mutator.mutate(case, lambda: random.choice(drawn), random)
            _within(case, space)
            case = mutator.cross(case, random.choice(drawn), random)
            _within(case, space)
            case = mutator.cross(random.choice(drawn), case, random)
            _within(case, space)


def _within(case: Case, space: CaseSpace) -> None:
    assert space.holds(case)
    assert case.release in space.releases
    assert 1 <= case.batch <= space.max_batch
    assert sum(case.kv_lens) <= space.max_tokens
    assert all(length <= space.max_kv_len for length in case.kv_lens)
    assert all(length >= case.max_seqlen_q or (length == 0 and space.empty_requests) for length in case.kv_lens)
    assert case.graph_batch is None or space.graphs
    assert case.query_lens is None or (space.ragged_rows and case.max_seqlen_q > 1)
    assert case.first_page * case.page_size * 576 * case.kv_dtype.itemsize < (MEMORY if space.far_pools else NEAR_POOL)
    if case.max_batch is not None:
        assert space.allocation is not AllocatedFor.RUNNING
        if space.allocation is AllocatedFor.LARGEST_GRAPH:
            assert case.graph_batch is not None
            assert case.max_batch >= case.graph_batch
        else:
            assert case.max_batch >= case.batch


def _cases_in_order(config: CampaignConfig, found: list) -> dict[int, list[Case]]:  # type: ignore[type-arg]
    guide = Guide(config.generation_chunks, config.guided)
    maker = Maker(config.space(), config.seed, config.cases_a_chunk)
    made = {}
    for report in found:
        frozen = guide.frozen(report.chunk)
        assert frozen is not None
        made[report.chunk] = maker.cases(report.chunk, frozen)
        guide.take(StoredChunk(report.chunk, report.reached, report.kept))
    return made
