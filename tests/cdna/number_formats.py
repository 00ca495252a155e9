"""bf16 and the 8-bit floats in numpy, from their definitions (OCP 8-bit specification; fnuz: one bias more, no -0, no
infinity).

Tables of all values and a search for the nearest one: slow, and independent of how the machine converts.
"""

from __future__ import annotations

from functools import cache

import numpy as np
from numpy.typing import NDArray

FLOAT8_FORMATS = {"e4m3": (4, 3), "e5m2": (5, 2)}


@cache
def float8_table(name: str, fnuz: bool) -> NDArray[np.float64]:
    """Value of each of the 256 codes."""
    exponent_bits, fraction_bits = FLOAT8_FORMATS[name]
    bias = (1 << (exponent_bits - 1)) - (0 if fnuz else 1)
    values = np.zeros(256)
    for code in range(256):
        sign = -1.0 if code & 0x80 else 1.0
        exponent, fraction = code >> fraction_bits & ((1 << exponent_bits) - 1), code & ((1 << fraction_bits) - 1)
        if exponent == 0:
            value = fraction * 2.0 ** (1 - bias - fraction_bits)
        else:
            value = (1 + fraction / (1 << fraction_bits)) * 2.0 ** (exponent - bias)
        values[code] = sign * value
    if fnuz:
        values[0x80] = np.nan
    elif name == "e4m3":
        values[[0x7F, 0xFF]] = np.nan
    else:
        values[[0x7C, 0xFC]] = np.inf, -np.inf
        values[[0x7D, 0x7E, 0x7F, 0xFD, 0xFE, 0xFF]] = np.nan
    return values


def decode_float8(codes: NDArray[np.uint8], name: str, fnuz: bool) -> NDArray[np.float32]:
    """Values of codes."""
    return float8_table(name, fnuz)[codes].astype(np.float32)


def encode_float8(values: NDArray[np.floating], name: str, fnuz: bool) -> NDArray[np.uint8]:
    """Codes of the nearest values, ties to the even code; what rounds beyond the largest gives NaN (infinity in OCP e5m2)."""
    table = float8_table(name, fnuz)
    positive = np.arange(0x80)[np.isfinite(table[:0x80])]
    magnitudes = table[positive]
    beyond = magnitudes[-1] + (magnitudes[-1] - magnitudes[-2])
    points = np.append(magnitudes, beyond)
    size = np.abs(np.asarray(values, np.float64))
    upper = np.clip(np.searchsorted(points, size), 1, len(points) - 1)
    low, high = points[upper - 1], points[upper]
    nearer_high = (size - low > high - size) | ((size - low == high - size) & (upper % 2 == 0))
    code = np.where(size >= beyond, len(points) - 1, np.where(nearer_high, upper, upper - 1))
    sign = np.where(np.signbit(values), 0x80, 0)
    result = np.where(code == len(points) - 1, _overflow(name, fnuz), code) | sign
    if fnuz:
        result = np.where(result == 0x80, 0, result)
        result = np.where((code == len(points) - 1) | np.isnan(values), 0x80, result)
    else:
        result = np.where(np.isnan(values), 0x7F | sign, result)
    return result.astype(np.uint8)


def _overflow(name: str, fnuz: bool) -> int:
    if fnuz:
        return 0x80
    return 0x7F if name == "e4m3" else 0x7C


def encode_bfloat16(values: NDArray[np.floating]) -> NDArray[np.uint16]:
    """The nearest bf16, ties to even."""
    bits = np.asarray(values, np.float32).view(np.uint32).astype(np.uint64)
    return ((bits + 0x7FFF + (bits >> 16 & 1)) >> 16).astype(np.uint16)


def decode_bfloat16(codes: NDArray[np.uint16]) -> NDArray[np.float32]:
    """Values of bf16 codes."""
    return (codes.astype(np.uint32) << 16).view(np.float32)
