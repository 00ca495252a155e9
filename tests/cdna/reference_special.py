"""Vector instructions of the reference executor that are more than a function of their sources: conversions, carries, lane
moves."""

from __future__ import annotations

import re
from collections.abc import Callable

import numpy as np
import reference_arithmetic as ref
from number_formats import encode_bfloat16, encode_float8
from numpy.typing import NDArray
from reference_arithmetic import F32, F64, I64, U32, U64, Bits
from reference_executor import ReferenceWave, Sources, commit, lanes_of, mask_of

from backend.cdna.instruction import Instruction

Special = Callable[[ReferenceWave, Instruction, str], None]


def carry(wave: ReferenceWave, instruction: Instruction, name: str) -> None:
    """V_ADD_CO_U32 and the like: the mask of carries, inactive lanes 0."""
    sources = Sources(wave, instruction, "b32")
    a, b = ref.wide(sources.bits(0)), ref.wide(sources.bits(1))
    carry_in = np.zeros(64, I64)
    if len(instruction.sources) == 3:
        carry_in = lanes_of(wave.read_scalar(instruction.sources[2])).astype(I64)
    if "rev" in name or name.startswith("v_subbrev"):
        a, b = b, a
    total = a + b + carry_in if name.startswith("v_add") else a - b - carry_in
    mask = mask_of(((total >> 32) != 0) & wave.active)
    commit(wave, instruction, [ref.low32(total)])
    wave.write_scalar(instruction.destinations[1], mask)


def multiply_add(wave: ReferenceWave, instruction: Instruction, name: str) -> None:
    """V_MAD_U64_U32, V_MAD_I64_I32, in Python integers."""
    sources = Sources(wave, instruction, "b64")
    a, b, c = sources.bits(0), sources.bits(1), sources.bits64(2)
    is_signed = name == "v_mad_i64_i32"
    results, over = [], []
    for lane in range(64):
        if is_signed:
            total = int(a.view(np.int32)[lane]) * int(b.view(np.int32)[lane]) + int(c.view(I64)[lane])
            over.append(not -(1 << 63) <= total < 1 << 63)
        else:
            total = int(a[lane]) * int(b[lane]) + int(c[lane])
            over.append(total >> 64 != 0)
        results.append(total & (1 << 64) - 1)
    values = np.array(results, U64)
    mask = mask_of(np.array(over) & wave.active)
    commit(wave, instruction, [(values & U64(0xFFFFFFFF)).astype(U32), (values >> U64(32)).astype(U32)])
    wave.write_scalar(instruction.destinations[1], mask)


def select(wave: ReferenceWave, instruction: Instruction, name: str) -> None:
    sources = Sources(wave, instruction, "f32")
    chosen = lanes_of(wave.read_scalar(instruction.sources[2]))
    commit(wave, instruction, [np.where(chosen, sources.bits(1), sources.bits(0))])


def truth_table(wave: ReferenceWave, instruction: Instruction, name: str) -> None:
    sources = Sources(wave, instruction, "b16" if name.endswith("b16") else "b32")
    a, b, c = (sources.bits(place) for place in range(3))
    table = instruction.modifiers.bitop3
    result = np.zeros(64, U32)
    for bit in range(32):
        index = (a >> U32(bit) & U32(1)) << U32(2) | (b >> U32(bit) & U32(1)) << U32(1) | (c >> U32(bit) & U32(1))
        result |= (U32(table) >> index & U32(1)) << U32(bit)
    commit(wave, instruction, [result & U32(0xFFFF) if name.endswith("b16") else result])


def packed_move(wave: ReferenceWave, instruction: Instruction, name: str) -> None:
    op_sel = (*instruction.modifiers.op_sel, 0, 0)
    values = [wave.read_vector(instruction.sources[place], op_sel[place]) for place in range(2)]
    commit(wave, instruction, values)


def divide_scale(wave: ReferenceWave, instruction: Instruction, name: str) -> None:
    sources = Sources(wave, instruction, "f32")
    a, b, c = (ref.as_float(sources.bits(place)) for place in range(3))
    pairs = [ref.div_scale_lane(a[lane], b[lane], c[lane]) for lane in range(64)]
    commit(wave, instruction, [ref.as_bits(np.array([value for value, _ in pairs], F32))])
    wave.write_scalar(instruction.destinations[1], mask_of(np.array([flag for _, flag in pairs]) & wave.active))


def divide_fmas(wave: ReferenceWave, instruction: Instruction, name: str) -> None:
    keep = wave.keep_denormals
    sources = Sources(wave, instruction, "f32")
    a, b, c = (sources.floats(place, keep) for place in range(3))
    raw = ref.as_float(sources.bits(2))
    result = ref.fma32(a, b, c)
    factor = np.where([ref.exponent(value) > 127 for value in raw], 2.0**64, 2.0**-64)
    scaled = (result.astype(F64) * factor).astype(F32)
    result = np.where(lanes_of(wave.scalar64(106)), scaled, result).astype(F32)
    commit(wave, instruction, [ref.as_bits(ref.flush(result, keep))], True)


def divide_fixup(wave: ReferenceWave, instruction: Instruction, name: str) -> None:
    keep = wave.keep_denormals
    sources = Sources(wave, instruction, "f32")
    commit(wave, instruction, [ref.as_bits(ref.div_fixup(*(sources.floats(place, keep) for place in range(3))))], True)


def split_float(wave: ReferenceWave, instruction: Instruction, name: str) -> None:
    value = Sources(wave, instruction, "f32").floats(0, wave.keep_denormals)
    mantissa, exponent = np.frexp(value)
    special = ~np.isfinite(value) | (value == 0)
    if "_exp_" in name:
        commit(wave, instruction, [np.where(special, 0, exponent).astype(np.int32).view(U32)])
    else:
        commit(wave, instruction, [ref.as_bits(np.where(special, value, mantissa))], True)


# Halves.


def half_arithmetic(wave: ReferenceWave, instruction: Instruction, name: str) -> None:
    packed = name.startswith("v_pk_")
    operation = name.split("_")[2 if packed else 1].removesuffix("c") if "fmac" not in name else "fma"
    if "fmac" in name:
        third = wave.read_vector(instruction.destinations[0])
    sources = Sources(wave, instruction, "pk16" if packed else "f16")
    count = len(instruction.sources)
    results = []
    for element in range(2 if packed else 1):
        values = [ref.half(sources.packed(place, element) if packed else sources.bits(place)) for place in range(count)]
        if "fmac" in name:
            values.append(ref.half(third >> U32(16 * element)))
        result = ref.double_to_halves(ref.HALF[operation](*map(ref.halves_to_double, values)))
        if wave.ieee and operation in ("max", "min"):
            signalling = [(each & 0x7E00 == 0x7C00) & (each & 0x1FF != 0) for each in values]
            result = np.where(signalling[0] | signalling[1], 0x7E00, result)
        results.append(result)
    high = results[1] if packed else np.zeros(64, I64)
    commit(wave, instruction, [ref.low32(results[0] | high << 16)])


# Conversions.


def truncated(x: NDArray[np.float64], lowest: int, highest: int) -> NDArray[np.int64]:
    return np.array([0 if np.isnan(v) else int(min(max(np.trunc(v), lowest), highest)) for v in x], I64)


def _bfloat16(x: NDArray[np.float32]) -> NDArray[np.int64]:
    quiet = ref.wide(ref.as_bits(x)) >> 16 | 0x40
    return np.where(np.isnan(x), quiet, encode_bfloat16(x).astype(I64))


def _toward_zero(x: NDArray[np.float32]) -> NDArray[np.int64]:
    nearest = ref.double_to_halves(x.astype(F64))
    too_far = np.abs(ref.halves_to_double(nearest)) > np.abs(x.astype(F64))
    return np.where(too_far & np.isfinite(x), nearest - 1, nearest)


def simple_conversion(wave: ReferenceWave, instruction: Instruction, name: str) -> None:
    from_half = name.endswith("_f16")
    kind = "f16" if from_half else ("f32" if name.endswith("_f32") else "b32")
    sources = Sources(wave, instruction, kind)
    raw = sources.bits(0)
    value = ref.flush(ref.as_float(raw), wave.keep_denormals)
    limits = {"i32": (-(1 << 31), (1 << 31) - 1), "u32": (0, (1 << 32) - 1)}
    is_float = re.match(r"v_cvt_f32", name) is not None
    if name == "v_cvt_f32_i32":
        result = ref.as_bits(raw.view(np.int32).astype(F32))
    elif name == "v_cvt_f32_u32":
        result = ref.as_bits(raw.astype(F32))
    elif name in ("v_cvt_u32_f32", "v_cvt_i32_f32"):
        result = ref.low32(truncated(value.astype(F64), *limits[name[6:9]]))
    elif name == "v_cvt_rpi_i32_f32":
        result = ref.low32(truncated(np.floor(value.astype(F64) + 0.5), *limits["i32"]))
    elif name == "v_cvt_flr_i32_f32":
        result = ref.low32(truncated(np.floor(value.astype(F64)), *limits["i32"]))
    elif name == "v_cvt_f16_f32":
        result = ref.low32(ref.double_to_halves(value.astype(F64)))
    elif name == "v_cvt_f32_f16":
        result = ref.as_bits(ref.halves_to_double(ref.half(raw)).astype(F32))
    elif name.startswith("v_cvt_f32_ubyte"):
        result = ref.as_bits((ref.wide(raw) >> 8 * int(name[-1]) & 0xFF).astype(F32))
    elif name == "v_cvt_f32_bf16":
        result = raw << U32(16)
    elif name == "v_cvt_f16_u16":
        result = ref.low32(ref.double_to_halves(ref.half(raw).astype(F64)))
    else:
        result = ref.low32(ref.double_to_halves(ref.signed_half(raw).astype(F64)))
    commit(wave, instruction, [result], is_float)


def packed_conversion(wave: ReferenceWave, instruction: Instruction, name: str) -> None:
    sources = Sources(wave, instruction, "f32")
    convert = {
        "v_cvt_pk_bf16_f32": _bfloat16,
        "v_cvt_pk_f16_f32": lambda x: ref.double_to_halves(x.astype(F64)),
        "v_cvt_pkrtz_f16_f32": _toward_zero,
    }[name]
    low, high = (convert(sources.floats(place, wave.keep_denormals)) for place in range(2))
    commit(wave, instruction, [ref.low32((low & 0xFFFF) | (high & 0xFFFF) << 16)])


def _scale(bits: Bits) -> NDArray[np.float64]:
    return np.ldexp(1.0, (ref.wide(bits) >> 23 & 0xFF) - 127)


def to_float8(wave: ReferenceWave, instruction: Instruction, name: str) -> None:
    """V_CVT_PK_FP8_F32 and the scaled forms: two results in one half, the other half kept."""
    form = "e4m3" if "_fp8_" in name else "e5m2"
    scaled = "scalef32" in name
    sources = Sources(wave, instruction, "f32" if name.endswith("_f32") else "b32")
    if name.endswith("_f32"):
        first, second = (sources.floats(place, wave.keep_denormals).astype(F64) for place in range(2))
        scale = _scale(sources.bits(2)) if scaled else 1.0
    else:
        raw = ref.wide(sources.bits(0))
        widen = ref.halves_to_double if name.endswith("_f16") else (lambda x: (x << 16).astype(U32).view(F32).astype(F64))
        first, second, scale = widen(raw & 0xFFFF), widen(raw >> 16), _scale(sources.bits(1))
    codes = [encode_float8((x / scale).astype(F32), form, wave.fnuz).astype(I64) for x in (first, second)]
    packed = codes[0] | codes[1] << 8
    old = ref.wide(wave.read_vector(instruction.destinations[0]))
    high = len(instruction.modifiers.op_sel) > len(instruction.sources) and instruction.modifiers.op_sel[-1]
    result = (old & 0xFFFF) | packed << 16 if high else (old & 0xFFFF0000) | packed
    commit(wave, instruction, [ref.low32(result)])


def from_float8(wave: ReferenceWave, instruction: Instruction, name: str) -> None:
    """V_CVT_F32_FP8, V_CVT_PK_F32_FP8 and the scaled forms."""
    form = "e4m3" if name.endswith("fp8") else "e5m2"
    sources = Sources(wave, instruction, "f8")
    raw = ref.wide(sources.bits(0))
    scale = _scale(sources.bits(1)) if "scalef32" in name else np.ones(64)
    values = [(ref.float8(raw >> shift, form, wave.fnuz) * scale) for shift in (0, 8)]
    if "_pk_bf16_" in name:
        low, high = (_bfloat16(x.astype(F32)) for x in values)
        commit(wave, instruction, [ref.low32((low & 0xFFFF) | (high & 0xFFFF) << 16)])
    elif "_pk_f16_" in name:
        low, high = map(ref.double_to_halves, values)
        commit(wave, instruction, [ref.low32(low | high << 16)])
    else:
        count = 2 if "_pk_" in name else 1
        commit(wave, instruction, [ref.as_bits(x.astype(F32)) for x in values[:count]], True)


def double_conversion(wave: ReferenceWave, instruction: Instruction, name: str) -> None:
    if name.startswith("v_cvt_f64"):
        sources = Sources(wave, instruction, "f32" if name.endswith("f32") else "b32")
        raw = sources.bits(0)
        value = {"f32": ref.as_float(raw), "i32": raw.view(np.int32), "u32": raw}[name[-3:]].astype(F64)
        bits = value.view(U64)
        commit(wave, instruction, [(bits & U64(0xFFFFFFFF)).astype(U32), (bits >> U64(32)).astype(U32)])
        return
    value = Sources(wave, instruction, "f64").bits64(0).view(F64)
    if name == "v_cvt_f32_f64":
        commit(wave, instruction, [ref.as_bits(value.astype(F32))], True)
    else:
        limits = (-(1 << 31), (1 << 31) - 1) if "_i32_" in name else (0, (1 << 32) - 1)
        commit(wave, instruction, [ref.low32(truncated(value, *limits))])


# Lanes.


def lane_move(wave: ReferenceWave, instruction: Instruction, name: str) -> None:
    destination, source = instruction.destinations[0], instruction.sources[0]
    if name == "v_readfirstlane_b32":
        active = np.flatnonzero(wave.active)
        wave.write_scalar(destination, int(wave.read_vector(source)[active[0] if len(active) else 0]))
    elif name == "v_readlane_b32":
        wave.write_scalar(destination, int(wave.read_vector(source)[wave.read_scalar(instruction.sources[1]) & 63]))
    else:
        wave.vectors[wave.row(destination), wave.read_scalar(instruction.sources[1]) & 63] = wave.read_scalar(source)


def swap(wave: ReferenceWave, instruction: Instruction, name: str) -> None:
    """V_SWAP_B32 in active lanes; V_PERMLANE*_SWAP lane n of the source with lane n + 16 or 32 of the destination. Where EXEC
    enables one of the two only there is no model, and the machine stops."""
    first, second = wave.row(instruction.destinations[0]), wave.row(instruction.sources[0])
    a, b = wave.vectors[first].copy(), wave.vectors[second].copy()
    active = wave.active
    if name == "v_swap_b32":
        wave.vectors[first, active], wave.vectors[second, active] = b[active], a[active]
    else:
        distance = 32 if "32_swap" in name else 16
        lower = np.array([lane for lane in range(64) if not lane & distance])
        if (active[lower] != active[lower + distance]).any():
            return
        lower = lower[active[lower]]
        wave.vectors[first, lower + distance], wave.vectors[second, lower] = b[lower], a[lower + distance]


SPECIAL: tuple[tuple[str, Special], ...] = (
    (r"v_(add|sub|subrev|addc|subb|subbrev)_co_u32", carry),
    (r"v_mad_[ui]64_[ui]32", multiply_add),
    (r"v_cndmask_b32", select),
    (r"v_bitop3_b\d+", truth_table),
    (r"v_pk_mov_b32", packed_move),
    (r"v_div_scale_f32", divide_scale),
    (r"v_div_fmas_f32", divide_fmas),
    (r"v_div_fixup_f32", divide_fixup),
    (r"v_frexp_\w+_f32", split_float),
    (r"v_(pk_)?(add|sub|subrev|mul|max|min|fma|fmac|rcp)_f16", half_arithmetic),
    (r"v_cvt_(f64_\w+|\w+_f64)", double_conversion),
    (r"v_cvt_pk_(bf16|f16)_f32|v_cvt_pkrtz_f16_f32", packed_conversion),
    (r"v_cvt_(scalef32_)?pk_(fp8|bf8)_\w+", to_float8),
    (r"v_cvt_(scalef32_)?(pk_)?(f32|bf16|f16)_(fp8|bf8)", from_float8),
    (r"v_cvt_\w+", simple_conversion),
    (r"v_(readfirstlane|readlane|writelane)_b32", lane_move),
    (r"v_swap_b32|v_permlane\d+_swap_b32", swap),
)
