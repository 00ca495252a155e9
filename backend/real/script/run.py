"""The simulated GPU of one process of a script: torch, triton and aiter as it finds them, and what is found wrong.

Started by backend.real.script.simulated at the first import of one of them. It maps memory at fixed addresses, and after an
abort shows nothing more. Knows nothing of processes.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.metadata
import os
import sys
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from backend.aiter.arguments import TargetGpu
from backend.aiter.codefiles import CodeSource, installed_wheel, open_source
from backend.case import NUM_CU, Arch
from backend.devices.kinds import open_device
from backend.errors import AiterfuzzError
from backend.findings import in_causal_order
from backend.real.aiter_ops import AiterSource, OpCall, aiter_roots, open_aiter
from backend.real.device_memory import DeviceMemory
from backend.real.handlers import AiterEndsProcess, AiterRefuses
from backend.real.python.modules import VirtualPackages
from backend.real.script.accesses import accesses_of
from backend.real.script.gpu import ScriptGpu
from backend.real.script.hardware import Hardware, silence_after
from backend.real.script.messages import Options, ScriptReport
from backend.real.script.operations import ScriptOperations
from backend.real.script.triton_driver import TritonDriver, driven
from backend.real.script.triton_kernels import TritonKernels
from backend.real.script.watch import ScriptWatcher
from backend.real.theirs import error_of_ours, says
from backend.real.torch_shim import GpuFacts

NAMES = {Arch.GFX942: "AMD Instinct MI300X", Arch.GFX950: "AMD Instinct MI355X"}
MEMORY = {Arch.GFX942: 192 << 30, Arch.GFX950: 288 << 30}
GPUS = 8
"""GPUs of a node, where HIP_VISIBLE_DEVICES does not say otherwise."""

MACHINE_CODE, MODEL = "machine code", "the model's accesses, numbers by attention in float32 along the work items"


class Simulation:
    """Everything that a process of a script runs on.

    found: called when there is something new to tell, with ended=True where the process ends now. notice: called with why
    something could not be simulated.
    """

    def __init__(self, options: Options, found: Callable[..., None], notice: Callable[[str], None]) -> None:
        torch.set_num_threads(1)
        self.options = options
        self._found, self._notice = found, notice
        self._stack = contextlib.ExitStack()
        self.gpu: ScriptGpu | None = None
        self.device = TargetGpu(options.arch, options.num_cu or NUM_CU[options.arch])
        self.memory = DeviceMemory(MEMORY[options.arch])
        self.hardware = Hardware(self.memory, options.node + _first_visible())
        self.source = _aiter(options)
        self.code = _code(self.source, options)
        self.operations = _Noticing(self.hardware, self.source.host, self.source.release, self.device, self.code)
        self.operations.notice, self.operations.tell = notice, found
        self.operations.refused = {}
        self.watcher: ScriptWatcher | None = None
        self.kernels: TritonKernels | None = None
        self.uncaught: str | None = None

    def report(self, could_not_run: str | None) -> ScriptReport:
        """What is known now. could_not_run: why the process says nothing, None: it does."""
        seen = tuple(self.watcher.seen.values()) if self.watcher is not None else ()
        order = {finding.signature: place for place, finding in enumerate(in_causal_order([s.finding for s in seen]))}
        return ScriptReport(
            pid=os.getpid(),
            arch=self.options.arch,
            num_cu=self.device.num_cu,
            aiter=self.source.label,
            engine=MACHINE_CODE if self.code is not None else MODEL,
            fault=self.hardware.fault,
            findings=tuple(sorted(seen, key=lambda s: order[s.finding.signature])),
            decode_calls=self.watcher.calls if self.watcher is not None else 0,
            launches=self.operations.launches,
            notes=(
                *([self.source.warning] if self.source.warning else []),
                *(f"AITER refuses a call: {reason}" for reason in self.operations.refused),
                *self.operations.prefill.notes,
            ),
            could_not_run=could_not_run,
            triton_launches=self.kernels.launches if self.kernels is not None else 0,
            not_judged=tuple(self.watcher.not_judged) if self.watcher is not None else (),
            refused_by_aiter=self.uncaught if self.uncaught in self.operations.refused else self.operations.ended_by,
        )

    @property
    def aborted(self) -> bool:
        """Whether hardware would have ended this process."""
        return self.hardware.fault is not None

    def begin(self) -> None:
        """From here on the script finds torch, triton and aiter as on a machine with the GPU."""
        self._stack.enter_context(self._surroundings())

    def close(self) -> None:
        """Everything that was replaced is put back."""
        self._stack.close()

    def forked(self) -> None:
        """In the child of a fork: what the parent has found is the parent's to tell."""
        if self.watcher is not None:
            self.watcher.forget()
        self.operations.launches = 0
        self.operations.prefill.calls.clear()
        if self.kernels is not None:
            self.kernels.launches = 0

    @contextlib.contextmanager
    def thread(self) -> Iterator[None]:
        """A thread of the script sees the GPU as the first one does: torch's modes are those of one thread."""
        if self.gpu is None:
            yield
            return
        TorchFunctionMode.__enter__(self.gpu)  # type: ignore[no-untyped-call]
        try:
            yield
        finally:
            TorchFunctionMode.__exit__(self.gpu, None, None, None)  # type: ignore[no-untyped-call]

    @contextlib.contextmanager
    def _surroundings(self) -> Iterator[None]:
        """torch, triton and aiter as the script finds them."""
        options, device = self.options, self.device
        facts = GpuFacts(options.arch, device.num_cu, NAMES[options.arch], MEMORY[options.arch], _visible())
        with contextlib.ExitStack() as stack:
            gpu = _NoticingGpu(facts, self.memory)
            gpu.notice = self._notice
            self.gpu = gpu
            stack.enter_context(gpu)
            runs = open_device("model" if self.code is None else "cdna", self.code)
            self.watcher = watcher = ScriptWatcher(gpu.allocations, "").judge_with(
                self.source.release, device, runs, self.source.host
            )
            watcher.found, watcher.notice = self._found, self._notice
            self.operations.prefill.note = watcher.note
            watcher.timeline, self.operations.do = gpu.timeline, gpu.timeline.do
            self.operations.accesses = functools.partial(accesses_of, gpu.access)
            gpu.timeline.unordered, gpu.gone = watcher.unordered, watcher.gone  # type: ignore[method-assign]
            self.hardware.on_fault += [
                lambda fault: setattr(watcher, "after_abort", True),
                lambda fault: self._found(),
                silence_after,
            ]
            self.kernels = kernels = TritonKernels(gpu, self.hardware, watcher.note, self._notice)
            stack.enter_context(driven(TritonDriver(options.arch, device.num_cu, kernels.launch)))
            fakes = {"run_perftest": _run_perftest}
            roots = aiter_roots(self.source, self.operations, watcher, options.arch, device.num_cu, fakes)
            roots[0].fakes.pop("_fwd_kernel_stage2_asm", None)  # type: ignore[attr-defined]
            stack.enter_context(VirtualPackages(roots))
            stack.enter_context(_named(self.source))
            yield


def _aiter(options: Options) -> AiterSource:
    return open_aiter(options.aiter, options.release)


def _code(source: AiterSource, options: Options) -> CodeSource | None:
    """Where code objects are, None: nowhere."""
    if options.aiter is not None:
        return open_source(options.aiter)
    return installed_wheel() if source.tree is not None else None


def _visible() -> int:
    listed = os.environ.get("HIP_VISIBLE_DEVICES")
    return GPUS if listed is None else len([entry for entry in listed.split(",") if entry])


def _first_visible() -> int:
    first = (os.environ.get("HIP_VISIBLE_DEVICES") or "0").split(",")[0]
    return int(first) if first.isdecimal() else 0


def _run_perftest(function: Any, *args: Any, **kwargs: Any) -> tuple[Any, float]:
    """aiter.test_common.run_perftest without its hundred timed repetitions: there is no clock to read; 1 us is told."""
    timing = ("num_iters", "num_warmup", "testGraph", "num_rotate_args", "needTrace")
    return function(*args, **{name: value for name, value in kwargs.items() if name not in timing}), 1.0


@contextlib.contextmanager
def _named(source: AiterSource) -> Iterator[None]:
    """aiter says which revision it is: not that of an installed wheel whose Python does not run."""
    import aiter

    aiter.__file__ = f"/virtual/{source.label.replace('/', '_')}, {source.commit}/aiter/__init__.py"
    version = importlib.metadata.version

    def version_here(name: str) -> str:
        if name == "amd-aiter" and source.label != "the installed amd-aiter":
            raise importlib.metadata.PackageNotFoundError(name)
        return version(name)

    importlib.metadata.version = version_here  # type: ignore[assignment]
    try:
        yield
    finally:
        importlib.metadata.version = version


class _Noticing(ScriptOperations):
    """What cannot be simulated is known, whatever the script makes of the exception; and what AITER refuses, in its words."""

    notice: Callable[[str], None]
    tell: Callable[..., None]
    refused: dict[str, None]
    ended_by: str | None = None

    def handle(self, call: OpCall) -> Any:
        """Does the operation and gives its result."""
        try:
            return super().handle(call)
        except AiterfuzzError as error:
            self.notice(str(error))
            raise
        except AiterEndsProcess as ended:
            self.refused[str(ended)] = None
            self.ended_by = str(ended)
            self.tell(ended=True)
            print(ended, file=sys.stderr, flush=True)
            os._exit(ended.status)
        except AiterRefuses as refused:
            self.refused[str(refused)] = None
            kind = AssertionError if isinstance(refused, AssertionError) else RuntimeError
            theirs = kind(str(refused))
        except Exception as error:
            ours = error_of_ours(error)
            if ours is not None:
                self.notice(f"{call.name}: {ours}")
            raise
        return says(theirs)


class _NoticingGpu(ScriptGpu):
    """Notices what torch's own operations do wrong, as the operations of AITER are noticed."""

    notice: Callable[[str], None]

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Does the operation and gives its result."""
        try:
            return super().__torch_function__(func, types, args, kwargs)
        except AiterfuzzError as error:
            self.notice(str(error))
            raise
        except Exception as error:
            ours = error_of_ours(error)
            if ours is not None:
                self.notice(f"torch's {getattr(func, '__name__', func)}: {ours}")
            raise
