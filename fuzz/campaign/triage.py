"""Triage: which findings are known upstream, by the entries of a corpus.

An entry is the same fault as a finding where its first expectation holds of the finding's cause, figures included; failing
that, where its own case, run on the model, fails with the same signature. Runs corpus cases once; knows no store.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from backend.case import Case
from backend.errors import CannotRunError
from backend.findings import Finding
from fuzz.campaign.summary import KnownReference
from reprod.corpus import CorpusEntry, OpenPaths, ReplayDevice, load_corpus
from reprod.shrink import Runner


class KnownFaults:
    """The faults of a corpus; raises UsageError for a broken one."""

    def __init__(self, corpus: Path, path: Runner | None = None) -> None:
        self._entries: tuple[CorpusEntry, ...] = load_corpus(corpus)
        self._path = path if path is not None else OpenPaths()(ReplayDevice("model", None))
        self._signatures: dict[str, list[tuple[CorpusEntry, Case]]] | None = None

    @property
    def entries(self) -> Sequence[str]:
        """The ids of all entries."""
        return [entry.id for entry in self._entries]

    def reference(self, cause: Finding, case: Case) -> KnownReference | None:
        """The entry of the same fault; of several, the one whose case has as many heads."""
        exact = [
            entry
            for entry in self._entries
            if any(side.expect[0].matches(cause) for side in entry.faulty if side.expect[0].figures)
        ]
        if len(exact) == 1:
            return _reference_of(exact[0])
        same = self._by_signature().get(cause.signature, [])
        if not same:
            return _reference_of(exact[0]) if exact else None
        entry, _ = min(same, key=lambda found: (found[0] not in exact, abs(found[1].num_head - case.num_head)))
        return _reference_of(entry)

    def _by_signature(self) -> dict[str, list[tuple[CorpusEntry, Case]]]:
        if self._signatures is None:
            self._signatures = {}
            for entry in self._entries:
                for case, signature in self._shown(entry):
                    self._signatures.setdefault(signature, []).append((entry, case))
        return self._signatures

    def _shown(self, entry: CorpusEntry) -> list[tuple[Case, str]]:
        """First case and signature of each faulty side that the model can run."""
        shown = []
        assert self._path is not None
        for side in entry.faulty:
            if side.device != "model" or side.needs:
                continue
            case = next(side.cases())
            try:
                cause = self._path.run(case).cause
            except CannotRunError:
                continue
            if cause is not None:
                shown.append((case, cause.signature))
        return shown


def _reference_of(entry: CorpusEntry) -> KnownReference:
    return KnownReference(entry.id, entry.title, entry.references)
