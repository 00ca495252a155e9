"""Vector instructions of the reference executor that are rare: fp64 and fp16 functions, dot products, mixed precision, packing.

From the ISA documents' pseudo code, with Python's own arithmetic or numpy's; shares nothing with backend/cdna/execute.
"""

from __future__ import annotations

import decimal
import math
import re
from collections.abc import Callable
from functools import cache

import numpy as np
import reference_arithmetic as ref
from numpy.typing import NDArray
from reference_arithmetic import F32, F64, I64, U32, U64, Bits
from reference_executor import ReferenceWave, Sources, commit, lanes_of, mask_of

from backend.cdna.instruction import Instruction


def _by_lane(function: Callable[[float], float]) -> Callable[[NDArray[np.float64]], NDArray[np.float64]]:
    return lambda x: np.array([function(float(v)) for v in x], F64)


def _turns(cosine: bool) -> Callable[[float], float]:
    def function(x: float) -> float:
        if not math.isfinite(x):
            return math.nan
        if abs(x) > 256:
            return 1.0 if cosine else 0.0
        quarter = math.fmod(x, 1.0) * 4  # exact
        exact = {0.0: (0.0, 1.0), 1.0: (1.0, 0.0), 2.0: (0.0, -1.0), 3.0: (-1.0, 0.0)}
        if quarter % 4 in exact:
            sine, other = exact[quarter % 4]
            if sine == 0 and not cosine:
                return math.copysign(0.0, x) if quarter % 4 == 0 else 0.0
            return other if cosine else sine
        angle = (x - math.floor(x)) * 2 * math.pi
        return math.cos(angle) if cosine else math.sin(angle)

    return function


def _fract(top: float) -> Callable[[NDArray[np.float64]], NDArray[np.float64]]:
    return lambda x: np.where(np.isfinite(x), np.minimum(x - np.floor(x), top), np.nan)


def _mantissa(x: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.where(np.isfinite(x) & (x != 0), np.frexp(x)[0], x)


FUNCTIONS: dict[str, Callable[[NDArray[np.float64]], NDArray[np.float64]]] = {
    "trunc": np.trunc,
    "ceil": np.ceil,
    "rndne": np.rint,
    "floor": np.floor,
    "rcp": lambda x: 1 / x,
    "rsq": lambda x: 1 / np.sqrt(x),
    "sqrt": np.sqrt,
    "frexp_mant": _mantissa,
    "log": np.log2,
    "exp": np.exp2,
    "sin": _by_lane(_turns(False)),
    "cos": _by_lane(_turns(True)),
}


def _split(value: NDArray[np.float64]) -> list[Bits]:
    bits = np.ascontiguousarray(value, F64).view(U64)
    return [(bits & U64(0xFFFFFFFF)).astype(U32), (bits >> U64(32)).astype(U32)]


def double_function(wave: ReferenceWave, instruction: Instruction, name: str) -> None:
    value = Sources(wave, instruction, "f64").bits64(0).view(F64)
    stem = name[2:-4]
    function = _fract(math.nextafter(1, 0)) if stem == "fract" else FUNCTIONS[stem]
    commit(wave, instruction, _split(function(value)))


def double_ldexp(wave: ReferenceWave, instruction: Instruction, name: str) -> None:
    sources = Sources(wave, instruction, "f64")
    exponents = np.clip(wave.read_vector(instruction.sources[1]).view(np.int32), -5000, 5000)
    commit(wave, instruction, _split(np.ldexp(sources.bits64(0).view(F64), exponents)))


@cache
def _two_over_pi() -> int:
    """The first 1201 bits behind the binary point, by the iteration of Gauss and Legendre."""
    with decimal.localcontext(prec=420):
        a, b, t, p = decimal.Decimal(1), 1 / decimal.Decimal(2).sqrt(), decimal.Decimal(1) / 4, decimal.Decimal(1)
        for _ in range(10):
            a, b, t, p = (a + b) / 2, (a * b).sqrt(), t - p * ((a - b) / 2) ** 2, 2 * p
        return int(2 * 4 * t / (a + b) ** 2 * 2**1201)


def double_trig_preop(wave: ReferenceWave, instruction: Instruction, name: str) -> None:
    values = Sources(wave, instruction, "f64").bits64(0).view(F64)
    places, results = wave.read_vector(instruction.sources[1]) & U32(31), []
    for value, place in zip(values.tolist(), places.tolist(), strict=True):
        exponent = _exponent64(value)
        shift = 53 * place + max(exponent - 1077, 0)
        part = (_two_over_pi() << shift & (1 << 1201) - 1) >> 1148
        results.append(math.ldexp(part, -53 - shift + (128 if exponent >= 1968 else 0)))
    commit(wave, instruction, _split(np.array(results)))


def double_exponent(wave: ReferenceWave, instruction: Instruction, name: str) -> None:
    value = Sources(wave, instruction, "f64").bits64(0).view(F64)
    exponent = np.where(np.isfinite(value) & (value != 0), np.frexp(value)[1], 0)
    commit(wave, instruction, [ref.low32(exponent.astype(I64))])


def _exponent64(x: float) -> int:
    return int(np.array(x, F64).view(U64)) >> 52 & 0x7FF


def _denormal64(x: float) -> bool:
    return x != 0 and _exponent64(x) == 0


def _scale64(value: float, denominator: float, numerator: float) -> tuple[float, bool]:
    with np.errstate(all="ignore"):
        up, down = float(np.ldexp(value, 128)), float(np.ldexp(value, -128))
        if numerator == 0 or denominator == 0:
            return math.nan, False
        if _exponent64(numerator) - _exponent64(denominator) >= 768:
            return (up if value == denominator else value), True
        if _denormal64(denominator):
            return up, False
        reciprocal, quotient = (
            _denormal64(float(F64(1) / F64(denominator))),
            _denormal64(float(F64(numerator) / F64(denominator))),
        )
    if reciprocal and quotient:
        return (up if value == denominator else value), True
    if reciprocal:
        return down, False
    if quotient:
        return (up if value == numerator else value), True
    return (up, False) if _exponent64(numerator) <= 53 else (value, False)


def _fixup64(quotient: float, denominator: float, numerator: float) -> float:
    sign = -1.0 if math.copysign(1, denominator) * math.copysign(1, numerator) < 0 else 1.0
    for value in (numerator, denominator):
        if math.isnan(value):
            return float((np.array(value, F64).view(U64) | U64(1 << 51)).view(F64))
    if (denominator == 0 and numerator == 0) or (math.isinf(denominator) and math.isinf(numerator)):
        return math.nan
    if denominator == 0 or math.isinf(numerator):
        return sign * math.inf
    distance = _exponent64(numerator) - _exponent64(denominator)
    if math.isinf(denominator) or numerator == 0 or distance < -1075:
        return sign * 0.0
    return sign * math.inf if distance > 1024 else math.copysign(quotient, sign)


def double_division(wave: ReferenceWave, instruction: Instruction, name: str) -> None:
    sources = Sources(wave, instruction, "f64")
    a, b, c = (sources.bits64(place).view(F64).tolist() for place in range(3))
    if name == "v_div_scale_f64":
        pairs = [_scale64(*each) for each in zip(a, b, c, strict=True)]
        commit(wave, instruction, _split(np.array([value for value, _ in pairs])))
        wave.write_scalar(instruction.destinations[1], mask_of(np.array([flag for _, flag in pairs]) & wave.active))
        return
    if name == "v_div_fmas_f64":
        vcc, result = lanes_of(wave.scalar64(106)), []
        for lane, each in enumerate(zip(a, b, c, strict=True)):
            value = ref.fma64(*each)
            result.append(float(np.ldexp(value, 128 if _exponent64(each[2]) > 1023 else -128)) if vcc[lane] else value)
    else:
        result = [_fixup64(*each) for each in zip(a, b, c, strict=True)]
    commit(wave, instruction, _split(np.array(result)))


def half_function(wave: ReferenceWave, instruction: Instruction, name: str) -> None:
    value = ref.halves_to_double(ref.half(Sources(wave, instruction, "f16").bits(0)))
    stem = name[2:].removesuffix("_f16")
    if stem == "frexp_exp_i16":
        bits = np.where(np.isfinite(value) & (value != 0), np.frexp(value)[1], 0).astype(I64) & 0xFFFF
    elif stem.startswith("cvt"):
        low, high = (0, 65535) if "u16" in stem else (-32768, 32767)
        bits = np.array([0 if np.isnan(v) else int(min(max(np.trunc(v), low), high)) for v in value], I64) & 0xFFFF
    else:
        function = _fract(1 - 2.0**-11) if stem == "fract" else FUNCTIONS[stem]
        result = function(value)
        bits = np.where(np.isnan(result) & ~np.isnan(value), 0xFE00, ref.double_to_halves(result))
    commit(wave, instruction, [ref.low32(bits)])


def half3(wave: ReferenceWave, instruction: Instruction, name: str) -> None:
    sources = Sources(wave, instruction, "f16")
    codes = [ref.half(sources.bits(place)) for place in range(3)]
    a, b, c = (ref.halves_to_double(each) for each in codes)
    signals = [(each & 0x7E00 == 0x7C00) & (each & 0x1FF != 0) & wave.ieee for each in codes]

    def chain(pick: Callable[..., NDArray]) -> NDArray:
        first = np.where(signals[0] | signals[1], np.nan, pick(a, b))
        return np.where(signals[2], np.nan, pick(first, c))

    least, most = chain(ref.minimum), chain(ref.maximum)
    if name == "v_div_fixup_f16":
        sign = np.where(np.signbit(b) ^ np.signbit(c), -1.0, 1.0)
        result = np.copysign(a, sign)
        result = np.where(np.isinf(b) | (c == 0), np.copysign(0.0, sign), result)
        result = np.where((b == 0) | np.isinf(c), np.copysign(np.inf, sign), result)
        result = np.where(((b == 0) & (c == 0)) | (np.isinf(b) & np.isinf(c)) | np.isnan(b) | np.isnan(c), np.nan, result)
    elif name == "v_min3_f16":
        result = least
    elif name == "v_max3_f16":
        result = most
    else:
        top = ref.maximum(ref.maximum(a, b), c)
        left = np.where(top == a, ref.maximum(b, c), np.where(top == b, ref.maximum(a, c), ref.maximum(a, b)))
        result = np.where(np.isnan(a) | np.isnan(b) | np.isnan(c), least, left)
    commit(wave, instruction, [ref.low32(ref.double_to_halves(result))])


def trigonometric(wave: ReferenceWave, instruction: Instruction, name: str) -> None:
    keep = wave.keep_denormals
    value = Sources(wave, instruction, "f32").floats(0, keep).astype(F64)
    result = ref.flush(FUNCTIONS[name[2:5]](value).astype(F32), keep)
    commit(wave, instruction, [ref.as_bits(result)], True)


def _parts(value: Bits, bits: int, signed: bool) -> NDArray[np.int64]:
    parts = np.array([ref.wide(value) >> bits * n & ((1 << bits) - 1) for n in range(32 // bits)])
    return parts - (parts >> (bits - 1) << bits) if signed else parts


def dot(wave: ReferenceWave, instruction: Instruction, name: str) -> None:
    sources = Sources(wave, instruction, "b32")
    a, b = sources.bits(0), sources.bits(1)
    third = wave.read_vector(instruction.destinations[0]) if re.match(r"v_dot\dc", name) else sources.bits(2)
    if name.endswith(("_f16", "_bf16")):
        total = ref.as_float(third)
        for shift in (0, 16):
            x, y = (ref.wide(each) >> shift & 0xFFFF for each in (a, b))
            if name.endswith("_bf16"):
                numbers = [(each << 16).astype(U32).view(F32) for each in (x, y)]
            else:
                numbers = [ref.halves_to_double(each).astype(F32) for each in (x, y)]
            total = ref.fma32(*numbers, total)
        commit(wave, instruction, [ref.as_bits(total)])
        return
    bits, signed = {"16": 16, "8": 8, "4": 4}[name.rpartition("_")[2][1:]], name.rpartition("_")[2][0] == "i"
    total = ref.wide(third) + (_parts(a, bits, signed) * _parts(b, bits, signed)).sum(0)
    commit(wave, instruction, [ref.low32(total)])


def mixed(wave: ReferenceWave, instruction: Instruction, name: str) -> None:
    modifiers, values = instruction.modifiers, []
    for place, operand in enumerate(instruction.sources):
        raw = wave.read_vector(operand)
        value = ref.flush(ref.as_float(raw), wave.keep_denormals)
        if modifiers.op_sel_hi[place]:
            value = ref.halves_to_double(ref.wide(raw) >> 16 * modifiers.op_sel[place] & 0xFFFF).astype(F32)
        value = np.abs(value) if operand.abs else value
        values.append(-value if operand.neg else value)
    total = ref.flush(ref.fma32(*values), wave.keep_denormals)
    if name == "v_fma_mix_f32":
        commit(wave, instruction, [ref.as_bits(total)], True)
        return
    half, old = ref.double_to_halves(total.astype(F64)), ref.wide(wave.read_vector(instruction.destinations[0]))
    result = (old & 0xFFFF0000) | half if name == "v_fma_mixlo_f16" else (old & 0xFFFF) | half << 16
    commit(wave, instruction, [ref.low32(result)])


def saturating(wave: ReferenceWave, instruction: Instruction, name: str) -> None:
    """Integer additions with clamp."""
    bits, signed = int(name[-2:]), name[-3] == "i"
    sources = Sources(wave, instruction, "b16" if bits == 16 else "b32")
    mask = (1 << bits) - 1
    a, b = (ref.wide(sources.bits(place)) & mask for place in range(2))
    if signed:
        a, b = (x - (x >> (bits - 1) << bits) for x in (a, b))
    total = {"add": a + b, "sub": a - b, "subrev": b - a}[name.split("_")[1]]
    low, high = (-(1 << bits - 1), (1 << bits - 1) - 1) if signed else (0, mask)
    commit(wave, instruction, [ref.low32(np.clip(total, low, high) & mask)])


def packed_integer(wave: ReferenceWave, instruction: Instruction, name: str) -> None:
    """Both halves, as the documents' pseudo code has them."""
    modifiers, halves = instruction.modifiers, []
    operation, signed = name.removeprefix("v_pk_").rpartition("_")[0], name[-3] == "i"
    for half, picks in enumerate((modifiers.op_sel, modifiers.op_sel_hi)):
        parts = []
        for place, operand in enumerate(instruction.sources):
            part = ref.wide(wave.read_vector(operand)) >> 16 * (picks[place] if picks else half) & 0xFFFF
            parts.append(np.where(part >= 0x8000, part - 0x10000, part) if signed else part)
        a, b = parts[:2]
        result = {
            "add": lambda a=a, b=b: a + b,
            "sub": lambda a=a, b=b: a - b,
            "mad": lambda a=a, b=b, parts=parts: a * b + parts[2],
            "mul_lo": lambda a=a, b=b: a * b,
            "max": lambda a=a, b=b: np.maximum(a, b),
            "min": lambda a=a, b=b: np.minimum(a, b),
            "lshlrev": lambda a=a, b=b: b << (a & 15),
            "lshrrev": lambda a=a, b=b: b >> (a & 15),
            "ashrrev": lambda a=a, b=b: b >> (a & 15),
        }[operation]()
        if modifiers.clamp:
            result = np.clip(result, -0x8000 if signed else 0, 0x7FFF if signed else 0xFFFF)
        halves.append(result & 0xFFFF)
    commit(wave, instruction, [ref.low32(halves[0] | halves[1] << 16)])


def packing(wave: ReferenceWave, instruction: Instruction, name: str) -> None:
    sources = Sources(wave, instruction, "b32" if name != "v_cvt_pk_u8_f32" else "f32")
    a = sources.bits(0)
    if name == "v_cvt_pk_i16_i32":
        low, high = (np.clip(ref.signed(sources.bits(place)), -32768, 32767) & 0xFFFF for place in range(2))
        result = low | high << 16
    elif name == "v_cvt_pk_u16_u32":
        low, high = (np.minimum(ref.wide(sources.bits(place)), 0xFFFF) for place in range(2))
        result = low | high << 16
    elif name == "v_sat_pk_u8_i16":
        low, high = _parts(a, 16, True).clip(0, 255)
        result = low | high << 8
    elif name == "v_cvt_off_f32_i4":
        result = ref.wide(ref.as_bits((_parts(a, 4, True)[0] / 16).astype(F32)))
        commit(wave, instruction, [ref.low32(result)], True)
        return
    elif name == "v_prng_b32":
        result = ref.wide(a) << 1 ^ np.where(a >> U32(31), 197, 0)
    else:
        value = ref.as_float(a).astype(F64)
        byte = np.array([0 if np.isnan(v) else int(min(max(np.rint(v), 0), 255)) for v in value], I64)
        shift = 8 * (ref.wide(wave.read_vector(instruction.sources[1])) & 3)
        result = ref.wide(wave.read_vector(instruction.sources[2])) & ~(0xFF << shift) | byte << shift
    commit(wave, instruction, [ref.low32(result)])


FP4 = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.0, -0.5, -1, -1.5, -2, -3, -4, -6])


def _scale(bits: Bits) -> NDArray[np.float64]:
    return np.ldexp(1.0, (ref.wide(bits) >> 23 & 0xFF) - 127)


def _code(value: float) -> int:
    sign = 8 if math.copysign(1, value) < 0 else 0
    if math.isnan(value):
        return 7  # the format has no NaN
    distances = [(abs(min(abs(value), 100.0) - FP4[code]), code & 1) for code in range(8)]
    return sign | (7 if math.isinf(value) else min(range(8), key=lambda code: distances[code]))


def to_four(wave: ReferenceWave, instruction: Instruction, name: str) -> None:
    sources = Sources(wave, instruction, "f32")
    selects = (*instruction.modifiers.op_sel, 0, 0, 0, 0)
    count = len(instruction.sources)
    if name.endswith("_f32"):
        first, second = (
            ref.flush(ref.as_float(wave.read_vector(each)), wave.keep_denormals) for each in instruction.sources[:2]
        )
        byte = selects[2] + 2 * selects[3]
    else:
        raw = ref.wide(wave.read_vector(instruction.sources[0]))
        widen = (
            ref.halves_to_double if "_f16" in name[-5:] and "bf16" not in name else lambda x: (x << 16).astype(U32).view(F32)
        )
        first, second, byte = widen(raw & 0xFFFF), widen(raw >> 16), 2 * selects[2]
    scale = _scale(wave.read_vector(instruction.sources[count - 1]))
    low, high = (np.array([_code(float(v)) for v in each.astype(F64) / scale], I64) for each in (first, second))
    old = ref.wide(wave.read_vector(instruction.destinations[0]))
    commit(wave, instruction, [ref.low32(old & ~(0xFF << 8 * byte) | (low | high << 4) << 8 * byte)])
    assert sources


def from_four(wave: ReferenceWave, instruction: Instruction, name: str) -> None:
    selects = (*instruction.modifiers.op_sel, 0, 0, 0)
    raw = ref.wide(wave.read_vector(instruction.sources[0])) >> 8 * (selects[0] + 2 * selects[1])
    values = [FP4[raw >> shift & 15] * _scale(wave.read_vector(instruction.sources[1])) for shift in (0, 4)]
    if "_pk_f32_" in name:
        commit(wave, instruction, [ref.as_bits(x.astype(F32)) for x in values])
        return
    if "_pk_f16_" in name:
        low, high = map(ref.double_to_halves, values)
    else:
        from number_formats import encode_bfloat16

        low, high = (encode_bfloat16(x.astype(F32)).astype(I64) for x in values)
    commit(wave, instruction, [ref.low32(low | high << 16)])


RARE: tuple[tuple[str, Callable[[ReferenceWave, Instruction, str], None]], ...] = (
    (r"v_(trunc|ceil|rndne|floor|rcp|rsq|sqrt|fract|frexp_mant)_f64", double_function),
    (r"v_ldexp_f64", double_ldexp),
    (r"v_trig_preop_f64", double_trig_preop),
    (r"v_frexp_exp_i32_f64", double_exponent),
    (r"v_div_\w+_f64", double_division),
    (r"v_(sqrt|rsq|log|exp|floor|ceil|trunc|rndne|fract|sin|cos|frexp_mant|frexp_exp_i16|cvt_[ui]16)_f16", half_function),
    (r"v_(min3|max3|med3|div_fixup)_f16", half3),
    (r"v_(sin|cos)_f32", trigonometric),
    (r"v_dot\dc?_\w+", dot),
    (r"v_fma_mix\w*", mixed),
    (r"v_pk_\w+_[iub]16", packed_integer),
    (r"v_cvt_pk_(i16_i32|u16_u32|u8_f32)|v_sat_pk_u8_i16|v_cvt_off_f32_i4|v_prng_b32", packing),
    (r"v_cvt_scalef32_pk_fp4_\w+", to_four),
    (r"v_cvt_scalef32_pk_\w+_fp4", from_four),
)
