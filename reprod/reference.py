"""A corpus entry as others name it: its id, title, public references and verdict. Knows no entry and reads nothing."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class ContractVerdict(StrEnum):
    """What AITER's contract says of a shape that goes wrong."""

    SUPPORTED_BUT_WRONG = "supported-but-wrong"  # a bug to report
    UNSUPPORTED_AND_SILENT = "unsupported-and-silent"  # ask upstream to refuse
    UNSUPPORTED_AND_REFUSED = "unsupported-and-refused"  # not a bug
    NOT_A_FAULT = "not-a-fault"  # a control


@dataclass(frozen=True, slots=True)
class KnownReference:
    """The corpus entry that shows the same fault.

    references: upstream issues and pull requests (owner/name#number). verdict: the contract's as a person read it, None for a
    framework's fault, of which AITER's contract says nothing.
    """

    entry: str
    title: str
    references: tuple[str, ...]
    verdict: ContractVerdict | None = None

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
