"""Memory of a lowered kernel: a space for each of its pointers, grown where the kernel writes farther than it reaches."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from backend.cxx.arithmetic import FIRST, HIGH, LIMIT, LOW, NOTHING_HIGH, NOTHING_LOW, ORIGIN, POISON, clear
from backend.errors import UnmodelledError

_FIRST_BEFORE, _FIRST_AFTER = 1024, 1 << 15
_MOST_WORDS = 1 << 29
"""2 GiB of int32: a kernel that writes farther is not followed."""

_STRAY_READS = 1024

Kernel = Callable[..., int]
Int32Array = npt.NDArray[np.int32]


class Spaces:
    """As many spaces as a kernel has; used again from run to run by one thread."""

    def __init__(self, count: int) -> None:
        self._strays = np.zeros((_STRAY_READS, 2), np.int64)
        self._lay_out([_FIRST_BEFORE] * count, [_FIRST_AFTER] * count)

    def run(self, kernel: Kernel, given: Mapping[int, Int32Array], waves: int, integers: Any, floats: Any) -> int:
        """Run a kernel on fresh memory whose spaces hold what is `given`; what it returns.

        Repeats the run with more memory as long as it wrote farther than there was. Raises UnmodelledError for gigabytes.
        """
        while True:
            clear(self._words, self._written, self._spans)
            self._strays[0, 0] = 0
            self._fill(given)
            ended = kernel(self._words, self._written, self._spans, self._strays, waves, integers, floats)
            if not self._grown():
                return ended

    def left(self, space: int) -> tuple[int, Int32Array, npt.NDArray[np.uint8]]:
        """First word written of a space, and the words from there to the last one written with marks of which were."""
        origin, _, _, low, high = self._spans[space].tolist()
        if low > high:
            low, high = 0, -1
        begin, end = origin + low, origin + high + 1
        return low, self._words[begin:end].copy(), self._written[begin:end].copy()

    def reach(self, space: int) -> tuple[int, int]:
        """Lowest and highest word written of a space; the first is the greater where there is none."""
        return int(self._spans[space, LOW]), int(self._spans[space, HIGH])

    def stray_reads(self) -> list[tuple[int, int]]:
        """(space, word) of each read of what nobody wrote, in the last run."""
        count = int(self._strays[0, 0])
        return [(space, word) for space, word in self._strays[1 : count + 1].tolist()]

    def _fill(self, given: Mapping[int, Int32Array]) -> None:
        if any(values.size > self._spans[space, LIMIT] for space, values in given.items()):
            after = self._spans[:, LIMIT].tolist()
            for space, values in given.items():
                after[space] = max(after[space], 2 * values.size)
            self._lay_out((-self._spans[:, FIRST]).tolist(), after)
        for space, values in given.items():
            begin = self._spans[space, ORIGIN]
            self._words[begin : begin + values.size] = values
            self._written[begin : begin + values.size] = 1
            if values.size:
                self._spans[space, LOW], self._spans[space, HIGH] = 0, values.size - 1

    def _grown(self) -> bool:
        spans = self._spans.tolist()
        grown = False
        if self._strays[0, 0] >= len(self._strays):
            self._strays = np.zeros((2 * int(self._strays[0, 0]) + 1, 2), np.int64)
            grown = True
        if any(low < first or high >= limit for _, first, limit, low, high in spans if low <= high):
            before = [max(-first, 2 * -low if low < first else 0) for _, first, _, low, _ in spans]
            after = [max(limit, 2 * high if limit <= high else 0) for _, _, limit, _, high in spans]
            self._lay_out(before, after)
            grown = True
        return grown

    def _lay_out(self, before: list[int], after: list[int]) -> None:
        total = sum(before) + sum(after)
        if total > _MOST_WORDS:
            raise UnmodelledError(f"a kernel writes over {total} words, more than the {_MOST_WORDS} that are followed")
        self._words = np.full(total, POISON, np.int32)
        self._written = np.zeros(total, np.uint8)
        self._spans = np.zeros((len(before), 5), np.int64)
        begin = 0
        for row, words_before, words_after in zip(self._spans, before, after, strict=True):
            row[ORIGIN] = begin + words_before
            row[FIRST], row[LIMIT] = -words_before, words_after
            row[LOW], row[HIGH] = NOTHING_LOW, NOTHING_HIGH
            begin += words_before + words_after
