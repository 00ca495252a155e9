"""Vector instructions: VOP1, VOP2, VOPC with their literal, SDWA and DPP words, VOP3, VOP3P (ISA: "Vector ALU Operations")."""

from __future__ import annotations

from functools import cache

from backend.cdna.decode.operands import (
    DPP_CODE,
    LITERAL,
    MASK_TYPE,
    SDWA_CODE,
    VCC,
    literal_operand,
    scalar_destination,
    vector_operand,
    vgpr,
)
from backend.cdna.decode.tables import MODIFIABLE, OPCODES, FieldKind, Opcode, OperandType, RefusedError, available, look_up
from backend.cdna.instruction import (
    NO_MODIFIERS,
    Dpp,
    Format,
    Instruction,
    Modifiers,
    Operand,
    Sdwa,
    Selection,
    Suffix,
    Unused,
)

_UNSUFFIXED = frozenset({"v_swap_b32", "v_accvgpr_mov_b32", "v_readfirstlane_b32", "v_nop"})
_WITH_CONSTANT = frozenset({"v_fmamk_f32", "v_fmaak_f32", "v_madmk_f16", "v_madak_f16"})
_E32_ONLY = _UNSUFFIXED | _WITH_CONSTANT
_BYTE_DESTINATION = frozenset(
    {"v_cvt_sr_fp8_f32", "v_cvt_sr_bf8_f32", "v_cvt_scalef32_pk_fp4_f16", "v_cvt_scalef32_pk_fp4_bf16"}
)


WHOLE_DESTINATION = frozenset({"v_cvt_f32_fp8", "v_cvt_f32_bf8", "v_cvt_pk_f32_fp8", "v_cvt_pk_f32_bf8"})
"""Conversions whose SDWA form selects a part of the source only; the destination fields must say DWORD and PAD."""


@cache
def modified(operand: Operand, neg: int, absolute: int, sel: int | None = None, sext: int = 0) -> Operand:
    """The operand with source modifiers, shared."""
    if not (neg or absolute or sext) and sel is None:
        return operand
    selection = None if sel is None else Selection(sel)
    return Operand(operand.kind, operand.index, operand.count, operand.value, bool(neg), bool(absolute), selection, bool(sext))


def _destination(code: int, operand_type: OperandType) -> Operand:
    if operand_type.kind in (FieldKind.SCALAR, FieldKind.MASK):
        if code == _M0:
            raise RefusedError("m0 as the scalar destination of a vector instruction")
        return scalar_destination(code, operand_type)
    return vgpr(code, operand_type.dwords, operand_type.kind is FieldKind.ACCUMULATOR)


def _source(code: int, operand_type: OperandType) -> Operand:
    if operand_type.kind is FieldKind.ACCUMULATOR:
        if code < 256:
            raise RefusedError(f"source code {code} where an accumulation register is needed")
        return vgpr(code - 256, operand_type.dwords, True)
    return vector_operand(code, operand_type)


def decode_vop1(words: tuple[int, ...], at: int, arch: str) -> Instruction:
    """encoding 0111111 | vdst 8 | op 8 | src0 9."""
    word = words[at]
    opcode = look_up("VOP1", word >> 9 & 0xFF, arch)
    if not opcode.sources:
        if word & 0x1FF or word >> 17 & 0xFF:
            raise RefusedError(f"{opcode.mnemonic} with operands")
        return Instruction(at * 4, 4, opcode.mnemonic, Format.VOP1, (), ())
    return _short(words, at, Format.VOP1, opcode, (word >> 17 & 0xFF,), (word & 0x1FF,))


def decode_vop2(words: tuple[int, ...], at: int, arch: str) -> Instruction:
    """encoding 0 | op 6 | vdst 8 | vsrc1 8 | src0 9."""
    word = words[at]
    opcode = look_up("VOP2", word >> 25 & 0x3F, arch)
    codes = (word & 0x1FF, 256 + (word >> 9 & 0xFF))
    if opcode.mnemonic in _WITH_CONSTANT:
        return _with_constant(words, at, opcode, word >> 17 & 0xFF, codes)
    return _short(words, at, Format.VOP2, opcode, (word >> 17 & 0xFF,), codes)


def decode_vopc(words: tuple[int, ...], at: int, arch: str) -> Instruction:
    """encoding 0111110 | op 8 | vsrc1 8 | src0 9; the mask goes to VCC."""
    word = words[at]
    opcode = look_up("VOPC", word >> 17 & 0xFF, arch)
    return _short(words, at, Format.VOPC, opcode, (), (word & 0x1FF, 256 + (word >> 9 & 0xFF)))


def _with_constant(words: tuple[int, ...], at: int, opcode: Opcode, vdst: int, codes: tuple[int, int]) -> Instruction:
    """v_fmamk and its kin: the literal is an operand by itself, and src0 may name the same one."""
    literal = literal_operand(_word(words, at + 1), OperandType(FieldKind.BITS, 32))
    first_type = opcode.sources[0]
    first = literal_operand(words[at + 1], first_type) if codes[0] == LITERAL else vector_operand(codes[0], first_type)
    second = vgpr(codes[1] - 256, 1)
    sources = (first, literal, second) if opcode.sources[1].kind is FieldKind.BITS else (first, second, literal)
    return Instruction(at * 4, 8, opcode.mnemonic, Format.VOP2, (vgpr(vdst, 1),), sources)


def _word(words: tuple[int, ...], at: int) -> int:
    if at >= len(words):
        raise RefusedError("the code ends inside the instruction")
    return words[at]


def _short(
    words: tuple[int, ...], at: int, form: Format, opcode: Opcode, vdst: tuple[int, ...], codes: tuple[int, ...]
) -> Instruction:
    """A 32-bit vector word with whatever follows it: nothing, a literal, an SDWA word or a DPP word."""
    if codes[0] == SDWA_CODE:
        return _sdwa(words, at, form, opcode, vdst, codes)
    if codes[0] == DPP_CODE:
        return _dpp(words, at, form, opcode, vdst, codes)
    destinations = tuple(
        VCC if operand_type.kind is FieldKind.MASK else _destination(vdst[0], operand_type)
        for operand_type in opcode.destinations
    )
    sources = []
    size = 4
    for number, operand_type in enumerate(opcode.sources):
        if operand_type.kind is FieldKind.MASK:
            sources.append(VCC)
        elif codes[number] == LITERAL:
            size = 8
            sources.append(literal_operand(_word(words, at + 1), operand_type))
        else:
            sources.append(_source(codes[number], operand_type))
    suffix = Suffix.NONE if opcode.mnemonic in _UNSUFFIXED else Suffix.E32
    return Instruction(at * 4, size, opcode.mnemonic, form, destinations, tuple(sources), NO_MODIFIERS, suffix)


def _sdwa(
    words: tuple[int, ...], at: int, form: Format, opcode: Opcode, vdst: tuple[int, ...], codes: tuple[int, ...]
) -> Instruction:
    """src0 8 | dst_sel 3, dst_unused 2, clamp, omod 2 (VOPC: sdst 7, sd) | src0: sel 3, sext, neg, abs, s | src1: the same."""
    extra = _word(words, at + 1)
    _require_extendable(opcode, "SDWA")
    fields = (
        ((extra & 0xFF) + (0 if extra >> 23 & 1 else 256), extra >> 16),
        (codes[-1] - (256 if extra >> 31 else 0), extra >> 24),
    )
    if (len(codes) == 1 and extra >> 24) or extra >> 22 & 1 or extra >> 30 & 1:
        raise RefusedError(f"{opcode.mnemonic} in SDWA with unused bits set")
    sources = []
    for operand_type, (code, select) in zip(opcode.sources, fields, strict=False):
        neg, absolute, sext = select >> 4 & 1, select >> 5 & 1, select >> 3 & 1
        floating = operand_type.kind in MODIFIABLE
        if (sext and floating) or ((neg or absolute) and not floating) or select & 7 == 7 or code == LITERAL:
            raise RefusedError(f"{opcode.mnemonic} in SDWA with source modifiers that it lacks")
        sources.append(modified(vector_operand(code, operand_type), neg, absolute, select & 7, sext))
    if opcode.sources[-1].kind is FieldKind.MASK:
        sources.append(VCC)
    destinations, modifiers = _sdwa_destination(opcode, vdst, extra)
    return Instruction(at * 4, 8, opcode.mnemonic, form, destinations, tuple(sources), modifiers, Suffix.SDWA)


def _sdwa_destination(opcode: Opcode, vdst: tuple[int, ...], extra: int) -> tuple[tuple[Operand, ...], Modifiers]:
    if not vdst:
        mask = scalar_destination(extra >> 8 & 0x7F, MASK_TYPE) if extra >> 15 & 1 else VCC
        if not extra >> 15 & 1 and extra >> 8 & 0x7F:
            raise RefusedError(f"{opcode.mnemonic} in SDWA with an unused sdst")
        return (mask,), Modifiers(sdwa=Sdwa(None, None))
    dst_sel, dst_unused, clamp, omod = extra >> 8 & 7, extra >> 11 & 3, extra >> 13 & 1, extra >> 14 & 3
    if dst_sel == 7 or dst_unused == 3 or (clamp and "c" not in opcode.flags) or (omod and "m" not in opcode.flags):
        raise RefusedError(f"{opcode.mnemonic} in SDWA with destination modifiers that it lacks")
    if omod and opcode.mnemonic.startswith(_INTEGER_RESULTS):
        raise RefusedError(f"{opcode.mnemonic} in SDWA with omod on an integer")
    if opcode.mnemonic in WHOLE_DESTINATION and (dst_sel, dst_unused) != (Selection.DWORD, Unused.PAD):
        raise RefusedError(f"{opcode.mnemonic} in SDWA with a partial destination")
    destinations = tuple(VCC if each.kind is FieldKind.MASK else _destination(vdst[0], each) for each in opcode.destinations)
    return destinations, Modifiers(clamp=bool(clamp), omod=omod, sdwa=Sdwa(Selection(dst_sel), Unused(dst_unused)))


_M0 = 124
_INTEGER_RESULTS = ("v_cvt_i", "v_cvt_u", "v_cvt_norm", "v_frexp_exp")
_ACCUMULATING = ("v_mac_", "v_fmac_", "v_dot2c_", "v_dot4c_", "v_dot8c_", "v_pk_fmac_")


def _require_extendable(opcode: Opcode, what: str) -> None:
    lacks = opcode.mnemonic.startswith("v_cmp" if what == "DPP" else _ACCUMULATING)
    wide = any(each.bits > 32 for each in (*opcode.sources, *opcode.destinations) if each.kind is not FieldKind.MASK)
    exempt = opcode.mnemonic in WHOLE_DESTINATION if what == "SDWA" else opcode.mnemonic == "v_mov_b64"
    if opcode.mnemonic in _E32_ONLY or lacks or "permlane" in opcode.mnemonic or (wide and not exempt):
        raise RefusedError(f"{opcode.mnemonic} has no {what} form")


def _dpp(
    words: tuple[int, ...], at: int, form: Format, opcode: Opcode, vdst: tuple[int, ...], codes: tuple[int, ...]
) -> Instruction:
    """src0 8 | ctrl 9 | - 2 | bound_ctrl | src0 neg, abs, src1 neg, abs | bank_mask 4 | row_mask 4."""
    extra = _word(words, at + 1)
    _require_extendable(opcode, "DPP")
    if extra >> 17 & 3:
        raise RefusedError(f"{opcode.mnemonic} in DPP with reserved bits set")
    control = extra >> 8 & 0x1FF
    require_dpp_control(control)
    if opcode.mnemonic == "v_mov_b64" and not 0x150 <= control < 0x160:
        raise RefusedError("v_mov_b64 in DPP with anything but row_newbcast")
    sources = []
    for number, operand_type in enumerate(opcode.sources[: len(codes)]):
        neg, absolute = extra >> (20 + 2 * number) & 1, extra >> (21 + 2 * number) & 1
        if (neg or absolute) and operand_type.kind not in MODIFIABLE:
            raise RefusedError(f"{opcode.mnemonic} in DPP with source modifiers that it lacks")
        code = 256 + (extra & 0xFF) if number == 0 else codes[number]
        sources.append(modified(vector_operand(code, operand_type), neg, absolute))
    if len(codes) == 1 and extra >> 22 & 3:
        raise RefusedError(f"{opcode.mnemonic} in DPP with modifiers of a second source")
    if opcode.sources[-1].kind is FieldKind.MASK:
        sources.append(VCC)
    destinations = tuple(VCC if each.kind is FieldKind.MASK else _destination(vdst[0], each) for each in opcode.destinations)
    dpp = Dpp(control, extra >> 28, extra >> 24 & 0xF, bool(extra >> 19 & 1))
    return Instruction(at * 4, 8, opcode.mnemonic, form, destinations, tuple(sources), Modifiers(dpp=dpp), Suffix.DPP)


def require_dpp_control(control: int) -> None:
    """RefusedError for a value outside quad_perm, row and wave shifts, mirrors, broadcasts and row_newbcast."""
    shifts = 0x101 <= control <= 0x12F and control & 0xF != 0
    if not (control < 0x100 or shifts or control in DPP_NAMES or 0x150 <= control < 0x160):
        raise RefusedError(f"DPP control {control:#x} is reserved")


DPP_NAMES = {
    0x130: "wave_shl:1",
    0x134: "wave_rol:1",
    0x138: "wave_shr:1",
    0x13C: "wave_ror:1",
    0x140: "row_mirror",
    0x141: "row_half_mirror",
    0x142: "row_bcast:15",
    0x143: "row_bcast:31",
}
"""DPP controls without a parameter, as LLVM writes them (ISA: "DPP_CTRL Enumeration")."""


@cache
def vop3_opcode(number: int) -> tuple[Opcode | None, Suffix]:
    """VOP3 opcode: VOPC's, VOP2's and VOP1's tables are mapped at 0, 0x100 and 0x140."""
    if number < 0x100:
        return OPCODES["VOPC"].get(number), Suffix.E64
    if number < 0x1C0:
        opcode = OPCODES["VOP2"].get(number - 0x100) if number < 0x140 else OPCODES["VOP1"].get(number - 0x140)
        return (None if opcode is None or opcode.mnemonic in _E32_ONLY else opcode), Suffix.E64
    return OPCODES["VOP3"].get(number), Suffix.NONE


def decode_vop3(words: tuple[int, ...], at: int, arch: str) -> Instruction:
    """110100 | op 10 | clamp | op_sel 4 | abs 3 | vdst 8, then neg 3 | omod 2 | src2 9 | src1 9 | src0 9.

    VOP3B, with a second destination, has its sdst (7 bits) in the place of op_sel and abs.
    """
    word, high = words[at], _word(words, at + 1)
    number = word >> 16 & 0x3FF
    opcode, suffix = vop3_opcode(number)
    opcode = available(opcode, number, arch, "VOP3")
    vdst = word & 0xFF
    destinations = [_destination(vdst, opcode.destinations[0])] if opcode.destinations else []
    with_sdst = len(opcode.destinations) == 2
    if with_sdst:
        destinations.append(scalar_destination(word >> 8 & 0x7F, opcode.destinations[1]))
    negs = high >> 29
    absolutes = 0 if with_sdst else word >> 8 & 7
    truth_table = "t" in opcode.flags
    sources = []
    for place, operand_type in enumerate(opcode.sources):
        operand = vector_operand(high >> (9 * place) & 0x1FF, operand_type)
        neg, absolute = (0, 0) if truth_table else (negs >> place & 1, absolutes >> place & 1)
        if neg or absolute:
            if operand_type.kind not in MODIFIABLE:
                raise RefusedError(f"{opcode.mnemonic} with source modifiers that it lacks")
            operand = modified(operand, neg, absolute)
        sources.append(operand)
    _require_unused_zero(opcode, high, negs, absolutes)
    modifiers = _vop3_modifiers(opcode, word, high, with_sdst)
    return Instruction(at * 4, 8, opcode.mnemonic, Format.VOP3, tuple(destinations), tuple(sources), modifiers, suffix)


def _require_unused_zero(opcode: Opcode, high: int, negs: int, absolutes: int) -> None:
    count = len(opcode.sources)
    unused = (high & 0x7FFFFFF) >> (9 * count)
    if unused or ("t" not in opcode.flags and (negs >> count or absolutes >> count)):
        raise RefusedError(f"{opcode.mnemonic} with fields of a source that it lacks")


def _vop3_modifiers(opcode: Opcode, word: int, high: int, with_sdst: bool) -> Modifiers:
    clamp, omod = word >> 15 & 1, high >> 27 & 3
    op_sel = 0 if with_sdst else word >> 11 & 0xF
    flags = opcode.flags
    truth_table = 0
    if "t" in flags:
        truth_table = high >> 29 | (word >> 8 & 7) << 3 | omod << 6
        omod = 0
    if (clamp and "c" not in flags) or (omod and "m" not in flags) or (op_sel and "o" not in flags):
        raise RefusedError(f"{opcode.mnemonic} with clamp, omod or op_sel that it lacks")
    if "o" not in flags:
        return _simple_modifiers(clamp, omod, truth_table)
    count = len(opcode.sources)
    if opcode.mnemonic in _BYTE_DESTINATION:
        count = 3
    elif op_sel & 7 & ~((1 << count) - 1):
        raise RefusedError(f"{opcode.mnemonic} with op_sel of a source that it lacks")
    halves = (*(op_sel >> place & 1 for place in range(count)), op_sel >> 3)
    return Modifiers(op_sel=halves, clamp=bool(clamp), omod=omod, bitop3=truth_table)


@cache
def _simple_modifiers(clamp: int, omod: int, truth_table: int) -> Modifiers:
    return Modifiers(clamp=bool(clamp), omod=omod, bitop3=truth_table) if clamp or omod or truth_table else NO_MODIFIERS


def decode_vop3p(words: tuple[int, ...], at: int, arch: str) -> Instruction:
    """110100111 | op 7 | clamp | op_sel_hi[2] | op_sel 3 | neg_hi 3 | vdst 8, then neg_lo 3 | op_sel_hi[1:0] | src2, 1, 0 9."""
    word, high = words[at], _word(words, at + 1)
    opcode = look_up("VOP3P", word >> 16 & 0x7F, arch)
    count = len(opcode.sources)
    mixed = "x" in opcode.flags
    neg_lo, neg_hi = high >> 29, word >> 8 & 7
    sources = []
    for place, operand_type in enumerate(opcode.sources):
        operand = vector_operand(high >> (9 * place) & 0x1FF, operand_type)
        if mixed:
            operand = modified(operand, neg_lo >> place & 1, neg_hi >> place & 1)
        sources.append(operand)
    if (high & 0x7FFFFFF) >> (9 * count) or (neg_lo | neg_hi | word >> 11 & 7) >> count:
        raise RefusedError(f"{opcode.mnemonic} with fields of a source that it lacks")
    if word >> 15 & 1 and "c" not in opcode.flags:
        raise RefusedError(f"{opcode.mnemonic} with clamp")
    modifiers = _packed_modifiers(
        count, word >> 11 & 7, high >> 27 & 3 | word >> 12 & 4, 0 if mixed else neg_lo, 0 if mixed else neg_hi, word >> 15 & 1
    )
    destination = vgpr(word & 0xFF, opcode.destinations[0].dwords)
    return Instruction(at * 4, 8, opcode.mnemonic, Format.VOP3P, (destination,), tuple(sources), modifiers)


@cache
def _packed_modifiers(count: int, op_sel: int, op_sel_hi: int, neg_lo: int, neg_hi: int, clamp: int) -> Modifiers:
    def bits(field: int) -> tuple[int, ...]:
        return tuple(field >> place & 1 for place in range(count))

    return Modifiers(
        op_sel=bits(op_sel), op_sel_hi=bits(op_sel_hi), neg_lo=bits(neg_lo), neg_hi=bits(neg_hi), clamp=bool(clamp)
    )
