"""What is wrong with what a source did in one scenario. Knows recordings, devices and checks; nothing of base or change."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from backend.case import Arch, Case, DType
from backend.devices.device import Device
from backend.fate import Fate
from backend.findings import Finding, FindingKind, Party, Severity
from backend.host import Host
from backend.observation import Observation
from backend.outcome import Outcome
from backend.real.frameworks.record import CheckedCall, Phase, RecordedStep, Recording, Says, StepFailed, UnorderedAccess
from backend.real.frameworks.scenarios import BackendConfig, Scenario, StepKind
from backend.real.frameworks.steps import RECORDED, disagreements, outcome_of, put_right
from backend.real.noted_call import SourceLine
from backend.words import counted
from reprod.text import one_line


@dataclass(frozen=True, slots=True, order=True)
class Shape:
    """What a serving engineer calls a shape: heads a rank, what the tensors hold, and where."""

    num_head: int
    arch: Arch
    q_dtype: DType
    kv_dtype: DType

    def __str__(self) -> str:
        return f"{counted(self.num_head, 'head')}, {self.tensors}"

    @property
    def tensors(self) -> str:
        """All but the heads."""
        return f"{self.arch} q {self.q_dtype} KV {self.kv_dtype}"


@dataclass(frozen=True, slots=True, order=True)
class Work:
    """What a step is asked to do, as people ask for it. rows: query rows a request of its backend's configuration.

    path: of the file's, besides the usual one (Scenario.path).
    """

    shape: Shape
    kind: StepKind
    rows: int
    path: str = ""

    @property
    def task(self) -> str:
        """All but the shape."""
        named = self.kind.value if self.rows == 1 else f"{self.kind.value} of {self.rows} rows"
        return f"{named} ({self.path})" if self.path else named

    @classmethod
    def of(cls, scenario: Scenario, backend: int, kind: StepKind) -> Work:
        """A step of that kind on one of the scenario's backends."""
        config = scenario.backends[backend]
        return cls(_shape_of(config, scenario), kind, config.draft_tokens or 1, scenario.path(backend))


def works_of(scenario: Scenario) -> Mapping[Work, None]:
    """What a scenario's steps are to do, each once."""
    return dict.fromkeys(Work.of(scenario, step.backend, step.kind) for step in scenario.steps)


@dataclass(frozen=True, slots=True, order=True)
class StepKernel:
    """A code object that a step launched. content: the git object id of its bytes, "" where they are not at hand."""

    code_object: str
    content: str


@dataclass(frozen=True, slots=True)
class Sighting:
    """One fault of one step, or that it, or the backend, did not run.

    signature: names the fault (backend.findings), or who said no: "raises/NameError", "refuses/RuntimeError",
    "aiter-refuses/...". severity: REFUSED for the latter. rows: query rows a request. finding: the cause, None for a
    contradiction or an exception. message: one line, free of control characters. case: the step as a Case. line: FILE:LINE of
    the call. before_steps: whether it ended the scenario before any step. contradicts: what the step passes that its batch does
    not have, where that is so of a step with a finding: the file's own slip, which the finding follows from. behind: the
    signature of the first fault of the same step or call, where this is a further one of it (Judged.behind).
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
    kind: StepKind = StepKind.DECODE
    before_steps: bool = False
    contradicts: str = ""
    behind: str = ""

    @property
    def did_not_run(self) -> bool:
        """Whether it says that something was not judged, rather than that it is wrong."""
        return self.severity is Severity.REFUSED


@dataclass(frozen=True, slots=True)
class NotDone:
    """Why a step did not run. refused: the file or AITER says no, rather than that something went wrong."""

    reason: str = ""
    refused: bool = False


@dataclass(slots=True, eq=False)
class Judged:
    """What became of the steps of one scenario.

    ran: steps judged to their end, by what they do and in which phase. fates: of all steps; those behind a constructor that
    raised are refused, and a step that contradicts its batch is faulty. not_run: reasons of those of which nothing is known.
    not_done: why steps of some work did not run, the first reason of each. kernels: that they launched. executed: lines of
    the file under test that ran.
    behind: faults that steps and calls have besides their first one and not because of it: others of what the file passes,
    and what a step shows with the index tensors and buffers of its batch.
    """

    scenario: Scenario
    sightings: list[Sighting] = field(default_factory=list)
    ran: Counter[tuple[Work, Phase]] = field(default_factory=Counter)
    fates: Counter[Fate] = field(default_factory=Counter)
    not_run: Counter[str] = field(default_factory=Counter)
    not_done: dict[Work, NotDone] = field(default_factory=dict)
    kernels: dict[Work, set[StepKernel]] = field(default_factory=dict)
    executed: frozenset[int] = frozenset()
    by_arguments: Counter[str] = field(default_factory=Counter)
    behind: list[Sighting] = field(default_factory=list)

    def did(self, work: Work, phase: Phase | None = None) -> bool:
        """Whether a step of that work ran, in that phase or in any."""
        return any(done == work and phase in (None, at) for done, at in self.ran)

    def did_not(self, work: Work, reason: str, refused: bool = False) -> None:
        """Note why a step of some work did not run; the first reason counts. refused: see NotDone."""
        self.not_done.setdefault(work, NotDone(reason, refused))

    @property
    def asked(self) -> Mapping[Work, None]:
        """What the scenario's steps are to do, each once."""
        return works_of(self.scenario)


class Judge:
    """Judges recordings on one device. host: AITER's host side, None: what is built in."""

    def __init__(self, device: Device, host: Host | None = None) -> None:
        self._device = device
        self._host = host

    def outcome(self, step: RecordedStep) -> Outcome:
        """What becomes of the call that a step makes."""
        return outcome_of(step, self._device, self._host)

    def judged(self, scenario: Scenario, recording: Recording) -> Judged:
        """Every step that reached AITER, and those that the file or AITER ended."""
        made = Judged(scenario, executed=frozenset(recording.executed))
        if recording.not_started is not None:
            failed = recording.not_started
            made.sightings.append(_not_started(scenario, failed.backend, failed.error, failed.line, failed.says))
            made.fates[Fate.REFUSED] = len(scenario.steps)
            for work in made.asked:
                made.did_not(work, _who(failed.says, failed.error), refused=failed.says.is_refusal)
            return made
        for step in recording.steps:
            self._step(made, step)
        for call in recording.checked:
            _by_arguments(made, call)
        for pair in recording.unordered:
            _unordered(made, pair)
        for failure in recording.failed:
            _failed(made, failure)
        return made

    def not_driven(self, scenario: Scenario, reason: str) -> Judged:
        """A scenario on another path of the file's that the driver has no means for in this source."""
        made, reason = Judged(scenario), f"cannot be driven: {one_line(reason)}"
        made.fates[Fate.NOT_RUN] = made.not_run[reason] = len(scenario.steps)
        for work in made.asked:
            made.did_not(work, reason)
        return made

    def _step(self, made: Judged, step: RecordedStep) -> None:
        work = Work.of(made.scenario, step.backend, step.kind)
        try:
            outcome = self.outcome(step)
        except MemoryError:  # of index tensors that reach further than any memory
            if not (wrong := list(_contradictions(made.scenario, step, None))):
                raise
            made.sightings += wrong
            made.fates[Fate.FAULTY] += 1
            return
        if outcome.unknown:
            reason = one_line(str(outcome.reason))
            made.fates[outcome.fate] += 1
            made.not_run[reason] += 1
            made.did_not(work, f"not modelled: {reason}")
            return
        if outcome.fate is Fate.REFUSED:
            made.fates[Fate.REFUSED] += 1
            made.sightings.append(_refused_by_aiter(made.scenario, step, outcome))
            made.did_not(work, _who(Says.AITER, str(outcome.reason)), refused=True)
            return
        if outcome.observation is None:  # AITER refuses it too, once memory is overwritten
            made.did_not(work, _who(Says.AITER, str(outcome.refused)), refused=True)
        else:
            made.ran[work, step.phase] += 1
            made.kernels.setdefault(work, set()).add(_kernel(outcome.observation))
        found = list(_faults(made.scenario, step, outcome))
        made.fates[Fate.FAULTY if found else outcome.fate] += 1
        made.sightings += found
        if found:
            first, behind = found[0].signature, self._behind(made.scenario, step, outcome)
            made.behind += [dataclasses.replace(each, behind=first) for each in behind if each.signature != first]

    def _behind(self, scenario: Scenario, step: RecordedStep, outcome: Outcome) -> Iterator[Sighting]:
        """What a step that is wrong has besides its first fault, and not because of it."""
        first = outcome.cause
        if first is not None and not first.kind.row.of_index_tensors:
            yield from (_fault(scenario, step, outcome, each) for each in outcome.findings if _of_arguments(each))
            yield from _contradictions(scenario, step, outcome.case)
        for right in put_right(step, first, self._device, self._host):
            found = right.findings if right.faulty else ()
            yield from (_fault(scenario, step, right, each) for each in found if each is right.cause or _of_arguments(each))


def _of_arguments(found: Finding) -> bool:
    """Whether it is about what the file passes, and so follows from nothing that is done with it."""
    return found.party is Party.CALLER and found.kind.rank <= FindingKind.HEAD_WIDTH.rank


def _kernel(observation: Observation) -> StepKernel:
    launch = observation.call.launched
    return StepKernel(launch.code_object, launch.blob_id or "")


def _faults(scenario: Scenario, step: RecordedStep, outcome: Outcome) -> Iterator[Sighting]:
    """The cause of what is wrong with a step; where nothing is, how it contradicts its batch."""
    found = outcome.cause if outcome.faulty else None
    if found is None:
        yield from _contradictions(scenario, step, outcome.case)
        return
    own = "" if found.party is Party.CALLER else "; ".join(one_line(each.message) for each in disagreements(step))
    yield dataclasses.replace(_fault(scenario, step, outcome, found), contradicts=own)


def _fault(scenario: Scenario, step: RecordedStep, outcome: Outcome, found: Finding) -> Sighting:
    rows, case, line = step.decode.max_seqlen_q, outcome.case, _line(step)
    signature, message = found.signature, one_line(found.message)
    return Sighting(
        *(signature, found.severity, _shape(step), rows, step.phase, message, found, case, line, scenario, step.kind)
    )


def _contradictions(scenario: Scenario, step: RecordedStep, case: Case | None) -> Iterator[Sighting]:
    rows, line = step.decode.max_seqlen_q, _line(step)
    for each in disagreements(step):
        signature, message = f"contradiction/{each.subject}", one_line(each.message)
        at = each.line or line
        yield Sighting(signature, each.severity, _shape(step), rows, step.phase, message, None, case, at, scenario, step.kind)


def _refused_by_aiter(scenario: Scenario, step: RecordedStep, outcome: Outcome) -> Sighting:
    cause = outcome.cause
    signature = f"{Says.AITER.value}/{cause.signature if cause is not None else 'mla_decode_fwd'}"
    message, rows = one_line(str(outcome.reason)), step.decode.max_seqlen_q
    work = Work.of(scenario, step.backend, step.kind)
    return Sighting(
        signature,
        Severity.REFUSED,
        work.shape,
        rows,
        step.phase,
        message,
        cause,
        outcome.case,
        _line(step),
        scenario,
        step.kind,
    )


def _by_arguments(made: Judged, call: CheckedCall) -> None:
    """A call of which only the arguments are judged."""
    work = Work.of(made.scenario, call.backend, call.kind)
    made.ran[work, call.phase] += 1
    made.by_arguments[call.name] += 1
    made.fates[Fate.FAULTY if call.faults else Fate.CLEAN] += 1
    seen = []
    for fault in call.faults:
        severity = Severity.WRITE if fault.is_write else Severity.READ
        signature, message = f"arguments/{call.name}/{fault.subject}", one_line(fault.message)
        at = _at(call.line)
        seen.append(
            Sighting(signature, severity, work.shape, work.rows, call.phase, message, None, None, at, made.scenario, call.kind)
        )
    made.sightings += seen[:1]
    made.behind += [dataclasses.replace(each, behind=seen[0].signature) for each in seen[1:]]


def _unordered(made: Judged, pair: UnorderedAccess) -> None:
    """What two streams do with no order between it, which the file is to blame for."""
    work, kind = Work.of(made.scenario, pair.backend, pair.kind), FindingKind.STREAM_RACE
    finding = Finding(kind, kind.severity, Party.CALLER, RECORDED, "", one_line(pair.message), {}, pair.between)
    made.fates[Fate.FAULTY] += 1
    made.sightings.append(
        Sighting(
            finding.signature,
            finding.severity,
            work.shape,
            work.rows,
            pair.phase,
            finding.message,
            finding,
            None,
            _at(pair.line),
            made.scenario,
            pair.kind,
        )
    )


def _failed(made: Judged, failed: StepFailed) -> None:
    """A step without a judged call, or that an exception ended."""
    work = Work.of(made.scenario, failed.backend, failed.kind)
    made.fates[Fate.REFUSED] += 1
    made.did_not(work, _who(failed.says, failed.error), refused=failed.says.is_refusal)
    made.sightings.append(
        Sighting(
            _signature(failed.says, failed.error),
            Severity.REFUSED,
            work.shape,
            work.rows,
            failed.phase,
            one_line(failed.error),
            None,
            None,
            _at(failed.line),
            made.scenario,
            failed.kind,
        )
    )


def _not_started(scenario: Scenario, backend: int, error: str, line: SourceLine | None, says: Says) -> Sighting:
    """A constructor that raised."""
    config = scenario.backends[backend]
    shape, rows = _shape_of(config, scenario), config.draft_tokens or 1
    message = f"the backend does not start: {one_line(error)}"
    signature = _signature(says, error)
    at = _at(line)
    return Sighting(signature, Severity.REFUSED, shape, rows, Phase.EAGER, message, None, None, at, scenario, before_steps=True)


def _signature(says: Says, error: str) -> str:
    """Who said no, and the kind of exception or the function of AITER's."""
    return f"{says.value}/{one_line(error.partition(':')[0])}"


def _who(says: Says, error: str) -> str:
    return f"{'AITER refuses' if says is Says.AITER else f'the file {says.value}'}: {one_line(error)}"


def _shape(step: RecordedStep) -> Shape:
    return Shape(step.num_head, step.device.arch, step.decode.q_dtype, step.decode.kv_dtype)


def _shape_of(config: BackendConfig, scenario: Scenario) -> Shape:
    return Shape(config.decoded_heads, scenario.arch, config.q_dtype, config.kv_dtype)


def _line(step: RecordedStep) -> str | None:
    return _at(step.lines.get("planning") or step.lines.get("decode"))


def _at(line: SourceLine | None) -> str | None:
    return f"{line.file}:{line.line}" if line is not None else None
