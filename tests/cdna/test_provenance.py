"""Expressions of addresses: small kernels whose expression is known from their text, and the wheel's persistent kernels."""

from __future__ import annotations

import collections
import struct
from collections.abc import Sequence

import numpy as np
import pytest
from code_object_files import wheel_file, wheel_files
from listing import code_of, listing

from backend.cdna.code_object import Argument, Denormals, FloatMode, Kernel, load_code_object
from backend.cdna.decode import decode
from backend.cdna.expression import ExpressionNames, LaunchValues, RecordLayout
from backend.cdna.flow import FlowGraph
from backend.cdna.instruction import Dpp
from backend.cdna.machine import Machine, MachineLaunch
from backend.cdna.memory import AddressSpace
from backend.cdna.provenance import Explanation, dpp_source, explain_address
from backend.cdna.slice import Action, initial_action
from backend.errors import UsageError
from tests.tiers import kernel_family, one_of_each

ARGUMENTS = (
    Argument("kv_buffer", 0, 8, "global_buffer"),
    Argument("kv_indices", 16, 8, "global_buffer"),
    Argument("s_Bs", 32, 4, "by_value"),
    Argument("kv_begin", 48, 4, "by_value"),
)
MODE = FloatMode(0, 0, Denormals.FLUSH, Denormals.KEEP, False, False, False)


def kernel_of(lines: str) -> Kernel:
    """A kernel with these arguments, workgroup ids in s2, s3 and s4, and 256 work-items."""
    listing(lines)
    return Kernel(
        name="test",
        arch="gfx950",
        text=code_of(lines),
        entry=0,
        kernarg_size=64,
        lds_size=0,
        private_segment_size=0,
        vgpr_count=64,
        agpr_count=0,
        user_sgpr_count=2,
        has_kernarg_pointer=True,
        kernarg_preload_offset=0,
        kernarg_preload_length=0,
        workgroup_id_x=True,
        workgroup_id_y=True,
        workgroup_id_z=True,
        work_item_id_mode=0,
        float_mode=MODE,
        max_workgroup_size=256,
        arguments=ARGUMENTS,
    )


def straight(kernel: Kernel) -> list[int]:
    """The path through code without taken branches."""
    return [instruction.pc for instruction in decode(kernel.text, kernel.arch)]


def explain(
    lines: str,
    access: int,
    lane: int = 0,
    wave: int = 0,
    launch: LaunchValues | None = None,
    names: ExpressionNames | None = None,
) -> Explanation:
    """Explain the access that is instruction number `access`, negative from the end, of a kernel that runs straight through."""
    kernel = kernel_of(lines)
    path = straight(kernel)
    return explain_address(kernel, path, path[access], lane, wave=wave, launch=launch, names=names)


KERNARG_AT = 0x1000
KV_BUFFER, KV_INDICES, S_BS, KV_BEGIN = 0x7F_1234_0000, 0x7F_FFFF_FF00, 576, 40
PAGE = 11


def memory(address: int, size: int) -> int | None:
    """The kernarg segment, and a page table in which every page is PAGE."""
    words = {0: KV_BUFFER, 16: KV_INDICES, 32: S_BS, 48: KV_BEGIN}
    if address - KERNARG_AT in words:
        return words[address - KERNARG_AT] & (1 << (8 * size)) - 1
    return PAGE if KV_INDICES <= address < KV_INDICES + 4096 else None


def launched(workgroup: int = 0) -> LaunchValues:
    return LaunchValues(KERNARG_AT, (workgroup, 0, 0), memory)


GATHER = """
C0060100 00000000 ; s_load_dwordx2 s[4:5], s[0:1], 0x0
C0060200 00000010 ; s_load_dwordx2 s[8:9], s[0:1], 0x10
C0020300 00000020 ; s_load_dword s12, s[0:1], 0x20
C0020340 00000030 ; s_load_dword s13, s[0:1], 0x30
8605FF05 0000FFFF ; s_and_b32 s5, s5, 0xffff
8705FF05 00040000 ; s_or_b32 s5, s5, 0x40000
BE8600D0 ; s_mov_b32 s6, -16
BE8700FF 00020000 ; s_mov_b32 s7, 0x20000
260000FF 000003FF ; v_and_b32_e32 v0, 0x3ff, v0
260200BF ; v_and_b32_e32 v1, 63, v0
6802020D ; v_add_u32_e32 v1, s13, v1
24020282 ; v_lshlrev_b32_e32 v1, 2, v1
DC508000 02080001 ; global_load_dword v2, v1, s[8:9]
D2850003 00001902 ; v_mul_lo_u32 v3, v2, s12
20080086 ; v_lshrrev_b32_e32 v4, 6, v0
24080885 ; v_lshlrev_b32_e32 v4, 5, v4
68060903 ; v_add_u32_e32 v3, v3, v4
E0501020 80010503 ; buffer_load_dword v5, v3, s[4:7], 0 offen offset:32
BF810000 ; s_endpgm
"""


def test_gathered_page() -> None:
    """Lane 3 of wave 1: the index is loaded, multiplied by the stride, and the wave adds 32 bytes to the instruction's 32."""
    explanation = explain(GATHER, -2, lane=3, wave=1)
    assert explanation.text == "kv_buffer + kv_indices[kv_begin + 3] * s_Bs + 64"
    assert explanation.value is None
    assert explain(GATHER, -7, lane=3, wave=1).text == "kv_indices + kv_begin * 4 + 12"
    computed = explain(GATHER, -2, lane=3, wave=1, launch=launched())
    assert computed.value == KV_BUFFER + PAGE * S_BS + 64


def test_names_of_the_caller_go_before_the_metadata() -> None:
    names = ExpressionNames(words={("kernarg", 0): "pool"}, element_sizes={"kv_indices": 2})
    assert explain(GATHER, -2, lane=3, names=names).text == "pool + kv_indices[kv_begin * 2 + 6] * s_Bs + 32"


CARRY = """
C0060100 00000000 ; s_load_dwordx2 s[4:5], s[0:1], 0x0
C0020300 00000020 ; s_load_dword s12, s[0:1], 0x20
92060C02 ; s_mul_i32 s6, s2, s12
96070C02 ; s_mul_hi_u32 s7, s2, s12
80040604 ; s_add_u32 s4, s4, s6
82050705 ; s_addc_u32 s5, s5, s7
8004FF04 00000100 ; s_add_u32 s4, s4, 0x100
82058005 ; s_addc_u32 s5, s5, 0
C0020202 00000004 ; s_load_dword s8, s[4:5], 0x4
7E040204 ; v_mov_b32_e32 v2, s4
7E060205 ; v_mov_b32_e32 v3, s5
32040102 ; v_add_co_u32_e32 v2, vcc, v2, v0
38060680 ; v_addc_co_u32_e32 v3, vcc, 0, v3, vcc
DC709FF8 007F0102 ; global_store_dword v[2:3], v1, off offset:-8
BF810000 ; s_endpgm
"""


def test_64_bit_arithmetic_in_halves() -> None:
    """Carries and the high half of a product vanish: they belong to the sum of the low halves."""
    assert explain(CARRY, 8).text == "kv_buffer + workgroup_x * s_Bs + 260"
    vector = explain(CARRY, -2, lane=9, wave=2, launch=launched(5))
    assert vector.text == "kv_buffer + workgroup_x * s_Bs + 385"
    assert vector.value == KV_BUFFER + 5 * S_BS + 256 + 2 * 64 + 9 - 8


WRAP = """
C0060100 00000000 ; s_load_dwordx2 s[4:5], s[0:1], 0x0
C0020300 00000020 ; s_load_dword s12, s[0:1], 0x20
92060C02 ; s_mul_i32 s6, s2, s12
80040604 ; s_add_u32 s4, s4, s6
82058005 ; s_addc_u32 s5, s5, 0
C0020202 00000000 ; s_load_dword s8, s[4:5], 0x0
BF810000 ; s_endpgm
"""


def test_a_wrap_at_32_bits_shows_in_the_value() -> None:
    """s_mul_i32 keeps 32 bits, the expression does not: the true address differs by a multiple of 2^32."""
    workgroup = (1 << 32) // S_BS + 1
    explanation = explain(WRAP, -2, launch=launched(workgroup))
    assert explanation.text == "kv_buffer + workgroup_x * s_Bs"
    accessed = KV_BUFFER + workgroup * S_BS % (1 << 32)
    assert explanation.value is not None
    assert explanation.value - accessed == 1 << 32


SELECT = """
C0060100 00000000 ; s_load_dwordx2 s[4:5], s[0:1], 0x0
C0020300 00000020 ; s_load_dword s12, s[0:1], 0x20
BF0A0C02 ; s_cmp_lt_u32 s2, s12
85068702 ; s_cselect_b32 s6, s2, 7
8387900C ; s_min_u32 s7, s12, 16
8E068306 ; s_lshl_b32 s6, s6, 3
80060706 ; s_add_u32 s6, s6, s7
C0000202 00000006 ; s_load_dword s8, s[4:5], s6
BF810000 ; s_endpgm
"""


def test_selections_are_decided_by_a_launch_and_shown_without() -> None:
    text = "kv_buffer + select((workgroup_x < s_Bs), workgroup_x, 7) * 8 + min(s_Bs, 16)"
    assert explain(SELECT, -2).text == text
    assert explain(SELECT, -2, launch=launched(5)).text == "kv_buffer + workgroup_x * 8 + min(s_Bs, 16)"
    assert explain(SELECT, -2, launch=launched(600)).text == "kv_buffer + min(s_Bs, 16) + 56"
    assert explain(SELECT, -2, launch=launched(5)).value == KV_BUFFER + 5 * 8 + 16


LANES = """
C0060100 00000000 ; s_load_dwordx2 s[4:5], s[0:1], 0x0
7E5002FF 00000100 ; v_mov_b32_e32 v40, 0x100
7E5802FF 00000200 ; v_mov_b32_e32 v44, 0x200
20020086 ; v_lshrrev_b32_e32 v1, 6, v0
7E0E0501 ; v_readfirstlane_b32 s7, v1
92338407 ; s_mul_i32 s51, s7, 4
BF110133 ; s_set_gpr_idx_on s51, gpr_idx(SRC0)
68040128 ; v_add_u32_e32 v2, v40, v0
BF9C0000 ; s_set_gpr_idx_off
100650FA FF015300 ; v_mul_u32_u24_dpp v3, v0, v40 row_newbcast:3 row_mask:0xf bank_mask:0xf
68080702 ; v_add_u32_e32 v4, v2, v3
DC508000 05040004 ; global_load_dword v5, v4, s[4:5]
BF810000 ; s_endpgm
"""


@pytest.mark.parametrize(("wave", "lane", "offset"), [(0, 0, 0x100 + 0 + 3 * 0x100), (1, 20, 0x200 + 84 + (64 + 19) * 0x100)])
def test_registers_by_index_and_lanes_by_dpp(wave: int, lane: int, offset: int) -> None:
    """Wave 1 reads v44 for v40; row_newbcast:3 takes the work-item id of the row's fourth lane."""
    assert explain(LANES, -2, lane=lane, wave=wave).text == f"kv_buffer + {offset}"


LOOP = """
C0060100 00000000 ; s_load_dwordx2 s[4:5], s[0:1], 0x0
BE860080 ; s_mov_b32 s6, 0
7E020280 ; v_mov_b32_e32 v1, 0
6802028C ; v_add_u32_e32 v1, 12, v1
80068106 ; s_add_u32 s6, s6, 1
BF0A0206 ; s_cmp_lt_u32 s6, s2
BF85FFFC ; s_cbranch_scc1 65532
DC508000 02040001 ; global_load_dword v2, v1, s[4:5]
BF810000 ; s_endpgm
"""


def test_a_long_loop() -> None:
    """20,000 turns: a chain longer than Python's stack, folded to one constant."""
    kernel = kernel_of(LOOP)
    pcs = straight(kernel)
    path = [*pcs[:3], *(pcs[3:7] * 20_000), *pcs[7:]]
    assert explain_address(kernel, path, pcs[-2], 0).text == f"kv_buffer + {12 * 20_000}"
    assert explain_address(kernel, [*pcs[:3], *(pcs[3:7] * 2), *pcs[7:]], pcs[-2], 0).text == "kv_buffer + 24"


THROUGH_LDS = """
C0060100 00000000 ; s_load_dwordx2 s[4:5], s[0:1], 0x0
D86C0000 01000000 ; ds_read_b32 v1, v0
24020282 ; v_lshlrev_b32_e32 v1, 2, v1
DC508000 02040001 ; global_load_dword v2, v1, s[4:5]
BF810000 ; s_endpgm
"""


def test_what_cannot_be_followed_is_named() -> None:
    assert explain(THROUGH_LDS, -2, lane=4).text == "kv_buffer + ds_read_b32 at 0x8 * 4"


TABLE = """
C0060100 00000000 ; s_load_dwordx2 s[4:5], s[0:1], 0x0
C0060182 00000008 ; s_load_dwordx2 s[6:7], s[4:5], 0x8
8607FF07 0000FFFF ; s_and_b32 s7, s7, 0xffff
8E088502 ; s_lshl_b32 s8, s2, 5
80060806 ; s_add_u32 s6, s6, s8
82078007 ; s_addc_u32 s7, s7, 0
C00A0303 00000010 ; s_load_dwordx4 s[12:15], s[6:7], 0x10
C0060400 00000010 ; s_load_dwordx2 s[16:17], s[0:1], 0x10
8E09820D ; s_lshl_b32 s9, s13, 2
C0000288 00000009 ; s_load_dword s10, s[16:17], s9
BF810000 ; s_endpgm
"""


def test_pointers_in_memory_and_records() -> None:
    names = ExpressionNames(
        words={("kernarg", 0): "metadata", ("metadata", 8): "work_info"},
        records={"work_info": RecordLayout(32, {16: "kv_begin", 20: "kv_end"})},
    )
    assert explain(TABLE, -2, names=names).text == "kv_indices + work_info[workgroup_x].kv_end * 4"
    assert explain(TABLE, 6, names=names).text == "work_info + workgroup_x * 32 + 16"
    assert explain(TABLE, -2).text == "kv_indices + kv_buffer[2][workgroup_x * 8 + 5] * 4"


@pytest.mark.parametrize(("path", "pc"), [([], 0), ([0, 8], 999)])
def test_a_path_must_begin_at_the_entry_and_pass_the_access(path: Sequence[int], pc: int) -> None:
    with pytest.raises(UsageError, match="path of a wave"):
        explain_address(kernel_of(GATHER), path, pc, 0)


def test_a_path_must_begin_in_the_entry_block() -> None:
    kernel = kernel_of(LOOP)
    with pytest.raises(UsageError, match="path of a wave"):
        explain_address(kernel, straight(kernel)[6:], straight(kernel)[-2], 0)


def launch_on_machine(pool_bytes: int) -> tuple[AddressSpace, MachineLaunch]:
    """GATHER with pages of which all but one are page 0: page_table[43], which lane 3 reads, is PAGE."""
    space = AddressSpace()
    pages = np.zeros(128, np.int32)
    pages[KV_BEGIN + 3] = PAGE
    space.add_bounds("kv_buffer", pool_bytes)
    space.add_array("kv_indices", pages)
    kernarg = bytearray(64)
    struct.pack_into("<Q", kernarg, 0, space["kv_buffer"].base)
    struct.pack_into("<Q", kernarg, 16, space["kv_indices"].base)
    struct.pack_into("<I", kernarg, 32, S_BS)
    struct.pack_into("<I", kernarg, 48, KV_BEGIN)
    return space, MachineLaunch((1, 1, 1), (128, 1, 1), bytes(kernarg))


def test_the_value_is_the_address_that_the_machine_accessed() -> None:
    """Page 11 lies past a pool of ten: lane 3 of both waves reads past it, and each address is explained to the byte."""
    kernel = kernel_of(GATHER)
    space, launch = launch_on_machine(10 * S_BS)

    def read(address: int, size: int) -> int | None:
        if KERNARG_AT <= address < KERNARG_AT + len(launch.kernarg):
            return int.from_bytes(launch.kernarg[address - KERNARG_AT :][:size], "little")
        region = space["kv_indices"]
        assert region.contents is not None
        return int.from_bytes(region.contents[address - region.base :][:size].tobytes(), "little")

    for wave in (0, 1):
        result = Machine(kernel).trace(launch, space, workgroup=0, wave=wave)
        (bad,) = [event for event in result.bad_accesses if event.wave == wave]
        assert bad.lanes == (3,)
        path = [result.program.instructions[number].pc for number in result.trace]
        given = LaunchValues(KERNARG_AT, (0, 0, 0), read)
        explanation = explain_address(kernel, path, bad.pc, bad.lanes[0], wave=wave, launch=given)
        assert explanation.text == f"kv_buffer + kv_indices[kv_begin + 3] * s_Bs + {32 + 32 * wave}"
        assert explanation.value == bad.address


DPP = [
    # control, lane, lane read (ISA, "DPP_CTRL Enumeration")
    (0b00_01_10_11, 20, 23),  # quad_perm:[3,2,1,0]
    (0x101, 20, 21),  # row_shl:1
    (0x101, 31, -1),
    (0x111, 20, 19),  # row_shr:1
    (0x111, 16, -1),
    (0x121, 16, 31),  # row_ror:1
    (0x140, 16, 31),  # row_mirror
    (0x141, 17, 22),  # row_half_mirror
    (0x141, 25, 30),
    (0x15F, 33, 47),  # row_newbcast:15
]


@pytest.mark.parametrize(("control", "lane", "source"), DPP)
def test_dpp_lanes(control: int, lane: int, source: int) -> None:
    assert dpp_source(Dpp(control, 15, 15, False), lane) == source


def shortest_path(graph: FlowGraph, number: int) -> list[int] | None:
    """pcs of a shortest walk from the entry to the end of the instruction's block, None where there is none."""
    target = graph.block_of[number]
    before: dict[int, int | None] = {0: None}
    queue = collections.deque([0])
    while queue:
        block = queue.popleft()
        for successor in graph.blocks[block].successors:
            if successor not in before:
                before[successor] = block
                queue.append(successor)
    if target not in before:
        return None
    blocks: list[int] = []
    block_number: int | None = target
    while block_number is not None:
        blocks.append(block_number)
        block_number = before[block_number]
    spans = [graph.blocks[each] for each in reversed(blocks)]
    return [graph.instructions[n].pc for span in spans for n in range(span.first, span.end)]


@pytest.mark.parametrize("name", one_of_each((name for name in sorted(wheel_files()) if "_ps" in name), kernel_family))
def test_accesses_of_the_wheels_persistent_kernels(name: str) -> None:
    """Every access counts from one pointer that is a kernel argument or lies behind one, and nothing in it is unexplained."""
    (kernel,) = load_code_object(wheel_file(name)).kernels
    graph = FlowGraph.of(decode(kernel.text, kernel.arch))
    accesses = [n for n, each in enumerate(graph.instructions) if initial_action(each) is Action.ACCESS_ONLY]
    pointers = {argument.name for argument in kernel.arguments if argument.size == 8} | {"kernarg"}
    explained = set()
    for number in accesses[::7]:
        path = shortest_path(graph, number)
        if path is None:
            continue
        text = explain_address(kernel, path, graph.instructions[number].pc, 5, wave=1).text
        assert text.split(" + ")[0].split("[")[0] in pointers, text
        explained.add(text)
    assert len(explained) > 10
    assert not [text for text in explained if " at 0x" in text or "launch" in text]
