"""Instructions with source or result modifiers: DPP, SDWA, neg, abs, op_sel, gpr-index mode, clamp, omod.

One handler for all of them. It puts the modified sources into working rows, runs the instruction's own handler on a copy of
the record that names those rows, and then treats the result. So no other handler knows that modifiers exist.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from backend.cdna.execute import layout as at
from backend.cdna.execute.cross_lane import dpp_row, dpp_write_mask, register_offset
from backend.cdna.execute.lanes import (
    ALL_LANES,
    commit_masked,
    context_of,
    record_of,
    rows_of,
    scalar_pair,
    scalars_of,
    set_scalar_pair,
    source_pair,
    source_row,
    words_at,
)
from backend.cdna.execute.native import bits_float, call_handler, float_bits, handler, inlined, view_i32

DX10_CLAMP_BIT, IEEE_BIT = 8, 9  # MODE
SIGN32 = np.uint32(0x8000_0000)


@inlined
def selected(value: Any, selection: int, sext: bool) -> Any:
    """SDWA source selection: a byte (0..3), a word (4, 5) or all of a dword, sign-extended or not."""
    if selection == 6:
        return value
    if selection >= 4:
        part = np.int64(value >> np.uint32(16 * (selection - 4))) & 0xFFFF
        return np.uint32((part ^ 0x8000) - 0x8000 if sext else part)
    part = np.int64(value >> np.uint32(8 * selection)) & 0xFF
    return np.uint32((part ^ 0x80) - 0x80 if sext else part)


@inlined
def packed_halves(value: Any, bits: int) -> Any:
    """op_sel, op_sel_hi, neg_lo and neg_hi on two halves of a dword."""
    low, high = value & np.uint32(0xFFFF), value >> np.uint32(16)
    first = high if bits & at.SOURCE_PICK_0_HIGH else low
    second = low if bits & at.SOURCE_PICK_1_LOW else high
    if bits & at.SOURCE_NEG:
        first ^= np.uint32(0x8000)
    if bits & at.SOURCE_NEG_HI:
        second ^= np.uint32(0x8000)
    return np.uint32(first | (second << np.uint32(16)))


@inlined
def modify_pair(rows: Any, target: int, source: int, kind: int, bits: int) -> None:
    """A modified source of two dwords: fp64, or two packed fp32 with op_sel and neg."""
    first, second = source, source + 1
    if kind == at.TYPE_PACKED_F32:
        first = source + 1 if bits & at.SOURCE_PICK_0_HIGH else source
        second = source if bits & at.SOURCE_PICK_1_LOW else source + 1
    for lane in range(at.LANES):
        low, high = rows[first, lane], rows[second, lane]
        if kind == at.TYPE_PACKED_F32:
            if bits & at.SOURCE_NEG:
                low ^= SIGN32
            if bits & at.SOURCE_NEG_HI:
                high ^= SIGN32
        else:
            if bits & at.SOURCE_ABS:
                high &= ~SIGN32
            if bits & at.SOURCE_NEG:
                high ^= SIGN32
        rows[target, lane] = low
        rows[target + 1, lane] = high


@inlined
def modify_row(rows: Any, target: int, source: int, kind: int, bits: int, selection: int) -> None:
    """A modified source of one dword: selection first, then abs, then neg."""
    sign = SIGN32
    if kind == at.TYPE_F16 or kind == at.TYPE_BF16:
        sign = np.uint32(0x8000)
    for lane in range(at.LANES):
        value = rows[source, lane]
        if bits & at.SOURCE_SELECT:
            value = selected(value, selection, bits & at.SOURCE_SEXT != 0)
        if kind == at.TYPE_PACKED_16:
            value = packed_halves(value, bits)
        else:
            if bits & at.SOURCE_PICK_0_HIGH:
                value >>= np.uint32(16)
            if bits & at.SOURCE_ABS:
                value &= ~sign
            if bits & at.SOURCE_NEG:
                value ^= sign
        rows[target, lane] = value


@inlined
def prepare_sources(wave: int, modifier: Any, exec_mask: Any) -> None:
    """Fill the working rows that the inner record names in place of modified sources."""
    rows, scalars = rows_of(wave), scalars_of(wave)
    flags = modifier[at.MODIFIER_FLAGS]
    for slot in range(3):
        words = at.MODIFIER_SOURCES + at.MODIFIER_SOURCE_WORDS * slot
        code, kind, dwords, bits = modifier[words], modifier[words + 1], modifier[words + 2], modifier[words + 3]
        if dwords == 0:
            continue
        target = at.SOURCE_ROWS + slot * at.ROWS_PER_SOURCE
        if flags & at.FLAG_GPR_INDEX and code < at.VGPRS:
            copy_rows(rows, target, code + register_offset(scalars, slot), dwords)
            code = target
        if slot == 0 and flags & at.FLAG_DPP:
            dpp_row(rows, target, code, modifier[at.MODIFIER_DPP_CONTROL], exec_mask)
            code = target
        if bits == 0:
            if flags & at.FLAG_STAGED and code >= at.SCALAR_OPERAND:
                spread(wave, code, slot, dwords)  # it may be EXEC, which a staged instruction does not see
            continue
        if dwords == 2:
            modify_pair(rows, target, source_pair(wave, code, slot), kind, bits)
        else:
            modify_row(rows, target, source_row(wave, code, slot), kind, bits, modifier[words + 4])


@inlined
def spread(wave: int, code: int, slot: int, dwords: int) -> None:
    """Fills the working rows of a slot with a scalar source."""
    if dwords == 2:
        source_pair(wave, code, slot)
    else:
        source_row(wave, code, slot)


@inlined
def copy_rows(rows: Any, target: int, source: int, count: int) -> None:
    """Copies whole vector registers, all lanes."""
    for index in range(count):
        for lane in range(at.LANES):
            rows[target + index, lane] = rows[source + index, lane]


@inlined
def clamped(value: Any, nan_to_zero: bool) -> Any:
    """A float32 between 0 and 1; NaN gives 0 where MODE.DX10_CLAMP says so, else NaN."""
    if value != value:
        return np.float32(0.0) if nan_to_zero else value
    return np.float32(0.0) if not value > np.float32(0.0) else min(value, np.float32(1.0))


@inlined
def treat_float_result(rows: Any, modifier: Any, nan_to_zero: bool, multiplies: bool) -> None:
    """Output multiplier, then clamp, on the stage rows of an fp32 or packed fp32 result.

    multiplies: the multiplier is ignored with MODE.IEEE and where denormals are kept (ISA documents, "Output modifiers").
    """
    factor = np.float32(1.0)
    if not multiplies:
        factor = np.float32(1.0)
    elif modifier[at.MODIFIER_OMOD] == 1:
        factor = np.float32(2.0)
    elif modifier[at.MODIFIER_OMOD] == 2:
        factor = np.float32(4.0)
    elif modifier[at.MODIFIER_OMOD] == 3:
        factor = np.float32(0.5)
    for index in range(modifier[at.MODIFIER_DWORDS]):
        for lane in range(at.LANES):
            value = bits_float(rows[at.STAGE_ROWS + index, lane]) * factor
            if modifier[at.MODIFIER_FLAGS] & at.FLAG_CLAMP:
                value = clamped(value, nan_to_zero)
            rows[at.STAGE_ROWS + index, lane] = float_bits(value)


@inlined
def merge_sdwa(rows: Any, destination: int, code: int) -> None:
    """dst_sel and dst_unused: put the staged result into a part of the old register; the merged value ends in the stage row."""
    selection, unused = code & 15, code >> 4
    width = 16 if selection >= 4 else 8
    shift = np.uint32(16 * (selection - 4) if selection >= 4 else 8 * selection)
    part = np.uint32(((1 << width) - 1) << np.int64(shift))
    for lane in range(at.LANES):
        placed = (rows[at.STAGE_ROWS, lane] << shift) & part
        if unused == 2:
            placed |= rows[destination, lane] & ~part
        elif unused == 1 and placed >> (shift + np.uint32(width - 1)):
            placed |= np.uint32(~((np.int64(1) << (np.int64(shift) + width)) - 1) & 0xFFFF_FFFF)
        rows[at.STAGE_ROWS, lane] = np.uint32(placed)


@handler
def modified(wave: int, record: int, context: int) -> None:
    """Run the instruction whose modifiers are in row MODIFIER of the modifier table."""
    fields = record_of(record)
    scalars, rows = scalars_of(wave), rows_of(wave)
    inner = context_of(context)[at.CTX_MODIFIERS] + fields[at.MODIFIER] * at.MODIFIER_WORDS * 4
    modifier = view_i32(inner, (at.MODIFIER_WORDS,))
    exec_mask = scalar_pair(scalars, at.EXEC)
    prepare_sources(wave, modifier, exec_mask)
    own_handler = words_at(inner, 1)[0]
    flags = modifier[at.MODIFIER_FLAGS]
    if not flags & at.FLAG_STAGED:
        call_handler(own_handler, wave, inner, context)
        return
    if flags & at.FLAG_DPP_EVERY_LANE and exec_mask == ALL_LANES:
        call_handler(own_handler, wave, inner + at.MODIFIER_DIRECT * 4, context)
        return
    set_scalar_pair(scalars, at.EXEC, ALL_LANES)
    call_handler(own_handler, wave, inner, context)
    set_scalar_pair(scalars, at.EXEC, exec_mask)
    mask = exec_mask
    if flags & at.FLAG_DPP:
        masks = modifier[at.MODIFIER_DPP_MASKS]
        mask = dpp_write_mask(modifier[at.MODIFIER_DPP_CONTROL], masks & 15, (masks >> 4) & 15, (masks >> 8) & 1, exec_mask)
    if flags & (at.FLAG_CLAMP | at.FLAG_OMOD):
        dx10_clamp = (scalars[at.MODE] >> np.uint32(DX10_CLAMP_BIT)) & np.uint32(1) != np.uint32(0)
        multiplies = scalars[at.DENORMAL_F32] != np.uint32(0) and not (scalars[at.MODE] >> np.uint32(IEEE_BIT)) & np.uint32(1)
        treat_float_result(rows, modifier, dx10_clamp, multiplies)
    destination = np.int64(fields[at.DESTINATION])
    if flags & at.FLAG_GPR_INDEX:
        destination += register_offset(scalars, 3)
    if flags & at.FLAG_SDWA_DESTINATION:
        merge_sdwa(rows, destination, modifier[at.MODIFIER_SDWA_DESTINATION])
    if mask == ALL_LANES:
        copy_rows(rows, destination, at.STAGE_ROWS, modifier[at.MODIFIER_DWORDS])
    else:
        commit_masked(rows, destination, at.STAGE_ROWS, modifier[at.MODIFIER_DWORDS], mask)
