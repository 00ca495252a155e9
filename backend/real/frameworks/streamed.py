"""Streams that a backend file makes: what it has the GPU do on one of them with no order to what is done on another.

torch's operations, Triton kernels and calls into AITER are noted on the stream that they are asked for on, with what they read
and write, each as everything between its first and its last byte. All is done at once, in the order of the text; Timeline says
what a GPU could do otherwise. A graph's capture is noted as it is done, its replay on the stream that replays.
"""

from __future__ import annotations

import contextlib
import functools
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.utils._pytree import tree_leaves

from backend.real.aiter_ops import DECODING, REDUCE, OpCall
from backend.real.handlers import PLANNERS, STAGE_1
from backend.real.launch_memo import TouchedBytes
from backend.real.noted_call import SourceLine
from backend.real.observe import PLANNING_ROLES
from backend.real.script.streams import Stream, of_timeline
from backend.real.script.timeline import DEFAULT, Access, Done, Timeline
from backend.real.torch_shim import (
    ACCESSORS,
    EMPTIES,
    VIEWS_AND_INPLACE,
    Arguments,
    CudaTensor,
    GpuFacts,
    Keywords,
    VirtualGpu,
    extent,
    host,
)

_STREAMS = re.compile(r"[Ss]tream\(|\bwait_(stream|event)\b")

TO_HOST = frozenset("item tolist numpy cpu __array__ __bool__ __int__ __float__ __index__".split())  # noqa: SIM905
"""Calls that give the host numbers of a tensor, so that it waits."""

WRITTEN: Mapping[str, frozenset[str]] = {
    **dict.fromkeys(PLANNERS, frozenset(PLANNING_ROLES)),
    DECODING: frozenset({"o"}),
    STAGE_1: frozenset({"splitData", "splitLse", "output", "lse"}),
    REDUCE: frozenset({"final_output", "final_lse"}),
}
"""By call into AITER, the parameters that it writes."""

OUTPUTS = frozenset("o out output o_extend splitData splitLse dst".split()) | frozenset(PLANNING_ROLES)  # noqa: SIM905
"""The same for calls whose kernels are not run."""


@functools.lru_cache(maxsize=8)
def asks_for_streams(text: str) -> bool:
    """Whether the text of a file has anything to order; kept, for every scenario of a file asks."""
    return _STREAMS.search(text) is not None


@dataclass(slots=True)
class Unordered:
    """Two that access the same bytes of some tensors, one of them writing, and that no event and no waiting orders.

    between: who writes, and who does what `verb` says. streams: of the two. tensors: those that are parameters of AITER's, as
    these. line: of the file, where the second was asked for first.
    """

    between: tuple[str, str]
    streams: tuple[int, int]
    verb: str
    line: SourceLine | None
    tensors: dict[str, None]

    @property
    def message(self) -> str:
        """Who does what to which tensors on which streams, in a sentence for people."""
        (writer, other), (one, two) = self.between, self.streams
        names = ", ".join(self.tensors) or "a tensor"
        return (
            f"{writer} writes {names} on stream {one}, and {other} {self.verb} {'them' if len(self.tensors) > 1 else 'it'} on "
            f"stream {two}: no event or synchronization orders the two, and which comes first is left to chance"
        )


class StreamedGpu(VirtualGpu):
    """A VirtualGpu whose streams are told apart. line: where the file is now. found: what was noted, each pair once."""

    def __init__(self, facts: GpuFacts, line: Callable[[], SourceLine | None]) -> None:
        super().__init__(facts)
        self.timeline = Timeline(self._unordered)
        self.found: dict[tuple[str, str, str], Unordered] = {}
        self._line = line
        self._stream, self._event = of_timeline(self.timeline)

    def __enter__(self) -> StreamedGpu:
        super().__enter__()
        self.allocations.listeners.append(lambda made: self.timeline.allocated(made, is_anew=True))
        return self

    def taken(self) -> tuple[Unordered, ...]:
        """What was found since the last time."""
        found = tuple(self.found.values())
        self.found.clear()
        return found

    def stream_names(self) -> Mapping[str, Any]:
        """What torch.cuda has of streams and events."""

        def stream(given: Stream | None) -> contextlib.AbstractContextManager[Any]:
            return contextlib.nullcontext() if given is None else given

        def choose(given: Stream) -> None:
            self.timeline.current = given.stream_id

        return {
            **super().stream_names(),
            "synchronize": lambda device=None: self.timeline.host_waits(),
            "current_stream": lambda device=None: self._stream(stream_id=self.timeline.current),
            "default_stream": lambda device=None: self._stream(stream_id=DEFAULT),
            "stream": stream,
            "set_stream": choose,
            "Stream": self._stream,
            "Event": self._event,
        }

    def __torch_function__(self, func: Any, types: Any, args: Arguments = (), kwargs: Keywords | None = None) -> Any:
        """Does the operation and gives its result."""
        name = getattr(func, "__name__", "")
        if name == "record_stream":
            self.timeline.keep_for(host(args[0]).untyped_storage().data_ptr(), args[1].stream_id)
            return None
        result = super().__torch_function__(func, types, args, kwargs)
        if name in EMPTIES or (name in ACCESSORS and name not in TO_HOST):
            return result
        given = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, CudaTensor)]
        made = [leaf for leaf in tree_leaves(result) if isinstance(leaf, CudaTensor)]
        if not given and not made:
            return result
        if name in TO_HOST or (not made and any(torch.is_tensor(leaf) for leaf in tree_leaves(result))):
            self._did(f"torch's {name}", [self._access(each, False) for each in given])
            if not (kwargs or {}).get("non_blocking"):
                self.timeline.host_waits(self.timeline.point(self.timeline.current))
            return result
        out = [leaf for leaf in tree_leaves((kwargs or {}).get("out")) if leaf is not None]
        written = given[:1] if _is_in_place(name) else out
        if name not in VIEWS_AND_INPLACE or written:
            there = {_storage(each) for each in given}
            fresh = [each for each in made if _storage(each) not in there]
            read = [each for each in given if not any(each is one for one in written)]
            if fresh or written:
                accesses = [self._access(each, False) for each in read]
                self._did(f"torch's {name}", accesses + [self._access(each, True) for each in (*written, *fresh)])
        return result

    def called(self, call: OpCall) -> None:
        """A call into AITER is done."""
        written = WRITTEN.get(call.name, OUTPUTS)
        given = [(name, value) for name, value in call.arguments.items() if isinstance(value, CudaTensor)]
        self._did(call.name, [self._access(value, name in written, PLANNING_ROLES.get(name, name)) for name, value in given])

    def ran(self, kernel: str, touched: TouchedBytes) -> None:
        """A Triton kernel ran."""
        self._did(f"Triton kernel {kernel}", [*self._touched(touched.reads, False), *self._touched(touched.writes, True)])

    def _touched(self, lanes: list[tuple[Any, int]], is_write: bool) -> Iterator[Access]:
        ends: dict[int, tuple[int, int]] = {}
        for addresses, nbytes in lanes:
            begin, end = int(addresses.min()), int(addresses.max()) + nbytes
            known = self.allocations.before(begin)
            if known is not None:
                low, high = ends.get(known.address, (begin, end))
                ends[known.address] = min(low, begin), max(high, end)
        yield from (Access(storage, np.array([pair], np.int64), is_write) for storage, pair in ends.items())

    def _access(self, tensor: torch.Tensor, is_write: bool, name: str = "") -> Access:
        begin, end = extent(tensor)
        ranges = np.array([[begin, end]] if begin < end else [], np.int64).reshape(-1, 2)
        return Access(self.allocations.of(tensor).address, ranges, is_write, name)

    def _did(self, what: str, accesses: list[Access]) -> None:
        if accesses:
            self.timeline.did(what, accesses, self.timeline.current)

    def _unordered(self, first: Done, second: Done) -> None:
        writer, other = (first, second) if first.access.is_write else (second, first)
        between, verb = (writer.what, other.what), "writes" if other.access.is_write else "reads"
        made = Unordered(between, (writer.stream, other.stream), verb, self._line(), {})
        tensors = self.found.setdefault((*between, verb), made).tensors
        tensors |= dict.fromkeys(name for name in (writer.access.tensor or other.access.tensor,) if name)


def _is_in_place(name: str) -> bool:
    """Whether a call writes its first argument: `copy_`, `__setitem__`, `__iadd__`."""
    is_operator = name.startswith("__i") and name not in ("__index__", "__int__", "__invert__")
    return name == "__setitem__" or is_operator or (name.endswith("_") and not name.endswith("__"))


def _storage(tensor: torch.Tensor) -> int:
    return host(tensor).untyped_storage().data_ptr()
