"""Plain text that people read: tables, lists of lengths, byte counts. Knows nothing of what they say."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import groupby


def table(header: Sequence[str], rows: Sequence[Sequence[object]], indent: str = "  ") -> list[str]:
    """Lines of a table with aligned columns; numbers to the right, all else to the left."""
    cells = [list(header), *[[shown(value) for value in row] for row in rows]]
    widths = [max(len(line[column]) for line in cells) for column in range(len(header))]
    numeric = [bool(rows) and all(isinstance(row[column], int) for row in rows) for column in range(len(header))]
    return [indent + _aligned(line, widths, numeric) for line in cells]


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[object]], escaped: bool = False) -> list[str]:
    """Lines of a table in GitHub's markdown. escaped: the texts of the cells are Markdown already (see `as_markdown`)."""
    lines = [header, ["---"] * len(header), *rows]
    return ["| " + " | ".join(_cell(value, escaped) for value in line) + " |" for line in lines]


def _cell(value: object, escaped: bool) -> str:
    return shown(value) if escaped else shown(value).replace("|", "\\|")


def shown(value: object) -> str:
    """A cell: whole numbers with thousands separated."""
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


def one_line(text: str) -> str:
    """A stranger's text (an exception, a child's last words) fit to stand within a line of output.

    Line breaks and runs of blanks become one blank, control and direction characters a replacement character, and the mark
    with which a CI's runner begins a command anywhere in a line is taken apart: such text can begin no line, hide nothing and
    command nobody.
    """
    return _UNSEEN.sub("\ufffd", " ".join(text.split())).replace("##[", "# #[")


def commands_nobody(text: str) -> bool:
    """Whether a text, a name that a person types or that a store holds, can stand in a line of output as it is."""
    return not _UNSEEN.search(text) and "##[" not in text and len(text.splitlines()) < 2


def for_a_terminal(text: str) -> str:
    """Lines of output in which no character commands the terminal; tabs and line breaks are left."""
    return _UNSEEN.sub(lambda found: found[0] if found[0] in "\n\t" else "\ufffd", text)


def as_markdown(text: str) -> str:
    """A stranger's text within Markdown, and in a cell of a table of it: no markup, no HTML, one line."""
    return re.sub(r"([\\*_\[\]#~|])", r"\\\1", one_line(text)).translate(_ENTITIES)


def as_code(text: str) -> str:
    """A stranger's text as code within Markdown, and in a cell of a table of it; a backtick in it would end it early."""
    return "`" + one_line(text).replace("`", "'").replace("|", "\\|") + "`"


_ENTITIES = str.maketrans({"&": "&amp;", "<": "&lt;", ">": "&gt;", "`": "&#96;", "@": "&#64;"})
"""A backslash does not keep a backtick from closing code that began before it; an "@" would call somebody."""


_UNSEEN = re.compile("[\x00-\x1f\x7f-\x9f\u200b-\u200f\u202a-\u202e\u2060-\u2069\ufeff\ud800-\udfff]")
"""Control characters, and those that change the direction of a text or are not seen."""


def listed(words: Sequence[str]) -> str:
    """Words of a sentence: `a`, `a and b`, `a, b and c`."""
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


def some(words: Sequence[str], most: int) -> str:
    """As `listed`, of more than `most` words the first ones and how many there are besides."""
    return listed(words if len(words) <= most else [*words[:most], f"{len(words) - most:,} more"])


def lengths(values: Sequence[int]) -> str:
    """A Python expression for a tuple of lengths, runs of equal ones folded: `[1] * 256 + [7]`."""
    runs = [(value, len(list(run))) for value, run in groupby(values)]
    if len(values) <= MAX_LENGTHS_WRITTEN_OUT or len(runs) > len(values) // 2:
        return "[" + ", ".join(str(value) for value in values) + "]"
    return " + ".join(f"[{value}] * {count}" if count > 1 else f"[{value}]" for value, count in runs)


MAX_LENGTHS_WRITTEN_OUT = 4


def _aligned(line: Sequence[str], widths: Sequence[int], numeric: Sequence[bool]) -> str:
    cells = (
        cell.rjust(width) if right else cell.ljust(width) for cell, width, right in zip(line, widths, numeric, strict=True)
    )
    return "  ".join(cells).rstrip()
