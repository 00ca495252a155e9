"""Plain text that people read: tables, lists of lengths, byte counts. Knows nothing of what they say."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby


def table(header: Sequence[str], rows: Sequence[Sequence[object]], indent: str = "  ") -> list[str]:
    """Lines of a table with aligned columns; numbers to the right, all else to the left."""
    cells = [list(header), *[[shown(value) for value in row] for row in rows]]
    widths = [max(len(line[column]) for line in cells) for column in range(len(header))]
    numeric = [bool(rows) and all(isinstance(row[column], int) for row in rows) for column in range(len(header))]
    return [indent + _aligned(line, widths, numeric) for line in cells]


def markdown_table(header: Sequence[str], rows: Sequence[Sequence[object]]) -> list[str]:
    """Lines of a table in GitHub's markdown."""
    lines = [header, ["---"] * len(header), *rows]
    return ["| " + " | ".join(shown(value).replace("|", "\\|") for value in line) + " |" for line in lines]


def shown(value: object) -> str:
    """A cell: whole numbers with thousands separated."""
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


def listed(words: Sequence[str]) -> str:
    """Words of a sentence: `a`, `a and b`, `a, b and c`."""
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


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
