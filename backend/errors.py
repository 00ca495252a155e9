"""Errors that a person can mend. Every message says what was given, what is allowed, and what to do.

Whatever a *case* does (a planner writing past a buffer, a kernel that does not exist) is an observation, never an
exception; these are for misuse and for a machine that lacks what was asked of it.
"""

from __future__ import annotations

import difflib
import errno
from collections.abc import Sequence


class AiterfuzzError(Exception):
    """Base of every error that the command line prints in one line instead of a traceback."""

    exit_code = 3


class UsageError(AiterfuzzError):
    """What was given is not allowed. Mend the input; exit code 2."""

    exit_code = 2

    @classmethod
    def not_allowed(cls, what: str, given: object, allowed: object, advice: str = "") -> UsageError:
        """One line in the house's form: `what`: given X; allowed Y; advice."""
        line = f"{what}: given {_shown(given)}; allowed: {allowed}"
        if isinstance(given, str):
            line += meant(given, [each for each in str(allowed).split(", ") if " " not in each])
        return cls(f"{line}; {advice}" if advice else line)


def meant(given: str, allowed: Sequence[str]) -> str:
    """`; did you mean X?`, nothing where none of what is allowed is near; of two as near, that with the same letters."""
    near = difflib.get_close_matches(given, allowed, n=3, cutoff=0.75) if len(given) <= LONGEST_MEANT else []
    near.sort(key=lambda each: sorted(each) != sorted(given))
    return f"; did you mean {near[0]}?" if near else ""


LONGEST_MEANT = 60
"""Characters of a value for which something near is looked for, which takes the product of the lengths."""


MOST_SHOWN = 1000
"""Characters of a value that a message repeats."""


def _shown(given: object) -> str:
    """The repr of a value as far as a line bears it."""
    try:
        text = repr(given)
    except (ValueError, RecursionError):  # a number of thousands of digits, a list in a list in a list ...
        return f"a {type(given).__name__} that is too long to show"
    return text if len(text) <= MOST_SHOWN else f"{text[:MOST_SHOWN]}..."


class CannotRunError(AiterfuzzError):
    """The input is fine, but this machine lacks something that it needs (a code object, a GPU, a checkout); exit code 3."""


_OF_THE_DISK = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO)
_OF_THE_DISK_TO_SQLITE = ("disk is full", "disk I/O error", "readonly database", "unable to open database file")
"""The last: of a file that is there, beside which no other can be made, as where inodes or descriptors have run out."""


def of_the_disk(error: BaseException | None) -> bool:
    """Whether an error, or what it was raised from, says that a disk is full, failing or read-only: the machine's doing.

    Errors of SQLite count by their text, which is all that they have.
    """
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        if isinstance(error, OSError) and error.errno in _OF_THE_DISK:
            return True
        if type(error).__module__ == "sqlite3" and any(each in str(error) for each in _OF_THE_DISK_TO_SQLITE):
            return True
        error = error.__cause__
    return False


class RuleFailedError(CannotRunError):
    """A rule of the user's own does not answer: it raises, returns no choice, or does not come back. Mend the rule.

    how: tells ways of failing apart, in some words.
    """

    def __init__(self, text: str, how: str = "") -> None:
        super().__init__(text)
        self.how = how


class RuleLostError(RuleFailedError):
    """A rule's process went with a case: it left, was killed, did not come back, or took too much."""


class NoSuchStepError(CannotRunError):
    """The framework's release has no such kind of step (a ForwardMode that came later or went). Leave the step out."""


class UnmodelledError(CannotRunError):
    """Machine code or a kernel that is not modelled. It is named and the run stops: never "no fault" by default."""
