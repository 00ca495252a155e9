"""Corner cases as the ISA documents have them: modes, NaN, zeros, EXEC, address arithmetic. Values are worked out here."""

from __future__ import annotations

import numpy as np
import pytest
from build import c, imm, ins, s, v
from single_wave import SingleWave, WaveState, random_state
from test_machine_modes import MODE, hwreg

from backend.cdna.execute import layout as at
from backend.cdna.instruction import Instruction

SIGNALLING, QUIET = 0x7F800001, 0x7FC00001
SIGNALLING_64, QUIET_64 = 0x7FF0000000000001, 0x7FF8000000000001
SIGNALLING_16, QUIET_16 = 0x7C01, 0x7E01
ONE = 0x3F800000


def state(ieee: bool = True, keep: bool = False, overflow: bool = False, **registers: int) -> WaveState:
    """All lanes enabled; v1, v2, ... by keyword, the same in every lane."""
    made = random_state(np.random.default_rng(0), keep)
    made.mode = (3 << 4 if keep else 0) | 3 << 6 | 1 << 8 | ieee << 9 | overflow << 23
    for name, value in registers.items():
        made.vectors[int(name[1:])] = value
    return made


def result(instruction: Instruction, before: WaveState, arch: str = "gfx942") -> int:
    return int(SingleWave(arch, keep_denormals=bool(before.mode >> 4 & 3)).run((instruction,), before).vectors[9, 5])


def stopped(instructions: tuple[Instruction, ...], before: WaveState, arch: str = "gfx942") -> bool:
    """Whether the run stops at an instruction that has no model."""
    wave = SingleWave(arch)
    wave.run(instructions, before)
    return int(wave.context[at.CTX_UNMODELLED]) >= 0


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ((0, 2), 3),  # rounds fp32 to zero
        ((2, 2), 1),  # rounds fp16 and fp64 up
        ((6, 2), 0),  # flushes denormals of fp16 and fp64
        ((4, 2), 1),  # keeps denormal sources, flushes results
        ((12, 7), 1),  # an exception that traps
        ((27, 1), 1),  # gpr-index mode behind the back of s_set_gpr_idx_on
        ((28, 1), 1),  # vskip
    ],
)
def test_a_mode_that_has_no_model_stops_the_run(field: tuple[int, int], value: int) -> None:
    write = ins("s_setreg_imm32_b32", imm(hwreg(MODE, *field)), c(value))
    assert stopped((write,), state())
    assert stopped((ins("s_setreg_b32", imm(hwreg(MODE, *field)), s(3)),), _with_scalar(3, value))


def _with_scalar(index: int, value: int) -> WaveState:
    made = state()
    made.scalars[index] = value
    return made


def test_modes_that_a_launch_may_have_may_be_set() -> None:
    for bits in (0b1100_0000, 0b11_1111_0000, 1 << 23 | 0b1100_0000):
        assert not stopped((ins("s_setreg_imm32_b32", imm(hwreg(MODE, 0, 32)), c(bits)),), state())


def test_fract_of_what_is_no_number_is_no_number() -> None:
    """D = S0 - floor(S0), and infinity less infinity is invalid."""
    for operand in (QUIET, 0x7F800000, 0xFF800000):
        assert np.isnan(np.uint32(result(ins("v_fract_f32", v(9), v(1)), state(v1=operand))).view(np.float32))


@pytest.mark.parametrize("name", ["v_max_f32", "v_min_f32"])
@pytest.mark.parametrize(
    ("a", "b", "ieee", "wanted"),
    [
        (SIGNALLING, ONE, True, QUIET),
        (ONE, SIGNALLING, True, QUIET),
        (SIGNALLING, SIGNALLING, True, QUIET),
        (QUIET, ONE, True, ONE),
        (SIGNALLING, ONE, False, ONE),
        (ONE, SIGNALLING, False, ONE),
    ],
)
def test_minimum_and_maximum_of_signalling_nan(name: str, a: int, b: int, ieee: bool, wanted: int) -> None:
    """MODE.IEEE: a signalling NaN is quieted and given; otherwise, and for a quiet one, the number is."""
    assert result(ins(name, v(9), (v(1), v(2))), state(ieee, v1=a, v2=b)) == wanted


@pytest.mark.parametrize(
    ("name", "a", "b", "wanted"),
    [
        ("v_max_f64", 0, 1 << 63, 0),
        ("v_max_f64", 1 << 63, 0, 0),
        ("v_min_f64", 0, 1 << 63, 1 << 63),
        ("v_min_f64", 1 << 63, 0, 1 << 63),
        ("v_max_f64", SIGNALLING_64, 0x3FF0 << 48, QUIET_64),
        ("v_min_f64", 0x3FF0 << 48, SIGNALLING_64, QUIET_64),
        ("v_min_f64", QUIET_64, 0x3FF0 << 48, 0x3FF0 << 48),
    ],
)
def test_minimum_and_maximum_of_fp64(name: str, a: int, b: int, wanted: int) -> None:
    low = (1 << 32) - 1
    before = state(v2=a & low, v3=a >> 32, v4=b & low, v5=b >> 32)
    after = SingleWave("gfx942").run((ins(name, v(8, 2), (v(2, 2), v(4, 2))),), before)
    assert int(after.vectors[8, 0]) | int(after.vectors[9, 0]) << 32 == wanted


def test_nan_is_quieted_by_what_rounds_and_splits() -> None:
    for name in ("v_rndne_f32", "v_trunc_f32", "v_ceil_f32", "v_floor_f32", "v_frexp_mant_f32"):
        assert result(ins(name, v(9), v(1)), state(v1=SIGNALLING)) == QUIET


@pytest.mark.parametrize(
    ("name", "operands", "wanted"),
    [
        ("v_cvt_f16_f32", (0xFFC12000,), 0xFE09),  # sign, the quiet bit and the upper ten bits of the fraction
        ("v_add_f16", (0xFE01, 0x3C00), 0xFE01),
        ("v_max_f16", (SIGNALLING_16, 0x3C00), QUIET_16),
        ("v_min_f16", (0x3C00, SIGNALLING_16), QUIET_16),
        ("v_max_f16", (QUIET_16, 0x3C00), 0x3C00),
        ("v_pk_max_f16", (SIGNALLING_16 << 16 | 0x3C00, 0x3C00_3C00), QUIET_16 << 16 | 0x3C00),
    ],
)
def test_nan_of_halves(name: str, operands: tuple[int, ...], wanted: int) -> None:
    registers = {f"v{place + 1}": value for place, value in enumerate(operands)}
    sources = tuple(v(place + 1) for place in range(len(operands)))
    assert result(ins(name, v(9), sources), state(**registers)) == wanted


@pytest.mark.parametrize(
    ("name", "operands", "saturated", "infinite"),
    [
        ("v_cvt_f16_f32", (int(np.float32(1e6).view(np.uint32)),), 0x7BFF, 0x7C00),
        ("v_cvt_f16_f32", (0xFF800000,), 0xFC00, 0xFC00),  # an infinity that was one before is no overflow
        ("v_add_f16", (0x7BFF, 0x7BFF), 0x7BFF, 0x7C00),
        ("v_mul_f16", (0xFBFF, 0x4000), 0xFBFF, 0xFC00),
        ("v_pk_mul_f16", (0x7BFF_3C00, 0x4000_4000), 0x7BFF_4000, 0x7C00_4000),
        ("v_rcp_f16", (0x0000,), 0x7C00, 0x7C00),
    ],
)
def test_overflow_of_fp16(name: str, operands: tuple[int, ...], saturated: int, infinite: int) -> None:
    """MODE.FP16_OVFL: the largest finite number."""
    registers = {f"v{place + 1}": value for place, value in enumerate(operands)}
    instruction = ins(name, v(9), tuple(v(place + 1) for place in range(len(operands))))
    assert result(instruction, state(overflow=True, **registers)) == saturated
    assert result(instruction, state(overflow=False, **registers)) == infinite


@pytest.mark.parametrize(("ieee", "keep", "multiplied"), [(False, False, True), (True, False, False), (False, True, False)])
def test_the_output_multiplier_needs_flushed_denormals_and_no_ieee_mode(ieee: bool, keep: bool, multiplied: bool) -> None:
    """1 + 1 times 4."""
    add = ins("v_add_f32", v(9), (v(1), v(1)), omod=2)
    wanted = np.float32(8 if multiplied else 2)
    assert np.uint32(result(add, state(ieee, keep, v1=ONE))).view(np.float32) == wanted


@pytest.mark.parametrize(("name", "distance"), [("v_permlane16_swap_b32", 16), ("v_permlane32_swap_b32", 32)])
def test_lanes_that_exec_disables_are_not_swapped(name: str, distance: int) -> None:
    swap = ins(name, v(1), v(2))
    before = state()
    before.vectors[1], before.vectors[2] = np.arange(64), np.arange(100, 164)
    before.scalars[126:128] = 0  # nobody is enabled: nothing moves
    after = SingleWave("gfx950").run((swap,), before)
    assert after.vectors[1].tolist() == list(range(64))
    pair = 1 << 3 | 1 << (3 + distance)
    before.scalars[126:128] = pair & 0xFFFFFFFF, pair >> 32
    after = SingleWave("gfx950").run((swap,), before)
    assert after.vectors[1].tolist() == [103 if lane == 3 + distance else lane for lane in range(64)]
    assert after.vectors[2].tolist() == [100 + lane if lane != 3 else 3 + distance for lane in range(64)]
    before.scalars[126:128] = 1 << 3, 0  # one of the two: the documents do not say
    assert stopped((swap,), before, "gfx950")
    assert SingleWave("gfx950").run((swap,), before).vectors[1].tolist() == list(range(64))


def test_scc_of_a_maximum_of_equals_is_set_and_of_a_minimum_is_not() -> None:
    """S_MAX: SCC = S0 >= S1; S_MIN: SCC = S0 < S1."""
    for name, wanted in (("s_max_i32", 1), ("s_max_u32", 1), ("s_min_i32", 0), ("s_min_u32", 0)):
        assert SingleWave("gfx942").run((ins(name, s(5), (c(7), c(7))),), state()).scc == wanted


@pytest.mark.parametrize(("keep", "wanted"), [(False, 0.0), (True, 4 * float(np.float32(1e-40)) * 1e20)])
def test_fp32_matrix_inputs_follow_the_denormal_mode(keep: bool, wanted: float) -> None:
    """v_mfma_f32_16x16x4_f32: a row of A holds 1e-40 four times, a column of B 1e20; C is 0."""
    before = state(keep=keep, v1=int(np.float32(1e-40).view(np.uint32)), v2=int(np.float32(1e20).view(np.uint32)))
    multiply = ins("v_mfma_f32_16x16x4_f32", v(8, 4), (v(1), v(2), c(0, 4)))
    got = float(np.uint32(result(multiply, before)).view(np.float32))
    assert got == pytest.approx(wanted, rel=1e-6)


def test_an_lds_address_wraps_at_32_bits() -> None:
    before = state(v1=0xFFFFFFFC)
    before.lds[4:8] = 1, 2, 3, 4
    wave = SingleWave("gfx942")
    after = wave.run((ins("ds_read_b32", v(9), v(1), offset=8),), before)
    assert int(after.vectors[9, 0]) == 0x04030201
    assert int(wave.context[at.CTX_EVENT_COUNT]) == 0
