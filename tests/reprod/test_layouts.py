"""Would hardware fault: exact cases of torch's allocator, and shares that follow from them."""

from __future__ import annotations

import dataclasses
import random
from itertools import pairwise

import pytest

from backend.case import Case
from backend.path import Path as CasePath
from backend.real.allocator import GAP, MIB, CachingAllocator, ProcessAddresses
from reprod.layouts import Setting, Stray, lay_out, layouts, percent, share, strays_of, tensor_bytes

FOUNDING = Case(num_head=64, kv_lens=(1,), backend="sglang-before-27188")


def fresh(expandable: bool = False) -> CachingAllocator:
    return CachingAllocator(ProcessAddresses(), expandable)


@pytest.mark.parametrize(
    ("size", "block", "segment"),
    [
        (1, 512, 2 * MIB),
        (513, 1024, 2 * MIB),
        (MIB, MIB, 2 * MIB),
        (MIB + 1, MIB + 512, 20 * MIB),
        (10 * MIB - 512, 10 * MIB - 512, 20 * MIB),
        (10 * MIB, 10 * MIB, 10 * MIB),
        # Up to 1 MiB left over in a large segment stays with the block.
        (13 * MIB, 14 * MIB, 14 * MIB),
        (13 * MIB - 512, 13 * MIB - 512, 14 * MIB),
    ],
)
def test_sizes_of_blocks_and_segments(size: int, block: int, segment: int) -> None:
    made = fresh().allocate(size)
    assert (made.size, made.segment.size) == (block, segment)


def test_best_fit_takes_the_smallest_hole_and_joins_what_is_freed() -> None:
    memory = fresh()
    blocks = {name: memory.allocate(size) for name, size in (("a", 4096), ("b", 512), ("c", 1024), ("d", 512))}
    memory.free(blocks["a"], 4096)
    memory.free(blocks["c"], 1024)
    assert memory.allocate(1024).address == blocks["c"].address
    memory.free(blocks["b"], 512)  # joins with the hole of a
    assert memory.allocate(4608).address == blocks["a"].address


def test_an_expandable_segment_grows_by_granules_and_leaves_no_hole() -> None:
    memory = fresh(expandable=True)
    first, second = memory.allocate(12 * MIB), memory.allocate(12 * MIB)
    assert first.segment is second.segment
    assert second.address == first.end
    assert first.segment.size == 40 * MIB
    memory.free(second, 12 * MIB)
    third = memory.allocate(30 * MIB)
    assert (third.address, third.segment.size) == (first.end, 60 * MIB)


def test_segments_lie_apart() -> None:
    space = ProcessAddresses()
    first, second = space.map(2 * MIB), space.map(20 * MIB)
    assert first.base - second.end == GAP
    assert space.is_mapped(first.base, first.end)
    assert not space.is_mapped(first.base, first.end + 1)
    assert not space.is_mapped(second.end, first.base)


ALWAYS, NEVER = 1.0, 0.0


@pytest.mark.parametrize(
    ("size", "begin", "end", "share_of_faults"),
    [
        # Inside the rounding to 512 bytes nobody else can lie, and it is mapped.
        (100, 100, 512, NEVER),
        # Larger than any hole that the history leaves: a segment of its own, which ends with it.
        (66 * MIB, 66 * MIB, 66 * MIB + 1, ALWAYS),
        # Up to 1 MiB of such a segment's rounding is mapped, and not a byte more.
        (65 * MIB, 65 * MIB, 66 * MIB, NEVER),
        (65 * MIB, 65 * MIB, 66 * MIB + 1, ALWAYS),
        # Below the start of a segment is the gap.
        (66 * MIB, -1, 0, ALWAYS),
        # Small blocks lie in segments of 2 MiB: an access that reaches farther than that leaves them.
        (512, 512, 2 * MIB + 1, ALWAYS),
    ],
)
def test_exact_shares(size: int, begin: int, end: int, share_of_faults: float) -> None:
    for is_write in (False, True):
        found = share([Stray("q", is_write, begin, end)], {"q": size}, Setting.EAGER, 0, 50)
        assert found.one_rank == share_of_faults
        assert found.two_ranks == share_of_faults


def test_a_null_pointer_always_faults() -> None:
    found = share([Stray("o", True, 0, 0, null=True)], {"o": 512}, Setting.GRAPH, 0, 20)
    assert found.one_rank == 1.0


def test_two_ranks_are_two_draws() -> None:
    found = share([Stray("q", False, 512, 1 * MIB)], {"q": 512}, Setting.EAGER, 0, 200)
    assert 0.2 < found.one_rank < 0.8  # half of a 2 MiB segment lies within 1 MiB of its end
    assert found.two_ranks == pytest.approx(1 - (1 - found.one_rank) ** 2)
    assert found.two_ranks > found.one_rank


def test_a_write_into_a_neighbour_is_told_from_one_into_free_memory() -> None:
    sizes = {"q": 512, "o": 512}
    forward = share([Stray("q", True, 512, 1024)], sizes, Setting.EAGER, 0, 100)
    reading = share([Stray("q", False, 512, 1024)], sizes, Setting.EAGER, 0, 100)
    assert 0 < forward.overwrites <= 100 - forward.faults
    assert reading.overwrites == 0


def test_shares_follow_from_the_seed_alone() -> None:
    outcome = CasePath().run(FOUNDING)
    first, again, other = layouts(outcome, draws=60), layouts(outcome, draws=60), layouts(outcome, seed=1, draws=60)
    assert first == again
    assert first is not None
    assert other is not None
    assert first.shares != other.shares


def test_blocks_of_a_layout_do_not_overlap() -> None:
    sizes = tensor_bytes(CasePath().run(FOUNDING.replace(kv_lens=(4096,) * 8)).call)  # type: ignore[arg-type]
    for setting in Setting:
        for seed in range(20):
            space, blocks = lay_out(sizes, setting, random.Random(seed))
            placed = sorted(blocks.values(), key=lambda block: block.address)
            assert all(one.end <= two.address for one, two in pairwise(placed))
            assert all(space.is_mapped(b.address, b.end) and b.size >= sizes[name] for name, b in blocks.items())


def test_the_founding_fault_seldom_shows_small_and_always_large() -> None:
    """Why it died under load: 3 rows past the end stay in a segment of 2 MiB, 3 * 16 rows of 64 KiB never do."""
    small, large = (layouts(CasePath().run(FOUNDING.replace(kv_lens=(1,) * batch)), draws=100) for batch in (1, 16))
    assert small is not None
    assert large is not None
    eager_small, eager_large = small.shares[0], large.shares[0]
    assert 0 < eager_small.faults < 40
    assert eager_small.overwrites > 40
    assert eager_large.one_rank == 1.0


def test_accesses_of_the_founding_fault() -> None:
    outcome = CasePath().run(FOUNDING)
    assert list(strays_of(outcome)) == [
        Stray("reduce_indptr", True, 8, 20),
        Stray("reduce_final_map", True, 8, 32),
        Stray("q", False, 36864, 4 * 36864),
        Stray("o", True, 65536, 4 * 65536),
    ]


def test_nothing_outside_is_no_layout() -> None:
    assert layouts(CasePath().run(Case(num_head=64, kv_lens=(1,)))) is None


def test_of_what_torch_does_not_allocate_nothing_is_said() -> None:
    """A wild access is told by what lies nearest, which may be the kernel's arguments."""
    outcome = CasePath().run(FOUNDING)
    assert outcome.observation is not None
    wild = tuple(dataclasses.replace(each, tensor="kernarg") for each in outcome.observation.violations)
    observed = dataclasses.replace(outcome, observation=dataclasses.replace(outcome.observation, violations=wild))
    found = layouts(observed, draws=2)
    assert found is not None
    assert {stray.tensor for stray in found.strays} == {"reduce_indptr", "reduce_final_map"}


def test_percent_never_rounds_to_none_or_all() -> None:
    assert [percent(x) for x in (0.0, 0.0001, 0.5, 0.9999, 1.0)] == ["0 %", "0.1 %", "50.0 %", "99.9 %", "100 %"]
