"""Triton launches that need no second run: a kernel that finds what it found before leaves what it left before.

What an interpreted kernel does follows from its code and what its globals are, the grid, the arguments that are no tensors,
which tensors share a storage and how far apart they are, and the bytes that it reads. All of that is compared, the bytes
one by one in memory as it is now, so that an answer out of the memo is the one that running gives. Not kept are launches
that run out of bounds, read what they write, use atomics or take addresses for numbers, or raise.
This module knows no framework.
"""

from __future__ import annotations

import builtins
import ctypes
import dis
import functools
import types
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from backend.real.torch_shim import Allocation, Allocations, CudaTensor, host

MOST_BYTES = 64 << 20
"""Bytes that one memo holds at most; then it begins anew."""


class Unknowable(Exception):  # noqa: N818 - not an error: the launch is run
    """A launch has something that the memo does not know how to compare."""


@dataclass(frozen=True, slots=True)
class Bytes:
    """Bytes one behind the other. tensor: the first argument in their storage; offset: bytes from where it points."""

    tensor: int
    offset: int
    content: bytes


@dataclass(frozen=True, slots=True)
class PastLaunch:
    """What a launch read, shortest first, and what it left. lines: see TouchedBytes."""

    reads: tuple[Bytes, ...]
    writes: tuple[Bytes, ...]
    lines: frozenset[int]

    @property
    def nbytes(self) -> int:
        """Bytes that it holds."""
        return sum(len(run.content) for run in (*self.reads, *self.writes))


@dataclass(slots=True)
class TouchedBytes:
    """Bytes that a launch under way touches, as (first addresses, bytes of each).

    is_simple: they are all it goes by. lines: of the measured file that it ran; none of a kernel of another one.
    """

    reads: list[tuple[Any, int]] = field(default_factory=list)
    writes: list[tuple[Any, int]] = field(default_factory=list)
    is_simple: bool = True
    lines: set[int] = field(default_factory=set)

    def note(self, addresses: Any, nbytes: int, is_write: bool) -> None:
        """Lanes of one load or store, all inside."""
        (self.writes if is_write else self.reads).append((addresses.ravel(), nbytes))


@dataclass(frozen=True, slots=True)
class LaunchInputs:
    """What a launch is given. key: all but the bytes that it reads. pointers: where the first tensor of each storage points,
    by its place among the arguments, with that storage."""

    key: Any
    pointers: Mapping[int, tuple[int, Allocation]]


@dataclass(slots=True)
class LaunchMemo:
    """Launches of one process, whatever virtual GPU they ran on."""

    launches: dict[Any, list[PastLaunch]] = field(default_factory=dict)
    nbytes: int = 0
    taken: int = 0

    def inputs(
        self,
        kernel: Any,
        grid: Any,
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
        allocations: Allocations,
        own: Callable[[torch.Tensor], tuple[int, int]],
    ) -> LaunchInputs | None:
        """What to look a launch up by; None where something of it cannot be compared. own: the bytes that are a tensor's."""
        try:
            return _inputs(kernel, grid, args, kwargs, allocations, own)
        except Unknowable:
            return None

    def recall(self, given: LaunchInputs) -> PastLaunch | None:
        """Leave what a launch with the same inputs left, and say which; None where none is known."""
        for known in self.launches.get(given.key, ()):
            if _fits(known, given) and all(_held(run, given) == run.content for run in known.reads):
                for run in known.writes:
                    ctypes.memmove(given.pointers[run.tensor][0] + run.offset, run.content, len(run.content))
                self.taken += 1
                return known
        return None

    def keep(self, given: LaunchInputs, seen: TouchedBytes) -> None:
        """Remember a launch that has ended, where it went by what is compared alone."""
        if not seen.is_simple:
            return
        reads, writes = _spans(seen.reads), _spans(seen.writes)
        if _meet(reads, writes):
            return
        try:
            shortest = tuple(sorted(_runs(reads, given), key=lambda run: len(run.content)))
            kept = PastLaunch(shortest, tuple(_runs(writes, given)), frozenset(seen.lines))
        except Unknowable:
            return
        if self.nbytes + kept.nbytes > MOST_BYTES:
            self.launches.clear()
            self.nbytes = 0
        self.launches.setdefault(given.key, []).append(kept)
        self.nbytes += kept.nbytes


def _inputs(
    kernel: Any,
    grid: Any,
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    allocations: Allocations,
    own: Callable[[torch.Tensor], tuple[int, int]],
) -> LaunchInputs:
    if kernel.pre_run_hooks:
        raise Unknowable
    pointers: dict[int, tuple[int, Allocation]] = {}
    first: dict[int, int] = {}
    keys: list[Any] = []
    for at, value in enumerate((*args, *kwargs.values())):
        if not isinstance(value, CudaTensor):
            keys.append(_plain(value))
            continue
        storage, pointer = allocations.of(value), host(value).data_ptr()
        earlier = first.setdefault(storage.address, at)
        pointers.setdefault(earlier, (pointer, storage))
        part = own(value)
        of_whole = None if part == (storage.address, storage.address + storage.nbytes) else part[1] - part[0]
        keys.append((str(value.dtype), earlier, pointer - pointers[earlier][0], of_whole))
    return LaunchInputs((_function(kernel.fn), _plain(grid), tuple(keys), tuple(kwargs)), pointers)


def _plain(value: Any) -> Any:
    """A value that is no tensor, with its type: 1, 1.0 and True are others."""
    if value is None or isinstance(value, (bool, int, float, str, torch.dtype)):
        return type(value), value
    if isinstance(value, (tuple, list)):
        return type(value), tuple(_plain(each) for each in value)
    if type(value).__module__ == "triton.language.core" and type(value).__name__ in ("dtype", "constexpr"):
        return type(value), str(value) if type(value).__name__ == "dtype" else _plain(value.value)
    raise Unknowable


def _function(function: Any, within: tuple[Any, ...] = ()) -> Any:
    """All that says what a kernel's function is: its code, how it takes arguments, and the globals that its code names."""
    if function.__closure__ is not None:
        raise Unknowable
    if function in within:
        return "itself"
    annotated = tuple((name, repr(kind)) for name, kind in function.__annotations__.items())
    defaults = _plain(function.__defaults__), tuple((k, _plain(v)) for k, v in (function.__kwdefaults__ or {}).items())
    named = tuple((name, _global(function, name, within)) for name in _names(function.__code__))
    return function.__code__, function.__code__.co_filename, annotated, defaults, named


def _global(function: Any, name: str, within: tuple[Any, ...]) -> Any:
    try:
        value = function.__globals__[name]
    except KeyError:
        if hasattr(builtins, name):
            return "builtin"
        raise Unknowable from None
    home = value.__name__ if isinstance(value, types.ModuleType) else getattr(value, "__module__", None)
    if isinstance(value, (types.ModuleType, types.FunctionType, type)) and str(home).partition(".")[0] == "triton":
        return home, getattr(value, "__qualname__", "")
    if type(value).__name__ == "InterpretedFunction":
        return _function(value.fn, (*within, function))
    return _plain(value)


@functools.lru_cache(maxsize=1000)
def _names(code: types.CodeType) -> tuple[str, ...]:
    """The globals that code names, that of functions inside it too."""
    inner = [name for each in code.co_consts if isinstance(each, types.CodeType) for name in _names(each)]
    own = [str(each.argval) for each in dis.get_instructions(code) if each.opname in ("LOAD_GLOBAL", "LOAD_NAME")]
    return tuple(dict.fromkeys((*own, *inner)))


def _spans(accesses: Sequence[tuple[Any, int]]) -> Any:
    """The bytes touched, as an array of [first, end), ascending; no two of them meet."""
    if not accesses:
        return np.empty((0, 2), np.uint64)
    starts = np.concatenate([addresses for addresses, _ in accesses]).astype(np.uint64)
    ends = starts + np.concatenate([np.full(addresses.size, nbytes, np.uint64) for addresses, nbytes in accesses])
    order = np.argsort(starts, kind="stable")
    starts, reach = starts[order], np.maximum.accumulate(ends[order])
    if starts.size == 0:
        return np.empty((0, 2), np.uint64)
    begins = np.concatenate(([True], starts[1:] > reach[:-1]))
    last = np.concatenate((np.flatnonzero(begins)[1:] - 1, [starts.size - 1]))
    return np.stack((starts[begins], reach[last]), axis=1)


def _meet(some: Any, others: Any) -> bool:
    """Whether two arrays of spans have a byte in common."""
    at = np.searchsorted(others[:, 1], some[:, 0], side="right")
    inside = at < len(others)
    return bool((others[at[inside], 0] < some[inside, 1]).any())


def _runs(spans: Any, given: LaunchInputs) -> Iterator[Bytes]:
    """The bytes of spans as they are now; Unknowable where one is in no storage of an argument."""
    for begin, end in spans.tolist():
        for tensor, (pointer, storage) in given.pointers.items():
            if storage.address <= begin and end <= storage.address + storage.nbytes:
                yield Bytes(tensor, begin - pointer, ctypes.string_at(begin, end - begin))
                break
        else:
            raise Unknowable


def _fits(known: PastLaunch, given: LaunchInputs) -> bool:
    """Whether all that a launch touched would lie in the storages of these arguments."""
    for run in (*known.reads, *known.writes):
        pointer, storage = given.pointers[run.tensor]
        begin = pointer + run.offset
        if begin < storage.address or begin + len(run.content) > storage.address + storage.nbytes:
            return False
    return True


def _held(run: Bytes, given: LaunchInputs) -> bytes:
    return ctypes.string_at(given.pointers[run.tensor][0] + run.offset, len(run.content))
