"""The results of a run as JSON lines: what the store records, rendered as it comes, for readers without SQLite.

The file is `results.jsonl` in the run's folder. Its lines, by their field "event":
  run       first: seed, space, budget and provenance, from which every case can be drawn again
  started   a case that was run: number, chunk, position; its lines come when its chunk (of `chunk_cases`) is recorded
  refused   number and reason, and the case where it is the first of its shape and reason; unmodelled: number and reason
  fault     number and signature of a case that shows a fault
  found     a new fault: signature, severity, party, the first and the smallest case, its findings, its folder
  finished  last: counts; "interrupted" is true after Ctrl-C
A case that is started and followed by nothing of its own was clean. A run that is killed leaves all chunks before the last.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from backend.case import Case
from backend.codec import to_plain
from backend.fate import Fate
from fuzz.campaign.config import CampaignConfig
from fuzz.campaign.report import CallShape, ChunkReport
from fuzz.campaign.store import FindingRow
from fuzz.campaign.summary import CampaignSummary
from fuzz.provenance import Provenance

FILE_NAME = "results.jsonl"


class Results:
    """Writes results.jsonl; an earlier run's file of that name is replaced. A Log of the engine."""

    def __init__(self, config: CampaignConfig, made_by: Provenance) -> None:
        self.path = Path(config.out) / FILE_NAME
        self._numbers = config.cases_a_chunk
        self._refused: set[tuple[int, str]] = set()
        self._file = self.path.open("w", encoding="utf-8")
        budget = {"cases": config.cases, "seconds": config.seconds}
        self._write([_line("run", seed=config.seed, space=config.space(), budget=budget, provenance=made_by)])

    def ran(self, report: ChunkReport) -> None:
        """A chunk, case by case."""
        self._write(self._lines(report))

    def found(self, row: FindingRow) -> None:
        """A new fault, shrunk."""
        worst = max((finding.severity for finding in row.findings), default=row.cause.severity)
        self._write(
            [
                _line(
                    "found",
                    number=row.chunk * self._numbers + row.position + 1,
                    signature=row.signature,
                    severity=worst.name.lower(),
                    party=row.cause.party,
                    case=row.first,
                    smallest=row.smallest,
                    minimal=row.minimal,
                    findings=row.findings,
                    folder=None if row.folder is None else str(self.path.parent / row.folder),
                )
            ]
        )

    def finished(self, summary: CampaignSummary) -> None:
        """The last line, of the summary of the whole."""
        counts = summary.counts
        line = _line(
            "finished",
            cases=counts.cases,
            ran=counts.ran,
            refused={reason.text: reason.cases for reason in summary.refused_reasons},
            unmodelled={reason.text: reason.cases for reason in summary.unmodelled_reasons},
            faults={finding.signature: finding.count for finding in (*summary.findings, *summary.not_reproduced)},
            seconds=round(summary.seconds, 3),
            interrupted=not summary.complete,
        )
        self._write([line])
        self._file.close()

    def _lines(self, report: ChunkReport) -> Iterator[str]:
        events = {fate: "fault" if fate in (Fate.FAULTY, Fate.DIED) else fate.value for fate in Fate if fate is not Fate.CLEAN}
        for position, code in enumerate(report.codes.tolist()):
            number, label = report.chunk * self._numbers + position + 1, report.labels[code]
            yield f'{{"event": "started", "number": {number}, "chunk": {report.chunk}, "position": {position}}}\n'
            if label.fate in events:
                field = "signature" if events[label.fate] == "fault" else "reason"
                case = self._first(report.refused.get(position), label.text)
                yield _line(events[label.fate], number=number, **{field: label.text}, **case)

    def _first(self, case: Case | None, reason: str) -> dict[str, Case]:
        """The case of a refusal, where no chunk before had one of its shape and reason."""
        if case is None or (key := (case.num_head, f"{CallShape.of(case).text} {reason}")) in self._refused:
            return {}
        self._refused.add(key)
        return {"case": case}

    def _write(self, lines: Iterator[str] | list[str]) -> None:
        self._file.writelines(lines)
        self._file.flush()


def _line(event: str, **fields: Any) -> str:
    return json.dumps({"event": event, **{name: to_plain(value) for name, value in fields.items()}}) + "\n"
