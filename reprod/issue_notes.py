"""What a person adds to an issue, read off the sources: cause.md in its parts.

A first paragraph says in plain words what goes wrong; a list below it gives the cause with file, function and line. Headings
of the second level (`## Op test`) begin the other parts, each of which may be absent.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from backend.errors import UsageError

PARTS = ("Op test", "Who meets it", "References", "Suggested change", "Not checked")
"""Headings that cause.md may have, in the order in which an issue tells them."""


@dataclass(frozen=True, slots=True)
class IssueNotes:
    """cause.md. summary: the first paragraph, () where it is a list. cause: what follows it. parts: by heading, in PARTS."""

    summary: tuple[str, ...] = ()
    cause: tuple[str, ...] = ()
    parts: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


NO_ISSUE_NOTES = IssueNotes()


def issue_notes(lines: Sequence[str]) -> IssueNotes:
    """The parts of a cause.md; raises UsageError for a heading that is none of PARTS."""
    parts: dict[str, list[str]] = {"": []}
    current = ""
    for line in lines:
        if line.startswith("## "):
            current = line[3:].strip()
            if current not in PARTS:
                raise UsageError.not_allowed("cause.md: heading", current, ", ".join(PARTS))
            parts[current] = []
        else:
            parts[current].append(line)
    head = _bare(parts.pop(""))
    summary = list(itertools.takewhile(lambda line: line.strip(), head))
    if summary and summary[0].startswith(("*", "-", "#")):
        summary = []
    return IssueNotes(
        tuple(summary), tuple(_bare(head[len(summary) :])), {name: tuple(_bare(text)) for name, text in parts.items()}
    )


def _bare(lines: Sequence[str]) -> list[str]:
    """Without empty lines at both ends."""
    text = list(itertools.dropwhile(lambda line: not line.strip(), lines))
    while text and not text[-1].strip():
        text.pop()
    return text
