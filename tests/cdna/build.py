"""Instructions made by hand for tests: operands in a letter, an instruction in a line."""

from __future__ import annotations

from typing import Any

from backend.cdna.instruction import Format, Instruction, Modifiers, Operand, OperandKind


def v(index: int, count: int = 1, **modifiers: Any) -> Operand:
    """VGPRs."""
    return Operand(OperandKind.VGPR, index, count, **modifiers)


def a(index: int, count: int = 1) -> Operand:
    """AGPRs."""
    return Operand(OperandKind.AGPR, index, count)


def s(index: int, count: int = 1) -> Operand:
    """SGPRs."""
    return Operand(OperandKind.SGPR, index, count)


def c(value: int, count: int = 1) -> Operand:
    """A constant by its bits."""
    return Operand(OperandKind.CONSTANT, 255, count, value)


def imm(value: int) -> Operand:
    """An immediate field."""
    return Operand(OperandKind.SIMM, 0, 1, value)


def label(pc: int) -> Operand:
    """A branch target."""
    return Operand(OperandKind.LABEL, value=pc)


OFF = Operand(OperandKind.OFF)
VCC = Operand(OperandKind.VCC, 0, 2)
M0 = Operand(OperandKind.M0)
EXEC = Operand(OperandKind.EXEC, 0, 2)
ONE_HALF = 0x3F000000

_FORMATS = {
    "s_load": Format.SMEM,
    "s_buffer": Format.SMEM,
    "s_cmp": Format.SOPC,
    "s_movk": Format.SOPK,
    "s_set_gpr_idx_on": Format.SOPC,
    "s_set_gpr_idx_off": Format.SOPP,
    "s_setreg": Format.SOPK,
    "s_getreg": Format.SOPK,
    "s_waitcnt": Format.SOPP,
    "s_cbranch": Format.SOPP,
    "s_branch": Format.SOPP,
    "s_barrier": Format.SOPP,
    "s_endpgm": Format.SOPP,
    "s_nop": Format.SOPP,
    "s_mov": Format.SOP1,
    "s_": Format.SOP2,
    "ds_": Format.DS,
    "buffer_": Format.MUBUF,
    "global_": Format.GLOBAL,
    "flat_": Format.FLAT,
    "scratch_": Format.SCRATCH,
    "v_mfma": Format.MAI,
    "v_cmp": Format.VOPC,
    "v_mov": Format.VOP1,
    "v_": Format.VOP3,
}


def ins(mnemonic: str, destinations: Any = (), sources: Any = (), pc: int = 0, **modifiers: Any) -> Instruction:
    """One instruction; an operand alone stands for a tuple of one."""
    form = next(form for prefix, form in _FORMATS.items() if mnemonic.startswith(prefix))
    return Instruction(pc, 4, mnemonic, form, _tuple(destinations), _tuple(sources), Modifiers(**modifiers))


def _tuple(operands: Any) -> tuple[Operand, ...]:
    return (operands,) if isinstance(operands, Operand) else tuple(operands)


def code(*instructions: Instruction) -> tuple[Instruction, ...]:
    """The instructions at pc 0, 4, 8, ...; branch targets are given as the number of the instruction, from 0."""
    placed = []
    for number, each in enumerate(instructions):
        sources = tuple(
            Operand(OperandKind.LABEL, value=4 * operand.value) if operand.kind is OperandKind.LABEL else operand
            for operand in each.sources
        )
        placed.append(
            Instruction(4 * number, 4, each.mnemonic, each.format, each.destinations, sources, each.modifiers, each.suffix)
        )
    return tuple(placed)
