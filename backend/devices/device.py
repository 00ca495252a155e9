"""What a device is: a Call in, an Observation out. Which there are, kinds.py says; registry.py opens one by its name."""

from __future__ import annotations

from typing import Protocol

from backend.call import Call
from backend.observation import Observation


class Device(Protocol):
    """Something that a Call can run on. It holds no state of a case: the same Call gives the same Observation."""

    name: str

    def observe(self, call: Call) -> Observation:
        """Runs a call that has a launch; raises CannotRunError where this device cannot, never for what the case does."""
        ...
