"""Devices by name, behind one interface: a Call in, an Observation out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from backend.aiter.codefiles import CodeSource
from backend.call import Call
from backend.errors import UsageError
from backend.observation import Observation


class Device(Protocol):
    """Something that a Call can run on. It holds no state of a case: the same Call gives the same Observation."""

    name: str

    def observe(self, call: Call) -> Observation:
        """Runs a call that has a launch; raises CannotRunError where this device cannot, never for what the case does."""
        ...


def _model(source: CodeSource | None, record: bool, ranks: int) -> Device:
    from backend.devices.model.device import ModelDevice

    return ModelDevice(record)


def _cdna(source: CodeSource | None, record: bool, ranks: int) -> Device:
    from backend.devices.cdna.device import CdnaDevice

    return CdnaDevice(source, record)


def _cdna_with_numbers(source: CodeSource | None, record: bool, ranks: int) -> Device:
    from backend.devices.cdna.device import CdnaDevice

    return CdnaDevice(source, record, numbers=True)


def _cuda(source: CodeSource | None, record: bool, ranks: int) -> Device:
    from backend.devices.cuda import CudaDevice

    return CudaDevice(ranks)


def _rocm(source: CodeSource | None, record: bool, ranks: int) -> Device:
    from backend.devices.rocm import RocmDevice

    return RocmDevice(ranks)


def _both(source: CodeSource | None, record: bool, ranks: int) -> Device:
    from backend.devices.both import BothDevice

    return BothDevice(source, record)


OPENERS: dict[str, Callable[[CodeSource | None, bool, int], Device]] = {
    "model": _model,
    "cuda": _cuda,
    "rocm": _rocm,
    "cdna": _cdna,
    "both": _both,
}

WITH_NUMBERS: dict[str, Callable[[CodeSource | None, bool, int], Device]] = {
    "cdna": _cdna_with_numbers,
    "rocm": _rocm,
    "cuda": _cuda,
}
"""Devices that compare outputs with float64 attention: GPUs always, the machine where it is asked to."""

RANKED = ("rocm", "cuda")
"""Devices that can run a case on several ranks at the same moment, as tensor parallelism does."""


def open_device(
    name: str, source: CodeSource | None = None, record: bool = False, ranks: int = 1, numbers: bool = False
) -> Device:
    """The device of that name.

    source: where its code objects come from (devices that run them); record: whether observations carry footprints; ranks:
    processes that run each case at once (RANKED); numbers: observations must have numbers (WITH_NUMBERS). Raises UsageError for
    an unknown name and for ranks or numbers on a device that has none, CannotRunError where the machine lacks what the device
    needs.
    """
    if name not in OPENERS:
        raise UsageError.not_allowed("device", name, ", ".join(OPENERS))
    opener = (WITH_NUMBERS if numbers else OPENERS).get(name)
    if opener is None:
        raise UsageError.not_allowed("numbers of device", name, ", ".join(WITH_NUMBERS))
    if ranks > 1 and name not in RANKED:
        raise UsageError.not_allowed(f"ranks of device {name}", ranks, f"1; devices with ranks are {', '.join(RANKED)}")
    return opener(source, record, ranks)
