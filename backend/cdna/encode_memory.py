"""Memory instructions -> the fields of their records: SMEM, MUBUF, GLOBAL, SCRATCH and DS; see backend/cdna/encode.py."""

from __future__ import annotations

import re

from backend.cdna.encoded import Constants, Encoded, NotModelledError, row_of, scalar_index
from backend.cdna.execute import global_memory as memory
from backend.cdna.execute import lds
from backend.cdna.execute.transfer import Width
from backend.cdna.instruction import Instruction, Operand, OperandKind

_WIDTHS = {
    "ubyte": Width.UBYTE,
    "sbyte": Width.SBYTE,
    "ushort": Width.USHORT,
    "sshort": Width.SSHORT,
    "ubyte_d16": Width.UBYTE_D16,
    "ubyte_d16_hi": Width.UBYTE_D16_HI,
    "sbyte_d16": Width.SBYTE_D16,
    "sbyte_d16_hi": Width.SBYTE_D16_HI,
    "short_d16": Width.SHORT_D16,
    "short_d16_hi": Width.SHORT_D16_HI,
    "byte": Width.UBYTE,
    "byte_d16_hi": Width.UBYTE_D16_HI,
    "short": Width.USHORT,
    "dword": Width.DWORDS,
    "dwordx2": Width.DWORDS,
    "dwordx3": Width.DWORDS,
    "dwordx4": Width.DWORDS,
}
_VECTOR_MEMORY = re.compile(r"(buffer|global|scratch)_(load|store)_(lds_)?(\w+)$")


def encode_vector_memory(instruction: Instruction, constants: Constants) -> Encoded | None:
    """MUBUF, GLOBAL and SCRATCH loads, stores and LDS-DMA; None for what is none of them."""
    match = _VECTOR_MEMORY.match(instruction.mnemonic)
    if match is None or match[4] not in _WIDTHS:
        return None
    unit, verb, to_lds, width_name = match.groups()
    lds_dma = bool(to_lds) or instruction.modifiers.lds
    width = _WIDTHS[width_name]
    if lds_dma and (width is not Width.DWORDS or unit == "scratch"):
        raise NotModelledError("LDS-DMA of less than a dword, or from scratch")
    direction = memory.Direction.STORE if verb == "store" else memory.Direction.LOAD
    if lds_dma:
        direction = memory.Direction.LOAD_TO_LDS
    encoded = Encoded(None, width + 16 * direction, accesses=unit != "scratch")
    encoded.immediate = instruction.modifiers.offset
    encoded.count = int(width_name[6:] or 1) if width is Width.DWORDS else 1
    operands = list(instruction.sources)
    if verb == "store":
        encoded.destination = row_of(operands.pop(0 if unit == "buffer" else 1))
    elif not lds_dma:
        encoded.destination = row_of(instruction.destinations[0])
    _vector_address(encoded, unit, operands, instruction, constants)
    return encoded


def _vector_address(
    encoded: Encoded, unit: str, operands: list[Operand], instruction: Instruction, constants: Constants
) -> None:
    vaddr = operands[0]
    encoded.sources[0] = -1 if vaddr.kind is OperandKind.OFF else row_of(vaddr)
    if unit == "buffer":
        if instruction.modifiers.idxen:
            raise NotModelledError("buffer addressing by index (idxen)")
        encoded.handler = memory.buffer_access
        encoded.sources[1] = scalar_index(operands[1], constants)
        encoded.sources[2] = scalar_index(operands[2], constants)
        return
    encoded.handler = memory.global_access if unit == "global" else memory.scratch_access
    saddr = operands[1]
    encoded.sources[1] = -1 if saddr.kind is OperandKind.OFF else scalar_index(saddr, constants)


def encode_scalar_memory(instruction: Instruction, constants: Constants) -> Encoded | None:
    """S_LOAD and S_BUFFER_LOAD."""
    match = re.match(r"s_(buffer_)?load_dword(x\d+)?$", instruction.mnemonic)
    if match is None:
        return None
    encoded = Encoded(memory.scalar_load, int(bool(match[1])), accesses=True)
    encoded.count = instruction.destinations[0].count
    encoded.destination = scalar_index(instruction.destinations[0], constants)
    encoded.immediate = instruction.modifiers.offset
    encoded.sources[0] = scalar_index(instruction.sources[0], constants)
    encoded.sources[1] = scalar_index(instruction.sources[1], constants) if len(instruction.sources) > 1 else -1
    return encoded


_LDS = re.compile(r"ds_(read|write)(2st64|2)?_(\w+)$")
_LDS_WIDTHS = {
    "u8": Width.UBYTE,
    "i8": Width.SBYTE,
    "u16": Width.USHORT,
    "i16": Width.SSHORT,
    "b8": Width.UBYTE,
    "b16": Width.USHORT,
    "b8_d16_hi": Width.UBYTE_D16_HI,
    "b16_d16_hi": Width.SHORT_D16_HI,
    "u8_d16": Width.UBYTE_D16,
    "u8_d16_hi": Width.UBYTE_D16_HI,
    "i8_d16": Width.SBYTE_D16,
    "i8_d16_hi": Width.SBYTE_D16_HI,
    "u16_d16": Width.SHORT_D16,
    "u16_d16_hi": Width.SHORT_D16_HI,
    "b32": Width.DWORDS,
    "b64": Width.DWORDS,
    "b96": Width.DWORDS,
    "b128": Width.DWORDS,
}
_LDS_PERMUTES = {
    "ds_bpermute_b32": lds.Lds.BPERMUTE,
    "ds_permute_b32": lds.Lds.PERMUTE,
    "ds_swizzle_b32": lds.Lds.SWIZZLE,
    "ds_read_b64_tr_b8": lds.Lds.READ_TR_B8,
    "ds_read_b64_tr_b16": lds.Lds.READ_TR_B16,
}


def encode_lds(instruction: Instruction, constants: Constants) -> Encoded | None:
    """DS reads, writes and permutations; None for atomics and the like."""
    mnemonic, modifiers = instruction.mnemonic, instruction.modifiers
    encoded = Encoded(lds.lds_access, immediate=modifiers.offset)
    rows = [row_of(operand) for operand in instruction.sources]
    encoded.sources = ([*rows, 0, 0, 0])[:3]
    if instruction.destinations:
        encoded.destination = row_of(instruction.destinations[0])
    if mnemonic in _LDS_PERMUTES:
        kind = _LDS_PERMUTES[mnemonic]
        encoded.opcode = Width.DWORDS + 16 * kind
        encoded.accesses = kind in (lds.Lds.READ_TR_B8, lds.Lds.READ_TR_B16)
        encoded.count = 2 if encoded.accesses else 1
        if kind is lds.Lds.SWIZZLE:
            encoded.sources[1] = encoded.sources[0]
        return encoded
    match = _LDS.match(mnemonic)
    if match is None or match[3] not in _LDS_WIDTHS:
        return None
    verb, two, width_name = match.groups()
    width = _LDS_WIDTHS[width_name]
    kinds: dict[tuple[str, str | None], lds.Lds] = {("read", None): lds.Lds.READ, ("write", None): lds.Lds.WRITE}
    kind = kinds.get((verb, two), lds.Lds.READ2 if verb == "read" else lds.Lds.WRITE2)
    encoded.opcode = width + 16 * kind
    encoded.accesses = True
    encoded.count = int(width_name[1:]) // 32 if width is Width.DWORDS else 1
    if two is not None:
        unit = 4 * encoded.count * (64 if two == "2st64" else 1)
        encoded.immediate, encoded.target = modifiers.offset0 * unit, modifiers.offset1 * unit
    return encoded
