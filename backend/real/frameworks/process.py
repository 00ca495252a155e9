"""What every driven framework needs around its file: environment, virtual GPU, packages, graphs, calls by parameter name.

Knows no framework.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import gc
import inspect
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from backend.aiter.arguments import TargetGpu
from backend.errors import CannotRunError
from backend.real.aiter_ops import REDUCE, UPDATING, AiterSource, Handlers, OpCall, aiter_roots, operation
from backend.real.frameworks.by_arguments import (
    CHECKS,
    OWN_KERNELS,
    SEGMENTED,
    SIGNATURES,
    argument_faults,
    as_addresses,
    is_checked,
    result_of,
)
from backend.real.frameworks.fetch import BackendSource
from backend.real.frameworks.outputs import computed
from backend.real.frameworks.record import ArgumentFault
from backend.real.frameworks.streamed import StreamedGpu, Unordered, asks_for_streams
from backend.real.handlers import PLANNERS, STAGE_1
from backend.real.launch_memo import LaunchMemo
from backend.real.noted_call import SourceLine
from backend.real.observe import CallWatcher, DecodeSeen, line_in
from backend.real.python.modules import LazyModule, Root, VirtualPackages
from backend.real.python.poison import Undecidable
from backend.real.torch_shim import GpuFacts, VirtualGpu
from backend.real.triton_shim import KernelGuard, interpreted

SEGMENTED_MODULE = "aiter.ops.triton.attention.mla"

OPTIONAL_MODULES = {
    "aiter.ops.triton.gluon.mla_gluon": "2026-08",
    "aiter.ops.triton.gluon.mla_decode_gluon": "2026-06",
    SEGMENTED_MODULE: "2026-08",
    "aiter.ops.triton.fusions.fused_mla_prefill_qkv_fp8": "",
}
"""Modules of AITER that backends do without where it lacks them: decode for few heads, prompts in one launch.

Absent unless the tree in use has them; of what is built in, the release that has each.
"""


CapturedOperation = OpCall | Callable[[], Any]
"""A call into AITER, or how to do again what torch or a Triton kernel of the framework's own does."""

LAUNCHES = LaunchMemo()
"""The frameworks' own kernels, over all scenarios that this process runs: most differ in heads and types, unseen by them."""


@dataclass(slots=True)
class OperationLog:
    """Handlers in front of handlers: while a graph is captured, operations are kept, so that a replay does them again.

    planned: told of a planning operation that a replay does; called: of every call that is done.
    splits: KV splits that AITER's own Python handed to stage 1 last, None where none of it runs. file: under test.
    by_arguments: calls of kernels that are not run here, with what is wrong with their arguments and where they were made.
    """

    inner: Handlers
    file: str = ""
    captured: list[CapturedOperation] | None = None
    splits: int | None = None
    by_arguments: list[tuple[str, tuple[ArgumentFault, ...], SourceLine | None]] = field(default_factory=list)
    planned: Callable[[OpCall], None] = lambda call: None
    called: Callable[[OpCall], None] = lambda call: None
    _serving: bool = False

    def serves(self, name: str) -> bool:
        """As the inner handlers, and calls of which the arguments are looked at."""
        return self.inner.serves(name) or name in CHECKS

    def handle(self, call: OpCall) -> Any:
        """Keep it while capturing, then as the inner handlers."""
        if self.captured is not None:
            self.captured.append(call)
        if call.name == STAGE_1:
            self.splits = int(call.arguments["splitData"].shape[1])
        return self.do(call)

    def do(self, call: OpCall) -> Any:
        """Do an operation without keeping it, nor what its handler does."""
        self._serving = True
        try:
            return self._do(call)
        finally:
            self._serving = False

    def _do(self, call: OpCall) -> Any:
        self.called(call)
        if is_checked(call):
            self.by_arguments.append((call.name, argument_faults(call), line_in(self.file)))
            return result_of(call)
        return self.inner.handle(call)

    def launched(self, again: Callable[[], Any]) -> None:
        """The GPU was given something else to do: kept while capturing."""
        if self.captured is not None and not self._serving:
            self.captured.append(again)

    def replay(self, call: CapturedOperation) -> None:
        """Do a captured operation again: its kernel has the address of what it was given, not the end that a view of it had."""
        if not isinstance(call, OpCall):
            call()
            return
        if call.name in PLANNERS:
            self.planned(call)
        self.do(dataclasses.replace(call, arguments=as_addresses(call.arguments)) if is_checked(call) else call)

    @contextlib.contextmanager
    def capture(self) -> Iterator[list[CapturedOperation]]:
        """Collect the operations done inside."""
        self.captured = []
        try:
            yield self.captured
        finally:
            self.captured = None


@dataclass(slots=True)
class Process:
    """One framework process: everything that lives from its start to its end."""

    source: BackendSource
    device: TargetGpu
    gpu: VirtualGpu
    guard: KernelGuard
    watcher: CallWatcher
    operations: OperationLog
    packages: VirtualPackages
    module: LazyModule

    def unordered(self) -> tuple[Unordered, ...]:
        """What was done on two streams with no order between it since the last time."""
        return self.gpu.taken() if isinstance(self.gpu, StreamedGpu) else ()


@contextlib.contextmanager
def process(
    source: BackendSource,
    aiter: AiterSource,
    device: TargetGpu,
    handlers: Handlers,
    fakes: Mapping[str, Any],
    extra_roots: Sequence[Root] = (),
    of_aiter: Mapping[str, Any] | None = None,
) -> Iterator[Process]:
    """Start a process in which the file under test has been executed; ends with everything torn down.

    fakes: values by bare name for the framework's package; of_aiter: the same for AITER's, of what steers no attention.
    CannotRunError where the file needs what nobody declared.
    """
    facts = GpuFacts(device.arch.value, device.num_cu)
    log = OperationLog(handlers, source.target.filename)
    with contextlib.ExitStack() as stack:
        stack.callback(_collect)
        file = source.target.filename
        streamed = StreamedGpu(facts, lambda: line_in(file)) if asks_for_streams(source.target.text) else None
        gpu = stack.enter_context(VirtualGpu(facts) if streamed is None else streamed)
        memo = LAUNCHES if streamed is None else None  # which runs nothing, so that nobody knows what is touched
        guard = stack.enter_context(interpreted(gpu.allocations, measured=file, memo=memo))
        if streamed is not None:
            log.called, guard.ran = streamed.called, streamed.ran
        guard.launched = gpu.launched = log.launched
        watcher = CallWatcher(gpu.allocations, file, lambda: log.splits, computed)
        log.planned = watcher.planned_again
        absent = frozenset(name for name in OPTIONAL_MODULES if not _has(aiter, name))
        stand_in = [name for name in SIGNATURES if name != REDUCE or aiter.tree is None]
        optional = {name: operation(name, SIGNATURES[name], log) for name in stand_in}
        own = {name: operation(name, signature, log) for name, signature in OWN_KERNELS.items()}
        roots = [Root(source.framework.name, source.tree, {**fakes, **own}), *extra_roots]
        segmented = {} if SEGMENTED_MODULE in absent else {SEGMENTED_MODULE: {"mla_decode_fwd": optional[SEGMENTED]}}
        known = {**optional, **(of_aiter or {})}
        roots += aiter_roots(aiter, log, watcher, device.arch.value, device.num_cu, known, absent, segmented, (UPDATING,))
        stack.enter_context(_dataclasses_compiled_once())
        packages = stack.enter_context(VirtualPackages(roots))
        try:
            with undecided(source, packages):
                module = _executed(source, packages)
                yield Process(source, device, gpu, guard, watcher, log, packages, module)
        finally:
            watcher.decodes.clear()


def _has(aiter: AiterSource, optional: str) -> bool:
    return aiter.tree.index(optional) is not None if aiter.tree is not None else OPTIONAL_MODULES[optional] == aiter.release


def _executed(source: BackendSource, packages: VirtualPackages) -> LazyModule:
    """The file under test; CannotRunError where it ends with an exception before any class is built."""
    try:
        return packages.execute(source.target)
    except CannotRunError:
        raise
    except Exception as error:
        line = line_of(error, source.target.filename)
        where = f"{line.file}:{line.line}" if line is not None else source.target.filename
        what = f"{type(error).__name__}: {error}"
        raise CannotRunError(f"{where}: the file raises {what} when it is imported; declare what it misses") from error


@contextlib.contextmanager
def _dataclasses_compiled_once() -> Iterator[None]:
    """A dataclass's methods are a text that Python compiles anew whenever the class is made: here once for all processes."""
    setattr(dataclasses, "exec", lambda text, *names: exec(_of_text(text), *names))  # noqa: B010 - it has no such name
    try:
        yield
    finally:
        delattr(dataclasses, "exec")


@functools.lru_cache(maxsize=10_000)
def _of_text(text: str) -> Any:
    return compile(text, "<string>", "exec", dont_inherit=True)


def _collect() -> None:
    """Drop the process's reference cycles (gigabytes after a few hundred cases), looking only at what this case made.

    What is left alive (parsed definitions, torch) is taken out of later collections, which otherwise cost more than a case.
    """
    gc.collect()
    gc.freeze()


@contextlib.contextmanager
def undecided(source: BackendSource, packages: VirtualPackages) -> Iterator[None]:
    """Turn Undecidable into CannotRunError that says where in the file it happened, and which slices had failed."""
    try:
        yield
    except Undecidable as missing:
        line = line_of(missing, source.target.filename)
        where = f"{line.file}:{line.line} ({line.function})" if line is not None else source.target.filename
        raise CannotRunError(f"{where}: {missing}") from missing


def line_of(error: BaseException, file: str) -> SourceLine | None:
    """The innermost line of the file in an exception's traceback."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename == file]
    return SourceLine(file, frames[-1].lineno or 0, frames[-1].name) if frames else None


def refuses(error: BaseException, file: str) -> bool:
    """Whether a raise or assert statement of the file made the exception, rather than something that it called or got wrong."""
    innermost = traceback.extract_tb(error.__traceback__)[-1]
    return innermost.filename == file and (innermost.line or "").startswith(("raise", "assert"))


def call_by_name(function: Callable[..., Any], known: Mapping[str, Any], what: str) -> Any:
    """Call a method with those of the known values that it takes, by parameter name.

    CannotRunError names a required parameter that is not among them: the framework's signature changed.
    """
    given: dict[str, Any] = {}
    for name, parameter in inspect.signature(function).parameters.items():
        if parameter.kind in (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD):
            continue
        if name in known:
            given[name] = known[name]
        elif parameter.default is inspect.Parameter.empty:
            raise CannotRunError(
                f"{what}: parameter {name!r} is not known to the driver; known: {', '.join(sorted(known))}; declare its value"
            )
    return function(**given)


def first_method(target: Any, names: Sequence[str], what: str) -> str:
    """The first of the names that the object has; CannotRunError names them where it has none."""
    for name in names:
        if callable(getattr(target, name, None)):
            return name
    raise CannotRunError(f"{what}: none of {', '.join(names)} is there; the file's interface changed")


@dataclass(slots=True)
class CapturedGraph:
    """A captured graph: its batch, the decode calls made in it, and the operations that a replay does again."""

    batch: int
    decodes: list[DecodeSeen]
    operations: list[CapturedOperation] = field(default_factory=list)
