"""Devices that are two: one runs a Call on model and machine and compares, one on whichever of them knows the kernel, one by
slices and, where a call reaches something new, whole.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Container

from backend.call import Call
from backend.devices.agreement import Difference, differences, incomparable
from backend.devices.device import Device, coverage_identifier
from backend.devices.model.traits import traits
from backend.observation import Disagreement, Observation


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
