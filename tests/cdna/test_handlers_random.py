"""Every modelled instruction with random operands, modifiers and registers: the machine and the reference executor bit for
bit."""

from __future__ import annotations

import functools
import os
import random
from collections.abc import Callable, Iterator

import numpy as np
import pytest
from numpy.typing import NDArray
from single_wave import ENDING, SingleWave, WaveState, random_state, run_reference
from test_decoder_encodings import CASES, Fields, Words, decoded

from backend.cdna.decode.tables import Opcode
from backend.cdna.decode.text import assembly_text
from backend.cdna.encode import ENUMERATIONS, Constants, NotModelledError, encode
from backend.cdna.execute import compare, scalar
from backend.cdna.instruction import Instruction, OperandKind, Selection
from backend.cdna.program import compile_program
from backend.errors import UnmodelledError
from tests.tiers import one_of_each

TRIES, RUNS = 160, 8 if os.environ.get("AITERFUZZ_SLOW") else 3
"""Random words for each opcode and architecture, and how many of the decodable and modelled ones are run."""

FAMILIES = [case for case in CASES if case[0] not in ("SMEM", "SOPP", "DS", "MUBUF", "FLAT", "scaled MAI")]
EXEC = 126
"""Scalar operand code of its lower half; no number is behind the upper one."""

EXEC_MASKS = ((1 << 64) - 1, (1 << 64) - 1, 0x0000_FFFF_0F0F_8001, 1 << 63, 0)
MODES = scalar.State
"""What sets modes has tests of its own (test_machine_modes.py)."""

UNCERTAIN_ROUNDING = ("v_exp_f32", "v_log_f32", "v_rsq_f32")
"""Rounded to fp32 from two different float64 computations: once in some 10^8 lanes they may differ in the last bit."""


def runnable(instruction: Instruction, arch: str) -> bool:
    """Whether the machine models the instruction and the test can give it sources."""
    operands = (*instruction.sources, *instruction.destinations)
    if any(operand.kind in (OperandKind.APERTURE, OperandKind.VCCZ, OperandKind.EXECZ) for operand in operands):
        return False
    if "branch" in instruction.mnemonic or "call" in instruction.mnemonic:
        return False
    try:
        encode(instruction, Constants())
        compile_program((instruction, ENDING), arch)
    except (NotModelledError, UnmodelledError):
        return False
    return True


def instructions(
    table: dict[int, Opcode], make: Callable[[Fields, int], Words], arch: str, seed: str, most: int = RUNS
) -> Iterator[Instruction]:
    fields = Fields(0)
    fields.random = random.Random(seed)
    for number in table:
        runs = 0
        for _ in range(TRIES):
            instruction = decoded(make(fields, number), arch)
            if instruction is not None and runnable(instruction, arch):
                yield instruction
                runs += 1
                if runs == most:
                    break


@functools.cache
def of_family(family: str, arch: str) -> tuple[Instruction, ...]:
    """The instructions that are run of it."""
    table, make = next(case[1:] for case in FAMILIES if case[0] == family)
    return tuple(instructions(table, make, arch, f"{family} {arch}"))


def differences(machine: WaveState, reference: WaveState) -> list[str]:
    """Which registers differ; NaN payloads (fp32, and each half) do not count."""
    found = []
    for name in ("scc", "mode"):
        if getattr(machine, name) != getattr(reference, name):
            found.append(f"{name}: {getattr(machine, name):#x}, reference {getattr(reference, name):#x}")
    for code in np.flatnonzero(machine.scalars != reference.scalars):
        found.append(f"s[{code}]: {machine.scalars[code]:#x}, reference {reference.scalars[code]:#x}")
    for row, lane in zip(*np.nonzero(machine.vectors != reference.vectors), strict=True):
        got, wanted = int(machine.vectors[row, lane]), int(reference.vectors[row, lane])
        if not _same_number(got, wanted):
            found.append(f"row {row} lane {lane}: {got:#x}, reference {wanted:#x}")
    if (machine.lds != reference.lds).any():
        found.append(f"lds bytes {np.flatnonzero(machine.lds != reference.lds)[:8]}")
    return found


def _same_nan_pairs(machine: WaveState, reference: WaveState, instruction: Instruction) -> None:
    """Payloads of fp64 NaN do not count either: where both have one, the machine's becomes the reference's."""
    for operand in instruction.destinations:
        if operand.kind is not OperandKind.VGPR or operand.count != 2 or "_f64" not in instruction.mnemonic:
            continue
        pair = slice(operand.index, operand.index + 2)
        got, wanted = machine.vectors[pair], reference.vectors[pair]
        nan = np.isnan(np.ascontiguousarray(got.T).view(np.float64)) & np.isnan(np.ascontiguousarray(wanted.T).view(np.float64))
        got[:, nan[:, 0]] = wanted[:, nan[:, 0]]


def _without_nans(registers: NDArray[np.uint32]) -> None:
    registers[np.isnan(registers.view(np.float32))] = 0
    halves = registers.view(np.float16)
    halves[np.isnan(halves)] = 0


def _same_number(a: int, b: int) -> bool:
    def is_nan32(x: int) -> bool:
        return x & 0x7FFFFFFF > 0x7F800000

    def same16(x: int, y: int) -> bool:
        return x == y or any(x & 0x7FFF > limit and y & 0x7FFF > limit for limit in (0x7C00, 0x7F80))

    return (is_nan32(a) and is_nan32(b)) or (same16(a & 0xFFFF, b & 0xFFFF) and same16(a >> 16, b >> 16))


@pytest.mark.parametrize(
    ("family", "arch"),
    one_of_each(
        [(case[0], arch) for case in FAMILIES for arch in ("gfx950", "gfx942")], lambda row: row[0], lambda row: "-".join(row)
    ),
)
def test_random_instructions_agree_with_the_reference(family: str, arch: str) -> None:
    rng = np.random.default_rng(len(family))
    waves = {keep: SingleWave(arch, keep_denormals=keep) for keep in (False, True)}
    tried = 0
    for instruction in of_family(family, arch):
        tried += 1
        keep = tried % 2 == 0
        state = random_state(rng, keep, EXEC_MASKS[tried % len(EXEC_MASKS)])
        if instruction.modifiers.sdwa is not None and instruction.modifiers.sdwa.dst_sel != Selection.DWORD:
            _without_nans(state.vectors)  # a part of a NaN result cannot be told from a number
            reads_exec = any(operand.kind is OperandKind.EXEC for operand in instruction.sources)
            _without_nans(state.scalars[: EXEC + 2 * reads_exec])
        reference, _ = run_reference(arch, (instruction,), state.copy())
        machine = waves[keep].run((instruction,), state)
        _same_nan_pairs(machine, reference, instruction)
        found = differences(machine, reference)
        assert not found, f"{assembly_text(instruction)} (exec {state.scalars[126:128]}, keep {keep}): {found[:4]}"
    assert tried > 20


def test_random_scaled_matrix_products_agree_with_the_reference() -> None:
    (case,) = (case for case in CASES if case[0] == "scaled MAI")
    wave, tried = SingleWave("gfx950"), 0
    for instruction in instructions(case[1], case[2], "gfx950", "scaled", most=8):
        state = random_state(np.random.default_rng(tried))
        reference, _ = run_reference("gfx950", (instruction,), state.copy())
        found = differences(wave.run((instruction,), state), reference)
        assert not found, f"{assembly_text(instruction)}: {found[:4]}"
        tried += 1
    assert tried >= 8


@pytest.mark.parametrize("arch", one_of_each(["gfx950", "gfx942"]))
def test_the_random_instructions_reach_every_modelled_one(arch: str) -> None:
    seen = {each.mnemonic for family, _, _ in FAMILIES for each in of_family(family, arch)}
    modelled = {name.lower() for enumeration in ENUMERATIONS if enumeration is not MODES for name in enumeration.__members__}
    known = {opcode.mnemonic for _, table, _ in FAMILIES for opcode in table.values() if arch in opcode.archs}
    aliased = {name for name in modelled if not any(name in known for _ in (0,))}
    missing = modelled - seen - aliased
    assert not missing
    relations = {*compare.FLOAT_RELATIONS, *compare.INTEGER_RELATIONS}
    assert {name.split("_")[2] for name in seen if name.startswith("v_cmp")} >= relations
