"""What the timed schedule charges for issuing an instruction, in cycles of a wave. Fitted numbers, see
backend/cdna/timing.py."""

from __future__ import annotations

import re

from backend.cdna.instruction import Instruction

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
