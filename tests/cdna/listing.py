"""Hand-assembled code for tests: lines of "hexadecimal words ; assembly text", each checked against the decoder's own text."""

from __future__ import annotations

import struct

from backend.cdna.decode import decode
from backend.cdna.decode.text import assembly_text
from backend.cdna.instruction import Instruction


def code_of(lines: str) -> bytes:
    """The machine code of a listing."""
    words = [int(word, 16) for line in lines.strip().splitlines() for word in line.split(";")[0].split()]
    return struct.pack(f"<{len(words)}I", *words)


def listing(lines: str, arch: str = "gfx950") -> tuple[Instruction, ...]:
    """Decode a listing; fails where a line's comment is not what the words say."""
    instructions = decode(code_of(lines), arch)
    texts = [" ".join(line.split(";")[1].split()) for line in lines.strip().splitlines()]
    assert [assembly_text(instruction) for instruction in instructions] == texts
    return instructions
