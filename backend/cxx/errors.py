"""What the reader of C++ does not know, by file, line and construct; and how a program that it evaluates can end."""

from __future__ import annotations

from backend.errors import CannotRunError


class CxxError(CannotRunError):
    """A construct that is not provided for. The message names file, line and construct."""

    def __init__(self, file: str, line: int, construct: str) -> None:
        super().__init__(f"{file}:{line}: {construct} is not provided for")
        self.file = file
        self.line = line
        self.construct = construct


class HostTrap(Exception):  # noqa: N818 - an end of the evaluated program, not an error of ours
    """The evaluated host code would end the process by a signal, such as an integer division by zero (SIGFPE)."""
