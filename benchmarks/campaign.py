"""What a campaign costs and what guidance brings: distribution, scaling over workers, time to fault; side by side in one run.

    python -m benchmarks.campaign

Distribution: chunks through Ray, a supervisor and a process of its own, against the same chunks in a plain loop of one process.
Scaling: two workers against one. Both are meaningful on an idle machine with two cores or more; the load is printed.
Guidance: cases and seconds until each fault is met, guided against drawn afresh throughout,
over several seeds, with a search that did not meet a fault counted as having needed all of what both searches had; first on the
model, then with the machine code of the installed wheel. Ratios are geometric means over faults and seeds.
"""

from __future__ import annotations

import argparse
import math
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise, product
from pathlib import Path

from backend.path import Path as CasePath
from fuzz.campaign.chunks import Safe, run_chunk
from fuzz.campaign.cluster import Cluster, Demand
from fuzz.campaign.config import CampaignConfig
from fuzz.campaign.guidance import Frozen, Guide
from fuzz.campaign.maker import Maker
from fuzz.campaign.messages import WorkerSetup
from fuzz.campaign.store_blobs import StoredChunk
from fuzz.provenance import provenance
from reprod.corpus import load_corpus, shipped_corpus

SPACE = CampaignConfig(shapes=("tp2", "tp4"), max_batch=64)
"""Batches as serving sees them."""

CHUNKS = 8
ROUNDS = 16
AHEAD = 2

WIDEST = "direct"
"""A caller that may do anything: where every fault is one among more than a hundred."""

TODAY = "sglang-27188"
"""The backend of today, of which few faults are known and those are rare."""

GUIDED_SPACES = {
    "sglang-before-27188": 1 / 15,
    "sglang-before-20399": 1 / 15,
    "sglang-before-20841": 1 / 15,
    "vllm-before-41016": 1 / 15,
    "vllm-before-31282": 1 / 15,
    TODAY: 1 / 2,
    WIDEST: 1.0,
}
"""Backends that bring back faults of the corpus, which are met at once there, then the two that they are rare in; with the
share of the cases that a search gets."""

RELEASES = ("2025-11", "2026-06", "2026-08")
GUIDED_CHUNK = 250

BANDS = (500, 1500, 5000)
"""Cases between which faults are told apart. Before 500 guidance has not set in."""

MACHINE_BANDS = (5, 20, 60)
"""Seconds."""


def loop_seconds(config: CampaignConfig, chunks: Sequence[int]) -> float:
    """Of the chunks in a plain loop."""
    maker = Maker(config.space(), config.seed, config.cases_a_chunk)
    path = Safe(CasePath(device=config.device), config.device)
    begin = time.perf_counter()
    for chunk in chunks:
        run_chunk(chunk, maker.cases(chunk, Frozen()), path, Frozen(), keep=False)
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
    setup = WorkerSetup(config.space(), 0, config.cases_a_chunk, False, "model", None, 60.0, 4096, 1, 1, made_by)
    seconds: dict[str, list[float]] = {"loop": [], "one worker": [], "two workers": []}
    loop_used, running_used, beside_used = 0.0, 0.0, 0.0
    with tempfile.TemporaryDirectory() as folder, Cluster(None, Demand("CPU")) as cluster:
        actors = [cluster.spawn(setup, f"worker-{i}", folder) for i in range(min(2, cluster.workers(0)))]
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


@dataclass(frozen=True, slots=True)
class Searched:
    """One search: first meetings by signature; cases and seconds of the whole; distinct features reached."""

    met: Mapping[str, Met]
    cases: int
    seconds: float
    features: int


def search(config: CampaignConfig, cases: float, seconds: float) -> Searched:
    """Searches in whole chunks until `cases` are done or `seconds` are over."""
    maker = Maker(config.space(), config.seed, config.cases_a_chunk)
    guide = Guide(config.generation_chunks, config.guided)
    path = Safe(CasePath(device=config.device), config.device)
    met: dict[str, Met] = {}
    done = 0
    begin = time.perf_counter()
    while done < cases and time.perf_counter() - begin < seconds:
        chunk = done // config.cases_a_chunk
        frozen = guide.frozen(chunk)
        assert frozen is not None
        report = run_chunk(chunk, maker.cases(chunk, frozen), path, frozen)
        guide.take(StoredChunk(chunk, report.reached, report.kept))
        for shown in report.shown:
            met.setdefault(shown.signature, Met(done + shown.position + 1, time.perf_counter() - begin))
        done += config.cases_a_chunk
    return Searched(met, done, time.perf_counter() - begin, guide.features)


@dataclass(frozen=True, slots=True)
class Pair:
    """An unguided and a guided search of one seed. Both are compared over what both had: the fewer cases, the less time."""

    unguided: Searched
    guided: Searched

    def cases(self, signatures: Iterable[str]) -> tuple[float, float]:
        """Cases until the first of the signatures is met, unguided and guided; all cases where none is."""
        most = min(self.unguided.cases, self.guided.cases)
        return self._until(signatures, lambda met: met.cases, most)

    def seconds(self, signatures: Iterable[str]) -> tuple[float, float]:
        """The same in seconds."""
        most = min(self.unguided.seconds, self.guided.seconds)
        return self._until(signatures, lambda met: met.seconds, most)

    def _until(self, signatures: Iterable[str], of: Callable[[Met], float], most: float) -> tuple[float, float]:
        wanted = set(signatures)
        unguided, guided = (
            min([most, *(of(met) for signature, met in searched.met.items() if signature in wanted)])
            for searched in (self.unguided, self.guided)
        )
        return unguided, guided

    def missed(self, signatures: Iterable[str]) -> tuple[bool, bool]:
        """Whether the searches, unguided and guided, did not meet any of the signatures."""
        wanted = set(signatures)
        return not wanted & self.unguided.met.keys(), not wanted & self.guided.met.keys()


def pairs(config: CampaignConfig, cases: float, seconds: float, seeds: int) -> list[Pair]:
    """A pair for each seed; which of the two goes first changes from seed to seed."""
    search(replace(config, seed=seeds), 2 * config.cases_a_chunk, math.inf)  # compiles what later searches share
    found = []
    for seed in range(seeds):
        both = {}
        for guided in (seed % 2 == 0, seed % 2 == 1):
            both[guided] = search(replace(config, seed=seed, guided=guided), cases, seconds)
        found.append(Pair(both[False], both[True]))
    return found


@dataclass(frozen=True, slots=True)
class Fault:
    """A fault of the corpus. backends: that its cases run on; signatures: of the kind that it is expected to be, which its
    first cases show on the model at any release, so also those of its siblings."""

    entry: str
    backends: frozenset[str]
    signatures: frozenset[str]


def faults_of_corpus() -> list[Fault]:
    """Those that the model can show without the code objects of other days."""
    folder = shipped_corpus()
    assert folder is not None
    path = Safe(CasePath(), "model")
    found = []
    for entry in load_corpus(folder):
        signatures = set()
        for side, release in product(entry.faulty, RELEASES):
            outcome = path.run(next(side.cases()).replace(release=release))
            cause = outcome.cause if outcome is not None and outcome.faulty else None
            if cause is not None and cause.kind is side.expect[0].kind:
                signatures.add(cause.signature)
        if signatures:
            backends = frozenset(side.case.backend for side in entry.faulty)
            found.append(Fault(entry.id, backends, frozenset(signatures)))
    return sorted(found, key=lambda fault: (fault.entry[0], int("".join(filter(str.isdigit, fault.entry)))))


def guidance(cases: int, seeds: int) -> None:
    """Prints cases and seconds to each fault of the corpus, guided and not, then to all faults by how hard they are to meet."""
    known = faults_of_corpus()
    print(f"until each fault of the corpus is met, medians of {seeds} seeds")
    for backend, share in GUIDED_SPACES.items():
        config = CampaignConfig(backend=backend, releases=RELEASES, chunk_cases=GUIDED_CHUNK)
        budget = int(share * cases)
        found = pairs(config, budget, math.inf, seeds)
        print(f"  {backend}, {budget:,} cases a search")
        for fault in known:
            if backend in fault.backends or backend in (TODAY, WIDEST):
                told_of_fault(fault, found)
    print(f"  all faults of {WIDEST}, releases {', '.join(RELEASES)}")
    by_hardness(found, lambda pair, signature: pair.cases([signature]), BANDS, "cases")


def told_of_fault(fault: Fault, found: Sequence[Pair]) -> None:
    """Prints a line of one fault where any search met it."""
    missed = [sum(pair.missed(fault.signatures)[kind] for pair in found) for kind in (0, 1)]
    if sum(missed) == 2 * len(found):
        return
    cases = [pair.cases(fault.signatures) for pair in found]
    seconds = [pair.seconds(fault.signatures) for pair in found]
    unguided, guided = (
        f"{statistics.median(of[kind] for of in cases):8,.0f} cases {statistics.median(of[kind] for of in seconds):6.2f} s"
        for kind in (0, 1)
    )
    ratios = f"{_ratio(cases):4.2f} of the cases, {_ratio(seconds):4.2f} of the time"
    told = f", not met by {missed[0]} and {missed[1]}" if any(missed) else ""
    print(f"    {fault.entry:4} unguided {unguided}  guided {guided}  {ratios}{told}")


def machine_guidance(seconds: float, seeds: int) -> None:
    """The same with the machine code of the installed wheel, whose edges are coverage, at equal time."""
    config = CampaignConfig(backend=WIDEST, releases=("2025-11",), device="cdna")
    print(f"device cdna, {WIDEST}, release 2025-11, {seconds:.0f} s a search, {seeds} seeds")
    by_hardness(pairs(config, math.inf, seconds, seeds), lambda pair, signature: pair.seconds([signature]), MACHINE_BANDS, "s")


def by_hardness(
    found: Sequence[Pair], until: Callable[[Pair, str], tuple[float, float]], bands: Sequence[float], unit: str
) -> None:
    """Prints, for faults as hard to meet as a band says, what guided searches need of what unguided ones do.

    A fault's hardness is the geometric mean over all searches, guided and not, so that it favours neither.
    """
    signatures = sorted({s for pair in found for s in (*pair.unguided.met, *pair.guided.met)})
    hardness = {s: _geometric_mean([each for pair in found for each in until(pair, s)]) for s in signatures}
    for low, high in pairwise((0, *bands, math.inf)):
        band = [s for s in signatures if low < hardness[s] <= high]
        if not band:
            continue
        told = f"over {low:,.0f} {unit}" if high == math.inf else f"{low:,.0f} to {high:,.0f} {unit}"
        ratios = [
            _ratio([pair.cases([s]) for pair in found for s in band]),
            _ratio([pair.seconds([s]) for pair in found for s in band]),
        ]
        missed = [sum(pair.missed([s])[kind] for pair in found for s in band) for kind in (0, 1)]
        print(
            f"  {len(band):3} faults met after {told}: guided needs {ratios[0]:.2f} of the cases, {ratios[1]:.2f} of the time; "
            f"not met {missed[0]} times unguided, {missed[1]} guided"
        )
    print(
        f"  a search: unguided {_mean(found, lambda p: p.unguided.cases):,.0f} cases in "
        f"{_mean(found, lambda p: p.unguided.seconds):.1f} s, {_mean(found, lambda p: len(p.unguided.met)):.1f} faults, "
        f"{_mean(found, lambda p: p.unguided.features):,.0f} features; guided {_mean(found, lambda p: p.guided.cases):,.0f} in "
        f"{_mean(found, lambda p: p.guided.seconds):.1f} s, {_mean(found, lambda p: len(p.guided.met)):.1f}, "
        f"{_mean(found, lambda p: p.guided.features):,.0f} (means)"
    )


def _mean(found: Sequence[Pair], of: Callable[[Pair], float]) -> float:
    return statistics.fmean(map(of, found))


def _ratio(both: Sequence[tuple[float, float]]) -> float:
    """Guided over unguided, as geometric means."""
    return _geometric_mean([guided / unguided for unguided, guided in both])


def _geometric_mean(values: Sequence[float]) -> float:
    return math.exp(statistics.fmean(map(math.log, values)))


def main(argv: Sequence[str] | None = None) -> int:
    """Prints the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=("distribution", "guidance", "machine"), help="one of the three parts")
    parser.add_argument("--cases", type=int, default=30_000, help="of a search on the model (30000)")
    parser.add_argument("--seconds", type=float, default=120.0, help="of a search on the machine (120)")
    parser.add_argument(
        "--seeds", type=int, default=10, help="pairs of searches on the model (10), a third as many on the machine"
    )
    arguments = parser.parse_args(argv)
    if arguments.only in (None, "distribution"):
        distribution()
    if arguments.only in (None, "guidance"):
        guidance(arguments.cases, arguments.seeds)
    if arguments.only in (None, "machine"):
        machine_guidance(arguments.seconds, max(1, arguments.seeds // 3))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
