"""The numbers that q and the KV pool hold: a function of (seed, tensor, element), the same on every machine and device.

Element i of a stream is a quantile of the standard normal distribution, chosen by an integer hash of i, so that a tensor of any
size is made where it is needed and a row of it can be made again elsewhere. Knows no kernel.
"""

from __future__ import annotations

import functools
import statistics

import torch

from backend.case import Arch, DType

RAW_TYPE = {DType.FP8: torch.uint8, DType.BF16: torch.int16}
"""Type of the raw elements."""

QUERY_STREAM, KV_STREAM = 0, 1
"""Streams of q and of the KV pool, on every device."""

FP8_NAN = {False: 0x7F, True: 0x80}
"""NaN byte of e4m3fn and of e4m3fnuz (key: fnuz)."""


def is_fnuz(arch: Arch) -> bool:
    """Whether an architecture's fp8 is e4m3fnuz (gfx942) or e4m3fn, OCP (gfx950)."""
    return arch is Arch.GFX942


@functools.cache
def fp8_values(fnuz: bool) -> torch.Tensor:
    """float64 value of each of the 256 fp8 bytes (OCP 8-bit floating point specification; fnuz: bias 8, one NaN, no -0)."""
    byte = torch.arange(256, dtype=torch.int64)
    sign = torch.where(byte >= 128, -1.0, 1.0).to(torch.float64)
    exponent, fraction = (byte >> 3) & 15, (byte & 7).to(torch.float64)
    bias = 8 if fnuz else 7
    normal = (1 + fraction / 8) * torch.pow(2.0, (exponent - bias).to(torch.float64))
    subnormal = fraction / 8 * 2.0 ** (1 - bias)
    values = sign * torch.where(exponent == 0, subnormal, normal)
    values[FP8_NAN[fnuz]] = float("nan")
    if not fnuz:
        values[0xFF] = float("nan")
    return values


@functools.cache
def _fp8_quantiles(fnuz: bool) -> torch.Tensor:
    """256 bytes: the fp8 numbers nearest to the normal quantiles at (i + 1/2) / 256."""
    wanted = torch.tensor([statistics.NormalDist().inv_cdf((i + 0.5) / 256) for i in range(256)], dtype=torch.float64)
    distance = (fp8_values(fnuz)[None, :] - wanted[:, None]).abs().nan_to_num(nan=float("inf"))
    return distance.argmin(1).to(torch.uint8)


@functools.cache
def _bf16_quantiles() -> torch.Tensor:
    """4096 bf16 numbers, the normal quantiles at (i + 1/2) / 4096, as int16 bits."""
    wanted = [statistics.NormalDist().inv_cdf((i + 0.5) / 4096) for i in range(4096)]
    return torch.tensor(wanted, dtype=torch.float64).to(torch.bfloat16).view(torch.int16)


def fill(tensor: torch.Tensor, dtype: DType, fnuz: bool, seed: int, stream: int, first: int = 0) -> None:
    """Fills a contiguous tensor of raw elements (uint8 for fp8, int16 for bf16) with stream `stream` of `seed`.

    first: number of the tensor's first element in the stream.
    """
    flat = tensor.view(-1)
    for begin in range(0, flat.numel(), _CHUNK):
        count = min(_CHUNK, flat.numel() - begin)
        element = torch.arange(first + begin, first + begin + count, dtype=torch.int64, device=tensor.device)
        flat[begin : begin + count] = _values(element, dtype, fnuz, seed, stream)


def fill_rows(tensor: torch.Tensor, rows: torch.Tensor, dtype: DType, fnuz: bool, seed: int, stream: int) -> None:
    """Fills rows (numbers, int64) of a contiguous [rows, elements] tensor of raw elements, as `fill` fills the whole."""
    width = tensor.shape[1]
    column = torch.arange(width, dtype=torch.int64, device=tensor.device)
    step = max(1, _CHUNK // width)
    for begin in range(0, len(rows), step):
        some = rows[begin : begin + step]
        tensor[some] = _values(some[:, None] * width + column, dtype, fnuz, seed, stream)


def stream_key(seed: int, stream: int) -> int:
    """What a stream's hash starts from, 32 bits."""
    return (seed * 0x9E3779B1 + stream * 0x85EBCA77 + 0x165667B1) & _MASK


def _values(element: torch.Tensor, dtype: DType, fnuz: bool, seed: int, stream: int) -> torch.Tensor:
    """Raw values of elements, by their numbers, which are overwritten."""
    table = quantiles(dtype, fnuz, element.device)
    return table[_hash(element, seed, stream).bitwise_and_(len(table) - 1)]


@functools.cache
def quantiles(dtype: DType, fnuz: bool, device: torch.device) -> torch.Tensor:
    """Raw elements that a stream picks from; their number is a power of two."""
    return (_fp8_quantiles(fnuz) if dtype is DType.FP8 else _bf16_quantiles()).to(device)


@functools.cache
def _fp8_values_on(fnuz: bool, device: torch.device) -> torch.Tensor:
    return fp8_values(fnuz).to(device)


_CHUNK = 1 << 25
"""Elements made at a time: 8-byte intermediates of 256 MiB."""

_MASK = 0xFFFFFFFF


def as_float64(raw: torch.Tensor, dtype: DType, fnuz: bool) -> torch.Tensor:
    """Values of raw elements."""
    if dtype is DType.FP8:
        return _fp8_values_on(fnuz, raw.device)[raw.int()]
    return raw.view(torch.bfloat16).double()


def _hash(index: torch.Tensor, seed: int, stream: int) -> torch.Tensor:
    """32-bit finaliser of MurmurHash3 over the element's number; int64 in which every step stays below 2^63. In place."""
    key = stream_key(seed, stream)
    high = index >> 32
    mixed = index.bitwise_and_(_MASK).bitwise_xor_(key).add_(high).bitwise_and_(_MASK)
    for shift, factor in ((16, 0x45D9F3B), (15, 0x45D9F3B), (16, 1)):
        mixed.bitwise_xor_(mixed >> shift).mul_(factor).bitwise_and_(_MASK)
    return mixed.bitwise_right_shift_(7)
