"""Memory instructions with random fields, addresses in and out of bounds: machine and reference executor bit for bit.

Compared are registers, LDS, global memory, written-bitmaps, and what was found wrong, by kind and number of lanes.
"""

from __future__ import annotations

import os
import random
import re
from collections import Counter
from collections.abc import Callable

import numpy as np
import pytest
from single_wave import LDS_BYTES, SCRATCH_BYTES, SingleWave, WaveState, random_state, run_reference
from test_decoder_encodings import CASES, Fields, Words
from test_handlers_random import EXEC_MASKS, differences, instructions

from backend.cdna.decode.tables import Opcode
from backend.cdna.decode.text import assembly_text
from backend.cdna.execute import layout as at
from backend.cdna.instruction import Format, Instruction, OperandKind
from backend.cdna.memory import AddressSpace
from backend.cdna.record import RecordOptions
from backend.cdna.result import AccessKind

FAMILIES = [case for case in CASES if case[0] in ("SMEM", "DS", "MUBUF", "FLAT")]
SIZE = 3001
"""Bytes of the regions: no multiple of a dword, so that accesses end across the edge."""

BEFORE_AN_EDGE = 17
"""Where accesses of each width end at an edge or just across it: of a region, of the descriptors that `aim` makes, of LDS."""

WORDS, AIMS = (4, 3) if os.environ.get("AITERFUZZ_SLOW") else (2, 2)
"""Random words for each opcode and architecture, and how many addresses each is run with."""


def space(seed: int) -> AddressSpace:
    """A writable region, a read-only one, one that nobody wrote and one without data; the same for the same seed."""
    rng = np.random.default_rng(seed)
    made = AddressSpace(poison=0xA7)
    made.add_array("kernarg", rng.integers(0, 256, 64, np.uint8))
    made.add_array("input", rng.integers(0, 256, SIZE, np.uint8), writable=False)
    made.add_array("output", rng.integers(0, 256, SIZE, np.uint8), writable=True)
    made.add_blank("blank", SIZE)
    made.add_bounds("pool", SIZE, writable=True)
    return made


def aim(state: WaveState, instruction: Instruction, space: AddressSpace, rng: np.random.Generator) -> None:
    """Point the instruction's address operands near a region: with all that it adds itself some lanes end at an edge."""
    region = space[rng.choice(["input", "output", "blank", "pool"])]
    added = added_by_itself(state, instruction, rng)
    near = places(LDS_BYTES if instruction.format is Format.DS else SIZE, is_atomic(instruction), rng) - added
    operands = instruction.sources
    if instruction.format is Format.DS:
        _set_rows(state, instruction, 0, near)
        return
    if instruction.format is Format.SMEM:
        base = region.base + int(near[0])
        descriptor = operands[0] if "load" in instruction.mnemonic else operands[1]
        _set_scalars(state, descriptor.index, base, descriptor.count, max(0, (added & ~3) + int(rng.integers(-8, 72))))
        return
    if instruction.format is Format.SCRATCH:
        state.vectors[:] = rng.integers(0, SCRATCH_BYTES // 2, (512, 64), np.uint32)
        state.scalars[:] = rng.integers(0, 32, 128, np.uint32)
        state.scalars[126:128] = 0xFFFFFFFF
        return
    if instruction.format is Format.MUBUF:
        vaddr, descriptor = operands[-3], operands[-2]
        if vaddr.kind is not OperandKind.OFF:
            _set_rows(state, instruction, len(operands) - 3, near)
        _set_scalars(state, descriptor.index, region.base | 4 << 48, 4, int(rng.choice([SIZE, SIZE // 2, 0xFFFFFFF0])))
        return
    if operands[-1].kind is OperandKind.OFF:
        place = state.vectors[_row(operands[0]) : _row(operands[0]) + 2]
        addresses = region.base + near
        place[0], place[1] = addresses & 0xFFFFFFFF, addresses >> 32
    else:
        lowest = int(near.min())
        _set_rows(state, instruction, 0, near - lowest)
        _set_scalars(state, 106 if operands[-1].kind is OperandKind.VCC else operands[-1].index, region.base + lowest, 2, 0)


def places(limit: int, aligned: bool, rng: np.random.Generator) -> np.ndarray:
    """Where the lanes' accesses begin in a memory of `limit` bytes: anywhere, some across its end or beginning, or in a row."""
    if rng.random() < 0.4 and not aligned:
        return rng.integers(0, limit - 64) + np.arange(64) * 4 % (limit // 2)
    near = rng.integers(-40, limit + 40, 64)
    edges = rng.choice([0, limit // 2, limit], 8) - rng.integers(0, BEFORE_AN_EDGE, 8)
    near[rng.permutation(64)[:8]] = edges
    if aligned:
        return near // 8 * 8
    return near // 4 * 4 if rng.random() < 0.5 else near


def added_by_itself(state: WaveState, instruction: Instruction, rng: np.random.Generator) -> int:
    """Bytes that are added to the address that `aim` sets: the offset field, and the scalar offset, which is made small."""
    modifiers, added = instruction.modifiers, instruction.modifiers.offset
    if re.search("(read|write)2", instruction.mnemonic):
        unit = (8 if "b64" in instruction.mnemonic else 4) * (64 if "st64" in instruction.mnemonic else 1)
        return int(rng.choice([modifiers.offset0, modifiers.offset1])) * unit
    if instruction.format not in (Format.SMEM, Format.MUBUF):
        return added
    scalar = instruction.sources[-1]
    if scalar.kind is OperandKind.CONSTANT:
        return added + scalar.value
    if scalar.kind is OperandKind.SGPR and scalar.count == 1:
        state.scalars[scalar.index] = rng.integers(0, 64)
        return added + int(state.scalars[scalar.index])
    return added


def is_atomic(instruction: Instruction) -> bool:
    name = instruction.mnemonic
    return "_atomic_" in name or (name.startswith("ds_") and re.search("read|write|permute|swizzle", name) is None)


def _row(operand) -> int:  # type: ignore[no-untyped-def]
    return operand.index + (256 if operand.kind is OperandKind.AGPR else 0)


def _set_rows(state: WaveState, instruction: Instruction, place: int, values: np.ndarray) -> None:
    state.vectors[_row(instruction.sources[place])] = values.astype(np.int64) & 0xFFFFFFFF


def _set_scalars(state: WaveState, code: int, base: int, count: int, records: int) -> None:
    words = [base & 0xFFFFFFFF, base >> 32, records, 0x20000][:count]
    state.scalars[code : code + count] = words


def found_by_machine(wave: SingleWave) -> Counter[tuple[str, int]]:
    assert wave.recording is not None
    found: Counter[tuple[str, int]] = Counter()
    events = wave.recording.events[: int(wave.context[at.CTX_EVENT_COUNT])]
    for event in events:
        lanes = int(event[at.EVENT_LANES]) & ((1 << 64) - 1)
        found[AccessKind(int(event[at.EVENT_KIND])).name, 0] += lanes.bit_count() or 1
    return found


def in_scratch(instruction: Instruction, state: WaveState) -> bool:
    """Whether a scratch access stays inside its lane's segment."""
    if instruction.format is not Format.SCRATCH:
        return True
    reach = instruction.modifiers.offset
    return reach >= 0 and reach + SCRATCH_BYTES // 2 + 48 <= SCRATCH_BYTES


@pytest.mark.parametrize(
    ("arch", "slow_path"),
    [
        pytest.param("gfx942", False, id="gfx942-fast path", marks=pytest.mark.slow),
        pytest.param("gfx942", True, id="gfx942-slow path", marks=pytest.mark.slow),  # it is one for both, and gfx950 has more
        pytest.param("gfx950", False, id="gfx950-fast path"),
        pytest.param("gfx950", True, id="gfx950-slow path"),
    ],
)
@pytest.mark.parametrize(("family", "table", "make"), FAMILIES, ids=[case[0] for case in FAMILIES])
def test_random_memory_instructions_agree_with_the_reference(
    family: str, table: dict[int, Opcode], make: Callable[[Fields, int], Words], arch: str, slow_path: bool
) -> None:
    rng = np.random.default_rng(len(family))
    chosen = random.Random(7)
    tried = judged = 0
    for instruction in instructions(table, make, arch, f"{family} {arch} memory", WORDS):
        if instruction.format is Format.FLAT or not (instruction.sources or instruction.destinations):
            continue
        for _ in range(AIMS):
            tried += 1
            seed = chosen.randrange(1 << 30)
            mine, theirs = space(seed), space(seed)
            state = random_state(rng, False, EXEC_MASKS[tried % len(EXEC_MASKS)])
            aim(state, instruction, mine, rng)
            if not in_scratch(instruction, state):
                continue
            wave = SingleWave(arch, mine)
            reference, memory = run_reference(arch, (instruction,), state.copy(), theirs)
            machine = wave.run((instruction,), state, RecordOptions(slow_path=slow_path))
            if int(wave.context[at.CTX_UNMODELLED]) >= 0:  # an atomic at an odd address
                assert is_atomic(instruction), assembly_text(instruction)
                continue
            judged += 1
            found = differences(machine, reference)
            assert not found, f"{assembly_text(instruction)}: {found[:4]}"
            assert found_by_machine(wave) == memory.findings, assembly_text(instruction)
            for name in ("output", "blank"):
                assert np.array_equal(mine[name].contents, theirs[name].contents), f"{assembly_text(instruction)} {name}"
            assert np.array_equal(mine["blank"].written, theirs["blank"].written), assembly_text(instruction)
    assert judged > 30
