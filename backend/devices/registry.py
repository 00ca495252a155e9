"""Opens a device by its name."""

from __future__ import annotations

from importlib.util import find_spec

from backend.aiter.codefiles import CodeSource
from backend.devices.device import Device
from backend.devices.kinds import DEVICES, NumbersKind, Opening, require_device
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


def open_searching(name: str, source: CodeSource | None = None, ranks: int = 1, numbers: bool = False) -> Device:
    """The device as a search has it: one that computes numbers where it is asked to does so for what is new.

    As open_device; where torch is not there, slices are all that runs.
    """
    from backend.devices.two_devices import WholeWhereNew

    device = open_device(name, source, ranks=ranks, numbers=numbers)
    kind = DEVICES[name]
    if numbers or kind.numbers is not NumbersKind.ASKED or find_spec("torch") is None:
        return device
    return WholeWhereNew(device, open_device(name, source, ranks=ranks, numbers=True))
