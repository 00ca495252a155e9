"""`aiterfuzz diagnose`: from a log of a crash to kernel, cause, smallest case and script."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from fuzz.commands.arguments import seconds
from fuzz.commands.printing import add_lengths, print_text

if TYPE_CHECKING:
    from reprod.diagnose.diagnosis import Diagnosis

EPILOG = """\
A log is read and never run. Exit codes: 1 where a fault that fits the log was seen on a device here; 0 where AITER or the
framework was seen to refuse the call in the log's words, which is no fault; 3 where it cannot be told, or where a known
fault fits that could not be run here; 2 for wrong usage."""


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declares the command and its flags."""
    command = commands.add_parser(
        "diagnose",
        help="say what the log of a crash tells, down to a script",
        description="Reads logs (a server's output, dmesg, the debug agent's or rocgdb's text) and says which "
        "kernel of AITER's MLA decode, what a pc is, which shapes lead there, which known faults fit, and shows the best.",
        epilog=EPILOG,
    )
    command.add_argument("logs", nargs="+", type=Path, metavar="LOG", help="a file, gzipped or not; - for standard input")
    command.add_argument("--aiter", metavar="PATH[@REV]", help="checkout of ROCm/aiter; REV overrules the log's")
    command.add_argument("--corpus", type=Path, metavar="DIR", help="known faults (those that come with aiterfuzz)")
    command.add_argument("--seconds", type=seconds, default=60.0, metavar="S", help="time limit, script included (60)")
    command.add_argument("--out", type=Path, metavar="DIR", help="write case.json, explain.txt, repro.py, diagnosis.txt there")
    command.add_argument("--no-script", action="store_true", help="do not run a script on the simulated GPU")
    add_lengths(command)
    command.set_defaults(command=run)


def run(arguments: argparse.Namespace) -> int:
    """Prints the page; see EPILOG for what it returns."""
    from fuzz.verdict import Counts, Verdict
    from reprod.corpus import load_corpus, shipped_corpus
    from reprod.diagnose.diagnosis import diagnose
    from reprod.diagnose.page import conclusion, page, plain
    from reprod.folder import prepare_folder

    if arguments.out is not None:
        prepare_folder(arguments.out)
    entries = load_corpus(arguments.corpus or shipped_corpus())
    done = diagnose(arguments.logs, arguments.aiter, entries, arguments.seconds, script=not arguments.no_script)
    lines = tuple(page(done))
    if arguments.out is not None:
        _write(arguments.out, done, lines)
    written = () if arguments.out is None else (f"written: {arguments.out}",)
    print_text(arguments, (*lines, *written), conclusion(done), plain(done))
    unshown = Counts(clean=1) if done.refusal is not None else Counts(not_run=1)
    return Verdict(Counts(faulty=1) if done.shown else unshown, blamed=int(done.shown)).exit_code


def _write(folder: Path, done: Diagnosis, lines: tuple[str, ...]) -> None:
    from backend.codec import dumps
    from reprod.explain import explain_text
    from reprod.folder import CASE, EXPLAIN, SCRIPT, unwritable
    from reprod.known import known_as

    files = {"diagnosis.txt": "\n".join(lines) + "\n"}
    outcome = done.outcome
    if done.shown and outcome is not None:
        files |= {CASE: dumps(outcome.case) + "\n", EXPLAIN: explain_text(outcome, known=known_as(outcome))}
        files |= {SCRIPT: done.script} if done.script else {}
    try:
        for name, text in files.items():
            (folder / name).write_text(text, encoding="utf-8")
    except OSError as error:
        raise unwritable("--out", folder, error, "folder") from error
