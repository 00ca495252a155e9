"""Opcode tables of CDNA3 (gfx942) and CDNA4 (gfx950): one row says opcode, operand types, modifiers and mnemonics.

Read from the "Instructions" and "Microcode Formats" chapters of AMD's MI300 and CDNA4 ISA documents; LLVM's names are
used where the documents differ. Nothing here decodes; backend/cdna/decode/{scalar,vector,matrix,memory}.py do.

A row: `first_opcode  destinations = sources [/modifiers] [arch] | mnemonics of consecutive opcodes ("-": none)`.
Types are a letter and a width in bits:
  b   bits or integer; a floating-point inline constant is that of 32 or 64 bits (of 16 for b16)
  i   as b, but a 32-bit literal is sign-extended to 64 bits
  f   floating point; takes the source modifiers neg and abs in VOP3, DPP and SDWA
  g   bfloat16, modifiers as f
  p   two packed halves (VOP3P); a floating-point inline constant is an f16 in the low half; h: the same with bfloat16
  q   two packed f32 (VOP3P)
  s   scalar register only; u: scalar register or inline constant (lane select and the like)
  m   lane mask in a register pair, or VCC in the short encodings
  v   vector register only; a: vector or accumulation register
Modifiers: c clamp, m output multiplier (omod), o op_sel halves, t truth table (bitop3), x mixed precision (VOP3P),
b broadcast (cbsz, abid, blgp), k sparse (cbsz, abid), s scalable f8f6f4; 2 two offsets (DS), w swizzle pattern (DS),
l to LDS, r atomic (returns when sc0 is set), n no operands.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class FieldKind(StrEnum):
    """How an operand field is read; the letters of the tables."""

    BITS = "b"
    SIGNED = "i"
    FLOAT = "f"
    PACKED = "p"
    PACKED_F32 = "q"
    BFLOAT = "g"
    PACKED_BFLOAT = "h"
    SCALAR = "s"
    UNIFORM = "u"
    MASK = "m"
    VECTOR = "v"
    ACCUMULATOR = "a"


MODIFIABLE = frozenset({FieldKind.FLOAT, FieldKind.BFLOAT})
"""Kinds whose sources take neg and abs."""


class RefusedError(Exception):
    """A word or field that the architecture does not have, or that is not known here; decode() adds pc and bytes."""


@dataclass(frozen=True, slots=True)
class OperandType:
    """Kind and width of one operand field. bits: 8..1024 as the instruction takes it; registers hold 32."""

    kind: FieldKind
    bits: int

    @property
    def dwords(self) -> int:
        """Registers that the operand spans."""
        return max(1, self.bits // 32)


@dataclass(frozen=True, slots=True)
class Opcode:
    """One row's meaning for one opcode. archs: LLVM names of the GPUs that have it."""

    mnemonic: str
    destinations: tuple[OperandType, ...]
    sources: tuple[OperandType, ...]
    flags: str
    archs: frozenset[str]


ARCHS = frozenset({"gfx942", "gfx950"})


def read_table(prefix: str, text: str) -> dict[int, Opcode]:
    """Opcode number -> Opcode of one table text; `prefix` ("s_", "v_", ...) goes before each mnemonic."""
    table: dict[int, Opcode] = {}
    for line in filter(None, text.splitlines()):
        description, names = line.split("|")
        first, *fields = description.split()
        equals = fields.index("=")
        flags = "".join(field[1:] for field in fields if field.startswith("/"))
        archs = frozenset(field for field in fields if field in ARCHS) or ARCHS
        sources = [field for field in fields[equals + 1 :] if not field.startswith("/") and field not in ARCHS]
        for number, name in enumerate(names.split(), int(first, 16)):
            if name == "-":
                continue
            if number in table:
                raise ValueError(f"opcode {number:#x} of {prefix} is given twice: {table[number].mnemonic} and {name}")
            table[number] = Opcode(prefix + name, _types(fields[:equals]), _types(sources), flags, archs)
    return table


def _types(fields: list[str]) -> tuple[OperandType, ...]:
    return tuple(OperandType(FieldKind(field[0]), int(field[1:])) for field in fields)


def look_up(table: dict[int, Opcode], number: int, arch: str, family: str) -> Opcode:
    """The opcode, or RefusedError naming the family and number, or the GPUs that have it."""
    opcode = table.get(number)
    if opcode is None:
        raise RefusedError(f"no {family} opcode {number:#x}")
    if arch not in opcode.archs:
        raise RefusedError(f"{opcode.mnemonic} exists on {', '.join(sorted(opcode.archs))} only")
    return opcode
