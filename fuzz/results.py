"""Results of a run as JSON lines, written as they come, so that a run that is killed leaves all it had found.

The file is `results.jsonl` in the run's folder. Its lines, by their field "event":
  run       first: seed, space, budget and provenance, from which every case can be drawn again
  started   a case is about to run: number, chunk, position; the last such line of a killed run names the case that did it
  refused   number and reason; unmodelled likewise
  fault     number and signature of a case that shows a fault
  found     a new fault: signature, severity, party, the first and the smallest case, its findings, its folder
  finished  last: counts; "interrupted" is true after Ctrl-C
A case that is started and followed by nothing of its own was clean.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from backend.codec import to_plain
from backend.errors import UsageError
from fuzz.provenance import Provenance
from fuzz.search import Budget, Fault, Ran, Started, Tally
from fuzz.space import CaseSpace

FILE_NAME = "results.jsonl"


def prepare_folder(folder: Path) -> None:
    """Makes the folder of a run; raises UsageError where nothing can be written there."""
    probe = folder / ".writable"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        probe.touch()
        probe.unlink()
    except OSError as error:
        reason = error.strerror or str(error)
        raise UsageError(f"--out: given {str(folder)!r}; it cannot be written to ({reason}); give another folder") from error


class ResultLog:
    """Writes results.jsonl; an earlier run's file of that name is replaced. Use as a context manager."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / FILE_NAME
        # Line buffered: a line is in the kernel's hands before its case runs, so that even SIGKILL loses nothing.
        self._file = self.path.open("w", encoding="utf-8", buffering=1)

    def __enter__(self) -> ResultLog:
        return self

    def __exit__(self, *exception: object) -> None:
        self._file.close()

    def run(self, space: CaseSpace, seed: int, budget: Budget, provenance: Provenance) -> None:
        """The first line."""
        self._write("run", seed=seed, space=space, budget=budget, provenance=provenance)

    def started(self, event: Started) -> None:
        """Before a case runs; by hand, because it is written for every case."""
        self._file.write(
            f'{{"event": "started", "number": {event.number}, "chunk": {event.chunk}, "position": {event.position}}}\n'
        )

    def ran(self, event: Ran) -> None:
        """After a case has run; nothing for a clean one."""
        if event.signature is not None:
            self._write("fault", number=event.number, signature=event.signature)
        elif event.refused is not None:
            self._write("refused", number=event.number, reason=event.refused)
        elif event.unmodelled is not None:
            self._write("unmodelled", number=event.number, reason=event.unmodelled)

    def found(self, fault: Fault, folder: Path | None) -> None:
        """A new fault, shrunk."""
        cause = fault.shrunk.outcome.cause
        assert cause is not None
        self._write(
            "found",
            number=fault.number,
            signature=fault.signature,
            severity=fault.severity.name.lower(),
            party=cause.party,
            case=fault.first,
            smallest=fault.shrunk.case,
            minimal=fault.shrunk.minimal,
            findings=fault.shrunk.outcome.findings,
            folder=None if folder is None else str(folder),
        )

    def finished(self, tally: Tally, seconds: float, interrupted: bool) -> None:
        """The last line."""
        counts = {signature: fault.count for signature, fault in tally.faults.items()}
        self._write(
            "finished",
            cases=tally.cases,
            ran=tally.ran,
            refused=dict(tally.refused),
            unmodelled=dict(tally.unmodelled),
            faults=counts,
            seconds=round(seconds, 3),
            interrupted=interrupted,
        )

    def _write(self, event: str, **fields: Any) -> None:
        self._file.write(json.dumps({"event": event, **{name: to_plain(value) for name, value in fields.items()}}) + "\n")
