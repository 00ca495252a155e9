"""The device `model`: what each stage touches, from the plan, the kernargs and what is known of each kernel.

Needs no code object and no GPU. What it knows of a kernel beyond the kernargs is a table drawn from runs of the machine code.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from backend.call import Call
from backend.devices import coverage, outputs, second_stage
from backend.devices.accesses import Accesses, bounds, footprint_of
from backend.devices.model import kernargs, non_persistent, pages, persistent
from backend.devices.model.pages import Stretches
from backend.devices.model.traits import KernelTraits, traits
from backend.observation import DeviceEnd, EndKind, Footprint, Observation, Violation


class ModelDevice:
    """See the module. record: keep which bytes each stage touches, by tensor. known: traits in place of the table's, to try
    what a kernel with them would do."""

    name = "model"

    def __init__(self, record: bool = False, known: KernelTraits | None = None) -> None:
        self._record = record
        self._known = known

    def observe(self, call: Call) -> Observation:
        """What the call's stages touch, and which of it breaks the memory contract."""
        launch = call.launched
        known = self._known if self._known is not None else traits(launch.blob_id)
        stage1, work, end = _stage1(call, known)
        items = call.plan.work_items if call.plan is not None and launch.persistent else None
        violations = bounds(stage1, launch.tensors, launch.code_object, items)
        violations += pages.violations(call, known, work)
        footprints = {launch.code_object: _footprint(call, known, stage1, work)} if self._record else {}
        merged = second_stage.run(call, self._record)
        violations += merged.violations
        if end is None:
            violations += _unwritten(call, stage1, merged.rows)
        footprints |= merged.footprints
        notes = () if known.blob_id else (f"{launch.code_object} was never measured: its accesses are taken from the contract",)
        return Observation(call, self.name, tuple(violations), footprints, coverage.of_call(call), notes=notes, end=end)


def _stage1(call: Call, known: KernelTraits) -> tuple[list[Accesses], Stretches, DeviceEnd | None]:
    """Accesses of stage 1, its KV positions, and how it ends where it does not end well."""
    if not call.launched.persistent:
        groups = non_persistent.workgroups(call, known)
        live = groups.splits > 0
        work = Stretches(groups.request[live], groups.kv_begin[live], groups.kv_end[live], groups.padded[live])
        return non_persistent.stage1(call, known, groups), work, None
    assert call.plan is not None
    done = persistent.work(call, known)
    run = done.run
    items = call.plan.work_items[run].astype(np.int64)
    end = None
    if done.hang is not None:
        item = call.plan.work_items[done.hang]
        message = f"work item {done.hang} covers [{item[4]}, {item[5]}): {call.launched.code_object} never comes to its end"
        end = DeviceEnd(EndKind.HANG, message)
    padded = (items[:, 5] - items[:, 4]) % known.tile
    return persistent.stage1(call, known, done), Stretches(run, items[:, 4], items[:, 5], padded), end


def _unwritten(call: Call, stage1: list[Accesses], merged: npt.NDArray[np.bool_]) -> list[Violation]:
    """Rows of o that nobody writes."""
    writes = [one for one in stage1 if one.is_write and one.tensor == "o"]
    none = np.zeros(0, np.int64)
    begin = np.concatenate([none, *(one.begin for one in writes)])
    found = outputs.unwritten(call, begin, np.concatenate([none, *(one.end for one in writes)]), merged)
    return [] if found is None else [found]


def _footprint(call: Call, known: KernelTraits, stage1: list[Accesses], work: Stretches) -> Footprint:
    """Bytes inside each tensor, as the machine records them."""
    idle = call.launched.persistent and not any((one.end > one.begin).any() for one in stage1)
    found = footprint_of([*stage1, *kernargs.fixed(call, idle)], call.launched.tensors)
    pool = footprint_of([_pool(call, known, work)], call.launched.tensors)
    return Footprint({**found.reads, **pool.reads}, found.writes)


def _pool(call: Call, known: KernelTraits, work: Stretches) -> Accesses:
    ranges = pages.footprint(call, known, work)
    return Accesses("kv_buffer", False, ranges[:, 0], ranges[:, 1], None, "")
