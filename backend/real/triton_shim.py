"""Triton kernels on the virtual GPU: Triton's own interpreter, on the tensors where they lie, every access checked.

The interpreter computes addresses and goes through raw memory; here each load and store is compared with the virtual
GPU's allocations first. Lanes that lie in none are noted and not done: a load gives its `other` value, a store nothing.
TRITON_INTERPRET has to be set before triton is imported (`require_interpreter`), so this belongs into a child process.
This module knows no framework.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import os
import sys
import types
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from backend.errors import CannotRunError
from backend.real.launch_memo import LaunchMemo, TouchedBytes
from backend.real.torch_shim import Allocations, CudaTensor, host

NOT_SIMPLE = ("create_atomic_cas", "create_atomic_rmw", "create_int_to_ptr", "create_ptr_to_int")
"""What the interpreter's builder does past create_masked_load and create_masked_store, or that makes an address a number."""

MAX_STRAYS = 1000
"""Stray accesses kept; a wrong kernel makes one for every program and block."""

Change = tuple[Any, str, Any]
"""An attribute with another value: owner, name, value."""


@dataclass(frozen=True, slots=True)
class StrayAccess:
    """Lanes of one load or store of a Triton kernel outside every allocation.

    first: lowest address; nbytes: bytes of an element; lanes: how many; tag: the allocation that ends nearest before
    `first` (0: none), past_end: bytes from its end.
    """

    kernel: str
    is_write: bool
    first: int
    nbytes: int
    lanes: int
    tag: int
    past_end: int


@dataclass(slots=True)
class KernelGuard:
    """Watches the interpreter's accesses; `strays` fills up while kernels run, `accesses` has those of the last one.

    launched: is told of each launch how to do it again; ran: of each that ran, what it touched.
    lines: of the measured file that its kernels ran.
    """

    allocations: Allocations
    strays: list[StrayAccess] = field(default_factory=list)
    kernel: str = ""
    launched: Callable[[Callable[[], Any]], None] = lambda again: None
    ran: Callable[[str, TouchedBytes], None] = lambda kernel, touched: None
    accesses: TouchedBytes = field(default_factory=TouchedBytes)
    lines: set[int] = field(default_factory=set)

    def enter_kernel(self, name: str, tensors: list[torch.Tensor]) -> None:
        """A kernel starts on these tensors, whose allocations must be known."""
        self.kernel, self.accesses = name, TouchedBytes()
        for tensor in tensors:
            self.allocations.of(tensor)

    def inside(self, addresses: Any, nbytes: int, active: Any, is_write: bool) -> Any:
        """Mask of the active lanes that lie in an allocation."""
        wanted = addresses[active]
        if wanted.size == 0:
            return active
        low, high = int(wanted.min()), int(wanted.max()) + nbytes
        if self._holds(low, high):
            self.accesses.note(wanted, nbytes, is_write)
            return active
        good = np.fromiter((self._holds(int(a), int(a) + nbytes) for a in wanted.ravel()), bool, wanted.size)
        if good.all():
            self.accesses.note(wanted, nbytes, is_write)
            return active
        self.accesses.is_simple = False
        self._note(int(wanted.ravel()[~good].min()), nbytes, int((~good).sum()), is_write)
        kept = active.copy()
        kept[active] = good
        return kept

    def _holds(self, low: int, high: int) -> bool:
        allocation = self.allocations.before(low)
        return allocation is not None and high <= allocation.address + allocation.nbytes

    def _note(self, first: int, nbytes: int, lanes: int, is_write: bool) -> None:
        if len(self.strays) >= MAX_STRAYS:
            return
        near = self.allocations.before(first)
        tag, past = (near.tag, first - near.address - near.nbytes) if near is not None else (0, 0)
        self.strays.append(StrayAccess(self.kernel, is_write, first, nbytes, lanes, tag, past))


def require_interpreter() -> None:
    """Turn Triton's interpreter on for this process; CannotRunError where triton is already in with it off."""
    if "triton" in sys.modules and os.environ.get("TRITON_INTERPRET") != "1":
        raise CannotRunError("triton is already imported without its interpreter; run this in a child process")
    os.environ["TRITON_INTERPRET"] = "1"


@contextlib.contextmanager
def interpreted(
    allocations: Allocations,
    guard: KernelGuard | None = None,
    measured: str | None = None,
    memo: LaunchMemo | None = None,
) -> Iterator[KernelGuard]:
    """Triton kernels launched inside run on the virtual GPU's memory, guarded. guard: None: one that drops stray accesses.

    Without the interpreter's overflow checks, which a compiled kernel does not have either (they cost a fifth of the time).
    measured: a file whose kernels' lines are noted. No other trace function (coverage.py's) sees a kernel: it doubles the time.
    memo: what launches left, for those that are the same again.
    """
    require_interpreter()
    from triton.runtime import interpreter

    guard = guard if guard is not None else KernelGuard(allocations)
    builder = interpreter.interpreter_builder
    unchecked = (builder, "options", dataclasses.replace(builder.options, sanitize_overflow=False))
    changes = (unchecked, *_kernels(interpreter, guard, measured), *_launches(interpreter, guard, allocations, memo))
    with _replaced((*changes, *_accesses(type(builder), guard))), _patched_once(interpreter):
        yield guard


@contextlib.contextmanager
def _replaced(changes: Sequence[Change]) -> Iterator[None]:
    """Attributes of Triton's with other values, until the end."""
    before = [(owner, name, getattr(owner, name)) for owner, name, _ in changes]
    for owner, name, value in changes:
        setattr(owner, name, value)
    try:
        yield
    finally:
        for owner, name, value in before:
            setattr(owner, name, value)


@contextlib.contextmanager
def _patched_once(interpreter: types.ModuleType) -> Iterator[None]:
    """The interpreter's versions of Triton's functions stay until the end, not put there and taken away by each launch."""
    patched: dict[frozenset[int], Any] = {}
    patch = interpreter._patch_lang

    def once(fn: Any) -> Any:
        seen = frozenset(id(each) for each in fn.__globals__.values() if isinstance(each, types.ModuleType))
        if seen not in patched:
            patched[seen] = patch(fn)
        return interpreter._LangPatchScope()

    with _replaced([(interpreter, "_patch_lang", once)]):
        try:
            yield
        finally:
            for scope in reversed(patched.values()):
                scope.restore()


def _kernels(interpreter: types.ModuleType, guard: KernelGuard, measured: str | None) -> Iterator[Change]:
    """A kernel's run: on the tensors' own memory, and traced where its lines are measured."""
    executor = interpreter.GridExecutor
    run = executor.__call__

    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        guard.enter_kernel(self.fn.__name__, [a for a in (*args, *kwargs.values()) if isinstance(a, CudaTensor)])
        file = self.fn.__code__.co_filename
        tracer = _line_tracer(file, guard.accesses.lines) if file == measured else None
        try:
            return _traced_by(tracer, run, self, *args, **kwargs)
        finally:
            guard.lines |= guard.accesses.lines

    def in_place(self: Any, args: Any, kwargs: Any) -> Any:
        return [_plain(a) for a in args], {key: _plain(value) for key, value in kwargs.items()}

    yield executor, "__call__", call
    yield executor, "_init_args_hst", in_place
    yield executor, "_restore_args_dev", lambda self, *args: None


def _launches(
    interpreter: types.ModuleType, guard: KernelGuard, allocations: Allocations, memo: LaunchMemo | None
) -> Iterator[Change]:
    """A launch: noted, and not run where the memo knows what it leaves."""
    function = interpreter.InterpretedFunction
    run = function.run

    def launch(self: Any, *args: Any, grid: Any, warmup: bool, **kwargs: Any) -> None:
        guard.launched(functools.partial(launch, self, *args, grid=grid, warmup=warmup, **kwargs))
        given = None if memo is None or warmup else memo.inputs(self, grid, args, kwargs, allocations)
        known = None if memo is None or given is None else memo.recall(given)
        if known is not None:
            guard.lines |= known.lines
            return
        run(self, *args, grid=grid, warmup=warmup, **kwargs)
        guard.ran(guard.kernel, guard.accesses)
        if memo is not None and given is not None:
            memo.keep(given, guard.accesses)

    yield function, "run", launch


def _accesses(builder: Any, guard: KernelGuard) -> Iterator[Change]:
    """Loads and stores, of the lanes alone that lie in an allocation; what else touches memory is noted as not simple."""
    masked_load, masked_store = builder.create_masked_load, builder.create_masked_store

    def load(self: Any, ptrs: Any, mask: Any, other: Any, *rest: Any) -> Any:
        return masked_load(self, ptrs, _narrowed(guard, ptrs, mask, False), other, *rest)

    def store(self: Any, ptrs: Any, value: Any, mask: Any, *rest: Any) -> Any:
        return masked_store(self, ptrs, value, _narrowed(guard, ptrs, mask, True), *rest)

    def not_simple(does: Callable[..., Any]) -> Callable[..., Any]:
        def done(self: Any, *args: Any) -> Any:
            guard.accesses.is_simple = False
            return does(self, *args)

        return done

    yield builder, "create_masked_load", load
    yield builder, "create_masked_store", store
    for name in NOT_SIMPLE:
        yield builder, name, not_simple(getattr(builder, name))


def _traced_by(tracer: Any, run: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """Run it with another trace function than this thread's. One that is written in C is itself again from the next call on."""
    before = sys.gettrace()
    sys.settrace(tracer)
    try:
        return run(*args, **kwargs)
    finally:
        sys.settrace(before)
        _be_seen()


def _line_tracer(file: str, lines: set[int]) -> Any:
    """A trace function that notes the lines of a file that run."""

    def line(frame: types.FrameType, event: str, arg: Any) -> Any:
        if event == "line":
            lines.add(frame.f_lineno)
        return line

    return lambda frame, event, arg: line if frame.f_code.co_filename == file else None


def _be_seen() -> None:
    """A call for the trace function."""


def _plain(value: Any) -> Any:
    return host(value) if isinstance(value, CudaTensor) else value


def _narrowed(guard: KernelGuard, ptrs: Any, mask: Any, is_write: bool) -> Any:
    """The mask without the lanes that lie outside; the same object where all lie inside."""
    nbytes = max(1, ptrs.get_element_ty().primitive_bitwidth // 8)
    truth = mask.data.astype(bool, copy=False)  # the interpreter computes some masks in integers, which would index
    active = truth if truth.shape == ptrs.data.shape else np.broadcast_to(truth, ptrs.data.shape)
    kept = guard.inside(ptrs.data, nbytes, active, is_write)
    if kept is active:
        return mask
    return type(mask)(kept, mask.dtype)
