"""Gpr-index mode: which registers a vector instruction may really read and write while s_set_gpr_idx_on is in force.

ISA document, "GPR Indexing": M0[7:0] is added to the register number of the operands that the mode's four bits name. How large
that index can be is an upper bound from the instructions that made it (`Bounds`): definitions are followed backward through the
few operations that kernels make indices with, and the answer is 2^32 - 1 where it is not known. Of launch state v0 is known,
nothing else.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from backend.cdna.effects import GPR_INDEX, M0, VECTOR_FORMATS, VGPR, Effects, operand_units
from backend.cdna.flow import FlowGraph
from backend.cdna.instruction import Instruction, Operand, OperandKind

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


INDEXED_REGISTERS = 256
"""Registers that an index can reach: it has eight bits, and there are as many VGPRs."""


def effects_in_place(graph: FlowGraph, max_workgroup_size: int) -> tuple[Effects, ...]:
    """Effects of each instruction where it stands, indexed registers included.

    max_workgroup_size: work-items of the largest workgroup that is launched; it bounds indices made from the wave's number.
    """
    found = list(graph.plain_effects)
    if any(instruction.mnemonic.startswith("s_set_gpr_idx") for instruction in graph.instructions):
        for number, state in enumerate(_index_states(graph, max_workgroup_size)):
            if state.operands and graph.instructions[number].format in VECTOR_FORMATS:
                found[number] = _indexed(graph.instructions[number], found[number], state)
    return tuple(found)


@dataclass(frozen=True, slots=True)
class _IndexState:
    """Gpr-index mode that may be in force: union of the operand bits (0 SRC0 .. 3 DST), and the largest index there can be."""

    operands: int
    largest: int

    def join(self, other: _IndexState) -> _IndexState:
        return _IndexState(self.operands | other.operands, max(self.largest, other.largest))


_OFF = _IndexState(0, 0)


def _index_states(graph: FlowGraph, max_workgroup_size: int) -> list[_IndexState]:
    """State before each instruction: forward over the blocks until nothing changes."""
    entering: dict[int, _IndexState] = {0: _OFF}
    states = [_OFF] * len(graph.instructions)
    bounds: dict[int, int] = {}

    def after(number: int, state: _IndexState) -> _IndexState:
        instruction = graph.instructions[number]
        if instruction.mnemonic == "s_set_gpr_idx_on":
            if number not in bounds:
                bounds[number] = min(
                    Bounds(graph, max_workgroup_size).largest(number, instruction.sources[0]), INDEXED_REGISTERS - 1
                )
            return _IndexState(instruction.sources[1].value, bounds[number])
        if instruction.mnemonic == "s_set_gpr_idx_off":
            return _OFF
        if instruction.mnemonic == "s_set_gpr_idx_mode":
            return _IndexState(instruction.sources[0].value & 15, INDEXED_REGISTERS - 1)
        changes = graph.plain_effects[number].defs >> M0 & 1
        return _IndexState(state.operands, INDEXED_REGISTERS - 1) if changes else state

    pending = [0]
    while pending:
        block = graph.blocks[pending.pop()]
        state = entering[graph.block_of[block.first]]
        for number in range(block.first, block.end):
            states[number] = state
            state = after(number, state)
        for successor in block.successors:
            joined = state if successor not in entering else entering[successor].join(state)
            if joined != entering.get(successor):
                entering[successor] = joined
                pending.append(successor)
    return states


def _indexed(instruction: Instruction, plain: Effects, state: _IndexState) -> Effects:
    """Effects of a vector instruction while registers may be indexed: any register from the named one up to the largest."""
    read, written = plain.uses | 1 << M0 | 1 << GPR_INDEX, plain.defs
    for place, operand in enumerate(instruction.sources[:3]):
        if state.operands >> place & 1:
            read |= _reachable(operand, state.largest)
    indexed_destination = state.operands >> 3 & 1
    if indexed_destination:
        for operand in instruction.destinations:
            written |= _reachable(operand, state.largest)
    return replace(plain, uses=read, defs=written, whole=0 if indexed_destination else plain.whole)


def _reachable(operand: Operand, largest: int) -> int:
    if operand.kind is not OperandKind.VGPR:
        return 0
    last = min(operand.index + operand.count + largest, INDEXED_REGISTERS)
    return ((1 << (last - operand.index)) - 1) << (VGPR + operand.index)
