"""Triton kernels on the virtual GPU: Triton's own interpreter, on the tensors where they lie, every access checked.

The interpreter computes addresses and goes through raw memory; here each load, store and atomic operation is held against
the tensor first that its pointer was made from, or, for a pointer that was a number before, against all of the virtual GPU's
allocations. A tensor is what was passed: of a view, what lies from its first to its last element. Lanes outside are noted; of
these the ones in the tensor's storage are done, whose place a GPU has too, and the others are not: a load gives its `other`
value, a store nothing. What a graph captured is held against storages: of a view a replay knows the begin alone.
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
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from backend.errors import CannotRunError
from backend.real.launch_memo import LaunchMemo, TouchedBytes
from backend.real.torch_shim import Allocation, Allocations, CudaTensor, extent, host

NOT_SIMPLE = ("create_int_to_ptr", "create_ptr_to_int")
"""What the interpreter's builder does that makes an address of a number, or a number of one."""

SAME_TENSORS = (
    *(
        "create_addptr",
        "create_bitcast",
        "create_broadcast",
        "create_cat",
        "create_expand_dims",
        "create_gather",
        "create_join",
    ),
    *("create_reshape", "create_select", "create_splat", "create_split", "create_trans", "create_unsplat"),
)
"""What the interpreter's builder makes of pointers that point into the same tensors."""

TENSORS = "tensors"
"""Attribute of the interpreter's pointers: the PassedTensors that it points into; absent where it was made from a number."""

MAX_STRAYS = 1000
"""Stray accesses kept; a wrong kernel makes one for every program and block."""

Change = tuple[Any, str, Any]
"""An attribute with another value: owner, name, value."""


@dataclass(frozen=True, slots=True)
class PassedTensor:
    """A tensor that a kernel was passed, by its parameter: the bytes [begin, end) that are its own, and its storage."""

    name: str
    begin: int
    end: int
    storage: Allocation


@dataclass(frozen=True, slots=True)
class StrayAccess:
    """Lanes of one load, store or atomic operation of a Triton kernel outside the tensor that they were to lie in.

    first: lowest address; nbytes: bytes of an element; lanes: how many. tensor: the parameter, "" for a pointer that was a
    number before. past_end: bytes from its end, or from that of the allocation that ends nearest before `first`; of an access
    before the tensor, from its begin, which is negative.
    """

    kernel: str
    is_write: bool
    first: int
    nbytes: int
    lanes: int
    tensor: str
    past_end: int


@dataclass(slots=True)
class KernelGuard:
    """Watches the interpreter's accesses; `strays` fills up while kernels run, `accesses` has those of the last one.

    launched: is told of each launch how to do it again; ran: of each that ran, what it touched.
    lines: of the measured file that its kernels ran. passed: the last one's tensors, by their id.
    replays: a graph's replay launches, whose kernel has the addresses that were captured, not the ends of the views.
    """

    allocations: Allocations
    strays: list[StrayAccess] = field(default_factory=list)
    kernel: str = ""
    launched: Callable[[Callable[[], Any]], None] = lambda again: None
    ran: Callable[[str, TouchedBytes], None] = lambda kernel, touched: None
    accesses: TouchedBytes = field(default_factory=TouchedBytes)
    lines: set[int] = field(default_factory=set)
    passed: dict[int, PassedTensor] = field(default_factory=dict)
    replays: bool = False

    def enter_kernel(self, name: str, arguments: Mapping[str, Any]) -> None:
        """A kernel starts with these arguments by name, whose allocations must be known."""
        self.kernel, self.accesses = name, TouchedBytes()
        self.passed = {id(tensor): self._passed(key, tensor) for key, value in arguments.items() for tensor in _tensors(value)}

    def own(self, tensor: torch.Tensor) -> tuple[int, int]:
        """The bytes of a tensor that a kernel is passed: first address, address behind the last one."""
        storage = self.allocations.of(tensor)
        return (storage.address, storage.address + storage.nbytes) if self.replays else extent(tensor)

    def inside(self, pointers: Any, nbytes: int, active: Any, is_write: bool) -> Any:
        """Mask of the active lanes that are done. pointers: the interpreter's."""
        wanted = pointers.data[active]
        if wanted.size == 0:
            return active
        tensors: tuple[PassedTensor, ...] | None = pointers.attr.get(TENSORS)
        good = self._in_allocations(wanted, nbytes) if tensors is None else _in_tensors(wanted, nbytes, tensors)
        if good is None:
            self.accesses.note(wanted, nbytes, is_write)
            return active
        self.accesses.is_simple = False
        self._note(int(wanted[~good].min()), nbytes, int((~good).sum()), is_write, tensors)
        for tensor in tensors or ():
            good |= _within(wanted, nbytes, tensor.storage.address, tensor.storage.address + tensor.storage.nbytes)
        kept = np.array(active)
        kept[active] = good
        return kept

    def _passed(self, name: str, tensor: torch.Tensor) -> PassedTensor:
        return PassedTensor(name, *self.own(tensor), self.allocations.of(tensor))

    def _in_allocations(self, wanted: Any, nbytes: int) -> Any:
        """Which of the addresses lie in an allocation; None: all."""
        if self._holds(int(wanted.min()), int(wanted.max()) + nbytes):
            return None
        good = np.fromiter((self._holds(int(a), int(a) + nbytes) for a in wanted), bool, wanted.size)
        return None if good.all() else good

    def _holds(self, low: int, high: int) -> bool:
        allocation = self.allocations.before(low)
        return allocation is not None and high <= allocation.address + allocation.nbytes

    def _note(self, first: int, nbytes: int, lanes: int, is_write: bool, tensors: tuple[PassedTensor, ...] | None) -> None:
        if len(self.strays) >= MAX_STRAYS:
            return
        near = self.allocations.before(first)
        name, past = "", first - near.address - near.nbytes if near is not None else 0
        if tensors:
            of = min(tensors, key=lambda tensor: max(tensor.begin - first, first - tensor.end))
            name, past = of.name, first - (of.end if first >= of.begin else of.begin)
        self.strays.append(StrayAccess(self.kernel, is_write, first, nbytes, lanes, name, past))


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
    with _replaced((*changes, *_accesses(type(builder), guard), *_pointers(interpreter))), _patched_once(interpreter):
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
        guard.enter_kernel(self.fn.__name__, {**dict(zip(self.arg_names, args, strict=False)), **kwargs})
        file = self.fn.__code__.co_filename
        tracer = _line_tracer(file, guard.accesses.lines) if file == measured else None
        try:
            return _traced_by(tracer, run, self, *args, **kwargs)
        finally:
            guard.lines |= guard.accesses.lines

    def pointer(value: Any) -> Any:
        made = convert(_plain(value))
        tensor = interpreter._unwrap_tensor(value)
        if isinstance(tensor, torch.Tensor):
            made.handle.attr[TENSORS] = tuple(passed for passed in (guard.passed.get(id(tensor)),) if passed is not None)
        return made

    convert = interpreter._implicit_cvt
    yield interpreter, "_implicit_cvt", pointer
    yield executor, "__call__", call
    yield executor, "_init_args_hst", lambda self, args, kwargs: (list(args), kwargs)
    yield executor, "_restore_args_dev", lambda self, *args: None


def _launches(
    interpreter: types.ModuleType, guard: KernelGuard, allocations: Allocations, memo: LaunchMemo | None
) -> Iterator[Change]:
    """A launch: noted, and not run where the memo knows what it leaves."""
    function = interpreter.InterpretedFunction
    run = function.run

    def launch(self: Any, *args: Any, grid: Any, warmup: bool, **kwargs: Any) -> None:
        guard.launched(functools.partial(replay, self, *args, grid=grid, warmup=warmup, **kwargs))
        given = None if memo is None or warmup else memo.inputs(self, grid, args, kwargs, allocations, guard.own)
        known = None if memo is None or given is None else memo.recall(given)
        if known is not None:
            guard.lines |= known.lines
            return
        run(self, *args, grid=grid, warmup=warmup, **kwargs)
        guard.ran(guard.kernel, guard.accesses)
        if memo is not None and given is not None:
            memo.keep(given, guard.accesses)

    def replay(*args: Any, **kwargs: Any) -> None:
        guard.replays = True
        try:
            launch(*args, **kwargs)
        finally:
            guard.replays = False

    yield function, "run", launch


def _accesses(builder: Any, guard: KernelGuard) -> Iterator[Change]:
    """Loads, stores and atomic operations, of the lanes alone that are done; what else the memo cannot follow is noted."""
    masked_load, masked_store, swap, update = (
        getattr(builder, f"create_{name}") for name in ("masked_load", "masked_store", "atomic_cas", "atomic_rmw")
    )

    def load(self: Any, ptrs: Any, mask: Any, other: Any, *rest: Any) -> Any:
        return masked_load(self, ptrs, _narrowed(guard, ptrs, mask, False), other, *rest)

    def store(self: Any, ptrs: Any, value: Any, mask: Any, *rest: Any) -> Any:
        return masked_store(self, ptrs, value, _narrowed(guard, ptrs, mask, True), *rest)

    def atomic_rmw(self: Any, op: Any, ptr: Any, val: Any, mask: Any, *rest: Any) -> Any:
        guard.accesses.is_simple = False
        return update(self, op, ptr, val, _narrowed(guard, ptr, mask, True), *rest)

    def atomic_cas(self: Any, ptr: Any, cmp: Any, val: Any, *rest: Any) -> Any:
        guard.accesses.is_simple = False
        kept = guard.inside(ptr, _element_bytes(ptr), np.ones(ptr.data.shape, bool), True)
        if kept.all():
            return swap(self, ptr, cmp, val, *rest)
        done = (type(each)(np.broadcast_to(each.data, kept.shape)[kept], each.dtype) for each in (ptr, cmp, val))
        left = np.zeros(kept.shape, cmp.data.dtype)
        left[kept] = swap(self, *done, *rest).data
        return type(cmp)(left, cmp.dtype.scalar)

    def not_simple(does: Callable[..., Any]) -> Callable[..., Any]:
        def done(self: Any, *args: Any) -> Any:
            guard.accesses.is_simple = False
            return does(self, *args)

        return done

    yield builder, "create_masked_load", load
    yield builder, "create_masked_store", store
    yield builder, "create_atomic_rmw", atomic_rmw
    yield builder, "create_atomic_cas", atomic_cas
    for name in NOT_SIMPLE:
        yield builder, name, not_simple(getattr(builder, name))


def _pointers(interpreter: types.ModuleType) -> Iterator[Change]:
    """What is made of pointers points into their tensors: into those of each, and nobody knows where if nobody does of one."""
    handle = interpreter.TensorHandle

    def pointing(does: Callable[..., Any]) -> Callable[..., Any]:
        def done(self: Any, *args: Any) -> Any:
            made = does(self, *args)
            pointers = [each for each in args if type(each) is handle and each.dtype.scalar.is_ptr()]
            if pointers and all(TENSORS in each.attr for each in pointers):
                tensors = tuple({tensor: None for each in pointers for tensor in each.attr[TENSORS]})
                for each in made if isinstance(made, tuple) else (made,):
                    each.attr[TENSORS] = tensors
            return made

        return done

    def materialized(does: Callable[..., Any]) -> Callable[..., Any]:
        def done(self: Any, *args: Any) -> Any:
            pointers, masks = does(self, *args)
            pointers.attr.update(self.base.attr)
            return pointers, handle(masks, interpreter.tl.int1)

        return done

    builder = type(interpreter.interpreter_builder)
    for name in SAME_TENSORS:
        yield builder, name, pointing(getattr(builder, name))
    for blocks in (interpreter.BlockPointerHandle, interpreter.TensorDescHandle):
        yield blocks, "materialize_pointers", materialized(blocks.materialize_pointers)


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


def _tensors(value: Any) -> list[CudaTensor]:
    """The tensors on the GPU of an argument: itself, in a tuple, or what a wrapper or descriptor is of."""
    if isinstance(value, CudaTensor):
        return [value]
    if isinstance(value, tuple):
        return [tensor for each in value for tensor in _tensors(each)]
    base = getattr(value, "base", None)
    return [] if base is None or isinstance(value, torch.Tensor) else _tensors(base)


def _within(addresses: Any, nbytes: int, begin: int, end: int) -> Any:
    """Which of the elements at these addresses lie in [begin, end)."""
    return (addresses >= begin) & (addresses + np.uint64(nbytes) <= end)


def _in_tensors(wanted: Any, nbytes: int, tensors: Sequence[PassedTensor]) -> Any:
    """Which of the elements at these addresses lie in one of the tensors; None: all."""
    low, high = int(wanted.min()), int(wanted.max()) + nbytes
    if any(tensor.begin <= low and high <= tensor.end for tensor in tensors):
        return None
    good = np.zeros(wanted.shape, bool)
    for tensor in tensors:
        good |= _within(wanted, nbytes, tensor.begin, tensor.end)
    return None if good.all() else good


def _element_bytes(pointers: Any) -> int:
    return max(1, int(pointers.get_element_ty().primitive_bitwidth) // 8)


def _narrowed(guard: KernelGuard, ptrs: Any, mask: Any, is_write: bool) -> Any:
    """The mask without the lanes that are not done; the same object where all are."""
    truth = mask.data.astype(bool, copy=False)  # the interpreter computes some masks in integers, which would index
    active = truth if truth.shape == ptrs.data.shape else np.broadcast_to(truth, ptrs.data.shape)
    kept = guard.inside(ptrs, _element_bytes(ptrs), active, is_write)
    if kept is active:
        return mask
    return type(mask)(kept, mask.dtype)
