"""The GPU of a script: torch's operations in the order of streams, kept while a graph is captured, done again by its replay.

What an operation of torch reads and writes is what torch's own schemas say of the operators that it calls. Knows no operation
of AITER.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from backend.real.device_memory import DeviceMemory
from backend.real.script.graphs import FreedAccess, GraphRecording, not_while_capturing, of_gpu
from backend.real.script.streams import Stream, of_timeline
from backend.real.script.timeline import DEFAULT, Access, GpuWork, Ranges, Timeline
from backend.real.theirs import done_by
from backend.real.torch_shim import ACCESSORS, EMPTIES, Allocations, Arguments, CudaTensor, GpuFacts, Keywords, VirtualGpu, host

TO_HOST = frozenset("item tolist numpy __array__ __bool__ __int__ __float__ __index__".split())  # noqa: SIM905
"""Calls that give the host numbers of a tensor, so that it waits."""

FROM_HOST = frozenset("tensor as_tensor to cuda copy_".split())  # noqa: SIM905
"""Calls that may copy from the host's memory, for which the host waits unless it is asked not to."""

SHAPED_BY_CONTENT = frozenset("_local_scalar_dense nonzero masked_select unique unique_dim _unique2".split())  # noqa: SIM905
"""torch's operators whose result has a shape or value that the host must know first."""

MOST_ROWS = 1 << 16
"""Of a view with gaps: rows that are told apart; one with more counts as everything between its first and last byte."""


class ScriptGpu(VirtualGpu):
    """A VirtualGpu with memory, streams and graphs. gone: told of what a replay finds freed; set by whoever judges."""

    def __init__(self, facts: GpuFacts, memory: DeviceMemory) -> None:
        super().__init__(facts, memory)
        self.device_memory = memory
        self.timeline = Timeline()
        self._stream, self._event = of_timeline(self.timeline)

    def gone(self, found: FreedAccess) -> None:
        """Told of what a replay finds freed."""

    def __enter__(self) -> ScriptGpu:
        super().__enter__()
        self.allocations.listeners.append(self.timeline.allocated)
        return self

    def access(self, tensor: torch.Tensor, is_write: bool, name: str = "", ranges: Ranges | None = None) -> Access:
        """What reading or writing a tensor is. ranges: the addresses, None: all of its elements."""
        return access_of(self.allocations, tensor, is_write, name, ranges)

    def __torch_function__(self, func: Any, types: Any, args: Arguments = (), kwargs: Keywords | None = None) -> Any:
        """Does the operation and gives its result."""
        name = getattr(func, "__name__", "")
        if name in ACCESSORS and name not in TO_HOST:
            return super().__torch_function__(func, types, args, kwargs)
        if name == "pin_memory":
            return args[0]  # the host's memory is all alike
        recording = self.timeline.capture
        assert recording is None or isinstance(recording, GraphRecording)
        self.device_memory.pool = self.timeline.current if recording is None else recording.pool
        if recording is not None:
            _check_source(name, args, kwargs or {})
        seen = _Seen(self.device_memory, recording is not None)
        try:
            with seen:
                result = super().__torch_function__(func, types, args, kwargs)
        finally:
            seen.undo()
        if name == "record_stream":
            self.timeline.keep_for(host(args[0]).untyped_storage().data_ptr(), args[1].stream_id)
            return result
        fresh = self._fresh(result, args, kwargs)
        if recording is not None:
            recording.owned += [host(t).untyped_storage() for t in fresh]
        if name in EMPTIES:
            return result
        read = [*seen.read, *(t for t in args[:1] if name in TO_HOST and isinstance(t, CudaTensor))]
        if not read and not seen.written and not fresh:
            return result
        if read and not seen.written and not fresh and not _waits_not(name, args, kwargs or {}):
            if recording is not None:
                not_while_capturing()
            self.timeline.did(f"torch's {name}", [self.access(t, False) for t in read], self.timeline.current)
            self.timeline.host_waits(self.timeline.point(self.timeline.current))
            return result
        accesses = [self.access(t, False) for t in read] + [self.access(t, True) for t in (*seen.written, *fresh)]
        if recording is None:
            self.timeline.did(f"torch's {name}", accesses, self.timeline.current)
        else:
            self._keep(recording, name, func, args, kwargs or {}, fresh, accesses)
        return result

    def _fresh(self, result: Any, args: Arguments, kwargs: Keywords | None) -> list[torch.Tensor]:
        """Tensors of the result that lie in memory of their own."""
        given = {_start(leaf) for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)}
        return [t for t in tree_leaves(result) if isinstance(t, CudaTensor) and t.numel() and _start(t) not in given]

    def _keep(
        self,
        recording: GraphRecording,
        name: str,
        func: Any,
        args: Arguments,
        kwargs: Keywords,
        fresh: Sequence[torch.Tensor],
        accesses: Sequence[Access],
    ) -> None:
        """A replay does the operation on the host's tensors of the same addresses, and puts what is new where it lay."""
        _, args, kwargs = self._rewrite(name, args, kwargs)

        def again(given: Mapping[str, Any]) -> None:
            with torch._C.DisableTorchFunction():
                plain = tree_map(lambda leaf: host(leaf) if isinstance(leaf, CudaTensor) else leaf, dict(given))
                made = done_by(func, *plain["args"], **plain["kwargs"])
                held = {_start(leaf) for leaf in tree_leaves((plain["args"], plain["kwargs"])) if torch.is_tensor(leaf)}
                new = [t for t in tree_leaves(made) if torch.is_tensor(t) and t.numel() and _start(t) not in held]
                for target, source in zip(plain["fresh"], new, strict=True):
                    target.copy_(source)

        given = {"args": args, "kwargs": kwargs, "fresh": list(fresh)}
        recording.keep(self.timeline.current, GpuWork(f"torch's {name}", given, lambda _: accesses, again))

    def stream_names(self) -> Mapping[str, Any]:
        """What torch.cuda has of streams, events and graphs."""

        def stream(given: Stream | None) -> contextlib.AbstractContextManager[Any]:
            return contextlib.nullcontext() if given is None else given

        def current(device: Any = None) -> Stream:
            del device
            return self._stream(stream_id=self.timeline.current)

        def choose(given: Stream) -> None:
            self.timeline.current = given.stream_id

        def synchronize(device: Any = None) -> None:
            del device
            if self.timeline.captures:
                not_while_capturing()
            self.timeline.host_waits()

        graphs = of_gpu(
            self.timeline, self.allocations, self.device_memory, lambda found: self.gone(found), self._stream, synchronize
        )
        return graphs | {
            "is_current_stream_capturing": lambda: self.timeline.capture is not None,
            "current_stream": current,
            "default_stream": lambda device=None: self._stream(stream_id=DEFAULT),
            "stream": stream,
            "set_stream": choose,
            "synchronize": synchronize,
            "Stream": self._stream,
            "Event": self._event,
        }


class _Seen(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Tensors on the GPU that an operation reads and writes. is_kept: it is captured, and what it overwrites is put back."""

    def __init__(self, memory: DeviceMemory, is_kept: bool) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.read: list[torch.Tensor] = []
        self.written: list[torch.Tensor] = []
        self._memory, self._is_kept = memory, is_kept
        self._before: list[tuple[int, Any]] = []

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Keeps torch from importing its compiler, half of a script's start, to say that it is not to compile this."""
        return False

    def undo(self) -> None:
        """Puts back what a captured operation has overwritten: it is only kept, not done."""
        for address, content in reversed(self._before):
            self._memory.bytes_at(address, len(content))[:] = content

    def __torch_dispatch__(self, func: Any, types: Any, args: Arguments = (), kwargs: Keywords | None = None) -> Any:
        """Does the operator."""
        del types
        name = func._schema.name.removeprefix("aten::")
        if name not in _MAKE_NOTHING:
            self._note(func._schema, name, args, kwargs or {})
        return done_by(func, *args, **(kwargs or {}))

    def _note(self, schema: Any, name: str, args: Arguments, kwargs: Keywords) -> None:
        is_view = any(each.alias_info is not None and not each.alias_info.is_write for each in schema.returns)
        for place, parameter in enumerate(schema.arguments):
            value = args[place] if place < len(args) else kwargs.get(parameter.name)
            tensors = [t for t in (value if isinstance(value, (list, tuple)) else (value,)) if self._is_here(t)]
            if parameter.alias_info is not None and parameter.alias_info.is_write:
                self.written += tensors
                if self._is_kept:
                    self._before += [_content(self._memory, t) for t in tensors]
            elif not is_view:
                self.read += tensors
                by_mask = name.startswith("index") and any(t.dtype is torch.bool for t in tensors) and place > 0
                if self._is_kept and tensors and (name in SHAPED_BY_CONTENT or by_mask):
                    not_while_capturing()

    def _is_here(self, value: Any) -> bool:
        return isinstance(value, torch.Tensor) and bool(value.numel()) and self._memory.holds(_start(value))


_MAKE_NOTHING = frozenset("set_ lift_fresh alias detach empty empty_strided".split())  # noqa: SIM905
"""Operators that touch no bytes, whatever their schema says."""


def access_of(
    allocations: Allocations, tensor: torch.Tensor, is_write: bool, name: str = "", ranges: Ranges | None = None
) -> Access:
    """What reading or writing a tensor is. name: as a parameter. ranges: the addresses, None: all of its elements."""
    start = _start(tensor)
    known = allocations.before(start)
    if known is None or start >= known.address + max(known.nbytes, 1):
        known = allocations.of(tensor)
    return Access(known.address, _ranges(host(tensor)) if ranges is None else ranges, is_write, name)


def _ranges(plain: torch.Tensor) -> Ranges:
    """Addresses of a tensor's elements; of a view with many gaps everything between its first and last one."""
    if not plain.numel():
        return np.empty((0, 2), np.int64)
    sizes = sorted((stride, size) for size, stride in zip(plain.shape, plain.stride(), strict=True) if size > 1 and stride)
    run = 1
    while sizes and sizes[0][0] <= run:
        stride, size = sizes.pop(0)
        run = stride * (size - 1) + run
    starts = np.zeros(1, np.int64)
    if np.prod([size for _, size in sizes], dtype=np.int64) <= MOST_ROWS:
        for stride, size in sizes:
            starts = (starts[:, None] + np.arange(size) * stride).reshape(-1)
    else:
        run = sum(stride * (size - 1) for stride, size in sizes) + run
    begin = plain.data_ptr() + np.sort(starts) * plain.element_size()
    return np.stack([begin, begin + run * plain.element_size()], axis=1)


def _start(tensor: torch.Tensor) -> int:
    return host(tensor).untyped_storage().data_ptr()


def _content(memory: DeviceMemory, tensor: torch.Tensor) -> tuple[int, Any]:
    """All bytes between a tensor's first and last one, and where they lie."""
    ranges = _ranges(host(tensor))
    begin, end = int(ranges[0, 0]), int(ranges[-1, 1])
    return begin, memory.bytes_at(begin, end - begin).copy()


def _waits_not(name: str, args: Arguments, kwargs: Keywords) -> bool:
    """Whether a copy to the host is asked for that the host does not wait for."""
    return bool(kwargs.get("non_blocking")) or (name == "copy_" and len(args) > 2 and bool(args[2]))


def _check_source(name: str, args: Arguments, kwargs: Keywords) -> None:
    """A capture holds no copy from memory of the host that the host would wait for."""
    if name not in FROM_HOST or _waits_not(name, args, kwargs):
        return
    source = args[1] if name == "copy_" else args[0]
    if isinstance(source, CudaTensor) or (name == "copy_" and not isinstance(args[0], CudaTensor)):
        return
    side = kwargs.get("device", next((a for a in args[1:] if isinstance(a, (str, torch.device))), None))
    if name in ("copy_", "cuda") or (side is not None and torch.device(side).type == "cuda"):
        not_while_capturing()
