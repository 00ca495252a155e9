"""Devices behind one interface: a Call in, an Observation out. Which there are, kinds.py says."""

from __future__ import annotations

from typing import Protocol

from backend.aiter.codefiles import CodeSource
from backend.call import Call
from backend.devices.kinds import DEVICES, Opening, require_device
from backend.errors import UsageError
from backend.observation import Observation


class Device(Protocol):
    """Something that a Call can run on. It holds no state of a case: the same Call gives the same Observation."""

    name: str

    def observe(self, call: Call) -> Observation:
        """Runs a call that has a launch; raises CannotRunError where this device cannot, never for what the case does."""
        ...


def open_device(
    name: str, source: CodeSource | None = None, record: bool = False, ranks: int = 1, numbers: bool = False
) -> Device:
    """The device of that name.

    source: where its code objects come from (devices that run them); record: whether observations carry footprints; ranks:
    processes that run each case at once; numbers: observations must have numbers. Raises UsageError for an unknown name and
    for ranks or numbers on a device that has none, CannotRunError where the machine lacks what the device needs.
    """
    kind = require_device(name, numbers)
    if ranks > 1 and not kind.takes_ranks:
        having = [each.name for each in DEVICES.values() if each.takes_ranks]
        raise UsageError.not_allowed(f"ranks of device {name}", ranks, f"1; devices with ranks are {', '.join(having)}")
    return kind.open(Opening(source, record, ranks, numbers))
