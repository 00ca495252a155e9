"""Memory of a lowered kernel: a space for each of its pointers, grown where the kernel writes farther than it reaches."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from backend.cxx.arithmetic import FIRST, HIGH, LIMIT, LOW, NOTHING_HIGH, NOTHING_LOW, ORIGIN, POISON, clear
from backend.errors import UnmodelledError

_FIRST_BEFORE, _FIRST_AFTER = 1024, 1 << 15
_MOST_WORDS = 1 << 29
"""2 GiB of int32: a kernel that writes farther is not followed."""

_MOST_STRAYS = 1 << 22
"""Reads of what nobody wrote that are noted; a kernel that makes more is not followed."""

_STRAY_READS = 1024

Kernel = Callable[..., int]
Int32Array = npt.NDArray[np.int32]


class Spaces:
    """Windows of poisoned words in one array, used again from run to run by one thread.

    words, written, spans, strays: as backend.cxx.arithmetic has them. before, after: words of each space to begin with, before
    its word 0 and from there on.
    """

    def __init__(self, before: Sequence[int], after: Sequence[int]) -> None:
        self.strays = np.zeros((_STRAY_READS, 2), np.int64)
        self._lay_out(before, after)

    @classmethod
    def of_kernel(cls, count: int) -> Spaces:
        """As many spaces as a kernel has."""
        return cls([_FIRST_BEFORE] * count, [_FIRST_AFTER] * count)

    def run(self, kernel: Kernel, given: Mapping[int, Int32Array], waves: int, integers: Any, floats: Any) -> int:
        """Run a kernel on fresh memory whose spaces hold what is `given`; what it returns.

        Repeats the run with more memory as long as it wrote farther than there was. Raises UnmodelledError for gigabytes.
        """
        while True:
            clear(self.words, self.written, self.spans, self.strays)
            self._fill(given)
            ended = kernel(self.words, self.written, self.spans, self.strays, waves, integers, floats)
            if not self.grown():
                return ended

    def left(self, space: int) -> tuple[int, Int32Array, npt.NDArray[np.uint8]]:
        """First word written of a space, and the words from there to the last one written with marks of which were."""
        origin, _, _, low, high = self.spans[space].tolist()
        if low > high:
            low, high = 0, -1
        begin, end = origin + low, origin + high + 1
        return low, self.words[begin:end].copy(), self.written[begin:end].copy()

    def reach(self, space: int) -> tuple[int, int]:
        """Lowest and highest word written of a space; the first is the greater where there is none."""
        return int(self.spans[space, LOW]), int(self.spans[space, HIGH])

    def stray_reads(self) -> list[tuple[int, int]]:
        """(space, word) of each read of what nobody wrote, in the last run."""
        count = int(self.strays[0, 0])
        return [(space, word) for space, word in self.strays[1 : count + 1].tolist()] if count else []

    def _fill(self, given: Mapping[int, Int32Array]) -> None:
        if any(values.size > self.spans[space, LIMIT] for space, values in given.items()):
            after = self.spans[:, LIMIT].tolist()
            for space, values in given.items():
                after[space] = max(after[space], 2 * values.size)
            self._lay_out((-self.spans[:, FIRST]).tolist(), after)
        for space, values in given.items():
            begin = self.spans[space, ORIGIN]
            self.words[begin : begin + values.size] = values
            self.written[begin : begin + values.size] = 1
            if values.size:
                self.spans[space, LOW], self.spans[space, HIGH] = 0, values.size - 1

    def grown(self) -> bool:
        """Whether the last run wrote or noted past what there is; then there is more of it now, and the run must be repeated.

        Raises UnmodelledError where that would be gigabytes.
        """
        spans = self.spans.tolist()
        grown = False
        if self.strays[0, 0] > _MOST_STRAYS:
            seen = int(self.strays[0, 0])
            raise UnmodelledError(
                f"a kernel reads {seen} words that nobody wrote, more than the {_MOST_STRAYS} that are followed"
            )
        if self.strays[0, 0] >= len(self.strays):
            self.strays = np.zeros((2 * int(self.strays[0, 0]) + 1, 2), np.int64)
            grown = True
        if any(low < first or high >= limit for _, first, limit, low, high in spans if low <= high):
            before = [max(-first, 2 * -low if low < first else 0) for _, first, _, low, _ in spans]
            after = [max(limit, 2 * high if limit <= high else 0) for _, _, limit, _, high in spans]
            self._lay_out(before, after)
            grown = True
        return grown

    def _lay_out(self, before: Sequence[int], after: Sequence[int]) -> None:
        total = sum(before) + sum(after)
        if total > _MOST_WORDS:
            raise UnmodelledError(f"a kernel writes over {total} words, more than the {_MOST_WORDS} that are followed")
        self.words = np.full(total, POISON, np.int32)
        self.written = np.zeros(total, np.uint8)
        self.spans = np.zeros((len(before), 5), np.int64)
        begin = 0
        for row, words_before, words_after in zip(self.spans, before, after, strict=True):
            row[ORIGIN] = begin + words_before
            row[FIRST], row[LIMIT] = -words_before, words_after
            row[LOW], row[HIGH] = NOTHING_LOW, NOTHING_HIGH
            begin += words_before + words_after
