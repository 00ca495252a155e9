"""Moving data between lanes and host memory, for every kind of memory: each lane has a host address, and that is all it needs.

Lanes without data point to a block of poison or zeros, stores that are dropped to a sink, so nothing here branches on them.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Any

import numpy as np

from backend.cdna.execute import layout as at
from backend.cdna.execute.lanes import (
    ALL_LANES,
    commit_masked,
    rows_of,
    unsigned_words_at,
)
from backend.cdna.execute.native import inlined, view_u8, view_u16, view_u32
from backend.cdna.execute.pending import postpone

R = at.RESULT_ROWS


Width = IntEnum(
    "Width",
    "DWORDS UBYTE SBYTE USHORT SSHORT UBYTE_D16 UBYTE_D16_HI SBYTE_D16 SBYTE_D16_HI SHORT_D16 SHORT_D16_HI",
    start=0,
)
"""How one lane's data lie in memory and in its registers. DWORDS: COUNT of them."""


@inlined
def access_bytes(width: int, dwords: int) -> int:
    """Gives the bytes of one lane's access."""
    if width == Width.DWORDS:
        return 4 * dwords
    if width == Width.USHORT or width == Width.SSHORT or width == Width.SHORT_D16 or width == Width.SHORT_D16_HI:
        return 2
    return 1


@inlined
def private_address(context: Any, scalars: Any, lane: int, offset: int) -> Any:
    """The host address of a byte of a lane's private segment, by its offset there in bytes; the caller holds it within."""
    segment = np.int64(scalars[at.WAVE_INDEX]) * at.LANES + lane
    return np.uint64(context[at.CTX_SCRATCH] + segment * context[at.CTX_SCRATCH_BYTES] + offset)


@inlined
def redirect(context: Any, mask: Any, block: int) -> None:
    """Let the lanes outside `mask`, and those without data, use `block`."""
    host = unsigned_words_at(context[at.CTX_HOST], at.LANES)
    replacement = np.uint64(block)
    for lane in range(at.LANES):
        inside = (mask >> np.uint64(lane)) & np.uint64(1) != np.uint64(0)
        host[lane] = host[lane] if inside and host[lane] != np.uint64(0) else replacement


@inlined
def redirect_lanes(context: Any, mask: Any, block: int) -> None:
    """Makes the lanes of `mask` use `block`."""
    host = unsigned_words_at(context[at.CTX_HOST], at.LANES)
    for lane in range(at.LANES):
        if (mask >> np.uint64(lane)) & np.uint64(1):
            host[lane] = np.uint64(block)


@inlined
def load_byte(host: Any) -> int:
    """Loads the byte at a host address."""
    return np.int64(view_u8(np.int64(host), (1,))[0])


@inlined
def load_short(host: Any) -> int:
    """Loads the 16 bits at a host address."""
    return np.int64(view_u16(np.int64(host), (1,))[0])


@inlined
def load_lanes(wave: int, context: Any, width: int, dwords: int, target: int, old: int) -> None:
    """Load every lane into rows `target`... `old` is the register row whose other half a D16 load keeps."""
    rows = rows_of(wave)
    host = unsigned_words_at(context[at.CTX_HOST], at.LANES)
    if width == Width.DWORDS:
        for index in range(dwords):
            for lane in range(at.LANES):
                rows[target + index, lane] = view_u32(np.int64(host[lane]) + 4 * index, (1,))[0]
        return
    for lane in range(at.LANES):
        kept = np.int64(rows[old, lane])
        if width == Width.UBYTE:
            value = load_byte(host[lane])
        elif width == Width.SBYTE:
            value = (load_byte(host[lane]) ^ 0x80) - 0x80
        elif width == Width.USHORT:
            value = load_short(host[lane])
        elif width == Width.SSHORT:
            value = (load_short(host[lane]) ^ 0x8000) - 0x8000
        elif width == Width.UBYTE_D16:
            value = (kept & 0xFFFF_0000) | load_byte(host[lane])
        elif width == Width.UBYTE_D16_HI:
            value = (kept & 0xFFFF) | (load_byte(host[lane]) << 16)
        elif width == Width.SBYTE_D16:
            value = (kept & 0xFFFF_0000) | (((load_byte(host[lane]) ^ 0x80) - 0x80) & 0xFFFF)
        elif width == Width.SBYTE_D16_HI:
            value = (kept & 0xFFFF) | (((load_byte(host[lane]) ^ 0x80) - 0x80) << 16)
        elif width == Width.SHORT_D16:
            value = (kept & 0xFFFF_0000) | load_short(host[lane])
        else:
            value = (kept & 0xFFFF) | (load_short(host[lane]) << 16)
        rows[target, lane] = np.uint32(value & 0xFFFF_FFFF)


@inlined
def store_lanes(wave: int, context: Any, width: int, dwords: int, source: int) -> None:
    """Store every lane from rows `source`..."""
    rows = rows_of(wave)
    host = unsigned_words_at(context[at.CTX_HOST], at.LANES)
    if width == Width.DWORDS:
        for lane in range(at.LANES):
            for index in range(dwords):
                view_u32(np.int64(host[lane]) + 4 * index, (1,))[0] = rows[source + index, lane]
        return
    shift = 16 if width == Width.UBYTE_D16_HI or width == Width.SHORT_D16_HI else 0
    for lane in range(at.LANES):
        value = np.int64(rows[source, lane]) >> shift
        if width == Width.UBYTE or width == Width.UBYTE_D16_HI:
            view_u8(np.int64(host[lane]), (1,))[0] = np.uint8(value & 0xFF)
        else:
            view_u16(np.int64(host[lane]), (1,))[0] = np.uint16(value & 0xFFFF)


@inlined
def deliver(wave: int, context: Any, destination: int, dwords: int, exec_mask: Any, queue: int) -> None:
    """Give loaded rows to their registers: at once, or in the timed schedule when memory has answered."""
    rows = rows_of(wave)
    if context[at.CTX_FLAGS] & at.RUN_TIMED:
        postpone(wave, context, queue, at.PENDING_TO_ROWS, destination, dwords, exec_mask)
    elif exec_mask == ALL_LANES:
        for index in range(dwords):
            for lane in range(at.LANES):
                rows[destination + index, lane] = rows[R + index, lane]
    else:
        commit_masked(rows, destination, R, dwords, exec_mask)
