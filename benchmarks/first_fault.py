"""How soon the historic fault of sglang#27188 is found, from the start of the command, against another checkout of the project.

    python -m benchmarks.first_fault CHECKOUT

Both checkouts run `aiterfuzz run --backend sglang-before-27188 --shapes tp2` by this Python, one after the other in pairs whose
order alternates: with all compiled code in numba's cache, then with that cache empty. Printed of each are the medians: seconds
until the first fault is named, seconds until the command has ended, and processor seconds of all its processes; and of the
pairs the ratios, this checkout over the other. The first two say something on an idle machine alone, whose load is printed.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import astuple, dataclass
from pathlib import Path

HERE = Path(__file__).parents[1]
COMMAND = ("-m", "fuzz.cli", "run", "--backend", "sglang-before-27188", "--shapes", "tp2", "--out")
NAMED = ("fault: ", "finding: ")
"""Beginnings of the line that names a fault, of this version and of earlier ones."""


@dataclass(frozen=True, slots=True)
class Taken:
    """Seconds that one run took: until its first fault is named, until its end, and of processors."""

    first: float
    whole: float
    processor: float


def taken(checkout: Path, cache: Path) -> Taken:
    """Runs the command of a checkout. cache: numba's."""
    with tempfile.TemporaryDirectory() as folder:
        environment = {**os.environ, "PYTHONPATH": str(checkout), "NUMBA_CACHE_DIR": str(cache)}
        begin, first = time.monotonic(), 0.0
        process = subprocess.Popen(
            [sys.executable, *COMMAND, f"{folder}/out"],
            cwd=folder,
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert process.stderr is not None
        for line in process.stderr:
            if not first and line.startswith(NAMED):
                first = time.monotonic() - begin
        _, status, usage = os.wait4(process.pid, 0)
        whole = time.monotonic() - begin
        process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode != 1 or not first:
        raise SystemExit(f"{checkout}: ended with {process.returncode}, where a fault ends it with 1; no figures")
    return Taken(first, whole, usage.ru_utime + usage.ru_stime)


def compared(other: Path, pairs: int, filled: bool) -> None:
    """Runs pairs and prints their figures. filled: whether numba's cache holds all compiled code, or nothing."""
    runs: dict[Path, list[Taken]] = {other: [], HERE: []}
    with tempfile.TemporaryDirectory() as caches:
        if filled:
            for number, checkout in enumerate(runs):
                taken(checkout, Path(caches, str(number)))
        for pair in range(pairs):
            for number, checkout in list(enumerate(runs))[:: 1 if pair % 2 else -1]:
                cache = Path(caches, str(number) if filled else f"{number}-{pair}")
                runs[checkout].append(taken(checkout, cache))
    for name, before, now in zip(
        ("first fault named", "whole run", "processors"),
        zip(*map(astuple, runs[other]), strict=True),
        zip(*map(astuple, runs[HERE]), strict=True),
        strict=True,
    ):
        ratios = [ours / theirs for ours, theirs in zip(now, before, strict=True)]
        print(
            f"  {name}: {statistics.median(now):.2f} s against {statistics.median(before):.2f} s; ratio "
            f"{statistics.median(ratios):.2f} ({min(ratios):.2f}-{max(ratios):.2f})",
            flush=True,
        )


def main(argv: Sequence[str] | None = None) -> int:
    """Prints the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkout", type=Path, help="folder of the other version of this project")
    parser.add_argument("--pairs", type=int, default=9, help="of runs with all compiled (9)")
    parser.add_argument("--compiling", type=int, default=3, help="pairs of runs with nothing compiled (3)")
    arguments = parser.parse_args(argv)
    for name, pairs, filled in (("compiled", arguments.pairs, True), ("nothing compiled", arguments.compiling, False)):
        if pairs:
            print(f"{name}, {pairs} pairs, load {os.getloadavg()[0]:.1f}", flush=True)
            compared(arguments.checkout.resolve(), pairs, filled)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
