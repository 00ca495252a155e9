"""Runs Calls with our own Triton kernels in a child process and says what the red zones and the reference saw.

This side imports no torch: it plans, sends runs, and reads what came of them. A case that kills the child is run again alone
and named (see child/supervisor.py).
"""

from __future__ import annotations

import importlib.util
import os
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

from backend.call import Call
from backend.case import Arch, DType
from backend.child.messages import Payload
from backend.child.scratch import Scratch
from backend.child.supervisor import Ended
from backend.child.tree import Limits
from backend.codec import to_plain
from backend.devices.child_device import ChildDevice
from backend.devices.cuda import sanitizer
from backend.devices.cuda.kernel_run import kernel_run_of, tensor_sizes
from backend.observation import Violation, ViolationKind
from backend.words import number_of

WORKER = "backend.devices.gpu.triton_worker"

STAGE_1 = "our Triton kernel"
"""Stage of its violations; the merge that follows goes by AITER's names ("mla_reduce_v1", "stage 2")."""


def kept_bytecode(environment: Mapping[str, str]) -> dict[str, str]:
    """Variables under which a child keeps torch's bytecode in the user's cache, where torch is installed without any.

    Images are built that way, and there each start compiles torch again, for seconds. Nothing where there is bytecode beside
    the package, or where the environment names a place already.
    """
    torch = importlib.util.find_spec("torch")
    if torch is None or torch.origin is None or "PYTHONPYCACHEPREFIX" in environment:
        return {}
    if (Path(torch.origin).parent / "__pycache__").is_dir():
        return {}
    cache = Path(environment.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return {"PYTHONPYCACHEPREFIX": str(cache / "aiterfuzz" / "bytecode"), "PYTHONDONTWRITEBYTECODE": ""}


class CudaDevice(ChildDevice):
    """ranks: processes that run each case at the same moment, on as many GPUs as there are. interpret: Triton's interpreter on
    the CPU instead of a GPU, for tests; every observation says so. sanitize: under compute-sanitizer's memcheck, tensors as
    separate allocations with its padding, no red zones. seed: of the values in q and the KV pool.

    Raises CannotRunError where there is no GPU.
    """

    name = "cuda"
    own_kernel = STAGE_1

    def __init__(
        self, ranks: int = 1, interpret: bool = False, sanitize: bool = False, limits: Limits | None = None, seed: int = 0
    ) -> None:
        self._seed = seed
        self._logs = Scratch("sanitizer-") if sanitize else None
        command = [sys.executable, "-m", WORKER]
        variables = kept_bytecode(os.environ)
        if interpret:
            command.append("--interpret")
        if self._logs is not None:
            command = [*sanitizer.command(self._logs.path), *command, "--separate"]
            variables["PYTORCH_NO_CUDA_MEMORY_CACHING"] = "1"
        super().__init__(command, variables, ranks, limits)

    def close(self) -> None:
        """Ends the children and drops the sanitizer's logs."""
        super().close()
        if self._logs is not None:
            self._logs.close()

    def __enter__(self) -> CudaDevice:
        return self

    def _payload(self, call: Call) -> Payload:
        plain: Payload = to_plain(kernel_run_of(call, self._seed))
        return plain

    def _call_notes(self, call: Call) -> tuple[str, ...]:
        launch = call.launched
        notes = []
        raised = launch.raises_afterwards or launch.second_stage.refusal
        if raised:
            notes.append(f"AITER raises after stage 1 ({raised}); our merge ran all the same")
        if launch.arch is Arch.GFX942 and DType.FP8 in (call.decode.q_dtype, call.decode.kv_dtype):
            notes.append("fp8 as e4m3fn: this GPU has no e4m3fnuz")
        return tuple(notes)

    def _violations(self, call: Call, ended: Ended) -> Iterator[Violation]:
        if self._logs is not None:
            yield from sanitizer.violations(self._logs.path, ended.ranges, STAGE_1)
        if ended.result is None:
            return
        sizes = tensor_sizes(call)
        second = "mla_reduce_v1" if call.launched.persistent else "stage 2"
        for stage, damages in zip((STAGE_1, second), ended.result["damage"], strict=True):
            for tensor, first, end, count in damages:
                before = first < 0
                yield Violation(
                    kind=ViolationKind.OUT_OF_BOUNDS,
                    stage=stage,
                    tensor=tensor,
                    is_write=True,
                    first_offset=first,
                    end_offset=end,
                    extent=-first if before else end - sizes[tensor],
                    count=count,
                    why=f"{number_of(count, 'byte')} of the red zone {'before' if before else 'after'} it changed",
                )
        for tensor in ended.result["overwritten"]:
            yield Violation(
                kind=ViolationKind.READ_ONLY,
                stage=STAGE_1,
                tensor=tensor,
                is_write=True,
                first_offset=0,
                end_offset=sizes[tensor],
                extent=0,
                count=1,
                why="its checksum changed during the launch",
            )
