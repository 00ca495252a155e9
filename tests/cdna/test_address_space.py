"""Regions of an address space: where they lie, what is nearest, what is refused."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from backend.cdna.memory import SPACING, AddressSpace, Paging, Queue
from backend.errors import UsageError
from tests.run_facts import written_bytes


def test_regions_lie_far_apart_and_cross_four_gibibytes() -> None:
    space = AddressSpace()
    regions = [space.add_bounds(f"r{n}", size) for n, size in enumerate((1, 64 << 30, 4096, 1 << 40, 7))]
    for before, after in itertools.pairwise(regions):
        assert after.base - before.end >= SPACING // 2
    assert all(region.end < 1 << 48 for region in regions)
    assert all((region.base & 0xFFFFFFFF) + (4 << 20) > 1 << 32 for region in regions)  # a lost carry shows


def test_an_array_is_used_in_place() -> None:
    space = AddressSpace()
    array = np.arange(6, dtype=np.int32).reshape(2, 3)
    region = space.add_array("a", array, writable=True)
    assert region.contents is not None
    region.contents[4] = 99
    assert array[0, 1] == 99
    assert region.size == 24


def test_blank_memory_is_poison_until_written() -> None:
    space = AddressSpace(poison=0x11)
    region = space.add_blank("b", 10)
    assert region.contents is not None
    assert region.written is not None
    assert set(region.contents) == {0x11}
    assert not written_bytes(region).any()
    region.written[0] = 0b101
    assert written_bytes(region).tolist() == [True, False, True] + [False] * 7


@given(st.lists(st.integers(0, 5000), min_size=1, max_size=6), st.integers(-1000, 60_000))
def test_the_nearest_region_and_the_signed_offset(sizes: list[int], address: int) -> None:
    """Against a search of all bytes' distances."""
    space = AddressSpace()
    base, spans = 10_000, []
    for number, size in enumerate(sizes):
        space.add_bounds(f"r{number}", size, base=base)
        spans.append((base, base + size))
        base += size + 777
    found = space.locate(address)
    assert found is not None
    region, offset = found

    def distance(span: tuple[int, int]) -> int:
        return max(span[0] - address, address - span[1] + 1, 0)

    assert distance((region.base, region.end)) == min(map(distance, spans))
    expected = address - region.end if address >= region.end else address - region.base
    assert offset == expected


def test_what_a_space_refuses() -> None:
    space = AddressSpace()
    space.add_bounds("a", 100, base=1000)
    with pytest.raises(UsageError, match="name"):
        space.add_bounds("a", 1)
    with pytest.raises(UsageError, match="overlap"):
        space.add_bounds("b", 100, base=1099)
    with pytest.raises(UsageError, match="2\\^48"):
        space.add_bounds("b", 100, base=(1 << 48) - 50)
    with pytest.raises(UsageError, match="contiguous"):
        space.add_array("b", np.zeros((4, 4))[:, ::2])
    with pytest.raises(UsageError, match="allowed pages"):
        space.add_bounds("b", 1000, paging=Paging(64, np.zeros((2, 15), np.bool_)))
    with pytest.raises(UsageError, match="page_bytes"):
        space.add_bounds("b", 1000, paging=Paging(0))
    with pytest.raises(UsageError, match="poison"):
        AddressSpace(poison=256)
    with pytest.raises(UsageError, match="region"):
        space["nothing"]
    space.remove("a")
    assert len(space) == 0
    assert space.locate(1000) is None


def test_a_queue_s_elements_are_counted_with_the_cut_one() -> None:
    space = AddressSpace()
    region = space.add_bounds("q", 100, queue=Queue(32))
    assert region.queue is not None
    assert -(-region.size // region.queue.element_bytes) == 4
