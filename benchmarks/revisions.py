"""What a revision of AITER that is read from its own text costs: the first result, the second, and cases a second of one core.

    python -m benchmarks.revisions CHECKOUT@REV [CHECKOUT@REV ...]

The first result is `aiterfuzz explain` of one case, in a process of its own with an empty cache: reading, lowering and
compiling the revision's planner is in it, and compiling the built-in rules too, which the same command without `--aiter` shows
alone. The second is the same command again. Rates are of the device `model` in this process, on cases that run to their end at
the revision, and in turn on the same cases by the built-in release that is nearest.
"""

from __future__ import annotations

import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence

from backend.aiter.codefiles import open_source
from backend.case import Case, DType
from backend.host import Host
from backend.path import Path
from backend.revision.revision import host_of
from benchmarks.model import MAX_BATCH
from fuzz.campaign.outcomes import WithinSpace
from fuzz.space import CaseSpace, space
from fuzz.spec import Spec
from fuzz.strategies import chunk_cases

CHUNKS = 4
ROUNDS = 5

CASE = ("--num-head", "32", "--max-seqlen-q", "4", "--kv-lens", "5000,4,33", "--backend", "sglang-27188")
"""What the first result is of: planner v1_2, as sglang calls it."""


def first_results(aiter: Sequence[str]) -> tuple[str, str]:
    """Wall and processor time of the first explain with an empty cache, and of the second."""
    with tempfile.TemporaryDirectory() as cache:
        environment = {**os.environ, "AITERFUZZ_CACHE": cache, "NUMBA_CACHE_DIR": f"{cache}/numba"}
        return _explained(aiter, environment), _explained(aiter, environment)


def _explained(aiter: Sequence[str], environment: dict[str, str]) -> str:
    command = [sys.executable, "-m", "fuzz.cli", "explain", *CASE, *aiter]
    began, used = time.monotonic(), _used()
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    wall, processor = time.monotonic() - began, _used() - used
    if ended.returncode not in (0, 1):
        raise SystemExit(f"{' '.join(command)} ended with {ended.returncode}:\n{ended.stderr}")
    return f"{wall:.1f} s wall, {processor:.1f} s of one core"


def _used() -> float:
    spent = resource.getrusage(resource.RUSAGE_CHILDREN)
    return spent.ru_utime + spent.ru_stime


SPACES = {
    "sglang, TP2 and TP4, fp8": Spec(
        "sglang-27188", shapes=("tp2", "tp4"), q_dtype=DType.FP8, kv_dtype=DType.FP8, max_batch=MAX_BATCH
    ),
    "direct, every mode": Spec("direct", max_batch=MAX_BATCH),
}


def rates(host: Host, what: str, bounds: CaseSpace) -> None:
    """Cases a second of processor time at the revision and by built-in rules, round by round in turn; medians."""
    own, built_in = Path(host), Path()
    cases = [case for chunk in range(CHUNKS) for case in chunk_cases(bounds, 0, chunk)]
    cases = [case for case in cases if _ran(own, bounds, case) and _ran(built_in, bounds, case)]
    taken: dict[bool, list[float]] = {False: [], True: []}
    for _ in range(ROUNDS):
        for evaluated, path in ((True, own), (False, built_in)):
            began = time.process_time()
            for case in cases:
                path.run(case)
            taken[evaluated].append(time.process_time() - began)
    of_text, rules = (len(cases) / statistics.median(taken[each]) for each in (True, False))
    times = f"{rules / of_text:.1f} times of {len(cases)} cases"
    print(f"  {what}: {of_text:,.0f} cases/s a core, built-in rules {rules:,.0f} ({times})")


def _ran(path: Path, bounds: CaseSpace, case: Case) -> bool:
    return WithinSpace(path, bounds).run(case).refused is None


def main(revisions: Sequence[str]) -> int:
    """Prints the figures of each revision."""
    if not revisions:
        print(__doc__, file=sys.stderr)
        return 2
    cold, warm = first_results(())
    print(f"built-in rules: first result {cold}; second {warm}")
    for revision in revisions:
        host = host_of(open_source(revision))
        cold, warm = first_results(("--aiter", revision))
        print(f"{revision}: first result {cold}; second {warm}")
        print(f"  {host.warning()}")
        for what, spec in SPACES.items():
            rates(host, what, space(spec))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
