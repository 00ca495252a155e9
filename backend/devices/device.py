"""What a device is: a Call in, an Observation out. Which there are, kinds.py says and opens by name.

An Observation's coverage, for a campaign to steer by, is identifiers of what a case reached, the same in every process.
"""

from __future__ import annotations

import zlib
from typing import Protocol

from backend.call import Call
from backend.observation import Observation

_HASHED = 1 << 32
"""Set in hashed identifiers, so that they never meet the planner's branch bits."""


def coverage_of(call: Call) -> frozenset[int]:
    """Branches of the planner, and the kernel and fold that were chosen."""
    branches = call.plan.branches if call.plan is not None else 0
    bits = {bit for bit in range(branches.bit_length()) if branches >> bit & 1}
    return frozenset(bits | {coverage_identifier(call.launched.code_object, f"fold {call.launched.fold}")})


def coverage_identifier(*parts: object) -> int:
    """A 33-bit number for what the parts name."""
    return _HASHED | zlib.crc32("/".join(map(str, parts)).encode())


class Device(Protocol):
    """Something that a Call can run on. It holds no state of a case: the same Call gives the same Observation."""

    name: str

    def observe(self, call: Call) -> Observation:
        """Runs a call that has a launch; raises CannotRunError where this device cannot, never for what the case does."""
        ...
