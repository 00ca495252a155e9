"""Which findings are known, by the entries of a corpus.

An entry is the same fault as a finding where its first expectation holds of the finding's cause, figures included; failing
that, where a side of it has the same signature, or would with the kernel of the finding, if the entry's condition has that
kernel. Never where the condition does not hold of the case. What a kernel does to rows of a width that is not in its code is
another fault than what it does to its own. Runs nothing, since a replay holds the signatures; knows no store.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

from backend.case import QK_HEAD_DIM, V_HEAD_DIM, Case
from backend.findings import Finding, Party
from backend.outcome import Outcome
from reprod.corpus import CorpusEntry, Side, load_corpus, shipped_corpus
from reprod.life import LifeStage
from reprod.reference import KnownReference


class KnownFaults:
    """The faults of a corpus; raises UsageError for a broken one."""

    def __init__(self, corpus: Path) -> None:
        self._entries: tuple[CorpusEntry, ...] = load_corpus(corpus)
        self._sides = [(entry, side) for entry in self._entries for side in entry.faulty if side.signature]

    @property
    def entries(self) -> Sequence[str]:
        """The ids of all entries."""
        return [entry.id for entry in self._entries]

    def reference(self, cause: Finding, case: Case) -> KnownReference | None:
        """The entry of the same fault; of several, one that names the kernel, then the one whose case has as many heads.

        Figures tell a fault by whatever kernel brings it, but not those of a planted one, which no kernel brings.
        """
        exact = [
            entry
            for entry in self._entries
            if _is_known_at(entry, case)
            and any(
                side.expect[0].matches(cause) and _same_width(cause, side.case, case)
                for side in entry.faulty
                if side.expect[0].figures and (not side.planted or side.signature == cause.signature)
            )
        ]
        if len(exact) == 1:
            return _reference_of(exact[0])
        same = [
            (entry, side)
            for entry, side in self._sides
            if _same_signature(entry, side, cause) and _is_known_at(entry, case) and _same_width(cause, side.case, case)
        ]
        if not same:
            return _reference_of(exact[0]) if exact else None

        def distance(found: tuple[CorpusEntry, Side]) -> tuple[bool, bool, int]:
            entry, side = found
            heads = side.over.get("num_head", (side.case.num_head,))
            return entry not in exact, side.signature != cause.signature, min(abs(each - case.num_head) for each in heads)

        return _reference_of(min(same, key=distance)[0])


def _same_signature(entry: CorpusEntry, side: Side, cause: Finding) -> bool:
    """Whether a side has the signature of a finding; of an entry with kernels in its condition, whichever of them it names."""
    if side.signature == cause.signature:
        return True
    if entry.condition is None or not entry.condition.has_kernel(cause):
        return False
    named = side.expect[0].stage
    return named is not None and side.signature.replace(named, cause.stage) == cause.signature


def _is_known_at(entry: CorpusEntry, case: Case) -> bool:
    """Whether meeting the fault is no news: not where a release is said to mend it, nor of what was no fault.

    A case that the entry's condition does not hold of has another fault.
    """
    life = entry.life
    if life is not None and (life.is_mended_at(case.release) or life.stage is LifeStage.INVALID):
        return False
    return entry.condition is None or entry.condition.fits(case)


def _same_width(cause: Finding, one: Case, other: Case) -> bool:
    """Whether a kernel's fault is of rows that it is made for in both cases, or in neither."""
    return cause.party is not Party.KERNEL or _made_for(one) == _made_for(other)


def _made_for(case: Case) -> bool:
    return (case.qk_head_dim, case.kv_lora_rank) == (QK_HEAD_DIM, V_HEAD_DIM)


def _reference_of(entry: CorpusEntry) -> KnownReference:
    """A find of our own that was filed has its issue for a reference, before any other."""
    filed = (entry.life.issue,) if entry.life is not None and entry.life.issue else ()
    return KnownReference(entry.id, entry.titled, tuple(dict.fromkeys((*filed, *entry.references))), entry.verdict)


def known_as(outcome: Outcome) -> KnownReference | None:
    """The shipped entry of what an outcome shows, None where none has it or nothing is shown."""
    return _shipped().reference(outcome.cause, outcome.case) if outcome.cause is not None else None


@lru_cache(maxsize=1)
def _shipped() -> KnownFaults:
    return KnownFaults(shipped_corpus())
