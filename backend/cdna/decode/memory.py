"""Memory instructions of the vector unit: DS, MUBUF, FLAT, GLOBAL and SCRATCH words (ISA: "Vector Memory Operations").

Their opcodes first; see backend/cdna/decode/tables.py for how a row is read.
"""

from __future__ import annotations

from functools import cache

from backend.cdna.decode.operands import OFF, SGPRS, register, scalar_operand, sign_extend, vgpr
from backend.cdna.decode.tables import ARCHS, FieldKind, Opcode, OperandType, RefusedError, look_up, read_table
from backend.cdna.instruction import NO_MODIFIERS, Format, Instruction, Modifiers, Operand, OperandKind

DS = read_table(
    "ds_",
    """
00 = v32 a32 | add_u32 sub_u32 rsub_u32 inc_u32 dec_u32 min_i32 max_i32 min_u32 max_u32 and_b32 or_b32 xor_b32
0c = v32 a32 a32 | mskor_b32
0d = v32 a32 | write_b32
0e = v32 a32 a32 /2 | write2_b32 write2st64_b32
10 = v32 a32 a32 | cmpst_b32 cmpst_f32
12 = v32 a32 | min_f32 max_f32
14 = | nop
15 = v32 a32 | add_f32
17 = v32 a32 | pk_add_f16 pk_add_bf16
1e = v32 a32 | write_b8 write_b16
20 a32 = v32 a32 | add_rtn_u32 sub_rtn_u32 rsub_rtn_u32 inc_rtn_u32 dec_rtn_u32 min_rtn_i32 max_rtn_i32 min_rtn_u32 max_rtn_u32
29 a32 = v32 a32 | and_rtn_b32 or_rtn_b32 xor_rtn_b32
2c a32 = v32 a32 a32 | mskor_rtn_b32
2d a32 = v32 a32 | wrxchg_rtn_b32
2e a64 = v32 a32 a32 /2 | wrxchg2_rtn_b32 wrxchg2st64_rtn_b32
30 a32 = v32 a32 a32 | cmpst_rtn_b32 cmpst_rtn_f32
32 a32 = v32 a32 | min_rtn_f32 max_rtn_f32
34 a32 = v32 a32 a32 | wrap_rtn_b32
35 a32 = v32 a32 | add_rtn_f32
36 a32 = v32 | read_b32
37 a64 = v32 /2 | read2_b32 read2st64_b32
39 a32 = v32 | read_i8 read_u8 read_i16 read_u16
3d a32 = v32 /w | swizzle_b32
3e v32 = v32 v32 | permute_b32 bpermute_b32
40 = v32 a64 | add_u64 sub_u64 rsub_u64 inc_u64 dec_u64 min_i64 max_i64 min_u64 max_u64 and_b64 or_b64 xor_b64
4c = v32 a64 a64 | mskor_b64
4d = v32 a64 | write_b64
4e = v32 a64 a64 /2 | write2_b64 write2st64_b64
50 = v32 a64 a64 | cmpst_b64 cmpst_f64
52 = v32 a64 | min_f64 max_f64
54 = v32 a32 | write_b8_d16_hi write_b16_d16_hi
56 a32 = v32 | read_u8_d16 read_u8_d16_hi read_i8_d16 read_i8_d16_hi read_u16_d16 read_u16_d16_hi
5c = v32 a64 | add_f64
60 a64 = v32 a64 | add_rtn_u64 sub_rtn_u64 rsub_rtn_u64 inc_rtn_u64 dec_rtn_u64 min_rtn_i64 max_rtn_i64 min_rtn_u64 max_rtn_u64
69 a64 = v32 a64 | and_rtn_b64 or_rtn_b64 xor_rtn_b64
6c a64 = v32 a64 a64 | mskor_rtn_b64
6d a64 = v32 a64 | wrxchg_rtn_b64
6e a128 = v32 a64 a64 /2 | wrxchg2_rtn_b64 wrxchg2st64_rtn_b64
70 a64 = v32 a64 a64 | cmpst_rtn_b64 cmpst_rtn_f64
72 a64 = v32 a64 | min_rtn_f64 max_rtn_f64
76 a64 = v32 | read_b64
77 a128 = v32 /2 | read2_b64 read2st64_b64
7c a64 = v32 a64 | add_rtn_f64
b7 a32 = v32 a32 | pk_add_rtn_f16 pk_add_rtn_bf16
de = v32 a96 | write_b96
df = v32 a128 | write_b128
e0 a64 = v32 gfx950 | read_b64_tr_b4
e1 a96 = v32 gfx950 | read_b96_tr_b6
e2 a64 = v32 gfx950 | read_b64_tr_b8 read_b64_tr_b16
fe a96 = v32 | read_b96
ff a128 = v32 | read_b128
""",
)

_VECTOR_MEMORY = """
10 a32 = | load_ubyte load_sbyte load_ushort load_sshort load_dword
15 a64 = | load_dwordx2
16 a96 = | load_dwordx3
17 a128 = | load_dwordx4
18 = a32 | store_byte store_byte_d16_hi store_short store_short_d16_hi store_dword
1d = a64 | store_dwordx2
1e = a96 | store_dwordx3
1f = a128 | store_dwordx4
20 a32 = | load_ubyte_d16 load_ubyte_d16_hi load_sbyte_d16 load_sbyte_d16_hi load_short_d16 load_short_d16_hi
40 = a32 /r | atomic_swap
41 = a64 /r | atomic_cmpswap
42 = a32 /r | atomic_add atomic_sub atomic_smin atomic_umin atomic_smax atomic_umax atomic_and atomic_or atomic_xor atomic_inc
4c = a32 /r | atomic_dec
4d = a32 /rv | atomic_add_f32 atomic_pk_add_f16
4f = a64 /r | atomic_add_f64 atomic_min_f64 atomic_max_f64
60 = a64 /r | atomic_swap_x2
61 = a128 /r | atomic_cmpswap_x2
62 = a64 /r | atomic_add_x2 atomic_sub_x2 atomic_smin_x2 atomic_umin_x2 atomic_smax_x2 atomic_umax_x2 atomic_and_x2
69 = a64 /r | atomic_or_x2 atomic_xor_x2 atomic_inc_x2 atomic_dec_x2
"""
"""What MUBUF and FLAT share. Loads name their data as the destination, stores as a source; atomics do both when they return
(glc, written sc0). v: LLVM has no form of it in global memory that returns into accumulators."""

MUBUF = read_table(
    "buffer_",
    _VECTOR_MEMORY
    + """
28 = /n | wbl2 inv
52 = a32 /r gfx950 | atomic_pk_add_bf16
""",
)

FLAT = read_table(
    "",
    _VECTOR_MEMORY
    + """
26 = /l | load_lds_ubyte load_lds_sbyte load_lds_ushort load_lds_sshort load_lds_dword
52 = a32 /r | atomic_pk_add_bf16
7d = /l gfx950 | load_lds_dwordx4 load_lds_dwordx3
""",
)


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
    opcode = look_up(DS, word >> 17 & 0xFF, arch, "DS")
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
    opcode = look_up(MUBUF, word >> 18 & 0x7F, arch, "MUBUF")
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
    opcode = look_up(FLAT, word >> 18 & 0x7F, arch, form)
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
