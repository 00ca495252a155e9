"""The Call: what AITER's host side makes of a Decision. Buffers with their sizes, the plan in them, and the launch."""

from __future__ import annotations

from dataclasses import dataclass

from backend.aiter.arguments import BufferSizes, DecodeArguments, TargetGpu
from backend.aiter.launch import Launch, Refusal
from backend.aiter.planners import Plan
from backend.decision import Decision


@dataclass(frozen=True, slots=True, eq=False)
class Call:
    """One decode step, ready for a device.

    allocated: the metadata buffers as the caller sized them; needed: as AITER's sizing wants them for the arguments that
    the planner was given. Both None for a non-persistent call, as is plan.
    decode: decision.decode with the metadata buffers filled in.
    launch: the kernel with its kernargs, tensors and grid; a Refusal where AITER raises or has no kernel.
    """

    decision: Decision
    device: TargetGpu
    allocated: BufferSizes | None
    needed: BufferSizes | None
    plan: Plan | None
    decode: DecodeArguments
    launch: Launch | Refusal

    @property
    def launched(self) -> Launch:
        """The launch of a call that is known to have one."""
        assert not isinstance(self.launch, Refusal)
        return self.launch
