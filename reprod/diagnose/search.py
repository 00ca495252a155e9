"""Tries shapes that could have led to a log, within a time limit, and ranks what they show.

The model tries many; machine code of a checkout then decides about the best and about what the model cannot see. Whatever is
not run, for want of time or of code objects, is said and never counted as silent.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from backend.aiter.launch import Refusal
from backend.call import Call
from backend.case import FIELDS, Case
from backend.devices.kinds import open_device
from backend.errors import AiterfuzzError, CannotRunError
from backend.findings import Party
from backend.outcome import Outcome
from backend.path import Path, judge, refusal_of
from reprod.corpus import CorpusEntry, OpenPaths
from reprod.diagnose.candidates import Candidate, candidates, of_corpus
from reprod.diagnose.causes import Cause, fit, is_entry, same_words
from reprod.diagnose.evidence import LogEvidence
from reprod.diagnose.kernel_name import NamedKernel
from reprod.diagnose.revision_of_log import LoggedRevision, host_for
from reprod.shrink import ShrinkResult, shrink

SHARE_OF_MODEL, SHARE_OF_CODE, SHARE_OF_SHRINKING = 0.35, 0.7, 0.8
"""Of the time limit: until when the model tries shapes, until when machine code does, and until when the best is shrunk."""

LEAST_TRIED = 80
"""Shapes that the model tries though its share is over: the first of them wait for what is compiled."""

MOST_BY_CODE = 40
"""Shapes that machine code tries: each takes some tenths of a second."""


@dataclass
class Found:
    """What a search came to. causes: best first. refused: (reason, shapes), with a case of each.

    reaching: shapes that lead to the kernel in the log. tried: by the model; by_code: by machine code. stopped: whether time
    ended it. unknown: why some shapes are not known, by how many.
    """

    causes: list[Cause] = field(default_factory=list)
    refused: dict[str, tuple[int, Case]] = field(default_factory=dict)
    reaching: dict[tuple[object, ...], Case] = field(default_factory=dict)
    tried: int = 0
    by_code: int = 0
    stopped: bool = False
    unknown: Counter[str] = field(default_factory=Counter)


class Search:
    """One search. checkout: as the person gave it, for entries that name a revision; None for none."""

    def __init__(
        self,
        evidence: LogEvidence,
        kernel: NamedKernel | None,
        revision: LoggedRevision,
        entries: Sequence[CorpusEntry],
        checkout: str | None,
        seconds: float,
    ) -> None:
        self.evidence, self.kernel, self.revision, self.entries = evidence, kernel, revision, entries
        self.started, self.seconds = time.monotonic(), seconds
        self.found = Found()
        self._paths = OpenPaths(None if checkout is None else checkout.split("@")[0])
        self._host, self.stand_in = host_for(revision)
        self.model = Path(self._host, "model")
        self._code: Path | None = None
        self._causes: dict[str, Cause] = {}
        self._quiet: dict[tuple[object, ...], Candidate] = {}

    @property
    def checkout_label(self) -> str | None:
        """PATH[@REV] of the revision that is tried, None for the built-in rules."""
        return None if self.revision.source is None else self.revision.source.label

    def left(self, share: float = 1.0) -> float:
        """Seconds until a share of the limit is over."""
        return self.started + share * self.seconds - time.monotonic()

    def run(self) -> Found:
        """Tries shapes by the model, then by machine code where there is a checkout, and ranks the causes."""
        self._known()
        for release in self.revision.releases:
            for candidate in candidates(self.evidence, self.kernel, release):
                over = self.left(SHARE_OF_MODEL) < 0 and self.found.tried >= LEAST_TRIED
                if over or self.left(SHARE_OF_CODE) < 0:
                    self.found.stopped = True
                    break
                self._try(candidate)
            if self.found.stopped or any(cause.candidate.rule >= 0 for cause in self._causes.values()):
                break  # a fault that only another caller brings does not end the search for the framework's own
        if self.revision.source is not None:
            self._by_code()
        self._weigh_quiet_framework()
        self.found.causes = sorted(self._causes.values(), key=lambda cause: (-cause.score, cause.outcome is None, -cause.shown))
        return self.found

    def _known(self) -> None:
        """Entries of the corpus first: what is known of this kernel and these shapes. Those of machine code come later."""
        for candidate in of_corpus(self.entries, self.evidence, self.revision.releases):
            if candidate.machine is None:
                self._try(candidate)
            elif self._reaches(candidate.case):
                self._quiet.setdefault(("entry", candidate.entry, candidate.case.kv_lens), candidate)

    def launched(self, case: Case) -> Iterator[Call]:
        """The call of a case, if it is one that launches."""
        made = self.model.launched(case)
        if isinstance(made, Call):
            yield made

    def _reaches(self, case: Case) -> bool:
        """Whether a case launches the kernel in the log, or any where none is named."""
        try:
            made = self.model.call(case)
        except AiterfuzzError:
            return False
        if isinstance(made, Outcome) or isinstance(made.launch, Refusal):
            return False
        return self._is_kernel(made.launched.code_object)

    def _is_kernel(self, code_object: str) -> bool:
        """Whether a code object may be the log's: any where it names none, or one that no table at hand has."""
        return self.kernel is None or not self.kernel.label or self.kernel.is_code_object(code_object)

    def _try(self, candidate: Candidate) -> None:
        self.found.tried += 1
        try:
            made = self.model.call(candidate.case)
            if isinstance(made, Outcome):
                self._not_launched(candidate, made.refused or "", made.unknown)
                return
            reason = refusal_of(made)
            if reason is not None:
                self._not_launched(candidate, reason, unknown=False)
                return
            if not self._is_kernel(made.launched.code_object):
                return
            self.found.reaching.setdefault(_shape(candidate.case), candidate.case)
            outcome = judge(made, self.model.device)
        except AiterfuzzError as error:
            self.found.unknown[str(error)] += 1
            return
        if outcome.faulty:
            self._note(candidate, outcome)
        elif outcome.unknown:
            self.found.unknown[str(outcome.reason)] += 1
        else:
            self._quiet.setdefault(_shape(candidate.case), candidate)

    def _not_launched(self, candidate: Candidate, reason: str, unknown: bool) -> None:
        if unknown:
            self.found.unknown[reason] += 1
            return
        count, case = self.found.refused.get(reason, (0, candidate.case))
        self.found.refused[reason] = count + 1, case

    def _note(self, candidate: Candidate, outcome: Outcome) -> Cause | None:
        """Files an outcome under its cause; the shape that fits best stands for it."""
        shown = outcome.cause
        if shown is None:
            return None
        reasons = fit(outcome, candidate, self.evidence, self.kernel)
        known = {entry.id: entry for entry in self.entries if is_entry(entry, outcome)}
        if known:
            reasons = (*reasons, (1, f"is known: {', '.join(known)}"))
        score = sum(weight for weight, _ in reasons)
        planned = shown.stage if shown.party is Party.PLANNER else ""
        key = "/".join((shown.kind.value, shown.tensor, shown.discriminator, planned))
        cause = self._causes.get(key)
        if cause is None or score > cause.score or cause.outcome is None:
            shapes = cause.shown if cause is not None else 0
            cause = self._causes[key] = Cause(key, candidate, outcome, score, reasons, shapes)
        cause.shown += 1
        cause.entries |= known
        return cause

    def _weigh_quiet_framework(self) -> None:
        """Another caller's fault weighs less where the framework in the log reaches the kernel and shows nothing."""
        framework = self.evidence.framework
        if framework and any(str(shape[0]).startswith(framework) for shape in self._quiet):
            for cause in self._causes.values():
                if cause.candidate.rule < 0:
                    cause.reasons = (*cause.reasons, (-2, f"{framework}'s own rule reaches the kernel and shows nothing"))
                    cause.score -= 2

    def _by_code(self) -> None:
        """Machine code decides: first about the causes found, then about shapes that the model has nothing against."""
        for cause in sorted(self._causes.values(), key=lambda each: -each.score)[:4]:
            self._run_code(cause.candidate, cause)
        entries = [candidate for candidate in self._quiet.values() if candidate.machine is not None]
        rest = [candidate for candidate in self._quiet.values() if candidate.machine is None]
        for candidate in (*entries, *sorted(rest, key=lambda each: -each.rule)):
            if self.found.by_code >= MOST_BY_CODE or self.left(SHARE_OF_CODE) < 0:
                self.found.stopped = True
                return
            self._run_code(candidate, None)

    def _run_code(self, candidate: Candidate, cause: Cause | None) -> None:
        if self.left(SHARE_OF_CODE) < 0:
            self.found.stopped = True
            return
        try:
            outcome = self._code_path(candidate).run(candidate.case)
        except AiterfuzzError as error:
            self.found.unknown[str(error)] += 1
            return
        self.found.by_code += 1
        if outcome.faulty:
            noted = self._note(candidate, outcome)
            if cause is not None and noted is not None:
                noted.shown = max(noted.shown, cause.shown)
                if noted is cause or noted.outcome is None or noted.score <= cause.score:
                    cause.outcome = outcome
        elif cause is not None and not outcome.unknown and outcome.refused is None:
            cause.reasons = ((-9, "this revision's own machine code does not show it"), *cause.reasons)
            cause.score -= 9

    def _code_path(self, candidate: Candidate) -> Path:
        if candidate.machine is not None and candidate.machine.numbers:
            return self._paths(candidate.machine)
        if self._code is None:
            self._code = Path(self._host, open_device("cdna", self.revision.source))
        return self._code

    def known_but_not_run(self) -> Iterator[Cause]:
        """Entries of machine code that fit and were not run, for want of a checkout or of time."""
        ran = {identity for cause in self._causes.values() for identity in cause.entries}
        for candidate in self._quiet.values():
            if candidate.machine is None or candidate.entry in ran:
                continue
            ran.add(candidate.entry)
            entry = next(each for each in self.entries if each.id == candidate.entry)
            why = "no checkout of ROCm/aiter was given (--aiter)" if self.revision.source is None else "time"
            reasons = tuple(_by_known(entry, candidate, self.evidence))
            yield Cause(entry.id, candidate, None, sum(w for w, _ in reasons), reasons, 0, {entry.id: entry}, why)

    def shrunk(self, cause: Cause) -> ShrinkResult | None:
        """The smallest case of a cause that time allows, on what showed it; None where there is none left."""
        assert cause.outcome is not None
        seen = cause.outcome.observation
        by_code = seen is not None and seen.device == "cdna"
        path = self._code_path(cause.candidate) if by_code else self.model
        runner = _Hurried(path, self, cause.outcome)
        try:
            return shrink(cause.case, runner, budget=2_000)
        except AiterfuzzError:
            return None


class _Hurried:
    """A Runner for what stays the log's: valid calls that launch the same kernel for the same model, while there is time.

    What is not run does not show the fault, so that the shrink ends where it is when time is over.
    """

    def __init__(self, path: Path, search: Search, first: Outcome) -> None:
        self._path, self._search, self._first = path, search, first
        self._short = any(length < rows for length, rows in zip(first.case.kv_lens, first.case.rows(), strict=True))

    def run(self, case: Case) -> Outcome:
        """The path's outcome; raises CannotRunError for a case that is not to be tried."""
        first = self._first.case
        if case == first:
            return self._first
        if self._search.left(SHARE_OF_SHRINKING) < 0:
            raise CannotRunError("no time left")
        held = [field.name for field in FIELDS if field.of_model]
        held += [] if self._search.evidence.heads is None else ["num_head"]
        if any(getattr(case, name) != getattr(first, name) for name in held):
            raise CannotRunError("another model than the log's")
        if not self._short and any(length < rows for length, rows in zip(case.kv_lens, case.rows(), strict=True)):
            raise CannotRunError("fewer tokens than query rows: no valid call")
        outcome = self._path.run(case)
        if _code_object(outcome) != _code_object(self._first):
            raise CannotRunError("another kernel than the log's")
        return outcome


def _code_object(outcome: Outcome) -> str:
    return getattr(outcome.call.launch, "code_object", "") if outcome.call is not None else ""


def _by_known(entry: CorpusEntry, candidate: Candidate, evidence: LogEvidence) -> Iterator[tuple[int, str]]:
    yield 2, f"{entry.id} is known of this kernel and these shapes"
    if evidence.null and entry.fault_class == "null-pointer":
        yield 7, "goes through a null pointer, as the address of the fault says"
    elif evidence.null:
        yield -6, "goes through no null pointer, while the fault is at a null address"
    if candidate.case.backend == "direct" and evidence.framework:
        yield -1, "known of direct callers"


def explaining_refusal(found: Found, words: str) -> tuple[str, int, Case] | None:
    """The refusal among the tried shapes that says what the log says; None where none does."""
    rated = [(same_words(reason, words), reason, *counted) for reason, counted in found.refused.items()]
    best = max(rated, key=lambda each: each[0], default=None)
    return None if best is None or best[0] < ENOUGH_WORDS else best[1:]


ENOUGH_WORDS = 3
"""Words that two texts of a refusal share where they are one."""


def _shape(case: Case) -> tuple[object, ...]:
    return (case.backend, case.arch, case.num_head, case.q_dtype, case.kv_dtype, case.max_seqlen_q, case.mode, case.return_lse,
            case.first_page, case.graph_batch)  # fmt: skip
