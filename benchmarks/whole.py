"""What it costs that a search on the machine runs the first case of each kind whole, with numbers.

    python -m benchmarks.whole [--chunks N] [--aiter CHECKOUT@REVISION]

Each case as a slice alone, and as a search runs it, one after the other in one run: processor seconds, what is compiled once
not. The cases are those of today's sglang, chunks of a seed without guidance; kinds count over all of them.
"""

from __future__ import annotations

import argparse
import time

from backend.aiter.codefiles import installed_wheel, open_source
from backend.case import Case
from backend.devices.kinds import open_device, open_searching
from backend.devices.two_devices import WholeWhereNew
from backend.host import BuiltIn
from backend.outcome import Outcome
from backend.path import Path
from fuzz.campaign.chunks import Safe
from fuzz.campaign.config import CampaignConfig, of_its_release
from fuzz.strategies import chunk_cases

A_CHUNK = 25


def measure(path: Safe, case: Case) -> tuple[float, Outcome]:
    """Processor seconds of a case, and what became of it."""
    begin = time.process_time()
    outcome = path.run(case)
    return time.process_time() - begin, outcome


def main() -> None:
    """Measures, and prints one line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--chunks", type=int, default=8)
    parser.add_argument("--aiter")
    asked = parser.parse_args()
    source = installed_wheel() if asked.aiter is None else open_source(asked.aiter)
    releases = ("2025-11",) if asked.aiter is None else None
    config = of_its_release(CampaignConfig(device="cdna", backend="sglang-27188", aiter=asked.aiter, releases=releases))
    host, searching = BuiltIn(source), open_searching("cdna", source)
    assert isinstance(searching, WholeWhereNew)
    slices, both = Safe(Path(host, open_device("cdna", source)), "cdna"), Safe(Path(host, searching), "cdna")
    cases = [case for chunk in range(asked.chunks) for case in chunk_cases(config.space(), 0, chunk, A_CHUNK)]
    for case in cases:  # compiles
        if (observation := both.run(case).observation) is not None and observation.numbers is not None:
            break
    searching.begin(())
    alone = together = 0.0
    ran = whole = wrong = 0
    for case in cases:
        seconds, outcome = measure(slices, case)
        alone += seconds
        is_new, found = measure(both, case)
        together += is_new
        ran += found.observation is not None
        has_numbers = found.observation is not None and found.observation.numbers is not None
        whole += has_numbers
        wrong += has_numbers and found.faulty and not outcome.faulty
    print(
        f"{whole} of {ran} cases that ran did so whole ({100 * whole / max(ran, 1):.1f} %), {wrong} wrong by numbers alone; "
        f"{together / alone:.2f} times the processor time of slices alone ({together:.1f} s over {alone:.1f} s)"
    )


if __name__ == "__main__":
    main()
