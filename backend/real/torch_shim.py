"""torch's cuda tensors on the CPU: what torch code sees of a GPU, with every allocation known.

Inside `VirtualGpu`, torch behaves as on a ROCm machine with the described GPUs: tensors made on "cuda" are ordinary CPU
tensors of the subclass CudaTensor, which say device cuda, is_cuda True, and hand their class to results.
Every storage made is in `allocations`, in order, so that a view leads back to the allocation that it lies in.

Integer memory that nobody has written reads 0xA5A5...: a stale or missing fill shows. Large floating-point buffers take
address space only (no pages), since their contents are never looked at: a backend may ask for gigabytes of them.
With a DeviceMemory tensors lie where torch's caching allocator would put them, next to each other as on a GPU, and their
contents matter: fresh floating-point memory is NaN.
This module knows neither aiter nor any framework.
"""

from __future__ import annotations

import bisect
import contextlib
import functools
import mmap
import types
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch.multiprocessing.reductions import StorageWeakRef
from torch.overrides import TorchFunctionMode

from backend.real.device_memory import DeviceMemory
from backend.real.happened import HappenedEvent, HappenedStream
from backend.real.theirs import done_by, says

Arguments = tuple[Any, ...]
Keywords = dict[str, Any]

UNWRITTEN_BYTE = 0xA5
"""Fill of fresh integer memory; odd, negative as int32 and far outside any index."""

NAN_BYTE = 0xFF
"""Repeated it is NaN as fp8 e4m3fn, bf16 and float32."""

RESERVED_ONLY_BYTES = 64 << 20
"""Floating-point buffers from this size on are mapped without being backed."""


@dataclass(frozen=True, slots=True)
class GpuFacts:
    """What torch.cuda.get_device_properties says. arch: LLVM's name; num_cu: compute units; memory in bytes."""

    arch: str
    num_cu: int
    name: str = "AMD Instinct"
    memory: int = 192 << 30
    count: int = 1


@dataclass(frozen=True, slots=True)
class Allocation:
    """One storage: `tag` counts up in the order of allocation, `address` is where it lies, `nbytes` its exact size."""

    tag: int
    address: int
    nbytes: int


@dataclass(slots=True)
class Allocations:
    """Every live storage of the virtual GPU, by address; two never overlap.

    torch does not tell when a storage is freed, but a weak reference can be asked. A freed one must not be taken for memory
    of the GPU: it is the process's own heap by then, and a stray store there would break it. A storage made again at the same
    address gets a new tag.
    """

    listeners: list[Callable[[Allocation], None]] = field(default_factory=list)
    _starts: list[int] = field(default_factory=list)
    _by_start: dict[int, Allocation] = field(default_factory=dict)
    _storages: dict[int, StorageWeakRef] = field(default_factory=dict)
    _next: int = 1

    def made(self, tensor: torch.Tensor) -> Allocation:
        """Note the storage of a tensor that was just made."""
        storage = tensor.untyped_storage()
        made = Allocation(self._next, storage.data_ptr(), storage.nbytes())
        self._next += 1
        self._forget(made.address, made.address + max(made.nbytes, 1))
        bisect.insort(self._starts, made.address)
        self._by_start[made.address] = made
        self._storages[made.address] = StorageWeakRef(storage)  # type: ignore[no-untyped-call]
        for listener in self.listeners:
            listener(made)
        return made

    def of(self, tensor: torch.Tensor) -> Allocation:
        """The allocation that a tensor, or the tensor that it is a view of, was made with."""
        with torch._C.DisableTorchFunction():
            storage = tensor.untyped_storage()
        known = self._by_start.get(storage.data_ptr())
        if known is None or known.nbytes != storage.nbytes() or self._freed(storage.data_ptr()):
            return self.made(tensor)
        return known

    def before(self, address: int) -> Allocation | None:
        """The allocation with the highest start that is not above the address; it need not reach the address."""
        while (at := bisect.bisect_right(self._starts, address) - 1) >= 0:
            start = self._starts[at]
            if not self._freed(start):
                return self._by_start[start]
            self._drop(at, at + 1)
        return None

    def clear(self) -> None:
        """Forget everything; tags go on counting."""
        self._starts.clear()
        self._by_start.clear()
        self._storages.clear()
        self.listeners.clear()

    def _forget(self, begin: int, end: int) -> None:
        below = self.before(begin)
        first = bisect.bisect_left(self._starts, begin)
        if below is not None and below.address < begin < below.address + below.nbytes:
            first -= 1
        last = bisect.bisect_left(self._starts, end)
        self._drop(first, last)

    def _freed(self, start: int) -> bool:
        """Whether the storage of the allocation at `start` is gone."""
        return bool(self._storages[start].expired())  # type: ignore[no-untyped-call]

    def _drop(self, first: int, last: int) -> None:
        """Take out the allocations of these places in the order of addresses."""
        for start in self._starts[first:last]:
            del self._by_start[start], self._storages[start]
        del self._starts[first:last]


class CudaTensor(torch.Tensor):
    """A CPU tensor that passes for one on the GPU. Results of operations on it are of its class too."""

    @property
    def device(self) -> torch.device:  # type: ignore[override]
        """Says that it is on cuda:0."""
        return torch.device("cuda", 0)

    @property
    def is_cuda(self) -> bool:  # type: ignore[override]
        """Says that it is on a GPU."""
        return True

    @property
    def is_cpu(self) -> bool:  # type: ignore[override]
        """Says that it is not on the CPU."""
        return False

    def get_device(self) -> int:
        """Gives the number of its GPU."""
        return 0

    def cpu(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        """A copy on the CPU."""
        return host(self).clone()

    def numpy(self, *args: Any, **kwargs: Any) -> Any:
        """Refused, as torch refuses it for a cuda tensor."""
        says(TypeError("can't convert cuda:0 device type tensor to numpy. Use Tensor.cpu() first."))


def _gpu_tensors(value: Any) -> list[CudaTensor]:
    """Tensors on the GPU that a call gave or was given: one, or some of a sequence."""
    return [each for each in (value if isinstance(value, (tuple, list)) else (value,)) if isinstance(each, CudaTensor)]


def _again(func: Any, args: Arguments, kwargs: Keywords, result: Any) -> None:
    """The call once more; what it makes goes to where it made it before."""
    with torch._C.DisableTorchFunction():
        made = func(*args, **kwargs)
        new = made if isinstance(made, (tuple, list)) else (made,)
        old = result if isinstance(result, (tuple, list)) else (result,)
        for before, now in zip(old, new, strict=True):
            if isinstance(before, CudaTensor) and before.data_ptr() != now.data_ptr():
                before.copy_(now)


def host(tensor: torch.Tensor) -> torch.Tensor:
    """The plain CPU tensor on the same memory, for handlers and records."""
    with torch._C.DisableTorchFunctionSubclass():
        return tensor.as_subclass(torch.Tensor)


def extent(tensor: torch.Tensor) -> tuple[int, int]:
    """Address of a tensor's first byte, and the one behind its last; of a view, its own."""
    plain = host(tensor)
    reach = sum((size - 1) * stride for size, stride in zip(plain.shape, plain.stride(), strict=True))
    return plain.data_ptr(), plain.data_ptr() + ((reach + 1) * plain.element_size() if plain.numel() else 0)


class VirtualGpu(TorchFunctionMode):
    """Context in which torch sees the described GPU. Not re-entrant; everything patched is put back on leaving.

    launched: where somebody set it, told of each call that writes memory of the GPU how to do it again, into the same memory.
    """

    def __init__(self, facts: GpuFacts, memory: DeviceMemory | None = None) -> None:
        super().__init__()
        self.facts = facts
        self.memory = memory
        self.allocations = Allocations()
        self.capturing = False
        self.launched: Callable[[Callable[[], None]], None] | None = None
        self._default_device: torch.device | None = None
        self._patches = contextlib.ExitStack()

    def __enter__(self) -> VirtualGpu:
        self._patch()
        super().__enter__()  # type: ignore[no-untyped-call]
        return self

    def __exit__(self, *exc: Any) -> None:
        super().__exit__(*exc)  # type: ignore[no-untyped-call]
        self._patches.close()
        self.allocations.clear()

    def __torch_function__(self, func: Any, types: Any, args: Arguments = (), kwargs: Keywords | None = None) -> Any:
        """Send the call to the CPU and give the result the side that the caller asked for."""
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        if name in ACCESSORS:
            return done_by(func, *args, **kwargs)
        if name == "cuda" and args and isinstance(args[0], torch.Tensor):
            return self._on_gpu(args[0])
        if name == "pin_memory":
            return args[0]
        wanted, args, kwargs = self._rewrite(name, args, kwargs)
        result = self._reserved(name, wanted, args, kwargs) if name in EMPTIES else None
        if result is None:
            result = done_by(func, *args, **kwargs)
        if wanted == "cpu":
            moved = _map(result, host)
            return moved.clone() if name == "to" and moved.data_ptr() == args[0].data_ptr() and _on_gpu(args[0]) else moved
        if wanted == "cuda":
            result = _map(result, lambda t: t if type(t) is CudaTensor else t.as_subclass(CudaTensor))
        if self.memory is not None:
            self._move_all(result)
        if isinstance(result, CudaTensor):
            self._note(name, result, args)
        if self.launched is not None and name not in EMPTIES and (_gpu_tensors(result) or _gpu_tensors(args[:1])):
            self.launched(functools.partial(_again, func, args, kwargs, result))
        return result

    def _move_all(self, result: Any) -> None:
        if type(result) is CudaTensor:
            self._move(result)
        elif isinstance(result, (tuple, list)):
            for item in result:
                self._move_all(item)

    def _move(self, tensor: torch.Tensor) -> None:
        """Put the tensor's storage into the GPU's memory, unless it lies there."""
        assert self.memory is not None
        with torch._C.DisableTorchFunction():
            storage = tensor.untyped_storage()
            if storage.nbytes() and not self.memory.holds(storage.data_ptr()):
                moved = torch.frombuffer(self.memory.allocate(storage.nbytes()), dtype=torch.uint8)
                moved.untyped_storage().copy_(storage)
                target = tensor.detach() if tensor.requires_grad else tensor
                target.set_(moved.untyped_storage(), tensor.storage_offset(), tensor.shape, tensor.stride())
                if target is not tensor:
                    tensor.data = target

    def capture(self) -> contextlib.AbstractContextManager[None]:
        """Context in which torch.cuda.is_current_stream_capturing is true."""

        @contextlib.contextmanager
        def scope() -> Iterator[None]:
            self.capturing = True
            try:
                yield
            finally:
                self.capturing = False

        return scope()

    def _rewrite(self, name: str, args: Arguments, kwargs: Keywords) -> tuple[str | None, Arguments, Keywords]:
        """(side asked for, arguments without a cuda device)."""
        wanted: str | None = None
        device = kwargs.get("device")
        if device is not None:
            wanted = _side(device)
            kwargs = {**kwargs, "device": "cpu"}
        elif name == "to":
            for i, value in enumerate(args[1:], 1):
                if isinstance(value, (str, torch.device)) or (type(value) is int and i == 1):
                    wanted = _side(value)
                    args = (*args[:i], "cpu", *args[i + 1 :])
                elif isinstance(value, torch.Tensor):
                    wanted = "cuda" if isinstance(value, CudaTensor) else "cpu"
        elif name in _ON_THE_DEFAULT_DEVICE and self._default_device is not None and not _of_tensor(name, args):
            wanted = _side(self._default_device)
            kwargs = {**kwargs, "device": "cpu"}
        if kwargs.get("pin_memory"):
            kwargs = {**kwargs, "pin_memory": False}
        return wanted, args, kwargs

    def _on_gpu(self, tensor: torch.Tensor) -> torch.Tensor:
        if isinstance(tensor, CudaTensor):
            return tensor
        made = host(tensor).clone().as_subclass(CudaTensor)
        if self.memory is not None:
            self._move(made)
        self.allocations.made(made)
        return made

    def _note(self, name: str, result: CudaTensor, args: tuple[Any, ...]) -> None:
        """Note a storage that the call made, and fill fresh integer memory."""
        address = result.untyped_storage().data_ptr()
        if name in _FACTORIES or name in EMPTIES:
            self.allocations.made(result)
            if name in EMPTIES and not result.is_floating_point() and result.numel():
                host(result).reshape(-1).view(torch.uint8).fill_(UNWRITTEN_BYTE)
            elif name in EMPTIES and self.memory is not None and result.untyped_storage().nbytes() < RESERVED_ONLY_BYTES:
                _bytes_of(result).fill_(NAN_BYTE)
            return
        if name in VIEWS_AND_INPLACE or name.endswith("_"):
            return
        if not any(isinstance(a, torch.Tensor) and a.untyped_storage().data_ptr() == address for a in args):
            self.allocations.made(result)

    def _reserved(self, name: str, wanted: str | None, args: Arguments, kwargs: Keywords) -> torch.Tensor | None:
        """Address space for a large floating-point buffer; None where an ordinary allocation does."""
        like = args[0] if name in ("new_empty", "empty_like") else None
        if self.memory is not None and (wanted == "cpu" or (wanted is None and not isinstance(like, CudaTensor))):
            return None
        dtype = kwargs.get("dtype") or (args[0].dtype if name in ("new_empty", "empty_like") else torch.get_default_dtype())
        if not isinstance(dtype, torch.dtype) or not dtype.is_floating_point:
            return None
        shape = tuple(args[0].shape) if name == "empty_like" else _shape(args[1:] if name == "new_empty" else args, kwargs)
        if shape is None:
            return None
        count = 1
        for extent in shape:
            count *= extent
        if count * dtype.itemsize < RESERVED_ONLY_BYTES:
            return None
        if self.memory is not None:
            raw = torch.frombuffer(self.memory.allocate(count * dtype.itemsize), dtype=torch.uint8)
            return raw.view(dtype).view(shape).as_subclass(CudaTensor)
        tensor = reserve(shape, dtype)
        is_gpu = kwargs.get("device") is None and args and isinstance(args[0], CudaTensor)
        return tensor.as_subclass(CudaTensor) if is_gpu else tensor

    def _patch(self) -> None:
        facts = self.facts
        properties = types.SimpleNamespace(
            name=facts.name,
            gcnArchName=f"{facts.arch}:sramecc+:xnack-",
            multi_processor_count=facts.num_cu,
            total_memory=facts.memory,
            major=9,
            minor=5 if facts.arch == "gfx950" else 4,
            warp_size=64,
            max_threads_per_multi_processor=2048,
            L2_cache_size=4 << 20,
        )
        gpu: dict[str, Any] = {
            "is_available": lambda: True,
            "is_initialized": lambda: True,
            "init": lambda: None,
            "device_count": lambda: facts.count,
            "current_device": lambda: 0,
            "set_device": lambda device: None,
            "get_device_properties": lambda device=None: properties,
            "get_device_name": lambda device=None: facts.name,
            "get_device_capability": lambda device=None: (properties.major, properties.minor),
            "get_arch_list": lambda: [facts.arch],
            "empty_cache": lambda: None,
            "mem_get_info": lambda device=None: (facts.memory - self._allocated(), facts.memory),
            "memory_allocated": lambda device=None: self._allocated(),
            "memory_reserved": lambda device=None: self._allocated(),
            "max_memory_allocated": lambda device=None: self._peak(),
            "memory_stats": lambda device=None: {"allocated_bytes.all.peak": self._peak()},
            "reset_peak_memory_stats": lambda device=None: None,
            "manual_seed": lambda seed: None,
            "manual_seed_all": lambda seed: None,
            "device": lambda device: contextlib.nullcontext(),
            **self.stream_names(),
        }
        for name, value in gpu.items():
            self._replace(torch.cuda, name, value)
        self._replace(torch.version, "hip", "7.0.0")
        self._replace(torch.compiler, "disable", lambda fn=None, *args, **kwargs: fn if fn is not None else (lambda f: f))
        self._replace(torch, "compile", lambda fn=None, *args, **kwargs: fn if fn is not None else (lambda f: f))
        self._replace(torch, "set_default_device", self._set_default_device)
        self._replace(torch, "get_default_device", lambda: self._default_device or torch.device("cpu"))

    def stream_names(self) -> Mapping[str, Any]:
        """What torch.cuda has of streams and graphs: everything has already happened on each of them."""
        return {
            "is_current_stream_capturing": lambda: self.capturing,
            "synchronize": lambda device=None: None,
            "current_stream": lambda device=None: HappenedStream(),
            "default_stream": lambda device=None: HappenedStream(),
            "stream": lambda stream: contextlib.nullcontext(),
            "Stream": HappenedStream,
            "Event": HappenedEvent,
        }

    def _allocated(self) -> int:
        return self.memory.allocated if self.memory is not None else 0

    def _peak(self) -> int:
        return self.memory.peak if self.memory is not None else 0

    def _set_default_device(self, device: Any) -> None:
        self._default_device = None if device is None else torch.device(device)

    def _replace(self, owner: Any, name: str, value: Any) -> None:
        before = getattr(owner, name)
        setattr(owner, name, value)
        self._patches.callback(setattr, owner, name, before)


def reserve(shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
    """A tensor on address space that is backed only where it is touched."""
    nbytes = dtype.itemsize
    for extent in shape:
        nbytes *= extent
    no_reserve = getattr(mmap, "MAP_NORESERVE", 0)
    memory = mmap.mmap(-1, nbytes, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | no_reserve)
    with torch._C.DisableTorchFunction():
        return torch.frombuffer(memory, dtype=torch.uint8).view(dtype).view(shape)


def _side(device: Any) -> str:
    return "cuda" if type(device) is int or torch.device(device).type == "cuda" else "cpu"


def _on_gpu(tensor: Any) -> bool:
    return isinstance(tensor, CudaTensor)


def _bytes_of(tensor: torch.Tensor) -> torch.Tensor:
    """The whole storage, plain."""
    with torch._C.DisableTorchFunction():
        return torch.empty(0, dtype=torch.uint8).set_(tensor.untyped_storage())


def _of_tensor(name: str, args: Arguments) -> bool:
    """Whether it is a conversion of a tensor, which stays where it is."""
    return name == "as_tensor" and bool(args) and isinstance(args[0], torch.Tensor)


def _map(result: Any, change: Callable[[torch.Tensor], torch.Tensor]) -> Any:
    if isinstance(result, torch.Tensor):
        return change(result)
    if isinstance(result, tuple) and type(result) is tuple:
        return tuple(_map(item, change) for item in result)
    if isinstance(result, list):
        return [_map(item, change) for item in result]
    return result


def _shape(args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[int, ...] | None:
    sizes = kwargs.get("size", args[0] if len(args) == 1 and not isinstance(args[0], int) else args)
    try:
        return tuple(int(extent) for extent in sizes)
    except (TypeError, ValueError):
        return None


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


ACCESSORS = _words("__get__ __set__ size dim stride numel data_ptr untyped_storage element_size item")
"""Calls that make no tensor: answered at once, they are most of the traffic."""

EMPTIES = _words("empty empty_like new_empty empty_strided new_empty_strided")

_FACTORIES = _words(
    """zeros ones full arange tensor rand randn randint randperm eye linspace logspace as_tensor from_numpy scalar_tensor
    zeros_like ones_like full_like rand_like randn_like randint_like new_zeros new_ones new_full new_tensor clone
    empty empty_strided"""
)
"""Calls that make memory."""

_ON_THE_DEFAULT_DEVICE = _words(
    """zeros ones full arange tensor rand randn randint randperm eye linspace logspace as_tensor scalar_tensor
    empty empty_strided tril_indices triu_indices"""
)
"""Those that take the default device where they are told none; the others follow the tensor that they are given."""

VIEWS_AND_INPLACE = _words(
    """view reshape __getitem__ __setitem__ squeeze unsqueeze expand expand_as narrow select split chunk unbind transpose
    permute t view_as detach as_strided flatten unflatten as_subclass contiguous"""
)
"""Calls whose result usually lies in an argument's storage; those that copied are noted when they are looked up."""
