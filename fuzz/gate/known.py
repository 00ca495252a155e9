"""Which faults of a source are known: by the corpus, and whether anything mends them yet."""

from __future__ import annotations

from fuzz.campaign.summary import KnownReference
from fuzz.campaign.triage import KnownFaults, default_corpus
from fuzz.gate.judge import Sighting
from reprod.corpus import load_corpus


class Known:
    """The repository's corpus, where aiterfuzz runs from a checkout; knows nothing elsewhere."""

    def __init__(self) -> None:
        folder = default_corpus()
        self._faults = KnownFaults(folder)
        entries = load_corpus(folder) if folder is not None else ()
        self._open = {entry.id for entry in entries if entry.faulty and not entry.silent}

    def reference(self, sighting: Sighting) -> KnownReference | None:
        """The entry of the same fault: the same signature, with as many heads."""
        if sighting.finding is None or sighting.case is None:
            return None
        return self._faults.reference(sighting.finding, sighting.case)

    def is_open(self, reference: KnownReference) -> bool:
        """Whether the entry has no side that is silent: nothing mends it yet, so it is nobody's regression."""
        return reference.entry in self._open
