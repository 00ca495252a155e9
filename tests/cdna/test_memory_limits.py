"""Each limit of memory to the byte: an access that ends at it is within, one that passes it by a byte is not.

Random accesses seldom end just there (test_memory_random.py aims some at it). Here the lanes of a wave walk across each limit,
at both of its ends, so that whoever moves one by a byte, in the fast path or the slow one, is found out by name. What is
expected is the limit's own definition: `0 <= place` and `place + size <= limit`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from build import OFF, c, code, ins, s, v
from numpy.typing import NDArray
from single_wave import LDS_BYTES, SCRATCH_BYTES, SingleWave, WaveState, random_state
from test_machine import END, pointer, run

from backend.cdna.execute import layout as at
from backend.cdna.execute.layout import APERTURES
from backend.cdna.instruction import Instruction, Operand
from backend.cdna.memory import AddressSpace
from backend.cdna.record import RecordOptions
from backend.cdna.result import AccessKind, Mode

SIZE = 1001
"""Bytes of the region, and what descriptors end at: no multiple of a dword."""

LOADS = {"ubyte": 1, "ushort": 2, "dword": 4, "dwordx2": 8, "dwordx3": 12, "dwordx4": 16}
STORES = {"byte": 1, "short": 2, "dword": 4, "dwordx2": 8, "dwordx3": 12, "dwordx4": 16}
MOVES = [(f"load_{name}", size) for name, size in LOADS.items()] + [(f"store_{name}", size) for name, size in STORES.items()]
DS = {"read_u8": 1, "read_u16": 2, "read_b32": 4, "read_b64": 8, "read_b96": 12, "read_b128": 16}
DS |= {"write_b8": 1, "write_b16": 2, "write_b32": 4, "write_b64": 8, "write_b96": 12, "write_b128": 16}

ADDRESS, DATA, RESULT, DESCRIPTOR, SOFFSET = 2, 20, 40, 8, 12
UNLIMITED = 0xFFFF_FFF0
PATHS = pytest.mark.parametrize("slow_path", [False, True], ids=["fast path", "slow path"])
LANES = np.arange(64, dtype=np.int64)
Places = NDArray[np.int64]


def walks(limit: int, size: int) -> Iterator[Places]:
    """Where 64 accesses of `size` bytes begin: across either end of a memory of `limit` bytes, and just within it."""
    for first in (-32, limit - 32):
        yield first + LANES
    for short in (-1, 0, 1):
        yield short + LANES
        yield limit - size - 63 + short + LANES


def outside(places: Places, size: int, limit: int) -> set[int]:
    return set(np.flatnonzero((places < 0) | (places + size > limit)).tolist())


def state_of(places: Places, base: int = 0) -> WaveState:
    """Registers with the places as 64-bit addresses from `base` on, and in 32 bits from 0 on one register before."""
    state = random_state(np.random.default_rng(0))
    state.scalars[124] = 0
    state.vectors[DATA : DATA + 4] = 0x5B5B_5B5B
    state.vectors[ADDRESS - 1] = places & 0xFFFF_FFFF
    address = base + places
    state.vectors[ADDRESS], state.vectors[ADDRESS + 1] = address & 0xFFFF_FFFF, address >> 32 & 0xFFFF_FFFF
    return state


class Tried:
    """One instruction, run. bad: lanes by what was wrong with them. stopped: it has no model as it was given."""

    def __init__(self, instruction: Instruction, state: WaveState, space: AddressSpace, slow_path: bool = False) -> None:
        wave = SingleWave("gfx950", space)
        self.after = wave.run((instruction,), state, RecordOptions(slow_path=slow_path))
        self.stopped = int(wave.context[at.CTX_UNMODELLED]) >= 0
        self.bad: dict[AccessKind, set[int]] = {}
        assert wave.recording is not None
        for event in wave.recording.events[: int(wave.context[at.CTX_EVENT_COUNT])]:
            mask = int(event[at.EVENT_LANES]) & (1 << 64) - 1 or 1  # a scalar access has no lanes
            lanes = {lane for lane in range(64) if mask >> lane & 1}
            self.bad.setdefault(AccessKind(int(event[at.EVENT_KIND])), set()).update(lanes)


def memory(size: int = SIZE) -> tuple[AddressSpace, int, NDArray[np.uint8]]:
    """A space with one writable region of bytes that are not 0, its base, its bytes."""
    space, content = AddressSpace(), np.full(size, 0xA5, np.uint8)
    return space, space.add_array("memory", content, writable=True).base, content


def move(memory_kind: str, name: str, operands: tuple[Operand, ...], size: int, **modifiers: Any) -> Instruction:
    """A load into RESULT or a store from DATA; operands: those of the address."""
    dwords = max(size // 4, 1)
    if not name.startswith(("store", "write")):
        return ins(f"{memory_kind}_{name}", v(RESULT, dwords), operands, **modifiers)
    data = v(DATA, dwords)
    placed = (data, *operands) if memory_kind == "buffer" else (operands[0], data, *operands[1:])
    return ins(f"{memory_kind}_{name}", (), placed, **modifiers)


def describe(state: WaveState, base: int, records: int, stride: int = 0) -> None:
    """The descriptor's scalars."""
    words = (base & 0xFFFF_FFFF, base >> 32 | stride << 16, records, 0x20000)
    state.scalars[DESCRIPTOR : DESCRIPTOR + 4] = words


@PATHS
@pytest.mark.parametrize(("name", "size"), MOVES)
def test_a_region_ends_at_its_ends(name: str, size: int, slow_path: bool) -> None:
    for places in walks(SIZE, size):
        wanted = outside(places, size, SIZE)
        for offset in (0, -24):
            pair = v(ADDRESS, 2)
            for kind, operands in (("global", (pair, OFF)), ("flat", (pair,))):
                space, base, _ = memory()
                tried = Tried(
                    move(kind, name, operands, size, offset=offset), state_of(places - offset, base), space, slow_path
                )
                assert tried.bad.get(AccessKind.OUT_OF_BOUNDS, set()) == wanted, (kind, places[0], offset)
        space, base, _ = memory()
        state = state_of(places + 64)
        describe(state, base - 64, UNLIMITED)
        given = (v(ADDRESS - 1), s(DESCRIPTOR, 4), c(0))
        tried = Tried(move("buffer", name, given, size, offen=True), state, space, slow_path)
        assert tried.bad.get(AccessKind.OUT_OF_BOUNDS, set()) == wanted, places[0]


@PATHS
@pytest.mark.parametrize(("name", "size"), MOVES)
def test_a_descriptor_ends_at_its_records(name: str, size: int, slow_path: bool) -> None:
    """Each dword by itself; place counts from the descriptor's base, soffset and offset included."""
    for places in walks(SIZE, size):
        if places[0] < 0:
            continue  # there is no place before a descriptor's base
        space, base, content = memory(2 * SIZE)
        soffset = 20 if places[0] >= 32 else 0
        state = state_of(places - 12 - soffset)
        describe(state, base, SIZE)
        state.scalars[SOFFSET] = soffset
        given = (v(ADDRESS - 1), s(DESCRIPTOR, 4), s(SOFFSET))
        tried = Tried(move("buffer", name, given, size, offen=True, offset=12), state, space, slow_path)
        assert set(tried.bad) <= {AccessKind.CLAMPED}
        assert tried.bad.get(AccessKind.CLAMPED, set()) == outside(places, size, SIZE), places[0]
        unit = min(size, 4)
        ends = np.array([places + unit * (dword + 1) for dword in range(max(size // 4, 1))])
        if name.startswith("load"):
            loaded = tried.after.vectors[RESULT : RESULT + len(ends)]
            np.testing.assert_array_equal(loaded != 0, ends <= SIZE)
        else:
            stored = np.full(2 * SIZE, 0xA5, np.uint8)
            for end in ends[ends <= SIZE].tolist():
                stored[end - unit : end] = 0x5B
            np.testing.assert_array_equal(content, stored)


@pytest.mark.parametrize("beyond", [-1, 0, 1])
@pytest.mark.parametrize(("name", "size"), [("add", 4), ("add_x2", 8)])
def test_a_descriptor_s_records_hold_for_atomics(name: str, size: int, beyond: int) -> None:
    places, records = LANES * size, 40 * size + beyond
    space, base, _ = memory(2048)
    state = state_of(places)
    describe(state, base, records)
    given = (v(DATA, size // 4), v(ADDRESS - 1), s(DESCRIPTOR, 4), c(0))
    tried = Tried(ins(f"buffer_atomic_{name}", (), given, offen=True), state, space)
    assert tried.bad == {AccessKind.CLAMPED: outside(places, size, records)}


@pytest.mark.parametrize("stride", [0, 4])
def test_a_descriptor_s_records_hold_for_indices(stride: int) -> None:
    """They count strides; bytes where there is no stride."""
    space, base, _ = memory(2048)
    state = state_of(LANES)
    describe(state, base, 40, stride)
    state.vectors[ADDRESS] = 0 if stride else LANES
    state.vectors[ADDRESS - 1] = LANES if stride else 0
    given = (v(ADDRESS - 1, 2), s(DESCRIPTOR, 4), c(0))
    tried = Tried(move("buffer", "load_ubyte", given, 1, offen=True, idxen=True), state, space)
    assert tried.bad == {AccessKind.CLAMPED: set(range(40, 64))}


@pytest.mark.parametrize(("name", "size"), DS.items())
def test_lds_ends_where_the_workgroup_s_does(name: str, size: int) -> None:
    for places in walks(LDS_BYTES, size):
        for offset in (0, 24):
            tried = Tried(move("ds", name, (v(ADDRESS - 1),), size, offset=offset), state_of(places - offset), AddressSpace())
            wanted = outside(places, size, LDS_BYTES)
            assert tried.bad == ({AccessKind.LDS_OUT_OF_BOUNDS: wanted} if wanted else {}), (places[0], offset)


@pytest.mark.parametrize(("name", "size"), MOVES)
def test_lds_ends_there_for_flat_accesses_too(name: str, size: int) -> None:
    """Just below the aperture of LDS lies the last of the 48 bits of global memory, where nothing is."""
    for places in walks(LDS_BYTES, size):
        tried = Tried(move("flat", name, (v(ADDRESS, 2),), size), state_of(places, APERTURES[0]), AddressSpace())
        wanted = outside(places, size, LDS_BYTES)
        assert tried.bad.get(AccessKind.LDS_OUT_OF_BOUNDS, set()) == wanted & set(np.flatnonzero(places >= 0).tolist())
        assert tried.bad.get(AccessKind.OUT_OF_BOUNDS, set()) == set(np.flatnonzero(places < 0).tolist())


def test_lds_ends_there_for_what_memory_sends_to_it() -> None:
    """LDS-DMA: lane n's dword goes to M0 + offset + 4 n."""
    for places in walks(LDS_BYTES, 4):
        first = int(places[0])
        lanes_places = first + 4 * LANES
        offset = min(first, 0)
        space, base, _ = memory()
        state = state_of(LANES * 4, base - offset)
        state.scalars[124] = first - offset
        tried = Tried(ins("global_load_lds_dword", (), (v(ADDRESS, 2), OFF), offset=offset), state, space)
        wanted = outside(lanes_places, 4, LDS_BYTES)
        assert tried.bad == ({AccessKind.LDS_OUT_OF_BOUNDS: wanted} if wanted else {}), first


@pytest.mark.parametrize(("name", "size"), MOVES)
def test_a_private_segment_ends_at_its_ends(name: str, size: int) -> None:
    """One lane that leaves it stops the run, by a scratch instruction and by a flat one."""
    for places in walks(SCRATCH_BYTES, size):
        stops = bool(outside(places, size, SCRATCH_BYTES))
        offset = int(min(places.min(), 0))
        scratch = move("scratch", name, (v(ADDRESS - 1), OFF), size, offset=offset)
        assert Tried(scratch, state_of(places - offset), AddressSpace()).stopped == stops, places[0]
        flat = move("flat", name, (v(ADDRESS, 2),), size)
        assert Tried(flat, state_of(places, APERTURES[2]), AddressSpace()).stopped == stops, places[0]


@pytest.mark.parametrize("dwords", [1, 2, 4, 8, 16])
def test_scalar_accesses_end_at_a_region_s_ends_and_at_a_descriptor_s_records(dwords: int) -> None:
    name = f"dword{f'x{dwords}' if dwords > 1 else ''}"
    for size in range(1000, 1004):
        for place in (-4, 0, 1000 - 4 * dwords, 1004 - 4 * dwords):
            space, base, _ = memory(size)
            state = random_state(np.random.default_rng(0))
            state.scalars[4], state.scalars[5] = base + place & 0xFFFF_FFFF, base + place >> 32
            tried = Tried(ins(f"s_load_{name}", s(16, dwords), s(4, 2)), state, space)
            assert (AccessKind.OUT_OF_BOUNDS in tried.bad) == (place < 0 or place + 4 * dwords > size), (size, place)
    for records in range(100, 109 + 4 * dwords):
        space, base, content = memory()
        state = random_state(np.random.default_rng(0))
        describe(state, base, records)
        kept = min(max((records - 104) // 4, 0), dwords)
        tried = Tried(ins(f"s_buffer_load_{name}", s(16, dwords), s(DESCRIPTOR, 4), offset=104), state, space)
        assert (tried.after.scalars[16 : 16 + dwords] != 0).sum() == kept
        assert (AccessKind.CLAMPED in tried.bad) == (kept < dwords)
        if dwords <= 4:
            state.scalars[16 : 16 + dwords] = 0
            tried = Tried(ins(f"s_buffer_store_{name}", (), (s(16, dwords), s(DESCRIPTOR, 4)), offset=104), state, space)
            assert (content == 0).sum() == 4 * kept
            assert (AccessKind.CLAMPED in tried.bad) == (kept < dwords)


def test_a_null_pointer_has_offsets_of_32_bits() -> None:
    places = (1 << 32) - 32 + LANES
    tried = Tried(move("global", "load_ubyte", (v(ADDRESS, 2), OFF), 1), state_of(places), AddressSpace())
    assert tried.bad == {AccessKind.NULL: set(range(32)), AccessKind.OUT_OF_BOUNDS: set(range(32, 64))}


@pytest.mark.parametrize("short", [-1, 0, 1])
@pytest.mark.parametrize("limit", ["region's end", "region's begin", "records"])
def test_limits_hold_where_a_slice_settles_a_whole_wave(limit: str, short: int) -> None:
    """The second workgroup accesses memory that the first one did, 16 bytes on or back, so that no lane is looked at."""
    space = AddressSpace()
    end = 256 + 16 + short  # the second workgroup's accesses end at 272
    region = space.add_bounds("memory", 2048 if limit == "records" else end if limit == "region's end" else 1024)
    back = 16 + short if limit == "region's begin" else 0
    base, records = region.base - back, end if limit == "records" else UNLIMITED
    table = space.add_array("descriptor", np.array([base & 0xFFFF_FFFF, base >> 32, records, 0x20000], np.uint32))
    program = code(
        *pointer(4, 0),
        ins("s_load_dwordx4", s(8, 4), s(4, 2)),
        ins("v_lshlrev_b32", v(1), (c(2), v(0))),
        ins("s_lshl_b32", s(13), (s(2), c(4))),
        *([ins("s_sub_u32", s(13), (c(32), s(13)))] if back else []),
        ins("buffer_load_dword", v(2), (v(1), s(8, 4), s(13)), offen=True),
        END,
    )
    result = run(program, space, table.base, grid=(2, 1, 1), mode=Mode.SLICE)
    found = [(event.workgroup, event.kind, event.lanes) for event in result.events]
    kind = AccessKind.CLAMPED if limit == "records" else AccessKind.OUT_OF_BOUNDS
    lane = 0 if back else 63
    wrong = short > 0 if back else short < 0
    assert found == ([(1, kind, (lane,))] if wrong else [])
