"""The address slice by its static meaning: small kernels, and uninterpreted execution of every kernel of the wheel.

That the access log of a real run is the same is tested with the machine.
"""

from __future__ import annotations

import random
import re
from dataclasses import dataclass, field

import pytest
from code_object_files import triton_files, wheel_file, wheel_files
from listing import listing

from backend.cdna.code_object import load_code_object
from backend.cdna.decode import decode
from backend.cdna.decode.text import assembly_text
from backend.cdna.effects import VECTOR_BITS, Effects, units
from backend.cdna.flow import FlowGraph
from backend.cdna.gpr_index import effects_in_place
from backend.cdna.instruction import Format
from backend.cdna.slice import Action, Slice, initial_action, slice_graph, slice_kernel
from tests.tiers import kernel_family, one_of_each

MATRIX = re.compile(r"v_(mfma|smfmac)")
FLOAT = re.compile(r"v_.*(f16|f32|f64|bf16|fp8|bf8)")
MOVES = re.compile(r"v_(cvt_|cndmask|cmp_class|mov|pk_mov|frexp_exp)")

LETTERS = {Action.SKIP: ".", Action.ACCESS_ONLY: "a", Action.EXECUTE: "X"}


def sliced(lines: str, workgroup: int = 256) -> Slice:
    graph = FlowGraph.of(listing(lines))
    return slice_graph(graph, effects_in_place(graph, workgroup))


def letters(result: Slice) -> str:
    """One letter an instruction: X executed, a access only, . skipped."""
    return "".join(LETTERS[action] for action in result.actions)


CHAIN = """
C0060100 00000000 ; s_load_dwordx2 s[4:5], s[0:1], 0x0
8004FF04 00000100 ; s_add_u32 s4, s4, 0x100
82058005 ; s_addc_u32 s5, s5, 0
80068102 ; s_add_u32 s6, s2, 1
7E020287 ; v_mov_b32_e32 v1, 7
24040082 ; v_lshlrev_b32_e32 v2, 2, v0
7E060301 ; v_mov_b32_e32 v3, v1
DC508000 04040002 ; global_load_dword v4, v2, s[4:5]
680A0704 ; v_add_u32_e32 v5, v4, v3
DC708000 00040502 ; global_store_dword v2, v5, s[4:5]
BF810000 ; s_endpgm
"""


def test_address_through_a_carry() -> None:
    """The 64-bit base and the lane offset are needed; what is loaded, added and stored is not, nor is s6."""
    assert letters(sliced(CHAIN)) == "XXX..X.a.aX"


INDIRECT = """
24020082 ; v_lshlrev_b32_e32 v1, 2, v0
E0501000 80010201 ; buffer_load_dword v2, v1, s[4:7], 0 offen
BF8C0F70 ; s_waitcnt vmcnt(0)
D2850003 00000702 ; v_mul_lo_u32 v3, v2, s3
E0501000 80020403 ; buffer_load_dword v4, v3, s[8:11], 0 offen
02080904 ; v_add_f32_e32 v4, v4, v4
E0701000 80030401 ; buffer_store_dword v4, v1, s[12:15], 0 offen
BF810000 ; s_endpgm
"""


def test_loaded_data_that_feeds_an_address_is_loaded() -> None:
    assert letters(sliced(INDIRECT)) == "XX.Xa.aX"


LOOPED = """
BE880080 ; s_mov_b32 s8, 0
7E020280 ; v_mov_b32_e32 v1, 0
7E0A0280 ; v_mov_b32_e32 v5, 0
DC508000 04040001 ; global_load_dword v4, v1, s[4:5]
68020501 ; v_add_u32_e32 v1, v1, v2
020A0905 ; v_add_f32_e32 v5, v5, v4
7E040284 ; v_mov_b32_e32 v2, 4
80088108 ; s_add_u32 s8, s8, 1
BF0A0308 ; s_cmp_lt_u32 s8, s3
BF85FFF8 ; s_cbranch_scc1 65528
BF8A0000 ; s_barrier
DC708000 00040506 ; global_store_dword v6, v5, s[4:5]
BF810000 ; s_endpgm
"""


def test_what_a_loop_carries() -> None:
    """v2 is written behind its use and feeds the address of the next turn; v5 only sums data."""
    assert letters(sliced(LOOPED)) == "XX.aX.XXXXXaX"


DMA = """
BEFC00FF 00000100 ; s_mov_b32 m0, 0x100
807C097C ; s_add_u32 m0, m0, s9
E0511000 80010001 ; buffer_load_dword v1, s[4:7], 0 offen lds
BF8C0F70 ; s_waitcnt vmcnt(0)
BF8A0000 ; s_barrier
D86C0000 03000002 ; ds_read_b32 v3, v2
D3F30004 02020502 ; v_mfma_f32_16x16x32_fp8_fp8 v[4:7], v[2:3], v[2:3], 0
BF810000 ; s_endpgm
"""


def test_load_to_lds_needs_m0_and_barriers_stay() -> None:
    result = sliced(DMA)
    assert letters(result) == "XXa.X..X"


THROUGH_LDS = """
68120081 ; v_add_u32_e32 v9, 1, v0
D81A0000 00000908 ; ds_write_b32 v8, v9
E0511000 80010001 ; buffer_load_dword v1, s[4:7], 0 offen lds
BF8A0000 ; s_barrier
D86C0000 03000002 ; ds_read_b32 v3, v2
24060682 ; v_lshlrev_b32_e32 v3, 2, v3
DC508000 04000003 ; global_load_dword v4, v3, s[0:1]
BF810000 ; s_endpgm
"""


def test_address_through_lds_keeps_every_lds_write() -> None:
    result = sliced(THROUGH_LDS)
    assert letters(result) == "XXXXXXaX"


MASKED = """
7E020280 ; v_mov_b32_e32 v1, 0
7E060289 ; v_mov_b32_e32 v3, 9
BE86017E ; s_mov_b64 s[6:7], exec
7D920088 ; v_cmp_lt_u32_e32 vcc, 8, v0
86FE6A7E ; s_and_b64 exec, exec, vcc
7E020285 ; v_mov_b32_e32 v1, 5
BEFE01C1 ; s_mov_b64 exec, -1
7E060287 ; v_mov_b32_e32 v3, 7
DC508000 04000001 ; global_load_dword v4, v1, s[0:1]
DC508000 05000003 ; global_load_dword v5, v3, s[0:1]
BF810000 ; s_endpgm
"""


def test_a_masked_write_keeps_the_value_of_other_lanes() -> None:
    """v1 keeps its 0 where EXEC is off; v3's 9 is overwritten in all lanes."""
    assert letters(sliced(MASKED)) == "X..XXXXXaaX"


HALVES = """
7E020280 ; v_mov_b32_e32 v1, 0
7E040280 ; v_mov_b32_e32 v2, 0
4C0208F9 04041503 ; v_add_u16_sdwa v1, v3, v4 dst_sel:WORD_1 dst_unused:UNUSED_PRESERVE src0_sel:WORD_0 src1_sel:WORD_0
4C0408F9 04040503 ; v_add_u16_sdwa v2, v3, v4 dst_sel:WORD_1 dst_unused:UNUSED_PAD src0_sel:WORD_0 src1_sel:WORD_0
DC508000 05000001 ; global_load_dword v5, v1, s[0:1]
DC508000 05000002 ; global_load_dword v5, v2, s[0:1]
BF810000 ; s_endpgm
"""


def test_a_half_write_keeps_the_other_half() -> None:
    assert letters(sliced(HALVES)) == "X.XXaaX"


INDEXED = """
260000FF 000003FF ; v_and_b32_e32 v0, 0x3ff, v0
20060086 ; v_lshrrev_b32_e32 v3, 6, v0
7E0E0503 ; v_readfirstlane_b32 s7, v3
92338407 ; s_mul_i32 s51, s7, 4
7E500281 ; v_mov_b32_e32 v40, 1
7E680282 ; v_mov_b32_e32 v52, 2
7E6A0283 ; v_mov_b32_e32 v53, 3
BF110133 ; s_set_gpr_idx_on s51, gpr_idx(SRC0)
7E480328 ; v_mov_b32_e32 v36, v40
BF9C0000 ; s_set_gpr_idx_off
7E4A0324 ; v_mov_b32_e32 v37, v36
DC508000 04000025 ; global_load_dword v4, v37, s[0:1]
BF810000 ; s_endpgm
"""


def test_gpr_index_keeps_what_it_may_reach_and_its_end() -> None:
    """Four waves reach v40 to v52; v53 is not needed. s_set_gpr_idx_off is, or the move behind it would be indexed too."""
    assert letters(sliced(INDEXED)) == "XXXXXX.XXXXaX"
    assert letters(sliced(INDEXED, workgroup=1024)) == "XXXXXXXXXXXaX"


@dataclass
class Uninterpreted:
    """Runs instructions as functions that nobody knows: what an instruction writes is a hash of what it reads.

    If two runs over the same path log equal addresses whatever the instructions compute, then the skipped ones did not
    matter. Branches go where the path says; the log holds the hash of each access's address and of each branch's condition.
    """

    graph: FlowGraph
    effects: tuple[Effects, ...]
    state: dict[int, int] = field(default_factory=dict)
    log: list[tuple[int, int]] = field(default_factory=list)

    def value(self, bits: int) -> int:
        return hash(tuple(self.state.get(unit, unit) for unit in units(bits)))

    def step(self, number: int, action: Action) -> None:
        effect = self.effects[number]
        if initial_action(self.graph.instructions[number]) is not Action.SKIP:
            self.log.append((number, self.value(effect.address or effect.uses)))
        if action is not Action.EXECUTE:
            return
        read = self.value(effect.uses)
        partial = effect.masked and self.graph.may_be_partial[number]
        for unit in units(effect.defs):
            keeps = not effect.whole >> unit & 1 or (partial and VECTOR_BITS >> unit & 1)
            old = self.state.get(unit, unit) if keeps else 0
            self.state[unit] = hash((number, unit, read, old))


def random_path(graph: FlowGraph, choose: random.Random, length: int) -> list[int]:
    """Instruction numbers of a walk over the graph from its entry to an end, or of this length."""
    path: list[int] = []
    successors: tuple[int, ...] = (0,)
    while successors and len(path) < length:
        block = graph.blocks[choose.choice(successors)]
        path.extend(range(block.first, block.end))
        successors = block.successors
    return path


def assert_slice_is_enough(name: str, content: bytes, length: int) -> None:
    """Walks of `length` instructions in all."""
    (kernel,) = load_code_object(content).kernels
    graph = FlowGraph.of(decode(kernel.text, kernel.arch))
    in_place = effects_in_place(graph, kernel.max_workgroup_size)
    actions = slice_graph(graph, in_place).actions
    choose = random.Random(name)
    accesses = 0
    while length > 0:
        full, reduced = Uninterpreted(graph, in_place), Uninterpreted(graph, in_place)
        path = random_path(graph, choose, length)
        for number in path:
            full.step(number, Action.EXECUTE)
            reduced.step(number, actions[number])
            assert full.log[-1:] == reduced.log[-1:], assembly_text(graph.instructions[full.log[-1][0]])
        length -= len(path)
        accesses += len(full.log)
    assert accesses > 20


@pytest.mark.parametrize("name", one_of_each(sorted(wheel_files()), kernel_family))
def test_slice_of_the_wheels_kernels_is_enough(name: str) -> None:
    assert_slice_is_enough(name, wheel_file(name), 12_000)


@pytest.mark.parametrize("name", one_of_each(sorted(triton_files()), lambda name: name.rpartition("_")[0]))
def test_slice_of_compiled_kernels_is_enough(name: str) -> None:
    assert_slice_is_enough(name, triton_files()[name], 4_000)


@pytest.mark.parametrize("name", one_of_each(sorted(wheel_files()), kernel_family))
def test_no_lds_and_no_matrix_feeds_an_address(name: str) -> None:
    """Of the wheel's kernels only a reciprocal for an integer division does: at most two divisions, two instructions each."""
    kernel = load_code_object(wheel_file(name)).kernels[0]
    result = slice_kernel(kernel)
    executed = [
        instruction
        for instruction, action in zip(decode(kernel.text, kernel.arch), result.actions, strict=True)
        if action is Action.EXECUTE
    ]
    assert not [each for each in executed if each.format in (Format.DS, Format.SCRATCH) or MATRIX.match(each.mnemonic)]
    floats = [each.mnemonic for each in executed if FLOAT.match(each.mnemonic) and not MOVES.match(each.mnemonic)]
    assert len(floats) <= 4
    assert {name.removesuffix("_e32") for name in floats} <= {"v_rcp_iflag_f32", "v_mul_f32"}
    assert 0.03 < result.kept < 0.45
    assert result.count(Action.ACCESS_ONLY) > 10
