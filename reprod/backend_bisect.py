"""Which release of a serving framework brought a fault of its own, or took it away: real backend files, tried in order.

Each source is executed as shipped on a GPU that isn't there (backend.real.frameworks) for one step with the case's batch; what
it then asks of AITER runs through the case's release. Knows no framework's rule.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise

from backend.case import Case
from backend.decision import Refused
from backend.errors import CannotRunError, UsageError
from backend.findings import Finding
from backend.host import Doubt
from backend.outcome import Outcome, turned_down
from backend.path import Path
from backend.real.frameworks.record import RecordedStep, Recording
from backend.real.frameworks.scenarios import BackendConfig, Scenario, Step, StepKind
from backend.real.frameworks.session import SourceSession
from backend.real.frameworks.steps import decision_of
from reprod.bisect import Trial, TrialVerdict, try_revision


@dataclass(frozen=True, slots=True)
class SourceChange:
    """Two neighbours in the order of the sources, with another answer. fixed: the later one no longer shows the fault."""

    before: str
    after: str
    fixed: bool


def bisect_sources(
    sources: Sequence[str], case: Case, wanted: Finding, said: Callable[[Trial], None] = lambda _: None
) -> tuple[tuple[Trial, ...], tuple[SourceChange, ...]]:
    """Every source's verdict, and where it changes. sources: as backend.real.frameworks.fetch.open_source takes them."""
    path = Path()

    def judge(name: str) -> tuple[Outcome, tuple[Doubt, ...]]:
        return source_outcome(name, case, path), ()

    trials = []
    for name in sources:
        trials.append(try_revision(name, wanted, judge, SOURCE_REPEATS))
        said(trials[-1])
    return tuple(trials), tuple(_changes(trials))


def first_shown(case: Case, sources: Sequence[str]) -> Finding:
    """The fault to look for: what the case's own backend shows, else the first fault that a source shows.

    Raises UsageError where none shows any.
    """
    path = Path()
    outcome = path.run(case)
    for source in sources:
        if outcome.faulty and outcome.cause is not None:
            return outcome.cause
        try:
            outcome = source_outcome(source, case, path)
        except CannotRunError:
            continue
    if outcome.faulty and outcome.cause is not None:
        return outcome.cause
    raise UsageError(f"nothing to look for: neither {case.backend} nor any of the sources shows a fault of this case")


SOURCE_REPEATS = 2
"""Each try starts a process that builds the framework's backend, which takes seconds."""


def _changes(trials: Sequence[Trial]) -> Iterator[SourceChange]:
    known = [trial for trial in trials if trial.verdict is not TrialVerdict.SKIPPED]
    for before, after in pairwise(known):
        if before.verdict.is_bad is not after.verdict.is_bad:
            yield SourceChange(before.name, after.name, fixed=bool(before.verdict.is_bad))


def source_bisection_lines(changes: Sequence[SourceChange], trials: Sequence[Trial]) -> Iterator[str]:
    """The answer in sentences, without full stops."""
    if not changes:
        yield "no source differs from the one before it"
    for change in changes:
        what = "first fixed" if change.fixed else "first bad"
        verb = "shows" if change.fixed else "does not show"
        yield f"{what}: {change.after} ({change.before} {verb} the fault)"
    if not all(trial.steady for trial in trials):
        yield "not every source showed the same at every try"


def source_outcome(source: str, case: Case, path: Path) -> Outcome:
    """The outcome of a case as a real backend file decides it. Raises CannotRunError where it makes no decode call of it."""
    with SourceSession(source, release=case.release) as session:
        recording = session.run(scenario_of(case))
    step = _step(recording, source)
    if isinstance(step, str):
        return turned_down(Refused(case, step))
    return path.run_decision(decision_of(step, case.backend))


def scenario_of(case: Case) -> Scenario:
    """The case as one step of a framework's process."""
    drafts = case.max_seqlen_q if case.max_seqlen_q > 1 else None
    graph = () if case.graph_batch is None else (case.graph_batch,)
    config = BackendConfig(
        num_head=case.num_head,
        kv_dtype=case.kv_dtype,
        q_dtype=case.q_dtype,
        page_size=case.page_size,
        draft_tokens=drafts,
        max_requests=max(case.batch, case.graph_batch or 0, case.max_batch or 0),
        graph_batches=graph,
    )
    kind = StepKind.DECODE if drafts is None else StepKind.TARGET_VERIFY
    lens = tuple(length - (drafts or 0) for length in case.kv_lens)
    step = Step(kind, lens, graph=bool(graph))
    return Scenario("bisect", (config,), (step,), arch=case.arch, num_cu=case.num_cu, release=case.release)


def _step(recording: Recording, source: str) -> RecordedStep | str:
    """The step that was asked for, not those of a capture; or why the framework refuses the case."""
    if recording.refused is not None:
        return recording.refused
    made = [step for step in recording.steps if step.step == 0]
    if made:
        return made[-1]
    failed = recording.failed[0].error if recording.failed else "no decode step was recorded"
    raise CannotRunError(f"{source}: {failed}")
