"""What a command says on stderr of the thing that it was given."""

from __future__ import annotations

from backend.child.fence import weaker_than_promised


def one_complaint(printed: str) -> str:
    """The one line of stderr, beside the line that says what the fence of this machine lacks; fails where there are more."""
    (line,) = [line for line in printed.splitlines() if line != f"aiterfuzz: {weaker_than_promised()}"]
    return line
