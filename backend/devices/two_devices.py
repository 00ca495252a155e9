"""Devices that are two: one runs a Call on model and machine and compares, one on whichever of them knows the kernel, one by
slices and, where a call reaches something new, whole. And where two observations of one Call differ: bytes, violations, ends.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Container
from dataclasses import dataclass

import numpy as np

from backend.call import Call
from backend.child.process_end import EndKind
from backend.devices.accesses import subtract
from backend.devices.device import Device, coverage_identifier
from backend.devices.model.kernargs import reads_of
from backend.devices.model.traits import Backward, KernelTraits, traits
from backend.observation import ByteRanges, Disagreement, Observation, Violation
from backend.words import number_of

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
        outside = f"{number_of(extent, 'byte')} outside" if extent else "seen"
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
    return f"{number_of(total, 'byte')} from [{ranges[0, 0]}, {ranges[0, 1]}) on"


class BothDevice:
    """The device `both`: machine and model, each with its footprints. record: keep the machine's in what is observed.

    What the machine saw is the observation, since it is the truth about the binary; every difference from the model is listed
    beside it and becomes a finding about this project: where the two disagree, one of them is wrong, and so are we.
    """

    name = "both"

    def __init__(self, machine: Device, model: Device, record: bool) -> None:
        self._machine, self._model, self._record = machine, model, record

    def observe(self, call: Call) -> Observation:
        """Runs both. Raises what the device `cdna` raises."""
        seen, foretold = self._machine.observe(call), self._model.observe(call)
        reason = incomparable(call)
        found = [] if reason is not None else differences(seen, foretold)
        notes = (*seen.notes, *foretold.notes)
        return Observation(
            call,
            self.name,
            seen.violations,
            seen.footprints if self._record else {},
            seen.coverage,
            seen.schedule,
            notes if reason is None else (*notes, f"not compared: {reason}"),
            end=seen.end,
            disagreements=tuple(_disagreement(difference) for difference in found),
        )


class ModelOrMachine:
    """The device `model` where code objects are at hand: a kernel that was never measured is run by its machine code.

    The model knows a kernel by the table that was drawn from its code object (backend.devices.model.traits). Of any other it
    could say only what the contract has, which is no evidence of what the binary does. machine: the device that runs code
    objects.
    """

    name = "model"

    def __init__(self, model: Device, machine: Device) -> None:
        self._model = model
        self._machine = machine

    def observe(self, call: Call) -> Observation:
        """Runs the model, or the machine where it knows no better; raises what the machine raises."""
        launch = call.launched
        if traits(launch.blob_id).blob_id:
            return self._model.observe(call)
        seen = self._machine.observe(call)
        note = f"{launch.code_object} was never measured: its machine code was run"
        return dataclasses.replace(seen, device=self.name, notes=(note, *seen.notes))


def _disagreement(difference: Difference) -> Disagreement:
    return Disagreement(difference.what, ("cdna", "model"), (difference.left, difference.right))


MOST_SCORES = 1 << 18
"""Query rows times heads times KV tokens of a call that is run whole: some seconds, the comparison in float64 included."""


class WholeWhereNew:
    """Machine code by slices, and whole, with numbers, where a call reaches something that none has reached before.

    A slice sees every access and computes nothing: a wrong mask, a tail that is left out, a fold without its permutation or
    pieces that overlap show in numbers alone. So the first call of each kind is run in full too: each kernel with each set of
    the planner's branches, fold and second stage, causal or not. A call that leaves its tensors, or is large, leaves that to
    the next. slices, whole: the device `cdna` without and with numbers.

    known: coverage identifiers of what earlier calls reached, beside those since `begin`.
    """

    def __init__(self, slices: Device, whole: Device) -> None:
        self.name = slices.name
        self._slices, self._whole = slices, whole
        self.begin(())

    def begin(self, known: Container[int]) -> None:
        """From here on, what is new is what `known` lacks: the same calls in the same order are run whole again."""
        self._known = known
        self._since: set[int] = set()

    def observe(self, call: Call) -> Observation:
        """Runs the call. Raises what the devices raise."""
        seen, kind = self._slices.observe(call), ran_whole(call)
        if kind in self._known or kind in self._since or seen.violations or seen.end is not None or scores(call) > MOST_SCORES:
            return seen
        self._since.add(kind)
        whole = self._whole.observe(call)
        return dataclasses.replace(whole, coverage=seen.coverage | {kind})


def ran_whole(call: Call) -> int:
    """Coverage identifier of a call of its kind that ran whole."""
    launch, branches = call.launched, call.plan.branches if call.plan is not None else 0
    parts = (branches, launch.code_object, launch.fold, launch.second_stage.kind, call.decode.option("causal", default=True))
    return coverage_identifier("whole", *parts)


def scores(call: Call) -> int:
    """Products of a query and a key that attention over the batch has, all heads."""
    decision = call.decision
    rows = zip(decision.kv_lens, decision.query_lens, strict=True)
    return call.decode.num_head * sum(length * count for length, count in rows)
