"""Moves between lanes, and between vector and scalar registers: DPP selection, permlane, readlane, writelane, swaps."""

from __future__ import annotations

from enum import IntEnum
from typing import Any

import numpy as np

from backend.cdna.execute import layout as at
from backend.cdna.execute.lanes import ALL_LANES, context_of, record_of, rows_of, scalar_pair, scalars_of
from backend.cdna.execute.native import handler, inlined

CrossLane = IntEnum(
    "CrossLane",
    "V_READFIRSTLANE_B32 V_READLANE_B32 V_WRITELANE_B32 V_SWAP_B32 V_PERMLANE16_SWAP_B32 V_PERMLANE32_SWAP_B32",
    start=0,
)
"""Instructions that name a register row as a whole."""


@inlined
def first_lane(mask: Any) -> int:
    """The lowest set lane of a mask, 0 for none (so reads V_READFIRSTLANE with EXEC = 0)."""
    if mask & np.uint64(1):
        return 0
    for lane in range(at.LANES):
        if (mask >> np.uint64(lane)) & np.uint64(1):
            return lane
    return 0


@inlined
def swap(rows: Any, row_a: int, lane_a: int, row_b: int, lane_b: int) -> None:
    """Exchanges the data of two lanes."""
    kept = rows[row_a, lane_a]
    rows[row_a, lane_a] = rows[row_b, lane_b]
    rows[row_b, lane_b] = kept


@inlined
def register_offset(scalars: Any, operand: int) -> int:
    """What gpr-index mode adds to the register number of operand 0..2 (a source) or 3 (the destination)."""
    applies = scalars[at.GPR_INDEX] and (scalars[at.M0] >> np.uint32(12 + operand)) & np.uint32(1)
    return np.int64(scalars[at.M0]) & 0xFF if applies else 0


@handler
def cross_lane(wave: int, record: int, context: int) -> None:
    """Runs the instructions of `CrossLane`. Lane selects come from scalars (SOURCE_1 is a scalar operand code).

    Gpr-index mode moves the vector register of the first three.
    """
    fields = record_of(record)
    opcode = fields[at.OPCODE]
    rows, scalars = rows_of(wave), scalars_of(wave)
    destination, source = fields[at.DESTINATION], fields[at.SOURCE_0]
    exec_mask = scalar_pair(scalars, at.EXEC)
    if opcode == CrossLane.V_READFIRSTLANE_B32:
        scalars[destination] = rows[source + register_offset(scalars, 0), first_lane(exec_mask)]
    elif opcode == CrossLane.V_READLANE_B32:
        lane = scalars[fields[at.SOURCE_1] - at.SCALAR_OPERAND] & np.uint32(63)
        scalars[destination] = rows[source + register_offset(scalars, 0), lane]
    elif opcode == CrossLane.V_WRITELANE_B32:
        lane = scalars[fields[at.SOURCE_1] - at.SCALAR_OPERAND] & np.uint32(63)
        rows[destination + register_offset(scalars, 3), lane] = scalars[source - at.SCALAR_OPERAND]
    elif opcode == CrossLane.V_SWAP_B32:
        for lane in range(at.LANES):
            if (exec_mask >> np.uint64(lane)) & np.uint64(1):
                swap(rows, destination, lane, source, lane)
    else:
        distance = 32 if opcode == CrossLane.V_PERMLANE32_SWAP_B32 else 16
        if not swap_apart(rows, destination, source, distance, exec_mask):
            context_of(context)[at.CTX_UNMODELLED] = fields[at.ORIGINAL]
            scalars[at.STATUS] = at.STATUS_UNMODELLED


@inlined
def swap_apart(rows: Any, destination: int, source: int, distance: int, exec_mask: Any) -> bool:
    """V_PERMLANE16_SWAP and 32: exchange lane n of `source` with lane n + distance of `destination`, n without that bit.

    Where EXEC enables both, that is; False and nothing changed where it enables one of two, which documents do not settle.
    """
    for lane in range(at.LANES):
        partner = lane ^ distance
        if (exec_mask >> np.uint64(lane)) & np.uint64(1) != (exec_mask >> np.uint64(partner)) & np.uint64(1):
            return False
    for lane in range(at.LANES):
        if not lane & distance and (exec_mask >> np.uint64(lane)) & np.uint64(1):
            swap(rows, destination, lane + distance, source, lane)
    return True


# DPP_CTRL values (ISA document, "DPP controls").
DPP_QUAD_PERM_LAST = 0xFF
DPP_ROW_SHL = 0x100
DPP_ROW_SHR = 0x110
DPP_ROW_ROR = 0x120
DPP_WAVE_SHL1 = 0x130
DPP_WAVE_ROL1 = 0x134
DPP_WAVE_SHR1 = 0x138
DPP_WAVE_ROR1 = 0x13C
DPP_ROW_MIRROR = 0x140
DPP_ROW_HALF_MIRROR = 0x141
DPP_ROW_BCAST15 = 0x142
DPP_ROW_BCAST31 = 0x143
DPP_ROW_NEWBCAST = 0x150


@inlined
def dpp_source_lane(control: int, lane: int) -> int:
    """The lane that `lane` reads under a DPP control, -1 where there is none."""
    row, place = lane & 48, lane & 15
    if control <= DPP_QUAD_PERM_LAST:
        return (lane & 60) | ((control >> (2 * (lane & 3))) & 3)
    amount = control & 15
    if control < DPP_ROW_SHR:
        return row | (place + amount) if place + amount < 16 else -1
    if control < DPP_ROW_ROR:
        return row | (place - amount) if place >= amount else -1
    if control < DPP_WAVE_SHL1:
        return row | ((place - amount) & 15)
    if control == DPP_WAVE_SHL1:
        return lane + 1 if lane < 63 else -1
    if control == DPP_WAVE_ROL1:
        return (lane + 1) & 63
    if control == DPP_WAVE_SHR1:
        return lane - 1
    if control == DPP_WAVE_ROR1:
        return (lane - 1) & 63
    if control == DPP_ROW_MIRROR:
        return row | (15 - place)
    if control == DPP_ROW_HALF_MIRROR:
        return (lane & 56) | (7 - (lane & 7))
    if control == DPP_ROW_BCAST15:
        return row - 1 if row else -1
    if control == DPP_ROW_BCAST31:
        return 31 if lane >= 32 else -1
    return row | amount


@inlined
def dpp_write_mask(control: int, row_mask: int, bank_mask: int, bound_ctrl: int, exec_mask: Any) -> Any:
    """Lanes that a DPP instruction writes.

    A lane is left alone when its row or bank is masked, or when it has no source (outside the row, or a lane that EXEC
    disables) and bound_ctrl is off.
    """
    mask = np.uint64(0)
    for lane in range(at.LANES):
        if not ((row_mask >> (lane >> 4)) & 1 and (bank_mask >> ((lane >> 2) & 3)) & 1):
            continue
        source = dpp_source_lane(control, lane)
        valid = source >= 0 and (exec_mask >> np.uint64(max(source, 0))) & np.uint64(1) != np.uint64(0)
        if valid or bound_ctrl:
            mask |= np.uint64(1) << np.uint64(lane)
    return mask & exec_mask


@inlined
def dpp_row(rows: Any, target: int, source: int, control: int, exec_mask: Any) -> None:
    """Fill row `target` with what each lane reads of row `source`; 0 where it reads nothing."""
    if exec_mask == ALL_LANES and control >= DPP_ROW_NEWBCAST:
        for row in range(4):
            value = rows[source, row * 16 + (control & 15)]
            for place in range(16):
                rows[target, row * 16 + place] = value
    elif exec_mask == ALL_LANES and control <= DPP_QUAD_PERM_LAST:
        first, second = control & 3, (control >> 2) & 3
        third, fourth = (control >> 4) & 3, (control >> 6) & 3
        for quad in range(16):
            rows[target, 4 * quad] = rows[source, 4 * quad + first]
            rows[target, 4 * quad + 1] = rows[source, 4 * quad + second]
            rows[target, 4 * quad + 2] = rows[source, 4 * quad + third]
            rows[target, 4 * quad + 3] = rows[source, 4 * quad + fourth]
    else:
        for lane in range(at.LANES):
            place = dpp_source_lane(control, lane)
            if place < 0 or not (exec_mask >> np.uint64(max(place, 0))) & np.uint64(1):
                rows[target, lane] = 0
            else:
                rows[target, lane] = rows[source, place]
