"""What tests ask of a run of the machine, worked out from what it gives back."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from backend.cdna.flow import FlowGraph
from backend.cdna.memory import Region
from backend.cdna.result import RunResult


def written_bytes(region: Region) -> NDArray[np.bool_]:
    """Which bytes of a region have been written: bool [size]. For regions in which that is looked for."""
    assert region.written is not None
    return np.unpackbits(region.written, count=region.size, bitorder="little").view(np.bool_)


def equivalent_instructions(result: RunResult) -> int:
    """Wave instructions that a full run of the same launch executes; `executed` in full mode of a run that ended."""
    instructions = result.program.instructions
    taken: dict[int, int] = {}
    passed: dict[int, int] = {}
    for record in np.nonzero(result.branch_counts.any(axis=1))[0]:
        original = int(result.program.originals[record])
        target = instructions[original].sources[0].value
        passed[original] = int(result.branch_counts[record, 0])
        taken[target] = taken.get(target, 0) + int(result.branch_counts[record, 1])
    total, entering = 0, result.waves
    for block in FlowGraph.of(instructions).blocks:
        count = entering + taken.get(instructions[block.first].pc, 0)
        total += count * (block.end - block.first)
        last = instructions[block.end - 1]
        falls_through = "branch" not in last.mnemonic and last.mnemonic != "s_endpgm"
        entering = count if falls_through else passed.get(block.end - 1, 0)
    return total
