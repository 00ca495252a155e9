"""The diagnosis of a log: reading, evidence, search, shrink and script in one, within a time limit. Prints nothing."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from backend.call import Call
from backend.case import Arch, Case
from backend.child.tree import Limits
from backend.errors import AiterfuzzError
from backend.outcome import Outcome
from reprod.corpus import CorpusEntry
from reprod.diagnose.causes import Cause, of_same_signature
from reprod.diagnose.code_place import CodePlace, places
from reprod.diagnose.evidence import Ending, LogEvidence, evidence_of, is_other_family, last_loaded
from reprod.diagnose.facts import LogFacts
from reprod.diagnose.kernel_name import NamedKernel, bare_name, family, named_kernel
from reprod.diagnose.log_lines import read_logs
from reprod.diagnose.revision_of_log import LoggedRevision, revision_of
from reprod.diagnose.search import Found, Search, explaining_refusal
from reprod.fix import fix_of
from reprod.script import script_text
from reprod.shrink import ShrinkResult
from reprod.verify import ScriptVerdict, verdict


@dataclass
class Diagnosis:
    """Everything that a log came to.

    kernel: of MLA decode, that the log names; arch: on which it was looked up; archs: all that have it, and that are tried.
    cannot_tell: why nothing can be said of a cause, "" where something can. causes: best first, those not run among them.
    refusal: (reason, shapes, a case) of AITER or the backend in the log's words. best: the first cause shrunk. script, seen:
    it, and what running it came to. stand_in: rules that are not the revision's own, "" for none.
    """

    facts: LogFacts
    evidence: LogEvidence
    revision: LoggedRevision
    kernel: NamedKernel | None = None
    arch: Arch | None = None
    found: Found = field(default_factory=Found)
    causes: list[Cause] = field(default_factory=list)
    places: tuple[CodePlace, ...] = ()
    refusal: tuple[str, int, Case] | None = None
    archs: tuple[Arch, ...] = ()
    cannot_tell: str = ""
    best: ShrinkResult | None = None
    script: str = ""
    seen: ScriptVerdict | None = None
    seconds: float = 0.0
    stand_in: str = ""

    @property
    def shown(self) -> bool:
        """Whether a fault that fits the log was seen to happen."""
        return not self.cannot_tell and bool(self.causes) and self.causes[0].outcome is not None

    @property
    def outcome(self) -> Outcome | None:
        """Of the smallest case of the first cause."""
        if self.best is not None:
            return self.best.outcome
        return self.causes[0].outcome if self.causes else None


LEAST_SCORE = 1
"""Of a cause that is told: what speaks against one that weighs less is more than what speaks for it."""

SCRIPT_SECONDS = 10.0
"""Time without which a script is not started: Python, torch and the simulated GPU take some seconds to come up."""


def diagnose(
    logs: Sequence[Path], checkout: str | None, entries: Sequence[CorpusEntry], seconds: float, script: bool = True
) -> Diagnosis:
    """Reads logs and searches for what could have led to them, for at most `seconds` (the reading's share included).

    script: whether one is written and run. Raises UsageError for a log that cannot be read or a checkout that is none.
    """
    started = time.monotonic()
    facts = read_logs(logs, seconds / 5)
    evidence = evidence_of(facts)
    revision = revision_of(evidence, checkout)
    done = Diagnosis(facts, evidence, revision)
    done.archs, done.arch, done.kernel = _kernel(evidence, revision)
    done.cannot_tell = _hopeless(done)
    if not done.cannot_tell:
        left = max(1.0, seconds - (time.monotonic() - started))
        _search(done, Search(evidence, done.kernel, revision, entries, checkout, left), script)
    done.seconds = time.monotonic() - started
    return done


def _kernel(evidence: LogEvidence, revision: LoggedRevision) -> tuple[tuple[Arch, ...], Arch | None, NamedKernel | None]:
    """The architectures that have the first suspect, or that of the log; one of them; the kernel there."""
    archs = (evidence.arch,) if evidence.arch is not None else tuple(reversed(Arch))
    if not evidence.suspects:
        return archs, evidence.arch, None
    looked_up = [(arch, named_kernel(evidence.suspects[0].name, revision.tables(arch))) for arch in archs]
    having = [(arch, kernel) for arch, kernel in looked_up if kernel.label]
    arch, kernel = having[0] if having else (evidence.arch, looked_up[0][1])
    return tuple(arch for arch, _ in having) or archs, arch, kernel


def _hopeless(done: Diagnosis) -> str:
    """Why no shape of MLA decode is worth trying; "" where one is."""
    evidence, facts = done.evidence, done.facts
    if not facts.found:
        return "nothing in the log is of a form that is known here"
    other = is_other_family(evidence)
    if other is not None:
        return (
            f"the fault names {evidence.others[0].name}, which is no kernel of MLA decode ({other}); only that is modelled here"
        )
    last = last_loaded(facts)
    if last is not None and family(last.value) is not None and not evidence.is_mla and not evidence.suspects:
        return f"the kernel loaded last is {bare_name(last.value)} ({family(last.value)}), and none of MLA decode is named"
    if evidence.is_mla is False:
        return f"the model is {evidence.model}, whose attention is not MLA: no kernel of MLA decode runs for it"
    if evidence.suspects:
        return "" if evidence.ending in _TOLD or evidence.ending is Ending.UNKNOWN else _OF_END[evidence.ending]
    if evidence.ending in _OF_END:
        return _OF_END[evidence.ending]
    if evidence.ending is Ending.UNKNOWN:
        return "the log holds no fault, no refusal and no kernel of MLA decode"
    about = (evidence.heads, evidence.kv_dtype, evidence.model, evidence.words)
    if not any(about):
        return "the log names no kernel, no model and no shape: any kernel of the process may have done it"
    return ""


_TOLD = (Ending.FAULT, Ending.REFUSED, Ending.WRONG_OUTPUT, Ending.EXCEPTION, Ending.HANG)

_OF_END = {
    Ending.OUT_OF_MEMORY: "memory ran out, which is no access outside of a tensor: look at the pool's share of memory",
    Ending.NOT_LOADED: "the runtime did not load a code object, so that no kernel of it ran: look at its file and its GPU",
    Ending.HANG: "the process did not come back, and a log does not say which kernel it waited for",
    Ending.COLLECTIVE: "a collective failed: usually another rank has died before, and that rank's log says of what",
    Ending.KILLED: "the process was killed from outside, which says nothing of its kernels",
}


def _search(done: Diagnosis, search: Search, script: bool) -> None:
    done.stand_in = search.stand_in
    found = done.found = search.run()
    done.causes = [cause for cause in (*found.causes, *search.known_but_not_run()) if cause.score >= LEAST_SCORE]
    done.causes.sort(key=lambda cause: (-cause.score, cause.outcome is None, -cause.shown))
    for cause in done.causes:
        if not cause.entries and cause.outcome is not None:  # none has its shape
            cause.entries |= of_same_signature(search.entries, cause.outcome)
    if done.evidence.words and done.evidence.ending in (Ending.REFUSED, Ending.EXCEPTION):
        done.refusal = explaining_refusal(found, done.evidence.words)
    if done.evidence.ending in (Ending.REFUSED, Ending.EXCEPTION):
        done.causes = []  # a process that raised has not been ended by an access
        if done.refusal is None:
            what = "refused" if done.evidence.ending is Ending.REFUSED else "ended by an exception"
            done.cannot_tell = f"it was {what}, in words that no shape tried here leads to: {done.evidence.words}"
        return
    _find_places(done, search)
    if not done.causes:
        done.cannot_tell = _nothing_fits(done)
        return
    first = done.causes[0]
    if first.outcome is None:
        return
    done.best = search.shrunk(first)
    if script and done.outcome is not None:
        _write_script(done, search)


def _nothing_fits(done: Diagnosis) -> str:
    if done.found.causes:
        return "the shapes that agree with the log show faults, none of which fits how it ended"
    if done.found.unknown:
        return f"no shape tried shows a fault, and some could not be run ({next(iter(done.found.unknown))})"
    if done.kernel is not None and not done.kernel.label:
        return f"{done.kernel.name} is in no kernel table of {done.revision.label}, and no shape tried shows a fault that fits"
    if done.kernel is not None and not done.found.reaching:
        return "no shape tried leads to the kernel that the log names"
    return "no shape tried that agrees with the log shows a fault"


def _find_places(done: Diagnosis, search: Search) -> None:
    """What the log's pcs are, where there is a checkout and a kernel."""
    source, kernel = done.revision.source, done.kernel
    if source is None or kernel is None or not kernel.label or done.arch is None or search.left(SHARE_OF_PLACES) < 0:
        return
    call = _call_of(done, search)
    if call is None:
        return
    try:
        done.places = places(done.facts, source, done.arch, call.launched.code_object, call.launched.symbol, call)
    except AiterfuzzError as error:
        done.found.unknown[str(error)] += 1


SHARE_OF_PLACES = 0.9


def _call_of(done: Diagnosis, search: Search) -> Call | None:
    """A call that launches the kernel: of the first cause, else of any shape that reaches it."""
    for cause in done.causes:
        if cause.outcome is not None and cause.outcome.call is not None:
            return cause.outcome.call
    return next((call for case in done.found.reaching.values() for call in search.launched(case)), None)


def _write_script(done: Diagnosis, search: Search) -> None:
    outcome = done.outcome
    assert outcome is not None
    try:
        done.script = script_text(outcome, fix_of(outcome, search.model))
    except AiterfuzzError as error:
        done.found.unknown[f"no script: {error}"] += 1
        return
    left = search.left()
    if left < SCRIPT_SECONDS:
        return
    limits = Limits(seconds=left, memory=6 << 30)
    done.seen = verdict("repro.py", done.script, outcome.case, search.checkout_label, limits, runs=((),))
