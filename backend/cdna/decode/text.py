"""An instruction as LLVM's disassembler writes it, blanks normalised: for people, and for the tests' oracle.

Modifiers are written in LLVM's order and only where they differ from their default (AMDGPUInstPrinter).
"""

from __future__ import annotations

from backend.cdna.decode.operands import FLOAT_CONSTANTS, INVERSE_TWO_PI, LITERAL
from backend.cdna.decode.scalar import MESSAGES
from backend.cdna.decode.vector import DPP_NAMES, WHOLE_DESTINATION
from backend.cdna.instruction import Dpp, Format, Instruction, Modifiers, Operand, OperandKind, Sdwa

_APERTURES = ("src_shared_base", "src_shared_limit", "src_private_base", "src_private_limit")
_NAMED = {
    OperandKind.M0: "m0",
    OperandKind.SCC: "src_scc",
    OperandKind.VCCZ: "src_vccz",
    OperandKind.EXECZ: "src_execz",
    OperandKind.OFF: "off",
}
_PAIRS = frozenset({OperandKind.VCC, OperandKind.EXEC, OperandKind.FLAT_SCRATCH, OperandKind.XNACK_MASK})
_PREFIX = {OperandKind.SGPR: "s", OperandKind.VGPR: "v", OperandKind.AGPR: "a", OperandKind.TTMP: "ttmp"}
_OMOD = ("", "mul:2", "mul:4", "div:2")
_HARDWARE_REGISTERS = {
    1: "HW_REG_MODE",
    2: "HW_REG_STATUS",
    3: "HW_REG_TRAPSTS",
    4: "HW_REG_HW_ID",
    5: "HW_REG_GPR_ALLOC",
    6: "HW_REG_LDS_ALLOC",
    7: "HW_REG_IB_STS",
    15: "HW_REG_SH_MEM_BASES",
    16: "HW_REG_TBA_LO",
    17: "HW_REG_TBA_HI",
    18: "HW_REG_TMA_LO",
    19: "HW_REG_TMA_HI",
    20: "HW_REG_XCC_ID",
    21: "HW_REG_SQ_PERF_SNAPSHOT_DATA",
    22: "HW_REG_SQ_PERF_SNAPSHOT_DATA1",
    23: "HW_REG_SQ_PERF_SNAPSHOT_PC_LO",
    24: "HW_REG_SQ_PERF_SNAPSHOT_PC_HI",
}
_GPR_INDEX_BITS = ("SRC0", "SRC1", "SRC2", "DST")


def assembly_text(instruction: Instruction) -> str:
    """The whole line. A branch target is written as its distance in dwords, modulo 2^16, as LLVM does without symbols.

    One thing differs from LLVM: an immediate SMEM offset of 0 beside an offset register is not written.
    """
    returning_atomic = instruction.format in (Format.MUBUF, Format.SMEM) and "_atomic_" in instruction.mnemonic
    written = instruction.sources if returning_atomic else (*instruction.destinations, *instruction.sources)
    operands = [operand_text(operand, instruction) for operand in written]
    if instruction.format is Format.SMEM and instruction.sources and not _has_offset_register(instruction):
        operands.append(_signed_hex(instruction.modifiers.offset))
    if instruction.mnemonic == "s_endpgm" and not instruction.sources[0].value:
        operands = []
    if instruction.mnemonic == "s_waitcnt":
        operands = [_wait_text(instruction.modifiers)]
    head = instruction.mnemonic + instruction.suffix.value
    line = f"{head} {', '.join(operands)}" if operands else head
    return " ".join([line, *_modifier_texts(instruction)])


def operand_text(operand: Operand, instruction: Instruction) -> str:
    """One operand with its source modifiers."""
    text = _bare_text(operand, instruction)
    if operand.abs:
        text = f"|{text}|"
    if operand.neg:
        ambiguous = operand.kind is OperandKind.CONSTANT and not operand.abs
        text = f"neg({text})" if ambiguous else f"-{text}"
    return f"sext({text})" if operand.sext else text


def _bare_text(operand: Operand, instruction: Instruction) -> str:
    kind = operand.kind
    if kind in _NAMED:
        return _NAMED[kind]
    if kind in _PREFIX:
        prefix = _PREFIX[kind]
        if operand.count == 1:
            return f"{prefix}{operand.index}"
        return f"{prefix}[{operand.index}:{operand.index + operand.count - 1}]"
    if kind in _PAIRS:
        return kind.value if operand.count == 2 else f"{kind.value}_{('lo', 'hi')[operand.index]}"
    if kind is OperandKind.APERTURE:
        return _APERTURES[operand.index]
    if kind is OperandKind.LABEL:
        return str((operand.value - instruction.next_pc) // 4 & 0xFFFF)
    if kind is OperandKind.SIMM:
        return _immediate_text(operand.value, instruction)
    return _constant_text(operand, instruction)


def _constant_text(operand: Operand, instruction: Instruction) -> str:
    code = operand.index
    if code == LITERAL and instruction.mnemonic == "s_setreg_imm32_b32" and operand.value <= 64:
        return str(operand.value)
    if code == LITERAL:
        high_half = operand.count == 2 and operand.value & 0xFFFFFFFF == 0 and "f64" in instruction.mnemonic
        return hex(operand.value >> 32 if high_half else operand.value & 0xFFFFFFFF)
    if code < 209:
        return str(code - 128 if code < 193 else 192 - code)
    if operand.value < 0x10000 and instruction.mnemonic.endswith(("_i16", "_u16", "_b16")):
        return hex(operand.value)  # a float constant where integer halves are taken
    if code == INVERSE_TWO_PI:
        return "0.15915494309189532" if operand.count == 2 and operand.value >> 32 else "0.15915494"
    return str(FLOAT_CONSTANTS[code])


def _immediate_text(value: int, instruction: Instruction) -> str:
    name = instruction.mnemonic
    if name in ("s_set_gpr_idx_on", "s_set_gpr_idx_mode"):
        if value > 15:
            return hex(value)
        return f"gpr_idx({','.join(bit for place, bit in enumerate(_GPR_INDEX_BITS) if value >> place & 1)})"
    if name in ("s_getreg_b32", "s_setreg_b32", "s_setreg_imm32_b32"):
        return _hardware_register_text(value)
    if name in ("s_sendmsg", "s_sendmsghalt"):
        return f"sendmsg({MESSAGES[value]})"
    return hex(value) if instruction.format is Format.SOPK or (value > 64 and name != "s_endpgm") else str(value)


def _hardware_register_text(value: int) -> str:
    number, offset, size = value & 63, value >> 6 & 31, (value >> 11) + 1
    name = _HARDWARE_REGISTERS.get(number, str(number))
    return f"hwreg({name})" if (offset, size) == (0, 32) else f"hwreg({name}, {offset}, {size})"


def _wait_text(modifiers: Modifiers) -> str:
    """The counters that are waited for; all of them, at their limits, where none is."""
    counts = (("vmcnt", modifiers.vmcnt, 63), ("expcnt", modifiers.expcnt, 7), ("lgkmcnt", modifiers.lgkmcnt, 15))
    nothing = all(value is None for _, value, _ in counts)
    shown = [(name, limit if value is None else value) for name, value, limit in counts if nothing or value is not None]
    return " ".join(f"{name}({value})" for name, value in shown)


def _modifier_texts(instruction: Instruction) -> list[str]:
    form = instruction.format
    if form in (Format.MUBUF, Format.FLAT, Format.GLOBAL, Format.SCRATCH, Format.DS, Format.SMEM):
        return _memory_texts(instruction)
    modifiers = instruction.modifiers
    texts = []
    if modifiers.dpp is not None:
        return dpp_texts(modifiers.dpp)
    if form is Format.MAI:
        return _matrix_texts(instruction)
    if modifiers.bitop3:
        texts.append(f"bitop3:{modifiers.bitop3:#x}" if modifiers.bitop3 > 9 else f"bitop3:{modifiers.bitop3}")
    if any(modifiers.op_sel):
        texts.append(_bits_text("op_sel", modifiers.op_sel))
    if form is Format.VOP3P:
        default = 0 if "_mix" in instruction.mnemonic else 1
        if any(bit != default for bit in modifiers.op_sel_hi):
            texts.append(_bits_text("op_sel_hi", modifiers.op_sel_hi))
        texts += [
            _bits_text(name, bits) for name, bits in (("neg_lo", modifiers.neg_lo), ("neg_hi", modifiers.neg_hi)) if any(bits)
        ]
    if modifiers.clamp:
        texts.append("clamp")
    if modifiers.omod:
        texts.append(_OMOD[modifiers.omod])
    return texts + (_sdwa_texts(instruction, modifiers.sdwa) if modifiers.sdwa is not None else [])


def _bits_text(name: str, bits: tuple[int, ...]) -> str:
    return f"{name}:[{','.join(map(str, bits))}]"


def _memory_texts(instruction: Instruction) -> list[str]:
    modifiers = instruction.modifiers
    if instruction.format is Format.SMEM:
        return _smem_texts(instruction)
    texts = [name for name, given in (("idxen", modifiers.idxen), ("offen", modifiers.offen)) if given]
    if instruction.mnemonic == "ds_swizzle_b32":
        texts += [f"offset:{swizzle_text(modifiers.offset)}"] if modifiers.offset else []
    elif modifiers.offset:
        texts.append(f"offset:{modifiers.offset}")
    texts += [f"{name}:{value}" for name, value in (("offset0", modifiers.offset0), ("offset1", modifiers.offset1)) if value]
    flags = (
        ("sc0", modifiers.sc0),
        ("nt", modifiers.nt),
        ("sc1", modifiers.sc1),
        ("lds", modifiers.lds),
    )
    return texts + [name for name, given in flags if given]


def _has_offset_register(instruction: Instruction) -> bool:
    """Whether a scalar access has one: a single dword behind its base, which is two or four."""
    return bool(instruction.sources) and instruction.sources[-1].count == 1


def _smem_texts(instruction: Instruction) -> list[str]:
    """The immediate offset is written as an operand when there is no offset register."""
    modifiers = instruction.modifiers
    texts = [f"offset:{_signed_hex(modifiers.offset)}"] if _has_offset_register(instruction) and modifiers.offset else []
    return [*texts, "glc"] if modifiers.glc else texts


def _signed_hex(value: int) -> str:
    return f"-{-value:#x}" if value < 0 else f"{value:#x}"


def swizzle_text(offset: int) -> str:
    """The pattern of ds_swizzle_b32 (ISA: "DS_SWIZZLE_B32")."""
    if offset & 0x8000 == 0x8000 and offset & 0x7F00 == 0:
        lanes = ",".join(str(offset >> (2 * lane) & 3) for lane in range(4))
        return f"swizzle(QUAD_PERM,{lanes})"
    if offset & 0x8000:
        return str(offset)
    keep, force, flip = offset & 31, offset >> 5 & 31, offset >> 10 & 31
    if keep == 31 and force == 0 and flip and flip & (flip - 1) == 0:
        return f"swizzle(SWAP,{flip})"
    if keep == 31 and force == 0 and flip and flip & (flip + 1) == 0:
        return f"swizzle(REVERSE,{flip + 1})"
    group = 32 - keep
    if flip == 0 and keep and keep != 31 and group & (group - 1) == 0 and force < group:
        return f"swizzle(BROADCAST,{group},{force})"
    bits = []
    for place in reversed(range(5)):
        zero = (force >> place & 1) ^ (flip >> place & 1)
        one = ((keep >> place & 1) | (force >> place & 1)) ^ (flip >> place & 1)
        bits.append({(0, 0): "0", (1, 1): "1", (0, 1): "p", (1, 0): "i"}[zero, one])
    return f'swizzle(BITMASK_PERM,"{"".join(bits)}")'


def _matrix_texts(instruction: Instruction) -> list[str]:
    modifiers = instruction.modifiers
    texts = []
    if any(modifiers.op_sel):
        texts.append(_bits_text("op_sel", modifiers.op_sel))
    if modifiers.op_sel_hi:
        texts.append(_bits_text("op_sel_hi", modifiers.op_sel_hi))
    texts += [f"{name}:{value}" for name, value in (("cbsz", modifiers.cbsz), ("abid", modifiers.abid)) if value]
    if modifiers.blgp:
        negates = instruction.mnemonic.endswith("_f64")
        bits = tuple(modifiers.blgp >> place & 1 for place in range(3))
        texts.append(_bits_text("neg", bits) if negates else f"blgp:{modifiers.blgp}")
    return texts


def _sdwa_texts(instruction: Instruction, sdwa: Sdwa) -> list[str]:
    texts = []
    widens = instruction.mnemonic in WHOLE_DESTINATION
    if sdwa.dst_sel is not None and sdwa.dst_unused is not None and not widens:
        texts += [f"dst_sel:{sdwa.dst_sel.name}", f"dst_unused:UNUSED_{sdwa.dst_unused.name}"]
    selections = [operand.sel for operand in instruction.sources if operand.sel is not None]
    return texts + [f"src{number}_sel:{sel.name}" for number, sel in enumerate(selections)]


def dpp_texts(dpp: Dpp) -> list[str]:
    """The parts of a DPP word."""
    control = dpp.ctrl
    if control < 0x100:
        first = f"quad_perm:[{','.join(str(control >> (2 * lane) & 3) for lane in range(4))}]"
    elif control in DPP_NAMES:
        first = DPP_NAMES[control]
    else:
        kinds = {0x100: "row_shl", 0x110: "row_shr", 0x120: "row_ror", 0x150: "row_newbcast"}
        first = f"{kinds[control & 0x1F0]}:{control & 0xF}"
    texts = [first, f"row_mask:{dpp.row_mask:#x}", f"bank_mask:{dpp.bank_mask:#x}"]
    return [*texts, "bound_ctrl:1"] if dpp.bound_ctrl else texts
