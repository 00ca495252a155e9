"""The Call: what AITER's host side makes of a Decision. Buffers with their sizes, the plan in them, and the launch."""

from __future__ import annotations

from dataclasses import dataclass

from backend.aiter.arguments import BufferSizes, DecodeArguments, TargetGpu
from backend.aiter.launch import Launch, Refusal
from backend.aiter.planners import Plan
from backend.aiter.release import release
from backend.decision import Decision
from backend.git import shortened


@dataclass(frozen=True, slots=True, eq=False)
class Call:
    """One decode step, ready for a device.

    allocated: the metadata buffers as the caller sized them; needed: as AITER's sizing wants them for the arguments that
    the planner was given. Both None for a non-persistent call, as is plan.
    decode: decision.decode with the metadata buffers filled in.
    launch: the kernel with its kernargs, tensors and grid; a Refusal where AITER raises or has no kernel.
    revision: of ROCm/aiter by whose text it is made, as `revision_of` of backend.aiter.codefiles names it; "" for the rules
    of the release that the case names.
    """

    decision: Decision
    device: TargetGpu
    allocated: BufferSizes | None
    needed: BufferSizes | None
    plan: Plan | None
    decode: DecodeArguments
    launch: Launch | Refusal
    revision: str = ""

    @property
    def commit(self) -> str:
        """Which ROCm/aiter made it: a commit, or what else `revision` says."""
        return self.revision or release(self.decision.case.release).commit

    @property
    def is_a_release_s(self) -> bool:
        """Whether that is the built-in release that the case names, and not a revision for which it stands."""
        return self.commit == release(self.decision.case.release).commit

    @property
    def named(self) -> str:
        """`commit` in a line: a built-in release by its name, any other by twelve digits."""
        if self.is_a_release_s:
            return self.decision.case.release
        return shortened(self.commit)

    @property
    def launched(self) -> Launch:
        """The launch of a call that is known to have one."""
        assert not isinstance(self.launch, Refusal)
        return self.launch
