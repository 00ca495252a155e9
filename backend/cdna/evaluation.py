"""The number that an expression has at one launch, where everything in it is known.

Knows a launch's kernarg segment, workgroup and memory through what the caller hands over; knows no instructions.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from backend.cdna.expression import KERNARG, Atom, Carry, Expression, Operation, Symbol, Word

_AXES = {"workgroup_x": 0, "workgroup_y": 1, "workgroup_z": 2}


@dataclass(frozen=True, slots=True)
class LaunchValues:
    """What a launch was given, to decide selections and to compute the address. workgroup: its ids x, y, z.

    kernarg_address: where the kernarg segment lies. read: `size` bytes of memory at an address as an unsigned integer, None
    where nothing is known.
    """

    kernarg_address: int
    workgroup: tuple[int, int, int]
    read: Callable[[int, int], int | None]


@dataclass
class Evaluation:
    """Computes expressions in full integers. launch: None knows constants only.

    pointers: for each tensor the pointer that its words lie behind, filled in by whoever makes words of it.
    """

    launch: LaunchValues | None
    pointers: dict[str, Expression] = field(default_factory=dict)

    def number(self, expression: Expression) -> int | None:
        """The value of an expression, None where a part is not known."""
        total = 0
        for atoms, factor in expression.terms:
            product = factor
            for each in atoms:
                value = self._atom(each)
                if value is None:
                    return None
                product *= value
            total += product
        return total

    def _atom(self, of: Atom) -> int | None:
        if self.launch is None:
            return None
        if isinstance(of, Symbol):
            return self.launch.workgroup[_AXES[of.name]] if of.name in _AXES else None
        if isinstance(of, Word):
            return self._word(of, self.launch)
        if isinstance(of, Carry):
            value = self.number(of.of)
            return None if value is None else value >> 32
        return self._operation(of)

    def _word(self, word: Word, launch: LaunchValues) -> int | None:
        if word.tensor == "":
            return launch.kernarg_address
        pointer: int | None = launch.kernarg_address
        if word.tensor != KERNARG:
            behind = self.pointers.get(word.tensor)
            pointer = None if behind is None else self.number(behind)
        offset = self.number(word.offset)
        return None if pointer is None or offset is None else launch.read(pointer + offset, word.size)

    def _operation(self, of: Operation) -> int | None:
        function = _FUNCTIONS.get(of.name)
        values = [value for value in map(self.number, of.arguments) if value is not None]
        return function(*values) if function is not None and len(values) == len(of.arguments) else None


_FUNCTIONS: dict[str, Callable[..., int]] = {
    "&": lambda a, b: a & b,
    "|": lambda a, b: a | b,
    "^": lambda a, b: a ^ b,
    ">>": lambda a, b: a >> b,
    "<<": lambda a, b: a << b,
    "*": lambda a, b: a * b,
    "min": min,
    "max": max,
    "==": lambda a, b: int(a == b),
    "!=": lambda a, b: int(a != b),
    "<": lambda a, b: int(a < b),
    "<=": lambda a, b: int(a <= b),
    ">": lambda a, b: int(a > b),
    ">=": lambda a, b: int(a >= b),
    "select": lambda condition, a, b: a if condition else b,
}
"""Operations that can be computed. Their arguments are full integers: what a comparison sees in 32 bits may differ only
where arithmetic wrapped, which the value of the whole then shows."""
