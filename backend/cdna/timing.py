"""The timing model: how long memory takes in the timed schedule.

The numbers are fitted so that every kernel tried computes the right result; they were not measured on hardware. What is
modelled: a wave issues in order; LDS and vector memory answer each wave in order, and a counter that is full waits; a result
reaches its registers when it is there and not before; s_waitcnt makes the wave's clock wait for answers; of the waves of a
workgroup the one with the smallest clock goes first; a barrier is left by all at once. What issuing costs is fitted
too. Tried and dropped: LDS shared by the waves, and matrix instructions that overlap with others; both
read some operands of a correct bf16 kernel before they arrive.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from backend.cdna.execute import layout as at
from backend.cdna.instruction import Instruction


@dataclass(frozen=True, slots=True)
class Timing:
    """Cycles. lds, vm: from issue to the answer; lds_dword: more for each dword of a lane.

    slack: by which an answer may be late and still be taken, for an instruction reads its operands over several cycles. One
    kernel of release 2026-06 needs at least 12: it waits for one LDS read less than its first matrix instruction uses.
    """

    lds: int = 128
    vm: int = 900
    lds_dword: int = 2
    slack: int = 16


DEFAULT_TIMING = Timing()


class Queues:
    """Memory for the answers that are on their way in a run of `waves` waves a workgroup."""

    def __init__(self, timing: Timing, waves: int) -> None:
        queues = waves * at.QUEUES
        self.entries = np.zeros(queues * at.PENDING_ENTRIES * at.PENDING_WORDS, np.uint64)
        self.rows = np.zeros(queues * at.PENDING_ENTRIES * at.PENDING_DATA_BYTES, np.uint8)
        self.heads = np.zeros(queues * 2, np.uint64)
        self.latencies = np.array([timing.lds, timing.vm], np.int64)
        self.timing = timing

    def fill(self, context: NDArray[np.int64]) -> None:
        """Writes the costs into the context."""
        for slot, array in (
            (at.CTX_PENDING, self.entries),
            (at.CTX_PENDING_ROWS, self.rows),
            (at.CTX_PENDING_HEADS, self.heads),
            (at.CTX_LATENCIES, self.latencies),
        ):
            context[slot] = array.ctypes.data
        context[at.CTX_LDS_CYCLES] = self.timing.lds_dword
        context[at.CTX_SLACK] = self.timing.slack


_MATRIX = re.compile(r"v_s?mfma\w*_(16x16|32x32|4x4)x(\d+)")
LEAST = 4
"""A wave instruction occupies a 16-lane unit for four cycles."""


def issue_cost(instruction: Instruction) -> int:
    """Cycles until the wave's next instruction may issue; a matrix instruction keeps its wave for as long as it takes."""
    match = _MATRIX.match(instruction.mnemonic)
    if match is not None:
        wide = match[1] == "32x32"
        eight_bit = "f8f6f4" in instruction.mnemonic
        return {(False, False): 16, (True, False): 32, (False, True): 32, (True, True): 64}[wide, eight_bit]
    if instruction.mnemonic == "s_nop":
        return LEAST * (instruction.sources[0].value + 1)
    return LEAST
