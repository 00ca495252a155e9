"""The folder of one finding: case.json, explain.txt, repro.py, issue.md, written whole or not at all."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from backend.codec import dumps
from backend.errors import UsageError
from backend.outcome import Outcome
from backend.path import Path as CasePath
from reprod.explain import explain_text
from reprod.fix import fix_of
from reprod.issue import Context, Evidence, issue_text
from reprod.layouts import layouts
from reprod.script import script_text
from reprod.sweep import surroundings

CASE, EXPLAIN, SCRIPT, ISSUE = "case.json", "explain.txt", "repro.py", "issue.md"

RANKS_SCRIPT = "repro_ranks.py"
"""The script of several processes, where one is asked for."""

CAUSE, BISECTION = "cause.md", "bisection.txt"
"""What a person and `aiterfuzz bisect` add to the issue; kept, so that the folder can be written anew."""


@dataclass(frozen=True, slots=True)
class Notes:
    """What a finding's folder tells beside what the path shows.

    cause: read off the sources by a person, lines of markdown. bisection: sentences of reprod.bisect. ranks: processes of a
    further script, 1 for none.
    """

    cause: tuple[str, ...] = ()
    bisection: tuple[str, ...] = ()
    ranks: int = 1


NO_NOTES = Notes()

Verify = Callable[[Mapping[str, str]], Mapping[str, str]]


def write_finding(
    outcome: Outcome,
    folder: Path,
    context: Context,
    path: CasePath | None = None,
    seed: int | None = None,
    command: str = "",
    notes: Notes = NO_NOTES,
    verify: Verify | None = None,
) -> Path:
    """Writes the folder of an outcome below `folder`, which is made if it is not there; returns its path.

    path: runs the sweep around the case and tries remedies; None: device model. verify: runs the scripts and adds to the texts
    what they were seen to do (reprod.verify.verified); None: nothing is run. A folder of the same name, which is of the
    same fault and case, is replaced. Raises UsageError where the outcome shows no finding or `folder` cannot be written to;
    nothing is left then.
    """
    files = finding_files(outcome, context, path, seed, command, notes)
    if verify is not None:
        files = verify(files)
    return write_folder(folder, folder_name(outcome), files)


def finding_files(
    outcome: Outcome,
    context: Context,
    path: CasePath | None = None,
    seed: int | None = None,
    command: str = "",
    notes: Notes = NO_NOTES,
) -> Mapping[str, str]:
    """Content of each file of a finding's folder, by name."""
    cause = outcome.cause
    if cause is None:
        raise UsageError(f"nothing to write: {outcome.refused or 'the case shows no finding'}; give a case that shows one")
    path = path if path is not None else CasePath()
    fix = fix_of(outcome, path)
    script = script_text(outcome, fix, SCRIPT)
    memory = layouts(outcome)
    around = surroundings(outcome, path)
    evidence = Evidence(around, script, fix, memory, seed, command, notes.bisection, notes.cause, notes.ranks)
    further = {RANKS_SCRIPT: script_text(outcome, fix, RANKS_SCRIPT, notes.ranks)} if notes.ranks > 1 else {}
    for name, lines in ((CAUSE, notes.cause), (BISECTION, notes.bisection)):
        if lines:
            further[name] = "\n".join(lines) + "\n"
    return further | {
        CASE: dumps(outcome.case) + "\n",
        EXPLAIN: explain_text(outcome, memory=memory),
        SCRIPT: script,
        ISSUE: issue_text(outcome, evidence, context),
    }


def folder_name(outcome: Outcome) -> str:
    """`bug-<symptom>-<stage>-<id>`; the id is of the signature and the case, so that one fault always gets one name."""
    cause = outcome.cause
    assert cause is not None
    identity = hashlib.sha256(f"{cause.signature}\n{dumps(outcome.case)}".encode()).hexdigest()[:8]
    stage = re.sub(r"[^A-Za-z0-9_.]+", "-", cause.stage).strip("-.")
    return f"bug-{cause.kind.value}-{stage}-{identity}"


def write_folder(parent: Path, name: str, files: Mapping[str, str]) -> Path:
    """Makes parent/name with these files, under another name first; raises UsageError where that cannot be done."""
    target, temporary = parent / name, None
    try:
        parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(tempfile.mkdtemp(prefix=f".{name}-", dir=parent))
        for file_name, text in files.items():
            (temporary / file_name).write_text(text, encoding="utf-8")
        temporary.chmod(0o777 & ~_umask())
        if target.exists():
            os.rename(target, temporary / "replaced")
            os.rename(temporary, target)
            shutil.rmtree(target / "replaced")
        else:
            os.rename(temporary, target)
    except OSError as error:
        if temporary is not None:
            shutil.rmtree(temporary, ignore_errors=True)
        raise UsageError(f"folder {target}: cannot be written ({error.strerror or error}); give a folder that can") from error
    return target


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
