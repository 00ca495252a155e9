"""Runs Calls through the real aiter on AMD GPUs. The runtime's fault ends the child; its words and address come back here.

The child is handed the decision, not our plan: sizing, planning and launch are aiter's own, so that what is observed owes
nothing to our rules. An access inside mapped memory faults nowhere and is not seen here; the outputs may show it.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence

from backend.call import Call
from backend.child.messages import Payload
from backend.child.supervisor import Ended
from backend.child.tree import Limits
from backend.codec import to_plain
from backend.devices.child_device import ChildDevice
from backend.errors import UnmodelledError
from backend.observation import Violation

WORKER = "backend.devices.gpu.rocm_worker"


class RocmDevice(ChildDevice):
    """ranks: processes that run each case at the same moment, rank r on the r-th of HIP_VISIBLE_DEVICES (which Ray sets).

    command: of another child that speaks the same protocol, for tests; None: the real worker.
    Raises CannotRunError without an AMD GPU or without aiter.
    """

    name = "rocm"

    def __init__(
        self, ranks: int = 1, command: Sequence[str] | None = None, limits: Limits | None = None, seed: int = 0
    ) -> None:
        self._seed = seed
        # One fault a dispatch: without it the queue runs on and the runtime may name a later kernel's address.
        # A core dump of the GPU would take minutes, and the limit on core files does not keep a handler from being started.
        variables = {"AMD_SERIALIZE_KERNEL": "3", "HSA_DISABLE_COREDUMP_ON_EXCEPTION": "1"}
        super().__init__(command or [sys.executable, "-m", WORKER], variables, ranks, limits)

    def __enter__(self) -> RocmDevice:
        return self

    def _payload(self, call: Call) -> Payload:
        if call.decode.q_gap or call.decode.o_gap or call.decode.kv_gap:
            raise UnmodelledError("device rocm: given views with gaps between rows; its tensors are made without")
        return {"decision": to_plain(call.decision), "seed": self._seed}

    def _violations(self, call: Call, ended: Ended) -> Iterator[Violation]:
        """None: hardware names an address (see the observation's end), not an instruction, and not read or write."""
        return iter(())
