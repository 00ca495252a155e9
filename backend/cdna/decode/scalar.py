"""Scalar instructions: SOP1, SOP2, SOPK, SOPC, SOPP and SMEM words (ISA: "Scalar ALU", "Scalar Memory Operations").

Their opcodes first; see backend/cdna/decode/tables.py for how a row is read.
"""

from __future__ import annotations

from backend.cdna.decode.operands import (
    LITERAL,
    immediate,
    literal_operand,
    register,
    scalar_destination,
    scalar_operand,
    sign_extend,
)
from backend.cdna.decode.tables import FieldKind, Opcode, OperandType, RefusedError, look_up, read_table
from backend.cdna.instruction import NO_MODIFIERS, Format, Instruction, Modifiers, Operand, OperandKind

SOP2 = read_table(
    "s_",
    """
00 s32 = b32 b32 | add_u32 sub_u32 add_i32 sub_i32 addc_u32 subb_u32 min_i32 min_u32 max_i32 max_u32 cselect_b32
0b s64 = b64 b64 | cselect_b64
0c s32 = b32 b32 | and_b32
0d s64 = b64 b64 | and_b64
0e s32 = b32 b32 | or_b32
0f s64 = b64 b64 | or_b64
10 s32 = b32 b32 | xor_b32
11 s64 = b64 b64 | xor_b64
12 s32 = b32 b32 | andn2_b32
13 s64 = b64 b64 | andn2_b64
14 s32 = b32 b32 | orn2_b32
15 s64 = b64 b64 | orn2_b64
16 s32 = b32 b32 | nand_b32
17 s64 = b64 b64 | nand_b64
18 s32 = b32 b32 | nor_b32
19 s64 = b64 b64 | nor_b64
1a s32 = b32 b32 | xnor_b32
1b s64 = b64 b64 | xnor_b64
1c s32 = b32 b32 | lshl_b32
1d s64 = b64 b32 | lshl_b64
1e s32 = b32 b32 | lshr_b32
1f s64 = b64 b32 | lshr_b64
20 s32 = b32 b32 | ashr_i32
21 s64 = i64 b32 | ashr_i64
22 s32 = b32 b32 | bfm_b32
23 s64 = b32 b32 | bfm_b64
24 s32 = b32 b32 | mul_i32 bfe_u32 bfe_i32
27 s64 = b64 b32 | bfe_u64
28 s64 = i64 b32 | bfe_i64
2a s32 = b32 b32 | absdiff_i32
2c s32 = b32 b32 | mul_hi_u32 mul_hi_i32 lshl1_add_u32 lshl2_add_u32 lshl3_add_u32 lshl4_add_u32
32 s32 = b32 b32 | pack_ll_b32_b16 pack_lh_b32_b16 pack_hh_b32_b16
""",
)

SOP1 = read_table(
    "s_",
    """
00 s32 = b32 | mov_b32
01 s64 = b64 | mov_b64
02 s32 = b32 | cmov_b32
03 s64 = b64 | cmov_b64
04 s32 = b32 | not_b32
05 s64 = b64 | not_b64
06 s32 = b32 | wqm_b32
07 s64 = b64 | wqm_b64
08 s32 = b32 | brev_b32
09 s64 = b64 | brev_b64
0a s32 = b32 | bcnt0_i32_b32
0b s32 = b64 | bcnt0_i32_b64
0c s32 = b32 | bcnt1_i32_b32
0d s32 = b64 | bcnt1_i32_b64
0e s32 = b32 | ff0_i32_b32
0f s32 = b64 | ff0_i32_b64
10 s32 = b32 | ff1_i32_b32
11 s32 = b64 | ff1_i32_b64
12 s32 = b32 | flbit_i32_b32
13 s32 = b64 | flbit_i32_b64
14 s32 = b32 | flbit_i32
15 s32 = b64 | flbit_i32_i64
16 s32 = b32 | sext_i32_i8 sext_i32_i16 bitset0_b32
19 s64 = b32 | bitset0_b64
1a s32 = b32 | bitset1_b32
1b s64 = b32 | bitset1_b64
1c s64 = | getpc_b64
1d = s64 | setpc_b64
1e s64 = s64 | swappc_b64
20 s64 = b64 | and_saveexec_b64 or_saveexec_b64 xor_saveexec_b64 andn2_saveexec_b64 orn2_saveexec_b64 nand_saveexec_b64
26 s64 = b64 | nor_saveexec_b64 xnor_saveexec_b64
28 s32 = b32 | quadmask_b32
29 s64 = b64 | quadmask_b64
2a s32 = s32 | movrels_b32
2b s64 = s64 | movrels_b64
2c s32 = b32 | movreld_b32
2d s64 = b64 | movreld_b64
30 s32 = b32 | abs_i32
32 = b32 | set_gpr_idx_idx
33 s64 = b64 | andn1_saveexec_b64 orn1_saveexec_b64 andn1_wrexec_b64 andn2_wrexec_b64
37 s64 = b32 | bitreplicate_b64_b32
""",
)

SOPC = read_table(
    "s_",
    """
00 = b32 b32 | cmp_eq_i32 cmp_lg_i32 cmp_gt_i32 cmp_ge_i32 cmp_lt_i32 cmp_le_i32
06 = b32 b32 | cmp_eq_u32 cmp_lg_u32 cmp_gt_u32 cmp_ge_u32 cmp_lt_u32 cmp_le_u32 bitcmp0_b32 bitcmp1_b32
0e = b64 b32 | bitcmp0_b64 bitcmp1_b64
10 = b32 b32 | setvskip
11 = b32 | set_gpr_idx_on
12 = b64 b64 | cmp_eq_u64 cmp_lg_u64
""",
)

SOPK = read_table(
    "s_",
    """
00 s32 = | movk_i32 cmovk_i32
02 = s32 | cmpk_eq_i32 cmpk_lg_i32 cmpk_gt_i32 cmpk_ge_i32 cmpk_lt_i32 cmpk_le_i32
08 = s32 | cmpk_eq_u32 cmpk_lg_u32 cmpk_gt_u32 cmpk_ge_u32 cmpk_lt_u32 cmpk_le_u32
0e s32 = | addk_i32 mulk_i32
11 s32 = | getreg_b32
12 = s32 | setreg_b32
14 = | setreg_imm32_b32
15 s64 = | call_b64
""",
)

SOPP = read_table(
    "s_",
    """
00 = | nop endpgm branch - cbranch_scc0 cbranch_scc1 cbranch_vccz cbranch_vccnz cbranch_execz cbranch_execnz barrier
0b = | setkill waitcnt sethalt sleep setprio sendmsg sendmsghalt trap icache_inv incperflevel decperflevel ttracedata
1c = | set_gpr_idx_off set_gpr_idx_mode
""",
)

SMEM = read_table(
    "s_",
    """
00 s32 = s64 | load_dword
01 s64 = s64 | load_dwordx2
02 s128 = s64 | load_dwordx4
03 s256 = s64 | load_dwordx8
04 s512 = s64 | load_dwordx16
08 s32 = s128 | buffer_load_dword
09 s64 = s128 | buffer_load_dwordx2
0a s128 = s128 | buffer_load_dwordx4
0b s256 = s128 | buffer_load_dwordx8
0c s512 = s128 | buffer_load_dwordx16
10 = s32 s64 | store_dword
11 = s64 s64 | store_dwordx2
12 = s128 s64 | store_dwordx4
18 = s32 s128 | buffer_store_dword
19 = s64 s128 | buffer_store_dwordx2
1a = s128 s128 | buffer_store_dwordx4
20 = | dcache_inv dcache_wb dcache_inv_vol dcache_wb_vol
24 s64 = | memtime memrealtime
80 = s32 s64 /r | atomic_swap
81 = s64 s64 /r | atomic_cmpswap
82 = s32 s64 /r | atomic_add atomic_sub atomic_smin atomic_umin atomic_smax atomic_umax atomic_and atomic_or atomic_xor
8b = s32 s64 /r | atomic_inc atomic_dec
a0 = s64 s64 /r | atomic_swap_x2
a1 = s128 s64 /r | atomic_cmpswap_x2
a2 = s64 s64 /r | atomic_add_x2 atomic_sub_x2 atomic_smin_x2 atomic_umin_x2 atomic_smax_x2 atomic_umax_x2 atomic_and_x2
a9 = s64 s64 /r | atomic_or_x2 atomic_xor_x2 atomic_inc_x2 atomic_dec_x2
""",
)


SHORT_BRANCHES = frozenset(name for name in (op.mnemonic for op in SOPP.values()) if "branch" in name)
_WITHOUT_FIELD = frozenset({"s_barrier", "s_icache_inv", "s_ttracedata", "s_set_gpr_idx_off"})
MESSAGES = {1: "MSG_INTERRUPT", 4: "MSG_SAVEWAVE", 5: "MSG_STALL_WAVE_GEN", 6: "MSG_HALT_WAVES"}
"""Messages of s_sendmsg without parameters (ISA: "S_SENDMSG")."""

_NOT_LOADED = (124, 126, 127)
"""M0 and EXEC: scalar loads cannot write them."""

_SCALAR64 = OperandType(FieldKind.SCALAR, 64)
_SCALAR32 = OperandType(FieldKind.SCALAR, 32)


def _sources(codes: tuple[int, ...], opcode: Opcode, words: tuple[int, ...], at: int) -> tuple[tuple[Operand, ...], int]:
    """Sources of a SOP word and the instruction's size in bytes; one literal serves all fields that ask for it."""
    operands = []
    size = 4
    for code, operand_type in zip(codes, opcode.sources, strict=False):
        if code == LITERAL:
            size = 8
            operands.append(literal_operand(_literal(words, at), operand_type))
        else:
            operands.append(scalar_operand(code, operand_type))
    return tuple(operands), size


def _literal(words: tuple[int, ...], at: int) -> int:
    if at + 1 >= len(words):
        raise RefusedError("the code ends before the literal")
    return words[at + 1]


def decode_sop2(words: tuple[int, ...], at: int, arch: str) -> Instruction:
    """encoding 10 | op 7 | sdst 7 | ssrc1 8 | ssrc0 8."""
    word = words[at]
    opcode = look_up(SOP2, word >> 23 & 0x7F, arch, "SOP2")
    sources, size = _sources((word & 0xFF, word >> 8 & 0xFF), opcode, words, at)
    destination = scalar_destination(word >> 16 & 0x7F, opcode.destinations[0])
    return Instruction(at * 4, size, opcode.mnemonic, Format.SOP2, (destination,), sources)


def decode_sop1(words: tuple[int, ...], at: int, arch: str) -> Instruction:
    """encoding 101111101 | sdst 7 | op 8 | ssrc0 8."""
    word = words[at]
    opcode = look_up(SOP1, word >> 8 & 0xFF, arch, "SOP1")
    sources, size = _sources((word & 0xFF,), opcode, words, at)
    destinations = tuple(scalar_destination(word >> 16 & 0x7F, each) for each in opcode.destinations)
    return Instruction(at * 4, size, opcode.mnemonic, Format.SOP1, destinations, sources)


def decode_sopc(words: tuple[int, ...], at: int, arch: str) -> Instruction:
    """encoding 101111110 | op 7 | ssrc1 8 | ssrc0 8; s_set_gpr_idx_on takes ssrc1 as a mask of operand fields."""
    word = words[at]
    opcode = look_up(SOPC, word >> 16 & 0x7F, arch, "SOPC")
    codes = (word & 0xFF, word >> 8 & 0xFF)
    sources, size = _sources(codes, opcode, words, at)
    if opcode.mnemonic == "s_set_gpr_idx_on":
        if codes[1] > 15:
            raise RefusedError("s_set_gpr_idx_on with more than four mode bits")
        sources += (immediate(codes[1]),)
    return Instruction(at * 4, size, opcode.mnemonic, Format.SOPC, (), sources)


def decode_sopk(words: tuple[int, ...], at: int, arch: str) -> Instruction:
    """encoding 1011 | op 5 | sdst 7 | simm 16."""
    word = words[at]
    opcode = look_up(SOPK, word >> 23 & 0x1F, arch, "SOPK")
    name = opcode.mnemonic
    register_field = word >> 16 & 0x7F
    destinations = tuple(scalar_destination(register_field, each) for each in opcode.destinations)
    sources = tuple(scalar_destination(register_field, each) for each in opcode.sources)
    field = immediate(word & 0xFFFF)
    if name == "s_setreg_b32":
        return Instruction(at * 4, 4, name, Format.SOPK, (field,), sources)
    if name == "s_setreg_imm32_b32":
        literal = literal_operand(_literal(words, at), OperandType(FieldKind.BITS, 32))
        return Instruction(at * 4, 8, name, Format.SOPK, (field,), (literal,))
    if name == "s_call_b64":
        return Instruction(at * 4, 4, name, Format.SOPK, destinations, (_label(word, at),))
    return Instruction(at * 4, 4, name, Format.SOPK, destinations, (*sources, field))


def _label(word: int, at: int) -> Operand:
    return Operand(OperandKind.LABEL, value=(at + 1 + sign_extend(word & 0xFFFF, 16)) * 4)


def decode_sopp(words: tuple[int, ...], at: int, arch: str) -> Instruction:
    """encoding 101111111 | op 7 | simm 16."""
    word = words[at]
    opcode = look_up(SOPP, word >> 16 & 0x7F, arch, "SOPP")
    name = opcode.mnemonic
    field = word & 0xFFFF
    if name in SHORT_BRANCHES:
        return Instruction(at * 4, 4, name, Format.SOPP, (), (_label(word, at),))
    if name == "s_waitcnt":
        return Instruction(at * 4, 4, name, Format.SOPP, (), (immediate(field),), wait_counts(field))
    if name in _WITHOUT_FIELD:
        if field:
            raise RefusedError(f"{name} with a field of {field:#x}")
        return Instruction(at * 4, 4, name, Format.SOPP, (), ())
    if name.startswith("s_sendmsg") and field not in MESSAGES:
        raise RefusedError(f"{name} of message {field:#x}")
    return Instruction(at * 4, 4, name, Format.SOPP, (), (immediate(field),))


def wait_counts(field: int) -> Modifiers:
    """s_waitcnt's thresholds: vmcnt [15:14][3:0], expcnt [6:4], lgkmcnt [11:8]; a field of ones waits for nothing."""
    vmcnt = field & 0xF | field >> 10 & 0x30
    expcnt = field >> 4 & 7
    lgkmcnt = field >> 8 & 0xF
    return Modifiers(
        vmcnt=None if vmcnt == 63 else vmcnt,
        expcnt=None if expcnt == 7 else expcnt,
        lgkmcnt=None if lgkmcnt == 15 else lgkmcnt,
    )


def decode_smem(words: tuple[int, ...], at: int, arch: str) -> Instruction:
    """encoding 110000 | op 8 | imm | glc | nv | soffset_en | - | sdata 7 | sbase 6, then soffset 7 | - | offset 21."""
    word, high = words[at], words[at + 1]
    opcode = look_up(SMEM, word >> 18 & 0xFF, arch, "SMEM")
    immediate_offset, glc, offset_register = word >> 17 & 1, word >> 16 & 1, word >> 14 & 1
    if word >> 15 & 1 or word >> 13 & 1 or high >> 21 & 0xF:
        raise RefusedError(f"{opcode.mnemonic} with nv or reserved bits")
    if word >> 6 & 0x7F in _NOT_LOADED:
        raise RefusedError(f"{opcode.mnemonic} into m0 or exec")
    destinations = tuple(scalar_destination(word >> 6 & 0x7F, each) for each in opcode.destinations)
    if not opcode.sources:
        if (word & 0x3FFFF & ~(0x7F << 6 if destinations else 0)) or high:
            raise RefusedError(f"{opcode.mnemonic} with address fields")
        return Instruction(at * 4, 8, opcode.mnemonic, Format.SMEM, destinations, ())
    *stored, based = opcode.sources
    data = tuple(scalar_destination(word >> 6 & 0x7F, each) for each in stored)
    if data and glc and "r" in opcode.flags:
        destinations = (_returned(word >> 6 & 0x7F, opcode),)
    base = _base(word << 1 & 0x7E, based.dwords)
    offset = high & 0x1FFFFF
    index: tuple[Operand, ...] = ()
    if offset_register:
        index = (scalar_operand(high >> 25, _SCALAR32),)
    elif high >> 25:
        raise RefusedError(f"{opcode.mnemonic} with an unused soffset")
    elif not immediate_offset:
        if offset > 0x7F:
            raise RefusedError(f"{opcode.mnemonic} with a register offset of {offset:#x}")
        index = (scalar_operand(offset, _SCALAR32),)
    signed = sign_extend(offset, 21) if immediate_offset else 0
    modifiers = Modifiers(offset=signed, glc=bool(glc)) if signed or glc else NO_MODIFIERS
    return Instruction(at * 4, 8, opcode.mnemonic, Format.SMEM, destinations, (*data, base, *index), modifiers)


def _returned(code: int, opcode: Opcode) -> Operand:
    """What an atomic returns into: its data, of a compare-and-swap the first half."""
    bits = opcode.sources[0].bits // (2 if "cmpswap" in opcode.mnemonic else 1)
    return scalar_destination(code, OperandType(FieldKind.SCALAR, bits))


def _base(code: int, dwords: int) -> Operand:
    if dwords == 2:
        return scalar_operand(code, _SCALAR64)
    return register(OperandKind.SGPR, code, dwords, 102)
