"""How far the machine can be trusted for a kernel: which of its instructions are approximate, and that none of those reaches an
address, a branch or a descriptor, integer divisions excepted.

What has no model at all is not here: it stops the run (program.py).
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, replace

from build import c, ins, s, v
from code_object_files import wheel_file, wheel_files
from single_wave import kernel

from backend.cdna.code_object import Kernel, load_code_object
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


def test_what_is_approximate() -> None:
    assert reason_of(ins("v_exp_f32", v(1), v(2))) is not None
    assert reason_of(ins("v_mfma_f32_16x16x16_bf16", v(0, 4), (v(4, 2), v(6, 2), v(0, 4)))) is not None
    assert reason_of(ins("v_mul_f32", v(1), (v(2), v(3)))) is None
    assert reason_of(ins("v_cvt_pk_fp8_f32", v(1), (v(2), v(3)))) is None
    assert reason_of(ins("buffer_load_dword", v(1), (v(2), s(4, 4), c(16)), offen=True)) is None


def test_a_kernel_that_does_nothing_is_exact() -> None:
    end = (0xBF810000).to_bytes(4, "little")
    report = fidelity(replace(kernel("gfx950"), text=end))
    assert (report.exact, report.approximations, report.addresses_are_exact) == (1, (), True)


def test_in_the_wheel_only_reciprocals_of_integers_reach_an_address() -> None:
    """v_rcp_iflag_f32 begins an integer division, whose correction steps make up for its last place."""
    for name in sorted(wheel_files())[::5]:
        for each in load_code_object(wheel_file(name)).kernels:
            report = fidelity(each)
            reaching = {approximation.mnemonic for approximation in report.approximations if approximation.reaches_address}
            assert reaching <= {"v_rcp_iflag_f32"}
            assert any(approximation.mnemonic.startswith("v_mfma") for approximation in report.approximations)
            assert report.exact > 1000
