"""Triton's driver for the simulated GPU: kernels are compiled by Triton's own AMD backend, as for hardware, and launched here.

Triton asks its driver for a target, a stream, a loader and a launcher (triton/backends/driver.py, triton/backends/amd/driver.py
of Triton 3.7); specialisation, heuristics and autotuning stay its own. There is no clock: what is benchmarked runs once and
takes 1 ms, so of an autotuner's configurations all run and the first one stays. Knows neither memory nor findings.
"""

from __future__ import annotations

import contextlib
import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from backend.case import Arch
from backend.cdna.code_object import Kernel, load_code_object
from backend.cdna.machine import LDS_BYTES
from backend.errors import CannotRunError
from backend.real.theirs import says

MAX_THREADS = 1024
"""Work-items of a workgroup (hipDeviceProp_t.maxThreadsPerBlock of both GPUs)."""

WAVE = 64
MILLISECONDS = 1.0
"""What every benchmark is told to take."""

_FLOATS = {"fp16": "<e", "fp32": "<f", "f32": "<f", "fp64": "<d"}


@dataclass(frozen=True, slots=True)
class TritonLaunch:
    """One launch. name: the function's; grid: workgroups; lds: bytes of dynamic LDS. kernarg: the argument segment.

    tensors: (parameter, tensor) of every pointer that was given as a tensor; numbers: those that were given as whole numbers.
    """

    name: str
    kernel: Kernel
    grid: tuple[int, int, int]
    threads: int
    lds: int
    kernarg: bytes
    tensors: tuple[tuple[str, Any], ...]
    numbers: tuple[int, ...]


class TritonDriver:
    """What `triton.runtime.driver.active` is. launch: does a launch."""

    def __init__(self, arch: Arch, num_cu: int, launch: Callable[[TritonLaunch], None]) -> None:
        self.utils = _Loader(arch, num_cu)
        self._arch = arch
        self._launch = launch

    @staticmethod
    def is_active() -> bool:
        """The GPU is there."""
        return True

    def get_current_target(self) -> Any:
        """The architecture that is simulated."""
        from triton.backends.compiler import GPUTarget

        return GPUTarget("hip", self._arch.value, WAVE)

    def get_current_device(self) -> int:
        """The first device, which is the only one."""
        return 0

    def set_current_device(self, device: int) -> None:
        """There is nothing to choose."""

    def get_current_stream(self, device: int) -> int:
        """The null stream; everything on it has happened."""
        del device
        return 0

    def get_device_capability(self, device: int | None = None) -> tuple[int, int]:
        """As torch tells it."""
        del device
        return (9, 5 if self._arch is Arch.GFX950 else 4)

    def get_active_torch_device(self) -> Any:
        """torch's name of the GPU."""
        import torch

        return torch.device("cuda", 0)

    def get_device_interface(self) -> Any:
        """torch.cuda, whose events and streams are those of the simulated GPU."""
        import torch

        return torch.cuda

    def get_benchmarker(self) -> Callable[..., Any]:
        """The function that Triton measures a kernel with."""
        return benchmarked

    def get_empty_cache_for_benchmark(self) -> Any:
        """A small tensor: no cache is simulated that would have to be emptied."""
        import torch

        return torch.empty(1, dtype=torch.int, device="cuda")

    def clear_cache(self, cache: Any) -> None:
        """Does nothing: there is no cache of a GPU."""

    def map_python_to_cpp_type(self, ty: str) -> str:
        """As Triton's AMD backend does it."""
        from triton.backends.amd.driver import ty_to_cpp

        name: str = ty_to_cpp(ty)
        return name

    def launcher_cls(self, src: Any, metadata: Any) -> Callable[..., None]:
        """The launcher of a compiled kernel (triton.compiler.CompiledKernel)."""
        if getattr(metadata, "launch_cooperative_grid", False):
            raise CannotRunError(f"Triton kernel {metadata.name}: a cooperative grid; workgroups run one after the other here")
        return _Launcher(src, metadata, self._launch)


def benchmarked(fn: Callable[[], Any], *args: Any, quantiles: Sequence[float] | None = None, **kwargs: Any) -> Any:
    """triton.testing.do_bench: runs once; MILLISECONDS, or as many of them as there are quantiles."""
    del args
    fn()
    if kwargs.get("return_mode") == "all":
        return [MILLISECONDS]
    return MILLISECONDS if not quantiles or len(quantiles) == 1 else [MILLISECONDS] * len(quantiles)


class _Loader:
    """`utils` of a driver: what there is of a device, and code objects as kernels."""

    def __init__(self, arch: Arch, num_cu: int) -> None:
        self._properties = {
            "max_shared_mem": LDS_BYTES[arch.value],
            "max_num_regs": 512,
            "multiprocessor_count": num_cu,
            "sm_clock_rate": 2_100_000,
            "mem_clock_rate": 1_300_000,
            "mem_bus_width": 8192,
            "arch": arch.value,
            "warpSize": WAVE,
            "cooperativeLaunch": 0,
        }

    def get_device_properties(self, device: int) -> Mapping[str, Any]:
        """By the names of triton/backends/amd/driver.c."""
        del device
        return self._properties

    def load_binary(self, name: str, content: bytes, shared: int, device: int) -> tuple[Any, Kernel, int, int, int]:
        """(module, function, registers, spills, work-items of a workgroup at most)."""
        del shared, device
        found = load_code_object(content)
        (kernel,) = (each for each in found.kernels if each.name == name)
        return found, kernel, kernel.vgpr_count, 0, MAX_THREADS


class _Launcher:
    """Packs the arguments as triton/backends/amd/driver.c does, and hands the launch over."""

    def __init__(self, src: Any, metadata: Any, launch: Callable[[TritonLaunch], None]) -> None:
        self._signature = dict(src.signature)
        self._metadata = metadata
        self._launch = launch
        self._described = getattr(metadata, "tensordesc_meta", None)

    def __call__(
        self,
        grid_x: int,
        grid_y: int,
        grid_z: int,
        stream: int,
        function: Kernel,
        packed: Any,
        launch_metadata: Any,
        enter: Any,
        leave: Any,
        *args: Any,
    ) -> None:
        del stream, packed
        if grid_x * grid_y * grid_z <= 0:
            return
        if enter is not None:
            enter(launch_metadata)
        fields = list(self._fields(args))
        metadata = self._metadata
        self._launch(
            TritonLaunch(
                metadata.name,
                function,
                (grid_x, grid_y, grid_z),
                metadata.num_warps * WAVE,
                metadata.shared,
                _segment(function, [(kind, _value(value)) for _, kind, value in fields]),
                tuple((name, value) for name, _, value in fields if hasattr(value, "data_ptr")),
                tuple(value for _, kind, value in fields if type(value) is int and kind not in _FLOATS),
            )
        )
        if leave is not None:
            leave(launch_metadata)

    def _fields(self, args: Sequence[Any]) -> Iterator[tuple[str, str, Any]]:
        """(parameter, type, value) of everything that the kernel gets; what is compiled in is left out."""
        from triton.backends.amd.driver import expand_signature, make_tensordesc_arg

        for (name, kind), value in zip(self._signature.items(), args, strict=True):
            if isinstance(kind, str) and kind.startswith("tensordesc"):
                kinds = expand_signature([kind], None)
                for each, part in zip(kinds, make_tensordesc_arg(value, None, None), strict=True):
                    yield name, each, part
            else:
                yield from _flattened(name, kind, value)


def _flattened(name: str, kind: Any, value: Any) -> Iterator[tuple[str, str, Any]]:
    if isinstance(kind, tuple):
        for each, part in zip(kind, value, strict=True):
            yield from _flattened(name, each, part)
    elif kind != "constexpr":
        yield name, kind, value


def _value(value: Any) -> int | float:
    """A number as it is passed; a pointer's address. Raises ValueError, as Triton does, for a tensor that is not on the GPU."""
    if value is None:
        return 0
    if not hasattr(value, "data_ptr"):
        return value  # type: ignore[no-any-return]
    if not getattr(value, "is_cuda", True):
        says(ValueError("Pointer argument cannot be accessed from Triton (cpu tensor?)"))
    address: int = value.data_ptr()
    return address


def _packed(kind: str, value: int | float, size: int) -> bytes:
    if kind == "bf16":
        return struct.pack("<f", value)[2:]
    if kind in _FLOATS:
        return struct.pack(_FLOATS[kind], value)
    return (int(value) & (1 << 8 * size) - 1).to_bytes(size, "little")


def _segment(kernel: Kernel, values: Sequence[tuple[str, int | float]]) -> bytes:
    """The argument segment; the compiler's own pointers, which follow the kernel's (scratch that nobody asks for), are null."""
    segment = bytearray(max(kernel.kernarg_size, 16))
    declared = [each for each in kernel.arguments if not each.kind.startswith("hidden_")]
    for argument, (kind, value) in zip(declared, values, strict=False):
        segment[argument.offset : argument.offset + argument.size] = _packed(kind, value, argument.size)
    return bytes(segment)


@contextlib.contextmanager
def driven(driver: TritonDriver) -> Iterator[None]:
    """Triton kernels that are launched inside are compiled for `driver` and launched by it."""
    import triton
    import triton.testing
    from triton.runtime.driver import driver as config

    before = (config._active, triton.testing.do_bench, triton.testing.do_bench_cudagraph)
    config.set_active(driver)
    triton.testing.do_bench = triton.testing.do_bench_cudagraph = benchmarked
    try:
        yield
    finally:
        config._active, triton.testing.do_bench, triton.testing.do_bench_cudagraph = before
