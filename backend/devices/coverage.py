"""Identifiers of what a case reached, the same in every process, for a campaign to steer by."""

from __future__ import annotations

import zlib

from backend.call import Call

_HASHED = 1 << 32
"""Set in hashed identifiers, so that they never meet the planner's branch bits."""


def of_call(call: Call) -> frozenset[int]:
    """Branches of the planner, and the kernel and fold that were chosen."""
    branches = call.plan.branches if call.plan is not None else 0
    bits = {bit for bit in range(branches.bit_length()) if branches >> bit & 1}
    return frozenset(bits | {identifier(call.launched.code_object, f"fold {call.launched.fold}")})


def identifier(*parts: object) -> int:
    """A 33-bit number for what the parts name."""
    return _HASHED | zlib.crc32("/".join(map(str, parts)).encode())
