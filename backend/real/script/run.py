"""Runs one unmodified script on the virtual GPU, in this process, and ends as hardware would end it.

    python -m backend.real.script.run OPTIONS-AS-JSON SCRIPT [ARGUMENTS]

Meant to be a child process of its own (reprod/verify.py starts it): it maps memory at fixed addresses, and after an abort shows
nothing more. Its report goes to a file of the folder that the options name, one for each process.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import json
import os
import runpy
import subprocess
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from backend.aiter.arguments import Device
from backend.aiter.codefiles import CodeSource, installed_wheel, open_source
from backend.case import NUM_CU, Arch
from backend.codec import dumps, from_plain, to_plain
from backend.devices.registry import open_device
from backend.errors import AiterfuzzError, CannotRunError
from backend.findings import in_causal_order
from backend.real.aiter_ops import AiterSource, aiter_roots, open_aiter
from backend.real.device_memory import DeviceMemory
from backend.real.python.modules import VirtualPackages
from backend.real.python.poison import Undecidable
from backend.real.script.hardware import Hardware, silence_after
from backend.real.script.operations import ScriptOperations
from backend.real.script.options import Options
from backend.real.script.report import EXIT_ABORTED, EXIT_CANNOT_RUN, ScriptReport
from backend.real.script.triton_kernels import MappedGuard
from backend.real.script.watch import ScriptWatcher
from backend.real.torch_shim import GpuFacts, VirtualGpu
from backend.real.triton_shim import interpreted

NAMES = {Arch.GFX942: "AMD Instinct MI300X", Arch.GFX950: "AMD Instinct MI355X"}
MEMORY = {Arch.GFX942: 192 << 30, Arch.GFX950: 288 << 30}
GPUS = 8
"""GPUs of a node, where HIP_VISIBLE_DEVICES does not say otherwise."""

MACHINE_CODE, MODEL = "machine code", "the model's accesses, numbers by attention in float32 along the work items"


def main(argv: list[str]) -> int:
    """Runs the script; returns the exit code that the process on hardware would have."""
    options = from_plain(Options, json.loads(argv[0]))
    torch.set_num_threads(1)
    run = _Run(options)
    code = run.script(argv[1], argv[2:])
    Path(options.reports, f"{os.getpid()}.json").write_text(dumps(run.report()), encoding="utf-8")
    if run.hardware.fault is not None:
        return EXIT_ABORTED
    return EXIT_CANNOT_RUN if run.could_not_run is not None else code


class _Run:
    """One script with everything that it runs on."""

    def __init__(self, options: Options) -> None:
        self.options = options
        self.device = Device(options.arch, options.num_cu or NUM_CU[options.arch])
        self.memory = DeviceMemory(MEMORY[options.arch])
        self.hardware = Hardware(self.memory, options.node + _first_visible())
        self.could_not_run: str | None = None
        self.source = _aiter(options)
        self.code = _code(self.source, options)
        self.operations = ScriptOperations(self.hardware, self.source.release, self.device, self.code)
        self.watcher: ScriptWatcher | None = None

    def report(self) -> ScriptReport:
        """What is known at the end."""
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
            notes=(*([self.source.warning] if self.source.warning else []), *(self.watcher.notes if self.watcher else ())),
            could_not_run=self.could_not_run,
        )

    def script(self, script: str, arguments: list[str]) -> int:
        """Run it as `python SCRIPT ARGUMENTS` would; the exit code."""
        sys.argv = [script, *arguments]
        sys.path[0] = str(Path(script).resolve().parent)
        with self._surroundings():
            try:
                runpy.run_path(script, run_name="__main__")
                code = 0
            except SystemExit as ended:
                code = _exit_code(ended)
            except (AiterfuzzError, Undecidable) as error:
                self.could_not_run = str(error)
                code = EXIT_CANNOT_RUN
            except BaseException:
                traceback.print_exc()
                code = 1
        sys.stdout.flush()
        return code

    @contextlib.contextmanager
    def _surroundings(self) -> Iterator[None]:
        """torch, triton and aiter as the script finds them."""
        options, device = self.options, self.device
        facts = GpuFacts(options.arch, device.num_cu, NAMES[options.arch], MEMORY[options.arch], _visible())
        with contextlib.ExitStack() as stack:
            gpu = stack.enter_context(VirtualGpu(facts, self.memory))
            runs = open_device("model" if self.code is None else "cdna", self.code)
            self.watcher = watcher = ScriptWatcher(gpu.allocations, "").judge_with(self.source.release, device, runs, self.code)
            self.hardware.on_fault += [lambda fault: setattr(watcher, "after_abort", True), silence_after]
            guard = MappedGuard(gpu.allocations, self.hardware, watcher.note)
            stack.enter_context(interpreted(gpu.allocations, guard))
            fakes = {"run_perftest": _run_perftest}
            roots = aiter_roots(self.source, self.operations, watcher, options.arch, device.num_cu, fakes)
            roots[0].fakes.pop("_fwd_kernel_stage2_asm", None)  # type: ignore[attr-defined]
            stack.enter_context(VirtualPackages(roots))
            stack.enter_context(_named(self.source))
            stack.enter_context(_children(options))
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


def _exit_code(ended: SystemExit) -> int:
    if ended.code is None:
        return 0
    if isinstance(ended.code, int):
        return ended.code
    print(ended.code, file=sys.stderr)
    return 1


def _run_perftest(function: Any, *args: Any, **kwargs: Any) -> tuple[Any, float]:
    """aiter.test_common.run_perftest without its hundred timed repetitions: there is no clock to read; 1 us is told."""
    timing = ("num_iters", "num_warmup", "testGraph", "num_rotate_args", "needTrace")
    return function(*args, **{name: value for name, value in kwargs.items() if name not in timing}), 1.0


@contextlib.contextmanager
def _named(source: AiterSource) -> Iterator[None]:
    """aiter says which revision it is: not that of an installed wheel whose Python does not run."""
    import aiter

    aiter.__file__ = f"/virtual/{source.label.replace('/', '_')}/aiter/__init__.py"
    version = importlib.metadata.version

    def told(name: str) -> str:
        if name == "amd-aiter" and source.label != "the installed amd-aiter":
            raise importlib.metadata.PackageNotFoundError(name)
        return version(name)

    importlib.metadata.version = told  # type: ignore[assignment]
    try:
        yield
    finally:
        importlib.metadata.version = version


@contextlib.contextmanager
def _children(options: Options) -> Iterator[None]:
    """Python processes that the script starts (one a rank) run on a virtual GPU of their own."""
    popen = subprocess.Popen
    given = json.dumps(to_plain(options))

    class Started(popen):  # type: ignore[valid-type, misc]
        def __init__(self, command: Any, *rest: Any, **options: Any) -> None:
            if _is_script(command):
                command = [sys.executable, "-m", RUNNER, given, *command[1:]]
                environment = options.get("env") or os.environ
                options["env"] = {**environment, "PYTHONPATH": os.pathsep.join((_ROOT, environment.get("PYTHONPATH", "")))}
            super().__init__(command, *rest, **options)

    subprocess.Popen = Started  # type: ignore[misc, assignment]
    try:
        yield
    finally:
        subprocess.Popen = popen  # type: ignore[misc]


def _is_script(command: Any) -> bool:
    """Whether it is this Python with a script."""
    if not isinstance(command, (list, tuple)) or len(command) < 2:
        return False
    return str(command[0]) == sys.executable and str(command[1]).endswith(".py")


RUNNER = "backend.real.script.run"

_ROOT = str(Path(__file__).parents[3])


if __name__ == "__main__":
    try:
        ended = main(sys.argv[1:])
    except CannotRunError as error:
        print(f"aiterfuzz: {error}", file=sys.stderr)
        ended = EXIT_CANNOT_RUN
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(ended)
