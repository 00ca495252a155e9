"""Matrix instructions: MFMA, SMFMAC, the scaled f8f6f4 pair and v_accvgpr_* (ISA: "Matrix Arithmetic Instructions").

Their words have VOP3P's encoding prefix; three bits choose between VGPRs and AGPRs for A, for B, and for C and D together.
"""

from __future__ import annotations

from functools import cache

from backend.cdna.decode.operands import LITERAL, scalar_operand, vgpr
from backend.cdna.decode.tables import FieldKind, Opcode, OperandType, RefusedError, look_up
from backend.cdna.instruction import NO_MODIFIERS, Format, Instruction, Modifiers, Operand

SCALE_PREFIX = 0xD3AC
"""Upper half of the word that loads the block scales for the f8f6f4 MFMA behind it; LLVM writes both as one instruction."""

_SCALED_BITS = {0: 256, 1: 256, 2: 192, 3: 192, 4: 128}
"""f8f6f4 operand format (cbsz for A, blgp for B: fp8, bf8, fp6, bf6, fp4) -> bits a lane holds (32 elements)."""

_ACCUMULATOR32 = OperandType(FieldKind.ACCUMULATOR, 32)
_BITS32 = OperandType(FieldKind.BITS, 32)


def decode_mai(words: tuple[int, ...], at: int, arch: str, scaled: bool = False) -> Instruction:
    """110100111 | op 7 | acc_cd | abid 4 | cbsz 3 | vdst 8, then blgp 3 | acc_b, acc_a | src2 9 | src1 9 | src0 9."""
    word, high = words[at], words[at + 1]
    opcode = look_up("MAI", word >> 16 & 0x7F, arch)
    if len(opcode.sources) == 1:
        return _move(at, opcode, word, high)
    cbsz, abid, blgp = word >> 8 & 7, word >> 11 & 0xF, high >> 29
    if scaled and ("s" not in opcode.flags or abid != 1):
        raise RefusedError(f"block scales before {opcode.mnemonic} with abid {abid}")
    abid = 0 if scaled else abid
    first, second, third = opcode.sources
    if "s" in opcode.flags:
        if cbsz not in _SCALED_BITS or blgp not in _SCALED_BITS or abid:
            raise RefusedError(f"{opcode.mnemonic} with operand formats {cbsz} and {blgp}, abid {abid}")
        first = OperandType(FieldKind.ACCUMULATOR, _SCALED_BITS[cbsz])
        second = OperandType(FieldKind.ACCUMULATOR, _SCALED_BITS[blgp])
    if "k" in opcode.flags and blgp:
        raise RefusedError(f"{opcode.mnemonic} with blgp")
    accumulate_in_agprs = bool(word >> 15 & 1)
    destination = vgpr(word & 0xFF, opcode.destinations[0].dwords, accumulate_in_agprs)
    sources = (
        _matrix(high & 0x1FF, first, bool(high >> 27 & 1)),
        _matrix(high >> 9 & 0x1FF, second, bool(high >> 28 & 1)),
        _third(high >> 18 & 0x1FF, third, accumulate_in_agprs),
    )
    return Instruction(at * 4, 8, opcode.mnemonic, Format.MAI, (destination,), sources, _modifiers(cbsz, abid, blgp))


@cache
def _modifiers(cbsz: int, abid: int, blgp: int) -> Modifiers:
    return Modifiers(cbsz=cbsz, abid=abid, blgp=blgp) if cbsz or abid or blgp else NO_MODIFIERS


def _matrix(code: int, operand_type: OperandType, accumulator: bool) -> Operand:
    if code < 256:
        raise RefusedError("a matrix operand that is no vector register")
    return vgpr(code - 256, operand_type.dwords, accumulator)


def _third(code: int, operand_type: OperandType, accumulator: bool) -> Operand:
    """C may be an inline constant; the index of a sparse operation is a VGPR in any case."""
    if code >= 256:
        return vgpr(code - 256, operand_type.dwords, accumulator and operand_type.kind is not FieldKind.VECTOR)
    if not 128 <= code < 249 or operand_type.kind is FieldKind.VECTOR:
        raise RefusedError("a third operand that is neither vector register nor inline constant")
    constant = scalar_operand(code, _BITS32)
    return Operand(constant.kind, constant.index, operand_type.dwords, constant.value)


def _move(at: int, opcode: Opcode, word: int, high: int) -> Instruction:
    """v_accvgpr_read_b32 and v_accvgpr_write_b32; the acc bits are implied."""
    if word >> 8 & 0x3F or high >> 29 or high >> 9 & 0x3FFFF:
        raise RefusedError(f"{opcode.mnemonic} with fields that it lacks")
    code = high & 0x1FF
    reads = opcode.sources[0] == _ACCUMULATOR32
    if reads and code < 256:
        raise RefusedError("v_accvgpr_read_b32 of a scalar")
    if code == LITERAL:
        raise RefusedError("v_accvgpr_write_b32 of a literal")
    source = vgpr(code - 256, 1, reads) if code >= 256 else scalar_operand(code, _BITS32)
    return Instruction(at * 4, 8, opcode.mnemonic, Format.MAI, (vgpr(word & 0xFF, 1, not reads),), (source,))


def decode_scaled(words: tuple[int, ...], at: int, arch: str) -> Instruction:
    """The 16-byte pair: a word with the two scale registers and their byte selects, then the f8f6f4 MFMA with abid 1."""
    word, high = words[at], words[at + 1]
    if at + 3 >= len(words) or words[at + 2] >> 23 != 0x1A7:
        raise RefusedError("block scales without the MFMA behind them")
    product = decode_mai(words, at + 2, arch, scaled=True)
    if word & 0x87FF or high >> 29 or high >> 18 & 0x1FF:
        raise RefusedError("block scales with fields that they lack")
    scales = (_matrix(high & 0x1FF, _BITS32, False), _matrix(high >> 9 & 0x1FF, _BITS32, False))
    modifiers = Modifiers(
        op_sel=(word >> 11 & 1, word >> 12 & 1, 0),
        op_sel_hi=(high >> 27 & 1, high >> 28 & 1, 0),
        cbsz=product.modifiers.cbsz,
        blgp=product.modifiers.blgp,
    )
    name = product.mnemonic.replace("v_mfma_", "v_mfma_scale_")
    return Instruction(at * 4, 16, name, Format.MAI, product.destinations, product.sources + scales, modifiers)
