"""Counts in words: one is told from many here, and nowhere else."""

from __future__ import annotations


def noun(count: int, one: str, many: str = "") -> str:
    """What is counted, as it stands behind the number: `row` behind 1, `rows` behind any other.

    one, many: of what there is one of, and several; many is formed by the rule ("entry" -> "entries", "batch" -> "batches")
    where it is not given. A verb goes along: noun(count, "row is", "rows are").
    """
    if count == 1:
        return one
    if many:
        return many
    if one.endswith("y") and one[-2:-1] not in "aeiou":
        return f"{one[:-1]}ies"
    return f"{one}es" if one.endswith(("s", "x", "ch", "sh")) else f"{one}s"


def counted(count: int, one: str, many: str = "") -> str:
    """A number with what is counted, for reports: `1,234 cases`; parameters as those of noun."""
    return f"{count:,} {noun(count, one, many)}"


def number_of(count: int, one: str, many: str = "") -> str:
    """The same with the number's bare digits, for messages of findings and refusals: `196608 bytes`."""
    return f"{count} {noun(count, one, many)}"
