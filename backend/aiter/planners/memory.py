"""Checked memory of a planner: where its kernel writes, what it may read, and C's integers as the GPU computes them.

Knows nothing of planning. A planner is one wave that writes int32 words into five buffers; here each buffer is a window
of one arena that is larger than the buffer on both sides, so that a write before the start or past the end goes on, as on
hardware, and is seen afterwards. Overruns do not alias: what lands past one buffer does not change another one.
"""

from __future__ import annotations

import functools
import hashlib
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numba
import numpy as np
import numpy.typing as npt

POISON = 0xA5A5A5A5 - (1 << 32)
"""int32 word of memory that nobody wrote: a caller's buffers are uninitialised, and so is what lies past an input array."""

# Rows of the `spans` array, one for each buffer that a planner writes.
WORK_INDPTR, WORK_INFO, REDUCE_INDPTR, REDUCE_FINAL_MAP, REDUCE_PARTIAL_MAP = range(5)
BUFFER_NAMES = ("work_indptr", "work_info_set", "reduce_indptr", "reduce_final_map", "reduce_partial_map")

# Columns of `spans`: arena index of word 0; window of words that the arena holds [FIRST, LIMIT); lowest and highest word
# written so far (LOW > HIGH: none), which may lie outside of the window: then the arena grows and the planner runs again.
ORIGIN, FIRST, LIMIT, LOW, HIGH = range(5)
NOTHING_LOW, NOTHING_HIGH = 1 << 62, -(1 << 62)

# What a stray read was made from, first column of a row of `strays`.
QO_INDPTR, KV_INDPTR, KV_LAST_PAGE_LENS, LDS_QUERY_LENGTHS = range(4)
ARRAY_NAMES = ("qo_indptr", "kv_indptr", "kv_last_page_lens", "lds query lengths")

WORK_ITEM_WORDS = 8

Words = npt.NDArray[np.int32]
Marks = npt.NDArray[np.uint8]
Table = npt.NDArray[np.int64]
Kernel = TypeVar("Kernel", bound=Callable[..., Any])


class WorkItem(NamedTuple):
    """The words of a work item but its pad; batch: row whose sequence it is of, partial: its first partial row, -1: none."""

    batch: int
    partial: int
    q_begin: int
    q_end: int
    kv_begin: int
    kv_end: int
    kv_offset: int


def kernel_sources_digest(package: Path) -> str:
    """Digest of every file that compiled code is made of: the planners, this file and the branch numbers."""
    digest = hashlib.sha256()
    for file in [package / "branches.py", package / "memory.py", *sorted(package.glob("v1_*.py"))]:
        digest.update(file.name.encode() + file.read_bytes())
    return digest.hexdigest()


_DIGEST = kernel_sources_digest(Path(__file__).parent)


def _cached(function: Kernel, **options: Any) -> Kernel:
    dispatcher: Any = numba.njit(cache=True, nogil=True, **options)(function)
    if isinstance(dispatcher, types.FunctionType):  # NUMBA_DISABLE_JIT
        return function
    cache_file = dispatcher._cache._cache_file
    cache_file._source_stamp = (cache_file._source_stamp, _DIGEST)
    cache_file._load_index = functools.partial(_index_or_none, cache_file._load_index)
    return dispatcher  # type: ignore[no-any-return]


def _index_or_none(load_index: Callable[[], dict[Any, Any]]) -> dict[Any, Any]:
    """What is kept on disk of a function; nothing where it is of a class that is gone, for numba reads before it compares."""
    try:
        return load_index()
    except (AttributeError, ImportError):
        return {}


def compiled(function: Kernel) -> Kernel:
    """`function` compiled by numba and kept on disk; a change to any file of `kernel_sources_digest` makes it stale.

    numba itself looks at the one file that defines a function and would go on with an outdated helper of another file.
    """
    return _cached(function)


def inlined(function: Kernel) -> Kernel:
    """As `compiled`, for what runs once a word: without LLVM's alwaysinline a store costs ten times as much."""
    return _cached(function, forceinline=True)


def plain_python(kernel: Kernel) -> Kernel:
    """The same planner without a compiler: `kernel`'s Python source, every compiled helper that it calls replaced likewise."""
    source: Any = getattr(kernel, "py_func", kernel)
    names = dict(source.__globals__)
    for name in source.__code__.co_names:
        if hasattr(names.get(name), "py_func"):
            names[name] = plain_python(names[name])
    return types.FunctionType(source.__code__, names, source.__name__, source.__defaults__)  # type: ignore[return-value]


@inlined
def as_int32(value: int) -> int:
    """`value` wrapped to the 32 bits that the kernel's registers have."""
    return ((value + 0x80000000) & 0xFFFFFFFF) - 0x80000000


@inlined
def divide(numerator: int, denominator: int) -> int:
    """int32 `numerator / denominator`, truncated as in C.

    CDNA has no integer division: LLVM expands it (AMDGPUCodeGenPrepare, expandDivRem32) into a reciprocal estimate and two
    corrections. With a zero denominator the estimate is 2^32 - 1 and both corrections apply: |x| + 1 with x's sign, and
    2 for x == 0.
    """
    if denominator > 0 and numerator >= 0:
        return numerator // denominator
    if denominator == 0:
        quotient = abs(numerator) + 1 if numerator != 0 else 2
    else:
        quotient = abs(numerator) // abs(denominator)
    return quotient if (numerator < 0) == (denominator < 0) else -quotient


@inlined
def remainder(numerator: int, denominator: int) -> int:
    """int32 `numerator % denominator`, with the numerator's sign as in C; x % 0 is x, by the same expansion as `divide`."""
    if denominator == 0:
        return numerator
    rest = abs(numerator) % abs(denominator)
    return rest if numerator >= 0 else -rest


@inlined
def divide_up(numerator: int, denominator: int) -> int:
    """(x + y - 1) / y in C, which is a ceiling for positive operands only; all planners divide like this."""
    return divide(numerator + denominator - 1, denominator)


@compiled
def clear(words: Words, written: Marks, spans: Table, strays: Table) -> None:
    """Give back to the arena what the previous plan wrote, and forget its stray reads."""
    for buffer in range(spans.shape[0]):
        low = max(spans[buffer, LOW], spans[buffer, FIRST])
        high = min(spans[buffer, HIGH], spans[buffer, LIMIT] - 1)
        if low <= high:
            begin, end = spans[buffer, ORIGIN] + low, spans[buffer, ORIGIN] + high + 1
            words[begin:end] = POISON
            written[begin:end] = 0
        spans[buffer, LOW] = NOTHING_LOW
        spans[buffer, HIGH] = NOTHING_HIGH
    strays[0, 0] = 0


@inlined
def store(words: Words, written: Marks, spans: Table, buffer: int, index: int, value: int) -> None:
    """Write one word of a buffer, wherever it lies."""
    if index < spans[buffer, LOW]:
        spans[buffer, LOW] = index
    if index > spans[buffer, HIGH]:
        spans[buffer, HIGH] = index
    if spans[buffer, FIRST] <= index < spans[buffer, LIMIT]:
        at = spans[buffer, ORIGIN] + index
        words[at] = as_int32(value)
        written[at] = 1


@inlined
def store_range(words: Words, written: Marks, spans: Table, buffer: int, begin: int, end: int, value: int) -> None:
    """Write `value` to the words [begin, end) of a buffer."""
    if begin >= end:
        return
    spans[buffer, LOW] = min(spans[buffer, LOW], begin)
    spans[buffer, HIGH] = max(spans[buffer, HIGH], end - 1)
    first = spans[buffer, ORIGIN] + max(begin, spans[buffer, FIRST])
    limit = spans[buffer, ORIGIN] + min(end, spans[buffer, LIMIT])
    words[first:limit] = as_int32(value)
    written[first:limit] = 1


@inlined
def store_work_item(words: Words, written: Marks, spans: Table, number: int, item: WorkItem) -> None:
    """Write the eight words of a work item; the pad is written as 0."""
    begin = number * WORK_ITEM_WORDS
    if begin < spans[WORK_INFO, LOW]:
        spans[WORK_INFO, LOW] = begin
    if begin + WORK_ITEM_WORDS - 1 > spans[WORK_INFO, HIGH]:
        spans[WORK_INFO, HIGH] = begin + WORK_ITEM_WORDS - 1
    if spans[WORK_INFO, FIRST] <= begin and begin + WORK_ITEM_WORDS <= spans[WORK_INFO, LIMIT]:
        at = spans[WORK_INFO, ORIGIN] + begin
        words[at] = as_int32(item.batch)
        words[at + 1] = as_int32(item.partial)
        words[at + 2] = as_int32(item.q_begin)
        words[at + 3] = as_int32(item.q_end)
        words[at + 4] = as_int32(item.kv_begin)
        words[at + 5] = as_int32(item.kv_end)
        words[at + 6] = as_int32(item.kv_offset)
        words[at + 7] = 0
        written[at : at + WORK_ITEM_WORDS] = 1


@compiled
def note_stray_read(strays: Table, array: int, index: int) -> None:
    """Record a read of what is not the array's; strays[0, 0] counts them, also beyond the table's end."""
    count = strays[0, 0]
    if count > 0 and count < strays.shape[0] and strays[count, 0] == array and strays[count, 1] == index:
        return
    strays[0, 0] = count + 1
    if count + 1 < strays.shape[0]:
        strays[count + 1, 0] = array
        strays[count + 1, 1] = index


@inlined
def load(values: Words, index: int, strays: Table, array: int) -> int:
    """Read one word of an input array; outside of it, note the read and give the poison."""
    if 0 <= index < values.size:
        return int(values[index])
    note_stray_read(strays, array, index)
    return POISON
