"""How large a register can be at one place of a kernel: an upper bound from the instructions that made it.

Only used to say which registers a gpr index may reach. It follows definitions backward through the few operations that
kernels make indices with, and answers 2^32 - 1 where it does not know. Knows the launch state of v0, nothing else.
"""

from __future__ import annotations

from dataclasses import dataclass

from backend.cdna.effects import VGPR, operand_units
from backend.cdna.flow import FlowGraph
from backend.cdna.instruction import Operand, OperandKind

UNKNOWN = (1 << 32) - 1
_WORK_ITEM_IDS = 1 << VGPR
"""v0, which holds the work-item ids at launch: x in bits 9:0, y in 19:10, z in 29:20 (LLVM's AMDGPU guide)."""
_ID_MASK = 0x3FF
_LARGEST_PACKED = (1 << 30) - 1
_DEPTH = 12
"""Definitions followed one behind the other; an index of four times the wave's number takes five."""
_SHIFTS = {"lshr_b32": (0, 1), "lshrrev_b32": (1, 0), "lshl_b32": (0, 1), "lshlrev_b32": (1, 0)}
"""Shift -> places of value and amount."""


@dataclass(frozen=True, slots=True)
class Bounds:
    """Bounds in one kernel. max_workgroup_size: work-items of the largest workgroup that is launched, at most 1024."""

    graph: FlowGraph
    max_workgroup_size: int

    def largest(self, at: int, operand: Operand, depth: int = _DEPTH) -> int:
        """Upper bound of a 32-bit operand as instruction number `at` reads it, unsigned, over all lanes."""
        if operand.kind is OperandKind.CONSTANT:
            return operand.value & UNKNOWN
        wanted = operand_units(operand)
        if not wanted or operand.count != 1 or operand.neg or operand.abs or operand.sel is not None or not depth:
            return UNKNOWN
        largest = 0
        for number in self.graph.reaching_definitions(at, wanted):
            if number is None:
                bound = _LARGEST_PACKED if wanted == _WORK_ITEM_IDS else UNKNOWN
            else:
                bound = self._result(number, wanted, depth - 1)
            largest = max(largest, bound)
        return largest

    def _result(self, number: int, wanted: int, depth: int) -> int:
        """Bound of what instruction `number` writes to the unit."""
        instruction = self.graph.instructions[number]
        name = instruction.mnemonic.split("_", 1)[1]
        modified = instruction.modifiers.dpp is not None or instruction.modifiers.sdwa is not None
        if modified or len(instruction.destinations) != 1 or operand_units(instruction.destinations[0]) != wanted:
            return UNKNOWN
        sources = instruction.sources
        if name in _SHIFTS:
            value, amount = (sources[place] for place in _SHIFTS[name])
            return self._shifted(number, name, value, amount, depth)
        if name in ("mov_b32", "readfirstlane_b32"):
            return self.largest(number, sources[0], depth)
        if name not in ("and_b32", "min_u32", "mul_i32", "mul_lo_u32", "mul_u32_u24", "add_i32", "add_u32"):
            return UNKNOWN
        first, second = (self.largest(number, source, depth) for source in sources)
        if name == "and_b32" and min(first, second) == _ID_MASK and any(self._at_launch(number, each) for each in sources):
            return min(_ID_MASK, self.max_workgroup_size - 1)
        if name in ("and_b32", "min_u32"):
            return min(first, second)
        result = first + second if name.startswith("add") else first * second
        return min(result, UNKNOWN)

    def _shifted(self, number: int, name: str, value: Operand, amount: Operand, depth: int) -> int:
        if amount.kind is not OperandKind.CONSTANT:
            return UNKNOWN
        bound = self.largest(number, value, depth)
        places = amount.value & 31
        return bound >> places if name.startswith("lshr") else min(bound << places, UNKNOWN)

    def _at_launch(self, at: int, operand: Operand) -> bool:
        """Whether the operand is v0 with the work-item ids still in it."""
        wanted = operand_units(operand)
        return wanted == _WORK_ITEM_IDS and set(self.graph.reaching_definitions(at, wanted)) == {None}
