"""Hazards of one launch, told apart from what is wrong with its memory: they are the kernel author's, not the caller's.

Everything is executed for these, LDS included, so that a launch takes ten times as long.
"""

from __future__ import annotations

from backend.cdna.decode import decode
from backend.cdna.hazards import wait_hazards
from backend.cdna.machine import Machine, MachineLaunch
from backend.cdna.memory import AddressSpace
from backend.cdna.record import RecordOptions
from backend.cdna.result import Mode

FULL_OVER_SLICE = 16
"""Instructions of a full run for one of the slice, at most: the smallest slice keeps 7 % of its kernel."""


def hazards(machine: Machine, launch: MachineLaunch, space: AddressSpace, limit: int) -> tuple[str, ...]:
    """What was found, a line each: LDS races of all workgroups, missing waits of the first workgroup's waves.

    limit: wave instructions of a workgroup's slice after which the launch is taken for a hang.
    """
    record = RecordOptions(hazards=True)
    result = machine.run(launch, space, Mode.FULL, record=record, max_instructions=FULL_OVER_SLICE * limit)
    found = [
        f"LDS race, {race.kind}: pc {race.producer_pc:#x} and pc {race.consumer_pc:#x} at LDS byte {race.address}, "
        f"workgroup {race.workgroup}, {race.times} times, no barrier between"
        for race in result.races
    ]
    instructions = decode(machine.kernel.text, machine.kernel.arch)
    for wave in range(launch.waves):
        traced = machine.trace(launch, space, 0, wave, Mode.FULL, max_instructions=FULL_OVER_SLICE * limit)
        for each in wait_hazards(instructions, traced.trace.tolist()):
            line = (
                f"missing wait, {each.register} {each.kind.value}: load at pc {each.producer_pc:#x}, used at pc "
                f"{each.consumer_pc:#x}; {each.counter}({each.threshold}) before it would do"
            )
            if line not in found:
                found.append(line)
    return tuple(found)
