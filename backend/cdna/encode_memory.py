"""Memory instructions -> the fields of their records: SMEM, MUBUF, GLOBAL, SCRATCH and DS; see backend/cdna/encode.py."""

from __future__ import annotations

import re

from backend.cdna.encoded import Constants, Encoded, NotModelledError, row_of, scalar_index
from backend.cdna.execute import atomics, flat, indexed_buffer, lds, scalar_memory
from backend.cdna.execute import global_memory as memory
from backend.cdna.execute import layout as at
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
_VECTOR_MEMORY = re.compile(r"(buffer|global|flat|scratch)_(load|store)_(lds_)?(\w+)$")


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


_OFF = Operand(OperandKind.OFF)
_ATOMIC = re.compile(r"(buffer|global|flat)_atomic_(\w+?)(_x2|_f32|_f64|_f16|_bf16)?$")
_ATOMIC_HANDLERS = {"buffer": atomics.buffer_atomic, "global": atomics.global_atomic, "flat": atomics.flat_atomic}


def encode_vector_atomic(instruction: Instruction, constants: Constants) -> Encoded | None:
    """MUBUF, GLOBAL and FLAT atomics; None for what is none of them."""
    match = _ATOMIC.match(instruction.mnemonic)
    if match is None:
        return None
    unit, name, suffix = match.groups()
    suffix = suffix or ""
    operands = list(instruction.sources)
    data = operands.pop(0 if unit == "buffer" else 1)
    encoded = Encoded(None, _atomic_number(name, suffix), accesses=True, immediate=instruction.modifiers.offset)
    _vector_address(encoded, unit, operands, instruction, constants)
    encoded.handler = indexed_buffer.indexed_atomic if instruction.modifiers.idxen else _ATOMIC_HANDLERS[unit]
    dwords = 2 if suffix in ("_x2", "_f64") else 1
    encoded.count |= dwords | (at.RETURNS if instruction.destinations else 0)
    encoded.destination_2 = row_of(data)
    encoded.target = encoded.destination_2 + (dwords if name == "cmpswap" else 0)
    if instruction.destinations:
        encoded.destination = row_of(instruction.destinations[0])
    return encoded


def _atomic_number(name: str, suffix: str) -> int:
    """OPCODE of an atomic by its name in memory instructions."""
    wide = atomics.WIDE if suffix in ("_x2", "_f64") else 0
    if suffix in ("_f16", "_bf16"):
        return atomics.Atomic[f"{name}{suffix}".upper()]
    return atomics.Atomic[name.upper() + ("_F" if suffix in ("_f32", "_f64") else "")] + wide


_LDS_ATOMIC = re.compile(r"ds_(\w+?)(_rtn)?_([uibf])(32|64)$|ds_(pk_add)(_rtn)?_(f16|bf16)$")
_LDS_ATOMIC_NAMES = {"wrxchg": "SWAP", "cmpst": "CMPSWAP"}


def _encode_lds_atomic(instruction: Instruction) -> Encoded | None:
    match = _LDS_ATOMIC.match(instruction.mnemonic)
    if match is None:
        return None
    packed = match[5] is not None
    returns = bool(match[6] if packed else match[2])
    dwords = 2 if match[4] == "64" else 1
    name = f"PK_ADD_{match[7]}".upper() if packed else _LDS_ATOMIC_NAMES.get(match[1], match[1].upper())
    if name in ("MIN", "MAX") and match[3] in "iu":
        name = {"i": "S", "u": "U"}[match[3]] + name
    name += "_F" if match[3] == "f" else ""
    if name not in atomics.Atomic.__members__:
        return None
    encoded = Encoded(atomics.lds_atomic, atomics.Atomic[name] + (atomics.WIDE if dwords == 2 else 0), accesses=True)
    encoded.immediate = instruction.modifiers.offset
    encoded.count = dwords | (at.RETURNS if returns else 0)
    encoded.sources[0] = row_of(instruction.sources[0])
    rows = [row_of(operand) for operand in instruction.sources[1:]]
    compares = name in ("CMPSWAP", "CMPSWAP_F")  # the first is what is compared with, the second what is written
    encoded.destination_2, encoded.target = (rows[1], rows[0]) if compares else (rows[0], rows[-1])
    if instruction.destinations:
        encoded.destination = row_of(instruction.destinations[0])
    return encoded


def _vector_address(
    encoded: Encoded, unit: str, operands: list[Operand], instruction: Instruction, constants: Constants
) -> None:
    vaddr = operands[0]
    encoded.sources[0] = -1 if vaddr.kind is OperandKind.OFF else row_of(vaddr)
    if unit == "buffer":
        encoded.handler = memory.buffer_access
        if instruction.modifiers.idxen:
            encoded.handler = indexed_buffer.indexed_access
            encoded.count |= at.INDEX_AND_OFFSET * instruction.modifiers.offen
        encoded.sources[1] = scalar_index(operands[1], constants)
        encoded.sources[2] = scalar_index(operands[2], constants)
        return
    encoded.handler = {"global": memory.global_access, "flat": flat.flat_access, "scratch": memory.scratch_access}[unit]
    saddr = _OFF if unit == "flat" else operands[1]
    encoded.sources[1] = -1 if saddr.kind is OperandKind.OFF else scalar_index(saddr, constants)


def encode_scalar_memory(instruction: Instruction, constants: Constants) -> Encoded | None:
    """S_LOAD, S_STORE, S_ATOMIC and their S_BUFFER forms."""
    match = re.match(r"s_(buffer_)?load_dword(x\d+)?$", instruction.mnemonic)
    if match is None:
        return _encode_scalar_store(instruction, constants)
    encoded = Encoded(memory.scalar_load, int(bool(match[1])), accesses=True)
    encoded.count = instruction.destinations[0].count
    encoded.destination = scalar_index(instruction.destinations[0], constants)
    encoded.immediate = instruction.modifiers.offset
    encoded.sources[0] = scalar_index(instruction.sources[0], constants)
    encoded.sources[1] = scalar_index(instruction.sources[1], constants) if len(instruction.sources) > 1 else -1
    return encoded


def _encode_scalar_store(instruction: Instruction, constants: Constants) -> Encoded | None:
    match = re.match(r"s_(?:(buffer_)?store_dword|atomic_(\w+?)(_x2)?$)", instruction.mnemonic)
    if match is None:
        return None
    data, base, *offset = instruction.sources
    encoded = Encoded(scalar_memory.scalar_store, int(bool(match[1])), accesses=True)
    encoded.count = data.count
    if match[2]:
        encoded.handler = scalar_memory.scalar_atomic
        encoded.opcode = _atomic_number(match[2], match[3] or "")
        encoded.count = (2 if match[3] else 1) | (at.RETURNS if instruction.destinations else 0)
    encoded.destination = scalar_index(data, constants)
    encoded.immediate = instruction.modifiers.offset
    encoded.sources[0] = scalar_index(base, constants)
    encoded.sources[1] = scalar_index(offset[0], constants) if offset else -1
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
    "ds_read_b64_tr_b4": lds.Lds.READ_TR_B4,
}


def encode_lds(instruction: Instruction, constants: Constants) -> Encoded | None:
    """DS reads, writes, permutations and atomics."""
    mnemonic, modifiers = instruction.mnemonic, instruction.modifiers
    encoded = Encoded(lds.lds_access, immediate=modifiers.offset)
    rows = [row_of(operand) for operand in instruction.sources]
    encoded.sources = ([*rows, 0, 0, 0])[:3]
    if instruction.destinations:
        encoded.destination = row_of(instruction.destinations[0])
    if mnemonic in _LDS_PERMUTES:
        kind = _LDS_PERMUTES[mnemonic]
        encoded.opcode = Width.DWORDS + 16 * kind
        encoded.accesses = kind in (lds.Lds.READ_TR_B4, lds.Lds.READ_TR_B8, lds.Lds.READ_TR_B16)
        encoded.count = 2 if encoded.accesses else 1
        if kind is lds.Lds.SWIZZLE:
            encoded.sources[1] = encoded.sources[0]
        return encoded
    match = _LDS.match(mnemonic)
    if match is None or match[3] not in _LDS_WIDTHS:
        return _encode_lds_atomic(instruction)
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
