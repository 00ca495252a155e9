"""Red zones: every byte outside of a tensor that changes is seen, with its offset; nothing else is."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from backend.devices.gpu.memory import SMALLEST_ZONE, Damage, GuardedMemory, SeparateMemory, Wanted  # noqa: E402

CPU = torch.device("cpu")


def memory() -> GuardedMemory:
    made = GuardedMemory([Wanted("q", 1000, 1), Wanted("o", 600, 2, reach=4), Wanted("plan", 40, 4)], CPU)
    for name, size in (("q", 1000), ("o", 600), ("plan", 40)):
        made.write(name, 0, torch.zeros(size, dtype=torch.uint8))
    made.seal(["q", "plan"], [])
    return made


def put(made: GuardedMemory, name: str, offset: int, data: list[int]) -> None:
    """What a kernel does: stores without asking."""
    address = {one[0]: one[1] for one in made.ranges()}[name] - made.ranges()[0][1] + made._placed["q"].begin + offset
    made._bytes[address : address + len(data)] = torch.tensor(data, dtype=torch.uint8)


def test_a_clean_launch_shows_nothing() -> None:
    made = memory()
    put(made, "o", 0, [1] * 600)
    assert made.damage() == []
    assert made.overwritten() == []


@pytest.mark.parametrize(
    ("name", "offset", "data", "expected"),
    [
        ("q", 1000, [7], Damage("q", 1000, 1001, 1)),
        ("q", -1, [7], Damage("q", -1, 0, 1)),
        ("q", 1000 + SMALLEST_ZONE - 1, [0], Damage("q", 1000 + SMALLEST_ZONE - 1, 1000 + SMALLEST_ZONE, 1)),
        ("o", 600, [0xFF, 0x7F], Damage("o", 600, 602, 2)),  # the NaN that a GPU computes, one byte of which is poison's
        ("o", 598, [1, 1, 1, 1], Damage("o", 600, 602, 2)),
        ("plan", -8, [1, 0, 0, 0, 1, 0, 0, 0], Damage("plan", -8, 0, 8)),
        ("plan", 44, [5, 5, 5, 5], Damage("plan", 44, 48, 4)),
    ],
)
def test_a_store_outside_is_seen_where_it_is(name: str, offset: int, data: list[int], expected: Damage) -> None:
    made = memory()
    put(made, name, offset, data)
    assert made.damage() == [expected]


def test_a_store_into_an_input_is_seen() -> None:
    for name, offset in (("q", 0), ("q", 999), ("plan", 39)):
        made = memory()
        put(made, name, offset, [1])
        assert made.damage() == []
        assert made.overwritten() == [name]


def test_swapped_words_of_an_input_are_seen() -> None:
    made = memory()
    made.write("plan", 0, torch.tensor([1, 2, 3, 4], dtype=torch.int32))
    made.seal(["plan"], [])
    made.write("plan", 0, torch.tensor([1, 3, 2, 4], dtype=torch.int32))
    assert made.overwritten() == ["plan"]


def test_damage_of_one_launch_is_not_told_again_for_the_next() -> None:
    made = memory()
    put(made, "o", 700, [1, 2])
    assert made.damage() == [Damage("o", 700, 702, 2)]
    assert made.damage() == []
    put(made, "o", 702, [3, 4])
    assert made.damage() == [Damage("o", 702, 704, 2)]


def test_what_the_planner_overran_is_there_to_be_read_and_is_not_the_kernels() -> None:
    made = memory()
    made.write("plan", 36, torch.tensor([11, 12, 13], dtype=torch.int32))  # word 9 is the last of its own
    made.seal(["q"], ["plan"])
    begin = made._placed["plan"].begin
    assert made._bytes[begin + 36 : begin + 48].view(torch.int32).tolist() == [11, 12, 13]
    assert made.damage() == []
    put(made, "plan", 44, [0, 0, 0, 0])
    assert made.damage() == [Damage("plan", 44, 48, 4)]


def test_an_overrun_longer_than_its_zone_is_cut_there() -> None:
    made = memory()
    made.write("q", 990, torch.full((2 * SMALLEST_ZONE,), 3, dtype=torch.uint8))
    made.seal([], ["q"])
    assert made._bytes[made._placed["o"].low : made._placed["o"].begin].unique().tolist() == [0xFF]


def test_an_output_is_watched_four_times_its_size_past_its_end() -> None:
    size = SMALLEST_ZONE
    made = GuardedMemory([Wanted("o", size, 2, reach=4), Wanted("q", 16, 1)], CPU)
    made.seal([], [])
    assert made._placed["o"].high - made._placed["o"].end >= 4 * size
    made._bytes[made._placed["o"].begin + 5 * size - 2] = 0
    assert made.damage() == [Damage("o", 5 * size - 2, 5 * size, 2)]


def test_separate_allocations_have_no_zones_and_take_what_fits() -> None:
    made = SeparateMemory([Wanted("q", 8, 4), Wanted("empty", 0, 4)], CPU)
    made.write("q", -4, torch.tensor([1, 2, 3, 4], dtype=torch.int32))
    assert made.tensor("q", torch.int32).tolist() == [2, 3]
    assert made.damage() == []
    assert [name for name, _, _ in made.ranges()] == ["q"]
