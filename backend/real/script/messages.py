"""How a script is run on the virtual GPU, and what became of it, as plain data that goes through JSON.

Knows neither torch nor who runs it.
"""

from __future__ import annotations

from dataclasses import dataclass

from backend.case import Arch
from backend.findings import Finding

DEFAULT_NODE = 1
"""ROCm counts CPUs first: on a machine with one socket the first GPU is node 1."""


@dataclass(frozen=True, slots=True)
class Options:
    """How a script is run. aiter: PATH[@REVISION] of a checkout, None: by release. release: whose rules, None: the nearest.

    num_cu: compute units, 0: the whole GPU. node: of the first GPU in fault messages. reports: folder for reports.
    """

    arch: Arch
    aiter: str | None = None
    release: str | None = None
    num_cu: int = 0
    node: int = DEFAULT_NODE
    reports: str = ""


EXIT_FINDINGS, EXIT_CANNOT_RUN, EXIT_ABORTED = 1, 3, 134
"""Findings in a script that ends well; could not run; 128 + SIGABRT, as a shell tells of the abort of ROCm's runtime."""


@dataclass(frozen=True, slots=True)
class HardwareAbort:
    """The access for which hardware aborts the process. line: ROCm's words; address: of the first unmapped byte.

    why: our explanation, a line each.
    """

    line: str
    address: int
    why: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class SeenFinding:
    """A finding, in how many decode calls it was made, and whether the first of them lies behind the abort."""

    finding: Finding
    calls: int
    after_abort: bool


@dataclass(frozen=True, slots=True)
class ScriptReport:
    """One process of a script. pid: its process; arch, num_cu: the GPU; aiter: whose Python and rules; engine: what computes.

    fault: None where hardware would not abort. findings: byte-exact ones too, causes first. decode_calls: of mla_decode_fwd.
    launches: of stage-1 kernels; triton_launches: of Triton kernels. notes: what is not as on hardware.
    could_not_run: why the run says nothing, None: it does. not_judged: of each decode call that ran and that neither model nor
    machine can follow byte by byte, why. refused_by_aiter: the refusal that ended the process, in AITER's words, None: none.
    """

    pid: int
    arch: str
    num_cu: int
    aiter: str
    engine: str
    fault: HardwareAbort | None
    findings: tuple[SeenFinding, ...]
    decode_calls: int
    launches: int
    notes: tuple[str, ...]
    could_not_run: str | None
    triton_launches: int = 0
    not_judged: tuple[str, ...] = ()
    refused_by_aiter: str | None = None
