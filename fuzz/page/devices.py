"""What a result on each device is worth; the rows are backend.devices.kinds."""

from __future__ import annotations

from backend.devices.kinds import DEVICES, Ground, Witness, notice

WITNESSES = {name: kind.witness for name, kind in DEVICES.items()}

__all__ = ["WITNESSES", "Ground", "Witness", "notice"]
