"""What it costs to look into what a search on the machine finds: shrunk with the help of the model, and on the machine alone.

    python -m benchmarks.shrinking

Both ways in one run, one finding after the other: processor seconds of this process, texts included, what is compiled once not.
Shrinking takes the time that it needs, so that both ways come to a smallest case: minutes on the machine alone. The search is
that of sglang before its change 27188 on TP2, seed 9, with the installed wheel's code objects.
"""

from __future__ import annotations

import argparse
import dataclasses
import time
from collections.abc import Mapping, Sequence

from backend.case import Case
from backend.devices.kinds import DEVICES
from backend.outcome import Outcome
from backend.path import Path
from fuzz.campaign import investigation
from fuzz.campaign.chunks import Safe, run_chunk
from fuzz.campaign.config import CampaignConfig
from fuzz.campaign.guidance import Frozen
from fuzz.campaign.investigation import Investigated, Investigation
from fuzz.campaign.messages import WorkerSetup
from fuzz.provenance import provenance
from fuzz.strategies import chunk_cases
from reprod.case_line import case_line
from reprod.write import finding_files

CONFIG = CampaignConfig(device="cdna", backend="sglang-before-27188", shapes=("tp2",), seed=9)
MADE_BY = provenance(CONFIG.device, CONFIG.space().releases, None)
SETUP = WorkerSetup(
    *(CONFIG.space(), CONFIG.seed, CONFIG.cases_a_chunk, CONFIG.guided, CONFIG.device, None),
    *(CONFIG.seconds_a_case, CONFIG.memory_a_worker, CONFIG.repeats, CONFIG.shrink_tries, MADE_BY),
)
HELPED = DEVICES[CONFIG.device]
ALONE = dataclasses.replace(HELPED, shrunk_on="")

UNLIMITED = 1e9
"""Seconds for shrinking a finding."""


class Here:
    """Runs single cases in this process: investigation.RunsAlone."""

    def __init__(self) -> None:
        self.paths = {name: Path(device=name) for name in (HELPED.name, HELPED.shrunk_on)}

    def run(self, case: Case, device: str | None = None) -> Outcome:
        """The outcome of one case."""
        name = device or HELPED.name
        return Safe(self.paths[name], name).run(case)

    def texts(self, case: Case, command: str) -> tuple[str, Mapping[str, str]]:
        """Files of a finding."""
        path = self.paths[HELPED.name]
        return "", finding_files(path.run(case), MADE_BY, path, CONFIG.seed, command)


def looked_into(here: Here, case: Case, signature: str) -> tuple[float, Investigated]:
    """Processor seconds of looking into a finding, and what comes of it."""
    begin = time.process_time()
    found = Investigation(SETUP, here, signature, "python -m benchmarks.shrinking").run(case)
    return time.process_time() - begin, found


def main(argv: Sequence[str] | None = None) -> int:
    """Prints the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", type=int, default=100, help="of the search (100)")
    cases = parser.parse_args(argv).cases
    investigation.SHRINK_SECONDS = UNLIMITED
    here = Here()
    safe, count = Safe(here.paths[HELPED.name], HELPED.name), CONFIG.cases_a_chunk
    first: dict[str, Case] = {}
    for chunk in range(-(-cases // count)):
        drawn = chunk_cases(SETUP.space, CONFIG.seed, chunk, count)
        for shown in run_chunk(chunk, drawn, safe, Frozen(), keep=False).shown:
            first.setdefault(shown.signature, shown.case)
    spent = {True: 0.0, False: 0.0}
    for signature, case in first.items():
        print(signature)
        looked_into(here, case, signature)  # compiles what both share
        for helped in (True, False):
            DEVICES[HELPED.name] = HELPED if helped else ALONE
            seconds, found = looked_into(here, case, signature)
            spent[helped] += seconds
            how = "with the model" if helped else "on the machine alone"
            print(f"  {how}: {seconds:.1f} s; {case_line(found.smallest)}, minimal: {found.minimal}", flush=True)
        DEVICES[HELPED.name] = HELPED
    print(f"all findings: {spent[True]:.1f} s against {spent[False]:.1f} s: {spent[False] / spent[True]:.1f} times")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
