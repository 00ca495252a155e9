"""Conversions and floating-point rules, each pinned by what its definition says."""

from __future__ import annotations

import numpy as np
import pytest
from build import VCC, c, ins, s, v
from number_formats import decode_float8, encode_bfloat16, encode_float8
from single_wave import SingleWave, random_state

from backend.cdna.instruction import Sdwa, Selection, Unused

F32 = np.float32


def bits(*values: float) -> np.ndarray:
    return np.resize(np.array(values, F32), 64).view(np.uint32)


@pytest.mark.parametrize(("arch", "fnuz"), [("gfx942", True), ("gfx950", False)])
def test_every_fp8_code_converts_to_its_value_and_back(arch: str, fnuz: bool) -> None:
    wave = SingleWave(arch)
    for start in range(0, 256, 128):
        codes = (np.arange(64) * 2 + start).astype(np.uint32)
        state = random_state(np.random.default_rng(0))
        state.vectors[1] = codes | (codes + 1) << 8
        after = wave.run((ins("v_cvt_pk_f32_fp8", v(2, 2), v(1)),), state)
        for half in range(2):
            expected = decode_float8((codes + half).astype(np.uint8), "e4m3", fnuz)
            assert np.array_equal(after.vectors[2 + half].view(F32), expected, equal_nan=True)
        back = wave.run((ins("v_cvt_pk_fp8_f32", v(4), (v(2), v(3))),), after)
        finite = np.isfinite(after.vectors[2].view(F32)) & np.isfinite(after.vectors[3].view(F32))
        assert np.array_equal(back.vectors[4][finite] & 0xFFFF, state.vectors[1][finite])


@pytest.mark.parametrize(("arch", "fnuz", "largest"), [("gfx942", True, 240.0), ("gfx950", False, 448.0)])
def test_fp8_rounds_to_nearest_even_and_overflows_to_nan(arch: str, fnuz: bool, largest: float) -> None:
    """Halfway points: 17 lies between 16 and 18 (even fraction: 16), 19 between 18 and 20 (20)."""
    values = [17.0, 19.0, largest, largest + largest / 32, -largest * 1.01, np.inf, np.nan, 1e-9, -1e-9, 2.0**-10]
    state = random_state(np.random.default_rng(0))
    state.vectors[1], state.vectors[2] = bits(*values), bits(0.0)
    after = SingleWave(arch).run((ins("v_cvt_pk_fp8_f32", v(4), (v(1), v(2))),), state)
    codes = (after.vectors[4] & 0xFF).astype(np.uint8)
    assert np.array_equal(codes[:9], encode_float8(np.resize(np.array(values, F32), 64), "e4m3", fnuz)[:9])
    decoded = decode_float8(codes, "e4m3", fnuz)
    assert decoded[:3].tolist() == [16.0, 20.0, largest]
    assert np.isnan(decoded[5:7]).all()
    assert codes[7] == 0
    assert codes[8] == (0 if fnuz else 0x80)  # fnuz has no -0


def test_op_sel_puts_fp8_results_into_the_high_half() -> None:
    state = random_state(np.random.default_rng(0))
    state.vectors[1], state.vectors[2], state.vectors[4] = bits(1.0), bits(2.0), 0xAAAA5555
    after = SingleWave("gfx950").run((ins("v_cvt_pk_fp8_f32", v(4), (v(1), v(2)), op_sel=(0, 0, 1)),), state)
    one, two = encode_float8(np.array([1.0, 2.0]), "e4m3", False)
    assert after.vectors[4, 0] == (int(two) << 24 | int(one) << 16 | 0x5555)


def test_sdwa_takes_the_upper_word() -> None:
    state = random_state(np.random.default_rng(0))
    state.vectors[1] = 0x40380000 | 0x1234  # e4m3: 0x38 is 1.0, 0x40 is 2.0
    source = v(1, sel=Selection.WORD_1)
    instruction = ins("v_cvt_pk_f32_fp8", v(2, 2), source, sdwa=Sdwa(Selection.DWORD, Unused.PAD))
    after = SingleWave("gfx950").run((instruction,), state)
    assert after.vectors[2:4, 0].view(F32).tolist() == [1.0, 2.0]


def test_bf16_rounds_to_nearest_even() -> None:
    values = np.random.default_rng(1).standard_normal(64).astype(F32)
    state = random_state(np.random.default_rng(0))
    state.vectors[1], state.vectors[2] = values.view(np.uint32), bits(1.0 + 2.0**-8)  # a tie: to 1.0
    after = SingleWave("gfx950").run((ins("v_cvt_pk_bf16_f32", v(4), (v(1), v(2))),), state)
    assert np.array_equal(after.vectors[4] & 0xFFFF, encode_bfloat16(values))
    assert (after.vectors[4] >> 16 == 0x3F80).all()


def test_perm_takes_bytes_of_both_sources() -> None:
    """Selector 0..3: bytes of the second source, 4..7: of the first, 12: zero, above: ones."""
    state = random_state(np.random.default_rng(0))
    state.vectors[1], state.vectors[2] = 0x77665544, 0x33221100
    after = SingleWave("gfx942").run((ins("v_perm_b32", v(4), (v(1), v(2), c(0x07060302))),), state)
    assert after.vectors[4, 0] == 0x77663322
    after = SingleWave("gfx942").run((ins("v_perm_b32", v(4), (v(1), v(2), c(0x0C0D0005))),), state)
    assert after.vectors[4, 0] == 0x00FF0055


@pytest.mark.parametrize("keep", [False, True])
def test_denormals_are_flushed_or_kept_by_mode(keep: bool) -> None:
    state = random_state(np.random.default_rng(0), keep_denormals=keep)
    denormal = 2.0**-130
    state.vectors[1], state.vectors[2] = bits(denormal, -denormal), bits(1.0)
    after = SingleWave("gfx942", keep_denormals=keep).run((ins("v_mul_f32", v(4), (v(1), v(2))),), state)
    expected = [denormal, -denormal] if keep else [0.0, -0.0]
    assert after.vectors[4][:2].view(F32).tolist() == expected
    assert np.signbit(after.vectors[4][:2].view(F32)).tolist() == [False, True]


def test_fma_rounds_once() -> None:
    """(1 + e)(1 - e) - 1 is -e^2, which two roundings lose."""
    e = 2.0**-13
    state = random_state(np.random.default_rng(0))
    state.vectors[1], state.vectors[2], state.vectors[3] = bits(1 + e), bits(1 - e), bits(-1.0)
    after = SingleWave("gfx942").run((ins("v_fma_f32", v(4), (v(1), v(2), v(3))),), state)
    assert after.vectors[4, 0].view(F32) == F32(-(2.0**-26))


def test_exp2_is_right_to_the_last_bit_of_float32() -> None:
    values = np.random.default_rng(2).uniform(-126, 128, 64).astype(F32)
    state = random_state(np.random.default_rng(0))
    state.vectors[1] = values.view(np.uint32)
    after = SingleWave("gfx942").run((ins("v_exp_f32", v(4), v(1)),), state)
    assert np.array_equal(after.vectors[4].view(F32), np.exp2(values.astype(np.float64)).astype(F32))


def test_max_prefers_a_number_to_nan_and_plus_to_minus_zero() -> None:
    state = random_state(np.random.default_rng(0))
    state.vectors[1], state.vectors[2] = bits(np.nan, 1.0, 0.0, -0.0), bits(2.0, np.nan, -0.0, 0.0)
    after = SingleWave("gfx942").run((ins("v_max_f32", v(4), (v(1), v(2))),), state)
    result = after.vectors[4][:4].view(F32)
    assert result.tolist() == [2.0, 1.0, 0.0, 0.0]
    assert not np.signbit(result[2:]).any()


NEGATIVE_NAN, INFINITY, MINUS_INFINITY = 0xFFC0_0000, 0x7F80_0000, 0xFF80_0000


def one_lane(name: str, *operands: int) -> int:
    """The bits that an instruction gives for operands given as bits."""
    state = random_state(np.random.default_rng(0), keep_denormals=True)
    sources = tuple(v(index + 1) for index in range(len(operands)))
    for index, value in enumerate(operands):
        state.vectors[index + 1] = value
    return int(SingleWave("gfx950").run((ins(name, v(8), sources),), state).vectors[8, 0])


@pytest.mark.parametrize(
    ("name", "operands"),
    [
        ("v_fma_f32", (MINUS_INFINITY, 0x3F80_0000, INFINITY)),
        ("v_fma_f32", (0, INFINITY, 0x3F80_0000)),
        ("v_add_f32", (MINUS_INFINITY, INFINITY)),
        ("v_sub_f32", (INFINITY, INFINITY)),
        ("v_subrev_f32", (MINUS_INFINITY, MINUS_INFINITY)),
        ("v_mul_f32", (INFINITY, 0x8000_0000)),
        ("v_log_f32", (0xBF80_0000,)),
        ("v_sqrt_f32", (MINUS_INFINITY,)),
        ("v_rsq_f32", (0xBF80_0000,)),
    ],
)
def test_an_invalid_operation_gives_the_negative_nan(name: str, operands: tuple[int, ...]) -> None:
    """As the ISA documents' examples of V_LOG and V_SQRT say. A kernel of AITER compares with these very bits (#2128)."""
    assert one_lane(name, *operands) == NEGATIVE_NAN


@pytest.mark.parametrize("name", ["v_exp_f32", "v_log_f32", "v_sqrt_f32", "v_rsq_f32", "v_rcp_f32"])
@pytest.mark.parametrize("given", [NEGATIVE_NAN, 0x7FC0_1234, 0x7F80_0001])
def test_a_nan_passes_through_quieted(name: str, given: int) -> None:
    assert one_lane(name, given) == given | 0x0040_0000
    assert one_lane("v_fma_f32", given, 0x3F80_0000, INFINITY) == given | 0x0040_0000
    assert one_lane("v_add_f32", INFINITY, given) == given | 0x0040_0000


def test_a_scalar_feeds_all_lanes_and_both_halves_of_packed_numbers() -> None:
    state = random_state(np.random.default_rng(0))
    state.scalars[10:12] = np.array([2.0, 3.0], F32).view(np.uint32)
    state.vectors[2:4] = bits(10.0)
    after = SingleWave("gfx942").run((ins("v_pk_mul_f32", v(4, 2), (v(2, 2), s(10, 2)), op_sel_hi=(1, 1)),), state)
    assert after.vectors[4:6, 5].view(F32).tolist() == [20.0, 30.0]
    after = SingleWave("gfx942").run((ins("v_pk_mul_f32", v(4, 2), (v(2, 2), s(10, 2)), op_sel_hi=(1, 0)),), state)
    assert after.vectors[4:6, 5].view(F32).tolist() == [20.0, 20.0]


def test_division_by_scale_fmas_fixup() -> None:
    """The sequence that compilers emit for a / b gives the correctly rounded quotient, extreme exponents included."""
    rng = np.random.default_rng(4)
    numerator = (rng.standard_normal(64) * 2.0 ** rng.integers(-120, 120, 64)).astype(F32)
    denominator = (rng.standard_normal(64) * 2.0 ** rng.integers(-120, 120, 64)).astype(F32)
    numerator[:4], denominator[:4] = [1.0, -1.0, 0.0, np.inf], [0.0, 0.0, 5.0, 2.0]
    state = random_state(np.random.default_rng(0), keep_denormals=True)
    state.vectors[1], state.vectors[2] = numerator.view(np.uint32), denominator.view(np.uint32)
    one = c(0x3F800000)
    steps = (
        ins("v_div_scale_f32", (v(3), s(20, 2)), (v(2), v(2), v(1))),
        ins("v_rcp_f32", v(4), v(3)),
        ins("v_fma_f32", v(5), (v(3, neg=True), v(4), one)),
        ins("v_fma_f32", v(4), (v(5), v(4), v(4))),
        ins("v_div_scale_f32", (v(6), VCC), (v(1), v(2), v(1))),
        ins("v_mul_f32", v(7), (v(6), v(4))),
        ins("v_fma_f32", v(8), (v(3, neg=True), v(7), v(6))),
        ins("v_fma_f32", v(7), (v(8), v(4), v(7))),
        ins("v_fma_f32", v(3), (v(3, neg=True), v(7), v(6))),
        ins("v_div_fmas_f32", v(4), (v(3), v(4), v(7))),
        ins("v_div_fixup_f32", v(9), (v(4), v(2), v(1))),
    )
    after = SingleWave("gfx942", keep_denormals=True).run(steps, state)
    with np.errstate(all="ignore"):
        expected = (numerator.astype(np.float64) / denominator.astype(np.float64)).astype(F32)
    assert np.array_equal(after.vectors[9].view(F32), expected)
