"""The device `model`: what each stage should touch, from the plan, the kernargs and what is known of each kernel.

Needs no code object and no GPU. What it knows of a kernel beyond the kernargs is a table drawn from runs of the machine code.
"""

from __future__ import annotations

from backend.aiter.reduction import SecondStageKind
from backend.call import Call
from backend.devices.model import merge, non_persistent, pages, persistent
from backend.devices.model.accesses import Accesses, out_of_bounds, union
from backend.devices.model.traits import traits
from backend.observation import Footprint, Observation, Violation


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
        items = plan.work_items if plan is not None else None
        violations = _bounds(call, stage1, launch.code_object, items)
        violations += pages.violations(call, known)
        footprints = {launch.code_object: _footprint([*stage1, *pages.accesses(call, known)])} if self._record else {}
        stage = launch.second_stage
        if stage.kind is not SecondStageKind.NONE and stage.refusal is None:
            merged = merge.merged_rows(call)
            stage2 = merge.accesses(call, merged)
            violations += _bounds(call, stage2, stage.kind.value, None)
            if plan is not None:
                violations += merge.consistency(call, merged)
            if self._record:
                footprints[stage.kind.value] = _footprint(stage2)
        return Observation(call, self.name, tuple(violations), footprints, _coverage(call))


def _bounds(call: Call, accesses: list[Accesses], stage: str, items: object) -> list[Violation]:
    tensors = {**call.launched.tensors, **call.launched.second_stage.tensors}
    found = (out_of_bounds(one, tensors[one.tensor].nbytes, stage, items) for one in accesses)  # type: ignore[arg-type]
    return [violation for violation in found if violation is not None]


def _footprint(accesses: list[Accesses]) -> Footprint:
    names = {(one.tensor, one.is_write) for one in accesses}
    touched = {key: union([one for one in accesses if (one.tensor, one.is_write) == key]) for key in names}
    return Footprint(
        reads={tensor: ranges for (tensor, is_write), ranges in touched.items() if not is_write},
        writes={tensor: ranges for (tensor, is_write), ranges in touched.items() if is_write},
    )


def _coverage(call: Call) -> frozenset[int]:
    """Branches of the planner, and the kernel that was chosen, as identifiers."""
    branches = call.plan.branches if call.plan is not None else 0
    bits = {bit for bit in range(branches.bit_length()) if branches >> bit & 1}
    return frozenset(bits | {hash_of(call.launched.code_object, call.launched.fold)})


def hash_of(code_object: str, fold: int) -> int:
    """An identifier of a dispatch, the same in every process."""
    import zlib

    return 1 << 32 | zlib.crc32(f"{code_object}/{fold}".encode())
