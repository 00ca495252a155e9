"""Scalar instructions: SOP1, SOP2, SOPK, SOPC, SOPP and SMEM words (ISA: "Scalar ALU", "Scalar Memory Operations")."""

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
from backend.cdna.decode.tables import OPCODES, FieldKind, Opcode, OperandType, RefusedError, look_up
from backend.cdna.instruction import NO_MODIFIERS, Format, Instruction, Modifiers, Operand, OperandKind

SHORT_BRANCHES = frozenset(name for name in (op.mnemonic for op in OPCODES["SOPP"].values()) if "branch" in name)
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
    opcode = look_up("SOP2", word >> 23 & 0x7F, arch)
    sources, size = _sources((word & 0xFF, word >> 8 & 0xFF), opcode, words, at)
    destination = scalar_destination(word >> 16 & 0x7F, opcode.destinations[0])
    return Instruction(at * 4, size, opcode.mnemonic, Format.SOP2, (destination,), sources)


def decode_sop1(words: tuple[int, ...], at: int, arch: str) -> Instruction:
    """encoding 101111101 | sdst 7 | op 8 | ssrc0 8."""
    word = words[at]
    opcode = look_up("SOP1", word >> 8 & 0xFF, arch)
    sources, size = _sources((word & 0xFF,), opcode, words, at)
    destinations = tuple(scalar_destination(word >> 16 & 0x7F, each) for each in opcode.destinations)
    return Instruction(at * 4, size, opcode.mnemonic, Format.SOP1, destinations, sources)


def decode_sopc(words: tuple[int, ...], at: int, arch: str) -> Instruction:
    """encoding 101111110 | op 7 | ssrc1 8 | ssrc0 8; s_set_gpr_idx_on takes ssrc1 as a mask of operand fields."""
    word = words[at]
    opcode = look_up("SOPC", word >> 16 & 0x7F, arch)
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
    opcode = look_up("SOPK", word >> 23 & 0x1F, arch)
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
    opcode = look_up("SOPP", word >> 16 & 0x7F, arch)
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
    opcode = look_up("SMEM", word >> 18 & 0xFF, arch)
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
