"""Memory of a planner: its five buffers among the spaces of backend.cxx.arithmetic, its input arrays, its work items.

Knows nothing of planning. A planner is one wave that writes int32 words into five buffers; each is a space that is larger than
the buffer on both sides, so that a write before the start or past the end goes on, as on hardware, and is seen afterwards.
"""

from __future__ import annotations

import functools
import hashlib
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numba

from backend.cxx import arithmetic
from backend.cxx.arithmetic import FIRST, HIGH, LIMIT, LOW, ORIGIN, POISON, Marks, Table, Words, divide, i32, note_stray_read

# Rows of the `spans` array, one for each buffer that a planner writes.
WORK_INDPTR, WORK_INFO, REDUCE_INDPTR, REDUCE_FINAL_MAP, REDUCE_PARTIAL_MAP = range(5)
BUFFER_NAMES = ("work_indptr", "work_info_set", "reduce_indptr", "reduce_final_map", "reduce_partial_map")

SHARED_MEMORY = "shared memory"
"""What a planner keeps in LDS; a stray read of it is of an entry that is not stored yet."""

# What a stray read was made from, first column of a row of `strays`.
QO_INDPTR, KV_INDPTR, KV_LAST_PAGE_LENS, LDS_QUERY_LENGTHS = range(4)
ARRAY_NAMES = ("qo_indptr", "kv_indptr", "kv_last_page_lens", SHARED_MEMORY)

WORK_ITEM_WORDS = 8

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
    """Digest of every file that compiled code is made of: planners, this file, branch numbers, C's integers and memory."""
    digest = hashlib.sha256()
    for file in [arithmetic.SOURCE, package / "branches.py", package / "memory.py", *sorted(package.glob("v1_*.py"))]:
        digest.update(file.name.encode() + file.read_bytes())
    return digest.hexdigest()


_DIGEST = kernel_sources_digest(Path(__file__).parent)


def _cached(function: Kernel, **options: Any) -> Kernel:
    dispatcher: Any = arithmetic.typed_by_kind(numba.njit(cache=True, nogil=True, **options)(function))
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
def divide_up(numerator: int, denominator: int) -> int:
    """(x + y - 1) / y in C, which is a ceiling for positive operands only; all planners divide like this."""
    return divide(numerator + denominator - 1, denominator)


@inlined
def store_range(words: Words, written: Marks, spans: Table, buffer: int, begin: int, end: int, value: int) -> None:
    """Write `value` to the words [begin, end) of a buffer."""
    if begin >= end:
        return
    spans[buffer, LOW] = min(spans[buffer, LOW], begin)
    spans[buffer, HIGH] = max(spans[buffer, HIGH], end - 1)
    first = spans[buffer, ORIGIN] + max(begin, spans[buffer, FIRST])
    limit = spans[buffer, ORIGIN] + min(end, spans[buffer, LIMIT])
    words[first:limit] = i32(value)
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
        words[at] = i32(item.batch)
        words[at + 1] = i32(item.partial)
        words[at + 2] = i32(item.q_begin)
        words[at + 3] = i32(item.q_end)
        words[at + 4] = i32(item.kv_begin)
        words[at + 5] = i32(item.kv_end)
        words[at + 6] = i32(item.kv_offset)
        words[at + 7] = 0
        written[at : at + WORK_ITEM_WORDS] = 1


@inlined
def load(values: Words, index: int, strays: Table, array: int) -> int:
    """Read one word of an input array; outside of it, note the read and give the poison."""
    if 0 <= index < values.size:
        return int(values[index])
    note_stray_read(strays, array, index)
    return POISON
