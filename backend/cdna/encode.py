"""One decoded instruction -> the fields of its record: which handler, which opcode of that handler, which operands where.

Knows the decoder's instructions and the handlers' record formats (backend/cdna/execute/layout.py and each handler's
docstring); where an instruction or one of its modifiers has no model it says why, and nothing is guessed. Memory and matrix
instructions are in encode_memory.py and encode_matrix.py.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from enum import IntEnum
from functools import cache

from backend.cdna.encode_matrix import encode_matrix
from backend.cdna.encode_memory import encode_lds, encode_scalar_memory, encode_vector_atomic, encode_vector_memory
from backend.cdna.encoded import Constants, Encoded, NotModelledError, member_of, operand_code, row_of, scalar_index
from backend.cdna.execute import (
    compare,
    convert,
    cross_lane,
    half,
    scalar,
    vector_double,
    vector_float,
    vector_integer,
    vector_rare,
    vector_wide,
)
from backend.cdna.execute import layout as at
from backend.cdna.execute.native import Handler
from backend.cdna.instruction import Format, Instruction, Operand, OperandKind

__all__ = ["Constants", "Encoded", "NotModelledError", "encode"]

# Scalar instructions.


_SCALAR_GROUPS: tuple[tuple[type[IntEnum], Handler], ...] = (
    (scalar.Plain, scalar.scalar_plain),
    (scalar.Arithmetic, scalar.scalar_arithmetic),
    (scalar.Logic, scalar.scalar_logic),
    (scalar.Compare, scalar.scalar_compare),
    (scalar.State, scalar.scalar_state),
)


def _encode_scalar(instruction: Instruction, constants: Constants) -> Encoded | None:
    mnemonic = _plain_scalar_name(instruction.mnemonic)
    if mnemonic == "s_getpc_b64":
        return _program_counter(instruction, constants)
    found = next(
        ((opcode, own) for members, own in _SCALAR_GROUPS if (opcode := member_of(members, mnemonic)) is not None), None
    )
    if found is None:
        return None
    encoded = Encoded(found[1], found[0])
    sources = list(instruction.sources)
    for operand in instruction.destinations:
        if operand.kind is OperandKind.SIMM:
            encoded.immediate = _mode_field(operand.value)
        else:
            encoded.destination = scalar_index(operand, constants)
            encoded.count |= scalar.PAIR_RESULT if operand.count == 2 else 0
    if mnemonic.endswith(("saveexec_b64", "wrexec_b64")):
        encoded.handler, encoded.immediate = scalar.scalar_exec, int("wrexec" in mnemonic)
    if instruction.mnemonic in ("s_addk_i32", "s_mulk_i32"):
        sources.insert(0, instruction.destinations[0])
    if instruction.format is Format.SOPK and not instruction.mnemonic.startswith(("s_setreg", "s_getreg")):
        sources = [_extended(operand, instruction.mnemonic) for operand in sources]
    if instruction.mnemonic.startswith("s_set_gpr_idx") or instruction.mnemonic == "s_getreg_b32":
        _scalar_with_field(encoded, instruction, constants)
        return encoded
    for place, operand in enumerate(sources):
        encoded.sources[place] = scalar_index(operand, constants)
        encoded.count |= (operand.count == 2) << place
    return encoded


def _program_counter(instruction: Instruction, constants: Constants) -> Encoded:
    """S_GETPC_B64: the address of the next instruction, a constant once the code has its place."""
    encoded = Encoded(scalar.scalar_plain, scalar.Plain.S_MOV_B64, count=1 | scalar.PAIR_RESULT)
    encoded.destination = scalar_index(instruction.destinations[0], constants)
    encoded.sources[0] = constants.place(constants.text_address + instruction.next_pc)
    return encoded


def _plain_scalar_name(mnemonic: str) -> str:
    """The SOPK forms do what the plain forms do with a 16-bit constant."""
    if mnemonic in ("s_movk_i32", "s_cmovk_i32"):
        return mnemonic.replace("k_i32", "_b32")
    if mnemonic in ("s_addk_i32", "s_mulk_i32"):
        return mnemonic.replace("k_", "_")
    if mnemonic == "s_setreg_imm32_b32":
        return "s_setreg_b32"
    return mnemonic.replace("s_cmpk_", "s_cmp_")


def _extended(operand: Operand, mnemonic: str) -> Operand:
    """The 16-bit field of a SOPK instruction as 32 bits: sign-extended but for unsigned comparisons."""
    if operand.kind is not OperandKind.SIMM:
        return operand
    value = operand.value
    if not mnemonic.endswith("_u32") and value & 0x8000:
        value |= 0xFFFF_0000
    return Operand(OperandKind.SIMM, 0, 1, value)


def _scalar_with_field(encoded: Encoded, instruction: Instruction, constants: Constants) -> None:
    """S_SET_GPR_IDX_* and S_GETREG: the field goes to IMMEDIATE."""
    for operand in instruction.sources:
        if operand.kind is OperandKind.SIMM:
            encoded.immediate = operand.value
        else:
            encoded.sources[0] = scalar_index(operand, constants)
    if instruction.mnemonic in ("s_set_gpr_idx_on", "s_set_gpr_idx_mode") and encoded.immediate > 15:
        raise NotModelledError("gpr-index mode on operands that there are none of")
    if instruction.mnemonic == "s_getreg_b32":
        _mode_field(encoded.immediate)


def _mode_field(immediate: int) -> int:
    """hwreg(MODE, offset, size), the one hardware register that is modelled."""
    offset, size = immediate >> 6 & 31, (immediate >> 11 & 31) + 1
    if immediate & 63 != scalar.HARDWARE_REGISTER_MODE or offset + size > 32:
        raise NotModelledError("a hardware register besides MODE")
    return immediate


_BRANCHES = {
    "s_branch": at.CONTROL_BRANCH,
    "s_cbranch_scc0": at.CONTROL_BRANCH_SCC0,
    "s_cbranch_scc1": at.CONTROL_BRANCH_SCC1,
    "s_cbranch_vccz": at.CONTROL_BRANCH_VCCZ,
    "s_cbranch_vccnz": at.CONTROL_BRANCH_VCCNZ,
    "s_cbranch_execz": at.CONTROL_BRANCH_EXECZ,
    "s_cbranch_execnz": at.CONTROL_BRANCH_EXECNZ,
}
_CONTROLS = {"s_barrier": at.CONTROL_BARRIER, "s_endpgm": at.CONTROL_END, "s_waitcnt": at.CONTROL_WAIT}
_WITHOUT_EFFECT = frozenset(
    [
        "s_nop",
        "s_setprio",
        "s_sleep",
        "s_icache_inv",
        "s_dcache_inv",
        "s_dcache_wb",
        "s_dcache_inv_vol",
        "s_dcache_wb_vol",
        "buffer_wbl2",
        "buffer_inv",
        "v_nop",
        "ds_nop",
        "s_ttracedata",
        "s_incperflevel",
        "s_decperflevel",
    ]
)


def _encode_control(instruction: Instruction) -> Encoded | None:
    mnemonic = instruction.mnemonic
    if mnemonic in _BRANCHES:
        return Encoded(None, control=_BRANCHES[mnemonic], target=instruction.sources[0].value)
    if mnemonic in _CONTROLS:
        return Encoded(None, control=_CONTROLS[mnemonic], immediate=_wait_field(instruction))
    return Encoded(None, control=at.CONTROL_NOP) if mnemonic in _WITHOUT_EFFECT else None


def _wait_field(instruction: Instruction) -> int:
    """vmcnt | lgkmcnt << 8, 255 for a count that is not waited for."""
    modifiers = instruction.modifiers
    vmcnt = 255 if modifiers.vmcnt is None else modifiers.vmcnt
    return vmcnt | (255 if modifiers.lgkmcnt is None else modifiers.lgkmcnt) << 8


# Vector instructions.

_ALIASES = {
    "v_accvgpr_read_b32": "v_mov_b32",
    "v_accvgpr_write_b32": "v_mov_b32",
    "v_accvgpr_mov_b32": "v_mov_b32",
    "v_fmac_f32": "v_fma_f32",
    "v_fmamk_f32": "v_fma_f32",
    "v_fmaak_f32": "v_fma_f32",
    "v_fmac_f64": "v_fma_f64",
    "v_dot2c_f32_f16": "v_dot2_f32_f16",
    "v_dot2c_f32_bf16": "v_dot2_f32_bf16",
    "v_dot2c_i32_i16": "v_dot2_i32_i16",
    "v_dot4c_i32_i8": "v_dot4_i32_i8",
    "v_dot8c_i32_i4": "v_dot8_i32_i4",
    "v_pk_fmac_f16": "v_pk_fma_f16",
    "v_add_i32": "v_add_u32",
    "v_sub_i32": "v_sub_u32",
}
_ACCUMULATING = frozenset({"v_fmac_f32", "v_fmac_f64", "v_pk_fmac_f16"})
_DOT_ACCUMULATING = re.compile(r"v_dot\dc_")

_Group = tuple[type[IntEnum], Handler, int, int]
_GROUPS: tuple[_Group, ...] = (
    # members, handler, type of sources, dwords of the result
    (vector_integer.Vector, vector_integer.vector_alu, at.TYPE_BITS32, 1),
    (vector_integer.Bits, vector_integer.vector_bits, at.TYPE_BITS32, 1),
    (vector_integer.Vector3, vector_integer.vector_alu3, at.TYPE_BITS32, 1),
    (vector_wide.Vector64, vector_wide.vector_alu64, at.TYPE_BITS32, 2),
    (vector_wide.VectorCarry, vector_wide.vector_carry, at.TYPE_BITS32, 1),
    (vector_float.VectorFloat, vector_float.float_alu, at.TYPE_F32, 1),
    (vector_float.Float3, vector_float.float_alu3, at.TYPE_F32, 1),
    (vector_float.FloatPair, vector_float.float_pair, at.TYPE_PACKED_F32, 2),
    (half.Half, half.half_alu, at.TYPE_F16, 1),
    (half.Short, half.short, at.TYPE_BITS32, 1),
    (convert.Convert, convert.convert, at.TYPE_F32, 1),
    (convert.ConvertEight, convert.convert_eight, at.TYPE_F32, 1),
    (convert.ConvertDouble, convert.convert_double, at.TYPE_F64, 1),
    (convert.ConvertPair, convert.convert_pair, at.TYPE_BITS32, 2),
    (convert.ConvertToDouble, convert.convert_to_double, at.TYPE_F32, 2),
    (convert.ToFour, convert.convert_to_four, at.TYPE_BITS32, 1),
    (convert.FromFour, convert.convert_from_four, at.TYPE_BITS32, 1),
    (convert.FromFourPair, convert.convert_four_pair, at.TYPE_BITS32, 2),
    (vector_double.Double, vector_double.double_unary, at.TYPE_F64, 2),
    (vector_double.DoubleScaled, vector_double.double_scaled, at.TYPE_F64, 2),
    (vector_double.DoubleExponent, vector_double.double_exponent, at.TYPE_F64, 1),
    (vector_double.DoubleDivision, vector_double.double_division, at.TYPE_F64, 2),
    (vector_rare.HalfFunction, vector_rare.half_function, at.TYPE_F16, 1),
    (vector_rare.Trigonometric, vector_rare.trigonometric, at.TYPE_F32, 1),
    (vector_rare.Dot, vector_rare.dot, at.TYPE_BITS32, 1),
    (vector_rare.Mix, vector_rare.mix, at.TYPE_BITS32, 1),
    (vector_rare.Packing, vector_rare.packing, at.TYPE_F32, 1),
)

_PACKED = {half.half_alu: half.packed_half_alu, half.short: half.packed_short}
"""Handler of one half of a dword -> that of both."""


ENUMERATIONS = (*(members for members, _ in _SCALAR_GROUPS), *(members for members, *_ in _GROUPS), cross_lane.CrossLane)
"""Opcodes of the scalar and vector units by what handles them; comparisons are not among them, whose relation is a field."""


@cache
def _vector_group(mnemonic: str) -> tuple[int, Handler, int, int] | None:
    """(opcode, handler, source type, result dwords) of a vector instruction."""
    for enumeration, own, kind, dwords in _GROUPS:
        opcode = member_of(enumeration, mnemonic)
        if opcode is not None and own in _PACKED and mnemonic.startswith("v_pk_"):
            return opcode, _PACKED[own], at.TYPE_PACKED_16, dwords
        if opcode is not None:
            return opcode, own, _source_type(mnemonic, kind), dwords
    return None


def _source_type(mnemonic: str, kind: int) -> int:
    """Type of the sources, for neg, abs and op_sel."""
    if mnemonic.endswith("_f64"):
        return at.TYPE_F64
    if mnemonic == "v_pk_mov_b32":
        return at.TYPE_PACKED_F32
    if mnemonic == "v_cvt_f32_f16":
        return at.TYPE_F16
    if re.search(r"_(fp8|bf8|i32|u32|ubyte\d|u16|i16|bf16)$", mnemonic) and mnemonic.startswith("v_cvt_"):
        return at.TYPE_BITS32
    if mnemonic == "v_cndmask_b32":
        return at.TYPE_F32
    return kind


def _encode_vector(instruction: Instruction, constants: Constants) -> Encoded | None:
    mnemonic = instruction.mnemonic
    group = _vector_group(_ALIASES.get(mnemonic, mnemonic))
    saturates = member_of(vector_rare.Saturating, mnemonic) if instruction.modifiers.clamp else None
    if saturates is not None:
        group = saturates, vector_rare.saturating, at.TYPE_BITS32, 1
    if group is None:
        return None
    opcode, own, kind, dwords = group
    encoded = Encoded(own, opcode, vector=True, source_types=(kind,) * 3, result_dwords=dwords)
    encoded.own_clamp = saturates is not None or own in (half.short, half.packed_short)
    encoded.destination = row_of(instruction.destinations[0])
    operands = list(instruction.sources)
    if mnemonic in _ACCUMULATING or _DOT_ACCUMULATING.match(mnemonic):
        operands.append(instruction.destinations[0])
    encoded.source_dwords = _dwords_of(operands)
    for place, operand in enumerate(operands[:3]):
        encoded.sources[place] = operand_code(operand, constants)
        encoded.count |= (operand.count == 2) << place
    if len(instruction.destinations) == 2:
        encoded.destination_2 = scalar_index(instruction.destinations[1], constants)
    if mnemonic == "v_cndmask_b32" or mnemonic.endswith("_co_u32"):
        _mask_source(encoded, operands, constants)
    encoded.result_type = _result_type(mnemonic, own)
    _special_fields(encoded, instruction)
    return encoded


def _dwords_of(operands: list[Operand]) -> tuple[int, int, int]:
    counts = [operand.count for operand in operands[:3]] + [0, 0, 0]
    return counts[0], counts[1], counts[2]


def _mask_source(encoded: Encoded, operands: list[Operand], constants: Constants) -> None:
    """The third source is a lane mask: its scalar index."""
    if len(operands) < 3:
        return
    encoded.sources[2] = scalar_index(operands[2], constants)
    first, second, _ = encoded.source_dwords
    encoded.source_dwords = (first, second, 0)


_CONVERSIONS = (convert.convert, convert.convert_eight, convert.convert_double, convert.convert_pair)


def _result_type(mnemonic: str, own: Handler) -> int:
    if own in (vector_float.float_alu, vector_float.float_alu3) and "_i32_" not in mnemonic:
        return at.TYPE_F32
    if own is vector_float.float_pair and mnemonic.startswith("v_pk_"):
        return at.TYPE_PACKED_F32
    if own in _CONVERSIONS and re.match(r"v_cvt_(pk_)?f32_", mnemonic):
        return at.TYPE_F32
    return at.TYPE_BITS32


def _special_fields(encoded: Encoded, instruction: Instruction) -> None:
    """Truth tables, destination halves, and constants of packed fp32 sources."""
    mnemonic, modifiers = instruction.mnemonic, instruction.modifiers
    if encoded.handler in (half.short, half.packed_short):
        encoded.immediate = int(modifiers.clamp)
        if modifiers.clamp and not re.match(r"v_(pk_)?(add|sub|subrev|mad)_", mnemonic):
            raise NotModelledError("clamp of what cannot overflow")
    if mnemonic.startswith("v_bitop3"):
        encoded.immediate = modifiers.bitop3
    if encoded.handler is convert.convert_eight and len(modifiers.op_sel) > len(instruction.sources):
        encoded.immediate = modifiers.op_sel[-1]
        if encoded.immediate and not re.match(r"v_cvt_(scalef32_)?pk_(fp8|bf8)_", mnemonic):
            raise NotModelledError("a result in the high half")
        if any(modifiers.op_sel[:-1]) and re.match(r"v_cvt_scalef32_pk_(fp8|bf8)_(bf16|f16)", mnemonic):
            raise NotModelledError("half of a source that is a pair")
    elif encoded.handler in _OWN_SOURCES:
        _own_sources(encoded, instruction)
    elif encoded.handler is half.packed_short:
        if any((*modifiers.neg_lo, *modifiers.neg_hi)):
            raise NotModelledError("negated whole numbers")
    elif len(modifiers.op_sel) > len(instruction.sources) and modifiers.op_sel[-1]:
        raise NotModelledError("a result in the high half")
    if encoded.handler is vector_rare.dot and any((*modifiers.neg_lo, *modifiers.neg_hi, *modifiers.op_sel)):
        raise NotModelledError("negated or exchanged parts of a dot product")
    if encoded.handler is vector_rare.dot and not all(modifiers.op_sel_hi):
        raise NotModelledError("exchanged parts of a dot product")
    if mnemonic == "v_pk_mov_b32" and any(modifiers.neg_lo + modifiers.neg_hi):
        raise NotModelledError("negation in a move")
    if encoded.handler is vector_float.float_pair and mnemonic.startswith("v_pk_"):
        for place, operand in enumerate(instruction.sources):
            constant = operand.kind is OperandKind.CONSTANT and operand.value
            if constant and (modifiers.op_sel_hi[place : place + 1] != (0,)):
                raise NotModelledError("a constant as two packed numbers")


_OWN_SOURCES = (
    vector_rare.mix,
    convert.convert_to_four,
    convert.convert_from_four,
    convert.convert_four_pair,
)
"""Handlers that see to op_sel, neg and abs themselves, by IMMEDIATE."""


def _own_sources(encoded: Encoded, instruction: Instruction) -> None:
    modifiers = instruction.modifiers
    encoded.own_sources = True
    if encoded.handler is vector_rare.mix:
        if modifiers.clamp and encoded.opcode != vector_rare.Mix.V_FMA_MIX_F32:
            raise NotModelledError("clamp of a half")
        encoded.result_type = at.TYPE_F32
        signs = [operand.neg for operand in instruction.sources] + [operand.abs for operand in instruction.sources]
        bits = [*modifiers.op_sel_hi, *modifiers.op_sel, *signs]
        encoded.immediate = sum(bool(bit) << place for place, bit in enumerate(bits))
        return
    if any(operand.neg or operand.abs for operand in instruction.sources):
        raise NotModelledError("neg or abs of what becomes a 4-bit float")
    selects = (*modifiers.op_sel, 0, 0, 0, 0)
    if encoded.handler is convert.convert_to_four:
        count = len(instruction.sources)
        if any(selects[: min(count, 2)]):
            raise NotModelledError("half of a source that is whole")
        encoded.immediate = selects[2] | selects[3] << 1 if count == 3 else selects[2] << 1
    else:
        if selects[2]:
            raise NotModelledError("a result in the high half")
        encoded.immediate = selects[0] | selects[1] << 1


def _encode_compare(instruction: Instruction, constants: Constants) -> Encoded | None:
    match = re.match(r"v_cmp(x?)_(\w+?)_([fiu]\d\d)$", instruction.mnemonic)
    if match is None:
        return None
    x, relation, kind = match.groups()
    if relation == "class":
        kind, number = f"class_{kind}", 0
    else:
        relations = compare.FLOAT_RELATIONS if kind[0] == "f" else compare.INTEGER_RELATIONS
        number = relations.index(relation)
    kind_number = compare.TYPES.index(kind)
    source_type = {"f32": at.TYPE_F32, "f16": at.TYPE_F16, "f64": at.TYPE_F64}.get(kind[-3:], at.TYPE_BITS32)
    encoded = Encoded(compare.vector_compare, kind_number * compare.RELATIONS + number, vector=True, count=int(bool(x)))
    encoded.destination = scalar_index(instruction.destinations[0], constants)
    encoded.source_types = (source_type, at.TYPE_BITS32 if relation == "class" else source_type, at.TYPE_BITS32)
    encoded.source_dwords = _dwords_of(list(instruction.sources))
    encoded.result_dwords = 0
    for place, operand in enumerate(instruction.sources):
        encoded.sources[place] = operand_code(operand, constants)
    return encoded


def _encode_cross_lane(instruction: Instruction, constants: Constants) -> Encoded | None:
    opcode = member_of(cross_lane.CrossLane, instruction.mnemonic)
    if opcode is None:
        return None
    encoded = Encoded(cross_lane.cross_lane, opcode)
    reads = opcode in (cross_lane.CrossLane.V_READFIRSTLANE_B32, cross_lane.CrossLane.V_READLANE_B32)
    target = instruction.destinations[0]
    encoded.destination = scalar_index(target, constants) if reads else row_of(target)
    for place, operand in enumerate(instruction.sources):
        encoded.sources[place] = operand_code(operand, constants)
    return encoded


_Encoder = Callable[[Instruction, Constants], Encoded | None]
_VECTOR_ENCODERS: tuple[_Encoder, ...] = (_encode_vector, _encode_compare, _encode_cross_lane)
_ENCODERS: dict[Format, tuple[_Encoder, ...]] = {
    Format.SOP1: (_encode_scalar,),
    Format.SOP2: (_encode_scalar,),
    Format.SOPK: (_encode_scalar,),
    Format.SOPC: (_encode_scalar,),
    Format.SOPP: (_encode_scalar,),
    Format.SMEM: (encode_scalar_memory,),
    Format.VOP1: _VECTOR_ENCODERS,
    Format.VOP2: _VECTOR_ENCODERS,
    Format.VOPC: _VECTOR_ENCODERS,
    Format.VOP3: _VECTOR_ENCODERS,
    Format.VOP3P: _VECTOR_ENCODERS,
    Format.MAI: (encode_matrix, _encode_vector),
    Format.DS: (encode_lds,),
    Format.MUBUF: (encode_vector_memory, encode_vector_atomic),
    Format.GLOBAL: (encode_vector_memory, encode_vector_atomic),
    Format.FLAT: (encode_vector_memory, encode_vector_atomic),
    Format.SCRATCH: (encode_vector_memory,),
}


def encode(instruction: Instruction, constants: Constants) -> Encoded:
    """The record fields of an instruction, modifiers aside. Raises NotModelledError."""
    control = _encode_control(instruction)
    if control is not None:
        return control
    for encoder in _ENCODERS.get(instruction.format, ()):
        encoded = encoder(instruction, constants)
        if encoded is not None:
            return encoded
    raise NotModelledError("no handler")
