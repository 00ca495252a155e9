"""Machine code by slices, and whole, with numbers, where a call reaches something that none has reached before.

A slice sees every access and computes nothing: a wrong mask, a tail that is left out, a fold without its permutation or pieces
that overlap show in numbers alone. So the first call of each kind is run in full too: each kernel with each set of the
planner's branches, fold and second stage, causal or not. A call that leaves its tensors, or is large, leaves that to the next.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Container
from importlib.util import find_spec

from backend.aiter.codefiles import CodeSource
from backend.call import Call
from backend.devices import coverage
from backend.devices.device import Device
from backend.devices.kinds import DEVICES, NumbersKind
from backend.devices.registry import open_device
from backend.observation import Observation

MOST_SCORES = 1 << 18
"""Query rows times heads times KV tokens of a call that is run whole: some seconds, the comparison in float64 included."""


class WholeWhereNew:
    """See the module. slices, whole: the device `cdna` without and with numbers.

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
    return coverage.identifier("whole", *parts)


def scores(call: Call) -> int:
    """Products of a query and a key that attention over the batch has, all heads."""
    decision = call.decision
    rows = zip(decision.kv_lens, decision.query_lens, strict=True)
    return call.decode.num_head * sum(length * count for length, count in rows)


def open_searching(name: str, source: CodeSource | None = None, ranks: int = 1, numbers: bool = False) -> Device:
    """The device as a search has it: one that computes numbers where it is asked to does so for what is new.

    As open_device; where torch is not there, slices are all that runs.
    """
    device = open_device(name, source, ranks=ranks, numbers=numbers)
    kind = DEVICES[name]
    if numbers or kind.numbers is not NumbersKind.ASKED or find_spec("torch") is None:
        return device
    return WholeWhereNew(device, open_device(name, source, ranks=ranks, numbers=True))
