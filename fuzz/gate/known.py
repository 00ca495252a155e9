"""Which faults of a source are known: by the corpus, and whether anything mends them yet."""

from __future__ import annotations

from collections.abc import Sequence

from backend.errors import UsageError
from backend.findings import FindingKind
from backend.real.frameworks.record import Says
from fuzz.gate.frameworks import framework_faults
from fuzz.gate.judge import Sighting
from reprod.corpus import CorpusEntry, load_corpus, shipped_corpus
from reprod.known import KnownFaults
from reprod.life import OPEN_STAGES
from reprod.reference import KnownReference

OPEN = "O"
"""First letter of entries of faults that no release mends; a way round them, where there is one, is their silent side."""


class Known:
    """The corpus that comes with this project, and the known faults of frameworks in it."""

    def __init__(self) -> None:
        folder = shipped_corpus()
        self._faults = KnownFaults(folder)
        self._entries = {entry.id: entry for entry in load_corpus(folder)}
        self._frameworks = framework_faults(folder)
        self._open = {entry.id for entry in self._frameworks if not entry.mended}
        self._open |= {entry.id for entry in self._entries.values() if _is_open(entry)}

    def require_expected(self, names: Sequence[str]) -> None:
        """Raises UsageError for what is neither an entry nor a signature of a kind that the gate has."""
        entries = [*self._entries, *(entry.id for entry in self._frameworks)]
        kinds = {*FindingKind, *Says, "contradiction", "arguments"}
        for name in names:
            kind, slash, _ = name.partition("/")
            if name not in entries and not (slash and kind in kinds):
                raise UsageError.not_allowed("--expect", name, f"a signature (kind/...), or one of {', '.join(entries)}")

    def reference(self, sighting: Sighting) -> KnownReference | None:
        """The entry of the same fault: the same signature, where its condition holds; without one, at a shape that it has."""
        for framework in self._frameworks:
            if framework.is_it(sighting):
                return framework.reference()
        if sighting.finding is None or sighting.case is None:
            return None
        found = self._faults.reference(sighting.finding, sighting.case)
        if found is None:
            return None
        entry = self._entries[found.entry]
        return found if entry.condition is not None or _has_shape(entry, sighting) else None

    def is_open(self, reference: KnownReference) -> bool:
        """Whether no release mends the fault, so that it is nobody's regression."""
        return reference.entry in self._open


def _is_open(entry: CorpusEntry) -> bool:
    """By its life; of a find without one, by its letter."""
    return entry.life.stage in OPEN_STAGES if entry.life is not None else entry.id.startswith(OPEN)


def _has_shape(entry: CorpusEntry, sighting: Sighting) -> bool:
    """Whether the entry has a faulty case of those heads and tensors; gfx and dtypes that share a kernel do not count.

    Fewer than 16 heads reach AITER as 16.
    """
    shape = sighting.shape
    heads = {shape.num_head, max(shape.num_head, 16)}
    return any(
        case.num_head in heads and (case.arch, case.q_dtype, case.kv_dtype) == (shape.arch, shape.q_dtype, shape.kv_dtype)
        for side in entry.faulty
        for case in side.cases()
    )
