"""Summaries made by hand for tests of the page: every figure is known, because nothing ran."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from backend.case import Arch, Case, DType
from backend.findings import Finding, FindingKind, Party, Severity
from backend.path import Path
from fuzz.campaign.config import CampaignConfig
from fuzz.campaign.summary import (
    CampaignComparison,
    CampaignSummary,
    CoverageCell,
    Environment,
    FindingStanding,
    Gone,
    KnownReference,
    Loss,
    LossKind,
    Member,
    Reason,
    Reliability,
    Sample,
    Session,
    Span,
    TriagedFinding,
)
from fuzz.provenance import Provenance
from fuzz.verdict import Counts

BEGAN = 1_780_000_000.0
"""2026-05-28 20:26:40 UTC."""

HOSTILE = "</script><script>alert(1)</script><img src=x onerror=alert(2)>&\"'`|*\x00\x1b"
"""What no output may take for its own language."""

FOUNDING = Case(num_head=64, kv_lens=(1,), backend="sglang-before-27188")
"""One request of one token, 64 heads, fp8: the planner folds to 4 x 16, the kernel takes 64 (corpus F1)."""

REFUSED = "no row for the key"


def member(**changes: Any) -> Member:
    """The campaign of a model on TP2 and TP4, fp8 on gfx950."""
    config = CampaignConfig(
        backend="sglang-27188", shapes=("tp2", "tp4"), archs=(Arch.GFX950,), q_dtype=DType.FP8, kv_dtype=DType.FP8, seed=7
    ).replace(**changes)
    return Member(
        identity="0123456789abcdef",
        created=BEGAN,
        seed=config.seed,
        config=config,
        space=config.space(),
        provenance=Provenance(
            project="0.1.0",
            rules="aaaabbbbcccc",
            python="3.11.7",
            system="Linux x86_64",
            versions={"numpy": "2.4.6"},
            device=config.device,
            releases={"2026-06": "2988812e134a7dbb08948092a9d89df48a2585d3"},
            source=None,
            host_sources={},
            warnings=(),
        ),
        environment=Environment("tester", "Linux", 2, 24 << 30, 1, {"CPU": 2.0, "memory": float(20 << 30)}),
        sessions=(Session(BEGAN, BEGAN + 100, "finished", 2, "local, 1 node", "aaaabbbbcccc"),),
        cases=1000,
    )


def cell(num_head: int, batch: int, kv_len: int, cases: int, ran: int, faulty: int = 0, *signatures: str) -> CoverageCell:
    """A field of the map; what did not run was refused."""
    refused = (Reason(REFUSED, cases - ran),) if cases > ran else ()
    kernels = {"mla_one.co": ran} if ran else {}
    batches, lengths = Span(batch, 2 * batch - 1), Span(kv_len, 2 * kv_len - 1)
    shape = "2026-06 gfx950 fp8 fp8 1"
    ran_as = {shape: ran} if ran else {}
    refused_as = {f"{shape} AITER {REFUSED}": cases - ran} if refused else {}
    fields = (cases, ran, faulty, kernels, refused, signatures, 0, ran_as, refused_as)
    return CoverageCell(num_head, batches, lengths, *fields)


def clean() -> CampaignSummary:
    """1,000 cases: 900 clean, 100 refused; TP2 500 of 600, TP4 400 of 400."""
    cells = (cell(32, 1, 16, 400, 400), cell(64, 1, 16, 300, 300), cell(64, 256, 65_536, 300, 200))
    return CampaignSummary(
        members=(member(),),
        complete=True,
        seconds=100.0,
        counts=Counts(clean=900, refused=100),
        refused_reasons=(Reason(REFUSED, 100),),
        unmodelled_reasons=(),
        samples=tuple(Sample(10.0 * i, 100 * i, 10.0, 50 + 5 * i, 0) for i in range(1, 11)),
        cells=cells,
        kernels={"mla_one.co": 900},
        features=100,
        findings=(),
        comparison=None,
        losses=(),
        lost_chunks=(),
        doubts=(),
    )


def founding_finding(**changes: Any) -> TriagedFinding:
    """The founding fault, as the model finds it."""
    outcome = Path().run(FOUNDING)
    found = outcome.cause
    assert found is not None
    entry = TriagedFinding(
        signature=found.signature,
        kind=found.kind,
        severity=found.severity,
        party=found.party,
        stage=found.stage,
        tensor=found.tensor,
        message=found.message,
        count=40,
        first_seen=BEGAN + 5,
        last_seen=BEGAN + 90,
        first=FOUNDING,
        smallest=FOUNDING,
        minimal=True,
        reliability=Reliability(5, 5),
        findings=outcome.findings,
        known=KnownReference("F1", "64 heads planned as 4 x 16", ("ROCm/aiter#3496", "sgl-project/sglang#27188")),
        expected=False,
        standing=FindingStanding.NEW,
        folder="findings/bug-one",
        origin="7/0/5",
    )
    return replace(entry, **changes)


def hostile_finding(**changes: Any) -> TriagedFinding:
    """A case that kills its process, every text of it hostile."""
    finding = Finding(FindingKind.DIED, Severity.SILENT, Party.PROJECT, f"device {HOSTILE}", HOSTILE, HOSTILE, {}, HOSTILE)
    entry = founding_finding(
        signature=finding.signature,
        kind=finding.kind,
        severity=finding.severity,
        party=finding.party,
        stage=finding.stage,
        tensor=finding.tensor,
        message=finding.message,
        count=3,
        findings=(finding,),
        known=KnownReference(HOSTILE, HOSTILE, (HOSTILE, "ROCm/aiter#1")),
        standing=FindingStanding.STILL_THERE,
        folder=None,
        reliability=Reliability(0, 0),
        minimal=False,
    )
    return replace(entry, **changes)


def faulty(*findings: TriagedFinding) -> CampaignSummary:
    """The clean campaign with findings on TP2; each of their cases is one of its clean ones."""
    base = clean()
    count = sum(finding.count for finding in findings)
    signatures = [finding.signature for finding in findings]
    cells = (base.cells[0], cell(64, 1, 16, 300, 300, count, *signatures), base.cells[2])
    died = sum(finding.count for finding in findings if finding.kind is FindingKind.DIED)
    counts = replace(base.counts, clean=900 - count, faulty=count - died, died=died)
    return replace(base, findings=findings, cells=cells, counts=counts)


def everything() -> CampaignSummary:
    """A bad night: findings new, old, expected and gone, workers lost, chunks set aside, cases not modelled, hostile text."""
    new, old = founding_finding(), hostile_finding()
    silent = founding_finding(
        signature="not-covered/planner v1_0/work_info_set",
        kind=FindingKind.NOT_COVERED,
        severity=Severity.SILENT,
        message="kernel row 0 is not given KV positions [16, 17)",
        known=None,
        expected=True,
        standing=FindingStanding.STILL_THERE,
        folder=None,
    )
    base = faulty(new, silent, old)
    gone = Gone("planner-overrun/planner v1_0/reduce_indptr/past the end", Severity.WRITE, f"writes 3 words {HOSTILE}", None)
    there = tuple(sorted((silent.signature, old.signature)))
    compared = CampaignComparison("last/night", BEGAN - 86_400, 900, "ddddeeeeffff", (new.signature,), there, (gone,))
    losses = (
        Loss(12.0, LossKind.SIGNAL, f"worker-0 {HOSTILE}", "SIGSEGV", 3, 17, FOUNDING),
        Loss(50.0, LossKind.NODE, "worker-1", HOSTILE, None, None, None),
    )
    return replace(
        base,
        counts=replace(base.counts, unmodelled=10),
        refused_reasons=(Reason(HOSTILE, 100),),
        unmodelled_reasons=(Reason(HOSTILE, 10),),
        comparison=compared,
        losses=losses,
        lost_chunks=(9,),
        doubts=(f"10 cases {HOSTILE}",),
    )
