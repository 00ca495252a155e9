"""A corpus entry as others name it: its id, title and public references. Knows no entry and reads nothing."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class KnownReference:
    """The corpus entry that shows the same fault. references: upstream issues and pull requests (owner/name#number)."""

    entry: str
    title: str
    references: tuple[str, ...]

    @property
    def titled(self) -> str:
        """The entry with its title and its public references."""
        return f"{self.entry}, {self.title}: {', '.join(self.references) or NO_REFERENCE}"

    @property
    def where(self) -> str:
        """The entry with its public references, or that it has none."""
        return f"{self.entry}: {', '.join(self.references) or NO_REFERENCE}"


NO_REFERENCE = "no public reference"
"""Said of a known fault that this project found and nobody has reported yet."""
