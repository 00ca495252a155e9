"""The device `model`: what each stage touches, from the plan, the kernargs and what is known of each kernel.

Needs no code object and no GPU. What it knows of a kernel beyond the kernargs is a table drawn from runs of the machine code.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from backend.call import Call
from backend.child.process_end import EndKind
from backend.devices import outputs, second_stage
from backend.devices.accesses import Accesses, bounds, footprint_of, union
from backend.devices.device import coverage_of
from backend.devices.model import kernargs, non_persistent, pages, persistent
from backend.devices.model.pages import Stretches
from backend.devices.model.traits import KernelTraits, traits
from backend.errors import UnmodelledError
from backend.observation import ByteRanges, DeviceEnd, Footprint, Observation, Violation
from backend.words import counted

Int64Array = npt.NDArray[np.int64]
_NOTHING = np.zeros(0, np.int64)


class ModelDevice:
    """See the module. record: keep which bytes each stage touches, by tensor. known: traits in place of the table's, to try
    what a kernel with them would do."""

    name = "model"

    def __init__(self, record: bool = False, known: KernelTraits | None = None) -> None:
        self._record = record
        self._known = known

    def observe(self, call: Call) -> Observation:
        """What the call's stages touch, and which of it breaks the memory contract.

        Raises UnmodelledError for a plan with more work than is followed here, as one that is made of memory that is nobody's.
        """
        launch = call.launched
        known = self._known if self._known is not None else traits(launch.blob_id)
        _require_bounded(call, known)
        merged = second_stage.run(call, self._record)
        seen = _persistent(call, known) if launch.persistent else _non_persistent(call, known)
        null = bounds(kernargs.through_null(call, seen.idle), launch.tensors, launch.code_object, None)
        violations = [*seen.violations, *null, *pages.violations(call, known, seen.work), *merged.violations]
        if seen.end is None:
            missing = [
                outputs.unwritten(call, *seen.writes_of_o, merged.rows),
                outputs.unwritten_partials(call, seen.written, merged.partials),
            ]
            violations += [violation for violation in missing if violation is not None]
        footprints = dict(merged.footprints)
        if self._record:
            footprints[launch.code_object] = _footprint(call, known, seen)
        notes = () if known.blob_id else (f"{launch.code_object} was never measured: its accesses are taken from the contract",)
        return Observation(call, self.name, tuple(violations), footprints, coverage_of(call), notes=notes, end=seen.end)


_FEW_ITEMS, _MOST_POSITIONS = 1 << 14, 1 << 27
"""Work items that are never too many; KV positions of all items, with the tiles beside them: 4 GiB of addresses."""


def _require_bounded(call: Call, known: KernelTraits) -> None:
    if call.plan is None or len(call.plan.work_items) <= _FEW_ITEMS:
        return
    items = call.plan.work_items
    lengths = items[:, 5].astype(np.int64) - items[:, 4]
    positions = int(lengths.clip(min=0).sum()) + 2 * known.tile * len(items)
    if positions > _MOST_POSITIONS:
        raise UnmodelledError(
            f"too much work: a plan of {counted(len(items), 'work item')} with {positions:,} KV positions; up to "
            f"{_MOST_POSITIONS:,} "
            "are followed"
        )


@dataclass(frozen=True, slots=True, eq=False)
class _Stage1:
    """What stage 1 does. accesses: all but those of the pool's pages, made when asked for; writes_of_o: begins, ends in bytes.

    written: bytes of a tensor that are written, sorted and disjoint; idle: no workgroup has work.
    """

    accesses: Callable[[], list[Accesses]]
    written: Callable[[str], ByteRanges]
    violations: list[Violation]
    work: Stretches
    writes_of_o: tuple[Int64Array, Int64Array]
    idle: bool
    end: DeviceEnd | None


def _non_persistent(call: Call, known: KernelTraits) -> _Stage1:
    launch = call.launched
    groups = non_persistent.workgroups(call, known)
    touched = non_persistent.stage1(call, known, groups)
    live = groups.splits > 0
    work = Stretches(groups.request[live], groups.kv_begin[live], groups.kv_end[live], groups.padded[live])
    o = next(((one.begin, one.end) for one in touched if one.is_write and one.tensor == "o"), (_NOTHING, _NOTHING))

    def written(tensor: str) -> ByteRanges:
        return union([one for one in touched if one.is_write and one.tensor == tensor])

    return _Stage1(lambda: touched, written, bounds(touched, launch.tensors, launch.code_object, None), work, o, False, None)


def _persistent(call: Call, known: KernelTraits) -> _Stage1:
    launch, plan = call.launched, call.plan
    assert plan is not None
    done = persistent.work(call, known)
    planes = persistent.stage1(call, known, done)
    run, every = done.run, plan.work_items
    violations = []
    if not planes.inside(launch.tensors):
        violations = bounds(planes.accesses(), launch.tensors, launch.code_object, every)
    items = (every if len(run) == len(every) else every[run]).astype(np.int64)
    work = Stretches(run, items[:, 4], items[:, 5], (items[:, 5] - items[:, 4]) % known.tile)
    end = None
    if done.hang is not None:
        item = every[done.hang]
        message = f"work item {done.hang} covers [{item[4]}, {item[5]}): {launch.code_object} never comes to its end"
        end = DeviceEnd(EndKind.HANG, message)
    o = persistent.PLANE_OF_O
    return _Stage1(
        planes.accesses, planes.written, violations, work, (planes.begin[o], planes.end[o]), not len(done.state), end
    )


def _footprint(call: Call, known: KernelTraits, seen: _Stage1) -> Footprint:
    """Bytes inside each tensor, as the machine records them."""
    tensors = call.launched.tensors
    found = footprint_of([*seen.accesses(), *kernargs.fixed(call, known, seen.idle)], tensors)
    ranges = pages.footprint(call, known, seen.work)
    pool = footprint_of([Accesses("kv_buffer", False, ranges[:, 0], ranges[:, 1], None, "")], tensors)
    return Footprint({**found.reads, **pool.reads}, found.writes)
