"""The child of device `cuda`: runs calls with our Triton kernels, on a GPU or, when asked to, in Triton's interpreter.

Started as `python -m backend.devices.gpu.triton_worker [--interpret] [--separate]`. Result of a task: fields of `Findings`.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Mapping
from typing import Any

from backend.child.messages import Payload
from backend.child.process_end import EndKind, failure_of
from backend.child.serve import RANKS_VARIABLE, Reporter, serve
from backend.child.supervisor import RANK_VARIABLE

ROOM_SECONDS = (0.0, 1.0, 5.0, 15.0)
"""Waits for room on a GPU that others use too."""

KEPT_BYTES = 6 << 30
"""Of GPU memory, kept from one case for the next."""


class TritonWorker:
    """Runs calls on the rank's GPU. interpret: on the CPU; separate: see SeparateMemory."""

    def __init__(self, interpret: bool, separate: bool) -> None:
        if interpret:
            os.environ["TRITON_INTERPRET"] = "1"  # read when the kernels' module is imported
        import torch

        self._separate = separate
        self._interpret = interpret
        if interpret:
            self._device = torch.device("cpu")
            return
        if not torch.cuda.is_available():
            raise RuntimeError("no GPU: torch.cuda.is_available() is false")
        rank = int(os.environ.get(RANK_VARIABLE, "0"))
        self._device = torch.device("cuda", rank % torch.cuda.device_count())
        torch.cuda.set_device(self._device)

    def facts(self) -> Mapping[str, Any]:
        """Says the device and the versions."""
        import torch
        import triton

        name = "CPU, Triton's interpreter" if self._interpret else torch.cuda.get_device_name(self._device)
        return {
            "hardware": not self._interpret,
            "device": name,
            "index": self._device.index or 0,
            "torch": torch.__version__,
            "triton": triton.__version__,
        }

    def run(self, payload: Payload, reporter: Reporter) -> Mapping[str, Any]:
        """One run: zones looked at after each stage, then the numbers.

        Others may share the GPU: a run that finds no room is tried again when what this process keeps has been given back,
        a few times, unless other ranks would wait for it.
        """
        import torch

        waits = iter(() if os.environ.get(RANKS_VARIABLE) else ROOM_SECONDS)
        while True:
            try:
                return self._run(payload, reporter)
            except torch.OutOfMemoryError:
                wait = next(waits, None)
                if wait is None:
                    raise
            finally:
                self._give_back()
            time.sleep(wait)

    def _give_back(self) -> None:
        """What torch keeps of memory that is not in use, where that is much; a case of the usual size keeps its blocks."""
        import torch

        if not self._interpret and torch.cuda.memory_reserved(self._device) > KEPT_BYTES:
            torch.cuda.empty_cache()

    def _run(self, payload: Payload, reporter: Reporter) -> Mapping[str, Any]:
        from backend.codec import from_plain
        from backend.devices.cuda.kernel_run import KernelRun
        from backend.devices.gpu.decode import Decode

        began = time.monotonic()
        decode = Decode(from_plain(KernelRun, payload), self._device, self._separate)
        reporter.ranges(decode.memory.ranges())
        decode.synchronize()
        reporter.meet()
        launched = time.monotonic()
        decode.stage1()
        decode.synchronize()
        first = [list(_plain(damage)) for damage in decode.damage()]
        decode.stage2()
        decode.synchronize()
        second = [list(_plain(damage)) for damage in decode.damage()]
        ended = time.monotonic()
        return {
            "damage": [first, second],
            "overwritten": decode.memory.overwritten(),
            "numbers": decode.comparison(),
            "launched_at": launched,
            "seconds": {"prepare": launched - began, "launch": ended - launched, "compare": time.monotonic() - ended},
        }

    def failure(self, error: Exception) -> EndKind:
        """By the message, which is the runtime's."""
        return failure_of(str(error))


def _plain(damage: Any) -> tuple[str, int, int, int]:
    return damage.tensor, damage.first, damage.end, damage.count


if __name__ == "__main__":
    serve(lambda: TritonWorker("--interpret" in sys.argv, "--separate" in sys.argv))
