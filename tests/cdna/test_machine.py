"""The machine's public behaviour on small programs made by hand: what is found, what is recorded, what goes on."""

from __future__ import annotations

import numpy as np
import pytest
from build import EXEC, M0, VCC, c, code, imm, ins, label, s, v
from single_wave import kernel

from backend.cdna.effects import effects
from backend.cdna.flow import FlowGraph
from backend.cdna.instruction import Format, Instruction
from backend.cdna.machine import Machine, MachineLaunch
from backend.cdna.memory import AddressSpace, Paging, Queue
from backend.cdna.program import compile_program
from backend.cdna.record import RecordOptions
from backend.cdna.result import AccessKind, BadAccess, MachineEnd, Mode, RunResult
from backend.cdna.slice import slice_graph
from backend.errors import UnmodelledError, UsageError
from tests.run_facts import equivalent_instructions, written_bytes

WAVE = (64, 1, 1)
END = ins("s_endpgm")


def run(
    instructions: tuple[Instruction, ...],
    space: AddressSpace,
    *pointers: int,
    grid: tuple[int, int, int] = (1, 1, 1),
    block: tuple[int, int, int] = WAVE,
    mode: Mode = Mode.FULL,
    record: RecordOptions | None = None,
    limit: int = 100_000,
) -> RunResult:
    """Run a program whose kernarg block is the pointers, 8 bytes each."""
    actions = None
    if mode is Mode.SLICE:
        graph = FlowGraph.of(instructions)
        actions = slice_graph(graph, tuple(effects(each) for each in instructions)).actions
    program = compile_program(instructions, "gfx942", actions, mode is Mode.SLICE)
    kernarg = np.array(pointers or (0,), np.uint64).tobytes()
    machine = Machine(kernel("gfx942"), program)
    return machine.run(
        MachineLaunch(grid, block, kernarg), space, mode, record=record or RecordOptions(), max_instructions=limit
    )


def pointer(register: int, number: int) -> tuple[Instruction, ...]:
    """Load kernarg pointer `number` into s[register:register+1]."""
    return (ins("s_load_dwordx2", s(register, 2), s(0, 2), offset=8 * number),)


SCALED = (ins("v_lshlrev_b32", v(1), (c(2), v(0))),)
"""v1 = 4 * work-item id."""


def store(pointer_register: int, value: int = 0) -> Instruction:
    return ins("global_store_dword", (), (v(1), v(value), s(pointer_register, 2)))


def load(pointer_register: int, into: int = 2) -> Instruction:
    return ins("global_load_dword", v(into), (v(1), s(pointer_register, 2)))


def events_of(result: RunResult, kind: AccessKind) -> list[BadAccess]:
    return [event for event in result.events if event.kind is kind]


def copy_kernel() -> tuple[Instruction, ...]:
    """out[i] = in[i] for the 64 work-items."""
    return code(*pointer(4, 0), *pointer(6, 1), *SCALED, load(4), store(6, 2), END)


def test_a_clean_kernel_computes_and_finds_nothing() -> None:
    space = AddressSpace()
    source, target = np.arange(64, dtype=np.uint32) * 7, np.zeros(64, np.uint32)
    a, b = space.add_array("in", source), space.add_array("out", target, writable=True)
    result = run(copy_kernel(), space, a.base, b.base)
    assert np.array_equal(target, source)
    assert (result.outcome, result.event_count, result.executed) == (MachineEnd.DONE, 0, 6)


def test_bounds_are_the_tensor_s_last_byte_and_the_run_goes_on() -> None:
    space = AddressSpace(poison=0xA7)
    source, target = np.arange(40, dtype=np.uint32), np.zeros(64, np.uint32)
    a, b = space.add_array("in", source.view(np.uint8)[:-1].copy()), space.add_array("out", target, writable=True)
    result = run(copy_kernel(), space, a.base, b.base)
    (event,) = result.events
    assert event.kind is AccessKind.OUT_OF_BOUNDS
    assert event.lanes == tuple(range(39, 64))  # the last dword misses its fourth byte
    assert (event.region, event.offset) == ("in", 156)  # still inside: three of its bytes are
    assert (event.lowest, event.highest_end) == (a.base + 156, a.base + 256)
    assert (event.is_write, event.size, event.text) == (False, 4, "global_load_dword v2, v1, s[4:5]")
    assert target[:39].tolist() == list(range(39))
    assert (target[39:] == 0xA7A7A7A7).all()
    (total,) = result.totals
    assert (total.lanes, total.waves) == (25, 1)


def test_an_overrun_of_any_size_is_named_after_the_tensor_that_it_left() -> None:
    space = AddressSpace()
    target = np.zeros(64, np.uint32)
    a = space.add_bounds("pool", 64 << 30)
    b = space.add_array("out", target, writable=True)
    far = 200 << 30
    result = run(copy_kernel(), space, a.base + far, b.base)
    (event,) = result.events
    assert (event.region, event.offset) == ("pool", far - (64 << 30))
    assert event.address == a.base + far
    result = run(copy_kernel(), space, a.base - 256, b.base)
    assert (result.events[0].region, result.events[0].offset) == ("pool", -256)


def test_null_pointers_are_their_own_kind() -> None:
    space = AddressSpace()
    b = space.add_array("out", np.zeros(64, np.uint32), writable=True)
    (event,) = run(copy_kernel(), space, 0, b.base).events
    assert (event.kind, event.address) == (AccessKind.NULL, 0)


def test_read_only_tensors_stay_as_they_are() -> None:
    space = AddressSpace()
    source, target = np.arange(64, dtype=np.uint32), np.full(64, 5, np.uint32)
    a, b = space.add_array("in", source), space.add_array("out", target)
    (event,) = run(copy_kernel(), space, a.base, b.base).events
    assert event.kind is AccessKind.READ_ONLY_WRITE
    assert (target == 5).all()


def test_reads_of_what_nobody_wrote() -> None:
    """Lanes below 32 write, all 64 read back."""
    space = AddressSpace()
    blank = space.add_blank("blank", 256)
    half_exec = ins("s_mov_b64", EXEC, c(0xFFFFFFFF, 2))
    full_exec = ins("s_mov_b64", EXEC, c((1 << 64) - 1, 2))
    program = code(*pointer(4, 0), *SCALED, half_exec, store(4), full_exec, load(4), END)
    (event,) = run(program, space, blank.base).events
    assert (event.kind, event.lanes) == (AccessKind.UNWRITTEN_READ, tuple(range(32, 64)))
    assert written_bytes(blank).tolist() == [True] * 128 + [False] * 128


def test_a_second_poison_tells_whether_unwritten_data_mattered() -> None:
    for poison in (0xFF, 0x5A):
        space = AddressSpace(poison=poison)
        blank, target = space.add_blank("blank", 256), np.zeros(64, np.uint32)
        b = space.add_array("out", target, writable=True)
        run(copy_kernel(), space, blank.base, b.base)
        assert (target == poison * 0x01010101).all()


def queue_kernel() -> tuple[Instruction, ...]:
    """Read the element of the workgroup's id from a queue, then page number element from a pool of 256-byte pages."""
    return code(
        *pointer(4, 0),
        *pointer(6, 1),
        ins("s_lshl_b32", s(8), (s(2), c(3))),
        ins("s_load_dword", s(9), (s(4, 2), s(8))),
        ins("s_lshl_b32", s(9), (s(9), c(8))),
        ins("s_add_u32", s(6), (s(6), s(9))),
        ins("s_addc_u32", s(7), (s(7), c(0))),
        *SCALED,
        load(6),
        END,
    )


def test_pages_of_others_are_found_and_events_know_the_work_item() -> None:
    """Three elements of 8 bytes for pages 2, 0, 1, owned by requesters 1, 0, 0, which may touch pages {2}, {0}, {0}."""
    space = AddressSpace()
    elements = np.array([[2, 0], [0, 0], [1, 0]], np.uint32)
    allowed = np.zeros((2, 4), np.bool_)
    allowed[1, 2] = allowed[0, 0] = True
    queue = space.add_array("queue", elements, queue=Queue(8, np.array([1, 0, 0], np.int32)))
    pool = space.add_bounds("pool", 1024, paging=Paging(256, allowed))
    result = run(queue_kernel(), space, queue.base, pool.base, grid=(3, 1, 1), record=RecordOptions(pages=True))
    (event,) = result.events
    assert event.kind is AccessKind.PAGE_NOT_ALLOWED
    assert (event.workgroup, event.element, event.requester, event.offset) == (2, 2, 0, 256)
    assert np.argwhere(result.log.pages["pool"]).tolist() == [[0, 2], [1, 0], [2, 1]]


def buffer_kernel(records: int, mnemonic: str, count: int) -> tuple[Instruction, ...]:
    """Load through a descriptor of `records` bytes at 4 * lane, store the last dword loaded."""
    return code(
        *pointer(4, 0),
        *pointer(8, 1),
        ins("s_mov_b32", s(6), c(records)),
        ins("s_mov_b32", s(7), c(0x20000)),
        *SCALED,
        ins(mnemonic, v(4, count), (v(1), s(4, 4), c(0)), offen=True),
        store(8, 4 + count - 1),
        END,
    )


def test_a_descriptor_cuts_off_dword_by_dword() -> None:
    """100 bytes: dwords 0..24 pass. A lane's second dword is number lane + 1. Clamping is an event of its own, no bad
    access."""
    space = AddressSpace()
    source, target = np.arange(1, 65, dtype=np.uint32), np.zeros(64, np.uint32)
    a, b = space.add_array("in", source), space.add_array("out", target, writable=True)
    result = run(buffer_kernel(100, "buffer_load_dwordx2", 2), space, a.base, b.base)
    assert result.bad_accesses == ()
    (event,) = result.clamped
    assert event.lanes == tuple(range(24, 64))
    assert event.region == "in"
    assert target.tolist() == [n + 2 for n in range(24)] + [0] * 40


def loads_with_soffset(soffset: int, records: int, vaddr: tuple[Instruction, ...], offset: int = 0) -> tuple[Instruction, ...]:
    """Load a dword at v1 + offset + soffset through a descriptor of `records` bytes, store it at 4 * lane."""
    return code(
        *pointer(4, 0),
        *pointer(8, 1),
        ins("s_mov_b32", s(6), c(records)),
        ins("s_mov_b32", s(7), c(0x20000)),
        ins("s_mov_b32", s(10), c(soffset)),
        *vaddr,
        ins("buffer_load_dword", v(4), (v(1), s(4, 4), s(10)), offen=True, offset=offset),
        *SCALED,
        store(8, 4),
        END,
    )


def test_soffset_counts_in_the_range_check() -> None:
    """Sixteen bytes of records: voffset 8 with soffset 12 is past them (ROCm/rocm-systems#10928), and so is lane 1 of
    4 * lane + 12, though voffset alone is not."""
    space = AddressSpace()
    source, target = np.arange(1, 49, dtype=np.uint32), np.full(64, 5, np.uint32)
    a, b = space.add_array("in", source), space.add_array("out", target, writable=True)
    at_eight = (ins("v_mov_b32", v(1), c(8)),)
    result = run(loads_with_soffset(12, 16, at_eight), space, a.base, b.base)
    assert [event.kind for event in result.events] == [AccessKind.CLAMPED]
    assert (target == 0).all()
    result = run(loads_with_soffset(12, 16, SCALED), space, a.base, b.base)
    assert [event.lanes for event in result.events] == [tuple(range(1, 64))]
    assert target.tolist() == [4] + [0] * 63


def test_voffset_and_the_immediate_offset_wrap_at_32_bits_and_soffset_does_not() -> None:
    """voffset -4 with offset:8 is byte 4 (ROCm/rocm-systems#10928); voffset 8 with soffset -4 is past any descriptor."""
    space = AddressSpace()
    source, target = np.arange(1, 49, dtype=np.uint32), np.full(64, 5, np.uint32)
    a, b = space.add_array("in", source), space.add_array("out", target, writable=True)
    minus_four = (ins("v_mov_b32", v(1), c(0xFFFFFFFC)),)
    result = run(loads_with_soffset(0, 16, minus_four, offset=8), space, a.base, b.base)
    assert result.event_count == 0
    assert (target == 2).all()
    eight = (ins("v_mov_b32", v(1), c(8)),)
    result = run(loads_with_soffset(0xFFFFFFFC, 0xFFFFFFF0, eight), space, a.base, b.base)
    assert [event.kind for event in result.events] == [AccessKind.CLAMPED]
    assert (target == 0).all()


def test_what_passes_a_descriptor_is_still_judged() -> None:
    """num_records = -16, as kernels set it, lets everything pass."""
    space = AddressSpace()
    a = space.add_array("in", np.arange(10, dtype=np.uint32))
    b = space.add_array("out", np.zeros(64, np.uint32), writable=True)
    result = run(buffer_kernel(0xFFFFFFF0, "buffer_load_dword", 1), space, a.base, b.base)
    assert [(event.kind, len(event.lanes)) for event in result.events] == [(AccessKind.OUT_OF_BOUNDS, 54)]


def test_two_workgroups_writing_one_byte() -> None:
    space = AddressSpace()
    b = space.add_array("out", np.zeros(96, np.uint32), writable=True)
    program = code(
        *pointer(4, 0),
        ins("s_lshl_b32", s(8), (s(2), c(7))),  # 128 bytes on for each workgroup: half of what one writes
        *SCALED,
        ins("v_add_u32", v(1), (s(8), v(1))),
        store(4),
        END,
    )
    assert run(program, space, b.base, grid=(2, 1, 1)).event_count == 0
    (event,) = run(program, space, b.base, grid=(2, 1, 1), record=RecordOptions(overlaps=True)).events
    assert (event.kind, event.workgroup, event.lanes) == (AccessKind.WRITE_OVERLAP, 1, tuple(range(32)))


def exchange_kernel(with_barrier: bool) -> tuple[Instruction, ...]:
    """Two waves: each item writes its id to LDS and reads what item ^ 64 wrote."""
    middle = (ins("s_barrier"),) if with_barrier else ()
    return code(
        *pointer(4, 0),
        *SCALED,
        ins("ds_write_b32", (), (v(1), v(0))),
        *middle,
        ins("v_xor_b32", v(3), (c(256), v(1))),
        ins("ds_read_b32", v(2), v(3)),
        store(4, 2),
        END,
    )


def test_waves_exchange_through_lds_across_a_barrier() -> None:
    space = AddressSpace()
    target = np.zeros(128, np.uint32)
    b = space.add_array("out", target, writable=True)
    result = run(exchange_kernel(True), space, b.base, block=(128, 1, 1), record=RecordOptions(hazards=True))
    assert target.tolist() == [n ^ 64 for n in range(128)]
    assert result.races == ()


def test_a_missing_barrier_is_a_race_that_names_both_instructions() -> None:
    space = AddressSpace()
    b = space.add_array("out", np.zeros(128, np.uint32), writable=True)
    program = exchange_kernel(False)
    result = run(program, space, b.base, block=(128, 1, 1), record=RecordOptions(hazards=True))
    pcs = {each.mnemonic: each.pc for each in program}
    write, read = pcs["ds_write_b32"], pcs["ds_read_b32"]
    found = {(race.kind, race.producer_pc, race.consumer_pc) for race in result.races}
    assert found == {("read after write", write, read), ("write after read", read, write)}  # one for each direction


def test_a_kernel_that_does_not_end_is_stopped() -> None:
    result = run(code(ins("s_nop", (), imm(0)), ins("s_branch", (), label(0)), END), AddressSpace(), limit=1000)
    assert result.outcome is MachineEnd.LIMIT
    assert 1000 <= result.executed < 1100


def test_the_watchdog_counts_for_each_workgroup_alone() -> None:
    sound = code(*[ins("s_nop", (), imm(0))] * 99, END)
    assert run(sound, AddressSpace(), grid=(50, 1, 1), limit=1000).outcome is MachineEnd.DONE
    assert run(sound, AddressSpace(), grid=(50, 1, 1), limit=50).outcome is MachineEnd.LIMIT


def test_what_is_not_modelled_stops_before_anything_runs() -> None:
    space = AddressSpace()
    target = np.full(64, 9, np.uint32)
    b = space.add_array("out", target, writable=True)
    unknown = Instruction(0, 4, "v_mqsad_u32_u8", Format.VOP3, (v(4, 4),), (v(0, 2), v(2), v(4, 4)))
    program = code(*pointer(4, 0), *SCALED, store(4), unknown, END)
    with pytest.raises(UnmodelledError, match="v_mqsad_u32_u8"):
        run(program, space, b.base)
    assert (target == 9).all()
    assert run(program, space, b.base, mode=Mode.SLICE).outcome is MachineEnd.DONE  # nothing needs it


def test_a_kernarg_block_that_is_too_short_shows() -> None:
    program = code(ins("s_load_dwordx2", s(4, 2), s(0, 2), offset=8), END)
    (event,) = run(program, AddressSpace(), 0).events
    assert (event.kind, event.region, event.offset, event.lanes) == (AccessKind.OUT_OF_BOUNDS, "kernarg", 0, ())


def loop_kernel(*behind: Instruction) -> tuple[Instruction, ...]:
    """Each workgroup stores its id + 1 times; behind: what follows the loop."""
    return code(
        *pointer(4, 0),
        *SCALED,
        store(4),
        ins("s_sub_u32", s(2), (s(2), c(1))),
        ins("s_cmp_lt_i32", (), (s(2), c(0))),
        ins("s_cbranch_scc0", (), label(2)),
        *behind,
        END,
    )


def test_edges_trace_and_counts() -> None:
    space = AddressSpace()
    b = space.add_array("out", np.zeros(64, np.uint32), writable=True)
    result = run(loop_kernel(), space, b.base, grid=(3, 1, 1), record=RecordOptions(trace=(2, 0), hashes=True))
    branch = 5 * 4
    assert result.edges.tolist() == [[branch, 8], [branch, branch + 4]]
    assert result.trace.tolist() == [0, 1, *([2, 3, 4, 5] * 3), 6]
    assert result.executed == equivalent_instructions(result) == 3 * 3 + 4 * (1 + 2 + 3)
    assert result.log.counts == {0: 3, 8: 64 * 6}


def test_the_slice_makes_the_same_accesses_with_fewer_instructions() -> None:
    space = AddressSpace()
    b = space.add_array("out", np.zeros(40, np.uint32), writable=True)
    busy = (ins("v_mul_f32", v(9), (v(8), v(8))),) * 10
    program = code(*pointer(4, 0), *busy, *SCALED, ins("v_mov_b32", v(2), v(9)), store(4, 2), END)
    full = run(program, space, b.base, record=RecordOptions(hashes=True))
    part = run(program, space, b.base, mode=Mode.SLICE, record=RecordOptions(hashes=True))
    assert part.executed == full.executed - 11
    assert equivalent_instructions(part) == full.executed
    assert (part.log.counts, part.log.hashes) == (full.log.counts, full.log.hashes)
    assert [(e.kind, e.pc, e.lanes, e.address) for e in part.events] == [
        (e.kind, e.pc, e.lanes, e.address) for e in full.events
    ]


def test_a_slice_that_would_read_its_own_stores_stops() -> None:
    """The second load's address is what the kernel stored a moment before."""
    space = AddressSpace()
    b = space.add_array("out", np.zeros(64, np.uint32), writable=True)
    program = code(*pointer(4, 0), *SCALED, store(4), ins("s_load_dword", s(8), (s(4, 2),)), ins("s_mov_b32", M0, s(8)),
                   ins("s_add_u32", s(4), (s(4), s(8))), load(4), END)  # fmt: skip
    assert run(program, space, b.base).event_count == 0
    with pytest.raises(UnmodelledError, match="full mode"):
        run(program, space, b.base, mode=Mode.SLICE)


def test_workgroup_and_work_item_ids() -> None:
    """v0 packs x, y, z at bits 0, 10, 20; a partial wave runs with the lanes that exist; s2 is the workgroup's x."""
    space = AddressSpace()
    target = np.zeros((2, 64), np.uint32)
    b = space.add_array("out", target, writable=True)
    program = code(
        *pointer(4, 0),
        ins("s_lshl_b32", s(8), (s(2), c(8))),
        ins("v_mbcnt_lo_u32_b32", v(1), (c(0xFFFFFFFF), c(0))),
        ins("v_mbcnt_hi_u32_b32", v(1), (c(0xFFFFFFFF), v(1))),
        ins("v_lshlrev_b32", v(1), (c(2), v(1))),
        ins("v_add_u32", v(1), (s(8), v(1))),
        store(4),
        END,
    )
    run(program, space, b.base, grid=(2, 1, 1), block=(4, 3, 2))
    expected = [x | y << 10 | z << 20 for z in range(2) for y in range(3) for x in range(4)]
    assert target[0, :24].tolist() == target[1, :24].tolist() == expected
    assert not target[:, 24:].any()


def test_gpr_index_mode_moves_the_first_source() -> None:
    space = AddressSpace()
    target = np.zeros(64, np.uint32)
    b = space.add_array("out", target, writable=True)
    on = ins("s_set_gpr_idx_on", (), (s(9), imm(1)))
    program = code(
        *pointer(4, 0),
        *SCALED,
        ins("v_mov_b32", v(5), c(55)),
        ins("v_mov_b32", v(8), c(88)),
        ins("s_mov_b32", s(9), c(3)),
        on,
        ins("v_mov_b32", v(6), v(5)),
        ins("s_set_gpr_idx_off"),
        ins("v_add_u32", v(6), (v(6), v(5))),
        store(4, 6),
        END,
    )
    run(program, space, b.base)
    assert (target == 88 + 55).all()


def test_control_flow_inside_gpr_index_mode_is_refused() -> None:
    program = code(ins("s_set_gpr_idx_on", (), (s(9), imm(1))), ins("s_cbranch_scc0", (), label(2)), END)
    with pytest.raises(UnmodelledError, match="gpr-index"):
        compile_program(program, "gfx942")


def test_vcc_and_exec_branches() -> None:
    """Lanes below 10 store through a saved EXEC; the branch skips the store in waves without such a lane."""
    space = AddressSpace()
    target = np.zeros(128, np.uint32)
    b = space.add_array("out", target, writable=True)
    program = code(
        *pointer(4, 0),
        *SCALED,
        ins("v_cmp_gt_u32", VCC, (c(10), v(0))),
        ins("s_and_saveexec_b64", s(8, 2), VCC),
        ins("s_cbranch_execz", (), label(6)),
        store(4, 1),
        ins("s_mov_b64", EXEC, s(8, 2)),
        END,
    )
    result = run(program, space, b.base, block=(128, 1, 1))
    assert target.tolist() == [4 * n for n in range(10)] + [0] * 118
    assert result.executed == 8 + 7


def test_totals_count_what_is_not_kept() -> None:
    space = AddressSpace()
    b = space.add_array("out", np.zeros(8, np.uint32), writable=True)
    result = run(loop_kernel(), space, b.base, grid=(4, 1, 1), record=RecordOptions(max_events=2))
    assert (len(result.events), result.event_count) == (2, 10)
    (total,) = result.totals
    assert (total.lanes, total.waves, total.lowest, total.highest_end) == (560, 10, b.end, b.base + 256)


def test_what_happens_often_does_not_crowd_out_what_happens_once() -> None:
    """Three stores of a loop past the end, then one of another instruction, with room for two events."""
    space = AddressSpace()
    b = space.add_array("out", np.zeros(8, np.uint32), writable=True)
    program = loop_kernel(store(4))
    looped, once = program[2].pc, program[-2].pc
    machine = Machine(kernel("gfx942"), compile_program(program, "gfx942"))
    start = MachineLaunch((3, 1, 1), WAVE, b.base.to_bytes(8, "little"), only_workgroup=2)
    for each, kept in ((16, [looped, looped]), (1, [looped, once])):
        result = machine.run(start, space, Mode.FULL, record=RecordOptions(max_events=2, events_each=each))
        assert [event.pc for event in result.bad_accesses] == kept
        assert result.event_count == 4


def test_launches_that_a_kernel_does_not_allow() -> None:
    machine = Machine(kernel("gfx942"), compile_program(code(END), "gfx942"))
    for launch in (
        MachineLaunch((0, 1, 1), WAVE, bytes(8)),
        MachineLaunch((1, 1, 1), (2048, 1, 1), bytes(8)),
        MachineLaunch((1, 1, 1), WAVE, b""),
        MachineLaunch((1, 1, 1), WAVE, bytes(8), dynamic_lds=1 << 20),
    ):
        with pytest.raises(UsageError):
            machine.run(launch, AddressSpace(), Mode.FULL)


def test_a_kernel_that_asks_for_more_lds_than_a_gpu_has_has_no_model() -> None:
    """The code object is at fault and not the caller: 8 heads on gfx942 were shipped so until aiter#3128."""
    machine = Machine(kernel("gfx942", lds=163_840), compile_program(code(END), "gfx942"))
    with pytest.raises(UnmodelledError, match="asks for 163,840 bytes of LDS, and gfx942 has 65,536"):
        machine.run(MachineLaunch((1, 1, 1), WAVE, bytes(8)), AddressSpace(), Mode.FULL)


@pytest.mark.parametrize("slow_path", [False, True])
def test_touched_bytes(slow_path: bool) -> None:
    space = AddressSpace()
    source, target = np.arange(64, dtype=np.uint32), np.zeros(100, np.uint32)
    a, b = space.add_array("in", source), space.add_array("out", target, writable=True)
    result = run(copy_kernel(), space, a.base, b.base + 12, record=RecordOptions(touched=True, slow_path=slow_path))
    assert result.log.touched_read["in"].tolist() == [[0, 256]]
    assert result.log.touched_write["out"].tolist() == [[12, 268]]
    assert result.log.touched_write["in"].tolist() == []
    assert result.log.touched_read["out"].tolist() == []


def test_a_write_that_is_not_allowed_touches_nothing() -> None:
    space = AddressSpace()
    a, b = space.add_array("in", np.arange(64, dtype=np.uint32)), space.add_array("out", np.zeros(64, np.uint32))
    result = run(copy_kernel(), space, a.base, b.base, record=RecordOptions(touched=True))
    assert [access.kind for access in result.bad_accesses] == [AccessKind.READ_ONLY_WRITE]
    assert result.log.touched_write["out"].tolist() == []
