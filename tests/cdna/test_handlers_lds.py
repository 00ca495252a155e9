"""LDS, LDS-DMA and transposing reads. Expected values come from the ISA documents' rules."""

from __future__ import annotations

import numpy as np
import pytest
from build import M0, OFF, c, ins, s, v
from single_wave import SingleWave, random_state

from backend.cdna.execute import layout as at
from backend.cdna.memory import AddressSpace
from backend.cdna.result import AccessKind

LANE = np.arange(64, dtype=np.uint32)


def space_with(array: np.ndarray) -> AddressSpace:
    made = AddressSpace()
    made.add_array("kernarg", np.zeros(16, np.uint8))
    made.add_array("tensor", array)
    return made


def test_lds_dma_of_a_buffer_puts_lane_after_lane_at_m0_plus_offset() -> None:
    data = np.arange(4096, dtype=np.uint32)
    wave = SingleWave("gfx950", space_with(data))
    state = random_state(np.random.default_rng(0))
    base = wave.space["tensor"].base
    state.scalars[4:8] = base & 0xFFFFFFFF, base >> 32, data.nbytes, 0x20000
    state.scalars[124] = 512
    state.vectors[1] = 4 * (63 - LANE)
    state.lds[:] = 0
    load = ins("buffer_load_dword", (), (v(1), s(4, 4), c(0)), offen=True, lds=True, offset=16)
    after = wave.run((load,), state)
    words = after.lds.view(np.uint32)
    assert words[(512 + 16) // 4 : (512 + 16) // 4 + 64].tolist() == [63 - n + 4 for n in range(64)]
    assert np.count_nonzero(words) == 64


def test_lds_dma_of_16_bytes_a_lane() -> None:
    data = np.arange(4096, dtype=np.uint32)
    wave = SingleWave("gfx950", space_with(data))
    state = random_state(np.random.default_rng(0), exec_mask=0b101)
    base = wave.space["tensor"].base
    for lane in range(64):
        address = base + 64 * lane
        state.vectors[2, lane], state.vectors[3, lane] = address & 0xFFFFFFFF, address >> 32
    state.scalars[124] = 256
    state.lds[:] = 0
    after = wave.run((ins("global_load_lds_dwordx4", (), (v(2, 2), OFF)),), state)
    words = after.lds.view(np.uint32)
    assert words[64:68].tolist() == [0, 1, 2, 3]
    assert words[68:72].tolist() == [0, 0, 0, 0]  # lane 1 is disabled and its place stays
    assert words[72:76].tolist() == [32, 33, 34, 35]


def test_a_clamped_lds_dma_writes_zero() -> None:
    wave = SingleWave("gfx942", space_with(np.full(64, 0xABCD, np.uint32)))
    state = random_state(np.random.default_rng(0))
    base = wave.space["tensor"].base
    state.scalars[4:8] = base & 0xFFFFFFFF, base >> 32, 128, 0x20000
    state.scalars[124] = 0
    state.vectors[1] = 4 * LANE
    state.lds[:] = 0xEE
    after = wave.run((ins("buffer_load_dword", (), (v(1), s(4, 4), c(0)), offen=True, lds=True),), state)
    assert after.lds[:256].view(np.uint32).tolist() == [0xABCD] * 32 + [0] * 32


@pytest.mark.parametrize("kind", ["b8", "b16"])
def test_transposing_reads(kind: str) -> None:
    """Within 16 lanes, dst[c].byte[j] = src[2j + (c >> 3)].byte[c & 7]; dst[c].half[j] = src[4j + (c >> 2)].half[c & 3]."""
    state = random_state(np.random.default_rng(3))
    state.vectors[1] = LANE * 8
    source = state.lds[:512].reshape(64, 8).copy()
    after = SingleWave("gfx950").run((ins(f"ds_read_b64_tr_{kind}", v(4, 2), v(1)),), state)
    result = np.ascontiguousarray(after.vectors[4:6].T).view(np.uint8)
    for lane in range(64):
        first, column = lane // 16 * 16, lane % 16
        for j in range(8 if kind == "b8" else 4):
            if kind == "b8":
                assert result[lane, j] == source[first + 2 * j + (column >> 3), column & 7]
            else:
                half = source[first + 4 * j + (column >> 2)].view(np.uint16)[column & 3]
                assert result[lane].view(np.uint16)[j] == half


def test_two_address_forms_count_in_elements() -> None:
    state = random_state(np.random.default_rng(3))
    words = state.lds.view(np.uint32)
    state.vectors[1] = 16
    after = SingleWave("gfx942").run((ins("ds_read2_b32", v(4, 2), v(1), offset0=1, offset1=3),), state)
    assert after.vectors[4:6, 0].tolist() == [words[4 + 1], words[4 + 3]]
    after = SingleWave("gfx942").run((ins("ds_read2st64_b32", v(4, 2), v(1), offset0=1, offset1=3),), state)
    assert after.vectors[4:6, 0].tolist() == [words[4 + 64], words[4 + 192]]


def test_beyond_lds_reads_zero_writes_nothing_and_is_recorded() -> None:
    wave = SingleWave("gfx942")
    state = random_state(np.random.default_rng(3))
    state.vectors[1] = 4096 - 4 + 4 * (LANE // 32)
    state.vectors[2] = 0x11111111
    after = wave.run((ins("ds_read_b32", v(4), v(1)), ins("ds_write_b32", (), (v(1), v(2)))), state)
    last = state.lds[-4:].view(np.uint32)[0]
    assert after.vectors[4].tolist() == [last] * 32 + [0] * 32
    assert after.lds[-4:].view(np.uint32)[0] == 0x11111111
    assert wave.recording is not None
    assert [int(row[at.EVENT_KIND]) for row in wave.recording.events[:2]] == [AccessKind.LDS_OUT_OF_BOUNDS] * 2
    assert int(wave.recording.events[0, at.EVENT_LANES]) & (1 << 64) - 1 == 0xFFFFFFFF << 32


def test_all_of_m0_is_used() -> None:
    wave = SingleWave("gfx950", space_with(np.arange(64, dtype=np.uint32)))
    state = random_state(np.random.default_rng(0))
    base = wave.space["tensor"].base
    state.scalars[4:8] = base & 0xFFFFFFFF, base >> 32, 256, 0x20000
    state.vectors[1] = 4 * LANE
    setup = ins("s_mov_b32", M0, c(0x10000))
    load = ins("buffer_load_dword", (), (v(1), s(4, 4), c(0)), offen=True, lds=True)
    after = wave.run((setup, load), state)
    assert np.array_equal(after.lds, state.lds)  # 64 KiB on, beyond the 4096 bytes: not at M0[15:0] = 0
    assert wave.recording is not None
    assert int(wave.recording.events[0, at.EVENT_KIND]) == AccessKind.LDS_OUT_OF_BOUNDS
