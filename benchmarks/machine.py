"""What the machine's speed is: wave instructions a second, in full and of the slice, start-up, memory, and what judging costs.

    python -m benchmarks.machine

One core. Times are processor time of this process, best of several, so that a busy machine blurs them little; the load is
printed. The launch is batch 16 x 2048 tokens of the wheel's gfx950 kernel for 16 heads, fp8, persistent. A slice is told both
by what it
executes and by what a full run of the same launch executes. Starts are measured in processes of their own, with an empty and
with a full cache of compiled code. The reference executor of the tests runs the smallest launch of the same kernel.
"""

from __future__ import annotations

import dataclasses
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from backend.aiter.codefiles import installed_wheel, open_code
from backend.call import Call
from backend.case import Arch, Case, MetadataMode
from backend.cdna.code_object import Kernel, load_code_object
from backend.cdna.decode import decode
from backend.cdna.machine import QUANTUM, Machine, MachineLaunch
from backend.cdna.memory import AddressSpace
from backend.cdna.record import NOTHING, RecordOptions
from backend.cdna.result import Mode, RunResult, Schedule
from backend.decision import Decision
from backend.devices.cdna.address_space import build
from backend.host import BuiltIn
from backend.serving.policy import decide
from backend.serving.registry import policy

REPEATS = 7
CASE = Case(num_head=16, kv_lens=(2048,) * 16, arch=Arch.GFX950, release="2025-11", mode=MetadataMode.FAST)
SMALL = dataclasses.replace(CASE, kv_lens=(5,), num_cu=1)
START = "from benchmarks.machine import first_run; first_run()"


def planned(case: Case) -> Call:
    """The call of a case that AITER takes."""
    decision = decide(policy(case.backend), case)
    assert isinstance(decision, Decision)
    return BuiltIn(installed_wheel()).call(decision)


def kernel_of(made: Call) -> Kernel:
    """The kernel that the call launches."""
    launched = made.launched
    return load_code_object(open_code(installed_wheel(), launched.arch, launched.code_object)).kernel(launched.symbol)


def launch_of(made: Call) -> tuple[MachineLaunch, AddressSpace]:
    """The launch with fresh memory."""
    space, kernarg = build(made)
    return MachineLaunch(made.launched.grid, made.launched.block, kernarg), space


def least(function: Callable[[], RunResult]) -> tuple[float, RunResult]:
    """Processor seconds of the fastest of several runs, and its result."""
    best = float("inf")
    for _ in range(REPEATS):
        start = time.process_time()
        result = function()
        best = min(best, time.process_time() - start)
    return best, result


def first_run() -> None:
    """Load, compile and run everything once: what a user waits for before the first result of both modes."""
    made = planned(SMALL)
    machine = Machine(kernel_of(made))
    for mode in Mode:
        machine.run(*launch_of(made), mode)


def start_seconds(cache: str) -> tuple[float, float]:
    """(wall, processor) seconds of a process that runs one small launch in both modes, less an interpreter that imports
    numpy."""
    environment = {**os.environ, "NUMBA_CACHE_DIR": cache}

    def run(code: str) -> tuple[float, float]:
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        start = time.perf_counter()
        subprocess.run([sys.executable, "-c", code], check=True, env=environment)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        return time.perf_counter() - start, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime

    wall, processor = run(START)
    idle_wall, idle_processor = run("import numpy")
    return wall - idle_wall, processor - idle_processor


def reference_speed() -> tuple[float, float]:
    """Wave instructions a second of the reference executor and of the machine, on the same small launch."""
    sys.path.insert(0, str(Path(__file__).parents[1] / "tests" / "cdna"))
    from reference_executor import ReferenceWave, run_workgroup  # type: ignore[import-not-found]
    from reference_memory import ReferenceMemory  # type: ignore[import-not-found]

    made = planned(SMALL)
    kernel = kernel_of(made)
    launch, space = launch_of(made)
    space.add_array("kernarg", np.frombuffer(launch.kernarg, np.uint8).copy())
    memory = ReferenceMemory(space, np.zeros(kernel.lds_size, np.uint8))
    waves = [ReferenceWave(kernel.arch, memory, index=index) for index in range(launch.waves)]
    for wave in waves:
        wave.set_scalar64(0, space["kernarg"].base)
        wave.set_scalar64(126, (1 << 64) - 1)
        wave.vectors[0] = np.arange(64) + 64 * wave.index
    instructions = decode(kernel.text, kernel.arch)
    start = time.process_time()
    executed = run_workgroup(instructions, waves, QUANTUM)
    reference = executed / (time.process_time() - start)
    machine = Machine(kernel)
    seconds, result = least(lambda: machine.run(*launch_of(made), Mode.FULL))
    return reference, result.executed / seconds


def main() -> None:
    """Measure and print."""
    made = planned(CASE)
    machine = Machine(kernel_of(made))
    launch, space = launch_of(made)

    def timed(
        mode: Mode, record: RecordOptions = NOTHING, schedule: Schedule = Schedule.ROUND_ROBIN
    ) -> tuple[float, RunResult]:
        return least(lambda: machine.run(launch, space, mode, schedule, record))

    timed(Mode.SLICE)
    full, full_result = timed(Mode.FULL)
    part, part_result = timed(Mode.SLICE)
    slow, _ = timed(Mode.SLICE, RecordOptions(slow_path=True))
    unchecked, _ = timed(Mode.FULL, RecordOptions(unchecked=True))
    late, _ = timed(Mode.FULL, schedule=Schedule.TIMED)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    reference, same_launch = reference_speed()
    with tempfile.TemporaryDirectory() as cache:
        cold, warm = start_seconds(cache), start_seconds(cache)
    instructions = full_result.executed
    rows = [
        ("full run", f"{full * 1e3:.1f} ms", f"{instructions / full / 1e6:.1f} M wave instructions/s"),
        ("slice", f"{part * 1e3:.1f} ms", f"{part_result.executed / part / 1e6:.1f} M executed/s"),
        ("", "", f"{instructions / part / 1e6:.1f} M/s of the full run's {instructions / 1e6:.2f} M"),
        ("slice, every access lane by lane", f"{slow * 1e3:.1f} ms", f"{slow / part:.1f} x the slice"),
        ("full run, nothing judged", f"{unchecked * 1e3:.1f} ms", f"judging costs {full / unchecked:.2f} x"),
        ("full run, timed schedule", f"{late * 1e3:.1f} ms", f"{late / full:.1f} x the full run"),
        ("reference executor", f"{reference / 1e3:.1f} k/s", f"machine on the same launch {same_launch / reference:.0f} x"),
        ("first start, nothing compiled", f"{cold[0]:.1f} s", f"{cold[1]:.1f} s of processor time"),
        ("later start", f"{warm[0]:.1f} s", f"{warm[1]:.1f} s of processor time"),
        ("peak memory of this process", f"{peak:.0f} MiB", ""),
        ("load", f"{os.getloadavg()[0]:.1f}", "of 1 on an idle machine"),
    ]
    for name, figure, note in rows:
        print(f"{name:34} {figure:>10}  {note}")


if __name__ == "__main__":
    main()
