"""The address slice: which instructions must run so that every access, branch and barrier is as in the full run.

Data flow only: it knows what instructions read and write (effects, flow, gpr_index) and nothing of what they compute.

How it works. Wanted registers are followed backward over the control-flow graph until nothing changes. Wanted are the
address, descriptor, M0 and EXEC of every access to global memory, and the conditions of all branches. An instruction that
writes a wanted register is executed, and what it reads is wanted in turn. Every branch is executed, so control
dependences hold by themselves. A load whose data is wanted is executed; any other access is only checked.
LDS is one register for this purpose: where data from LDS is wanted, every LDS write is executed with its data.

Sound under one assumption that the machine must watch: no executed load reads global memory that the same launch stored
to by an access that was only checked, for such a store leaves old bytes behind.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from enum import IntEnum

from backend.cdna.code_object import Kernel
from backend.cdna.decode import decode
from backend.cdna.effects import MODE, SKIPPED_FORMATS, VECTOR_BITS, Effects
from backend.cdna.flow import FlowGraph
from backend.cdna.gpr_index import effects_in_place
from backend.cdna.instruction import Format, Instruction


class Action(IntEnum):
    """What the slice does with an instruction. Values are stable, for compiled executors."""

    SKIP = 0
    ACCESS_ONLY = 1  # check the addresses; nothing is read into registers, LDS or memory
    EXECUTE = 2


@dataclass(frozen=True, slots=True)
class Slice:
    """Result for one kernel. actions: one for each instruction, in the order of the code."""

    actions: tuple[Action, ...]

    @property
    def kept(self) -> float:
        """Static share of instructions that are executed, 0..1."""
        return self.count(Action.EXECUTE) / len(self.actions)

    def count(self, action: Action) -> int:
        """Static number of instructions with this action."""
        return Counter(self.actions)[action]


_GLOBAL = frozenset({Format.MUBUF, Format.FLAT, Format.GLOBAL, Format.SMEM})
_WITHOUT_ADDRESS = frozenset({"buffer_wbl2", "buffer_inv", "s_dcache_inv", "s_dcache_wb", "s_memtime", "s_memrealtime"})
_ALWAYS = frozenset({"s_barrier", "s_endpgm", "s_branch", "s_sendmsg", "s_sendmsghalt", "s_trap", "s_sethalt", "s_setkill"})


def slice_kernel(kernel: Kernel) -> Slice:
    """The address slice of a kernel, for workgroups as large as it allows.

    Raises UnmodelledError where control flow cannot be followed, UndecodableError where the code cannot be read.
    """
    graph = FlowGraph.of(decode(kernel.text, kernel.arch))
    return slice_graph(graph, effects_in_place(graph, kernel.max_workgroup_size))


def slice_graph(graph: FlowGraph, effects: tuple[Effects, ...]) -> Slice:
    """The address slice of a flow graph with the effects of its instructions in place."""
    actions = [initial_action(instruction) for instruction in graph.instructions]
    if graph.skips:
        effects = _with_skipping(graph, effects)
    kills = _killed(graph, effects)
    wanted_before = [0] * len(graph.blocks)
    pending = list(range(len(graph.blocks)))
    queued = set(pending)
    while pending:
        number = pending.pop()
        queued.discard(number)
        block = graph.blocks[number]
        wanted = 0
        for successor in block.successors:
            wanted |= wanted_before[successor]
        wanted = _through(block.first, block.end, wanted, effects, kills, actions)
        if wanted != wanted_before[number]:
            wanted_before[number] = wanted
            for predecessor in graph.predecessors[number]:
                if predecessor not in queued:
                    queued.add(predecessor)
                    pending.append(predecessor)
    return Slice(tuple(actions))


def _with_skipping(graph: FlowGraph, effects: tuple[Effects, ...]) -> tuple[Effects, ...]:
    """VSKIP, a bit of MODE, decides whether any vector instruction does something."""
    mode = 1 << MODE
    return tuple(
        replace(each, uses=each.uses | mode, address=each.address and each.address | mode)
        if instruction.format in SKIPPED_FORMATS
        else each
        for each, instruction in zip(effects, graph.instructions, strict=True)
    )


def initial_action(instruction: Instruction) -> Action:
    """What an instruction is by itself: accesses to global memory are checked, control flow is executed, the rest skipped."""
    mnemonic = instruction.mnemonic
    if mnemonic in _ALWAYS or mnemonic.startswith("s_cbranch_"):
        return Action.EXECUTE
    accesses = instruction.format in _GLOBAL and mnemonic.removesuffix("_vol") not in _WITHOUT_ADDRESS
    return Action.ACCESS_ONLY if accesses else Action.SKIP


def _killed(graph: FlowGraph, effects: tuple[Effects, ...]) -> list[int]:
    """Units whose earlier value cannot matter behind each instruction; no vector registers where lanes may be disabled."""
    certain = [not graph.skips or each.format not in SKIPPED_FORMATS for each in graph.instructions]
    return [
        0 if not sure else each.whole & ~VECTOR_BITS if each.masked and partial else each.whole
        for each, partial, sure in zip(effects, graph.may_be_partial, certain, strict=True)
    ]


def _through(first: int, end: int, wanted: int, effects: tuple[Effects, ...], kills: list[int], actions: list[Action]) -> int:
    """Walk a block backward from the units wanted behind it; raises actions to EXECUTE; returns the units wanted before it."""
    execute, access_only = Action.EXECUTE, Action.ACCESS_ONLY
    for number in range(end - 1, first - 1, -1):
        effect = effects[number]
        action = actions[number]
        if wanted & effect.defs or action is execute:
            actions[number] = execute
            wanted = (wanted & ~kills[number]) | effect.uses
        elif action is access_only:
            wanted |= effect.address
    return wanted
