"""Every kernel at hand is modelled, in full and as its slice; what is not modelled is named with its text."""

from __future__ import annotations

import inspect
import re
import sys
from enum import IntEnum
from pathlib import Path

import numpy as np
import pytest
from build import code, ins, s, v
from code_object_files import RELEASES, checkout_files, triton_files, wheel_file, wheel_files

from backend.cdna.code_object import load_code_object
from backend.cdna.encode import ENUMERATIONS
from backend.cdna.execute import half, scalar
from backend.cdna.execute import layout as at
from backend.cdna.instruction import Dpp, Format, Instruction
from backend.cdna.program import compile_kernel, compile_program
from backend.errors import UnmodelledError

END = ins("s_endpgm")


def check(content: bytes) -> None:
    for kernel in load_code_object(content).kernels:
        full, part = compile_kernel(kernel, False), compile_kernel(kernel, True)
        assert len(full.records) == len(full.instructions) > len(part.records) > 0
        assert full.reset_rows.max(initial=0) < at.VGPRS + at.AGPRS
        handled = part.records[part.records[:, at.CONTROL] == at.CONTROL_NONE]
        assert handled[:, at.HANDLER : at.HANDLER + 2].any(axis=1).all()
        targets = part.records[np.isin(part.records[:, at.CONTROL], range(at.CONTROL_BRANCH, at.CONTROL_BARRIER)), at.TARGET]
        assert ((targets >= 0) & (targets < len(part.records))).all()


@pytest.mark.parametrize("name", sorted(wheel_files())[::4])
def test_wheel_kernels_are_modelled(name: str) -> None:
    check(wheel_file(name))


@pytest.mark.slow(guard="test_wheel_kernels_are_modelled")
def test_every_wheel_kernel_is_modelled() -> None:
    assert len(wheel_files()) == 36
    for name in wheel_files():
        check(wheel_file(name))


@pytest.mark.slow
@pytest.mark.checkout
@pytest.mark.parametrize("release", RELEASES)
def test_every_checkout_kernel_is_modelled(release: str, aiter_checkout: Path) -> None:
    contents = [
        content for path, content in checkout_files(aiter_checkout, release) if path.split("/")[1] in ("gfx942", "gfx950")
    ]
    assert len(contents) > 60
    for content in contents:
        check(content)


@pytest.mark.parametrize("name", [name for name in sorted(triton_files()) if not name.startswith("arithmetic")])
def test_triton_s_attention_kernels_are_modelled(name: str) -> None:
    check(triton_files()[name])


def test_every_instruction_without_a_model_is_named() -> None:
    first = Instruction(0, 4, "v_qsad_pk_u16_u8", Format.VOP3, (v(4, 2),), (v(0, 2), v(2), v(4, 2)))
    second = Instruction(0, 4, "v_exp_legacy_f32", Format.VOP1, (v(1),), (v(2),))
    with pytest.raises(UnmodelledError, match=r"pc 0x0.*v_qsad_pk_u16_u8 v\[4:5\].*1 more") as raised:
        compile_program(code(first, second, END), "gfx942")
    assert [each.text for each in raised.value.instructions] == [  # type: ignore[attr-defined]
        "v_qsad_pk_u16_u8 v[4:5], v[0:1], v2, v[4:5]",
        "v_exp_legacy_f32 v1, v2",
    ]


@pytest.mark.parametrize(
    "instruction",
    [
        ins("v_xor_b32", v(1), (v(2), v(3)), clamp=True),
        ins("v_mul_lo_u32", v(1), (v(2), v(3)), clamp=True),
        ins("v_add_f64", v(0, 2), (v(2, 2), v(4, 2)), omod=1),
        ins("v_cmp_lt_u32", s(4, 2), (v(2), v(3)), dpp=Dpp(0x121, 15, 15, False)),
        ins("v_mov_b64", v(2, 2), v(4, 2), dpp=Dpp(0x121, 15, 15, False)),
        ins("v_add_u32", v(1), (v(2, neg=True), v(3))),
        ins("v_mfma_f64_16x16x4_f64", v(0, 8), (v(8, 2), v(10, 2), v(0, 8)), cbsz=1),
        ins("v_mfma_f32_32x32x8_bf16", v(2, 16), (v(20, 2), v(22, 2), v(0, 16))),
        ins("v_mfma_f32_16x16x128_f8f6f4", v(0, 4), (v(4, 8), v(12, 8), v(0, 4)), cbsz=5),
    ],
    ids=lambda instruction: instruction.mnemonic,
)
def test_a_modifier_without_a_model_is_refused_not_ignored(instruction: Instruction) -> None:
    with pytest.raises(UnmodelledError):
        compile_program(code(instruction, END), "gfx950")


TWO_FORMS = (scalar.Plain, scalar.Logic, scalar.Compare, half.Half, half.Short)
"""Whose handlers name an operation of 32 bits or of one half, and take 64 bits or both halves by a field of the record."""


@pytest.mark.parametrize(
    "enumeration", [each for each in ENUMERATIONS if each not in TWO_FORMS], ids=lambda each: each.__name__
)
def test_a_new_opcode_falls_through_to_no_other_s_meaning(enumeration: type[IntEnum]) -> None:
    """A handler names each of its opcodes, but for one at most, whose meaning stands last."""
    text = inspect.getsource(sys.modules[enumeration.__module__])
    unnamed = [name for name in enumeration.__members__ if not re.search(rf"\b{enumeration.__name__}\.{name}\b", text)]
    assert len(unnamed) <= 1
