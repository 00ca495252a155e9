"""Cases a second of the device `model` on one core, its memory, and what compiling the planners is worth.

    python -m benchmarks.model

Batches up to 64, as serving sees them. Only cases that run to the end are timed, so that refusals do not flatter the figure;
generation is timed apart. The planners in plain Python run the same calls in a process with NUMBA_DISABLE_JIT=1, in turn
with the compiled ones.
"""

from __future__ import annotations

import argparse
import dataclasses
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence

MAX_BATCH = 64
CHUNKS = 8
ROUNDS = 5
PLANNER_CHUNKS = 1
"""A plain-Python planner takes milliseconds a case."""


def seconds(work: Callable[[], object]) -> float:
    """Of one call."""
    begin = time.perf_counter()
    work()
    return time.perf_counter() - begin


def rate(count: int, work: Callable[[], object], rounds: int = ROUNDS) -> float:
    """Items a second, the median of several rounds."""
    return count / statistics.median(seconds(work) for _ in range(rounds))


def model_rates() -> None:
    """Generation, path and both together, for what sglang sends to TP2 and TP4 and for a direct caller of every mode."""
    from backend.path import Path
    from fuzz.search import CHUNK, Budget, Search, WithinSpace, chunk_cases
    from fuzz.space import Wishes, space

    path = Path("model")
    for what, wishes in (
        ("sglang, TP2 and TP4", Wishes("sglang-27188", shapes=("tp2", "tp4"), max_batch=MAX_BATCH)),
        ("direct, every mode", Wishes("direct", max_batch=MAX_BATCH)),
    ):
        bounds = space(wishes)
        cases = [case for chunk in range(CHUNKS) for case in chunk_cases(bounds, 0, chunk)]
        within = WithinSpace(path, bounds)  # takes what is not modelled for refused
        cases = [case for case in cases if within.run(case).refused is None]
        draw = rate(CHUNKS * CHUNK, lambda: [chunk_cases(bounds, 0, chunk) for chunk in range(CHUNKS)])
        run = rate(len(cases), lambda: [path.run(case) for case in cases])
        search = rate(CHUNKS * CHUNK, lambda: list(Search(bounds, path, 0).events(Budget(cases=CHUNKS * CHUNK))), 1)
        print(f"{what}: run {run:,.0f} cases/s, drawn {draw:,.0f}/s, searched with shrinking {search:,.0f}/s")


def planner_seconds() -> None:
    """Prints the seconds that planning takes a case, by planner, in this process's mode of numba."""
    from backend.aiter.arguments import Device
    from backend.aiter.planners import plan
    from backend.aiter.sizing import buffer_sizes
    from backend.case import MetadataMode
    from backend.decision import Decision
    from backend.serving.direct import direct
    from backend.serving.policy import decide
    from fuzz.search import chunk_cases
    from fuzz.space import Wishes, space

    for mode in (MetadataMode.FAKE, MetadataMode.GREEDY, MetadataMode.FAST):
        bounds = dataclasses.replace(space(Wishes("direct", modes=(mode,), max_batch=MAX_BATCH)), ragged_rows=False)
        calls = []
        for case in (case for chunk in range(PLANNER_CHUNKS) for case in chunk_cases(bounds, 0, chunk)):
            decision = decide(direct, case)
            assert isinstance(decision, Decision)
            assert decision.planning is not None
            assert decision.sizing is not None
            device = Device(case.arch, case.compute_units)
            allocated = buffer_sizes(case.release, device, decision.sizing)
            calls.append((case.release, device, decision.planning, allocated))

        def run(calls: list[tuple] = calls) -> None:  # type: ignore[type-arg]
            for call in calls:
                plan(*call)

        if not os.environ.get("NUMBA_DISABLE_JIT"):
            run()  # compiled or read from the cache before it is timed
        print(mode.value, seconds(run) / len(calls))


def planner_ratios() -> None:
    """Compiled planners against the same functions in plain Python, two rounds in turn."""
    taken: dict[tuple[str, bool], list[float]] = {}
    for _ in range(2):
        for plain in (False, True):
            environment = {**os.environ, **({"NUMBA_DISABLE_JIT": "1"} if plain else {})}
            child = [sys.executable, "-m", "benchmarks.model", "--planners"]
            done = subprocess.run(child, env=environment, capture_output=True, text=True, check=True)
            for line in done.stdout.splitlines():
                mode, cost = line.split()
                taken.setdefault((mode, plain), []).append(float(cost))
    for mode in dict.fromkeys(mode for mode, _ in taken):
        compiled, plain_python = min(taken[mode, False]), min(taken[mode, True])
        print(
            f"planner of {mode} mode: {compiled * 1e6:,.0f} us compiled, {plain_python * 1e6:,.0f} us in plain Python, "
            f"{plain_python / compiled:,.0f} times"
        )


def main(argv: Sequence[str] | None = None) -> int:
    """Prints the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--planners", action="store_true", help="only the planners, for this benchmark's own child processes")
    if parser.parse_args(argv).planners:
        planner_seconds()
        return 0
    model_rates()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"peak memory {peak:,.0f} MiB")
    planner_ratios()
    return 0


if __name__ == "__main__":
    sys.exit(main())
