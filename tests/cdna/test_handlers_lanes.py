"""Moves between lanes: permlane, DPP, readlane, bpermute, swizzle. Expected values come from the ISA documents' rules."""

from __future__ import annotations

import numpy as np
import pytest
from build import c, ins, s, v
from single_wave import SingleWave, WaveState, random_state, run_reference

from backend.cdna.instruction import Dpp

LANE = np.arange(64, dtype=np.uint32)


@pytest.fixture(scope="module")
def wave() -> SingleWave:
    return SingleWave("gfx950")


@pytest.fixture
def state() -> WaveState:
    made = random_state(np.random.default_rng(5))
    made.vectors[1], made.vectors[2] = LANE, LANE + 100
    return made


def test_permlane32_swap_exchanges_the_upper_half_of_one_with_the_lower_half_of_the_other(
    wave: SingleWave, state: WaveState
) -> None:
    after = wave.run((ins("v_permlane32_swap_b32", v(1), v(2)),), state)
    assert after.vectors[1].tolist() == [*range(32), *range(100, 132)]
    assert after.vectors[2].tolist() == [*range(32, 64), *range(132, 164)]


def test_permlane16_swap_exchanges_odd_rows_of_one_with_even_rows_of_the_other(wave: SingleWave, state: WaveState) -> None:
    after = wave.run((ins("v_permlane16_swap_b32", v(1), v(2)),), state)
    assert after.vectors[1].tolist() == [*range(16), *range(100, 116), *range(32, 48), *range(132, 148)]
    assert after.vectors[2].tolist() == [*range(16, 32), *range(116, 132), *range(48, 64), *range(148, 164)]


@pytest.mark.parametrize(("name", "distance"), [("v_permlane16_swap_b32", 16), ("v_permlane32_swap_b32", 32)])
def test_a_register_that_is_swapped_with_itself_exchanges_its_own_rows(
    wave: SingleWave, state: WaveState, name: str, distance: int
) -> None:
    """The ISA document's loop swaps lane by lane."""
    swap = ins(name, v(1), v(1))
    wanted = [lane ^ distance for lane in range(64)]
    assert run_reference("gfx950", (swap,), state.copy())[0].vectors[1].tolist() == wanted
    assert wave.run((swap,), state).vectors[1].tolist() == wanted


@pytest.mark.parametrize(
    ("control", "source"),
    [
        (0b00_01_10_11, lambda lane: lane // 4 * 4 + 3 - lane % 4),  # quad_perm:[3,2,1,0]
        (0x121, lambda lane: lane // 16 * 16 + (lane % 16 - 1) % 16),  # row_ror:1
        (0x140, lambda lane: lane // 16 * 16 + 15 - lane % 16),  # row_mirror
        (0x157, lambda lane: lane // 16 * 16 + 7),  # row_newbcast:7
    ],
)
def test_dpp_reads_the_lane_that_the_control_names(wave: SingleWave, state: WaveState, control: int, source) -> None:  # type: ignore[no-untyped-def]
    after = wave.run((ins("v_mov_b32", v(3), v(1), dpp=Dpp(control, 15, 15, False)),), state)
    assert after.vectors[3].tolist() == [source(lane) for lane in range(64)]


def test_dpp_leaves_a_lane_without_a_source_alone_unless_bound_ctrl(wave: SingleWave, state: WaveState) -> None:
    before = state.vectors[3].copy()
    for bound_ctrl, expected in ((False, before), (True, np.zeros(64, np.uint32))):
        after = wave.run((ins("v_mov_b32", v(3), v(1), dpp=Dpp(0x111, 15, 15, bound_ctrl)),), state)  # row_shr:1
        for lane in range(64):
            assert after.vectors[3, lane] == (lane - 1 if lane % 16 else expected[lane])


def test_dpp_masks_rows_and_banks(wave: SingleWave, state: WaveState) -> None:
    before = state.vectors[3].copy()
    after = wave.run((ins("v_mov_b32", v(3), v(1), dpp=Dpp(0x150, 0b0101, 0b0010, False)),), state)
    for lane in range(64):
        written = lane // 16 in (0, 2) and lane // 4 % 4 == 1
        assert after.vectors[3, lane] == (lane // 16 * 16 if written else before[lane])


def test_readfirstlane_takes_the_lowest_enabled_lane(wave: SingleWave) -> None:
    state = random_state(np.random.default_rng(1), exec_mask=0xF0)
    state.vectors[1] = LANE
    assert wave.run((ins("v_readfirstlane_b32", s(7), v(1)),), state).scalars[7] == 4
    state.scalars[126:128] = 0
    assert wave.run((ins("v_readfirstlane_b32", s(7), v(1)),), state).scalars[7] == 0


def test_lanes_that_exec_disables_keep_their_value(wave: SingleWave) -> None:
    state = random_state(np.random.default_rng(1), exec_mask=0x5555_5555_5555_5555)
    before = state.vectors[3].copy()
    after = wave.run((ins("v_mov_b32", v(3), c(77)),), state)
    assert after.vectors[3][::2].tolist() == [77] * 32
    assert np.array_equal(after.vectors[3][1::2], before[1::2])


def test_bpermute_pulls_and_permute_pushes(wave: SingleWave, state: WaveState) -> None:
    reverse = (63 - LANE) * 4
    state.vectors[4], state.vectors[5] = reverse, LANE * 3
    assert wave.run((ins("ds_bpermute_b32", v(6), (v(4), v(5))),), state).vectors[6].tolist() == [
        3 * (63 - n) for n in range(64)
    ]
    state.vectors[4] = (LANE // 2) * 4  # two lanes push to each of the first 32: the higher one stays
    after = wave.run((ins("ds_permute_b32", v(6), (v(4), v(5))),), state)
    assert after.vectors[6].tolist() == [3 * (2 * n + 1) for n in range(32)] + [0] * 32


def test_swizzle_by_masks_and_by_quads(wave: SingleWave, state: WaveState) -> None:
    swap_neighbours = 0x1F | 1 << 10
    after = wave.run((ins("ds_swizzle_b32", v(6), v(1), offset=swap_neighbours),), state)
    assert after.vectors[6].tolist() == [n ^ 1 for n in range(64)]
    after = wave.run((ins("ds_swizzle_b32", v(6), v(1), offset=0x8000 | 0b11_11_00_01),), state)
    assert after.vectors[6].tolist() == [n // 4 * 4 + (1, 0, 3, 3)[n % 4] for n in range(64)]
