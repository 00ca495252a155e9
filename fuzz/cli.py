"""The command line: which commands there are, and how errors and exit codes reach a person.

Exit codes: 0 nothing found, 1 findings, 2 usage, 3 could not run. An error that a person can mend is one line on stderr.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import io
import itertools
import os
import re
import shlex
import shutil
import signal
import stat
import sys
import textwrap
import threading
import traceback
from collections.abc import Iterable, Iterator, Sequence
from types import FrameType
from typing import Any, BinaryIO, NoReturn

from backend.errors import AiterfuzzError, UsageError, meant, of_the_disk
from fuzz.commands.examples import EXIT_CODES, closing
from fuzz.commands.settings import OWN, SHARED, settings_here, with_settings
from reprod.text import commands_nobody, for_a_terminal, one_line

COMMANDS = (
    "run",
    "campaign",
    "nightly",
    "report",
    "merge",
    "replay",
    "explain",
    "diagnose",
    "decide",
    "gate",
    "scout",
    "bisect",
    "corpus",
    "rule",
    "selftest",
    "agree",
    "accuracy",
    "verify",
    "takes",
    "doctor",
    "version",
)
"""Each is a module of fuzz.commands with `add`, which declares it."""

FORMER = {
    "nightly": "campaign --nightly",
    "merge": "report",
    "agree": "selftest agree",
    "accuracy": "selftest accuracy",
    "decide": "gate --table",
    "replay": "corpus replay",
}
"""Commands of earlier versions, which this one takes and does not list, and what they are now."""

DESCRIPTION = "Finds, shrinks and explains memory faults of AITER's MLA decode, without a GPU."

EPILOG = f"""\
Flags that are always wanted stand in {OWN} or [tool.aiterfuzz] of {SHARED}: aiter = "..." for all commands, [gate] for one.

{EXIT_CODES}"""

INTERRUPTED = BROKEN = 3

COMPLETING = "_ARGCOMPLETE"
"""Set by a shell that asks what may follow: after eval "$(register-python-argcomplete aiterfuzz)"."""

INVALID_CHOICE = re.compile(r"argument (.*): invalid choice: '([^']*)' \(choose from (.*)\)")
"""argparse's words, by which what was given and what is allowed are found."""

MISSING = "the following arguments are required"


class Help(argparse.HelpFormatter):
    """argparse's help, whose paragraphs stay apart and are as wide as the terminal."""

    def _fill_text(self, text: str, width: int, indent: str) -> str:
        return "\n\n".join(super(Help, self)._fill_text(part, width, indent) for part in text.split("\n\n"))


class Parser(argparse.ArgumentParser):
    """argparse with its errors in the house's form: raised by the command that they are of, with what may have been meant."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs | {"formatter_class": Help})
        self._typed: list[str] = []

    def format_help(self) -> str:
        """The help, then exit codes and examples; those that list commands have no such ending."""
        told = super().format_help()
        if self._subparsers is not None:
            return told
        ending = closing(self.prog.partition(" ")[2], told)
        width = shutil.get_terminal_size().columns - 2
        parts = (part if part.startswith("examples:") else textwrap.fill(part, width) for part in ending.split("\n\n"))
        return told + "".join(f"\n{part}\n" for part in parts if part)

    def parse_known_args(  # type: ignore[override]
        self, args: Sequence[str] | None = None, namespace: argparse.Namespace | None = None
    ) -> tuple[argparse.Namespace, list[str]]:
        self._typed = [*args] if args is not None else sys.argv[1:]
        parsed, unknown = super().parse_known_args(args, namespace)
        if unknown:
            self.error(f"unrecognized arguments: {shlex.join(unknown)}{self._meant(unknown[0], self._option_string_actions)}")
        return parsed, unknown

    def error(self, message: str) -> NoReturn:
        wrong = INVALID_CHOICE.search(message)
        if wrong:
            allowed = [name for each in wrong[3].split(",") if (name := each.strip("' ")) not in FORMER or self._within]
            raise UsageError.not_allowed(wrong[1], wrong[2], ", ".join(allowed), f"see {self.prog} --help")
        if message.startswith(MISSING):  # which an option that there is none of comes before
            flags = (word for word in self._typed if word.startswith("-") and not self._negative_number_matcher.match(word))
            unknown = next((word for word in flags if not self._get_option_tuples(word) and not self._is_option(word)), None)
            if unknown is not None:
                message = f"unrecognized arguments: {unknown}{self._meant(unknown, self._option_string_actions)}"
        raise UsageError(f"{message}; see {self.prog} --help")

    @property
    def _within(self) -> bool:
        """Whether this is the parser of a command, not that of them all."""
        return " " in self.prog

    def _is_option(self, word: str) -> bool:
        return word.partition("=")[0] in self._option_string_actions or word in ("-", "--")

    @staticmethod
    def _meant(given: str, allowed: Iterable[str]) -> str:
        return meant(given.partition("=")[0], [*allowed])


class Version(argparse.Action):
    """Prints the version, which is looked up only then: that takes as long as all else of a start."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object, **__: object) -> None:
        from importlib import metadata

        print(f"aiterfuzz {metadata.version('aiterfuzz')}")
        parser.exit()


def parser(first: str = "") -> Parser:
    """The whole command line; where the first word of it is a command, that command alone, which is there sooner."""
    made = Parser(prog="aiterfuzz", description=DESCRIPTION, epilog=EPILOG)
    made.add_argument("--version", "-V", action=Version, nargs=0, help="print the version and exit")
    commands = made.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for name in (first,) if first in COMMANDS else COMMANDS:
        importlib.import_module(f"fuzz.commands.{name}").add(commands)
    commands._choices_actions = [each for each in commands._choices_actions if each.dest not in FORMER]
    return made


AGAIN_SECONDS = 0.05
"""After which a signal is raised again whose exception came to nobody."""


@contextlib.contextmanager
def _terminable() -> Iterator[None]:
    """SIGTERM ends a command as Ctrl-C does: what it has started and its temporary folders go with it.

    Python drops what is raised in a finaliser or a callback of the garbage collector, wherever a signal happens to come in;
    the signal is then raised again.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(number: int, frame: FrameType | None) -> NoReturn:
        del number, frame
        raise KeyboardInterrupt

    def again() -> None:
        if under_way:
            signal.pthread_kill(main_thread, signal.SIGTERM)

    def dropped(lost: sys.UnraisableHookArgs) -> None:
        if not issubclass(lost.exc_type, KeyboardInterrupt):
            hook(lost)
        elif under_way:
            waiting = threading.Timer(AGAIN_SECONDS, again)
            waiting.daemon = True
            waiting.start()

    under_way, main_thread = [True], threading.get_ident()
    before, hook = signal.signal(signal.SIGTERM, interrupt), sys.unraisablehook
    sys.unraisablehook = dropped
    try:
        yield
    finally:
        under_way.clear()
        sys.unraisablehook = hook
        signal.signal(signal.SIGTERM, before)


class _LenientPipe(io.RawIOBase):
    """Standard output whose reader may leave (`| head -1`): the rest is for nobody, and the command ends as it would have."""

    def __init__(self, number: int) -> None:
        self._number = number
        self._left = False

    def writable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._number

    def write(self, data: Any) -> int:
        if not self._left:
            try:
                return os.write(self._number, data)
            except BrokenPipeError:
                self._left = True
        return len(data)


class _Plain(io.TextIOWrapper):
    """What a command prints: nothing in it commands a terminal, whoever wrote it, and no character ends the command."""

    def __init__(self, raw: BinaryIO, like: io.TextIOWrapper) -> None:
        through = like.write_through
        super().__init__(raw, like.encoding, "backslashreplace", line_buffering=like.line_buffering, write_through=through)

    def write(self, text: str) -> int:
        return super().write(for_a_terminal(text))


def _plain_output() -> None:
    """Where standard output is a pipe, its reader's leaving raises nothing; where it is closed, it goes nowhere."""
    out, errors = sys.stdout, sys.stderr
    if out is None:
        sys.stdout = io.StringIO()
    elif isinstance(out, io.TextIOWrapper):
        out.flush()
        pipe = stat.S_ISFIFO(os.fstat(out.fileno()).st_mode)
        sys.stdout = _Plain(io.BufferedWriter(_LenientPipe(out.fileno())) if pipe else out.buffer, out)
    if isinstance(errors, io.TextIOWrapper):
        sys.stderr = _Plain(errors.buffer, errors)


def _require_plain(typed: Sequence[str]) -> None:
    """Raises UsageError for what cannot stand in a line of output, which repeats names; a script's own arguments may be so."""
    for word in itertools.takewhile(lambda each: each != "--", typed):
        if not commands_nobody(word):
            raise UsageError.not_allowed("what is typed", word, "text that can be printed, in one line", "rename it")


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command; returns the exit code."""
    if argv is None:
        _plain_output()
    try:
        with _terminable():
            return _run(argv)
    except KeyboardInterrupt:  # before the command has begun, or as it ends
        return _interrupted()


def _run(argv: Sequence[str] | None) -> int:
    try:
        typed = list(sys.argv[1:] if argv is None else argv)
        if COMPLETING in os.environ:
            import argcomplete

            argcomplete.autocomplete(parser())
        settings = settings_here()
        made = parser(typed[0] if typed and settings is None else "")
        words = with_settings(typed, made, settings)
        _require_plain(words)
        arguments = made.parse_args(words)
        arguments.typed = shlex.join(typed)
        if argv is None and getattr(arguments, "with_ray", False):
            from fuzz.own_process import in_own_process

            return in_own_process(lambda: _guarded(arguments))
    except AiterfuzzError as error:
        return _complained(error)
    return _guarded(arguments)


def _say(text: str) -> None:
    """A line on stderr, where that can be written to: what cannot be said must not become an exit code of its own."""
    with contextlib.suppress(OSError, ValueError):
        print(text, file=sys.stderr, flush=True)


def _guarded(arguments: argparse.Namespace) -> int:
    """Runs a command; whatever it raises becomes a line and an exit code."""
    try:
        code: int = arguments.command(arguments)
        sys.stdout.flush()
    except AiterfuzzError as error:
        return _complained(error)
    except KeyboardInterrupt:
        return _interrupted()
    except OSError as error:
        if not of_the_disk(error):
            return _broken()
        where = f"{error.filename}: " if error.filename else ""
        _say(f"aiterfuzz: {where}cannot be written ({error.strerror}); make room or give another folder")
        _forget_unwritten()
        return BROKEN
    except BaseException:  # SystemExit and GeneratorExit too: nobody else says how a command ends
        return _broken()
    return code


def _complained(error: AiterfuzzError) -> int:
    """One line of what a person can mend; what it repeats (a name, a stranger's words) commands nobody."""
    said = one_line("; ".join((str(error), *getattr(error, "__notes__", ()))))
    _say(f"aiterfuzz: {said}")
    return BROKEN if of_the_disk(error) else error.exit_code


def _interrupted() -> int:
    _say("aiterfuzz: interrupted")
    return INTERRUPTED


def _broken() -> int:
    """After an error of our own, for which Python would exit 1, which says that faults were found."""
    _say(traceback.format_exc().rstrip())
    _say("aiterfuzz: this is an error of aiterfuzz itself; please report it with the lines above")
    return BROKEN


def _forget_unwritten() -> None:
    """Turns standard output to nowhere: Python would complain once more, with an exit code of its own, when it ends."""
    with contextlib.suppress(OSError, ValueError):
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


if __name__ == "__main__":
    sys.exit(main())
