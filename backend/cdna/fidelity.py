"""How far the machine can be trusted for one kernel: which of its instructions are exact, which approximate, and whether an
approximate one reaches an address, a branch or a descriptor.

What has no model at all is not here: it stops the run (program.py). Knows mnemonics, not kernels.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass
from functools import lru_cache

from backend.cdna.code_object import Kernel
from backend.cdna.decode import decode
from backend.cdna.instruction import Instruction
from backend.cdna.slice import Action, slice_kernel

_APPROXIMATE = (
    (
        r"v_(exp|log|rcp|rcp_iflag|rsq|sqrt|sin|cos)_f(16|32|64)",
        "hardware may be off by one in the last place; the nearest value is given",
    ),
    (r"v_mfma_f32_\w+_xf32", "how hardware rounds the inputs is not documented; to nearest even here"),
    (r"v_(mfma|mfma_scale|smfmac)_f\w+|v_dot\dc?_f32_\w+", "hardware may add the products in another order"),
    (r"(global|buffer|flat)_atomic_add_f32", "whether hardware keeps denormals is told differently; they are flushed here"),
    (r"v_cvt_scalef32_pk_fp4_\w+", "what becomes of a NaN is not documented; 6 here"),
    (r"v_div_fmas_f(32|64)", "which power of two undoes the scaling is taken from what divisions need"),
)


@dataclass(frozen=True, slots=True)
class Approximation:
    """One mnemonic that hardware may compute otherwise. count: instructions of it in the code. reaches_address: whether the
    address slice executes any of them."""

    mnemonic: str
    count: int
    reason: str
    reaches_address: bool


@dataclass(frozen=True, slots=True)
class Fidelity:
    """exact: static instructions whose result is that of the ISA documents, bit for bit (which of several NaN aside)."""

    exact: int
    approximations: tuple[Approximation, ...]

    @property
    def addresses_are_exact(self) -> bool:
        """Whether no approximate instruction reaches an address, a branch or a descriptor."""
        return not any(each.reaches_address for each in self.approximations)


def reason_of(instruction: Instruction) -> str | None:
    """Why an instruction is approximate, None for an exact one."""
    return next((reason for pattern, reason in _APPROXIMATE if re.fullmatch(pattern, instruction.mnemonic)), None)


@lru_cache(maxsize=64)
def fidelity(kernel: Kernel) -> Fidelity:
    """The report of one kernel."""
    instructions = decode(kernel.text, kernel.arch)
    counts: Counter[tuple[str, str]] = Counter()
    reaching: set[str] = set()
    for instruction, action in zip(instructions, slice_kernel(kernel).actions, strict=True):
        reason = reason_of(instruction)
        if reason is None:
            continue
        counts[instruction.mnemonic, reason] += 1
        if action is not Action.SKIP:
            reaching.add(instruction.mnemonic)
    found = tuple(Approximation(name, count, reason, name in reaching) for (name, reason), count in sorted(counts.items()))
    return Fidelity(len(instructions) - sum(counts.values()), found)
