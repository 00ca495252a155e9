"""Stretches of set bits in a bitmap of bytes, little bit order. Bitmaps are as large as tensors and mostly all 0 or all 1."""

from __future__ import annotations

import numpy as np
from numba import njit
from numpy.typing import NDArray


@njit(cache=True, nogil=True)
def marked_runs(bitmap: NDArray[np.uint8], count: int) -> NDArray[np.int64]:
    """[begin, end) of each stretch of set bits among the first `count`, int64 [stretches, 2], in order."""
    found = np.empty((16, 2), np.int64)
    stretches = 0
    begin = -1
    words = bitmap[: len(bitmap) // 8 * 8].view(np.uint64)
    position = 0
    while position < count:
        byte = position >> 3
        if position & 63 == 0 and byte >> 3 < len(words):
            word = words[byte >> 3]
            whole = np.uint64(0) if begin < 0 else ~np.uint64(0)
            if word == whole:
                position += 64
                continue
        marked = (bitmap[byte] >> (position & 7)) & 1
        if marked and begin < 0:
            begin = position
        elif not marked and begin >= 0:
            found, stretches = _append(found, stretches, begin, position)
            begin = -1
        position += 1
    if begin >= 0:
        found, stretches = _append(found, stretches, begin, count)
    return found[:stretches].copy()


@njit(cache=True, nogil=True)
def _append(found: NDArray[np.int64], stretches: int, begin: int, end: int) -> tuple[NDArray[np.int64], int]:
    if stretches == len(found):
        larger = np.empty((2 * stretches, 2), np.int64)
        larger[:stretches] = found
        found = larger
    found[stretches, 0], found[stretches, 1] = begin, end
    return found, stretches + 1
