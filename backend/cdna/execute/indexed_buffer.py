"""MUBUF addressed by an index (idxen): the address is base + soffset + index * stride + offset.

Range check of a descriptor with a stride: an index at or beyond num_records, which counts strides here, is out of range with
all that it accesses. AITER's attention-backward kernels rely on it: their num_records is bytes divided by their stride of 4. A
stride of 0 leaves the check by bytes. Swizzled descriptors, and those that add the thread's id, have no model.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from backend.cdna.execute import layout as at
from backend.cdna.execute.access import emit_events, nearest_region
from backend.cdna.execute.atomics import atomic_at_addresses, stop
from backend.cdna.execute.attributes import note_bad
from backend.cdna.execute.global_memory import (
    ADDRESS_MASK,
    ONE,
    Direction,
    R,
    descriptor_is_raw,
    finish_load,
    transfer,
)
from backend.cdna.execute.lanes import context_of, record_of, rows_of, scalar_pair, scalars_of, unsigned_words_at
from backend.cdna.execute.native import handler, inlined
from backend.cdna.execute.transfer import access_bytes


@inlined
def fill_indexed(wave: int, record: int, context_address: int, size: int, is_write: bool) -> tuple[Any, bool]:
    """Working addresses of all lanes. Returns the enabled lanes that the descriptor cuts off, whose events are out, and whether
    there is a model. SOURCE_0: row of the index, the offset's behind it where COUNT says INDEX_AND_OFFSET."""
    context, scalars, fields = context_of(context_address), scalars_of(wave), record_of(record)
    rows = rows_of(wave)
    descriptor = fields[at.SOURCE_1]
    exec_mask = scalar_pair(scalars, at.EXEC)
    base = scalar_pair(scalars, descriptor) & ADDRESS_MASK
    stride = np.uint64((scalars[descriptor + 1] >> np.uint32(16)) & np.uint32(0x3FFF))
    limit, soffset = np.uint64(scalars[descriptor + 2]), np.uint64(scalars[fields[at.SOURCE_2]])
    addresses = unsigned_words_at(context[at.CTX_ADDRESSES], at.LANES)
    row = fields[at.SOURCE_0]
    clamped, modelled = np.uint64(0), descriptor_is_raw(scalars, descriptor)
    for lane in range(at.LANES):
        offset = np.uint32(fields[at.IMMEDIATE])
        if fields[at.COUNT] & at.INDEX_AND_OFFSET:
            offset += rows[row + 1, lane]
        index = np.uint64(rows[row, lane])
        place = soffset + np.uint64(np.uint32(offset)) + index * stride
        addresses[lane] = (base + place) & ADDRESS_MASK
        if not (exec_mask >> np.uint64(lane)) & ONE:
            continue
        beyond = index >= limit if stride else place + np.uint64(size) > limit
        if beyond and not stride and place < limit:
            modelled = False  # a part of an access, by bytes
        if beyond and modelled:
            clamped |= ONE << np.uint64(lane)
            note_bad(context, at.KIND_CLAMPED, lane, np.int64(addresses[lane]), size, nearest_region(context, np.int64(base)))
    if clamped:
        emit_events(context, scalars, fields, size, is_write, False)
    return clamped, modelled


@handler
def indexed_access(wave: int, record: int, context_address: int) -> None:
    """Runs loads, stores and LDS-DMA, otherwise as global_memory.buffer_access."""
    context, scalars, fields = context_of(context_address), scalars_of(wave), record_of(record)
    dwords = fields[at.COUNT] & 0xFF
    size = access_bytes(fields[at.OPCODE] & 15, dwords)
    clamped, modelled = fill_indexed(wave, record, context_address, size, fields[at.OPCODE] >> 4 == Direction.STORE)
    if not modelled:
        stop(context, scalars, fields)
        return
    exec_mask = scalar_pair(scalars, at.EXEC)
    transfer(wave, record, context_address, exec_mask & ~clamped, clamped, 0, dwords, R)
    finish_load(wave, record, context_address, exec_mask)


@handler
def indexed_atomic(wave: int, record: int, context_address: int) -> None:
    """Runs atomics, otherwise as atomics.buffer_atomic."""
    context, scalars, fields = context_of(context_address), scalars_of(wave), record_of(record)
    clamped, modelled = fill_indexed(wave, record, context_address, 4 * (fields[at.COUNT] & 0xFF), True)
    if not modelled:
        stop(context, scalars, fields)
        return
    atomic_at_addresses(wave, record, context_address, scalar_pair(scalars, at.EXEC) & ~clamped, clamped)
