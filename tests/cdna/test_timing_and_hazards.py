"""The timed schedule, and hazards of missing waits: what arrives when, and what is named."""

from __future__ import annotations

import numpy as np
import pytest
from build import M0, OFF, c, code, imm, ins, s, v
from single_wave import kernel

from backend.cdna.hazards import HazardKind, wait_hazards
from backend.cdna.instruction import Instruction
from backend.cdna.machine import Machine, MachineLaunch
from backend.cdna.memory import AddressSpace
from backend.cdna.program import compile_program
from backend.cdna.result import Mode, RunResult, Schedule
from backend.cdna.timing import Timing
from backend.errors import UsageError

END = ins("s_endpgm")


def wait(vmcnt: int | None = None, lgkmcnt: int | None = None) -> Instruction:
    return ins("s_waitcnt", vmcnt=vmcnt, lgkmcnt=lgkmcnt)


def run(program: tuple[Instruction, ...], schedule: Schedule, timing: Timing | None = None, waves: int = 1) -> np.ndarray:
    """What the program stores to its output: uint32 [waves * 64]. The input is 1000 + n."""
    space = AddressSpace()
    target = np.zeros(64 * waves, np.uint32)
    a = space.add_array("in", np.arange(1000, 1064 + 64 * waves, dtype=np.uint32))
    b = space.add_array("out", target, writable=True)
    machine = Machine(kernel("gfx942"), compile_program(program, "gfx942"))
    kernarg = np.array([a.base, b.base], np.uint64).tobytes()
    launch = MachineLaunch((1, 1, 1), (64 * waves, 1, 1), kernarg)
    machine.run(launch, space, Mode.FULL, schedule, timing=timing or Timing())
    return target


SETUP = (
    ins("s_load_dwordx2", s(4, 2), s(0, 2)),
    ins("s_load_dwordx2", s(6, 2), s(0, 2), offset=8),
    ins("v_lshlrev_b32", v(1), (c(2), v(0))),
    ins("v_mov_b32", v(2), c(5)),
    wait(lgkmcnt=0),
)
LOAD = ins("global_load_dword", v(2), (v(1), s(4, 2)))
STORE = ins("global_store_dword", (), (v(1), v(3), s(6, 2)))
COPY = ins("v_mov_b32", v(3), v(2))


def test_without_a_wait_the_old_value_is_read_in_the_timed_schedule_only() -> None:
    program = code(*SETUP, LOAD, COPY, STORE, END)
    assert run(program, Schedule.ROUND_ROBIN).tolist() == list(range(1000, 1064))
    assert run(program, Schedule.TIMED).tolist() == [5] * 64
    assert run(program, Schedule.TIMED, Timing(vm=0)).tolist() == list(range(1000, 1064))


def test_a_wait_brings_the_loaded_value() -> None:
    program = code(*SETUP, LOAD, wait(vmcnt=0), COPY, STORE, END)
    assert run(program, Schedule.TIMED).tolist() == list(range(1000, 1064))


def test_a_late_answer_lies_over_a_newer_value() -> None:
    program = code(*SETUP, LOAD, ins("v_mov_b32", v(2), c(7)), wait(vmcnt=0), COPY, STORE, END)
    assert run(program, Schedule.TIMED).tolist() == list(range(1000, 1064))
    assert run(program, Schedule.ROUND_ROBIN).tolist() == [7] * 64


def test_counts_release_the_oldest_first() -> None:
    """Two loads, 64 cycles apart; vmcnt(1) waits for the first."""
    second = ins("global_load_dword", v(4), (v(1), s(4, 2)), offset=4)
    total = ins("v_add_u32", v(3), (v(2), v(4)))
    program = code(
        *SETUP, ins("v_mov_b32", v(4), c(1)), LOAD, ins("s_nop", (), imm(15)), second, wait(vmcnt=1), total, STORE, END
    )
    assert run(program, Schedule.TIMED).tolist() == [n + 1 for n in range(1000, 1064)]


def test_lds_dma_arrives_late_too() -> None:
    low = ins("v_mov_b32", v(5), c(0))
    address = (ins("v_add_co_u32", (v(8), s(10, 2)), (s(4), v(1))), ins("v_mov_b32", v(9), s(5)))
    dma = ins("global_load_lds_dword", (), (v(8, 2), OFF))
    read = ins("ds_read_b32", v(3), v(1))
    zero = ins("ds_write_b32", (), (v(1), v(5)))
    m0 = ins("s_mov_b32", M0, c(0))
    start = (*SETUP, low, *address, m0, zero, wait(lgkmcnt=0), dma)
    early = code(*start, read, wait(lgkmcnt=0), STORE, END)
    late = code(*start, wait(vmcnt=0), read, wait(lgkmcnt=0), STORE, END)
    assert run(early, Schedule.TIMED).tolist() == [0] * 64
    assert run(late, Schedule.TIMED).tolist() == list(range(1000, 1064))


def test_a_slice_has_no_timing() -> None:
    machine = Machine(kernel("gfx942"), compile_program(code(END), "gfx942"))
    with pytest.raises(UsageError, match="round-robin"):
        machine.run(MachineLaunch((1, 1, 1), (64, 1, 1), bytes(8)), AddressSpace(), Mode.SLICE, Schedule.TIMED)


def hazards_of(*instructions: Instruction) -> list[tuple[str, int, int, str, str, int]]:
    program = code(*instructions)
    found = wait_hazards(program, range(len(program)))
    return [(h.kind, h.producer_pc // 4, h.consumer_pc // 4, h.register, h.counter, h.threshold) for h in found]


def ds_read(register: int, count: int = 1) -> Instruction:
    return ins({1: "ds_read_b32", 4: "ds_read_b128"}[count], v(register, count), v(1))


def test_a_hazard_names_producer_consumer_register_counter_and_threshold() -> None:
    assert hazards_of(LOAD, COPY) == [(HazardKind.READ, 0, 1, "v2", "vmcnt", 0)]
    assert hazards_of(ds_read(4, 4), ds_read(8), ds_read(9), ins("v_mov_b32", v(3), v(6))) == [
        (HazardKind.READ, 0, 3, "v6", "lgkmcnt", 2)
    ]
    assert hazards_of(LOAD, ins("v_mov_b32", v(2), c(0))) == [(HazardKind.OVERWRITTEN, 0, 1, "v2", "vmcnt", 0)]


def test_waits_that_do() -> None:
    assert hazards_of(LOAD, wait(vmcnt=0), COPY) == []
    assert hazards_of(ds_read(4), ds_read(5), wait(lgkmcnt=1), ins("v_mov_b32", v(3), v(4))) == []
    stores_count = (LOAD, STORE, STORE, wait(vmcnt=2), COPY)
    assert hazards_of(*stores_count) == []


def test_a_wait_on_the_other_counter_or_for_too_few_does_not() -> None:
    assert hazards_of(LOAD, wait(lgkmcnt=0), COPY) == [(HazardKind.READ, 0, 2, "v2", "vmcnt", 0)]
    assert hazards_of(ds_read(4), ds_read(5), wait(lgkmcnt=1), ins("v_mov_b32", v(3), v(5))) == [
        (HazardKind.READ, 1, 3, "v5", "lgkmcnt", 0)
    ]


def test_scalar_loads_answer_in_any_order() -> None:
    load = ins("s_load_dword", s(8), s(0, 2))
    other = ins("s_load_dword", s(9), s(0, 2))
    use = ins("s_mov_b32", s(10), s(8))
    assert hazards_of(load, other, wait(lgkmcnt=1), use) == [(HazardKind.READ, 0, 3, "s8", "lgkmcnt", 0)]
    assert hazards_of(load, other, wait(lgkmcnt=0), use) == []


def test_one_hazard_does_not_bring_others() -> None:
    assert len(hazards_of(LOAD, COPY, COPY, COPY, ins("v_mov_b32", v(2), c(0)))) == 1


def test_a_full_counter_waits_by_itself() -> None:
    reads = [ds_read(10 + n) for n in range(16)]
    assert hazards_of(*reads, ins("v_mov_b32", v(3), v(10))) == []
    assert hazards_of(*reads, ins("v_mov_b32", v(3), v(11))) == [(HazardKind.READ, 1, 16, "v11", "lgkmcnt", 14)]


def test_which_schedule_made_a_result_is_told() -> None:
    machine = Machine(kernel("gfx942"), compile_program(code(END), "gfx942"))
    launch = MachineLaunch((1, 1, 1), (64, 1, 1), bytes(8))

    def result(schedule: Schedule) -> RunResult:
        return machine.run(launch, AddressSpace(), Mode.FULL, schedule)

    assert [result(schedule).schedule for schedule in Schedule] == list(Schedule)
