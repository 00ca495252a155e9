"""Which revision of AITER brought a fault, or took it away: a search through history that builds nothing.

Only commits that touch what decides a call (reprod.history.PATHS) are tried, along the first parents. A revision of which a
rule is not known (RevisionPath.doubts) is no evidence: it is skipped, as git bisect skips what does not build, and where it
lies between the last good and the first bad one the answer is a range. Every revision is tried several times.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from backend.aiter.launch import Refusal
from backend.case import Case
from backend.errors import CannotRunError, UsageError
from backend.findings import Finding, Party
from backend.path import Outcome
from reprod.history import Commit
from reprod.revision import Part

REPEATS = 3
"""Times that a revision is tried. The model is deterministic, so that a difference is a fault of this project; a machine that
runs real code may meet a race."""

_NEEDS_LAUNCHER = (Party.LAUNCHER, Party.KERNEL, Party.REDUCTION)
"""Causes that depend on the launcher's rules; those of the caller and the planner come before it."""


class Verdict(StrEnum):
    """What a revision shows."""

    BAD = "shows the fault"
    OTHER = "another fault"
    GOOD = "silent"
    REFUSED = "refused"
    SKIPPED = "cannot be judged"

    @property
    def is_bad(self) -> bool | None:
        """Whether the fault is there; None where that is not known."""
        return None if self is Verdict.SKIPPED else self is Verdict.BAD


@dataclass(frozen=True, slots=True)
class Trial:
    """One revision tried. detail: signature of another fault, reason of a refusal or a skip, "" for none.

    doubts: what stands in for unknown rules, those that are no matter for this fault included. tries: how often it was run;
    steady: whether every try showed the same.
    """

    name: str
    verdict: Verdict
    detail: str
    doubts: tuple[str, ...]
    tries: int
    steady: bool


@dataclass(frozen=True, slots=True)
class Bisection:
    """The answer.

    first_bad: the first revision that shows the fault; last_good: the last one before it that does not. between: revisions
    between the two that cannot be judged; without any, first_bad is the one that brought it. trials: in the order of trying.
    candidates: revisions in the range that touch what matters.
    """

    first_bad: str
    last_good: str
    between: tuple[str, ...]
    trials: tuple[Trial, ...]
    candidates: int

    @property
    def exact(self) -> bool:
        """Whether one revision is named."""
        return not self.between

    @property
    def steady(self) -> bool:
        """Whether every revision showed the same at every try."""
        return all(trial.steady for trial in self.trials)


class Judge(Protocol):
    """Tries one revision once."""

    def __call__(self, name: str) -> tuple[Outcome, Sequence[tuple[Part, str]]]:
        """Outcome and doubts; raises CannotRunError where the revision cannot be judged."""
        ...


def try_revision(name: str, wanted: Finding, judge: Judge, repeats: int = REPEATS) -> Trial:
    """A revision's verdict, of `repeats` tries; one that shows the fault only sometimes is BAD and not steady."""
    shown: list[tuple[Verdict, str]] = []
    doubts: tuple[str, ...] = ()
    for _ in range(repeats):
        try:
            outcome, found = judge(name)
        except CannotRunError as error:
            return Trial(name, Verdict.SKIPPED, str(error), (), len(shown) + 1, not shown)
        doubts = tuple(text for _, text in found)
        decisive = [text for part, text in found if part is Part.PLANNER or wanted.party in _NEEDS_LAUNCHER]
        if decisive:
            return Trial(name, Verdict.SKIPPED, "; ".join(decisive), doubts, len(shown) + 1, not shown)
        if _refused_by_launcher(outcome) and any(part is Part.LAUNCHER for part, _ in found):
            return Trial(name, Verdict.SKIPPED, f"{outcome.refused}; {'; '.join(doubts)}", doubts, len(shown) + 1, not shown)
        shown.append(_verdict(outcome, wanted))
    verdict, detail = next((each for each in shown if each[0] is Verdict.BAD), shown[0])
    return Trial(name, verdict, detail, doubts, repeats, len(set(shown)) == 1)


def _refused_by_launcher(outcome: Outcome) -> bool:
    """Whether it is the launcher's rule, not the revision's Python, that refuses."""
    launch = outcome.call.launch if outcome.call is not None else None
    return isinstance(launch, Refusal) and launch.raised_by == LAUNCHER_FUNCTION


LAUNCHER_FUNCTION = "mla_decode_stage1_asm_fwd"


def same_fault(wanted: Finding, shown: Finding | None) -> bool:
    """Whether a finding is the wanted one; a kernel may be called otherwise from one revision to the next."""
    if shown is None:
        return False
    kernels = wanted.stage.endswith(".co") and shown.stage.endswith(".co")
    alike = (wanted.kind, wanted.party, wanted.tensor, wanted.discriminator)
    return alike == (shown.kind, shown.party, shown.tensor, shown.discriminator) and (kernels or wanted.stage == shown.stage)


def _verdict(outcome: Outcome, wanted: Finding) -> tuple[Verdict, str]:
    cause = outcome.cause
    if same_fault(wanted, cause):
        return Verdict.BAD, ""
    if outcome.faulty and cause is not None:
        return Verdict.OTHER, cause.signature
    return (Verdict.GOOD, "") if outcome.refused is None else (Verdict.REFUSED, outcome.refused)


def bisect(
    names: Sequence[str], good: str, bad: str, attempt: Callable[[str], Trial], said: Callable[[Trial], None] = lambda _: None
) -> Bisection:
    """The boundary between `good` and `bad`.

    names: the revisions after `good` up to `bad`, oldest first; the last one stands for `bad` and is tried as such.
    attempt: tries one. said: told of each trial as it is made. Raises UsageError where good or bad is not what it should be.
    """
    search = _Search(attempt, said)
    search.expect(good, False)
    search.expect(bad, True)
    low, high = -1, len(names) - 1  # names[low] is good (-1: `good` itself), names[high] bad
    while True:
        at = search.nearest_known(names, low, high)
        if at is None:
            break
        if search.is_bad(names[at]):
            high = at
        else:
            low = at
    last_good = good if low < 0 else names[low]
    first_bad = bad if high == len(names) - 1 or not names else names[high]
    between = tuple(names[low + 1 : high])
    return Bisection(first_bad, last_good, between, tuple(search.trials.values()), len(names))


class _Search:
    """Trials made so far."""

    def __init__(self, attempt: Callable[[str], Trial], said: Callable[[Trial], None]) -> None:
        self._attempt = attempt
        self._said = said
        self.trials: dict[str, Trial] = {}

    def expect(self, name: str, wanted: bool) -> None:
        trial = self._try(name)
        if trial.verdict.is_bad is not wanted:
            should, told = ("bad", "show") if wanted else ("good", "not show")
            detail = f" ({trial.detail})" if trial.detail else ""
            raise UsageError(
                f"--{should} {name}: {trial.verdict.value}{detail}; it should {told} the fault; give another revision"
            )

    def is_bad(self, name: str) -> bool:
        return bool(self._try(name).verdict.is_bad)

    def nearest_known(self, names: Sequence[str], low: int, high: int) -> int | None:
        """The index nearest to the middle of (low, high), both exclusive, that can be judged; None where none can."""
        middle = (low + high) // 2
        for at in sorted(range(low + 1, high), key=lambda i: (abs(i - middle), i)):
            if self._try(names[at]).verdict.is_bad is not None:
                return at
        return None

    def _try(self, name: str) -> Trial:
        if name not in self.trials:
            self.trials[name] = self._attempt(name)
            self._said(self.trials[name])
        return self.trials[name]


def told(found: Bisection, commits: Sequence[Commit] = ()) -> Iterator[str]:
    """The answer in sentences, without full stops, for the command and the issue. commits: to name revisions by."""
    by_name = {commit.name: commit for commit in commits}
    trials = {trial.name: trial for trial in found.trials}

    def called(name: str) -> str:
        return str(by_name.get(name, name))

    before = trials[found.last_good]
    shown = f"{before.verdict.value}{f': {before.detail}' if before.detail else ''}"
    if found.exact:
        yield f"first bad: {called(found.first_bad)}"
        yield f"before it, {called(found.last_good)} shows: {shown}"
    else:
        yield f"between {called(found.last_good)} (which shows: {shown}) and {called(found.first_bad)}, which shows the fault"
        yield f"{len(found.between)} revisions between the two cannot be judged, because their rules are not built in"
    tried = f"{len(found.trials)} of {found.candidates} revisions that touch the decode path tried"
    steady = "all" if found.steady else "NOT all"
    yield f"{tried}, each up to {max(trial.tries for trial in found.trials)} times; {steady} showed the same at every try"
    for text in trials[found.first_bad].doubts:
        yield f"at {called(found.first_bad).split(' ')[0]}: {text}; no matter for this fault, which comes before it"


def wanted_of(outcome: Outcome, case: Case) -> Finding:
    """The fault to look for; raises UsageError where the case shows none."""
    if not outcome.faulty or outcome.cause is None:
        raise UsageError(f"nothing to bisect: {outcome.refused or 'the case shows no fault'} at release {case.release}")
    return outcome.cause
