"""Which revision of AITER brought a fault, or took it away: a search through history that builds nothing.

Only commits that touch what decides a call (reprod.history.PATHS) are tried, along the first parents. A revision of which a
rule is not known (Host.doubts) is no evidence: it is skipped, as git bisect skips what does not build, and where it
lies between the last good and the first bad one the answer is a range. Every revision is tried several times.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from backend.aiter.codefiles import open_source
from backend.aiter.launch import Refusal
from backend.case import Case
from backend.errors import CannotRunError, UsageError
from backend.findings import Finding
from backend.host import Doubt, Part, parts_behind
from backend.outcome import Outcome
from backend.path import Path
from backend.revision.revision import Revision
from backend.words import counted
from reprod.history import Commit

REPEATS = 3
"""Times that a revision is tried. The model is deterministic, so that a difference is a fault of this project; a machine that
runs real code may meet a race."""


class TrialVerdict(StrEnum):
    """What a revision shows."""

    BAD = "shows the fault"
    OTHER = "another fault"
    GOOD = "silent"
    REFUSED = "refused"
    SKIPPED = "cannot be judged"

    @property
    def is_bad(self) -> bool | None:
        """Whether the fault is there; None where that is not known."""
        return None if self is TrialVerdict.SKIPPED else self is TrialVerdict.BAD


@dataclass(frozen=True, slots=True)
class Trial:
    """One revision tried. detail: signature of another fault, reason of a refusal or a skip, "" for none.

    doubts: what stands in for unknown rules, those that are no matter for this fault included. tries: how often it was run;
    steady: whether every try showed the same.
    """

    name: str
    verdict: TrialVerdict
    detail: str
    doubts: tuple[str, ...]
    tries: int
    steady: bool


@dataclass(frozen=True, slots=True)
class Bisection:
    """The answer.

    fixed: whether it is the end of the fault that was looked for, not its beginning. changed: the first revision that shows the
    fault (or, where it was fixed, does not); before: the last one before it that does not (or does). between: revisions between
    the two that cannot be judged; without any, `changed` is the one. trials: in the order of trying. candidates: revisions in
    the range that touch what matters.
    """

    fixed: bool
    changed: str
    before: str
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


class CommitJudge(Protocol):
    """Tries one revision once."""

    def __call__(self, name: str) -> tuple[Outcome, Sequence[Doubt]]:
        """Outcome and doubts; raises CannotRunError where the revision cannot be judged."""
        ...


class RevisionTrials:
    """Tries one case at revisions of a checkout; a CommitJudge."""

    def __init__(self, checkout: str, case: Case, device: str = "model") -> None:
        self._checkout = checkout
        self._case = case
        self._device = device

    def __call__(self, name: str) -> tuple[Outcome, tuple[Doubt, ...]]:
        """Outcome and doubts at a commit; raises CannotRunError where it cannot be judged."""
        host = Revision(open_source(f"{self._checkout}@{name}"), stands_in=True)
        outcome = Path(host, self._device).run(self._case)
        return outcome, () if outcome.decision is None else host.doubts(outcome.decision)


def try_revision(name: str, wanted: Finding, judge: CommitJudge, repeats: int = REPEATS, nearest: bool = False) -> Trial:
    """A revision's verdict, of `repeats` tries; one that shows the fault only sometimes is BAD and not steady.

    nearest: rules of the nearest release count as the revision's own; the doubts are told with the answer.
    """
    shown: list[tuple[TrialVerdict, str]] = []
    doubts: tuple[str, ...] = ()
    for _ in range(repeats):
        try:
            outcome, found = judge(name)
        except CannotRunError as error:
            return Trial(name, TrialVerdict.SKIPPED, str(error), (), len(shown) + 1, not shown)
        if outcome.unknown:
            return Trial(name, TrialVerdict.SKIPPED, str(outcome.reason), (), len(shown) + 1, not shown)
        doubts = tuple(doubt.text for doubt in found)
        decisive = [doubt.text for doubt in found if doubt.part in parts_behind(wanted)]
        if decisive and not nearest:
            return Trial(name, TrialVerdict.SKIPPED, "; ".join(decisive), doubts, len(shown) + 1, not shown)
        if not nearest and _refused_by_launcher(outcome) and any(doubt.part is Part.LAUNCHER for doubt in found):
            return Trial(
                name, TrialVerdict.SKIPPED, f"{outcome.refused}; {'; '.join(doubts)}", doubts, len(shown) + 1, not shown
            )
        shown.append(_verdict(outcome, wanted))
    verdict, detail = next((each for each in shown if each[0] is TrialVerdict.BAD), shown[0])
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


def _verdict(outcome: Outcome, wanted: Finding) -> tuple[TrialVerdict, str]:
    cause = outcome.cause
    if same_fault(wanted, cause):
        return TrialVerdict.BAD, ""
    if outcome.faulty and cause is not None:
        return TrialVerdict.OTHER, cause.signature
    return (TrialVerdict.GOOD, "") if outcome.refused is None else (TrialVerdict.REFUSED, outcome.refused)


def bisect(
    names: Sequence[str],
    good: str,
    bad: str,
    attempt: Callable[[str], Trial],
    said: Callable[[Trial], None] = lambda _: None,
    fixed: bool = False,
) -> Bisection:
    """The boundary between `good` and `bad`; fixed: bad comes first, and what is looked for is the end of the fault.

    names: the revisions after the earlier of the two up to the later, oldest first; the last one stands for the later.
    attempt: tries one. said: told of each trial as it is made. Raises UsageError where good or bad is not what it should be.
    """
    search = _Search(attempt, said)
    search.expect(good, False)
    search.expect(bad, True)
    earlier, later = (bad, good) if fixed else (good, bad)
    low, high = -1, len(names) - 1  # names[low] is as the earlier one (-1: itself), names[high] as the later
    while True:
        at = search.nearest_known(names, low, high)
        if at is None:
            break
        if search.is_bad(names[at]) is not fixed:
            high = at
        else:
            low = at
    before = earlier if low < 0 else names[low]
    changed = later if high == len(names) - 1 or not names else names[high]
    return Bisection(fixed, changed, before, tuple(names[low + 1 : high]), tuple(search.trials.values()), len(names))


class _Search:
    """Trials made so far."""

    def __init__(self, attempt: Callable[[str], Trial], said: Callable[[Trial], None]) -> None:
        self._attempt = attempt
        self._said = said
        self.trials: dict[str, Trial] = {}

    def expect(self, name: str, wanted: bool) -> None:
        trial = self._try(name)
        if trial.verdict.is_bad is not wanted:
            should, showing = ("bad", "show") if wanted else ("good", "not show")
            detail = f" ({trial.detail})" if trial.detail else ""
            raise UsageError(
                f"--{should} {name}: {trial.verdict.value}{detail}; it should {showing} the fault; give another revision"
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


def bisection_lines(found: Bisection, commits: Sequence[Commit] = ()) -> Iterator[str]:
    """The answer in sentences, without full stops, for the command and the issue. commits: to name revisions by."""
    by_name = {commit.name: commit for commit in commits}
    trials = {trial.name: trial for trial in found.trials}

    def called(name: str) -> str:
        return str(by_name.get(name, name))

    before, now = _shown(trials[found.before]), _shown(trials[found.changed])
    if found.exact:
        yield f"first without it: {called(found.changed)}: {now}" if found.fixed else f"first bad: {called(found.changed)}"
        yield f"before it, {called(found.before)}: {before}"
    else:
        yield f"between {called(found.before)}: {before}; and {called(found.changed)}: {now}"
        yield (f"{counted(len(found.between), 'revision')} between the two cannot be judged: rules of theirs are not built in")
    tries = max(trial.tries for trial in found.trials)
    steady = "all" if found.steady else "NOT all"
    yield (
        f"{counted(len(found.trials), 'revision')} tried, the ends among them, of {found.candidates} that "
        "touch the decode path, each up "
        f"to {counted(tries, 'time')}; {steady} showed the same at every try"
    )
    for text in trials[found.changed].doubts:
        yield f"at {called(found.changed).split(' ')[0]}: {text}"


def _shown(trial: Trial) -> str:
    return f"{trial.verdict.value}{f' ({trial.detail})' if trial.detail else ''}"


def wanted_of(outcome: Outcome, case: Case) -> Finding:
    """The fault to look for; raises UsageError where the case shows none."""
    if not outcome.faulty or outcome.cause is None:
        raise UsageError(f"nothing to bisect: {outcome.refused or 'the case shows no fault'} at release {case.release}")
    return outcome.cause
