"""From a call to the key that AITER's launcher looks up in its kernel table, and to what it tells the kernel of the shape.

One rule a release, written from mla_decode_stage1_asm_fwd in csrc/py_itfs_cu/asm_mla.cu. The launcher pads query lengths,
borrows kernels made for other head counts and refuses some shapes before it looks anything up; which kernels exist is not
known here (backend/aiter/kernels.py).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

from backend.case import Arch, DType


class KernelKey(NamedTuple):
    """What the launcher is called with, after folding. gqa_ratio: q heads a KV head (there is one KV head).

    causal: as the caller asks for it. round_robin: the call of a rank of a context-parallel group.
    """

    q_dtype: DType
    kv_dtype: DType
    gqa_ratio: int
    persistent: bool
    max_seqlen_q: int
    return_lse: bool
    causal: bool = True
    round_robin: bool = False


@dataclass(frozen=True, slots=True)
class Route:
    """The table key that a call leads to.

    gqa_ratio, max_seqlen_q: of the table's row (max_seqlen_q 0: a row for any), persistent, lse: its flags.
    sub_q: packed rows (query x head) of one workgroup in x, for the grid of a non-persistent launch.
    s_mqa: what the kernel is told as s_MQA.
    """

    gqa_ratio: int
    max_seqlen_q: int
    persistent: bool
    lse: bool
    sub_q: int
    s_mqa: int


class NoRoute(NamedTuple):
    """The launcher raises before it looks for a kernel."""

    reason: str


RouteRule = Callable[[Arch, KernelKey], Route | NoRoute]
"""The launcher's way from a call to a table key."""


def route_2026_06(arch: Arch, key: KernelKey) -> Route | NoRoute:
    """The rule of 2026-06."""
    return _route_2026(arch, key, newest=False)


def route_2026_08(arch: Arch, key: KernelKey) -> Route | NoRoute:
    """The rule of 2026-08."""
    return _route_2026(arch, key, newest=True)


def _route_2026(arch: Arch, key: KernelKey, newest: bool) -> Route | NoRoute:
    """Both rules of 2026. newest: that of 2026-08, here and in what follows."""
    tile = _tile_2026(arch, key, newest)
    if isinstance(tile, NoRoute):
        return tile
    override = _borrowed_gfx950(key, newest) if arch is Arch.GFX950 and key.persistent else None
    gqa_ratio, qlen, sub_q, s_mqa = override or tile
    without_ps = key.gqa_ratio == 128 and _both(key) is DType.BF16 and arch is Arch.GFX942
    lse = key.return_lse and (key.persistent or not newest)
    return Route(gqa_ratio, qlen, key.persistent and not without_ps, lse, sub_q, s_mqa)


class _Tile(NamedTuple):
    gqa_ratio: int
    max_seqlen_q: int
    sub_q: int
    s_mqa: int


def _both(key: KernelKey) -> DType | None:
    """The dtype of q and KV where it is one and the same."""
    return key.q_dtype if key.q_dtype is key.kv_dtype else None


def route_2025_11(arch: Arch, key: KernelKey) -> Route | NoRoute:
    """The rule of 2025-11, the same on both architectures."""
    gqa_ratio, qlen = key.gqa_ratio, key.max_seqlen_q
    sub_q, persistent = 128, key.persistent
    if gqa_ratio == 128:
        row_qlen = 0
        persistent = persistent and key.q_dtype is DType.FP8
    elif key.q_dtype is DType.FP8:
        if gqa_ratio == 16 and qlen > 4:
            return NoRoute("fp8 q with 16 heads is for max_seqlen_q <= 4 only")
        row_qlen = 4 if qlen == 3 else qlen
    elif key.persistent:
        row_qlen = 4 if qlen <= 4 else qlen
    else:
        row_qlen = 1 if qlen == 1 else 4 if qlen <= 4 else 8
        sub_q = 16 if qlen == 1 else 128
    return Route(gqa_ratio, row_qlen, persistent, False, sub_q, gqa_ratio * qlen)


def _tile_2026(arch: Arch, key: KernelKey, newest: bool) -> _Tile | NoRoute:
    """What the launcher sets by head count, before gfx950's borrowed kernels (`_borrowed_gfx950`) override it."""
    gqa_ratio, qlen = key.gqa_ratio, key.max_seqlen_q
    default = _Tile(gqa_ratio, qlen, 128, gqa_ratio * qlen)
    if gqa_ratio == 128:
        return default._replace(max_seqlen_q=0)
    if gqa_ratio == 16:
        return _tile_16_heads(arch, key, newest, default)
    if gqa_ratio == 32:
        return _tile_32_heads(arch, key, newest, default)
    if gqa_ratio == 64:
        if _both(key) is DType.BF16 and not key.persistent:
            return default._replace(max_seqlen_q=1 if qlen == 1 else 0, sub_q=64)
        if _both(key) is DType.FP8:
            if not key.persistent:
                return NoRoute("fp8 with 64 heads is for persistent mode only")
            return default._replace(max_seqlen_q=1 if qlen == 1 else 4)
    if gqa_ratio == 8 and not key.persistent:
        return _tile_8_heads(key, newest, default)
    return default


def _tile_16_heads(arch: Arch, key: KernelKey, newest: bool, default: _Tile) -> _Tile | NoRoute:
    qlen = key.max_seqlen_q
    if key.q_dtype is DType.FP8:
        if qlen <= 2:
            return default
        if qlen <= 4:
            return default._replace(max_seqlen_q=4, sub_q=64)
        if newest and key.persistent and arch is Arch.GFX950:
            return default._replace(gqa_ratio=32, max_seqlen_q=4, s_mqa=key.gqa_ratio)
        return NoRoute("fp8 q with 16 heads is for max_seqlen_q <= 4 only" + (" (or persistent on gfx950)" if newest else ""))
    if key.persistent:
        return default._replace(max_seqlen_q=4) if qlen <= 4 else default
    if key.kv_dtype is DType.FP8:
        return default
    if qlen == 1:
        return default._replace(sub_q=16)
    return default._replace(max_seqlen_q=4 if qlen <= 4 else 8)


def _tile_32_heads(arch: Arch, key: KernelKey, newest: bool, default: _Tile) -> _Tile | NoRoute:
    qlen = key.max_seqlen_q
    if _both(key) is DType.BF16:
        if not key.persistent:
            return default._replace(max_seqlen_q=0, sub_q=64)
        if not newest and qlen == 1:
            return default._replace(max_seqlen_q=4, s_mqa=key.gqa_ratio)
        return default
    if _both(key) is not DType.FP8:
        return default
    if not newest:
        if key.persistent and qlen in (2, 4):
            return default
        return NoRoute("fp8 with 32 heads is for persistent mode with max_seqlen_q 2 or 4 only")
    if qlen == 1:
        return default._replace(sub_q=32)
    if key.persistent and qlen == 2:
        return default
    if key.persistent and qlen >= 3 and arch is Arch.GFX950:
        return default._replace(max_seqlen_q=4)
    return NoRoute("fp8 with 32 heads is for max_seqlen_q 1, persistent mode with 2, or persistent on gfx950")


def _tile_8_heads(key: KernelKey, newest: bool, default: _Tile) -> _Tile:
    qlen = key.max_seqlen_q
    if _both(key) is DType.BF16:
        if not newest:
            return default._replace(max_seqlen_q=1, sub_q=8)
        if qlen == 1:
            return default._replace(sub_q=8)
        if qlen == 2:
            return default._replace(sub_q=16, s_mqa=key.gqa_ratio)
    elif _both(key) is DType.FP8 and qlen == 1:
        return default._replace(sub_q=8)
    return default


def _borrowed_gfx950(key: KernelKey, newest: bool) -> _Tile | None:
    """Persistent kernels of gfx950 that serve other head counts than they are named for: told heads, not rows, as s_MQA."""
    gqa_ratio, qlen = key.gqa_ratio, key.max_seqlen_q
    rows = gqa_ratio * qlen
    for_32x4 = _Tile(32, 4, 128, gqa_ratio)
    if _both(key) is DType.BF16:
        if (rows >= 128 or gqa_ratio > 64) and gqa_ratio != 48:
            return for_32x4
        if newest:
            for_64 = rows >= 64 or gqa_ratio >= 16
        else:
            for_64 = (rows >= 64 or gqa_ratio > 16) and rows != 32
        return _Tile(64, 1, 128, gqa_ratio) if for_64 else None
    if _both(key) is not DType.FP8:
        return None
    if gqa_ratio == 128:
        return for_32x4
    if not newest:
        return for_32x4 if (gqa_ratio == 32 and qlen == 4) or (gqa_ratio == 64 and 2 <= qlen <= 4) else None
    if (gqa_ratio == 32 and qlen >= 4) or (gqa_ratio == 64 and qlen >= 2):
        return for_32x4
    if (gqa_ratio, qlen) in ((16, 3), (16, 4), (32, 2), (32, 3), (64, 1)):
        return _Tile(16, 4, 128, gqa_ratio)
    return None
