"""What the machine recorded of one launch, in the words of an Observation."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from backend.call import Call
from backend.cdna.memory import AddressSpace
from backend.cdna.result import AccessKind, AccessTotal, BadAccess, RunResult
from backend.observation import ByteRanges, Footprint, Violation, ViolationKind

_KINDS = {
    AccessKind.OUT_OF_BOUNDS: ViolationKind.OUT_OF_BOUNDS,
    AccessKind.NULL: ViolationKind.NULL,
    AccessKind.UNWRITTEN_READ: ViolationKind.UNWRITTEN,
    AccessKind.READ_ONLY_WRITE: ViolationKind.READ_ONLY,
    AccessKind.PAGE_NOT_ALLOWED: ViolationKind.FOREIGN_PAGE,
    AccessKind.LDS_OUT_OF_BOUNDS: ViolationKind.OUT_OF_BOUNDS,
    AccessKind.WRITE_OVERLAP: ViolationKind.RACE,
}


def violations(call: Call, space: AddressSpace, result: RunResult) -> list[Violation]:
    """One violation for each tensor, direction and kind, with the first offending access; clamped accesses are none."""
    firsts: dict[tuple[AccessKind, str, bool], BadAccess] = {}
    for event in result.bad_accesses:
        firsts.setdefault((event.kind, event.region or "", event.is_write), event)
    reach = _reach(space, result)
    return [_violation(call, space, key, first, reach) for key, first in firsts.items()]


_Reach = dict[tuple[AccessKind, int], list[AccessTotal]]


def _reach(space: AddressSpace, result: RunResult) -> _Reach:
    by_pc: _Reach = {}
    for total in result.totals:
        by_pc.setdefault((total.kind, total.pc), []).append(total)
    return by_pc


def _violation(
    call: Call, space: AddressSpace, key: tuple[AccessKind, str, bool], first: BadAccess, reach: _Reach
) -> Violation:
    kind, name, is_write = key
    grid = call.launched.grid
    tensor, size, base = name, 0, 0
    if name:
        region = space[name]
        size, base = region.size, region.base
    totals = [t for (k, _), found in reach.items() if k is kind for t in found if _nearest(space, t.lowest) == name]
    lowest = min((t.lowest for t in totals), default=first.lowest) - base
    highest = max((t.highest_end for t in totals), default=first.highest_end) - base
    begin = first.lowest - base
    outside = kind is AccessKind.OUT_OF_BOUNDS
    if outside and begin < 0:
        end, extent = min(first.highest_end - base, 0), -lowest
    else:
        end, extent = highest, max(highest - size, 0) if outside else 0
    items = call.plan.work_items if call.plan is not None and call.launched.persistent else None
    item = first.element if items is not None and 0 <= first.element < len(items) else None
    flat = first.workgroup
    return Violation(
        kind=_KINDS[kind],
        stage=call.launched.code_object,
        tensor=tensor,
        is_write=is_write,
        first_offset=begin,
        end_offset=end,
        extent=extent,
        count=sum(t.lanes for t in totals),
        why=f"{first.text} at pc {first.pc:#x}",
        work_item_index=item,
        work_item=None if item is None or items is None else tuple(int(v) for v in items[item]),
        pc=first.pc,
        instruction=first.text,
        lane=first.lanes[0] if first.lanes else None,
        wave=first.wave,
        workgroup=(flat % grid[0], flat // grid[0] % grid[1], flat // (grid[0] * grid[1])),
    )


def _nearest(space: AddressSpace, address: int) -> str:
    found = space.locate(address)
    return found[0].name if found else ""


def footprint(space: AddressSpace, result: RunResult) -> Footprint:
    """Touched bytes by region, out-of-bounds ones as the stretch from the lowest to the highest of each instruction."""
    reads = dict(_touched(space, result, False))
    writes = dict(_touched(space, result, True))
    return Footprint(reads, writes)


def _touched(space: AddressSpace, result: RunResult, is_write: bool) -> Iterator[tuple[str, ByteRanges]]:
    touched = result.log.touched_write if is_write else result.log.touched_read
    for name, bits in touched.items():
        unit = result.log.unit_bytes[name]
        ranges = runs(bits) * unit
        if len(ranges):
            yield name, ranges


def runs(bits: npt.NDArray[np.bool_]) -> ByteRanges:
    """[begin, end) of each stretch of True."""
    edges = np.flatnonzero(np.diff(np.concatenate(([False], bits, [False])).astype(np.int8)))
    return edges.reshape(-1, 2).astype(np.int64)
