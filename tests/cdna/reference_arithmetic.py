"""Arithmetic of the reference executor: one function for each vector instruction, on numpy arrays of 64 lanes.

Written from the ISA documents' pseudo code, lane by lane where that is plainest; shares nothing with backend/cdna/execute.
Integers are uint32 arrays, floats float32; a function gets its sources as the instruction lists them and returns the result.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction

import numpy as np
from number_formats import float8_table
from numpy.typing import NDArray

Bits = NDArray[np.uint32]
U32, U64, I64, F32, F64 = np.uint32, np.uint64, np.int64, np.float32, np.float64


def wide(x: Bits) -> NDArray[np.int64]:
    return x.astype(I64)


def signed(x: Bits) -> NDArray[np.int64]:
    return x.view(np.int32).astype(I64)


def low32(x: NDArray[np.int64]) -> Bits:
    return (x & 0xFFFFFFFF).astype(U32)


def signed24(x: Bits) -> NDArray[np.int64]:
    value = wide(x) & 0xFFFFFF
    return value - ((value >> 23) << 24)


def half(x: Bits) -> NDArray[np.int64]:
    return wide(x) & 0xFFFF


def signed_half(x: Bits) -> NDArray[np.int64]:
    value = half(x)
    return value - ((value >> 15) << 16)


def lanewise(function: Callable[..., int]) -> Callable[..., Bits]:
    """A function of Python integers, applied lane by lane."""

    def apply(*sources: Bits) -> Bits:
        return np.array([function(*(int(s[lane]) for s in sources)) & 0xFFFFFFFF for lane in range(64)], U32)

    return apply


def _first_one(x: int) -> int:
    return (x & -x).bit_length() - 1 if x else 0xFFFFFFFF


def _leading(x: int) -> int:
    return 32 - x.bit_length() if x else 0xFFFFFFFF


def _perm(x: int, y: int, selector: int) -> int:
    data = (x << 32 | y).to_bytes(8, "little")
    result = []
    for select in selector.to_bytes(4, "little"):
        if select < 8:
            result.append(data[select])
        elif select < 12:
            result.append(0xFF if data[2 * (select - 8) + 1] & 0x80 else 0)
        else:
            result.append(0 if select == 12 else 0xFF)
    return int.from_bytes(bytes(result), "little")


def _bfe_signed(x: int, offset: int, width: int) -> int:
    offset, width = offset & 31, width & 31
    if width == 0:
        return 0
    x = x - (x >> 31 << 32)
    field = (x >> offset) & ((1 << width) - 1)
    return field - (field >> (width - 1) << width)


def _median(*values: int) -> int:
    return sorted(values)[1]


def _s(x: int) -> int:
    return x - (x >> 31 << 32)


LANE = np.arange(64)

INTEGER: dict[str, Callable[..., Bits]] = {
    "v_mov_b32": lambda a: a.copy(),
    "v_add_u32": lambda a, b: low32(wide(a) + wide(b)),
    "v_sub_u32": lambda a, b: low32(wide(a) - wide(b)),
    "v_subrev_u32": lambda a, b: low32(wide(b) - wide(a)),
    "v_mul_i32_i24": lambda a, b: low32(signed24(a) * signed24(b)),
    "v_mul_u32_u24": lambda a, b: low32((wide(a) & 0xFFFFFF) * (wide(b) & 0xFFFFFF)),
    "v_mul_hi_i32_i24": lambda a, b: low32(signed24(a) * signed24(b) >> 32),
    "v_mul_hi_u32_u24": lambda a, b: low32((wide(a) & 0xFFFFFF) * (wide(b) & 0xFFFFFF) >> 32),
    "v_mul_lo_u32": lanewise(lambda a, b: a * b),
    "v_mul_hi_u32": lanewise(lambda a, b: a * b >> 32),
    "v_mul_hi_i32": lambda a, b: low32(signed(a) * signed(b) >> 32),
    "v_min_i32": lambda a, b: low32(np.minimum(signed(a), signed(b))),
    "v_max_i32": lambda a, b: low32(np.maximum(signed(a), signed(b))),
    "v_min_u32": np.minimum,
    "v_max_u32": np.maximum,
    "v_and_b32": np.bitwise_and,
    "v_or_b32": np.bitwise_or,
    "v_xor_b32": np.bitwise_xor,
    "v_xnor_b32": lambda a, b: ~(a ^ b),
    "v_not_b32": np.invert,
    "v_lshlrev_b32": lambda a, b: low32(wide(b) << (wide(a) & 31)),
    "v_lshrrev_b32": lambda a, b: low32(wide(b) >> (wide(a) & 31)),
    "v_ashrrev_i32": lambda a, b: low32(signed(b) >> (wide(a) & 31)),
    "v_bfm_b32": lanewise(lambda a, b: ((1 << (a & 31)) - 1) << (b & 31)),
    "v_bfrev_b32": lanewise(lambda a: int(f"{a:032b}"[::-1], 2)),
    "v_ffbh_u32": lanewise(_leading),
    "v_ffbh_i32": lanewise(lambda a: _leading(a ^ 0xFFFFFFFF if a >> 31 else a)),
    "v_ffbl_b32": lanewise(_first_one),
    "v_bcnt_u32_b32": lanewise(lambda a, b: a.bit_count() + b),
    "v_mbcnt_lo_u32_b32": lambda a, b: low32(
        np.array([(int(x) & ((1 << min(lane, 32)) - 1)).bit_count() for lane, x in enumerate(a)]) + wide(b)
    ),
    "v_mbcnt_hi_u32_b32": lambda a, b: low32(
        np.array([(int(x) & ((1 << max(lane - 32, 0)) - 1)).bit_count() for lane, x in enumerate(a)]) + wide(b)
    ),
    "v_add_u16": lambda a, b: low32(half(a) + half(b) & 0xFFFF),
    "v_sub_u16": lambda a, b: low32(half(a) - half(b) & 0xFFFF),
    "v_subrev_u16": lambda a, b: low32(half(b) - half(a) & 0xFFFF),
    "v_mul_lo_u16": lambda a, b: low32(half(a) * half(b) & 0xFFFF),
    "v_lshlrev_b16": lambda a, b: low32(half(b) << (wide(a) & 15) & 0xFFFF),
    "v_lshrrev_b16": lambda a, b: low32(half(b) >> (wide(a) & 15)),
    "v_ashrrev_i16": lambda a, b: low32(signed_half(b) >> (wide(a) & 15) & 0xFFFF),
    "v_max_u16": lambda a, b: low32(np.maximum(half(a), half(b))),
    "v_min_u16": lambda a, b: low32(np.minimum(half(a), half(b))),
    "v_max_i16": lambda a, b: low32(np.maximum(signed_half(a), signed_half(b)) & 0xFFFF),
    "v_min_i16": lambda a, b: low32(np.minimum(signed_half(a), signed_half(b)) & 0xFFFF),
    "v_pack_b32_f16": lambda a, b: low32(half(a) | half(b) << 16),
    "v_add3_u32": lambda a, b, c: low32(wide(a) + wide(b) + wide(c)),
    "v_lshl_add_u32": lambda a, b, c: low32((wide(a) << (wide(b) & 31)) + wide(c)),
    "v_add_lshl_u32": lambda a, b, c: low32(wide(low32(wide(a) + wide(b))) << (wide(c) & 31)),
    "v_lshl_or_b32": lambda a, b, c: low32(wide(a) << (wide(b) & 31)) | c,
    "v_and_or_b32": lambda a, b, c: (a & b) | c,
    "v_or3_b32": lambda a, b, c: a | b | c,
    "v_xad_u32": lambda a, b, c: low32(wide(a ^ b) + wide(c)),
    "v_bfe_u32": lanewise(lambda a, b, c: a >> (b & 31) & ((1 << (c & 31)) - 1)),
    "v_bfe_i32": lanewise(_bfe_signed),
    "v_bfi_b32": lambda a, b, c: (a & b) | (~a & c),
    "v_alignbit_b32": lanewise(lambda a, b, c: (a << 32 | b) >> (c & 31)),
    "v_alignbyte_b32": lanewise(lambda a, b, c: (a << 32 | b) >> 8 * (c & 3)),
    "v_perm_b32": lanewise(_perm),
    "v_mad_u32_u24": lanewise(lambda a, b, c: (a & 0xFFFFFF) * (b & 0xFFFFFF) + c),
    "v_mad_i32_i24": lambda a, b, c: low32(signed24(a) * signed24(b) + wide(c)),
    "v_min3_i32": lanewise(lambda *v: min(map(_s, v))),
    "v_min3_u32": lanewise(min),
    "v_max3_i32": lanewise(lambda *v: max(map(_s, v))),
    "v_max3_u32": lanewise(max),
    "v_med3_i32": lanewise(lambda *v: _median(*map(_s, v))),
    "v_med3_u32": lanewise(_median),
    "v_sad_u32": lanewise(lambda a, b, c: abs(a - b) + c),
}
ALIASES = {
    "v_accvgpr_read_b32": "v_mov_b32",
    "v_accvgpr_write_b32": "v_mov_b32",
    "v_accvgpr_mov_b32": "v_mov_b32",
    "v_add_i32": "v_add_u32",
    "v_sub_i32": "v_sub_u32",
    "v_add_i16": "v_add_u16",
    "v_sub_i16": "v_sub_u16",
}

INTEGER64: dict[str, Callable[..., NDArray[np.uint64]]] = {
    "v_mov_b64": lambda a: a.copy(),
    "v_lshlrev_b64": lambda a, b: b << (a.astype(U64) & U64(63)),
    "v_lshrrev_b64": lambda a, b: b >> (a.astype(U64) & U64(63)),
    "v_ashrrev_i64": lambda a, b: (b.view(I64) >> (wide(a) & 63)).view(U64),
    "v_lshl_add_u64": lambda a, b, c: (a << (b.astype(U64) & U64(7))) + c,
}


# Floating point.


def as_float(x: Bits) -> NDArray[np.float32]:
    return np.ascontiguousarray(x).view(F32)


def as_bits(x: NDArray[np.float32]) -> Bits:
    return np.ascontiguousarray(x, F32).view(U32)


def flush(x: NDArray[np.float32], keep: bool) -> NDArray[np.float32]:
    """Denormals to zero of the same sign, unless they are kept."""
    small = (np.abs(x) < F32(2.0**-126)) & (x != 0)
    return np.where(small & (not keep), np.copysign(F32(0), x), x).astype(F32)


def fma32(a: NDArray[np.float32], b: NDArray[np.float32], c: NDArray[np.float32]) -> NDArray[np.float32]:
    """Fused multiply-add: the product is exact in float64; the sum is rounded to odd there, so that the last rounding is
    right."""
    with np.errstate(all="ignore"):
        product = a.astype(F64) * b.astype(F64)
        addend = c.astype(F64)
        total = product + addend
        back = total - product
        error = (product - (total - back)) + (addend - back)
        even = (np.ascontiguousarray(total).view(U64) & U64(1)) == 0
        inexact = np.isfinite(total) & (error != 0) & even
        toward = np.where(error > 0, np.inf, -np.inf)
        return np.where(inexact, np.nextafter(total, toward), total).astype(F32)


def fma64(a: float, b: float, c: float) -> float:
    """Fused multiply-add of finite float64 by exact rational arithmetic; the plain result otherwise."""
    if not all(map(math.isfinite, (a, b, c))):
        return a * b + c
    exact = Fraction(a) * Fraction(b) + Fraction(c)
    if exact == 0:
        return a * b + c
    try:
        return float(exact)
    except OverflowError:
        return math.inf if exact > 0 else -math.inf


def maximum(a: NDArray[np.floating], b: NDArray[np.floating]) -> NDArray[np.floating]:
    """IEEE maxNum with +0 above -0."""
    zeros = (a == 0) & (b == 0)
    plus = np.where(np.signbit(a) & np.signbit(b), -0.0, 0.0).astype(a.dtype)
    return np.where(zeros, plus, np.fmax(a, b)).astype(a.dtype)


def minimum(a: NDArray[np.floating], b: NDArray[np.floating]) -> NDArray[np.floating]:
    """IEEE minNum with -0 below +0."""
    zeros = (a == 0) & (b == 0)
    minus = np.where(np.signbit(a) | np.signbit(b), -0.0, 0.0).astype(a.dtype)
    return np.where(zeros, minus, np.fmin(a, b)).astype(a.dtype)


def signalling(x: NDArray[np.floating]) -> NDArray[np.bool_]:
    """Which are signalling NaNs: the fraction's upper bit is off."""
    bits = np.ascontiguousarray(x)
    quiet = bits.view(U32) >> U32(22) & U32(1) if x.dtype == F32 else bits.view(U64) >> U64(51) & U64(1)
    return np.isnan(x) & (quiet == 0)


def with_signals(pick: Callable[..., NDArray]) -> Callable[..., NDArray]:
    """A minimum or maximum under MODE.IEEE: a signalling NaN gives a quiet one."""
    return lambda a, b: np.where(signalling(a) | signalling(b), np.nan, pick(a, b)).astype(a.dtype)


def _median_float(a: NDArray, b: NDArray, c: NDArray, least: Callable[..., NDArray] = minimum) -> NDArray:
    """V_MED3_F32: of three numbers, the larger of what is left without the (first) largest."""
    some_nan = np.isnan(a) | np.isnan(b) | np.isnan(c)
    top = maximum(maximum(a, b), c)
    left = np.where(top == a, maximum(b, c), np.where(top == b, maximum(a, c), maximum(a, b)))
    return np.where(some_nan, least(least(a, b), c), left).astype(F32)


def _with_nan(pick: Callable[..., NDArray]) -> Callable[..., NDArray]:
    return lambda a, b, c: np.where(np.isnan(a) | np.isnan(b) | np.isnan(c), np.nan, pick(pick(a, b), c)).astype(F32)


FLOAT: dict[str, Callable[..., NDArray[np.float32]]] = {
    "v_add_f32": lambda a, b: a + b,
    "v_sub_f32": lambda a, b: a - b,
    "v_subrev_f32": lambda a, b: b - a,
    "v_mul_f32": lambda a, b: a * b,
    "v_mul_legacy_f32": lambda a, b: np.where((a == 0) | (b == 0), F32(0), a * b),
    "v_max_f32": maximum,
    "v_min_f32": minimum,
    "v_trunc_f32": np.trunc,
    "v_ceil_f32": np.ceil,
    "v_floor_f32": np.floor,
    "v_rndne_f32": np.rint,
    "v_fma_f32": fma32,
    "v_fmac_f32": fma32,
    "v_fmamk_f32": fma32,
    "v_fmaak_f32": fma32,
    "v_max3_f32": lambda a, b, c: maximum(maximum(a, b), c),
    "v_min3_f32": lambda a, b, c: minimum(minimum(a, b), c),
    "v_med3_f32": _median_float,
    "v_maximum3_f32": _with_nan(maximum),
    "v_minimum3_f32": _with_nan(minimum),
    "v_pk_add_f32": lambda a, b: a + b,
    "v_pk_mul_f32": lambda a, b: a * b,
    "v_pk_fma_f32": fma32,
}
"""Functions of flushed sources, whose result is flushed."""

_MAX, _MIN = with_signals(maximum), with_signals(minimum)
IEEE: dict[str, Callable[..., NDArray]] = {
    "v_max_f32": _MAX,
    "v_min_f32": _MIN,
    "v_max3_f32": lambda a, b, c: _MAX(_MAX(a, b), c),
    "v_min3_f32": lambda a, b, c: _MIN(_MIN(a, b), c),
    "v_med3_f32": lambda a, b, c: _median_float(a, b, c, _MIN),
    "v_max_f64": _MAX,
    "v_min_f64": _MIN,
}
"""What MODE.IEEE changes."""


def _fract(x: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.where(np.isfinite(x), np.minimum(x - np.floor(x), np.nextafter(F32(1), F32(0))), np.nan).astype(F32)


FLUSHING: dict[str, Callable[..., NDArray[np.float32]]] = {
    "v_exp_f32": lambda a: np.exp2(a.astype(F64)).astype(F32),
    "v_log_f32": lambda a: np.log2(a.astype(F64)).astype(F32),
    "v_rcp_f32": lambda a: (1 / a.astype(F64)).astype(F32),
    "v_rcp_iflag_f32": lambda a: (1 / a.astype(F64)).astype(F32),
    "v_rsq_f32": lambda a: (1 / np.sqrt(a.astype(F64))).astype(F32),
    "v_sqrt_f32": lambda a: np.sqrt(a.astype(F64)).astype(F32),
}
"""Functions that flush whatever the mode says. Correctly rounded through float64."""

DOUBLE: dict[str, Callable[..., NDArray[np.float64]]] = {
    "v_add_f64": lambda a, b: a + b,
    "v_mul_f64": lambda a, b: a * b,
    "v_max_f64": maximum,
    "v_min_f64": minimum,
    "v_fma_f64": lambda a, b, c: np.array([fma64(*v) for v in zip(a.tolist(), b.tolist(), c.tolist(), strict=True)]),
    "v_fmac_f64": lambda a, b, c: np.array([fma64(*v) for v in zip(a.tolist(), b.tolist(), c.tolist(), strict=True)]),
}

HALF: dict[str, Callable[..., NDArray[np.float64]]] = {
    "add": lambda a, b: a + b,
    "sub": lambda a, b: a - b,
    "subrev": lambda a, b: b - a,
    "mul": lambda a, b: a * b,
    "max": maximum,
    "min": minimum,
    "fma": lambda a, b, c: a * b + c,
    "rcp": lambda a: 1 / a,
}
"""fp16 operations on float64 values, whose result is rounded to fp16 once."""


def halves_to_double(x: NDArray[np.int64]) -> NDArray[np.float64]:
    return x.astype(np.uint16).view(np.float16).astype(F64)


def double_to_halves(x: NDArray[np.float64]) -> NDArray[np.int64]:
    with np.errstate(over="ignore"):
        return np.where(np.isnan(x), 0x7E00, x.astype(np.float16).view(np.uint16)).astype(I64)


def exponent(x: F32) -> int:
    return int(np.array(x, F32).view(U32)) >> 23 & 0xFF


def div_scale_lane(value: F32, denominator: F32, numerator: F32) -> tuple[F32, bool]:
    """V_DIV_SCALE_F32 (CDNA3 ISA, "VOP3 instructions")."""

    def denormal(x: float) -> bool:
        return 0 < abs(x) < 2.0**-126

    scaled_up, scaled_down = F32(F64(value) * 2.0**64), F32(F64(value) * 2.0**-64)
    if numerator == 0 or denominator == 0:
        return F32(np.nan), False
    if exponent(numerator) - exponent(denominator) >= 96:
        return (scaled_up if value == denominator else value), True
    if denormal(float(denominator)):
        return scaled_up, False
    with np.errstate(all="ignore"):
        reciprocal, quotient = F32(1 / F64(denominator)), F32(F64(numerator) / F64(denominator))
    if denormal(float(reciprocal)) and denormal(float(quotient)):
        return (scaled_up if value == denominator else value), True
    if denormal(float(reciprocal)):
        return scaled_down, False
    if denormal(float(quotient)):
        return (scaled_up if value == numerator else value), True
    return (scaled_up, False) if exponent(numerator) <= 23 else (value, False)


def div_fixup(quotient: NDArray, denominator: NDArray, numerator: NDArray) -> NDArray[np.float32]:
    """V_DIV_FIXUP_F32."""
    sign = np.where(np.signbit(denominator) ^ np.signbit(numerator), -1.0, 1.0)
    result = np.abs(quotient) * sign
    distance = np.array([exponent(n) - exponent(d) for n, d in zip(numerator, denominator, strict=True)])
    result = np.where(distance < -150, 0.0 * sign, np.where(distance > 128, np.inf * sign, result))
    result = np.where(np.isinf(denominator) | (numerator == 0), 0.0 * sign, result)
    result = np.where((denominator == 0) | np.isinf(numerator), np.inf * sign, result)
    invalid = ((denominator == 0) & (numerator == 0)) | (np.isinf(denominator) & np.isinf(numerator))
    result = np.where(invalid | np.isnan(denominator) | np.isnan(numerator), np.nan, result)
    return result.astype(F32)


def classes(x: NDArray[np.float32]) -> NDArray[np.int64]:
    """Class bit of V_CMP_CLASS."""
    bits = wide(as_bits(x))
    negative = bits >> 31 == 1
    result = np.where(negative, 3, 8)
    result = np.where((bits >> 23 & 0xFF) == 0, np.where(negative, 4, 7), result)
    result = np.where(x == 0, np.where(negative, 5, 6), result)
    result = np.where(np.isinf(x), np.where(negative, 2, 9), result)
    return np.where(np.isnan(x), np.where(bits >> 22 & 1, 1, 0), result)


def classes_of_bits(bits: NDArray[np.int64], exponent_bits: int, fraction_bits: int) -> NDArray[np.int64]:
    """Class bit by the bits of a float of another width."""
    found = []
    for each in bits.tolist():
        exponent, fraction = each >> fraction_bits & ((1 << exponent_bits) - 1), each & ((1 << fraction_bits) - 1)
        negative = each >> (exponent_bits + fraction_bits) & 1
        if exponent == (1 << exponent_bits) - 1:
            found.append((fraction >> (fraction_bits - 1)) if fraction else (2 if negative else 9))
        elif exponent:
            found.append(3 if negative else 8)
        else:
            found.append((4 if negative else 7) if fraction else (5 if negative else 6))
    return np.array(found, I64)


RELATIONS: dict[str, Callable[[NDArray, NDArray], NDArray[np.bool_]]] = {
    "f": lambda a, b: np.zeros(64, np.bool_),
    "lt": lambda a, b: a < b,
    "eq": lambda a, b: a == b,
    "le": lambda a, b: a <= b,
    "gt": lambda a, b: a > b,
    "lg": lambda a, b: (a < b) | (a > b),
    "ne": lambda a, b: a != b,
    "ge": lambda a, b: a >= b,
    "o": lambda a, b: ~(np.isnan(a) | np.isnan(b)),
    "u": lambda a, b: np.isnan(a) | np.isnan(b),
    "nge": lambda a, b: ~(a >= b),
    "nlg": lambda a, b: ~((a < b) | (a > b)),
    "ngt": lambda a, b: ~(a > b),
    "nle": lambda a, b: ~(a <= b),
    "neq": lambda a, b: ~(a == b),
    "nlt": lambda a, b: ~(a < b),
    "tru": lambda a, b: np.ones(64, np.bool_),
    "t": lambda a, b: np.ones(64, np.bool_),
}


def float8(codes: NDArray[np.int64], name: str, fnuz: bool) -> NDArray[np.float64]:
    return float8_table(name, fnuz)[codes & 0xFF]
