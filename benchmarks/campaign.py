"""What a campaign costs and what guidance brings: distribution, scaling over workers, time to fault; side by side in one run.

    python -m benchmarks.campaign

Distribution: chunks through Ray, a supervisor and a process of its own, against the same chunks in a plain loop of one process.
Scaling: two workers against one. Both are meaningful on an idle machine with two cores or more; the load is printed.
Guidance: cases until each fault is met, guided against drawn afresh throughout by the same Hypothesis strategies, over several
seeds; medians, with a search that did not meet it counted as having needed its whole budget.
"""

from __future__ import annotations

import argparse
import math
import os
import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from backend.path import Path as CasePath
from fuzz.campaign.chunks import Safe, run_chunk
from fuzz.campaign.cluster import Cluster
from fuzz.campaign.config import CampaignConfig
from fuzz.campaign.guide import Guide
from fuzz.campaign.guided import Frozen, Maker
from fuzz.campaign.order import Order
from fuzz.campaign.store import StoredChunk
from fuzz.campaign.triage import KnownFaults, default_corpus
from fuzz.provenance import provenance

SPACE = CampaignConfig(shapes=("tp2", "tp4"), max_batch=64)
"""Batches as serving sees them."""

CHUNKS = 8
ROUNDS = 16
AHEAD = 2

GUIDED_SPACES = (
    "sglang-before-27188",
    "sglang-before-20399",
    "sglang-before-20841",
    "vllm-before-41016",
    "vllm-before-31282",
    "direct",
)
"""Backends that bring back the faults of the corpus, and the caller that may do anything."""

GUIDED_CHUNK = 250
HARD = 2 * GUIDED_CHUNK
"""Cases from which a fault counts as hard: before it, guidance has not set in."""


def loop_seconds(config: CampaignConfig, chunks: Sequence[int]) -> float:
    """Of the chunks in a plain loop."""
    maker = Maker(config.space(), config.seed, config.cases_a_chunk)
    path = Safe(CasePath(config.device), config.device)
    begin = time.perf_counter()
    for chunk in chunks:
        run_chunk(chunk, maker.cases(chunk, Frozen()), path, Frozen(), lambda chunk, position: None, keep=False)
    return time.perf_counter() - begin


def cluster_seconds(cluster: Cluster, actors: Sequence[object], chunks: Sequence[int]) -> float:
    """Of the same chunks over workers, each of which holds two calls, as the engine hands them out."""
    left = list(reversed(chunks))
    begin = time.perf_counter()
    calls = {cluster.call(actor, "chunk", left.pop(), 0, None): actor for actor in actors for _ in range(AHEAD) if left}
    while calls:
        for call in cluster.wait(list(calls), 10.0):
            answer = cluster.answer(call)
            assert type(answer).__name__ == "ChunkDone", answer
            actor = calls.pop(call)
            if left:
                calls[cluster.call(actor, "chunk", left.pop(), 0, None)] = actor
    return time.perf_counter() - begin


def processor_seconds() -> tuple[float, float]:
    """Used so far by the processes below this one that run cases; by this one, supervisors and Ray's."""
    parents: dict[int, int] = {}
    used: dict[int, float] = {}
    running: set[int] = set()
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        try:
            fields = (entry / "stat").read_text().rpartition(")")[2].split()
            command = (entry / "cmdline").read_text()
        except OSError:
            continue  # it has just ended
        pid = int(entry.name)
        parents[pid] = int(fields[1])
        used[pid] = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
        if "fuzz.campaign.child" in command:
            running.add(pid)
    ours = {os.getpid()}
    while more := {pid for pid, parent in parents.items() if parent in ours} - ours:
        ours |= more
    return sum(used[pid] for pid in ours & running), sum(used[pid] for pid in ours - running if pid in used)


def distribution() -> None:
    """Prints overhead and scaling, medians over many short rounds in turn, because other work on the machine comes and goes."""
    config = SPACE
    made_by = provenance("model", ("2026-06",), None)
    order = Order(config.space(), 0, config.cases_a_chunk, False, "model", None, 60.0, 4096, 1, 1, made_by)
    seconds: dict[str, list[float]] = {"loop": [], "one worker": [], "two workers": []}
    loop_used, running_used, beside_used = 0.0, 0.0, 0.0
    with tempfile.TemporaryDirectory() as folder, Cluster(None, "CPU") as cluster:
        actors = [cluster.spawn(order, f"worker-{i}", folder) for i in range(min(2, cluster.workers(0)))]
        for actor in actors:
            greeted = cluster.call(actor, "hello")
            while not cluster.wait([greeted], 10.0):
                pass
            cluster.answer(greeted)
        cluster_seconds(cluster, actors, range(4))
        loop_seconds(config, range(1))
        for begin in range(0, ROUNDS * CHUNKS, CHUNKS):
            chunks = range(begin, begin + CHUNKS)
            before = time.process_time()
            seconds["loop"].append(loop_seconds(config, chunks))
            loop_used += time.process_time() - before
            running_before, beside_before = processor_seconds()
            seconds["one worker"].append(cluster_seconds(cluster, actors[:1], chunks))
            running_after, beside_after = processor_seconds()
            running_used += running_after - running_before
            beside_used += beside_after - beside_before
            if len(actors) == 2:
                seconds["two workers"].append(cluster_seconds(cluster, actors, chunks))
    for what, found in seconds.items():
        if found:
            print(f"{what}: {CHUNKS * config.cases_a_chunk / statistics.median(found):,.0f} cases/s")
    print(
        f"processor time against the loop: {running_used / loop_used - 1:+.1%} in the process that runs cases, "
        f"{beside_used / loop_used:.1%} beside it (driver, supervisor, and Ray's own, which run by the clock)"
    )
    shares = [one / loop - 1 for loop, one in zip(seconds["loop"], seconds["one worker"], strict=True)]
    quartiles = statistics.quantiles(shares, n=4)
    print(f"overhead of distribution, wall time: {quartiles[1]:.1%} (quartiles {quartiles[0]:.1%}, {quartiles[2]:.1%})")
    if len(actors) == 2:
        ratios = [one / two for one, two in zip(seconds["one worker"], seconds["two workers"], strict=True)]
        quartiles = statistics.quantiles(ratios, n=4)
        print(f"two workers over one: {quartiles[1]:.2f} (quartiles {quartiles[0]:.2f}, {quartiles[2]:.2f})")
    print(f"load of the machine: {os.getloadavg()[0]:.1f} on {os.cpu_count()} cores, {ROUNDS} rounds of {CHUNKS} chunks")


@dataclass(frozen=True, slots=True)
class Met:
    """When a fault was first met. cases, seconds: from the beginning of the search."""

    cases: int
    seconds: float


def search(config: CampaignConfig, chunks: int) -> tuple[dict[str, Met], float]:
    """First meetings by signature, and the seconds of the whole search."""
    maker = Maker(config.space(), config.seed, config.cases_a_chunk)
    guide = Guide(config.generation_chunks, config.guided)
    path = Safe(CasePath(config.device), config.device)
    met: dict[str, Met] = {}
    begin = time.perf_counter()
    for chunk in range(chunks):
        frozen = guide.frozen(chunk)
        assert frozen is not None
        report = run_chunk(chunk, maker.cases(chunk, frozen), path, frozen, lambda chunk, position: None)
        guide.take(StoredChunk(chunk, report.reached, report.kept))
        for shown in report.shown:
            at = chunk * config.cases_a_chunk + shown.position + 1
            met.setdefault(shown.signature, Met(at, time.perf_counter() - begin))
    return met, time.perf_counter() - begin


@dataclass(frozen=True, slots=True)
class Compared:
    """One fault over all seeds: first meetings unguided and guided, None for a search that did not meet it."""

    signature: str
    unguided: Sequence[Met | None]
    guided: Sequence[Met | None]


def compared(backend: str, chunks: int, seeds: int) -> list[Compared]:
    """Every fault that a search over the backend met, and the seconds of the searches printed."""
    found: dict[bool, list[dict[str, Met]]] = {False: [], True: []}
    spent = {False: 0.0, True: 0.0}
    for seed in range(seeds):
        for guided in (False, True):
            config = CampaignConfig(backend=backend, seed=seed, guided=guided, chunk_cases=GUIDED_CHUNK)
            met, seconds = search(config, chunks)
            found[guided].append(met)
            spent[guided] += seconds
    print(f"{backend}: {spent[False] / seeds:.1f} s a search unguided, {spent[True] / seeds:.1f} s guided")
    signatures = sorted({signature for each in (*found[False], *found[True]) for signature in each})
    return [
        Compared(signature, [met.get(signature) for met in found[False]], [met.get(signature) for met in found[True]])
        for signature in signatures
    ]


def guidance(chunks: int, seeds: int) -> None:
    """Prints cases to each fault, guided and not, by backend; then the gain over the hard ones."""
    known = KnownFaults(default_corpus())
    budget = chunks * GUIDED_CHUNK
    hard: list[Compared] = []
    print(f"cases until a fault is met, medians of {seeds} seeds, budget {budget:,} cases a search")
    for backend in GUIDED_SPACES:
        faults = compared(backend, chunks, seeds)
        for fault in sorted(faults, key=lambda fault: _median_cases(fault.unguided, budget)):
            unguided, guided = (_median_cases(met, budget) for met in (fault.unguided, fault.guided))
            if min(unguided, guided) > HARD:
                hard.append(fault)
            missed = f"{list(fault.unguided).count(None)} and {list(fault.guided).count(None)} did not meet it"
            entries = ", ".join(known.entries_of(fault.signature)) if backend != "direct" else ""
            told = "; ".join(part for part in (entries, missed if None in (*fault.unguided, *fault.guided) else "") if part)
            print(f"  unguided {unguided:8,.0f}  guided {guided:8,.0f}  {fault.signature}{f'  ({told})' if told else ''}")
    if not hard:
        return
    cases = _geometric_mean([_cases(met, budget) for fault in hard for met in fault.guided]) / _geometric_mean(
        [_cases(met, budget) for fault in hard for met in fault.unguided]
    )
    both = [(u.seconds, g.seconds) for fault in hard for u, g in zip(fault.unguided, fault.guided, strict=True) if u and g]
    seconds = _geometric_mean([g for _, g in both]) / _geometric_mean([u for u, _ in both])
    print(
        f"hard faults ({len(hard)}, met by neither within {HARD} cases): guided needs {cases:.2f} of the cases (geometric "
        f"mean, one not met counts as the whole budget) and, where both met it, {seconds:.2f} of the time"
    )


def _cases(met: Met | None, budget: int) -> int:
    return budget if met is None else met.cases


def _median_cases(found: Sequence[Met | None], budget: int) -> float:
    return statistics.median(_cases(met, budget) for met in found)


def _geometric_mean(values: Sequence[float]) -> float:
    return math.exp(statistics.fmean(map(math.log, values)))


def main(argv: Sequence[str] | None = None) -> int:
    """Prints the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=("distribution", "guidance"), help="one of the two parts")
    parser.add_argument("--chunks", type=int, default=40, help="budget of a search, in chunks of 250 cases (40)")
    parser.add_argument("--seeds", type=int, default=7, help="searches of each kind (7)")
    arguments = parser.parse_args(argv)
    if arguments.only != "guidance":
        distribution()
    if arguments.only != "distribution":
        guidance(arguments.chunks, arguments.seeds)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
