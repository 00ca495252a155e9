"""State that changes what later instructions do: the MODE register and gpr-index mode; and what compiled code depends on."""

from __future__ import annotations

import numpy as np
import pytest
from build import M0, c, imm, ins, s, v
from single_wave import SingleWave, random_state, run_reference

from backend.cdna.encode import NotModelledError, encode
from backend.cdna.encoded import Constants
from backend.cdna.execute import native
from backend.errors import UnmodelledError

MODE = 1


def hwreg(register: int, offset: int, size: int) -> int:
    """The field of hwreg(register, offset, size)."""
    return register | offset << 6 | (size - 1) << 11


def test_setreg_switches_denormals_of_fp32() -> None:
    """Bits 4 and 5 of MODE: 0 flushes, 3 keeps (what compilers do around a division)."""
    state = random_state(np.random.default_rng(0))
    state.vectors[1], state.vectors[2] = np.float32(2.0**-130).view(np.uint32), np.float32(1.0).view(np.uint32)
    multiply = ins("v_mul_f32", v(3), (v(1), v(2)))
    keep = ins("s_setreg_imm32_b32", imm(hwreg(MODE, 4, 2)), c(3))
    flush = ins("s_setreg_imm32_b32", imm(hwreg(MODE, 4, 2)), c(0))
    wave = SingleWave("gfx942")
    assert wave.run((keep, multiply), state).vectors[3, 0].view(np.float32) == np.float32(2.0**-130)
    assert wave.run((keep, flush, multiply), state).vectors[3, 0].view(np.float32) == 0


def test_getreg_reads_a_field_of_mode() -> None:
    state = random_state(np.random.default_rng(0))
    state.mode = 0b11_01_0000
    after = SingleWave("gfx942").run((ins("s_getreg_b32", s(5), imm(hwreg(MODE, 4, 4))),), state)
    assert after.scalars[5] == 0b1101


@pytest.mark.parametrize("field", [hwreg(2, 0, 32), hwreg(MODE, 20, 20)])
def test_other_hardware_registers_are_refused(field: int) -> None:
    with pytest.raises(NotModelledError):
        encode(ins("s_getreg_b32", s(5), imm(field)), Constants())


def test_gpr_index_instructions_write_m0_and_move_a_source() -> None:
    """M0[7:0] is the index, M0[15:12] the operands: 1 is SRC0."""
    state = random_state(np.random.default_rng(0))
    state.scalars[124], state.scalars[9] = 0xABCD0F00, 300  # the index has eight bits: 44
    on = ins("s_set_gpr_idx_on", (), (s(9), imm(1)))
    again = ins("s_set_gpr_idx_idx", (), c(2))
    move = ins("v_mov_b32", v(100), v(10))
    off = ins("s_set_gpr_idx_off")
    wave = SingleWave("gfx950")
    after = wave.run((on, move, off, ins("v_mov_b32", v(101), v(10))), state)
    assert np.array_equal(after.vectors[100], state.vectors[54])
    assert np.array_equal(after.vectors[101], state.vectors[10])
    assert after.scalars[124] == 0xABCD1F00 | 44
    after = wave.run((on, again, move, off), state)
    assert np.array_equal(after.vectors[100], state.vectors[12])
    reference, _ = run_reference("gfx950", (on, again, move, off), state.copy())
    assert np.array_equal(reference.vectors, after.vectors)
    assert np.array_equal(reference.scalars, after.scalars)


@pytest.mark.parametrize("operands", range(16))
def test_the_index_moves_the_operands_that_the_mode_names(operands: int) -> None:
    """Bit 0 SRC0, 1 SRC1, 3 DST: v_sub_u32 v100, v10, v20 with index 5; lanes that EXEC disables keep their value."""
    state = random_state(np.random.default_rng(0), exec_mask=0xFFFF0000FFFF0000)
    on = ins("s_set_gpr_idx_on", (), (c(5), imm(operands)))
    subtract = ins("v_sub_u32", v(100), (v(10), v(20)))
    after = SingleWave("gfx950").run((on, subtract, ins("s_set_gpr_idx_off")), state.copy())
    first, second = (10 + 5 * (operands & 1)), (20 + 5 * (operands >> 1 & 1))
    target = 100 + 5 * (operands >> 3)
    wanted = state.vectors.copy()
    active = (np.arange(64) // 16 % 2) == 1
    wanted[target, active] = (state.vectors[first] - state.vectors[second])[active]
    assert np.array_equal(after.vectors, wanted)


@pytest.mark.parametrize("operands", [0, 1, 8, 9])
def test_the_index_moves_the_register_of_a_lane(operands: int) -> None:
    """Bit 0 moves what is read, bit 3 what v_writelane_b32 writes; AITER's top-k softmax takes out a score so."""
    state = random_state(np.random.default_rng(0))
    state.scalars[3] = 17
    instructions = (
        ins("s_set_gpr_idx_on", (), (c(5), imm(operands))),
        ins("v_readlane_b32", s(8), (v(10), s(3))),
        ins("v_readfirstlane_b32", s(9), v(10)),
        ins("v_writelane_b32", v(100), (c(7), s(3))),
        ins("s_set_gpr_idx_off"),
    )
    after = SingleWave("gfx950").run(instructions, state.copy())
    read, written = 10 + 5 * (operands & 1), 100 + 5 * (operands >> 3)
    first = int(state.scalars[126]) & -int(state.scalars[126])
    assert first == 1, "all lanes are enabled"
    assert (after.scalars[8], after.scalars[9]) == (state.vectors[read, 17], state.vectors[read, 0])
    wanted = state.vectors.copy()
    wanted[written, 17] = 7
    assert np.array_equal(after.vectors, wanted)


def test_a_matrix_product_with_an_indexed_operand_is_refused() -> None:
    product = ins("v_mfma_f32_16x16x4_f32", v(8, 4), (v(1), v(2), c(0, 4)))
    with pytest.raises(UnmodelledError, match="gpr-index"):
        SingleWave("gfx950").run((ins("s_set_gpr_idx_on", (), (c(5), imm(1))), product), random_state(np.random.default_rng(0)))


def test_m0_is_a_scalar_like_others() -> None:
    state = random_state(np.random.default_rng(0))
    after = SingleWave("gfx950").run((ins("s_mov_b32", M0, c(7)), ins("s_add_u32", M0, (M0, c(5)))), state)
    assert after.scalars[124] == 12


def test_compiled_code_is_stamped_with_everything_that_it_is_made_of() -> None:
    """A change in a module that another imports must not leave the other's compiled code in use."""
    assert native._imports("compare") >= {"float_values", "half", "lanes", "layout", "native"}
    digests = {name: native._source_digest(name) for name in ("compare", "vector_float", "scalar")}
    assert len(set(digests.values())) == 3
