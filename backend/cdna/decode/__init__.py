"""Machine code to instructions: our own decoder for gfx942 and gfx950, total in that it stops where it does not know.

It knows encodings only, not what instructions do. A field that an instruction does not have must be zero: a set bit is
refused, not ignored, because a wrong guess would pass as "no fault" later. LLVM's disassembler is the oracle of the tests.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from functools import lru_cache

from backend.cdna.decode.matrix import SCALE_PREFIX, decode_mai, decode_scaled
from backend.cdna.decode.memory import decode_ds, decode_flat, decode_mubuf
from backend.cdna.decode.scalar import decode_smem, decode_sop1, decode_sop2, decode_sopc, decode_sopk, decode_sopp
from backend.cdna.decode.tables import ARCHS, OPCODES, RefusedError
from backend.cdna.decode.vector import decode_vop1, decode_vop2, decode_vop3, decode_vop3p, decode_vopc
from backend.cdna.instruction import Instruction, UndecodableError
from backend.errors import UsageError

Decoder = Callable[[tuple[int, ...], int, str], Instruction]


def _family(top: int) -> Decoder | None:
    """The decoder for the nine upper bits of an instruction's first word (ISA: "Microcode Formats")."""
    if top < 0x100:
        return {0x7C: decode_vopc, 0x7D: decode_vopc, 0x7E: decode_vop1, 0x7F: decode_vop1}.get(top >> 1, decode_vop2)
    if top < 0x160:
        return decode_sop2
    if top < 0x17D:
        return decode_sopk
    exact: dict[int, Decoder] = {0x17D: decode_sop1, 0x17E: decode_sopc, 0x17F: decode_sopp, 0x1A7: decode_vop3p}
    by_six: dict[int, Decoder] = {
        0b110000: decode_smem,
        0b110100: decode_vop3,
        0b110110: decode_ds,
        0b110111: decode_flat,
        0b111000: decode_mubuf,
    }
    return exact.get(top, by_six.get(top >> 3))


_FAMILIES = tuple(_family(top) for top in range(512))


def decode_one(words: tuple[int, ...], at: int, arch: str) -> Instruction:
    """The instruction whose first dword is words[at]; pc = 4 * at. Raises UndecodableError."""
    word = words[at]
    decoder = _FAMILIES[word >> 23]
    try:
        if decoder is None:
            raise RefusedError("no known encoding prefix")
        if decoder in _TWO_WORDS and at + 1 >= len(words):
            raise RefusedError("the code ends inside the instruction")
        if decoder is decode_vop3p:
            if word >> 16 == SCALE_PREFIX:
                return decode_scaled(words, at, arch)
            if word >> 16 & 0x7F in OPCODES["MAI"]:
                return decode_mai(words, at, arch)
        return decoder(words, at, arch)
    except RefusedError as refused:
        code = struct.pack(f"<{min(4, len(words) - at)}I", *words[at : at + 4])
        raise UndecodableError(arch, 4 * at, code, str(refused)) from None


_TWO_WORDS = frozenset({decode_smem, decode_vop3, decode_vop3p, decode_ds, decode_flat, decode_mubuf})


@lru_cache(maxsize=32)
def decode(code: bytes, arch: str) -> tuple[Instruction, ...]:
    """All instructions of a kernel's text, from its entry (pc 0) to its end.

    code: the text, a multiple of 4 bytes. arch: "gfx942" or "gfx950". Cached by the bytes. Raises UndecodableError at the
    first word that is not understood, UsageError for another architecture or a text that is not whole dwords.
    """
    if arch not in ARCHS:
        raise UsageError.not_allowed("architecture to decode for", arch, " or ".join(sorted(ARCHS)))
    if len(code) % 4:
        raise UsageError.not_allowed("kernel text", f"{len(code)} bytes", "whole dwords", "is the code object truncated?")
    words = struct.unpack(f"<{len(code) // 4}I", code)
    instructions = []
    at = 0
    while at < len(words):
        instruction = decode_one(words, at, arch)
        instructions.append(instruction)
        at += instruction.size // 4
    return tuple(instructions)
