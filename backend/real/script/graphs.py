"""torch.cuda.CUDAGraph on the simulated GPU: a capture keeps work, a replay does it again on the memory as it is then.

A graph holds addresses. A tensor that was there before the capture and has been freed since is memory of nobody, or of
whoever was given it; what was allocated during the capture lies in the graph's own pool and stays the graph's. Until a first
replay that memory holds what nobody has computed. Sources: torch/cuda/graphs.py, c10/cuda/CUDACachingAllocator.cpp and
aten/src/ATen/cuda/CUDAGraph.cpp of PyTorch 2.x, whose errors are raised in its words.
"""

from __future__ import annotations

import dataclasses
import gc
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, NoReturn

import torch
from torch.utils._pytree import tree_leaves, tree_map

from backend.errors import UnmodelledError
from backend.real.device_memory import DeviceMemory
from backend.real.script.timeline import DEFAULT, Clock, GpuWork, Timeline, join
from backend.real.theirs import says
from backend.real.torch_shim import Allocation, Allocations, CudaTensor, host

CAPTURING = "HIP error: operation not permitted when stream is capturing"
"""hipErrorStreamCaptureUnsupported: the host waits for the GPU while it only keeps what it is asked for."""


def not_while_capturing() -> NoReturn:
    """Raises what the runtime says of an operation that no graph can hold."""
    says(RuntimeError(CAPTURING))


@dataclass(frozen=True, slots=True, eq=False)
class TensorAt:
    """A tensor by its address, as a graph holds it. storage: where it lies, and its tag and size when it was captured."""

    storage: Allocation
    dtype: torch.dtype
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    offset: int

    def tensor(self, memory: DeviceMemory) -> torch.Tensor:
        """The tensor on whatever is there now."""
        with torch._C.DisableTorchFunction():
            content = memory.bytes_at(self.storage.address, self.storage.nbytes)
            storage = torch.frombuffer(content, dtype=torch.uint8).untyped_storage()
            made = torch.empty(0, dtype=self.dtype).set_(storage, self.offset, self.shape, self.strides)
            return made.as_subclass(CudaTensor)


@dataclass(frozen=True, slots=True, eq=False)
class FreedAccess:
    """A replay's access to a tensor that was freed after the capture. now: whose memory it is, None: nobody's."""

    what: str
    tensor: str
    was: TensorAt
    now: Allocation | None
    is_write: bool


@dataclass(frozen=True, slots=True)
class _Point:
    key: int
    stream: int


@dataclass(frozen=True, slots=True)
class _Wait:
    key: int
    stream: int


@dataclass(frozen=True, slots=True, eq=False)
class _Kept:
    work: GpuWork
    stream: int


@dataclass(slots=True, eq=False)
class GraphRecording:
    """What a capture keeps, and does again. stream: that it begins and ends on; pool: of the memory allocated meanwhile.

    gone: told of accesses of a replay to tensors that are no more.
    """

    timeline: Timeline
    allocations: Allocations
    memory: DeviceMemory
    stream: int
    pool: object
    gone: Callable[[FreedAccess], None]
    is_open: bool = True
    owned: list[torch.UntypedStorage] = field(default_factory=list)
    _steps: list[_Kept | _Point | _Wait] = field(default_factory=list)
    _clocks: dict[int, Clock] = field(default_factory=dict)
    _points: list[Clock] = field(default_factory=list)

    def keep(self, stream: int, work: GpuWork) -> None:
        """Work that was asked for on a stream of the capture; tensors on the GPU become addresses."""
        clock = self._clocks.setdefault(stream, {})
        clock[stream] = clock.get(stream, 0) + 1
        self._steps.append(_Kept(dataclasses.replace(work, given=tree_map(self._placed, dict(work.given))), stream))

    def point(self, stream: int) -> int:
        """The number of an event recorded now."""
        self._points.append(dict(self._clocks.setdefault(stream, {})))
        self._steps.append(_Point(len(self._points) - 1, stream))
        return len(self._points) - 1

    def wait(self, stream: int, key: int) -> None:
        """A stream waits for an event of the capture, and is part of it from then on."""
        self.timeline.captures[stream] = self
        join(self._clocks.setdefault(stream, {}), self._points[key])
        self._steps.append(_Wait(key, stream))

    def close(self) -> None:
        """The end of the capture. Raises RuntimeError where a stream of it has work that nothing of its own stream follows."""
        self.is_open = False
        for stream in [s for s, capture in self.timeline.captures.items() if capture is self]:
            del self.timeline.captures[stream]
        for storage in self.owned:  # nothing has been computed yet
            with torch._C.DisableTorchFunction():
                torch.empty(0, dtype=torch.uint8).set_(storage).fill_(0xFF)
        own = self._clocks.get(self.stream, {})
        if any(clock.get(stream, 0) > own.get(stream, 0) for stream, clock in self._clocks.items()):
            says(RuntimeError("HIP error: capture was not ended in the same stream as it began, or has unjoined work"))

    def replay(self) -> None:
        """Everything again, behind what the current stream has done; what it does next follows."""
        if self.timeline.capture is not None:
            raise UnmodelledError("CUDAGraph.replay inside of a capture: a graph in a graph has no model")
        began = self.timeline.current
        streams, points = {self.stream: began}, dict[int, Clock]()
        for step in self._steps:
            stream = streams.setdefault(step.stream, -1)
            if stream < 0:
                stream = streams[step.stream] = self.timeline.new_stream()
            if isinstance(step, _Point):
                points[step.key] = self.timeline.point(stream)
            elif isinstance(step, _Wait):
                self.timeline.wait(stream, points[step.key])
            else:
                self.timeline.current = stream
                try:
                    self._do(step.work)
                finally:
                    self.timeline.current = began
        for stream in streams.values():
            self.timeline.wait(began, self.timeline.point(stream))

    def _do(self, work: GpuWork) -> None:
        given = tree_map(lambda leaf: leaf.tensor(self.memory) if isinstance(leaf, TensorAt) else leaf, work.given)
        accesses = work.accesses(given)
        written = {access.storage for access in accesses if access.is_write}
        for name, placed in _leaves(work.given):
            now = self.allocations.before(placed.storage.address)
            if now is not None and now.tag == placed.storage.tag:
                continue
            of = now if now is not None and now.address + now.nbytes > placed.storage.address else None
            where = placed.storage.address if of is None else of.address
            self.gone(FreedAccess(work.what, name, placed, of, where in written))
        self.timeline.did(work.what, accesses, self.timeline.current)
        work.run(given)

    def _placed(self, leaf: Any) -> Any:
        if not isinstance(leaf, CudaTensor) or not leaf.numel():
            return leaf
        plain = host(leaf)
        return TensorAt(
            self.allocations.of(leaf), plain.dtype, tuple(plain.shape), tuple(plain.stride()), int(plain.storage_offset())
        )


def _leaves(given: Mapping[str, Any]) -> Iterator[tuple[str, TensorAt]]:
    for name, value in given.items():
        yield from ((name, leaf) for leaf in tree_leaves(value) if isinstance(leaf, TensorAt))


class CUDAGraph:
    """torch.cuda.CUDAGraph; subclasses have what a GraphRecording is made of."""

    begin: Callable[[object], GraphRecording]

    def __init__(self, keep_graph: bool = False) -> None:
        del keep_graph
        self._recording: GraphRecording | None = None

    def capture_begin(self, pool: Any = None, capture_error_mode: str = "global") -> None:
        """From here on the current stream's work is kept."""
        del capture_error_mode
        if self._recording is not None:
            says(RuntimeError("This CUDAGraph instance already owns a captured graph. To capture a new graph, create one."))
        self._recording = type(self).begin(pool if pool is not None else object())

    def capture_end(self) -> None:
        """The graph is whole."""
        if self._recording is None or not self._recording.is_open:
            says(RuntimeError("HIP error: the operation cannot be performed in the present state"))
        self._recording.close()

    def instantiate(self) -> None:
        """Nothing to do: a replay reads what was kept."""

    def replay(self) -> None:
        """Does again what was captured."""
        if self._recording is None or self._recording.is_open:
            says(RuntimeError("Called CUDAGraph::replay without a preceding successful capture."))
        self._recording.replay()

    def reset(self) -> None:
        """Forgets the graph and gives its memory back."""
        self._recording = None

    def pool(self) -> Any:
        """The handle of its memory, for another graph to share."""
        if self._recording is None:
            says(RuntimeError("Called CUDAGraph::pool() without a preceding successful capture."))
        return self._recording.pool


class graph:  # noqa: N801 - torch's name
    """torch.cuda.graph: captures what is done inside, on the given stream or one of its own."""

    stream: Callable[[], Any]
    synchronize: Callable[[], None]

    def __init__(self, cuda_graph: CUDAGraph, pool: Any = None, stream: Any = None, capture_error_mode: str = "global") -> None:
        self._graph, self._pool, self._mode = cuda_graph, pool, capture_error_mode
        self._stream = type(self).stream() if stream is None else stream

    def __enter__(self) -> None:
        """As torch does it: everything is waited for, garbage collected, and the capture begins."""
        type(self).synchronize()
        gc.collect()
        self._stream.__enter__()
        self._graph.capture_begin(self._pool, self._mode)

    def __exit__(self, *exc: object) -> None:
        """The capture ends."""
        try:
            self._graph.capture_end()
        finally:
            self._stream.__exit__(*exc)


def make_graphed_callables(*args: Any, **kwargs: Any) -> NoReturn:
    """torch.cuda.make_graphed_callables, which captures backward passes too."""
    del args, kwargs
    raise UnmodelledError("torch.cuda.make_graphed_callables: given a module to graph; allowed: torch.cuda.graph")


def of_gpu(
    timeline: Timeline,
    allocations: Allocations,
    memory: DeviceMemory,
    gone: Callable[[FreedAccess], None],
    new_stream: Callable[[], Any],
    synchronize: Callable[[], None],
) -> dict[str, Any]:
    """What torch.cuda has of graphs, by name, for one GPU."""

    def begin(pool: object) -> GraphRecording:
        stream = timeline.current
        if stream == DEFAULT:
            says(
                RuntimeError(
                    "CUDA graphs must be captured on a non-default stream. (However, after capture, it's ok to replay them on "
                    "the default stream.)"
                )
            )
        if stream in timeline.captures:
            not_while_capturing()
        recording = GraphRecording(timeline, allocations, memory, stream, pool, gone)
        timeline.captures[stream] = recording
        return recording

    return {
        "CUDAGraph": type("CUDAGraph", (CUDAGraph,), {"begin": staticmethod(begin)}),
        "graph": type("graph", (graph,), {"stream": staticmethod(new_stream), "synchronize": staticmethod(synchronize)}),
        "graph_pool_handle": lambda: (0, id(object())),
        "make_graphed_callables": make_graphed_callables,
    }
