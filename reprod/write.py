"""What the folder of one finding says: case.json, explain.txt, repro.py, issue.md."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from backend.codec import dumps
from backend.errors import UsageError
from backend.findings import Finding
from backend.outcome import Outcome
from backend.path import Path as CasePath
from reprod.addressees import AITER, Addressee, addressee_of
from reprod.explain import explain_text
from reprod.fix import fix_of
from reprod.folder import BISECTION, CASE, CAUSE, EXPLAIN, ISSUE, RANKS_SCRIPT, REQUEST, SCRIPT
from reprod.issue import Context, Evidence, issue_notes, issue_text, made_by_lines, request_text
from reprod.known import known_as
from reprod.layouts import layouts
from reprod.script import script_text
from reprod.sweep import surroundings


@dataclass(frozen=True, slots=True)
class Notes:
    """What a finding's folder tells beside what the path shows.

    cause: read off the sources by a person, lines of markdown. bisection: sentences of reprod.bisect. ranks: processes of a
    further script, 1 for none. addressee: whom the issue is for, None: who can mend it.
    """

    cause: tuple[str, ...] = ()
    bisection: tuple[str, ...] = ()
    ranks: int = 1
    addressee: Addressee | None = None


NO_NOTES = Notes()

Verify = Callable[[Mapping[str, str]], Mapping[str, str]]


def finding_files(
    outcome: Outcome,
    context: Context,
    path: CasePath | None = None,
    seed: int | None = None,
    command: str = "",
    notes: Notes = NO_NOTES,
) -> Mapping[str, str]:
    """Content of each file of a finding's folder, by name."""
    cause_of(outcome)
    path = path if path is not None else CasePath()
    fix = fix_of(outcome, path)
    script = script_text(outcome, fix, SCRIPT)
    to = notes.addressee or addressee_of(outcome)
    evidence = Evidence(
        surroundings(outcome, path),
        script,
        fix,
        seed,
        command,
        notes.bisection,
        issue_notes(notes.cause),
        notes.addressee,
        known_as(outcome),
    )
    further = {RANKS_SCRIPT: script_text(outcome, fix, RANKS_SCRIPT, notes.ranks)} if notes.ranks > 1 else {}
    for name, lines in ((CAUSE, notes.cause), (BISECTION, notes.bisection)):
        if lines:
            further[name] = "\n".join(lines) + "\n"
    if to is not AITER:
        further[REQUEST] = request_text(outcome, evidence, context)
    made_by = "\n".join(made_by_lines(outcome, evidence, context))
    return further | {
        CASE: dumps(outcome.case) + "\n",
        EXPLAIN: f"{explain_text(outcome, memory=layouts(outcome), known=evidence.known)}{made_by}\n",
        SCRIPT: script,
        ISSUE: issue_text(outcome, evidence, context),
    }


def cause_of(outcome: Outcome) -> Finding:
    """What an outcome's folder is about; raises UsageError where it shows no finding."""
    if outcome.cause is None:
        raise UsageError(f"nothing to write: {outcome.refused or 'the case shows no finding'}; give a case that shows one")
    return outcome.cause
