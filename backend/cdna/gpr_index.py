"""Gpr-index mode: which registers a vector instruction may really read and write while s_set_gpr_idx_on is in force.

ISA document, "GPR Indexing": M0[7:0] is added to the register number of the operands that the mode's four bits name.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from backend.cdna.bounds import Bounds
from backend.cdna.effects import GPR_INDEX, M0, VECTOR_FORMATS, VGPR, Effects
from backend.cdna.flow import FlowGraph
from backend.cdna.instruction import Instruction, Operand, OperandKind

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
