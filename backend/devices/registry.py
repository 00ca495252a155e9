"""Opens a device by its name."""

from __future__ import annotations

from backend.aiter.codefiles import CodeSource
from backend.devices.device import Device
from backend.devices.kinds import DEVICES, Opening, require_device
from backend.errors import UsageError


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
