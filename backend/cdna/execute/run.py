"""The loop: waves of a workgroup in turn, workgroups one after the other, until all are done or one reaches the limit.

Branches, barriers, waits and ends are executed here; everything else by the handler whose address is in the record.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from backend.cdna.execute import layout as at
from backend.cdna.execute.lanes import (
    ALL_LANES,
    bytes_at,
    context_of,
    record_of,
    rows_of,
    scalar_pair,
    scalars_of,
    set_scalar_pair,
    unsigned_words_at,
    words_at,
)
from backend.cdna.execute.native import call_handler, compiled, inlined, view_i32, view_u32
from backend.cdna.execute.pending import arrivals, queue_head, wait_until


@inlined
def branch_taken(scalars: Any, control: int) -> bool:
    """Tells whether a branch is taken, by its CONTROL code and the scalars."""
    if control == at.CONTROL_BRANCH_SCC0:
        return scalars[at.SCC] == 0
    if control == at.CONTROL_BRANCH_SCC1:
        return scalars[at.SCC] != 0
    if control == at.CONTROL_BRANCH_VCCZ:
        return scalars[at.VCC] | scalars[at.VCC + 1] == 0
    if control == at.CONTROL_BRANCH_VCCNZ:
        return scalars[at.VCC] | scalars[at.VCC + 1] != 0
    if control == at.CONTROL_BRANCH_EXECZ:
        return scalars[at.EXEC] | scalars[at.EXEC + 1] == 0
    if control == at.CONTROL_BRANCH_EXECNZ:
        return scalars[at.EXEC] | scalars[at.EXEC + 1] != 0
    return True


@inlined
def trace_step(context: Any, original: int) -> None:
    """Appends one executed instruction, by its index in the kernel, to the trace."""
    count = context[at.CTX_TRACE_COUNT]
    if count < context[at.CTX_TRACE_CAPACITY]:
        view_i32(context[at.CTX_TRACE], (count + 1,))[count] = original
    context[at.CTX_TRACE_COUNT] = count + 1


@inlined
def control_flow(context: Any, scalars: Any, fields: Any, pc: int) -> int:
    """Execute a record that no handler does; returns the next index. A status other than running ends the wave's turn."""
    control = fields[at.CONTROL]
    if at.CONTROL_BRANCH <= control <= at.CONTROL_BRANCH_EXECNZ:
        taken = branch_taken(scalars, control)
        words_at(context[at.CTX_EDGES], 2 * pc + 2)[2 * pc + (1 if taken else 0)] += 1
        return np.int64(fields[at.TARGET]) if taken else pc + 1
    if control == at.CONTROL_BARRIER:
        scalars[at.STATUS] = at.STATUS_BARRIER
    elif control == at.CONTROL_END:
        scalars[at.STATUS] = at.STATUS_ENDED
    return pc + 1


@inlined
def run_wave(wave: int, context_address: int, quantum: int, traced: bool) -> int:
    """Execute up to `quantum` instructions of one wave; returns how many.

    A handler that has no model for its operands sets the status; that is seen at the next branch, barrier or end,
    or at the end of the turn.
    """
    context, scalars = context_of(context_address), scalars_of(wave)
    pc = np.int64(scalars[at.PC])
    program = context[at.CTX_PROGRAM]
    executed = 0
    while executed < quantum:
        record = program + pc * at.RECORD_BYTES
        fields = record_of(record)
        if traced:
            trace_step(context, fields[at.ORIGINAL])
        executed += 1
        if fields[at.CONTROL] == at.CONTROL_NONE:
            call_handler(words_at(record, 1)[0], wave, record, context_address)
            pc += 1
        elif fields[at.CONTROL] == at.CONTROL_SKIPPABLE:
            if not scalars[at.VSKIP]:
                call_handler(words_at(record, 1)[0], wave, record, context_address)
            pc += 1
        else:
            if scalars[at.STATUS] == at.STATUS_RUNNING:  # and not stopped by a handler since the last branch
                pc = control_flow(context, scalars, fields, pc)
            if scalars[at.STATUS] != at.STATUS_RUNNING:
                break
    scalars[at.PC] = np.uint32(pc)
    set_scalar_pair(scalars, at.EXECUTED, scalar_pair(scalars, at.EXECUTED) + np.uint64(executed))
    return executed


@inlined
def start_wave(context: Any, wave: int, index: int, workgroup: int) -> None:
    """Registers as the launch leaves them: the program's initial scalars, workgroup ids, work-item ids in v0."""
    scalars, rows = scalars_of(wave), rows_of(wave)
    initial = view_u32(context[at.CTX_INITIAL_SCALARS], (at.SCALARS,))
    for word in range(context[at.CTX_SCALAR_COUNT]):
        scalars[word] = initial[word]
    scalars[at.WAVE_INDEX] = np.uint32(index)
    grid_x, grid_y = context[at.CTX_GRID_X], context[at.CTX_GRID_Y]
    ids = (workgroup % grid_x, workgroup // grid_x % grid_y, workgroup // (grid_x * grid_y))
    if context[at.CTX_REQUESTER_AXIS] >= 0:
        scalars[at.REQUESTER] = np.uint32(ids[context[at.CTX_REQUESTER_AXIS]])
    register = context[at.CTX_WORKGROUP_SGPR]
    for axis in range(3):
        if (context[at.CTX_WORKGROUP_ID_MASK] >> axis) & 1:
            scalars[register] = np.uint32(ids[axis])
            register += 1
    reset = view_i32(context[at.CTX_RESET_ROWS], (context[at.CTX_RESET_ROW_COUNT],))
    for number in range(context[at.CTX_RESET_ROW_COUNT]):
        for lane in range(at.LANES):
            rows[reset[number], lane] = np.uint32(0)
    items = view_u32(context[at.CTX_WORK_ITEMS] + index * at.ROW_BYTES, (at.LANES,))
    for lane in range(at.LANES):
        rows[0, lane] = items[lane]
    set_scalar_pair(scalars, at.EXEC, unsigned_words_at(context[at.CTX_ACTIVE_LANES], index + 1)[index])


@inlined
def wave_block(context: Any, index: int) -> int:
    """Gives the address of a wave's block."""
    return context[at.CTX_WAVE_BLOCKS] + index * at.WAVE_BYTES


@inlined
def start_workgroup(context: Any, workgroup: int) -> None:
    """Starts all waves of a workgroup, by its flat index; its LDS holds poison."""
    context[at.CTX_WORKGROUP] = workgroup
    context[at.CTX_BARRIERS] = 0
    lds = bytes_at(context[at.CTX_LDS], context[at.CTX_LDS_BYTES])
    poison = np.uint8(context[at.CTX_POISON])
    for byte in range(context[at.CTX_LDS_BYTES]):
        lds[byte] = poison
    if context[at.CTX_FLAGS] & at.RUN_HAZARDS:
        shadow = words_at(context[at.CTX_LDS_SHADOW], context[at.CTX_LDS_BYTES] // 4 * at.SHADOW_WORDS)
        for word in range(context[at.CTX_LDS_BYTES] // 4 * at.SHADOW_WORDS):
            shadow[word] = 0
    for index in range(context[at.CTX_WAVES]):
        start_wave(context, wave_block(context, index), index, workgroup)


@inlined
def release_barrier(context: Any) -> bool:
    """When no wave can run: let the waiting ones go. False when all have ended."""
    waiting = False
    for index in range(context[at.CTX_WAVES]):
        scalars = scalars_of(wave_block(context, index))
        if scalars[at.STATUS] == at.STATUS_BARRIER:
            scalars[at.STATUS] = at.STATUS_RUNNING
            waiting = True
    context[at.CTX_BARRIERS] += 1
    return waiting


@inlined
def run_workgroup(context_address: int) -> int:
    """Waves in turn, a quantum each, results at once. Returns an OUTCOME."""
    context = context_of(context_address)
    while True:
        ran = False
        for index in range(context[at.CTX_WAVES]):
            wave = wave_block(context, index)
            if scalars_of(wave)[at.STATUS] != at.STATUS_RUNNING:
                continue
            ran = True
            traced = context[at.CTX_TRACE_WORKGROUP] == context[at.CTX_WORKGROUP] and context[at.CTX_TRACE_WAVE] == index
            context[at.CTX_EXECUTED] += run_wave(wave, context_address, context[at.CTX_QUANTUM], traced)
            if scalars_of(wave)[at.STATUS] == at.STATUS_UNMODELLED:
                return at.OUTCOME_UNMODELLED
            if context[at.CTX_EXECUTED] >= context[at.CTX_LIMIT_AT]:
                return at.OUTCOME_LIMIT
        if not ran and not release_barrier(context):
            return at.OUTCOME_DONE


@inlined
def earliest_wave(context: Any) -> int:
    """Gives the running wave with the smallest clock, -1 for none."""
    best = -1
    smallest = ALL_LANES
    for index in range(context[at.CTX_WAVES]):
        scalars = scalars_of(wave_block(context, index))
        clock = scalar_pair(scalars, at.CLOCK)
        if scalars[at.STATUS] == at.STATUS_RUNNING and clock < smallest:
            best, smallest = index, clock
    return best


@inlined
def meet_at_barrier(context: Any) -> None:
    """All waves leave a barrier at the clock of the last to reach it."""
    latest = np.uint64(0)
    for index in range(context[at.CTX_WAVES]):
        latest = max(latest, scalar_pair(scalars_of(wave_block(context, index)), at.CLOCK))
    for index in range(context[at.CTX_WAVES]):
        set_scalar_pair(scalars_of(wave_block(context, index)), at.CLOCK, latest)


@inlined
def run_workgroup_timed(context_address: int) -> int:
    """One instruction at a time of the wave whose clock is smallest; memory answers late (pending.py). Returns an OUTCOME."""
    context = context_of(context_address)
    for number in range(context[at.CTX_WAVES] * at.QUEUES):
        queue_head(context, number)[1] = np.uint64(0)
    while True:
        index = earliest_wave(context)
        if index < 0:
            meet_at_barrier(context)
            if not release_barrier(context):
                return at.OUTCOME_DONE
            continue
        wave = wave_block(context, index)
        scalars = scalars_of(wave)
        arrivals(wave, context)
        fields = record_of(context[at.CTX_PROGRAM] + np.int64(scalars[at.PC]) * at.RECORD_BYTES)
        if fields[at.CONTROL] == at.CONTROL_WAIT:
            allowed = np.int64(fields[at.IMMEDIATE])
            wait_until(wave, context, at.QUEUE_VM, allowed & 0xFF)
            wait_until(wave, context, at.QUEUE_LDS, allowed >> 8)
        traced = context[at.CTX_TRACE_WORKGROUP] == context[at.CTX_WORKGROUP] and context[at.CTX_TRACE_WAVE] == index
        context[at.CTX_EXECUTED] += run_wave(wave, context_address, 1, traced)
        set_scalar_pair(scalars, at.CLOCK, scalar_pair(scalars, at.CLOCK) + np.uint64(fields[at.COST]))
        if scalars[at.STATUS] == at.STATUS_UNMODELLED:
            return at.OUTCOME_UNMODELLED
        if context[at.CTX_EXECUTED] >= context[at.CTX_LIMIT_AT]:
            return at.OUTCOME_LIMIT


@compiled
def run_grid(context_address: int) -> int:
    """All workgroups from CTX_FIRST_WORKGROUP to before CTX_LAST_WORKGROUP, each to its end. Returns an OUTCOME."""
    context = context_of(context_address)
    for workgroup in range(context[at.CTX_FIRST_WORKGROUP], context[at.CTX_LAST_WORKGROUP]):
        start_workgroup(context, workgroup)
        context[at.CTX_LIMIT_AT] = context[at.CTX_EXECUTED] + context[at.CTX_LIMIT]
        timed = context[at.CTX_FLAGS] & at.RUN_TIMED
        outcome = run_workgroup_timed(context_address) if timed else run_workgroup(context_address)
        if outcome != at.OUTCOME_DONE:
            return outcome
    return at.OUTCOME_DONE
