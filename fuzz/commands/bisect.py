"""`aiterfuzz bisect`: which revision of AITER, or which release of a backend, brought a fault or took it away."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from backend.errors import UsageError
from backend.words import counted
from fuzz.commands.arguments import WHAT_IT_IS, number
from fuzz.commands.printing import add_lengths, concluded, print_text

if TYPE_CHECKING:
    from backend.case import Case
    from backend.findings import Finding
    from reprod.bisect import Trial
    from reprod.history import Commit

EPILOG = """\
AITER: nothing is built. Sizing and fold rule are executed from each revision's Python, kernel table and code objects are its
own, and a planner or launcher whose source is not one that is built in is a doubt: where it matters for the fault, the revision
is skipped, and the answer may be a range (--nearest takes the nearest release's rules, and says so with the answer). Backend
sources are tried in the order given, each as shipped.

Exit codes: 0 one revision (or release) is named, 2 wrong usage, 3 a range, or nothing could be tried."""


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declares the command and its flags."""
    command = commands.add_parser(
        "bisect",
        help="find the revision that brought a fault",
        description="Searches AITER's history, or releases of a serving backend, for where a fault comes and goes.",
        epilog=EPILOG,
    )
    command.add_argument("finding", type=Path, metavar="FINDING", help=WHAT_IT_IS)
    history = command.add_argument_group("over AITER's history")
    history.add_argument("--aiter", metavar="PATH[@REV]", help="a checkout or bare repository of ROCm/aiter; REV: as --bad")
    history.add_argument("--good", metavar="REV", help="a revision without the fault")
    history.add_argument(
        "--bad", metavar="REV", help="a revision with it (that of --aiter); before the good one: looks for what mended it"
    )
    history.add_argument("--nearest", action="store_true", help="judge revisions of unknown rules by the nearest release's")
    history.add_argument("--repeat", type=number("--repeat", 1), default=3, metavar="N", help="tries of each revision (3)")
    history.add_argument(
        "--device",
        default="model",
        metavar="D",
        help="runs the case: model (default), or cdna for the revisions' code objects",
    )
    sources = command.add_argument_group("over releases of a backend")
    sources.add_argument(
        "--backend-sources",
        nargs="+",
        metavar="SOURCE",
        help="sglang==VERSION, vllm==VERSION, a wheel, a checkout, PATH@REVISION; in their order",
    )
    add_lengths(command)
    command.set_defaults(command=run)


def run(arguments: argparse.Namespace) -> int:
    """Prints each trial as it is made, then the answer."""
    from reprod.entry import given_case

    case = given_case(arguments.finding)
    if arguments.backend_sources:
        if arguments.aiter or arguments.good or arguments.bad:
            raise UsageError("bisect: --backend-sources and --aiter are two searches; give one of them")
        return _over_sources(arguments, case)
    if arguments.aiter is not None:
        _take_revision(arguments)
    missing = [f"--{name}" for name in ("aiter", "good", "bad") if getattr(arguments, name) is None]
    if missing:
        raise UsageError(f"bisect: {' and '.join(missing)} missing; give --aiter, --good and --bad, or --backend-sources")
    return _over_history(arguments, case)


def _take_revision(arguments: argparse.Namespace) -> None:
    """PATH@REV is the checkout, and the revision with the fault."""
    from backend.git import path_and_revision

    arguments.aiter, revision = path_and_revision(arguments.aiter)
    if revision and arguments.bad is not None:
        raise UsageError(f"bisect: --aiter names {revision} and --bad {arguments.bad}; give the revision with the fault once")
    arguments.bad = revision or arguments.bad


def _over_history(arguments: argparse.Namespace, case: Case) -> int:
    from fuzz.compiling import announced
    from reprod.bisect import RevisionTrials, bisect, bisection_lines, try_revision, wanted_of
    from reprod.history import commit, commits_between, is_before

    good, bad = (commit(arguments.aiter, revision) for revision in (arguments.good, arguments.bad))
    fixed = is_before(arguments.aiter, bad.name, good.name)
    earlier, later = (bad, good) if fixed else (good, bad)
    commits = commits_between(arguments.aiter, earlier.name, later.name)
    judge = RevisionTrials(arguments.aiter, case, arguments.device)
    known = {each.name: each for each in (*commits, good, bad)}
    with announced():
        wanted = wanted_of(judge(bad.name)[0], case)
        say = _trials_said(arguments, wanted, known)
        found = bisect(
            [each.name for each in commits],
            good.name,
            bad.name,
            lambda name: try_revision(name, wanted, judge, arguments.repeat, arguments.nearest),
            say,
            fixed,
        )
    _tell(arguments, wanted, found.trials, bisection_lines(found, (*commits, good, bad)))
    return _named(
        found.trials,
        "" if found.exact else f"{counted(len(found.between), 'revision')} between cannot be judged",
    )


def _over_sources(arguments: argparse.Namespace, case: Case) -> int:
    from fuzz.compiling import announced
    from reprod.backend_bisect import bisect_sources, first_shown, source_bisection_lines

    with announced():
        wanted = first_shown(case, arguments.backend_sources)
        say = _trials_said(arguments, wanted, {})
        trials, changes = bisect_sources(arguments.backend_sources, case, wanted, say)
    _tell(arguments, wanted, trials, source_bisection_lines(changes, trials))
    return _named(
        trials,
        "" if len(changes) == 1 else f"{counted(len(changes), 'change is', 'changes are')} found, where one is asked for",
    )


def _named(trials: Sequence[Trial], missing: str) -> int:
    """The exit code of a search whose answer names one revision, or of which something is missing; that is said."""
    from fuzz.verdict import Counts, Verdict

    return concluded(Verdict(Counts(clean=len(trials)), missing=(missing,) if missing else ()))


def _trials_said(arguments: argparse.Namespace, wanted: Finding, known: Mapping[str, Commit]) -> Callable[[Trial], None]:
    """What prints a trial as it is made, after what is looked for; nothing of it where the answer alone is asked for."""
    if arguments.json or arguments.quiet:
        return lambda _: None
    print(f"looking for: {wanted.signature}")
    return lambda trial: print(_trial_line(trial, known), flush=True)


def _tell(arguments: argparse.Namespace, wanted: Finding, trials: Sequence[Trial], answer: Iterable[str]) -> None:
    lines = tuple(answer)
    plain = {"looking_for": wanted.signature, "answer": lines, "trials": trials}
    print_text(arguments, ("", *lines), lines, plain)


def _trial_line(trial: Trial, known: Mapping[str, Commit]) -> str:
    named = known.get(trial.name)
    name = trial.name if named is None else f"{named.name[:10]} {named.date}"
    detail = f" ({trial.detail})" if trial.detail else ""
    steady = "" if trial.steady else ", NOT the same at every try"
    tries = f"{counted(trial.tries, 'try')}"
    return f"  {name}  {trial.verdict.value}{detail}, {tries}{steady}"
