"""Data flow and control flow: what the ISA documents say of each kind of instruction, and small graphs."""

from __future__ import annotations

import pytest
from code_object_files import triton_files, wheel_file, wheel_files
from listing import listing

from backend.cdna.code_object import load_code_object
from backend.cdna.decode import decode
from backend.cdna.effects import VGPR, address_operands, effects, operand_units
from backend.cdna.flow import FlowGraph, defs, unit_name, units, uses
from backend.cdna.gpr_index import UNKNOWN, Bounds, effects_in_place
from backend.errors import UnmodelledError

VECTOR = "exec_lo exec_hi mode gpr_index"
"""What every vector instruction reads, written E below; N: without EXEC (matrix and lane instructions); X: EXEC alone."""
SHORT = {"E": VECTOR.split(), "N": ["mode", "gpr_index"], "X": ["exec_lo", "exec_hi"]}

EFFECTS = [
    # words ; text, registers read, registers written[, the written that keep nothing of their old value, where not all]
    ("80000201 ; s_add_u32 s0, s1, s2", "s1 s2", "s0 scc"),
    ("82008001 ; s_addc_u32 s0, s1, 0", "s1 scc", "s0 scc"),
    ("92000201 ; s_mul_i32 s0, s1, s2", "s1 s2", "s0"),
    ("91000201 ; s_bfm_b32 s0, s1, s2", "s1 s2", "s0"),
    ("85000201 ; s_cselect_b32 s0, s1, s2", "s1 s2 scc", "s0"),
    ("BE800201 ; s_cmov_b32 s0, s1", "s0 s1 scc", "s0"),
    ("BE801A01 ; s_bitset1_b32 s0, s1", "s0 s1", "s0"),
    ("B7000010 ; s_addk_i32 s0, 0x10", "s0", "s0 scc"),
    ("B7800010 ; s_mulk_i32 s0, 0x10", "s0", "s0"),
    ("B4000010 ; s_cmpk_eq_u32 s0, 0x10", "s0", "scc"),
    ("BF040100 ; s_cmp_lt_i32 s0, s1", "s0 s1", "scc"),
    ("BEFE0100 ; s_mov_b64 exec, s[0:1]", "s0 s1", "exec_lo exec_hi"),
    ("BE80206A ; s_and_saveexec_b64 s[0:1], vcc", "vcc_lo vcc_hi exec_lo exec_hi", "s0 s1 exec_lo exec_hi scc"),
    ("BE80117E ; s_ff1_i32_b64 s0, exec", "exec_lo exec_hi", "s0"),
    ("BF870000 ; s_cbranch_vccnz 0", "vcc_lo vcc_hi", ""),
    ("BF850000 ; s_cbranch_scc1 0", "scc", ""),
    ("BF880000 ; s_cbranch_execz 0", "exec_lo exec_hi", ""),
    ("C00A0100 00000010 ; s_load_dwordx4 s[4:7], s[0:1], 0x10", "s0 s1", "s4 s5 s6 s7"),
    ("C0200104 00000003 ; s_buffer_load_dword s4, s[8:11], s3", "s3 s8 s9 s10 s11", "s4"),
    ("BF110100 ; s_set_gpr_idx_on s0, gpr_idx(SRC0)", "s0 m0", "m0 gpr_index"),
    ("BF9C0000 ; s_set_gpr_idx_off", "", "gpr_index"),
    ("BEFC0001 ; s_mov_b32 m0, s1", "s1", "m0"),
    ("BA001801 00000003 ; s_setreg_imm32_b32 hwreg(HW_REG_MODE, 0, 4), 3", "mode", "mode", ""),
    ("BF8C0F70 ; s_waitcnt vmcnt(0)", "", ""),
    ("BF8A0000 ; s_barrier", "", ""),
    ("7E000301 ; v_mov_b32_e32 v0, v1", "v1 E", "v0"),
    ("32000501 ; v_add_co_u32_e32 v0, vcc, v1, v2", "v1 v2 E", "v0 vcc_lo vcc_hi"),
    ("38000501 ; v_addc_co_u32_e32 v0, vcc, v1, v2, vcc", "v1 v2 vcc_lo vcc_hi E", "v0 vcc_lo vcc_hi"),
    ("D1000000 00120501 ; v_cndmask_b32_e64 v0, v1, v2, s[4:5]", "v1 v2 s4 s5 E", "v0"),
    ("7C820300 ; v_cmp_lt_f32_e32 vcc, v0, v1", "v0 v1 E", "vcc_lo vcc_hi"),
    ("D0D90000 00020300 ; v_cmpx_lt_u32_e64 s[0:1], v0, v1", "v0 v1 E", "s0 s1 exec_lo exec_hi"),
    ("76000501 ; v_fmac_f32_e32 v0, v1, v2", "v0 v1 v2 E", "v0"),
    ("D1E20000 040E0501 ; v_div_fmas_f32 v0, v1, v2, v3", "v1 v2 v3 vcc_lo vcc_hi E", "v0"),
    ("7E000501 ; v_readfirstlane_b32 s0, v1", "v1 E", "s0"),
    ("D2890000 00000501 ; v_readlane_b32 s0, v1, s2", "v1 s2 N", "s0"),
    ("D28A0000 0000F801 ; v_writelane_b32 v0, s1, m0", "v0 s1 m0 N", "v0"),
    ("7E00A301 ; v_swap_b32 v0, v1", "v0 v1 E", "v0 v1"),
    ("7E00B501 ; v_permlane32_swap_b32_e32 v0, v1", "v0 v1 E", "v0 v1"),
    ("7E0002FA FF00E401 ; v_mov_b32_dpp v0, v1 quad_perm:[0,1,2,3] row_mask:0xf bank_mask:0xf", "v1 E", "v0"),
    ("7E0002FA FF011101 ; v_mov_b32_dpp v0, v1 row_shr:1 row_mask:0xf bank_mask:0xf", "v0 v1 E", "v0"),
    ("7E0002FA FF091101 ; v_mov_b32_dpp v0, v1 row_shr:1 row_mask:0xf bank_mask:0xf bound_ctrl:1", "v1 E", "v0"),
    ("7E0002FA FF015301 ; v_mov_b32_dpp v0, v1 row_newbcast:3 row_mask:0xf bank_mask:0xf", "v1 E", "v0"),
    ("7E0002FA 3F015301 ; v_mov_b32_dpp v0, v1 row_newbcast:3 row_mask:0x3 bank_mask:0xf", "v0 v1 E", "v0"),
    (
        "4C0004F9 04041501 ; v_add_u16_sdwa v0, v1, v2 "
        "dst_sel:WORD_1 dst_unused:UNUSED_PRESERVE src0_sel:WORD_0 src1_sel:WORD_0",
        "v0 v1 v2 E",
        "v0",
    ),
    (
        "4C0004F9 04040501 ; v_add_u16_sdwa v0, v1, v2 dst_sel:WORD_1 dst_unused:UNUSED_PAD src0_sel:WORD_0 src1_sel:WORD_0",
        "v1 v2 E",
        "v0",
    ),
    ("D2A24000 00020501 ; v_cvt_pk_fp8_f32 v0, v1, v2 op_sel:[0,0,1]", "v0 v1 v2 E", "v0"),
    ("D2680000 00020501 ; v_cvt_pk_bf16_f32 v0, v1, v2", "v1 v2 E", "v0"),
    (
        "D3F38000 04220D04 ; v_mfma_f32_16x16x32_fp8_fp8 a[0:3], v[4:5], v[6:7], a[8:11]",
        "v4 v5 v6 v7 a8 a9 a10 a11 N",
        "a0 a1 a2 a3",
    ),
    (
        "D3E60000 042A0D04 ; v_smfmac_f32_16x16x32_bf16 v[0:3], v[4:5], v[6:9], v10",
        "v0 v1 v2 v3 v4 v5 v6 v7 v8 v9 v10 N",
        "v0 v1 v2 v3",
    ),
    ("D3D94000 18000101 ; v_accvgpr_write_b32 a0, v1", "v1 E", "a0"),
    ("D8EC0008 00000002 ; ds_read_b64 v[0:1], v2 offset:8", "v2 lds X", "v0 v1"),
    ("D89A0000 00000200 ; ds_write_b64 v0, v[2:3]", "v0 v2 v3 X", "lds", ""),
    ("D8400000 00000201 ; ds_add_rtn_u32 v0, v1, v2", "v1 v2 lds X", "v0 lds", "v0"),
    ("D8B60000 00000001 ; ds_read_u16_d16_hi v0, v1", "v0 v1 lds X", "v0"),
    ("D87E0000 00000201 ; ds_bpermute_b32 v0, v1, v2", "v1 v2 X", "v0"),
    ("E0541000 08010002 ; buffer_load_dwordx2 v[0:1], v2, s[4:7], s8 offen", "v2 s4 s5 s6 s7 s8 X", "v0 v1"),
    ("E0511000 08010002 ; buffer_load_dword v2, s[4:7], s8 offen lds", "v2 s4 s5 s6 s7 s8 m0 X", "lds", ""),
    ("E0900000 80010000 ; buffer_load_short_d16 v0, off, s[4:7], 0", "v0 s4 s5 s6 s7 X", "v0"),
    ("E0701000 08010101 ; buffer_store_dword v1, v1, s[4:7], s8 offen", "v1 s4 s5 s6 s7 s8 X", ""),
    ("E06C0000 80010100 ; buffer_store_short_d16_hi v1, off, s[4:7], 0", "v1 s4 s5 s6 s7 X", ""),
    ("E1084000 80010100 ; buffer_atomic_add v1, off, s[4:7], 0 sc0", "v1 s4 s5 s6 s7 X", "v1"),
    ("DC508000 00020001 ; global_load_dword v0, v1, s[2:3]", "v1 s2 s3 X", "v0"),
    ("DDF48000 007F0002 ; global_load_lds_dwordx4 v[2:3], off", "v2 v3 m0 X", "lds", ""),
    ("DC748000 007F0200 ; global_store_dwordx2 v[0:1], v[2:3], off", "v0 v1 v2 v3 X", ""),
    ("DD348000 007F0200 ; global_atomic_add_f32 v[0:1], v2, off", "v0 v1 v2 X", ""),
    ("DC500000 00000002 ; flat_load_dword v0, v[2:3]", "v2 v3 lds scratch X", "v0"),
    ("DC704000 00000100 ; scratch_store_dword off, v1, s0", "v1 s0 X", "scratch", ""),
    ("DC504000 01000000 ; scratch_load_dword v1, off, s0", "s0 scratch X", "v1"),
]


def names(bits: int) -> set[str]:
    return {unit_name(unit) for unit in units(bits)}


def spelled(text: str) -> set[str]:
    return {name for word in text.split() for name in SHORT.get(word, [word])}


@pytest.mark.parametrize("case", EFFECTS, ids=[case[0].split("; ")[1] for case in EFFECTS])
def test_effects(case: tuple[str, ...]) -> None:
    line, read, written, *whole = case
    (instruction,) = listing(line)
    assert names(uses(instruction)) == spelled(read)
    assert names(defs(instruction)) == spelled(written)
    assert names(effects(instruction).whole) == spelled(whole[0] if whole else written)


def test_units_have_names_of_their_own() -> None:
    numbers = [*range(125), *range(126, 133), *range(256, 768)]
    assert len({unit_name(unit) for unit in numbers}) == len(numbers)
    assert list(units(1 << 700 | 1 << 3 | 1)) == [0, 3, 700]


ADDRESSES = [
    # words ; text, registers of the address, registers of the data
    ("E0701000 02010101 ; buffer_store_dword v1, v1, s[4:7], s2 offen", "v1 s4 s5 s6 s7 s2 X", "v1"),
    ("E0511000 80010001 ; buffer_load_dword v1, s[4:7], 0 offen lds", "v1 s4 s5 s6 s7 m0 X", ""),
    ("DC708000 00040502 ; global_store_dword v2, v5, s[4:5]", "v2 s4 s5 X", "v5"),
    ("D89A0000 00000200 ; ds_write_b64 v0, v[2:3]", "v0 X", "v2 v3"),
    ("C0060100 00000000 ; s_load_dwordx2 s[4:5], s[0:1], 0x0", "s0 s1", ""),
]


@pytest.mark.parametrize("case", ADDRESSES, ids=[case[0].split("; ")[1] for case in ADDRESSES])
def test_address_and_data(case: tuple[str, str, str]) -> None:
    line, address, data = case
    (instruction,) = listing(line)
    assert names(effects(instruction).address) == spelled(address)
    stored = list(instruction.sources)
    for operand in address_operands(instruction):
        stored.remove(operand)
    assert names(sum(map(operand_units, stored))) == spelled(data)


LOOP = """
BE840080 ; s_mov_b32 s4, 0
80048104 ; s_add_u32 s4, s4, 1
BF0A8A04 ; s_cmp_lt_u32 s4, 10
BF85FFFD ; s_cbranch_scc1 65533
BF880001 ; s_cbranch_execz 1
BF800000 ; s_nop 0
BF810000 ; s_endpgm
"""


def test_blocks_and_edges() -> None:
    graph = FlowGraph.of(listing(LOOP))
    assert [(block.first, block.end, block.successors) for block in graph.blocks] == [
        (0, 1, (1,)),
        (1, 4, (1, 2)),
        (4, 5, (4, 3)),
        (5, 6, (4,)),
        (6, 7, ()),
    ]
    assert set(graph.edges) == {(0, 4), (12, 4), (12, 16), (16, 24), (16, 20), (20, 24)}
    assert graph.predecessors == ((), (0, 1), (1,), (2,), (2, 3))
    assert set(graph.reaching_definitions(2, 1 << 4)) == {1}  # s4 at the comparison: the addition only
    assert set(graph.reaching_definitions(1, 1 << 4)) == {0, 1}
    assert set(graph.reaching_definitions(1, 1 << 5)) == {None}


@pytest.mark.parametrize(
    ("words", "what"),
    [
        ("BE801D02 ; s_setpc_b64 s[2:3]\nBF810000 ; s_endpgm", "not known before it runs"),
        ("BF820005 ; s_branch 5\nBF810000 ; s_endpgm", "no instruction begins"),
        ("BF800000 ; s_nop 0", "runs past its end"),
        ("BF84FFFF ; s_cbranch_scc0 65535", "runs past its end"),
    ],
)
def test_control_flow_that_cannot_be_followed(words: str, what: str) -> None:
    with pytest.raises(UnmodelledError, match=what):
        FlowGraph.of(listing(words))


@pytest.mark.parametrize("name", sorted(wheel_files()))
def test_wheel_graphs(name: str) -> None:
    """Laws of a graph: blocks tile the code, only their ends branch, edges and predecessors agree, all of it is reachable."""
    (kernel,) = load_code_object(wheel_file(name)).kernels
    graph = FlowGraph.of(decode(kernel.text, kernel.arch))
    assert [block.end for block in graph.blocks[:-1]] == [block.first for block in graph.blocks[1:]]
    inner = [graph.instructions[n].mnemonic for block in graph.blocks for n in range(block.first, block.end - 1)]
    assert not [mnemonic for mnemonic in inner if "branch" in mnemonic or mnemonic == "s_endpgm"]
    assert sum(map(len, graph.predecessors)) == len(graph.edges) == len(set(graph.edges))
    reached, pending = {0}, [0]
    while pending:
        for successor in graph.blocks[pending.pop()].successors:
            if successor not in reached:
                reached.add(successor)
                pending.append(successor)
    assert len(reached) >= len(graph.blocks) // 2


def test_triton_graphs() -> None:
    for content in triton_files().values():
        (kernel,) = load_code_object(content).kernels
        assert FlowGraph.of(decode(kernel.text, kernel.arch)).edges


PARTIAL = """
7E020280 ; v_mov_b32_e32 v1, 0
BEFE0100 ; s_mov_b64 exec, s[0:1]
7E020285 ; v_mov_b32_e32 v1, 5
BEFE01C1 ; s_mov_b64 exec, -1
7E040301 ; v_mov_b32_e32 v2, v1
BF810000 ; s_endpgm
"""


def test_a_write_under_exec_does_not_hide_earlier_ones() -> None:
    graph = FlowGraph.of(listing(PARTIAL))
    assert graph.may_be_partial == (False, False, True, True, False, False)
    assert set(graph.reaching_definitions(4, 1 << VGPR + 1)) == {0, 2}


JOINED = """
BF850002 ; s_cbranch_scc1 2
BEFE0100 ; s_mov_b64 exec, s[0:1]
BF820001 ; s_branch 1
BF800000 ; s_nop 0
7E020280 ; v_mov_b32_e32 v1, 0
BF810000 ; s_endpgm
"""


def test_lanes_may_be_disabled_where_one_way_disables_them() -> None:
    assert FlowGraph.of(listing(JOINED)).may_be_partial == (False, False, True, False, True, True)


INDEX = """
260000FF 000003FF ; v_and_b32_e32 v0, 0x3ff, v0
20060086 ; v_lshrrev_b32_e32 v3, 6, v0
7E0E0503 ; v_readfirstlane_b32 s7, v3
92338407 ; s_mul_i32 s51, s7, 4
BF110133 ; s_set_gpr_idx_on s51, gpr_idx(SRC0)
68480728 ; v_add_u32_e32 v36, v40, v3
BF9C0000 ; s_set_gpr_idx_off
68480728 ; v_add_u32_e32 v36, v40, v3
BF810000 ; s_endpgm
"""


def test_bounds_follow_the_wave_number() -> None:
    graph = FlowGraph.of(listing(INDEX))
    index = graph.instructions[4].sources[0]
    assert Bounds(graph, 256).largest(4, index) == 12  # four waves: 0, 4, 8, 12
    assert Bounds(graph, 1024).largest(4, index) == 60
    assert Bounds(graph, 256).largest(5, graph.instructions[5].sources[1]) == 3
    assert Bounds(graph, 256).largest(8, graph.instructions[5].destinations[0]) == UNKNOWN


def test_gpr_index_reaches_registers_up_to_the_largest_index() -> None:
    graph = FlowGraph.of(listing(INDEX))
    inside, outside = (effects_in_place(graph, 256)[number] for number in (5, 7))
    assert names(inside.uses) - names(outside.uses) == {"m0", *(f"v{number}" for number in range(41, 53))}
    assert inside.defs == outside.defs


def test_gpr_index_of_an_unknown_register_reaches_all_behind() -> None:
    lines = INDEX.splitlines()
    graph = FlowGraph.of(listing("\n".join(lines[:3] + lines[4:])))  # without what made s51
    assert "v255" in names(effects_in_place(graph, 256)[4].uses)
