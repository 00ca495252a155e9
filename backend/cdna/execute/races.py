"""LDS races: a dword that two waves use, one of them writing, with no barrier between. Runs only where hazards are asked for.

Each LDS dword remembers its last writer and the readers since, with the number of barriers that the workgroup had passed.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from backend.cdna.execute import layout as at
from backend.cdna.execute.lanes import context_of, record_of, scalars_of, unsigned_words_at, words_at
from backend.cdna.execute.native import inlined, view_i64

ONE = np.uint64(1)


@inlined
def race_found(context: Any, kind: int, producer: int, consumer: int, dword: int, waves: int) -> None:
    """Reports a pair of instructions, once each pair."""
    count = context[at.CTX_RACE_COUNT]
    for index in range(count):
        known = words_at(context[at.CTX_RACES] + index * at.RACE_WORDS * 8, at.RACE_WORDS)
        if known[at.RACE_KIND] == kind and known[at.RACE_PRODUCER] == producer and known[at.RACE_CONSUMER] == consumer:
            known[at.RACE_TIMES] += 1
            return
    if count >= context[at.CTX_RACE_CAPACITY]:
        return
    race = words_at(context[at.CTX_RACES] + count * at.RACE_WORDS * 8, at.RACE_WORDS)
    race[at.RACE_KIND] = kind
    race[at.RACE_PRODUCER] = producer
    race[at.RACE_CONSUMER] = consumer
    race[at.RACE_DWORD] = dword
    race[at.RACE_WAVES] = waves
    race[at.RACE_WORKGROUP] = context[at.CTX_WORKGROUP]
    race[at.RACE_TIMES] = 1
    context[at.CTX_RACE_COUNT] = count + 1


@inlined
def note_dword(context: Any, dword: int, wave_index: int, original: int, is_write: bool) -> None:
    """Notes that one wave uses one LDS dword; `original` is the instruction."""
    shadow = view_i64(context[at.CTX_LDS_SHADOW] + dword * at.SHADOW_WORDS * 8, (at.SHADOW_WORDS,))
    epoch = context[at.CTX_BARRIERS] + 1
    if shadow[at.SHADOW_WRITE_EPOCH] == epoch and shadow[at.SHADOW_WRITER] != wave_index:
        kind = at.RACE_WRITE_WRITE if is_write else at.RACE_WRITE_READ
        race_found(context, kind, shadow[at.SHADOW_WRITE_PC], original, dword, shadow[at.SHADOW_WRITER] << 8 | wave_index)
    if is_write:
        others = shadow[at.SHADOW_READERS] & ~(1 << wave_index)
        if shadow[at.SHADOW_READ_EPOCH] == epoch and others:
            race_found(context, at.RACE_READ_WRITE, shadow[at.SHADOW_READ_PC], original, dword, others << 8 | wave_index)
        shadow[at.SHADOW_WRITE_EPOCH] = epoch
        shadow[at.SHADOW_WRITER] = wave_index
        shadow[at.SHADOW_WRITE_PC] = original
        shadow[at.SHADOW_READERS] = 0
        return
    if shadow[at.SHADOW_READ_EPOCH] != epoch:
        shadow[at.SHADOW_READERS] = 0
        shadow[at.SHADOW_READ_EPOCH] = epoch
    shadow[at.SHADOW_READERS] |= 1 << wave_index
    shadow[at.SHADOW_READ_PC] = original


@inlined
def note_lanes(wave: int, record: int, context_address: int, mask: Any, size: int, is_write: bool) -> None:
    """Notes all lanes of a DS instruction; the host addresses say where they are."""
    context, scalars, fields = context_of(context_address), scalars_of(wave), record_of(record)
    host = unsigned_words_at(context[at.CTX_HOST], at.LANES)
    wave_index = np.int64(scalars[at.WAVE_INDEX])
    for lane in range(at.LANES):
        if (mask >> np.uint64(lane)) & ONE:
            first = np.int64(host[lane]) - context[at.CTX_LDS]
            for dword in range(first >> 2, (first + size + 3) >> 2):
                note_dword(context, dword, wave_index, fields[at.ORIGINAL], is_write)


@inlined
def note_lds_read(wave: int, record: int, context_address: int, mask: Any, size: int) -> None:
    """Notes a DS read of `size` bytes a lane."""
    note_lanes(wave, record, context_address, mask, size, False)


@inlined
def note_lds_write(wave: int, record: int, context_address: int, mask: Any, size: int) -> None:
    """Notes a DS write of `size` bytes a lane."""
    note_lanes(wave, record, context_address, mask, size, True)


@inlined
def note_lds_dma(wave: int, record: int, context_address: int, mask: Any, base: int, size: int, apart: int) -> None:
    """An LDS-DMA write: `size` bytes a lane from `base`, lanes `apart` bytes from one another."""
    context, scalars, fields = context_of(context_address), scalars_of(wave), record_of(record)
    wave_index = np.int64(scalars[at.WAVE_INDEX])
    for lane in range(at.LANES):
        if (mask >> np.uint64(lane)) & ONE:
            first = base + lane * apart
            for dword in range(first >> 2, (first + size + 3) >> 2):
                note_dword(context, dword, wave_index, fields[at.ORIGINAL], True)
