"""FLAT loads and stores: the address itself says whether it is of global memory, of LDS or of the lane's private segment.

An address in an aperture (layout.APERTURES) is that much beyond the aperture's base in LDS or in private memory; the lanes of
one access may differ. Beyond the LDS of the workgroup reads give 0 and writes are dropped, each an event, as of a DS
instruction; an address outside of a lane's private segment stops the run, as that of a SCRATCH instruction does.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from backend.cdna.execute import layout as at
from backend.cdna.execute.access import emit_events
from backend.cdna.execute.attributes import note_bad
from backend.cdna.execute.global_memory import Direction, finish_load, transfer
from backend.cdna.execute.lanes import (
    commit_masked,
    context_of,
    record_of,
    rows_of,
    scalar_pair,
    scalars_of,
    unsigned_words_at,
    value64,
)
from backend.cdna.execute.native import handler, inlined
from backend.cdna.execute.races import note_lds_read, note_lds_write
from backend.cdna.execute.transfer import access_bytes, load_lanes, private_address, redirect, store_lanes

ONE = np.uint64(1)
HIGH = np.uint64(32)
SHARED, PRIVATE = at.APERTURES[0] >> 32, at.APERTURES[2] >> 32
_ELSEWHERE_ROWS = at.RESULT_ROWS + 16


@inlined
def fill_flat_addresses(wave: int, record: int, context_address: int) -> Any:
    """Set the working addresses of a FLAT access; the active lanes whose address is beyond the 48 bits of global memory."""
    context, fields, rows = context_of(context_address), record_of(record), rows_of(wave)
    exec_mask = scalar_pair(scalars_of(wave), at.EXEC)
    addresses = unsigned_words_at(context[at.CTX_ADDRESSES], at.LANES)
    offset = np.uint64(np.int64(fields[at.IMMEDIATE]))
    beyond = np.uint64(0)
    for lane in range(at.LANES):
        addresses[lane] = value64(rows, fields[at.SOURCE_0], lane) + offset
        if addresses[lane] >> np.uint64(48):
            beyond |= ONE << np.uint64(lane)
    return beyond & exec_mask


@inlined
def all_in_apertures(context: Any, lanes: Any, size: int) -> bool:
    """Whether `size` bytes at each lane's address are in the LDS aperture, or in the lane's private segment."""
    addresses = unsigned_words_at(context[at.CTX_ADDRESSES], at.LANES)
    for lane in range(at.LANES):
        if not (lanes >> np.uint64(lane)) & ONE:
            continue
        aperture, place = np.int64(addresses[lane] >> HIGH), np.int64(addresses[lane] & np.uint64(0xFFFF_FFFF))
        if aperture != SHARED and (aperture != PRIVATE or place + size > context[at.CTX_SCRATCH_BYTES]):
            return False
    return True


@inlined
def place_in_apertures(wave: int, record: int, context_address: int, lanes: Any, size: int, is_write: bool) -> Any:
    """Host addresses of the lanes' bytes of LDS and private memory; returns the lanes that have some."""
    context, scalars, fields = context_of(context_address), scalars_of(wave), record_of(record)
    addresses = unsigned_words_at(context[at.CTX_ADDRESSES], at.LANES)
    host = unsigned_words_at(context[at.CTX_HOST], at.LANES)
    in_lds, in_private = np.uint64(0), np.uint64(0)
    for lane in range(at.LANES):
        bit = ONE << np.uint64(lane)
        if not lanes & bit:
            continue
        place = np.int64(addresses[lane] & np.uint64(0xFFFF_FFFF))
        if np.int64(addresses[lane] >> HIGH) == PRIVATE:
            host[lane] = private_address(context, scalars, lane, place)
            in_private |= bit
        elif place + size <= context[at.CTX_LDS_BYTES]:
            host[lane] = np.uint64(context[at.CTX_LDS] + place)
            in_lds |= bit
        else:
            note_bad(context, at.KIND_LDS_OUT_OF_BOUNDS, lane, place, size, -1)
    if (in_lds | in_private) != lanes:
        emit_events(context, scalars, fields, size, is_write, False)
    if context[at.CTX_FLAGS] & at.RUN_HAZARDS:
        if is_write:
            note_lds_write(wave, record, context_address, in_lds, size)
        else:
            note_lds_read(wave, record, context_address, in_lds, size)
    return in_lds | in_private


@inlined
def move_in_apertures(wave: int, record: int, context_address: int, lanes: Any) -> None:
    """The access of the lanes that are not in global memory; loads join those of the others in the result rows."""
    context, fields = context_of(context_address), record_of(record)
    width, dwords = fields[at.OPCODE] & 15, fields[at.COUNT] & 0xFF
    is_write = fields[at.OPCODE] >> 4 == Direction.STORE
    good = place_in_apertures(wave, record, context_address, lanes, access_bytes(width, dwords), is_write)
    if fields[at.COUNT] & at.ADDRESSES_ONLY:
        return
    if is_write:
        redirect(context, good, context[at.CTX_SINK_BLOCK])
        store_lanes(wave, context, width, dwords, fields[at.DESTINATION])
        return
    redirect(context, good, context[at.CTX_ZERO_BLOCK])
    load_lanes(wave, context, width, dwords, _ELSEWHERE_ROWS, fields[at.DESTINATION])
    commit_masked(rows_of(wave), at.RESULT_ROWS, _ELSEWHERE_ROWS, dwords, lanes)


@handler
def flat_access(wave: int, record: int, context_address: int) -> None:
    """FLAT loads and stores. SOURCE_0: row of the address's pair. DESTINATION: row of the data."""
    context, scalars, fields = context_of(context_address), scalars_of(wave), record_of(record)
    dwords = fields[at.COUNT] & 0xFF
    exec_mask = scalar_pair(scalars, at.EXEC)
    elsewhere = fill_flat_addresses(wave, record, context_address)
    if elsewhere != np.uint64(0) and not all_in_apertures(context, elsewhere, access_bytes(fields[at.OPCODE] & 15, dwords)):
        context[at.CTX_UNMODELLED] = fields[at.ORIGINAL]
        scalars[at.STATUS] = at.STATUS_UNMODELLED
        return
    transfer(wave, record, context_address, exec_mask & ~elsewhere, np.uint64(0), 0, dwords, at.RESULT_ROWS)
    if elsewhere:
        move_in_apertures(wave, record, context_address, elsewhere)
    finish_load(wave, record, context_address, exec_mask)
