"""Control flow of one kernel: basic blocks, edges, and which definitions reach a place.

Knows branches and the order of instructions; what an instruction reads and writes by itself is backend.cdna.effects, whose
functions are offered here too. Knows no memory and no arithmetic.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

from backend.cdna.decode.text import assembly_text
from backend.cdna.effects import EXEC_BITS, VECTOR_BITS, Effects, defs, effects, unit_name, units, uses
from backend.cdna.instruction import Format, Instruction, OperandKind
from backend.errors import UnmodelledError

__all__ = ["BasicBlock", "Effects", "FlowGraph", "branch_target", "defs", "effects", "unit_name", "units", "uses"]

_ENDS = frozenset({"s_endpgm"})
_CONDITIONAL = "s_cbranch_"
_UNFOLLOWED = ("s_setpc", "s_swappc", "s_call", "s_movrel", "s_trap", "s_rfe", "s_cbranch_cdbg")


@dataclass(frozen=True, slots=True)
class BasicBlock:
    """A basic block: instructions[first:end], entered at its first only. successors: numbers of blocks, fall-through last."""

    first: int
    end: int
    successors: tuple[int, ...]


@dataclass(frozen=True)
class FlowGraph:
    """Blocks of a kernel's instructions in the order of the code; block 0 is the entry.

    Made by `FlowGraph.of`, which raises UnmodelledError for a jump that cannot be followed statically or that leaves the code.
    """

    instructions: tuple[Instruction, ...]
    blocks: tuple[BasicBlock, ...]

    @classmethod
    def of(cls, instructions: tuple[Instruction, ...]) -> FlowGraph:
        """The graph of a kernel as `decode` gives it."""
        places = {instruction.pc: number for number, instruction in enumerate(instructions)}
        leaders = {0}
        for number, instruction in enumerate(instructions):
            target = branch_target(instruction)
            if target is not None:
                if target not in places:
                    raise UnmodelledError(
                        f"branch at pc {instruction.pc:#x} ({assembly_text(instruction)}) to {target:#x}, where no instruction "
                        f"begins"
                    )
                leaders.add(places[target])
            if (target is not None or instruction.mnemonic in _ENDS) and number + 1 < len(instructions):
                leaders.add(number + 1)
        firsts = sorted(leaders)
        block_of = {first: number for number, first in enumerate(firsts)}
        blocks = []
        for number, first in enumerate(firsts):
            end = firsts[number + 1] if number + 1 < len(firsts) else len(instructions)
            last = instructions[end - 1]
            blocks.append(BasicBlock(first, end, _successors(last, end, len(instructions), block_of, places)))
        return cls(instructions, tuple(blocks))

    @cached_property
    def edges(self) -> tuple[tuple[int, int], ...]:
        """(pc of a block's last instruction, pc of a successor's first) of every edge: the unit of coverage."""
        first_pc = [self.instructions[block.first].pc for block in self.blocks]
        return tuple(
            (self.instructions[block.end - 1].pc, first_pc[successor])
            for block in self.blocks
            for successor in block.successors
        )

    @cached_property
    def predecessors(self) -> tuple[tuple[int, ...], ...]:
        """Numbers of the blocks that lead to each block."""
        found: list[list[int]] = [[] for _ in self.blocks]
        for number, block in enumerate(self.blocks):
            for successor in block.successors:
                found[successor].append(number)
        return tuple(map(tuple, found))

    @cached_property
    def block_of(self) -> tuple[int, ...]:
        """Number of the block of each instruction, by its number."""
        return tuple(number for number, block in enumerate(self.blocks) for _ in range(block.first, block.end))

    @cached_property
    def plain_effects(self) -> tuple[Effects, ...]:
        """Effects of each instruction by itself, outside gpr-index mode."""
        return tuple(map(effects, self.instructions))

    @cached_property
    def skips(self) -> bool:
        """Whether vector instructions may be skipped (VSKIP), so that no write of theirs is certain."""
        return any(instruction.mnemonic == "s_setvskip" for instruction in self.instructions)

    @cached_property
    def may_be_partial(self) -> tuple[bool, ...]:
        """Whether lanes of the wave may be disabled at each instruction: a write of EXEC other than all ones leads there, or
        the kernel sets VSKIP."""
        if self.skips:
            return (True,) * len(self.instructions)
        partial = [False] * len(self.instructions)
        entering = {0: False}
        pending = [0]
        while pending:
            number = pending.pop()
            block = self.blocks[number]
            state = entering[number]
            for place in range(block.first, block.end):
                partial[place] = state
                if self.plain_effects[place].defs & EXEC_BITS:
                    state = not _enables_all(self.instructions[place])
            for successor in block.successors:
                joined = state or entering.get(successor, False)
                if entering.get(successor) is not joined:
                    entering[successor] = joined
                    pending.append(successor)
        return tuple(partial)

    def reaching_definitions(self, at: int, wanted: int) -> Iterator[int | None]:
        """Numbers of the instructions whose write of a unit may reach instruction `at`; None for the state at launch.

        wanted: the unit, as a set of one. A write that EXEC may have kept from some lanes does not hide earlier ones.
        """
        vector = bool(wanted & VECTOR_BITS)
        seen: set[int] = set()
        pending = [(self.block_of[at], at)]
        while pending:
            block, end = pending.pop()
            for number in range(end - 1, self.blocks[block].first - 1, -1):
                if self.plain_effects[number].defs & wanted:
                    yield number
                    if not (vector and self.may_be_partial[number]):
                        break
            else:
                if block == 0:
                    yield None
                for predecessor in self.predecessors[block]:
                    if predecessor not in seen:
                        seen.add(predecessor)
                        pending.append((predecessor, self.blocks[predecessor].end))


def _enables_all(instruction: Instruction) -> bool:
    return (
        instruction.mnemonic == "s_mov_b64"
        and instruction.destinations[0].kind is OperandKind.EXEC
        and instruction.sources[0].kind is OperandKind.CONSTANT
        and instruction.sources[0].value == (1 << 64) - 1
    )


def branch_target(instruction: Instruction) -> int | None:
    """Target pc of a branch, None for anything else; UnmodelledError for a jump that cannot be followed."""
    if instruction.mnemonic.startswith(_UNFOLLOWED):
        raise UnmodelledError(
            f"{assembly_text(instruction)} at pc {instruction.pc:#x}: where it goes is not known before it runs"
        )
    if instruction.format is Format.SOPP and instruction.sources and instruction.sources[0].kind is OperandKind.LABEL:
        return instruction.sources[0].value
    return None


def _successors(last: Instruction, end: int, count: int, block_of: dict[int, int], places: dict[int, int]) -> tuple[int, ...]:
    if last.mnemonic in _ENDS:
        return ()
    target = branch_target(last)
    found = [] if target is None else [block_of[places[target]]]
    if target is None or last.mnemonic.startswith(_CONDITIONAL):
        if end == count:
            raise UnmodelledError(f"the code runs past its end after {assembly_text(last)} at pc {last.pc:#x}")
        found.append(block_of[end])
    return tuple(dict.fromkeys(found))
