"""What is noted of one call of AITER's: the metadata buffers that it was passed, and the line of the file that made it.

Plain data that goes through JSON by the one codec. Knows neither torch nor any framework.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class SourceLine:
    """Where the file under test made a call."""

    file: str
    line: int
    function: str


@dataclass(frozen=True, slots=True)
class PassedBuffer:
    """One metadata buffer as a call received it, by what it is for (`role`: work_metadata, work_indptr, ...).

    tag: its allocation, so that two calls can be seen to use the same one. offset: bytes into it. words: int32 words that
    the tensor has; allocated_words: those of the whole allocation. dtype: torch's name.
    """

    role: str
    tag: int
    offset: int
    words: int
    allocated_words: int
    dtype: str
