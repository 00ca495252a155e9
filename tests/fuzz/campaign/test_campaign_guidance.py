"""What guidance breeds from and how often: the better parent of a feature, every kernel alike, families of faults."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from backend.case import Case, DType, MetadataMode
from backend.outcome import Outcome
from backend.path import Path
from fuzz.campaign.features import better, cost, features, margins, names_fault, parent
from fuzz.campaign.guidance import FeatureMap, Frozen
from fuzz.campaign.maker import Maker
from fuzz.campaign.report import NO_PARENT, Parent, Reached
from fuzz.space import space
from fuzz.spec import Spec

KERNELS = [f"2026-06 kernel_{number}.co" for number in range(4)]
FAULT = 1 << 41


def case(*kv_lens: int, **fields: object) -> Case:
    return Case(num_head=16, kv_lens=kv_lens, backend="direct", mode=MetadataMode.FAST, **fields)  # type: ignore[arg-type]


def bred_from(tried: Case, kernel: str = KERNELS[0], family: str = "") -> Parent:
    return Parent(tried, kernel, family, cost(tried))


def run(tried: Case) -> Outcome:
    return Path().run(tried)


def reached(*told: tuple[int, int, int]) -> Reached:
    ids, counts, positions = zip(*told, strict=True)
    return Reached(np.array(ids, np.int64), np.array(counts, np.uint32), np.array(positions, np.uint16))


def test_a_sound_parent_is_better_than_a_faulty_one_and_then_the_cheaper() -> None:
    sound, faulty = bred_from(case(100_000)), bred_from(case(8), family="null-pointer")
    assert better(sound, faulty)
    assert not better(faulty, sound)
    cheap = bred_from(case(8))
    assert better(cheap, sound)
    assert not better(sound, cheap)
    assert not better(cheap, bred_from(case(9))), "a gain that is not worth a report"
    assert cost(case(1000)) > cost(case(1000, page_size=64)) > cost(case(10))


def test_a_case_that_reaches_no_kernel_is_no_parent() -> None:
    refused = run(case(64, max_seqlen_q=5, q_dtype=DType.BF16, kv_dtype=DType.FP8))
    assert refused.observation is None
    assert parent(refused) is None
    sound = parent(run(case(64)))
    assert sound is not None
    assert sound.family == ""
    assert sound.kernel.startswith("2026-06 mla_a8w8_qh16_qseqlen1")


def test_a_faulty_parent_names_the_family_of_its_fault() -> None:
    outcome = run(Case(num_head=64, kv_lens=(1,), backend="sglang-before-27188", q_dtype=DType.FP8, kv_dtype=DType.FP8))
    found = parent(outcome)
    assert outcome.cause is not None
    assert found is not None
    assert found.family == "head-width"
    assert any(names_fault(feature) for feature in features(outcome))
    assert not any(names_fault(feature) for feature in features(run(case(64))))


def test_the_distance_to_what_checks_object_to_is_a_feature() -> None:
    """A shorter last piece, or a fuller buffer, is something new although the planner takes the same branches."""
    near, far = run(case(16, max_seqlen_q=4, num_cu=1)), run(case(1600, max_seqlen_q=4, num_cu=1))
    for outcome, shortest in ((near, 16), (far, 1600)):
        assert outcome.call is not None
        assert outcome.call.plan is not None
        told = dict(margins(outcome.call.plan))
        assert told["piece"] == shortest
        assert 0 <= told["work_info_set"] < outcome.call.plan.buffers["work_info_set"].allocated
    assert near.call.plan.branches == far.call.plan.branches  # type: ignore[union-attr]
    assert set(features(near)) != set(features(far))
    assert set(features(far)) == set(features(run(case(1601, max_seqlen_q=4, num_cu=1))))


def test_a_feature_keeps_the_best_parent_that_any_chunk_offers() -> None:
    known = FeatureMap()
    faulty, dear, cheap = (
        bred_from(case(4), family="hang"),
        bred_from(case(90_000)),
        bred_from(case(4)),
    )
    known.take(0, reached((7, 3, 0), (8, 1, NO_PARENT)), {0: faulty})
    known.take(1, reached((7, 5, 2)), {2: dear})
    first = known.freeze(1)
    assert first.hits == {7: 8, 8: 1}
    assert first.parent(7) == dear
    assert first.parent(8) is None
    known.take(2, reached((7, 1, 0)), {0: cheap})
    known.take(3, reached((7, 1, 0)), {0: faulty})
    assert known.freeze(2).parent(7) == cheap
    assert known.freeze(2).parents == (cheap,), "a parent whose place was taken is not carried along"
    assert first.parent(7) == dear, "what is frozen stays"


def frozen(hits: dict[int, int], parents: dict[int, Parent]) -> Frozen:
    unique = tuple(dict.fromkeys(parents.values()))
    return Frozen(3, hits, unique, {feature: unique.index(each) for feature, each in parents.items()})


def shapes(parents: Frozen, chunks: int) -> Counter[int]:
    """How often each number of heads is bred from, in cases that are not drawn afresh."""
    spec = Spec("direct", heads=(16, 32, 48, 64), max_batch=8)
    maker = Maker(space(spec), 0, 200)
    return Counter(bred.num_head for chunk in range(chunks) for bred in maker.cases(chunk, parents)[50:])


def test_every_kernel_is_bred_from_alike_however_rarely_it_is_met() -> None:
    by_kernel = {kernel: bred_from(case(64).replace(num_head=16 * (n + 1)), kernel) for n, kernel in enumerate(KERNELS)}
    hits = {100 * n + i: (1_000_000, 10_000, 100, 1)[n] for n in range(4) for i in range(40 if n == 0 else 1)}
    parents = {feature: by_kernel[KERNELS[feature // 100]] for feature in hits}
    found = shapes(frozen(hits, parents), 20)
    assert sum(found.values()) == 3000
    assert all(found[heads] == pytest.approx(750, rel=0.15) for heads in (16, 32, 48, 64)), found


def test_what_made_one_kernel_fail_is_tried_on_the_others() -> None:
    """The batch of a known fault comes back with the shape of a kernel that is not known to have it."""
    fault = bred_from(case(*[777] * 5), family="hang")
    sound = bred_from(case(64).replace(num_head=64), KERNELS[1])
    maker = Maker(space(Spec("direct", heads=(16, 32, 48, 64), max_batch=8)), 0, 200)
    bred = maker.cases(5, frozen({FAULT | 5: 1, 9: 1}, {FAULT | 5: fault, 9: sound}))[50:]
    crossed = [each for each in bred if each.num_head == 64 and each.kv_lens == (777,) * 5]
    assert len(crossed) > 15
    alone = maker.cases(5, frozen({9: 1}, {9: sound}))[50:]
    assert not [each for each in alone if each.kv_lens == (777,) * 5]


def test_breeding_depends_on_chunk_and_seed_alone() -> None:
    known = frozen({9: 1}, {9: bred_from(case(64), KERNELS[1])})
    wide = space(Spec("direct", max_batch=8))
    assert Maker(wide, 1, 60).cases(4, known) == Maker(wide, 1, 60).cases(4, known)
    assert Maker(wide, 1, 60).cases(4, known) != Maker(wide, 2, 60).cases(4, known)
    assert Maker(wide, 1, 60).cases(4, known) != Maker(wide, 1, 60).cases(5, known)
