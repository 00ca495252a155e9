"""Memory instructions of the vector unit: DS, MUBUF, FLAT, GLOBAL and SCRATCH words (ISA: "Vector Memory Operations")."""

from __future__ import annotations

from functools import cache

from backend.cdna.decode.operands import OFF, SGPRS, register, scalar_operand, sign_extend, vgpr
from backend.cdna.decode.tables import ARCHS, OPCODES, FieldKind, Opcode, OperandType, RefusedError, available, look_up
from backend.cdna.instruction import NO_MODIFIERS, Format, Instruction, Modifiers, Operand, OperandKind

_SCALAR32 = OperandType(FieldKind.SCALAR, 32)
_SCALAR64 = OperandType(FieldKind.SCALAR, 64)
_BITS32 = OperandType(FieldKind.BITS, 32)
NO_SADDR = 0x7F
EXEC = 126
ROTATE = 0xC000
"""From here up ds_swizzle_b32's patterns are the rotate and FFT modes, which the CDNA documents do not have."""
_LDS_LOADS = frozenset(
    {"buffer_load_ubyte", "buffer_load_sbyte", "buffer_load_ushort", "buffer_load_sshort", "buffer_load_dword"}
)
_WIDE_LDS_LOADS = frozenset({"buffer_load_dwordx3", "buffer_load_dwordx4"})
_SEGMENTS = (Format.FLAT, Format.SCRATCH, Format.GLOBAL)
_PREFIXES = {Format.FLAT: "flat_", Format.SCRATCH: "scratch_", Format.GLOBAL: "global_"}


def _data(code: int, operand_type: OperandType, accumulator: int) -> Operand:
    return vgpr(code, operand_type.dwords, bool(accumulator) and operand_type.kind is FieldKind.ACCUMULATOR)


def decode_ds(words: tuple[int, ...], at: int, arch: str) -> Instruction:
    """110110 | acc | op 8 | gds | offset1 8 | offset0 8, then vdst 8 | data1 8 | data0 8 | addr 8."""
    word, high = words[at], words[at + 1]
    opcode = look_up("DS", word >> 17 & 0xFF, arch)
    accumulator, offset = word >> 25 & 1, word & 0xFFFF
    if word >> 16 & 1:
        raise RefusedError(f"{opcode.mnemonic} on the global data share")
    if not opcode.sources:
        if word & 0x201FFFF or high:
            raise RefusedError(f"{opcode.mnemonic} with fields that it lacks")
        return Instruction(at * 4, 8, opcode.mnemonic, Format.DS, (), ())
    destinations = tuple(_data(high >> 24, each, accumulator) for each in opcode.destinations)
    sources = tuple(_data(high >> (8 * place) & 0xFF, each, accumulator) for place, each in enumerate(opcode.sources))
    unused = (high & 0xFFFFFF) >> (8 * len(sources)) or (high >> 24 and not destinations)
    if unused or (accumulator and "permute" in opcode.mnemonic):
        raise RefusedError(f"{opcode.mnemonic} with fields that it lacks")
    if "2" in opcode.flags:
        modifiers = Modifiers(offset0=offset & 0xFF, offset1=offset >> 8) if offset else NO_MODIFIERS
    elif "w" in opcode.flags and offset >= ROTATE:
        raise RefusedError(f"{opcode.mnemonic} with pattern {offset:#x}")
    else:
        modifiers = _modifiers(offset)
    return Instruction(at * 4, 8, opcode.mnemonic, Format.DS, destinations, sources, modifiers)


@cache
def _modifiers(offset: int, flags: int = 0) -> Modifiers:
    """flags: offen, idxen, sc0, sc1, lds, nt from bit 0 up."""
    if not (offset or flags):
        return NO_MODIFIERS
    offen, idxen, sc0, sc1, lds, nt = (bool(flags >> place & 1) for place in range(6))
    return Modifiers(offset=offset, offen=offen, idxen=idxen, sc0=sc0, sc1=sc1, lds=lds, nt=nt)


def decode_mubuf(words: tuple[int, ...], at: int, arch: str) -> Instruction:
    """111000 | op 7 | nt | lds | sc1, sc0 | idxen, offen | offset 12, then soffset 8 | acc | srsrc 5 | vdata 8 | vaddr 8."""
    word, high = words[at], words[at + 1]
    opcode = look_up("MUBUF", word >> 18 & 0x7F, arch)
    offen, idxen, lds = word >> 12 & 1, word >> 13 & 1, word >> 16 & 1
    modifiers = _modifiers(word & 0xFFF, word >> 12 & 0x3F)
    if word >> 25 & 1 or high >> 21 & 3:
        raise RefusedError(f"{opcode.mnemonic} with reserved bits set")
    if "n" in opcode.flags:
        if high or word & 0x33FFF:
            raise RefusedError(f"{opcode.mnemonic} with operands")
        return Instruction(at * 4, 8, opcode.mnemonic, Format.MUBUF, (), (), modifiers)
    addresses = _buffer_address(high & 0xFF, offen, idxen)
    addresses += (register(OperandKind.SGPR, (high >> 16 & 0x1F) * 4, 4, SGPRS), scalar_operand(high >> 24, _BITS32))
    accumulator, vdata = high >> 23 & 1, high >> 8 & 0xFF
    if lds:
        allowed = opcode.mnemonic in _LDS_LOADS or (arch == "gfx950" and opcode.mnemonic in _WIDE_LDS_LOADS)
        if not allowed or vdata or accumulator:
            raise RefusedError(f"{opcode.mnemonic} to LDS")
        return Instruction(at * 4, 8, opcode.mnemonic, Format.MUBUF, (), addresses, modifiers)
    destinations, sources = _loaded_and_stored(opcode, vdata, vdata, word >> 14 & 1, accumulator)
    return Instruction(at * 4, 8, opcode.mnemonic, Format.MUBUF, destinations, sources + addresses, modifiers)


def _buffer_address(vaddr: int, offen: int, idxen: int) -> tuple[Operand, ...]:
    if not (offen or idxen):
        if vaddr:
            raise RefusedError("a vaddr without offen or idxen")
        return (OFF,)
    return (vgpr(vaddr, 1 + (offen & idxen)),)


def _loaded_and_stored(
    opcode: Opcode, vdst: int, vdata: int, returns: int, accumulator: int
) -> tuple[tuple[Operand, ...], tuple[Operand, ...]]:
    """Destination and data operand of a load, a store or an atomic; a compare-and-swap returns half of its data's width."""
    destinations = tuple(_data(vdst, each, accumulator) for each in opcode.destinations)
    sources = tuple(_data(vdata, each, accumulator) for each in opcode.sources)
    if returns and "r" in opcode.flags:
        bits = opcode.sources[0].bits // (2 if "cmpswap" in opcode.mnemonic else 1)
        destinations = (_data(vdst, OperandType(FieldKind.ACCUMULATOR, bits), accumulator),)
    return destinations, sources


def decode_flat(words: tuple[int, ...], at: int, arch: str) -> Instruction:
    """110111 | sc1 | op 7 | nt | sc0 | segment 2 | lds or sve | offset 13, then vdst 8 | acc | saddr 7 | data 8 | addr 8."""
    word, high = words[at], words[at + 1]
    segment = word >> 14 & 3
    if segment > 2:
        raise RefusedError("flat segment 3")
    form = _SEGMENTS[segment]
    opcode = available(OPCODES["FLAT"].get(word >> 18 & 0x7F), word >> 18 & 0x7F, arch, form)
    name = _PREFIXES[form] + opcode.mnemonic
    if form is not Format.GLOBAL and (opcode.archs != ARCHS or (form is Format.SCRATCH and "r" in opcode.flags)):
        raise RefusedError(f"no {name}")
    if form is Format.FLAT and ("l" in opcode.flags or word >> 12 & 1):
        raise RefusedError(f"no {name} or a negative offset")
    sc0, sc1, nt = word >> 16 & 1, word >> 25 & 1, word >> 17 & 1
    offset = sign_extend(word & 0x1FFF, 13)
    modifiers = _modifiers(offset, sc0 << 2 | sc1 << 3 | nt << 5)
    address, base = _flat_address(form, high & 0xFF, high >> 16 & 0x7F, word >> 13 & 1)
    accumulator, vdata, vdst = high >> 23 & 1, high >> 8 & 0xFF, high >> 24
    destinations, data = _loaded_and_stored(opcode, vdst, vdata, sc0, accumulator)
    if (not destinations and vdst) or (not data and vdata) or (accumulator and not (data or destinations)):
        raise RefusedError(f"{name} with fields that it lacks")
    if form is Format.GLOBAL and accumulator and sc0 and "v" in opcode.flags:
        raise RefusedError(f"no {name} that returns into accumulators")
    return Instruction(at * 4, 8, name, form, destinations, (*address, *data, *base), modifiers)


def _flat_address(form: Format, vaddr: int, saddr: int, vector: int) -> tuple[tuple[Operand, ...], tuple[Operand, ...]]:
    """What LLVM writes before the data and behind it."""
    if form is Format.SCRATCH:
        if not vector and vaddr:
            raise RefusedError("a scratch vaddr without sve")
        first = vgpr(vaddr, 1) if vector else OFF
        return (first,), (OFF if saddr == NO_SADDR else scalar_operand(saddr, _SCALAR32),)
    if vector:
        raise RefusedError("the lds bit of a flat word")
    if form is Format.FLAT:
        if saddr:
            raise RefusedError("a flat access with saddr")
        return (vgpr(vaddr, 2),), ()
    if saddr == NO_SADDR:
        return (vgpr(vaddr, 2),), (OFF,)
    if saddr == EXEC:
        raise RefusedError("exec as a base address")
    return (vgpr(vaddr, 1),), (scalar_operand(saddr, _SCALAR64),)
