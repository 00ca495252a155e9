"""Services that the tests run in child processes; not tests themselves."""

from __future__ import annotations

import json
from typing import Any


class Kernels:
    """Triton's interpreter on the virtual GPU."""

    def __init__(self) -> None:
        from backend.real.triton_shim import require_interpreter

        require_interpreter()
        import kernels_under_test

        self.kernels = kernels_under_test

    def copy(self, length: int, asked: int, room: int, kernel: str = "copy_words") -> dict[str, Any]:
        """Copy `asked` words from a tensor of `length` into one of `room`; neighbours must stay as they were."""
        import torch

        from backend.real.torch_shim import GpuFacts, VirtualGpu, host
        from backend.real.triton_shim import interpreted

        with VirtualGpu(GpuFacts("gfx950", 256)) as gpu, interpreted(gpu.allocations) as guard:
            source = torch.arange(length, dtype=torch.int32, device="cuda")
            pool = torch.full((room + 64,), -7, dtype=torch.int32)
            target = torch.empty(room, dtype=torch.int32, device="cuda").fill_(-1)
            getattr(self.kernels, kernel)[(1,)](source, target, asked, BLOCK=64)
            return {
                "target": host(target).tolist(),
                "neighbour": pool.tolist().count(-7),
                "strays": [(s.kernel, s.is_write, s.lanes, s.past_end) for s in guard.strays],
            }

    def astray(self, kernel: str, write: bool = True, of: str = "tensor", replayed: bool = False) -> dict[str, Any]:
        """Have a kernel touch 8 words of `target` by a pointer into `source`. of: what `source` is, a tensor, or a view beside
        `target` in one storage. replayed: by the replay of a graph that captured it."""
        import torch

        from backend.real.torch_shim import GpuFacts, VirtualGpu, host
        from backend.real.triton_shim import interpreted

        with VirtualGpu(GpuFacts("gfx950", 256)) as gpu, interpreted(gpu.allocations) as guard:
            both = torch.full((16,), -1, dtype=torch.int32, device="cuda")
            source = both[:8] if of == "view" else torch.full((8,), -1, dtype=torch.int32, device="cuda")
            target = both[8:]
            if kernel == "by_table":
                source = torch.tensor([target.data_ptr()], dtype=torch.int64, device="cuda").view(torch.int32)
            told: list[Any] = []
            guard.launched = told.append
            distance = (target.data_ptr() - source.data_ptr()) // 4
            getattr(self.kernels, kernel)[(1,)](source, target, distance, write)
            if replayed:
                guard.strays.clear()
                told[0]()
            strays = [(s.is_write, s.lanes, s.tensor, s.first - target.data_ptr()) for s in guard.strays]
            return {"strays": strays, "target": host(target).tolist()}

    def again(self, kernel: str, launches: str) -> list[dict[str, Any]]:
        """Launches of one kernel with one memo, each on a virtual GPU of its own: how each ends, and whether it was taken over.

        launches: JSON, of each `words` to read, `asked` of them, and `room` words to write; with `shift`, they are those read
        from there on, up to `until`. `scale`: a global of the module.
        """
        import torch

        from backend.real.launch_memo import LaunchMemo
        from backend.real.torch_shim import GpuFacts, VirtualGpu, host
        from backend.real.triton_shim import interpreted

        memo, made = LaunchMemo(), []
        for each in json.loads(launches):
            self.kernels.SCALE = each.get("scale", 3)
            before = memo.taken
            with VirtualGpu(GpuFacts("gfx950", 256)) as gpu, interpreted(gpu.allocations, memo=memo) as guard:
                told: list[Any] = []
                guard.launched = told.append
                source = torch.tensor(each["words"], dtype=torch.int32, device="cuda")
                target = torch.zeros(each["room"], dtype=torch.int32, device="cuda")
                if "shift" in each:
                    target = source[each["shift"] : each.get("until")]
                address = source.data_ptr() & 0xFFFFFFFF
                getattr(self.kernels, kernel)[(1,)](source, target, each["asked"], BLOCK=16)
                strays = [(s.kernel, s.is_write, s.lanes, s.past_end) for s in guard.strays]
                left = host(target).tolist()
            made.append({"target": left, "strays": strays, "taken": memo.taken > before, "told": len(told), "address": address})
        return made

    def measure(self, own_file: bool) -> dict[str, Any]:
        """Which lines are seen of a kernel that runs and of one that is taken over; by coverage.py, of it and behind it.

        own_file: the kernel's file is the measured one.
        """
        import coverage
        import torch
        import triton.language as tl

        from backend.real.launch_memo import LaunchMemo
        from backend.real.torch_shim import GpuFacts, VirtualGpu
        from backend.real.triton_shim import interpreted

        kernels, load = self.kernels.__file__, tl.load
        measuring = coverage.Coverage(data_file=None, config_file=False, include=[kernels, __file__], messages=False)
        with (
            VirtualGpu(GpuFacts("gfx950", 256)) as gpu,
            interpreted(gpu.allocations, measured=kernels if own_file else None, memo=LaunchMemo()) as guard,
        ):
            words = torch.zeros(8, dtype=torch.int32, device="cuda")
            other = torch.zeros(8, dtype=torch.int32, device="cuda")
            measuring.start()
            line = self._launch(words, other)
            measuring.stop()
            ran = sorted(guard.lines)
            guard.lines.clear()
            self._launch(words, other)
        data = measuring.get_data()
        seen = data.lines(__file__) or []
        return {
            "traced": len(data.lines(kernels) or []),
            "of_kernel": ran,
            "taken_over": sorted(guard.lines),
            "behind": line in seen,
            "restored": tl.load is load,
        }

    def _launch(self, words: Any, other: Any) -> int:
        import inspect

        self.kernels.copy_words[(2,)](words, other, 8, BLOCK=8)
        return inspect.currentframe().f_lineno  # type: ignore[union-attr]


class Scripts:
    """Runs a script as a user would have written it, on the virtual GPU with aiter's planners served."""

    def __init__(self, release: str) -> None:
        from backend.aiter.arguments import TargetGpu
        from backend.case import Arch
        from backend.real.aiter_ops import open_aiter
        from backend.real.handlers import PlannerHandlers

        self.device = TargetGpu(Arch.GFX950, 256)
        self.aiter = open_aiter(None, release)
        self.handlers = PlannerHandlers(self.aiter.host, release, self.device)
        self.calls: list[tuple[str, list[int] | None]] = []

    def entered(self, call: Any) -> None:
        first = next(iter(call.arguments.values()))
        self.calls.append((call.name, list(first.shape) if hasattr(first, "shape") else None))

    def left(self, call: Any, result: Any) -> None:
        pass

    def run(self, script: str) -> dict[str, Any]:
        import runpy

        from backend.real.aiter_ops import aiter_roots
        from backend.real.python.modules import VirtualPackages
        from backend.real.torch_shim import GpuFacts, VirtualGpu
        from backend.real.triton_shim import interpreted

        roots = aiter_roots(self.aiter, self.handlers, self, "gfx950", 256)
        with VirtualGpu(GpuFacts("gfx950", 256)) as gpu, interpreted(gpu.allocations), VirtualPackages(roots):
            names = runpy.run_path(script, run_name="__main__")
        return {"calls": self.calls, "result": names["RESULT"]}
