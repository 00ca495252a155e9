"""`aiterfuzz run`: search a space of cases for faults, shrink and report each once."""

from __future__ import annotations

import argparse
import dataclasses
import functools
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from fuzz.commands.arguments import number, seconds
from fuzz.commands.flags import add_flags, given

if TYPE_CHECKING:
    from backend.aiter.codefiles import CodeSource
    from backend.path import Path as CasePath
    from fuzz.provenance import Provenance
    from fuzz.results import ResultLog
    from fuzz.search import Budget, Fault, Search, Tally
    from fuzz.space import CaseSpace
    from fuzz.spec import Spec

DEFAULT_CASES = 1000
"""Half a second on the model; the historic faults show within the first hundred cases."""

EPILOG = """\
Cases are a function of the flags and the seed. OUT/results.jsonl is written as cases run (an earlier one is replaced); each
distinct fault gets a folder there with its smallest case, an explanation, a script and an issue text. Exit codes: 0 nothing
found, 1 faults found, 2 wrong usage, 3 could not run or was interrupted before anything was found."""


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declares the command."""
    from fuzz.spec import Spec

    command = commands.add_parser(
        "run",
        help="search for faults",
        description="Searches a space of cases for faults, shrinks and reports each once.",
        epilog=EPILOG,
    )
    what = command.add_argument_group("what is tried (default: whatever the backend really sends)")
    add_flags(what, Spec)
    how = command.add_argument_group("how long, on what, and where to")
    how.add_argument("--cases", type=number("--cases", 1), metavar="N", help=f"stop after N cases ({DEFAULT_CASES})")
    how.add_argument("--seconds", type=seconds, metavar="S", help="stop after S seconds")
    how.add_argument("--seed", type=number("--seed", 0), default=0, metavar="N", help="0")
    how.add_argument("--device", default="model", metavar="D", help="model (default); aiterfuzz version lists what is there")
    how.add_argument(
        "--numbers", action="store_true", help="device cdna: run whole kernels on drawn values and judge their output (slow)"
    )
    how.add_argument("--aiter", metavar="PATH[@REV]", help="code objects and kernel table of a checkout of ROCm/aiter")
    how.add_argument("--out", type=Path, default=Path("findings"), metavar="DIR", help="folder of the results (findings)")
    how.add_argument(
        "--ranks",
        type=number("--ranks", 1),
        default=1,
        metavar="N",
        help="as TP: on N GPUs at once (rocm, cuda), and a script of N processes",
    )
    how.add_argument("--verify", action="store_true", help="run each script on the simulated GPU (some seconds each)")
    command.set_defaults(command=run)


def run(arguments: argparse.Namespace) -> int:
    """Searches; prints the table of faults."""
    from backend.devices.registry import RANKED, open_device
    from backend.host import BuiltIn
    from backend.path import Path as CasePath
    from backend.serving.registry import named_policy
    from fuzz.page.devices import notice
    from fuzz.provenance import provenance
    from fuzz.report import lines
    from fuzz.results import ResultLog, prepare_folder
    from fuzz.search import Search
    from fuzz.space import space

    source, spec = _asked(arguments)
    named_policy(spec.backend)  # an unknown one is said before anything is written
    cases = space(spec)
    ranks = arguments.ranks if arguments.device in RANKED else 1
    path = CasePath(BuiltIn(source), open_device(arguments.device, source, ranks=ranks, numbers=arguments.numbers))
    budget = _budget(arguments)
    made_by = provenance(path.device.name, cases.releases, source)
    prepare_folder(arguments.out)
    search = Search(cases, path, arguments.seed)
    _announce(arguments, cases, budget, made_by)
    with ResultLog(arguments.out) as log:
        log.run(cases, arguments.seed, budget, made_by)
        folders, interrupted = _search(search, budget, log, _Writer(arguments, path, made_by))
    print("\n".join(lines(search.tally, folders)))
    print(notice(path.device.name))
    print(f"results: {log.path}")
    return _exit_code(search.tally, interrupted)


def _search(search: Search, budget: Budget, log: ResultLog, write: _Writer) -> tuple[dict[str, Path], bool]:
    """Runs the search to its end or to Ctrl-C; the folder of each fault by signature, and whether it was interrupted."""
    from fuzz.compiling import announced
    from fuzz.interruption import Interruption
    from fuzz.search import Found, Ran, Started
    from fuzz.show import Progress

    folders: dict[str, Path] = {}
    with announced(), Interruption() as interruption, Progress(budget) as progress:
        for event in search.events(budget):
            match event:
                case Started():
                    if interruption.wanted:
                        break
                    log.started(event)
                case Ran():
                    log.ran(event)
                    progress.update(search.tally)
                case Found(fault):
                    progress.say(f"fault: {fault.signature}")
                    try:
                        folders[fault.signature] = write(fault)
                    finally:
                        log.found(fault, folders.get(fault.signature))
        progress.finish(search.tally)
        log.finished(search.tally, progress.seconds, interruption.wanted)
    return folders, interruption.wanted


class _Writer:
    """Writes the folder of a fault."""

    def __init__(self, arguments: argparse.Namespace, path: CasePath, made_by: Provenance) -> None:
        self._arguments = arguments
        self._path = path
        self._made_by = made_by

    def __call__(self, fault: Fault) -> Path:
        from reprod.verify import verified
        from reprod.write import Notes, write_finding

        arguments, outcome = self._arguments, fault.shrunk.outcome
        verify = None if not arguments.verify else functools.partial(verified, case=outcome.case, aiter=arguments.aiter)
        command, notes = f"aiterfuzz {arguments.typed}", Notes(ranks=arguments.ranks)
        return write_finding(outcome, arguments.out, self._made_by, self._path, arguments.seed, command, notes, verify)


def _exit_code(tally: Tally, interrupted: bool) -> int:
    """1 for faults; 3 where the run confirms less than it was asked to."""
    if tally.faults:
        return 1
    doubts = {
        "interrupted: nothing found so far, which confirms nothing": interrupted,
        "every case was refused, so nothing is known; see the reasons above": not tally.ran,
        "some cases are not modelled, so not all of what was asked for is confirmed": bool(tally.unmodelled),
    }
    for doubt, holds in doubts.items():
        if holds:
            print(doubt, file=sys.stderr)
            return 3
    return 0


def _asked(arguments: argparse.Namespace) -> tuple[CodeSource | None, Spec]:
    """The code source, and what is to be drawn: of the release nearest to the source where none is named."""
    from fuzz.spec import Spec

    spec = Spec(**given(arguments, Spec))
    if arguments.aiter is None:
        return None, spec
    from backend.aiter.codefiles import open_source
    from backend.aiter.release import nearest_release

    source = open_source(arguments.aiter)
    return source, spec if spec.releases else dataclasses.replace(spec, releases=(nearest_release(source).name,))


def _budget(arguments: argparse.Namespace) -> Budget:
    from fuzz.search import Budget

    if arguments.cases is None and arguments.seconds is None:
        return Budget(cases=DEFAULT_CASES)
    return Budget(arguments.cases, arguments.seconds)


def _announce(arguments: argparse.Namespace, cases: CaseSpace, budget: Budget, made_by: Provenance) -> None:
    limit = " or ".join(
        ([f"{budget.cases:,} cases"] if budget.cases is not None else [])
        + ([f"{budget.seconds:g} s"] if budget.seconds is not None else [])
    )
    types = ", ".join(f"{arch} q {q} KV {kv}" for arch, q, kv in cases.tensor_types)
    print(
        f"{cases.backend}, AITER {', '.join(cases.releases)}, heads {', '.join(map(str, cases.heads))}, {types}; "
        f"device {made_by.device}, seed {arguments.seed}, {limit}, sources {made_by.rules}",
        file=sys.stderr,
    )
    for warning in made_by.warnings:
        print(f"warning: {warning}", file=sys.stderr)
