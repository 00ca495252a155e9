"""What the machine recorded of one launch, in the words of an Observation.

Hazards are told apart from what is wrong with memory: they are the kernel author's, not the caller's. Everything is executed
for them, LDS included, so that a launch takes ten times as long.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from backend.call import Call
from backend.cdna.decode import decode
from backend.cdna.hazards import wait_hazards
from backend.cdna.machine import Machine, MachineLaunch
from backend.cdna.memory import AddressSpace, Region, distance
from backend.cdna.record import RecordOptions
from backend.cdna.result import AccessKind, AccessTotal, BadAccess, Mode, RunResult
from backend.observation import Footprint, Violation, ViolationKind
from backend.words import number_of

_KINDS = {
    AccessKind.OUT_OF_BOUNDS: ViolationKind.OUT_OF_BOUNDS,
    AccessKind.NULL: ViolationKind.NULL,
    AccessKind.UNWRITTEN_READ: ViolationKind.UNWRITTEN,
    AccessKind.READ_ONLY_WRITE: ViolationKind.READ_ONLY,
    AccessKind.PAGE_NOT_ALLOWED: ViolationKind.FOREIGN_PAGE,
    AccessKind.LDS_OUT_OF_BOUNDS: ViolationKind.OUT_OF_BOUNDS,
    AccessKind.WRITE_OVERLAP: ViolationKind.RACE,
}

Explain = Callable[[BadAccess], str]
"""Where the address of a bad access came from, "" where that is not known."""


@dataclass(frozen=True, slots=True)
class _Group:
    """All accesses that are bad in one way at one tensor. name: "" for a null pointer and for LDS."""

    kind: AccessKind
    name: str
    is_write: bool
    first: BadAccess


def violations(call: Call, result: RunResult, explain: Explain) -> list[Violation]:
    """One violation for each tensor, direction and kind, with the first offending access; clamped accesses are none."""
    groups: dict[tuple[AccessKind, str, bool], _Group] = {}
    for event in result.bad_accesses:
        name = "" if event.kind is AccessKind.NULL else event.region or ""
        groups.setdefault((event.kind, name, event.is_write), _Group(event.kind, name, event.is_write, event))
    return [_violation(call, result, group, explain) for group in groups.values()]


def _violation(call: Call, result: RunResult, group: _Group, explain: Explain) -> Violation:
    kind, first = group.kind, group.first
    region = next((each for each in result.regions if each.name == group.name), None)
    base, size = (region.base, region.size) if region is not None else (0, 0)
    totals = [total for total in result.totals if _belongs(total, group, result.regions)]
    lowest = min((t.lowest for t in totals), default=first.lowest) - base
    highest = max((t.highest_end for t in totals), default=first.highest_end) - base
    begin = first.lowest - base
    outside = kind is AccessKind.OUT_OF_BOUNDS
    if outside and begin < 0:
        end, extent = min(first.highest_end - base, 0), -lowest
    else:
        begin = max(begin, size) if outside else begin
        end, extent = highest, max(highest - size, 0) if outside else 0
    items = call.plan.work_items if call.plan is not None and call.launched.persistent else None
    item = first.element if items is not None and 0 <= first.element < len(items) else None
    grid, flat = call.launched.grid, first.workgroup
    came_from = explain(first)
    return Violation(
        kind=_KINDS[kind],
        stage=call.launched.code_object,
        tensor=group.name,
        is_write=group.is_write,
        first_offset=begin,
        end_offset=end,
        extent=extent,
        count=sum(t.lanes for t in totals),
        why=f"{came_from}, {first.text} at pc {first.pc:#x}" if came_from else f"{first.text} at pc {first.pc:#x}",
        work_item_index=item,
        work_item=None if item is None or items is None else tuple(int(v) for v in items[item]),
        pc=first.pc,
        instruction=first.text,
        lane=first.lanes[0] if first.lanes else None,
        wave=first.wave,
        workgroup=(flat % grid[0], flat // grid[0] % grid[1], flat // (grid[0] * grid[1])),
    )


def _belongs(total: AccessTotal, group: _Group, regions: tuple[Region, ...]) -> bool:
    """Whether an instruction's total is of this group: totals name no region, so the nearest to their lowest address does."""
    if total.kind is not group.kind:
        return False
    if not group.name:
        return True
    nearest = min(regions, key=lambda region: distance(region, total.lowest))
    return nearest.name == group.name


def footprint(result: RunResult) -> Footprint:
    """Touched bytes inside each region; what lies outside is in the violations."""
    log = result.log
    reads = {name: ranges for name, ranges in log.touched_read.items() if len(ranges)}
    return Footprint(reads, {name: ranges for name, ranges in log.touched_write.items() if len(ranges)})


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
        f"workgroup {race.workgroup}, {number_of(race.times, 'time')}, no barrier between"
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
