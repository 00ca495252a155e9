"""A Cause: a fault that a shape of the log's kind was seen to show, or is known to, and how well it fits what the log says.

Weights are small whole numbers with a reason each; the reasons are printed, so that a person can weigh them anew.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from backend.case import Case
from backend.findings import Finding, FindingKind, Severity
from backend.outcome import Outcome
from backend.words import counted
from reprod.blame import leaves_tensors, only_through_null
from reprod.corpus import CorpusEntry
from reprod.diagnose.candidates import Candidate
from reprod.diagnose.evidence import Ending, LogEvidence
from reprod.diagnose.kernel_name import NamedKernel


@dataclass(slots=True)
class Cause:
    """One fault that fits. key: its signature, or the entry's id where it was not run.

    candidate, outcome: the shape that fits best and what it showed, None where it was not run. shown: shapes that showed it.
    entries: of the corpus that are this fault. score, reasons: how well it fits, and why, each with its weight.
    missing: why it was not run, "" where it was.
    """

    key: str
    candidate: Candidate
    outcome: Outcome | None
    score: int
    reasons: tuple[tuple[int, str], ...]
    shown: int = 0
    entries: dict[str, CorpusEntry] = field(default_factory=dict)
    missing: str = ""

    @property
    def case(self) -> Case:
        """The shape that fits best."""
        return self.candidate.case

    @property
    def finding(self) -> Finding | None:
        """What explains the others, None where it was not run."""
        return None if self.outcome is None else self.outcome.cause


def fit(
    outcome: Outcome, candidate: Candidate, evidence: LogEvidence, kernel: NamedKernel | None
) -> tuple[tuple[int, str], ...]:
    """Why an outcome fits the log or does not, heaviest first."""
    reasons = [*_by_end(outcome, evidence), *_by_kernel(outcome, kernel), *_by_shape(candidate, evidence)]
    return tuple(sorted(reasons, key=lambda reason: -abs(reason[0])))


def _by_end(outcome: Outcome, evidence: LogEvidence) -> Iterator[tuple[int, str]]:
    if evidence.ending is Ending.FAULT:
        yield from _by_fault(outcome, evidence)
    elif evidence.ending is Ending.WRONG_OUTPUT:
        silent = any(finding.kind.row.gives_wrong_result for finding in outcome.findings)
        yield (4, "gives wrong output, as the log says") if silent else (-2, "no row of output is wrong by it")
    elif evidence.ending is Ending.HANG:
        hangs = any(finding.kind is FindingKind.HANG for finding in outcome.findings)
        yield (6, "does not come back, as in the log") if hangs else (-4, "comes back: a hang is not explained by it")


def _by_fault(outcome: Outcome, evidence: LogEvidence) -> Iterator[tuple[int, str]]:
    kinds = {finding.kind for finding in outcome.findings}
    if not _leaves(outcome):
        yield -6, "nothing leaves a tensor, so no memory fault follows from it"
        return
    null = FindingKind.NULL_POINTER in kinds
    if evidence.null:
        yield (
            (7, "goes through a null pointer, as the address of the fault says")
            if null
            else (
                -7,
                "goes past tensors, while the fault is at a null address",
            )
        )
    elif evidence.null is False and only_through_null(outcome):
        yield -3, "goes through a null pointer only, while the fault is at an address that a tensor may have"
    else:
        yield 4, "leaves tensors, which is what a memory fault needs"
    writes = any(finding.severity is Severity.WRITE and not finding.kind.row.stays_in_pool for finding in outcome.findings)
    if evidence.is_write is True:
        yield (2, "writes there, as the fault did") if writes else (-2, "only reads, while the fault was a write")
    elif evidence.is_write is False:
        reads = any(finding.severity is Severity.READ for finding in outcome.findings)
        yield (1, "reads there, as the fault did") if reads else (-1, "only writes, while the fault was a read")


def _leaves(outcome: Outcome) -> bool:
    """Whether memory outside of a tensor can be reached: accesses seen, or indices and sizes by which it is."""
    return leaves_tensors(outcome) or any(
        f.severity >= Severity.READ and not f.kind.row.stays_in_pool for f in outcome.findings
    )


def _by_kernel(outcome: Outcome, kernel: NamedKernel | None) -> Iterator[tuple[int, str]]:
    launched = _launched(outcome)
    if kernel is None or not launched:
        return
    if not kernel.label:
        yield -1, f"launches {launched}; the log's kernel is in no table at hand"
        return
    yield (
        (3, f"launches {launched}, the kernel in the log")
        if kernel.is_code_object(launched)
        else (
            -8,
            f"launches {launched}, not the kernel in the log",
        )
    )


def _launched(outcome: Outcome) -> str:
    call = outcome.call
    return getattr(call.launch, "code_object", "") if call is not None else ""


def _by_shape(candidate: Candidate, evidence: LogEvidence) -> Iterator[tuple[int, str]]:
    case = candidate.case
    if candidate.rule > 0 and evidence.framework:
        yield candidate.rule, f"sent so by {case.backend}, the rule of the framework in the log"
    elif candidate.rule < 0:
        yield candidate.rule, "needs a caller of AITER other than the framework in the log"
    if evidence.batches and tuple(case.kv_lens) in evidence.batches:
        yield 1, "with the batch in the log"
    if evidence.batches and 0 in case.kv_lens and not any(0 in batch for batch in evidence.batches):
        yield -5, "needs a request without tokens, and the batch in the log has none"
    if evidence.heads is not None and case.num_head == evidence.heads:
        yield 1, f"with the {counted(case.num_head, 'head')} a rank that the log leads to"
    if evidence.replayed and case.graph_batch is not None:
        yield 1, "in a replayed graph, as the log says"
    if case.first_page and (evidence.pool_tokens or 0) > case.first_page:
        yield 2, "with page ids that the pool in the log reaches"


def of_same_signature(entries: Sequence[CorpusEntry], outcome: Outcome) -> dict[str, CorpusEntry]:
    """The entry, by id, whose cause has the outcome's signature; of several the one nearest by heads."""
    if outcome.cause is None:
        return {}
    sides = [(entry, side) for entry in entries for side in entry.faulty if side.signature == outcome.cause.signature]
    nearest = min(sides, key=lambda found: abs(found[1].case.num_head - outcome.case.num_head), default=None)
    return {} if nearest is None else {nearest[0].id: nearest[0]}


def is_entry(entry: CorpusEntry, outcome: Outcome) -> bool:
    """Whether an outcome is the fault of an entry: its cause at its place, in a shape like those of its faulty sides."""
    cause = outcome.cause
    if cause is None:
        return False
    for side in entry.faulty:
        if not side.expect or not side.expect[0].same_place(cause) or side.planted:
            continue
        if any(_alike(case, outcome.case) for case, _ in zip(side.cases(), range(400), strict=False)):
            return True
    return False


def _alike(known: Case, seen: Case) -> bool:
    def shape(case: Case) -> tuple[object, ...]:
        return case.arch, case.q_dtype, case.kv_dtype, case.num_head, case.max_seqlen_q > 1, case.return_lse

    return shape(known) == shape(seen)


def same_words(refused: str, words: str) -> int:
    """Words of four letters and more, and figures, that a refusal and the log's text share."""
    return len(_words(refused) & _words(words))


def _words(text: str) -> set[str]:
    return set(re.findall(r"[a-z_]{4,}|\d+", text.lower())) - {
        "aiter",
        "error",
        "runtimeerror",
        "assertionerror",
        "file",
        "line",
    }
