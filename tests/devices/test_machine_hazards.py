"""Hazards in AITER's kernels: silent on the wheel's fp8 kernels, and loud when one s_waitcnt is taken out.

A hazard's threshold is right when a wait for it before the consumer ends the hazard and a wait for one more does not.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from machine_launches import prepare

from backend.case import Arch, Case, MetadataMode
from backend.cdna.decode import decode
from backend.cdna.decode.text import assembly_text
from backend.cdna.hazards import HazardKind, WaitHazard, wait_hazards
from backend.cdna.instruction import Format, Instruction, Modifiers
from backend.cdna.machine import Machine
from backend.cdna.record import RecordOptions
from backend.cdna.result import Mode

Instructions = tuple[Instruction, ...]


def traced(arch: Arch, num_head: int) -> tuple[Instructions, list[int]]:
    """A kernel's instructions, and those that wave 0 of workgroup 0 executes for a request of several tiles."""
    case = Case(kv_lens=(300,), num_head=num_head, arch=arch, release="2025-11", mode=MetadataMode.FAST, num_cu=1)
    prepared = prepare(case, has_data=False)
    result = Machine(prepared.kernel).trace(prepared.launch, prepared.space, 0, 0, Mode.FULL)
    return decode(prepared.kernel.text, arch), result.trace.tolist()


def without(instructions: Instructions, number: int) -> Instructions:
    """The code with one wait that waits for nothing."""
    changed = list(instructions)
    changed[number] = replace(instructions[number], modifiers=Modifiers())
    return tuple(changed)


def with_wait(instructions: Instructions, trace: list[int], hazard: WaitHazard, threshold: int) -> list[WaitHazard]:
    """Hazards of the same producer and consumer once a wait stands before the consumer."""
    modifiers = Modifiers(**{hazard.counter: threshold})
    wait = Instruction(1 << 24, 4, "s_waitcnt", Format.SOPP, (), (), modifiers)
    consumer = next(n for n, each in enumerate(instructions) if each.pc == hazard.consumer_pc)
    longer: list[int] = []
    for number in trace:
        longer += [len(instructions), number] if number == consumer else [number]
    found = wait_hazards((*instructions, wait), longer)
    return [each for each in found if (each.producer_pc, each.consumer_pc) == (hazard.producer_pc, hazard.consumer_pc)]


@pytest.mark.parametrize(("arch", "num_head"), [(Arch.GFX942, 16), (Arch.GFX950, 16)])
def test_taking_out_one_wait_is_noticed(arch: Arch, num_head: int) -> None:
    instructions, trace = traced(arch, num_head)
    assert wait_hazards(instructions, trace) == ()
    waits = sorted({number for number in trace if instructions[number].mnemonic == "s_waitcnt"})
    chosen = np.random.default_rng(0).choice(waits, min(len(waits), 25), replace=False)
    noticed = 0
    for number in chosen.tolist():
        changed = without(instructions, number)
        found = wait_hazards(changed, trace)
        noticed += bool(found)
        for hazard in found[:2]:
            assert with_wait(changed, trace, hazard, hazard.threshold) == []
            assert with_wait(changed, trace, hazard, hazard.threshold + 1) != []
    assert noticed >= len(chosen) // 2  # the others are backed by a later wait that comes soon enough


def test_a_page_id_that_the_wheel_s_qh128_kernel_does_not_wait_for() -> None:
    """gfx942: page ids are loaded a tile ahead (pc 0x1408) and used (pc 0x1ca4) behind one wait that came too early: 37
    younger loads are under way, and nothing waits for vmcnt(37). Some 1,200 cycles lie between, which is why it works."""
    instructions, trace = traced(Arch.GFX942, 128)
    (hazard,) = wait_hazards(instructions, trace)
    by_pc = {each.pc: each for each in instructions}
    assert assembly_text(by_pc[hazard.producer_pc]).startswith("buffer_load_dword v11")
    assert assembly_text(by_pc[hazard.consumer_pc]).startswith("v_mul_u32_u24_dpp v18, v11")
    assert (hazard.kind, hazard.register, hazard.counter, hazard.threshold) == (HazardKind.READ, "v11", "vmcnt", 37)


def test_races_are_looked_for_only_where_asked() -> None:
    case = Case(kv_lens=(70,), num_head=16, arch=Arch.GFX950, release="2025-11", mode=MetadataMode.FAST, num_cu=1)
    prepared = prepare(case, has_data=False)
    machine = Machine(prepared.kernel)
    assert machine.run(prepared.launch, prepared.space, Mode.FULL).races == ()
    races = machine.run(prepared.launch, prepared.space, Mode.FULL, record=RecordOptions(hazards=True)).races
    pcs = {each.pc for each in decode(prepared.kernel.text, Arch.GFX950)}
    assert all(race.producer_pc in pcs and race.consumer_pc in pcs and race.address < 160 << 10 for race in races)
