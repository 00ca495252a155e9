"""`aiterfuzz verify`: run a script on a simulated GPU and say what hardware would have done."""

from __future__ import annotations

import argparse
import contextlib
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from backend.case import Arch
from backend.errors import UsageError
from fuzz.commands.arguments import add_aiter, number, read_arch, seconds
from fuzz.commands.printing import add_lengths, print_text

EPILOG = """\
What the script prints comes through. Where hardware would abort, ROCm's line is printed with an explanation under it and the
exit code is 134, as a shell tells of the abort. Otherwise: the script's own exit code; 1 where that is 0 but an access left a
tensor, byte by byte; 2 wrong usage; 3 could not run, or nothing was simulated. aiter's own Python runs from --aiter or from the
installed wheel (--release 2025-11, real machine code); for other releases without a checkout, stage 1 is computed along the
work items."""

MIB = 1 << 20


def add(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Declares the command and its flags."""
    command = commands.add_parser(
        "verify",
        help="run a script that uses torch and aiter on a simulated GPU",
        usage="%(prog)s [options] SCRIPT [options] [-- ARGS]",
        description="Runs an unmodified script that uses torch's cuda tensors and aiter on a simulated MI300X or MI355X.",
        epilog=EPILOG,
    )
    _split_at_dashes(command)
    command.add_argument("script", type=Path, metavar="SCRIPT", help="a Python script, or a finding's folder")
    command.add_argument(
        "--arch", type=read_arch, metavar="A", help="gfx950 (MI355X), gfx942 (MI300X); the script's WANTED_ARCH, else gfx950"
    )
    add_aiter(command)
    command.add_argument(
        "--release",
        metavar="R",
        help="AITER release without a checkout: 2025-11, 2026-06, 2026-08; the script's AITER_COMMIT, else 2026-06",
    )
    command.add_argument(
        "--num-cu",
        type=number("--num-cu", 1),
        default=0,
        metavar="N",
        help="compute units (the script's NUM_CU, else all of the GPU's)",
    )
    command.add_argument(
        "--node", type=number("--node", 0), default=1, metavar="N", help="of the first GPU in fault messages (1)"
    )
    command.add_argument("--seconds", type=seconds, default=600.0, metavar="S", help="time limit (600)")
    command.add_argument("--memory", type=number("--memory", 256), default=8192, metavar="MIB", help="memory limit (8192)")
    command.add_argument(
        "--env",
        action="append",
        default=[],
        metavar="NAME",
        help="a variable that the script sees, beside the usual ones; may be repeated",
    )
    command.add_argument(
        "--read",
        action="append",
        default=[],
        type=Path,
        metavar="PATH",
        help="a file or folder of your home that it sees too",
    )
    add_lengths(command)
    command.set_defaults(command=run)


def _split_at_dashes(command: argparse.ArgumentParser) -> None:
    """What follows `--` are the script's arguments, wherever our own options stand before it (argparse cannot do both)."""
    parse = command.parse_known_args

    def parse_known_args(args: Sequence[str], namespace: Any = None) -> Any:
        typed = list(args)
        at = typed.index("--") if "--" in typed else len(typed)
        parsed, unknown = parse(typed[:at], namespace)
        parsed.arguments = typed[at + 1 :]
        return parsed, unknown

    command.parse_known_args = parse_known_args  # type: ignore[method-assign, assignment]


class Stated(NamedTuple):
    """What a script of ours says by its constants that it is for. release: the built-in one of its AITER; None: it is none.

    Any other text is for all of an MI355X, and names no AITER. num_cu: 0 for all of the GPU's.
    """

    arch: Arch = Arch.GFX950
    num_cu: int = 0
    release: str | None = None


def stated(script: Path) -> Stated:
    """By the first 64 KiB of a script; what is no file, or cannot be read, is said where the script is run."""
    from backend.aiter.release import release
    from backend.case import RELEASES

    if not script.is_file():  # a pipe would be waited for
        return Stated()
    try:
        with script.open("rb") as file:
            head = file.read(_HEAD).decode("utf-8", "replace")
    except OSError:
        return Stated()
    said = dict(re.findall(r"^(WANTED_ARCH|NUM_CU|AITER_COMMIT) = \"?(\w+)", head, re.MULTILINE))
    arch = next((arch for arch in Arch if arch.value == said.get("WANTED_ARCH")), Arch.GFX950)
    num_cu = said.get("NUM_CU", "0")
    commit = said.get("AITER_COMMIT", "")
    named = next((name for name in RELEASES if len(commit) >= _DIGITS and release(name).commit.startswith(commit)), None)
    return Stated(arch, int(num_cu) if num_cu.isdecimal() else 0, named)


_DIGITS = 12
"""Of a commit, as scripts of ours name one."""

_HEAD = 1 << 16


@contextlib.contextmanager
def _script_of(given: Path) -> Iterator[Path]:
    """The script itself, or a folder's; of a folder that has none, the one that its issue quotes, as a file meanwhile."""
    from backend.child.scratch import Scratch
    from reprod.folder import ISSUE, SCRIPT, quoted_script

    script = given / SCRIPT if given.is_dir() else given
    issue = given / ISSUE
    if script.exists() or not issue.is_file():
        yield script
        return
    with Scratch("quoted-") as folder:
        quoted = quoted_script(issue.read_text(encoding="utf-8", errors="replace"))
        if quoted is not None:
            script = folder / SCRIPT
            script.write_text(quoted, encoding="utf-8")
        yield script


def run(arguments: argparse.Namespace) -> int:
    """Runs the script; its findings follow what it prints."""
    with _script_of(arguments.script) as script:
        return _run(arguments, script)


def _run(arguments: argparse.Namespace, script: Path) -> int:
    from backend.child.tree import Limits
    from backend.real.script.messages import Options
    from fuzz.fence_line import say_what_the_fence_lacks
    from fuzz.own_process import Interruption
    from reprod.verify import conclusion_lines, plain, verification_lines, verify

    if arguments.aiter is not None and arguments.release is not None:
        raise UsageError("verify: --aiter is a revision and --release a built-in one; give one of them")
    said = stated(script)
    release = arguments.release or (said.release if arguments.aiter is None else None)
    arch = arguments.arch or said.arch
    num_cu = arguments.num_cu or (said.num_cu if arch is said.arch else 0)
    options = Options(arch, arguments.aiter, release, num_cu, arguments.node)
    limits = Limits(seconds=arguments.seconds, memory=arguments.memory * MIB)
    say_what_the_fence_lacks()
    with Interruption() as interruption:
        done = verify(
            script,
            arguments.arguments,
            options,
            limits,
            captured=arguments.json,
            wanted_to_stop=lambda: interruption.wanted,
            passed=arguments.env,
            readable=arguments.read,
        )
    if interruption.wanted:
        raise KeyboardInterrupt
    print_text(arguments, verification_lines(done), conclusion_lines(done), plain(done))
    return done.code
