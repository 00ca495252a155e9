"""What is wrong with what a source did in one scenario. Knows recordings, devices and checks; nothing of base or change."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from backend.aiter.codefiles import CodeSource
from backend.case import Arch, Case, DType
from backend.devices.registry import Device
from backend.fate import Fate
from backend.findings import Finding, Severity
from backend.real.frameworks.record import Phase, RecordedStep, Recording, StepFailed
from backend.real.frameworks.scenarios import Scenario
from backend.real.frameworks.steps import disagreements, outcome_of


@dataclass(frozen=True, slots=True, order=True)
class Shape:
    """What a serving engineer calls a shape: heads a rank, what the tensors hold, and where."""

    num_head: int
    arch: Arch
    q_dtype: DType
    kv_dtype: DType

    def __str__(self) -> str:
        return f"{self.num_head} heads, {self.arch} q {self.q_dtype} KV {self.kv_dtype}"


@dataclass(frozen=True, slots=True)
class Sighting:
    """One fault of one step.

    signature: names the fault (backend.findings). rows: query rows a request. finding: the cause, None for a
    contradiction or an exception of the file itself. case: the step as a Case. line: FILE:LINE of the call.
    """

    signature: str
    severity: Severity
    shape: Shape
    rows: int
    phase: Phase
    message: str
    finding: Finding | None
    case: Case | None
    line: str | None
    scenario: Scenario


class Judge:
    """Judges recordings on one device. seen: steps judged so far; unmodelled: reasons why some could not be."""

    def __init__(self, device: Device, source: CodeSource | None = None) -> None:
        self._device = device
        self._source = source
        self.seen = 0
        self.refused = 0
        self.unmodelled: set[str] = set()

    def sightings(self, scenario: Scenario, recording: Recording) -> Iterator[Sighting]:
        """Faults of every step that reached AITER, and of those that the file itself ended."""
        for step in recording.steps:
            self.seen += 1
            yield from self._step(scenario, step)
        for failed in recording.failed:
            if failed.other_kernel is None:
                yield _raised(scenario, failed)

    def _step(self, scenario: Scenario, step: RecordedStep) -> Iterator[Sighting]:
        outcome = outcome_of(step, self._device, self._source)
        shape, case, line = _shape(step), outcome.case, _line(step)
        if outcome.fate is Fate.UNMODELLED:
            self.unmodelled.add(str(outcome.reason))
            return
        found = outcome.cause
        rows = step.decode.max_seqlen_q
        if outcome.faulty and found is not None:
            yield Sighting(found.signature, found.severity, shape, rows, step.phase, found.message, found, case, line, scenario)
            return
        self.refused += outcome.fate is Fate.REFUSED
        for each in disagreements(step):
            signature = f"contradiction/{each.subject}"
            yield Sighting(
                signature, each.severity, shape, rows, step.phase, each.message, None, case, each.line or line, scenario
            )


def _shape(step: RecordedStep) -> Shape:
    return Shape(step.num_head, step.device.arch, step.decode.q_dtype, step.decode.kv_dtype)


def _line(step: RecordedStep) -> str | None:
    made = step.lines.get("planning") or step.lines.get("decode")
    return f"{made.file}:{made.line}" if made is not None else None


def _raised(scenario: Scenario, failed: StepFailed) -> Sighting:
    config = scenario.backends[scenario.steps[failed.step].backend if failed.step >= 0 else 0]
    shape = Shape(config.num_head, scenario.arch, config.q_dtype, config.kv_dtype)
    line = f"{failed.line.file}:{failed.line.line}" if failed.line is not None else None
    signature = f"{'refuses' if failed.refuses else 'raises'}/{failed.error.partition(':')[0]}"
    rows = config.draft_tokens or 1
    severity = Severity.REFUSED if failed.refuses else Severity.SILENT
    return Sighting(signature, severity, shape, rows, failed.phase, failed.error, None, None, line, scenario)
