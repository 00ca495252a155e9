"""The opcode tables of CDNA3 (gfx942) and CDNA4 (gfx950): opcodes.txt, which says how its rows are read, as objects.

Nothing here decodes; backend/cdna/decode/{scalar,vector,matrix,memory}.py do.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from importlib import resources


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


def read_tables(text: str) -> dict[str, dict[int, Opcode]]:
    """Opcode number -> Opcode of each section of a text as opcodes.txt is one."""
    tables: dict[str, dict[int, Opcode]] = {}
    rows: dict[str, list[str]] = {}
    name = prefix = ""
    for line in text.splitlines():
        if line.startswith("["):
            name, prefix = line[1:-1].split()
            tables[name], rows[name] = {}, []
        elif line.startswith("+ "):
            for row in rows[line[2:]]:
                _add(tables[name], prefix, row)
        elif line and not line.startswith("#"):
            rows[name].append(line)
            _add(tables[name], prefix, line)
    return tables


def _add(table: dict[int, Opcode], prefix: str, row: str) -> None:
    description, names = row.split("|")
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
        mnemonic = prefix.removeprefix("-") + name
        table[number] = Opcode(mnemonic, _types(fields[:equals]), _types(sources), flags, archs)


def _types(fields: list[str]) -> tuple[OperandType, ...]:
    return tuple(OperandType(FieldKind(field[0]), int(field[1:])) for field in fields)


OPCODES = read_tables(resources.files(__package__).joinpath("opcodes.txt").read_text(encoding="utf-8"))
"""By the name of a format, as `Format` has it."""


def look_up(family: str, number: int, arch: str) -> Opcode:
    """The opcode, or RefusedError naming the family and number, or the GPUs that have it."""
    return available(OPCODES[family].get(number), number, arch, family)


def available(opcode: Opcode | None, number: int, arch: str, family: str) -> Opcode:
    """Opcode `number` of a family if there is one and the GPU has it; else RefusedError as look_up."""
    if opcode is None:
        raise RefusedError(f"no {family} opcode {number:#x}")
    if arch not in opcode.archs:
        raise RefusedError(f"{opcode.mnemonic} exists on {', '.join(sorted(opcode.archs))} only")
    return opcode
