"""Cases a second of the device `model` on one core, its memory, and what compiling the planners is worth.

    python -m benchmarks.model

Batches up to 64, as serving sees them. Only cases that run to the end are timed, so that refusals do not flatter the figure;
generation is timed apart. The planners' Python source runs the same calls in turn with the compiled one.
"""

from __future__ import annotations

import dataclasses
import resource
import statistics
import sys
import time
from collections.abc import Callable

from backend.aiter.arguments import BufferSizes, PlanArguments, TargetGpu
from backend.aiter.planners import plan, run, v1_0, v1_1, v1_2
from backend.aiter.planners.memory import plain_python
from backend.aiter.planning import Planning
from backend.aiter.release import release
from backend.aiter.sizing import buffer_sizes
from backend.case import Case, DType, MetadataMode
from backend.decision import Refused
from backend.path import Path
from backend.serving.direct import direct
from backend.serving.policy import decide
from fuzz.campaign.chunks import Safe, run_chunk
from fuzz.campaign.guidance import Frozen
from fuzz.campaign.outcomes import WithinSpace
from fuzz.space import CaseSpace, space
from fuzz.spec import Spec
from fuzz.strategies import CHUNK, chunk_cases
from reprod.shrink import shrink

MAX_BATCH = 64
CHUNKS = 8
ROUNDS = 5
PLANNER_ROUNDS = 2


def seconds(work: Callable[[], object]) -> float:
    """CPU time of one call: all of this is one thread, and what else the machine does must not count."""
    begin = time.process_time()
    work()
    return time.process_time() - begin


def rate(count: int, work: Callable[[], object], rounds: int = ROUNDS) -> float:
    """Items a second, the median of several rounds."""
    return count / statistics.median(seconds(work) for _ in range(rounds))


def model_rates() -> None:
    """For what sglang sends to TP2 and TP4, and for a direct caller of every mode."""
    path = Path()
    served = Spec("sglang-27188", shapes=("tp2", "tp4"), q_dtype=DType.FP8, kv_dtype=DType.FP8, max_batch=MAX_BATCH)
    rates(path, "sglang, TP2 and TP4, fp8 (what `make run` confirms)", space(served))
    rates(path, "direct, every mode", space(Spec("direct", max_batch=MAX_BATCH)))


def rates(path: Path, what: str, bounds: CaseSpace) -> None:
    """Running alone, drawing alone, and a search with both and shrinking."""
    cases = [case for chunk in range(CHUNKS) for case in chunk_cases(bounds, 0, chunk)]
    within = WithinSpace(path, bounds)  # takes what is not modelled for refused
    cases = [case for case in cases if within.run(case).refused is None]
    running = rate(len(cases), lambda: [path.run(case) for case in cases])
    drawing = rate(CHUNKS * CHUNK, lambda: [chunk_cases(bounds, 0, chunk) for chunk in range(CHUNKS)])
    searching = rate(CHUNKS * CHUNK, lambda: _searched(bounds, path), 1)
    print(f"{what}: {running:,.0f} cases/s run, {drawing:,.0f}/s drawn, {searching:,.0f}/s in a search")


def _searched(bounds: CaseSpace, path: Path) -> None:
    """CHUNKS chunks with each fault shrunk when it is met first."""
    known: set[str] = set()
    safe = Safe(path, "model")
    for chunk in range(CHUNKS):
        report = run_chunk(chunk, chunk_cases(bounds, 0, chunk), safe, Frozen(), keep=False)
        for shown in report.shown:
            if shown.signature not in known:
                known.add(shown.signature)
                shrink(shown.case, WithinSpace(path, bounds), shown.signature)


PLANNERS = {
    MetadataMode.FAKE: (v1_0, "plan_v1_0"),
    MetadataMode.GREEDY: (v1_1, "plan_v1_1"),
    MetadataMode.FAST: (v1_2, "plan_v1_2"),
}
"""The planner behind each mode, by module and function, in release 2026-06."""


def planner_ratios() -> None:
    """Compiled planners against their own source run by Python, in turn."""
    for mode, (module, name) in PLANNERS.items():
        bounds = dataclasses.replace(space(Spec("direct", modes=(mode,), max_batch=MAX_BATCH)), ragged_rows=False)
        calls = [planning for case in chunk_cases(bounds, 0, 0) if (planning := planning_of(case)) is not None]
        compiled = getattr(module, name)
        taken: dict[bool, list[float]] = {False: [], True: []}
        for plain in (False, True) * PLANNER_ROUNDS:
            setattr(run, name, plain_python(compiled) if plain else compiled)
            if not plain:
                plan(*calls[0])  # read from the cache before it is timed
            taken[plain].append(seconds(lambda calls=calls: [plan(*call) for call in calls]) / len(calls))  # type: ignore[misc]
        setattr(run, name, compiled)
        fast, slow = min(taken[False]), min(taken[True])
        ratio = f"{slow / fast:,.0f} times"
        print(f"planner of {mode.value} mode: {fast * 1e6:,.0f} us compiled, {slow * 1e6:,.0f} us in Python, {ratio}")


def planning_of(case: Case) -> tuple[Planning, TargetGpu, PlanArguments, BufferSizes] | None:
    """The planner's call for a case of a direct caller; None where AITER has none."""
    decision = decide(direct, case)
    if isinstance(decision, Refused) or decision.planning is None or decision.sizing is None:
        return None
    device = TargetGpu(case.arch, case.compute_units)
    rules = release(case.release)
    return rules.planners, device, decision.planning, buffer_sizes(rules.sizing, device, decision.sizing)


def main() -> int:
    """Prints the figures."""
    model_rates()
    print(f"peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:,.0f} MiB")
    planner_ratios()
    return 0


if __name__ == "__main__":
    sys.exit(main())
