"""`aiterfuzz scout`: a candidate of AITER judged by what one backend sends it, without a GPU."""

from __future__ import annotations

import argparse
import time
from typing import TYPE_CHECKING

from backend.errors import UsageError
from backend.words import counted
from fuzz.commands.gate import STOPPING, add_flags, check, plan, say, tell

if TYPE_CHECKING:
    from fuzz.gate.gate import Stack

EPILOG = """\
The backend stays and AITER changes; blame is the gate's, with AITER as the change. With CANDIDATE as A..B every commit of the
range that touches MLA decode is examined in turn, each against the base, and the first one that brings a fault is named.

Exit codes: 0 the candidate brings no fault, 1 it brings one, or refuses what ran on the base, 2 wrong usage, 3 open: something
that was asked for did not run."""


SECONDS = 160.0
"""By default: a whole sweep of sglang on two revisions is some two minutes of processor time, and the planner of one that was
never seen is compiled first."""


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declares the command and its flags."""
    command = commands.add_parser(
        "scout",
        help="judge a new AITER by what a backend sends it",
        description="Runs the real attention backend of a source (sglang==X, vllm==X, PATH, PATH@REVISION) on two revisions of "
        "AITER and says what the newer one brings and mends: faults, wrong results, refusals, kernels.",
        epilog=EPILOG,
    )
    command.add_argument("source", metavar="SOURCE", help="the backend")
    command.add_argument("--aiter", metavar="PATH@REV", required=True, help="the candidate: a revision, or a range A..B")
    command.add_argument(
        "--base-aiter", metavar="PATH[@REV]", help="what it is compared with (the one that SOURCE is built with; of a range, A)"
    )
    add_flags(command, SECONDS)
    command.set_defaults(command=run)


def run(arguments: argparse.Namespace) -> int:
    """Scouts a candidate, or every commit of a range; 1 where it brings a fault."""
    from backend.git import path_and_revision
    from fuzz.compiling import announced as compiling
    from fuzz.own_process import Interruption

    started = time.monotonic()
    check(arguments)
    with compiling(), Interruption(STOPPING):
        code = _range(arguments) if ".." in path_and_revision(arguments.aiter)[1] else _one(arguments)
    say(f"{time.monotonic() - started:.0f} s")
    return code


def _one(arguments: argparse.Namespace) -> int:
    from backend.real.frameworks.fetch import open_source
    from backend.real.frameworks.session import gate_line
    from fuzz.gate.comparison import compared
    from fuzz.gate.known import Known
    from fuzz.gate.run import run as examine
    from fuzz.gate.scout import scout_report

    stack, base, why = _stacks(arguments)
    candidate, before = examine(stack, base, plan(arguments), say)
    assert before is not None
    known = Known()
    found = compared(candidate, before, known.reference, known.is_open)
    title = f"aiterfuzz scout {arguments.source} on {stack.aiter}"
    return tell(scout_report(found, before, candidate, title, why, gate_line(open_source(arguments.source))), arguments)


def _range(arguments: argparse.Namespace) -> int:
    """Each commit against the base; the report is that of the most telling one, with the table in its notes."""
    from backend.git import path_and_revision
    from backend.real.frameworks.fetch import open_source
    from backend.real.frameworks.session import gate_line
    from fuzz.gate.comparison import compared
    from fuzz.gate.gate import Stack, swept
    from fuzz.gate.known import Known
    from fuzz.gate.scout import ScoutedCommit, kernel_changes, scout_report, telling, with_range
    from reprod.takes import distinct_commits

    path, asked = path_and_revision(arguments.aiter)
    earlier, _, later = asked.partition("..")
    commits = distinct_commits(path, earlier, later or "HEAD")
    base = arguments.base_aiter or f"{path}@{earlier}"
    before = swept(Stack(arguments.source, base), plan(arguments))
    known, scouted = Known(), list[ScoutedCommit]()
    for number, commit in enumerate(commits):
        candidate = swept(Stack(arguments.source, f"{path}@{commit.name}"), plan(arguments))
        found = compared(candidate, before, known.reference, known.is_open)
        scouted.append(ScoutedCommit(commit, found, len(kernel_changes(before, candidate))))
        say(f"{number + 1} of {len(commits)}: {commit}: {found.verdict.conclusion.value}")
        if telling(scouted) is scouted[-1]:
            shown = found, candidate
    title = f"aiterfuzz scout {arguments.source} on {arguments.aiter}"
    why = (f"base: {base}; {counted(len(commits), 'commit')} of {asked} touch MLA decode",)
    made = scout_report(shown[0], before, shown[1], title, why, gate_line(open_source(arguments.source)))
    return tell(with_range(made, scouted), arguments)


def _stacks(arguments: argparse.Namespace) -> tuple[Stack, Stack, tuple[str, ...]]:
    """Candidate, base, and how they were chosen."""
    from backend.git import path_and_revision
    from fuzz.gate.gate import Stack
    from fuzz.gate.which_aiter import which_aiter

    path, revision = path_and_revision(arguments.aiter)
    if not revision:
        raise UsageError.not_allowed("--aiter", arguments.aiter, "PATH@REV, the revision to be judged, or PATH@A..B")
    base = which_aiter(arguments.source, arguments.base_aiter or path)
    if base.aiter == path:
        raise UsageError(f"--base-aiter: no pin of {arguments.source} is known; give {path}@REV, what it runs on today")
    stack, before = Stack(arguments.source, arguments.aiter), Stack(arguments.source, base.aiter)
    return stack, before, (f"candidate: {arguments.aiter}", f"base: {base.why.removeprefix('AITER: ')}")
