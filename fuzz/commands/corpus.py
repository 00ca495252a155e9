"""`aiterfuzz corpus`: known faults run again; what becomes of a finding: an entry, a nightly test, a folder to report from."""

from __future__ import annotations

import argparse
import shlex
from pathlib import Path
from typing import TYPE_CHECKING

from backend.errors import CannotRunError, UsageError
from fuzz.commands import replay
from fuzz.commands.arguments import WHAT_IT_IS, add_aiter, number

if TYPE_CHECKING:
    from backend.outcome import Outcome
    from backend.path import Path as CasePath


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declares the command and its parts."""
    command = commands.add_parser(
        "corpus",
        help="run known faults again, or keep a finding",
        description="Runs known faults and controls again, or turns a finding into what others keep: an entry of the corpus, a "
        "nightly test for sglang, or the folder of one case with its script and issue text.",
    )
    parts = command.add_subparsers(title="parts", metavar="PART", required=True)
    _add_entry(parts)
    _add_nightly(parts)
    _add_write(parts)
    _add_mark(parts)
    replay.add(parts)


def _add_entry(parts: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    part = parts.add_parser(
        "add",
        help="make a corpus entry of a finding",
        description="Writes one entry that expects of the case what it shows now, every figure exact: cut it down to the "
        "figures that follow from the fault, and add its fixed side once there is one (corpus/README.md).",
    )
    _finding(part)
    part.add_argument("--id", required=True, metavar="X", help="a letter and a number that no entry has")
    part.add_argument("--title", required=True, metavar="TEXT", help="one line")
    part.add_argument("--reference", action="append", default=[], metavar="OWNER/REPO#N", help="upstream issue or pull request")
    part.add_argument("--corpus", type=Path, default=Path("corpus"), metavar="DIR", help="folder of entries (corpus)")
    part.set_defaults(command=add_entry)


def _add_nightly(parts: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    part = parts.add_parser(
        "nightly-test",
        help="make a nightly test for sglang of a finding",
        description="Writes a test for sglang's test/registered/amd: the case with the arguments of its remedy, or as found "
        "where there is none.",
    )
    _finding(part)
    part.add_argument("--out", type=Path, metavar="FILE", help="test_mla_decode_WHAT.py in the current folder")
    part.set_defaults(command=nightly_test)


def _add_write(parts: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    part = parts.add_parser(
        "write",
        help="write the folder of a case, or folders anew",
        description="Writes case.json, explain.txt, repro.py and issue.md of a case that shows a fault, as `aiterfuzz run` "
        "does for what it finds. A folder that holds a cause.md is written anew, in its place and with its own notes; several "
        "may be given.",
    )
    _finding(part, several=True)
    part.add_argument("--out", type=Path, metavar="DIR", help="folder that it is written below (findings)")
    part.add_argument("--name", metavar="NAME", help="of the folder (bug-WHAT-WHERE-ID)")
    part.add_argument("--cause", type=Path, metavar="FILE", help="text for the issue: the cause, read off the sources")
    part.add_argument("--bisection", type=Path, metavar="FILE", help="lines for the issue, as `aiterfuzz bisect` prints them")
    part.add_argument("--ranks", type=number("--ranks", 1), default=1, metavar="N", help="a script of N processes besides")
    part.add_argument(
        "--for", dest="addressee", metavar="WHO", help="whom the issue is for: aiter, sglang, vllm (who can mend it)"
    )
    part.add_argument("--no-verify", action="store_true", help="do not run the scripts on the simulated GPU (seconds each)")
    part.set_defaults(command=write)


def _add_mark(parts: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    part = parts.add_parser(
        "mark",
        help="say how a find stands upstream",
        description="Writes into an entry how the find stands: new, written up, filed, confirmed, mended, won't fix, invalid. "
        "Pages, nights and gates tell it; a find that a release mends is news where it is met again.",
    )
    part.add_argument("id", metavar="ID", help="of an entry")
    part.add_argument("stage", metavar="STAGE", help="new, written-up, filed, confirmed, mended, wont-fix or invalid")
    part.add_argument("--issue", default="", metavar="OWNER/REPO#N", help="upstream issue (kept from before where not given)")
    part.add_argument("--commit", default="", metavar="SHA", help="that mends it")
    part.add_argument("--release", default="", metavar="R", help="first built-in release that has the commit")
    part.add_argument("--corpus", type=Path, default=Path("corpus"), metavar="DIR", help="folder of entries (corpus)")
    part.set_defaults(command=mark)


def _finding(part: argparse.ArgumentParser, several: bool = False) -> None:
    part.add_argument("finding", type=Path, metavar="FINDING", help=WHAT_IT_IS, nargs="+" if several else None)
    part.add_argument("--device", default="model", metavar="D", help="runs the case: model (default), cdna, both, rocm, cuda")
    add_aiter(part)
    part.add_argument("--numbers", action="store_true", help="device cdna: judge the kernel's output too (slow)")


def add_entry(arguments: argparse.Namespace) -> int:
    """Writes the entry's file."""
    from reprod.corpus import load_corpus
    from reprod.entry import entry_file_name, entry_of, entry_text

    outcome, _ = _outcome(arguments, arguments.finding)
    if arguments.corpus.is_dir() and any(arguments.corpus.glob("*.json")):
        taken = [entry.id for entry in load_corpus(arguments.corpus)]
        if arguments.id in taken:
            raise UsageError.not_allowed("--id", arguments.id, f"one that is not taken ({', '.join(taken)})")
    entry = entry_of(outcome, arguments.id, arguments.title, tuple(arguments.reference))
    file = arguments.corpus / entry_file_name(entry)
    _write(file, entry_text(entry))
    print(f"entry: {file}")
    return 0


def mark(arguments: argparse.Namespace) -> int:
    """Rewrites the entry's file with its life."""
    import dataclasses

    from reprod.corpus import entry_file, load_corpus, load_entry
    from reprod.entry import entry_text
    from reprod.folder import unwritable
    from reprod.life import LifeOfFind, LifeStage

    stages = {stage.value.replace("'", "").replace(" ", "-"): stage for stage in LifeStage}
    if arguments.stage not in stages:
        raise UsageError.not_allowed("STAGE", arguments.stage, ", ".join(stages))
    if not arguments.corpus.is_dir():
        raise UsageError.not_allowed("--corpus", str(arguments.corpus), "a folder of entries", "give that of a checkout")
    file = entry_file(arguments.corpus, arguments.id)
    if file is None:
        known = ", ".join(entry.id for entry in load_corpus(arguments.corpus))
        raise UsageError.not_allowed("ID", arguments.id, known)
    entry = load_entry(file)
    issue = arguments.issue or (entry.life.issue if entry.life is not None else "")
    life = LifeOfFind(stages[arguments.stage], issue, arguments.commit, arguments.release)
    life.check(arguments.id)
    try:
        file.write_text(entry_text(dataclasses.replace(entry, life=life)), encoding="utf-8")
    except OSError as error:
        raise unwritable("file", file, error, "file") from error
    print(f"{entry.id}: {life.standing}")
    return 0


def nightly_test(arguments: argparse.Namespace) -> int:
    """Writes the test's file."""
    from reprod.fix import fix_of
    from reprod.script import nightly_text

    outcome, path = _outcome(arguments, arguments.finding)
    text = nightly_text(outcome, fix_of(outcome, path))
    assert outcome.cause is not None
    file = arguments.out or Path(f"test_mla_decode_{outcome.cause.kind.value.replace('-', '_')}.py")
    _write(file, text)
    print(f"test: {file}")
    return 0


def write(arguments: argparse.Namespace) -> int:
    """Writes each folder. What is tried around the case runs on the model: machine code of a dozen kernels takes minutes.

    Of numbers the model knows nothing: then small shapes of the same release are run as the case was.
    """
    from reprod.folder import CAUSE

    findings: list[Path] = arguments.finding
    anew = [finding for finding in findings if (finding / CAUSE).is_file()]
    if len(findings) > 1 and (anew != findings or arguments.name or arguments.cause or arguments.bisection):
        raise UsageError("given several findings; allowed are folders with a cause.md, without --name, --cause and --bisection")
    for finding in findings:
        print(f"folder: {_write_folder(arguments, finding, finding in anew)}", flush=True)
    return 0


def _write_folder(arguments: argparse.Namespace, finding: Path, anew: bool) -> Path:
    from backend.aiter.codefiles import open_source
    from backend.path import Path as CasePath
    from fuzz.provenance import provenance
    from reprod.addressees import addressee
    from reprod.folder import BISECTION, CAUSE, folder_name, write_folder
    from reprod.sweep import WholeKernels
    from reprod.verify import verified
    from reprod.write import Notes, cause_of, finding_files

    outcome, path = _outcome(arguments, finding)
    source = open_source(arguments.aiter) if arguments.aiter is not None else None
    made_by = provenance(path.device.name, (outcome.case.release,), source)
    to = addressee(arguments.addressee) if arguments.addressee is not None else None
    cause, bisection, out, name = arguments.cause, arguments.bisection, arguments.out, arguments.name
    if anew:
        cause, out, name = cause or finding / CAUSE, out or finding.parent, name or finding.name
        bisection = bisection or (finding / BISECTION if (finding / BISECTION).is_file() else None)
    notes = Notes(_lines(cause), _lines(bisection), arguments.ranks, to)
    built_in = outcome.call is None or outcome.call.is_a_release_s
    around = WholeKernels(path, outcome.case.release) if arguments.numbers else CasePath(None if built_in else path.host)
    files = finding_files(outcome, made_by, around, command=_typed(arguments, finding), notes=notes)
    if not arguments.no_verify:
        files = verified(files, outcome.case, arguments.aiter)
    name = name or folder_name(cause_of(outcome).signature, outcome.case)
    return write_folder(out or Path("findings"), name, files)


def _typed(arguments: argparse.Namespace, finding: Path) -> str:
    """The command of one folder, without the others' and the place of the checkout."""
    words = ["aiterfuzz", "corpus", "write", str(finding), "--device", arguments.device]
    words += ["--aiter", Path(arguments.aiter).name] if arguments.aiter is not None else []
    words += ["--for", arguments.addressee] if arguments.addressee is not None else []
    words += ["--ranks", str(arguments.ranks)] if arguments.ranks > 1 else []
    return shlex.join(words + (["--numbers"] if arguments.numbers else []))


def _outcome(arguments: argparse.Namespace, finding: Path) -> tuple[Outcome, CasePath]:
    """The outcome of a finding's case, which must show a fault."""
    from backend.aiter.codefiles import open_source
    from backend.devices.kinds import open_device
    from backend.path import Path as CasePath
    from backend.revision.revision import host_of
    from fuzz.compiling import announced
    from reprod.entry import given_case

    case = given_case(finding)
    source = open_source(arguments.aiter) if arguments.aiter is not None else None
    path = CasePath(host_of(source), open_device(arguments.device, source, numbers=arguments.numbers))
    with announced():
        outcome = path.run(case)
    if outcome.unknown:
        raise CannotRunError(f"{finding}: {outcome.reason}")
    if not outcome.faulty:
        raise UsageError(f"{finding}: {outcome.refused or 'the case shows no fault'}; give one that does")
    return outcome, path


def _lines(file: Path | None) -> tuple[str, ...]:
    if file is None:
        return ()
    try:
        return tuple(file.read_text(encoding="utf-8").strip().splitlines())
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{file}: cannot be read ({getattr(error, 'strerror', None) or error}); give a text file") from error


def _write(file: Path, text: str) -> None:
    from reprod.folder import unwritable

    if file.exists():
        raise UsageError(f"{file}: is there already; remove it, or give another name")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")
    except OSError as error:
        raise unwritable("file", file, error, "file") from error
