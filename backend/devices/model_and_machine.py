"""Devices that have the model and the machine: one runs a Call on both and compares, one on whichever knows the kernel.

Where the two disagree, one of them is wrong, and so are we.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from backend.aiter.codefiles import CodeSource
from backend.call import Call
from backend.devices.agreement import Difference, differences, incomparable
from backend.devices.cdna.device import CdnaDevice
from backend.devices.model.device import ModelDevice
from backend.devices.model.traits import traits
from backend.observation import Disagreement, Observation

if TYPE_CHECKING:
    from backend.devices.device import Device


class BothDevice:
    """The device `both`. source: where code objects are read, None: the installed wheel. record: keep the machine's footprints.

    What the machine saw is the observation, since it is the truth about the binary; every difference from the model is listed
    beside it and becomes a finding about this project.
    """

    name = "both"

    def __init__(self, source: CodeSource | None = None, record: bool = False) -> None:
        self._machine = CdnaDevice(source, record=True)
        self._model = ModelDevice(record=True)
        self._record = record

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

    def __init__(self, model: ModelDevice, machine: Device) -> None:
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
