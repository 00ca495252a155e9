"""What a launch sets up beside its arguments: hidden ones, packet, constants; VSKIP, indexed buffers, scalar stores."""

from __future__ import annotations

import struct
from dataclasses import replace

import numpy as np
import pytest
from build import c, code, imm, ins, label, s, v
from single_wave import LDS_BYTES, SCRATCH_BYTES, kernel
from test_machine import END, SCALED, WAVE, pointer, run, store

from backend.cdna.code_object import Argument, ImageSegment
from backend.cdna.effects import effects
from backend.cdna.execute.layout import APERTURES
from backend.cdna.flow import FlowGraph
from backend.cdna.instruction import Format, Instruction, Operand, OperandKind
from backend.cdna.machine import Machine, MachineLaunch, with_hidden_arguments
from backend.cdna.memory import AddressSpace
from backend.cdna.program import IMAGE_BASE, compile_program
from backend.cdna.result import AccessKind, Mode, RunResult, Schedule
from backend.cdna.slice import Action, slice_graph
from backend.errors import CannotRunError


def output(space: AddressSpace) -> tuple[np.ndarray, int]:
    target = np.full(64, 5, np.uint32)
    return target, space.add_array("out", target, writable=True).base


def test_hidden_arguments_follow_from_the_launch_and_pointers_stay() -> None:
    names = ["hidden_block_count_x", "hidden_group_size_x", "hidden_remainder_x", "hidden_grid_dims", "hidden_hostcall_buffer"]
    offsets, sizes = [8, 12, 14, 16, 24], [4, 2, 2, 2, 8]
    arguments = tuple(Argument("", offset, size, kind) for offset, size, kind in zip(offsets, sizes, names, strict=True))
    made = replace(kernel("gfx942"), arguments=(Argument("x", 0, 8, "global_buffer"), *arguments))
    given = struct.pack("<Q16xQ", 77, 99)
    segment = with_hidden_arguments(made, given, (7, 3, 1), (256, 1, 1), 0).tobytes()
    assert struct.unpack("<QIHHHxxxxxxQ", segment) == (77, 7, 256, 0, 2, 99)
    short = with_hidden_arguments(made, given[:8], (7, 1, 1), (256, 1, 1), 0).tobytes()
    assert struct.unpack("<QIHHHxxxxxxQ", short) == (77, 7, 256, 0, 1, 0)


def launched(instructions: tuple[Instruction, ...], space: AddressSpace, arguments: bytes, **state: object) -> RunResult:
    made = replace(kernel("gfx942"), **state)  # type: ignore[arg-type]
    program = compile_program(instructions, "gfx942")
    return Machine(made, program).run(MachineLaunch((3, 1, 1), WAVE, arguments), space, Mode.FULL)


def test_the_dispatch_packet_comes_before_the_kernel_arguments() -> None:
    """s[0:1] is the packet, s[2:3] the arguments: the workgroup's size is at byte 4, the grid in work-items at byte 12."""
    space = AddressSpace()
    target, base = output(space)
    program = code(
        ins("s_load_dwordx2", s(4, 2), s(2, 2)),
        ins("s_load_dword", s(6), s(0, 2), offset=4),
        ins("s_load_dword", s(7), s(0, 2), offset=12),
        ins("s_and_b32", s(6), (s(6), c(0xFFFF))),
        ins("s_add_u32", s(6), (s(6), s(7))),
        *SCALED,
        ins("v_mov_b32", v(4), s(6)),
        ins("global_store_dword", (), (v(1), v(4), s(4, 2))),
        END,
    )
    registers = (("dispatch packet pointer", 0), ("kernarg pointer", 2))
    result = launched(program, space, struct.pack("<Q", base), user_registers=registers, user_sgpr_count=4)
    assert result.bad_accesses == ()
    assert (target == 64 + 3 * 64).all()


def test_constants_of_the_object_are_where_the_program_counter_says() -> None:
    """The code is at 0x1000 of the image, a table at 0x2000, whose second word is the address of its first byte plus 4."""
    space = AddressSpace()
    target, base = output(space)
    after_getpc = 0x1000 + 8
    program = code(
        *pointer(4, 0),
        ins("s_getpc_b64", s(8, 2)),
        ins("s_add_u32", s(8), (s(8), c(0x2000 - after_getpc))),
        ins("s_addc_u32", s(9), (s(9), c(0))),
        ins("s_load_dwordx2", s(10, 2), s(8, 2), offset=8),
        ins("s_load_dword", s(12), s(10, 2)),
        *SCALED,
        ins("v_mov_b32", v(4), s(12)),
        ins("global_store_dword", (), (v(1), v(4), s(4, 2))),
        END,
    )
    segment = ImageSegment(0x2000, struct.pack("<IIQ", 11, 22, 0), False, ((8, 0x2004),))
    made = replace(kernel("gfx942"), segments=(segment,), entry=0x1000)
    compiled = compile_program(program, "gfx942", text_address=IMAGE_BASE + 0x1000)
    result = Machine(made, compiled).run(MachineLaunch((1, 1, 1), WAVE, struct.pack("<Q", base)), space, Mode.FULL)
    assert result.bad_accesses == ()
    assert (target == 22).all()
    assert [region.name for region in space] == ["out"]


def skipping(skip: int) -> tuple[Instruction, ...]:
    """out[lane] = 1, or 7 where vector instructions are not skipped; scalar ones never are."""
    return code(
        *pointer(4, 0),
        *SCALED,
        ins("v_mov_b32", v(4), c(1)),
        ins("s_setvskip", (), (c(skip), c(0))),
        ins("v_mov_b32", v(4), c(7)),
        ins("s_mov_b32", s(9), c(3)),
        ins("s_setvskip", (), (c(0), c(0))),
        ins("v_add_u32", v(4), (s(9), v(4))),
        store(4, 4),
        END,
    )


def test_vector_instructions_are_skipped_while_vskip_is_on() -> None:
    for skip, wanted in ((0, 10), (1, 4)):
        space = AddressSpace()
        target, base = output(space)
        run(skipping(skip), space, base)
        assert (target == wanted).all()


def test_a_slice_keeps_what_a_skipped_write_may_leave() -> None:
    """An address written twice, the second time perhaps skipped: both writes are needed."""
    program = code(
        *pointer(4, 0),
        ins("v_mov_b32", v(1), c(0)),
        ins("s_setvskip", (), (s(8), c(0))),
        ins("v_mov_b32", v(1), c(4)),
        ins("s_setvskip", (), (c(0), c(0))),
        store(4, 2),
        END,
    )
    actions = slice_graph(FlowGraph.of(program), tuple(effects(each) for each in program)).actions
    assert [actions[number] for number in (1, 2, 3, 4)] == [Action.EXECUTE] * 4


def indexed(stride: int, records: int, offset: bool, mnemonic: str = "buffer_load_dword") -> tuple[Instruction, ...]:
    """Load through a descriptor with a stride at index = lane (and an offset of 4), store at 4 * lane."""
    address = v(10, 2) if offset else v(10)
    return code(
        *pointer(4, 0),
        *pointer(8, 1),
        ins("s_or_b32", s(5), (s(5), c(stride << 16))),
        ins("s_mov_b32", s(6), c(records)),
        ins("s_mov_b32", s(7), c(0x20000)),
        *SCALED,
        ins("v_mov_b32", v(10), v(0)),
        ins("v_mov_b32", v(11), c(4)),
        ins(mnemonic, v(4), (address, s(4, 4), c(0)), idxen=True, offen=offset),
        store(8, 4),
        END,
    )


def test_an_index_counts_strides_and_so_do_the_records() -> None:
    """Ten records of 8 bytes: indices 10 and up are cut off, whatever their bytes; lane n reads dword 2 n (+ 1)."""
    for offset in (False, True):
        space = AddressSpace()
        target = np.full(64, 5, np.uint32)
        a = space.add_array("in", np.arange(1, 65, dtype=np.uint32))
        b = space.add_array("out", target, writable=True)
        result = run(indexed(8, 10, offset), space, a.base, b.base)
        assert [(event.kind, event.lanes) for event in result.events] == [(AccessKind.CLAMPED, tuple(range(10, 64)))]
        assert target.tolist() == [2 * n + 1 + offset for n in range(10)] + [0] * 54


def test_scalar_stores_and_atomics() -> None:
    """Three workgroups count down from 9; what a store writes stays."""
    space = AddressSpace()
    memory = np.array([9, 0, 0, 0], np.uint32)
    base = space.add_array("memory", memory, writable=True).base
    dec = Instruction(0, 8, "s_atomic_dec", Format.SMEM, (s(8),), (s(8), s(4, 2)))
    program = code(
        *pointer(4, 0),
        ins("s_mov_b32", s(8), c(100)),
        dec,
        Instruction(0, 8, "s_store_dword", Format.SMEM, (), (s(8), s(4, 2), imm(0)), replace(END.modifiers, offset=8)),
        END,
    )
    result = run(program, space, base, grid=(3, 1, 1))
    assert result.event_count == 0
    assert memory.tolist() == [6, 0, 7, 0]


OFF = Operand(OperandKind.OFF)
SIXTY_FOUR = np.arange(64, dtype=np.uint32)
ADDRESSED = (*pointer(4, 0), *pointer(6, 1), *SCALED, ins("v_lshlrev_b32", v(3), (c(3), v(0))))
"""s[4:5]: the output; s[6:7]: 64 addresses; v1, v3 = 4 and 8 times the work-item id."""


def mixed_addresses(space: AddressSpace) -> tuple[int, np.ndarray]:
    """By turns an address of global memory, of LDS and of the lane's private segment; and what is in the global part."""
    there = np.arange(1000, 1064, dtype=np.uint32)
    first = space.add_array("there", there, writable=True).base
    starts = np.array([first, APERTURES[0], APERTURES[2] + 16], np.uint64)[SIXTY_FOUR % 3]
    steps = np.where(SIXTY_FOUR % 3 == 2, 0, 4 * SIXTY_FOUR).astype(np.uint64)
    return space.add_array("addresses", starts + steps).base, there


def test_a_flat_load_takes_each_lane_from_where_its_address_lies() -> None:
    space = AddressSpace()
    target, out = output(space)
    addresses, _ = mixed_addresses(space)
    program = code(
        *ADDRESSED,
        ins("v_add_u32", v(4), (c(2000), v(0))),
        ins("ds_write_b32", (), (v(1), v(4))),
        ins("v_add_u32", v(5), (c(3000), v(0))),
        ins("scratch_store_dword", (), (OFF, v(5), OFF), offset=16),
        ins("global_load_dwordx2", v(6, 2), (v(3), s(6, 2))),
        ins("flat_load_dword", v(8), v(6, 2)),
        store(4, 8),
        END,
    )
    assert run(program, space, out, addresses).bad_accesses == ()
    np.testing.assert_array_equal(target, np.array([1000, 2000, 3000], np.uint32)[SIXTY_FOUR % 3] + SIXTY_FOUR)


def test_a_flat_store_goes_where_each_lanes_address_lies() -> None:
    space = AddressSpace()
    target, out = output(space)
    addresses, there = mixed_addresses(space)
    program = code(
        *ADDRESSED,
        ins("v_mov_b32", v(4), c(7)),
        ins("ds_write_b32", (), (v(1), v(4))),
        ins("scratch_store_dword", (), (OFF, v(4), OFF), offset=16),
        ins("global_load_dwordx2", v(6, 2), (v(3), s(6, 2))),
        ins("flat_store_dword", (), (v(6, 2), v(0))),
        ins("ds_read_b32", v(8), v(1)),
        ins("scratch_load_dword", v(9), (OFF, OFF), offset=16),
        ins("v_lshlrev_b32", v(9), (c(8), v(9))),
        ins("v_or_b32", v(8), (v(8), v(9))),
        store(4, 8),
        END,
    )
    assert run(program, space, out, addresses).bad_accesses == ()
    kind = SIXTY_FOUR % 3
    np.testing.assert_array_equal(there, np.where(kind == 0, SIXTY_FOUR, SIXTY_FOUR + 1000))
    np.testing.assert_array_equal(target & 0xFF, np.where(kind == 1, SIXTY_FOUR, 7))
    np.testing.assert_array_equal(target >> 8, np.where(kind == 2, SIXTY_FOUR, 7))


def test_a_flat_address_past_lds_is_an_event_and_past_the_private_segment_stops_the_run() -> None:
    space = AddressSpace()
    target, out = output(space)
    past = np.full(64, APERTURES[0] + LDS_BYTES - 2, np.uint64)
    program = code(
        *ADDRESSED,
        ins("global_load_dwordx2", v(6, 2), (v(3), s(6, 2))),
        ins("flat_load_dword", v(8), v(6, 2)),
        store(4, 8),
        END,
    )
    (event,) = run(program, space, out, space.add_array("addresses", past).base).bad_accesses
    assert event.kind is AccessKind.LDS_OUT_OF_BOUNDS
    np.testing.assert_array_equal(target, 0)
    for wrong in (APERTURES[2] + SCRATCH_BYTES - 2, APERTURES[1] + 1):
        space = AddressSpace()
        _, out = output(space)
        addresses = space.add_array("addresses", np.full(64, wrong, np.uint64)).base
        with pytest.raises(CannotRunError, match="flat_load_dword"):
            run(program, space, out, addresses)


@pytest.mark.parametrize("last", [(END,), (ins("s_barrier"), END), (ins("s_branch", (), label(5)), END)])
def test_what_stops_a_run_stops_it_before_its_end(last: tuple[Instruction, ...]) -> None:
    """An access outside of the private segment has no model: the run has not ended well because nothing came after it."""
    space = AddressSpace()
    _, out = output(space)
    program = code(
        *pointer(4, 0), ins("v_mov_b32", v(2), c(SCRATCH_BYTES)), *SCALED, ins("scratch_load_dword", v(8), (v(2), OFF)), *last
    )
    for schedule in Schedule:
        machine = Machine(kernel("gfx942"), compile_program(program, "gfx942"))
        with pytest.raises(CannotRunError, match="scratch_load_dword"):
            machine.run(MachineLaunch((1, 1, 1), WAVE, struct.pack("<Q", out)), space, Mode.FULL, schedule)
