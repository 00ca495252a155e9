"""Where two observations of one Call differ: bytes touched, violations, how the run ended. Knows neither device."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from backend.call import Call
from backend.child.process_end import EndKind
from backend.devices.accesses import subtract
from backend.devices.model.kernargs import reads_of
from backend.devices.model.traits import Backward, KernelTraits, traits
from backend.observation import ByteRanges, Observation, Violation

Shown = tuple[str, str, str, bool, int]


@dataclass(frozen=True, slots=True)
class Difference:
    """One thing that two devices saw differently. what: in words, free of figures; left, right: what each saw."""

    what: str
    left: str
    right: str


def incomparable(call: Call, known: KernelTraits | None = None) -> str | None:
    """Why no two devices need see the same of a call, None where they must.

    A plan in which rows end before they begin, or that was made of memory that is nobody's, sends a kernel anywhere in 48 bits;
    the planner's own checks tell of it. known: the kernel's traits, the table's by default.
    """
    plan = call.plan
    if plan is None or not call.launched.persistent:
        return None
    if plan.reads_past_end:
        return "the plan depends on memory that the planner read outside its inputs"
    known = known if known is not None else traits(call.launched.blob_id)
    items = plan.work_items
    if known.backward is Backward.TILE and (items[:, 5] < items[:, 4]).any():
        return "the plan has items whose KV ends before it begins, of which this kernel runs a tile without limits"
    if (items[:, 5] > len(call.decode.kv_indices)).any():
        return "the plan names entries behind the end of kv_indices, which hold whatever lies there"
    if (items[:, 0] + 1 >= len(call.decode.qo_indptr)).any() and "ptr_QTP" in reads_of(call).kernargs:
        return "the kernel reads the end of a request's rows behind the end of qo_indptr"
    if (items[:, 0] >= len(call.decode.kv_last_page_lens)).any() and known.reads_last_page_lens:
        return "the kernel reads the length of a request's last page behind the end of kv_last_page_lens"
    if (items[:, 2] < 0).any() or (items[:, 3] <= items[:, 2]).any() or (items[:, 1] < -1).any():
        return "the plan has items whose rows end before they begin"
    return None


def differences(left: Observation, right: Observation) -> list[Difference]:
    """Everything that differs in stage 1; the second stage is one model for all devices.

    Footprints are compared where both have them. A launch that never ends is compared in that alone: how far it got is a
    matter of the limit.
    """
    stage = left.call.launched.code_object
    ends = [observation.end.kind if observation.end else EndKind.COMPLETED for observation in (left, right)]
    if ends[0] is not ends[1]:
        return [Difference("end", ends[0].value, ends[1].value)]
    if ends[0] is not EndKind.COMPLETED:
        return []
    return _violations(left, right, stage) + _footprints(left, right, stage)


def _violations(left: Observation, right: Observation, stage: str) -> list[Difference]:
    sides = [{_shown(v): v for v in each.violations if v.stage == stage} for each in (left, right)]
    found = []
    for key in sorted(set(sides[0]) ^ set(sides[1])):
        kind, tensor, _, is_write, extent = key
        outside = f"{extent} bytes outside" if extent else "seen"
        texts = [f"{outside} ({side[key].why})" if key in side else "not seen" for side in sides]
        found.append(Difference(f"{'write' if is_write else 'read'} of {tensor}, {kind}", *texts))
    return found


def _shown(violation: Violation) -> Shown:
    return violation.kind.value, violation.tensor, violation.stage, violation.is_write, violation.extent


def _footprints(left: Observation, right: Observation, stage: str) -> list[Difference]:
    if stage not in left.footprints or stage not in right.footprints:
        return []
    found = []
    for direction in ("reads", "writes"):
        sides = [getattr(each.footprints[stage], direction) for each in (left, right)]
        for tensor in sorted({*sides[0], *sides[1]}):
            ranges = [side.get(tensor, _NOTHING) for side in sides]
            if not np.array_equal(*ranges):
                only = [subtract(*ranges), subtract(*reversed(ranges))]
                found.append(Difference(f"{direction} of {tensor}", *(f"alone {_in_words(each)}" for each in only)))
    return found


_NOTHING: ByteRanges = np.zeros((0, 2), np.int64)


def _in_words(ranges: ByteRanges) -> str:
    if not len(ranges):
        return "nothing"
    total = int((ranges[:, 1] - ranges[:, 0]).sum())
    return f"{total} bytes from [{ranges[0, 0]}, {ranges[0, 1]}) on"
