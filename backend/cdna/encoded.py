"""A record in the making, and how its operands are named: what the encoders of scalar, vector and memory instructions share."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum

from backend.cdna.execute import layout as at
from backend.cdna.execute.native import Handler
from backend.cdna.instruction import Operand, OperandKind

_SCALAR_BASES = {
    OperandKind.SGPR: 0,
    OperandKind.FLAT_SCRATCH: 102,
    OperandKind.XNACK_MASK: 104,
    OperandKind.VCC: at.VCC,
    OperandKind.TTMP: at.TTMP,
    OperandKind.M0: at.M0,
    OperandKind.EXEC: at.EXEC,
    OperandKind.SCC: at.SCC,
}


class NotModelledError(Exception):
    """An instruction that has no record; the message says what is missing. The compiler adds the instruction's text."""


class Constants:
    """Scalars that hold a program's constants: allocated as they are met, each two words wide.

    text_address: address of pc 0, for instructions that ask where they are.
    """

    def __init__(self, text_address: int = 0) -> None:
        self.text_address = text_address
        self._places: dict[int, int] = {}

    def place(self, value: int) -> int:
        """Scalar index of a 64-bit constant."""
        if value not in self._places:
            place = at.CONSTANTS + 2 * len(self._places)
            if place + 2 > at.SCALARS:
                raise NotModelledError(f"more than {(at.SCALARS - at.CONSTANTS) // 2} different constants in one kernel")
            self._places[value] = place
        return self._places[value]

    def items(self) -> list[tuple[int, int]]:
        """(scalar index, value) of every constant."""
        return [(place, value) for value, place in self._places.items()]


@dataclass(slots=True)
class Encoded:
    """A record in the making. Operands are operand codes or scalar indices as the handler wants them."""

    handler: Handler | None
    opcode: int = 0
    control: int = at.CONTROL_NONE
    destination: int = 0
    sources: list[int] = field(default_factory=lambda: [0, 0, 0])
    immediate: int = 0
    destination_2: int = 0
    count: int = 0
    target: int = 0
    source_dwords: tuple[int, int, int] = (1, 1, 1)
    source_types: tuple[int, int, int] = (at.TYPE_BITS32,) * 3
    result_type: int = at.TYPE_BITS32
    result_dwords: int = 1
    vector: bool = False  # a VALU instruction, which modifiers may apply to
    own_clamp: bool = False  # the handler saturates by itself
    own_sources: bool = False  # and so with op_sel, neg and abs
    accesses: bool = False  # goes to memory that is checked, LDS included


def scalar_index(operand: Operand, constants: Constants) -> int:
    """Scalar index of a scalar operand or constant."""
    if operand.kind in (OperandKind.CONSTANT, OperandKind.SIMM):
        return constants.place(operand.value)
    if operand.kind is OperandKind.APERTURE and operand.count == 2:
        return constants.place(at.APERTURES[operand.index])
    base = _SCALAR_BASES.get(operand.kind)
    if base is None:
        raise NotModelledError(f"operand {operand.kind.value} where a scalar is read or written")
    return base + operand.index


def operand_code(operand: Operand, constants: Constants) -> int:
    """Operand code of a vector source: a row, or SCALAR_OPERAND plus a scalar index."""
    if operand.kind is OperandKind.VGPR:
        return operand.index
    if operand.kind is OperandKind.AGPR:
        return at.VGPRS + operand.index
    return at.SCALAR_OPERAND + scalar_index(operand, constants)


def row_of(operand: Operand) -> int:
    """Row of a vector register."""
    if operand.kind not in (OperandKind.VGPR, OperandKind.AGPR):
        raise NotModelledError(f"operand {operand.kind.value} where a vector register is needed")
    return operand.index + (at.VGPRS if operand.kind is OperandKind.AGPR else 0)


def member_of(enumeration: type[IntEnum], mnemonic: str) -> int | None:
    """Number of an instruction in a handler's enumeration, None where it is not there."""
    member = enumeration.__members__.get(mnemonic.upper())
    return None if member is None else int(member)
