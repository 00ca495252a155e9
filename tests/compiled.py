"""Compiles what most tests need, so that it lies in numba's cache: `python -m tests.compiled PART`, a part for each core.

Several workers that come to the same function at once each compile it for themselves, and what a process behind the fence
compiles is lost with it (backend.child.fence): a planner takes ten seconds.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

from backend.aiter.codefiles import installed_wheel
from backend.case import RELEASES, Arch, Case, DType, MetadataMode
from backend.devices.kinds import open_device
from backend.path import Path
from fuzz.space import space
from fuzz.spec import Spec
from fuzz.strategies import chunk_cases

PLANNERS: dict[str, Sequence[MetadataMode]] = {
    "fast": (MetadataMode.FAST,),
    "others": tuple(mode for mode in MetadataMode if mode is not MetadataMode.FAST),
}
MACHINE = "machine"
CASES = 40
"""Of each release and mode: they reach every planner, v1_2 of 2026-08 on both of its paths."""


def main(part: str) -> None:
    """Runs cases of a part's modes in every release, or a launch of the installed wheel's code objects."""
    if part == MACHINE:
        machine = Path(device=open_device("cdna", installed_wheel()))
        for arch in Arch:
            machine.run(
                Case(
                    arch=arch,
                    q_dtype=DType.BF16,
                    kv_dtype=DType.BF16,
                    num_head=16,
                    kv_lens=(33, 5),
                    backend="direct",
                    release="2025-11",
                    mode=MetadataMode.FAST,
                )
            )
        return
    path = Path()
    for mode in PLANNERS[part]:
        for release in RELEASES:
            for case in chunk_cases(space(Spec("direct", modes=(mode,), releases=(release,))), 0, 0, CASES):
                path.run(case)


if __name__ == "__main__":
    main(sys.argv[1])
