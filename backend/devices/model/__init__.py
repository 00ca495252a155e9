"""The device `model`: what each stage should touch, from the plan, the kernargs and what is known of each kernel.

Needs no code object and no GPU. What it knows of a kernel beyond the kernargs is a table drawn from runs of the machine code.
"""

from __future__ import annotations

from backend.call import Call
from backend.devices import coverage, second_stage
from backend.devices.accesses import bounds, footprint_of
from backend.devices.model import non_persistent, pages, persistent
from backend.devices.model.traits import traits
from backend.observation import Observation


class ModelDevice:
    """See the module. record: keep which bytes each stage touches, by tensor."""

    name = "model"

    def __init__(self, record: bool = False) -> None:
        self._record = record

    def observe(self, call: Call) -> Observation:
        """What the call's stages touch, and which of it breaks the memory contract."""
        launch = call.launched
        known = traits(launch.blob_id)
        plan = call.plan if launch.persistent else None
        stage1 = persistent.stage1(call, known) if plan is not None else non_persistent.stage1(call)
        violations = bounds(stage1, launch.tensors, launch.code_object, plan.work_items if plan is not None else None)
        violations += pages.violations(call, known)
        footprints = {launch.code_object: footprint_of([*stage1, *pages.accesses(call, known)])} if self._record else {}
        merged = second_stage.run(call, self._record)
        violations += merged.violations
        footprints |= merged.footprints
        return Observation(call, self.name, tuple(violations), footprints, coverage.of_call(call))
