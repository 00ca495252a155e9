"""The device `model` where code objects are at hand: a kernel that was never measured is run by its machine code.

The model knows a kernel by the table that was drawn from its code object (backend.devices.model.traits). Of any other it could
say only what the contract has, which is no evidence of what the binary does.
"""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING

from backend.call import Call
from backend.devices.model.device import ModelDevice
from backend.devices.model.traits import traits
from backend.observation import Observation

if TYPE_CHECKING:
    from backend.devices.registry import Device


class ModelOrMachine:
    """See the module. machine: the device that runs code objects."""

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
