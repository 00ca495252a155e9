"""What AITER's C++ finds around it: torch's and AITER's tensor handles, HIP's calls, macros, the helpers of its libraries.

Written for backend.cxx, which knows nothing of AITER. Nothing here decides anything that AITER's text decides.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from backend.aiter.arguments import SCALES
from backend.aiter.tensors import contiguous_strides
from backend.case import Arch
from backend.cxx.host_values import Class, Surroundings
from backend.cxx.kernel_calls import Builtin, lane_number, shuffle, shuffle_up, wave_size, wave_sum
from backend.cxx.types import BOOL, INT, LONG, STRING, ULONG, VOID, Opaque, Pointer

MACROS = (
    "__global__",
    "__device__",
    "__host__",
    "__forceinline__",
    "__launch_bounds__(...)",
    "__shared__",
    "CK_TILE_DEVICE",
    "CK_TILE_HOST_DEVICE",
    "CK_TILE_HOST",
    "__restrict__",
    "AITER_C_ITFS",
    "HIP_CALL(x) (x)",
    "HIP_CALL_LAUNCH(x) (x)",
    "AITER_CHECK(x, ...) do { if(!(x)) { __check_failed(__FILE__, __LINE__ __VA_OPT__(,) __VA_ARGS__); } } while(0)",
    "TORCH_CHECK(x, ...) if(!(x)) { __check_failed(__FILE__, __LINE__ __VA_OPT__(,) __VA_ARGS__); }",
    "TORCH_WARN(...) do { } while(0)",
    'assert(x) do { if(!(x)) { __check_failed(__FILE__, __LINE__, "Assertion `" #x "\' failed."); } } while(0)',
)
"""Macros of HIP, of torch and of AITER's headers, as far as they matter: a failed check is one call."""

LIBRARY = """
namespace ck_tile {
template <typename X, typename Y>
constexpr X integer_divide_ceil(X x, Y y) { return (x + y - 1) / y; }
template <typename X, typename Y>
constexpr X integer_least_multiple(X x, Y y) { return y * integer_divide_ceil(x, y); }
constexpr int32_t next_power_of_two(int32_t x)
{
    int32_t power = 1;
    while(power < x) { power *= 2; }
    return power;
}
}
"""
"""What AITER used of ck_tile until it had its own: a ceiling division, a multiple, a power of two."""

WAVE: Mapping[str, Builtin] = {
    "opus::lane_id": lane_number(True),
    "ck_tile::get_lane_id": lane_number(False),
    "opus::get_warp_size": wave_size,
    "ck_tile::get_warp_size": wave_size,
    "opus::shfl": shuffle,
    "ck_tile::warp_shuffle": shuffle,
    "ck_tile::warp_shuffle_up": shuffle_up,
    "aiter::warpReduce": wave_sum,
}
"""Operations between a wave's lanes, by the names of AITER's libraries. warpReduce is used with AddFunctor alone."""

UNIFORM = ("get_cost_top",)
"""Functions whose result all lanes share, as a butterfly leaves it."""

LDS_BYTES = {Arch.GFX942: 65536, Arch.GFX950: 163840}
"""hipDeviceProp_t::maxSharedMemoryPerMultiProcessor."""

TORCH_DTYPES = {
    "BFloat16": "bf16",
    "Half": "fp16",
    "Float": "fp32",
    "Int": "i32",
    "Char": "i8",
    "Byte": "u8",
    "Float8_e4m3fn": "fp8",
    "Float8_e4m3fnuz": "fp8 fnuz",
}
"""at::ScalarType -> name of a dtype here; fp8 is either of two, by architecture."""


@dataclass(frozen=True, slots=True)
class NotLaunched:
    """AITER's host code ends without a launch. reason: its words. ends_process: by std::abort, by exit or by a signal, so that
    no caller can catch it."""

    reason: str
    ends_process: bool


COMMON_FILE = "csrc/include/aiter_hip_common.h"
"""Says what a failed check and a failed HIP call do."""


def checks_abort(text: str, common: str) -> bool:
    """Whether a failed check of a file ends the process: AITER_CHECK does unless an entry point allows it to throw.

    common: text of COMMON_FILE, "" where there is none.
    """
    return "AITER_CHECK(" in text and "std::abort" in common and "DEFINE_ENTRYPOINT" not in text


_DTYPE_PREFIX = "AITER_DTYPE_"


def dtype_names(enumerators: Iterable[str]) -> list[str]:
    """Names of AITER's dtypes by their number. enumerators: all of a unit, in their order."""
    return [each.removeprefix(_DTYPE_PREFIX) for each in enumerators if each.startswith(_DTYPE_PREFIX)]


def dtype_as(name: str, arch: Arch, numbered: Sequence[str] | None) -> Any:
    """A dtype as a revision's code has it. name: as in TORCH_DTYPES.

    numbered: `dtype_names` of a unit that takes AITER's tensors, None for one that takes torch's.
    """
    if numbered is not None:
        return numbered.index(name)
    return "fp8 fnuz" if name == "fp8" and arch is Arch.GFX942 else name


@dataclass(frozen=True, slots=True)
class Address:
    """Where a tensor's data begins."""

    tensor: str


class Tensor:
    """A tensor handle. dtype: a name of TORCH_DTYPES, or AITER's number of it, by what the revision's code is given."""

    def __init__(
        self,
        name: str,
        shape: tuple[int, ...],
        dtype: Any,
        itemsize: int,
        strides: tuple[int, ...] | None = None,
        is_gpu: bool = True,
    ) -> None:
        self.name = name
        self.shape = shape
        self.given_dtype = dtype
        self.itemsize_ = itemsize
        self.strides = contiguous_strides(shape) if strides is None else strides
        self.device_id = 0
        self.is_gpu = is_gpu

    def size(self, dim: int) -> int:
        """The elements along a dimension."""
        return self.shape[dim]

    def stride(self, dim: int) -> int:
        """The elements between neighbours along a dimension."""
        return self.strides[dim]

    def dim(self) -> int:
        """The number of dimensions."""
        return len(self.shape)

    def numel(self) -> int:
        """The number of elements."""
        count = 1
        for extent in self.shape:
            count *= extent
        return count

    def dtype(self) -> Any:
        """The dtype as the revision's code has it."""
        return self.given_dtype

    def itemsize(self) -> int:
        """Bytes of an element."""
        return self.itemsize_

    def data_ptr(self) -> Address | None:
        """Where the data begins; null of a scale without elements, which launchers ask for."""
        return None if self.name in SCALES and not self.numel() else Address(self.name)

    def is_contiguous(self) -> bool:
        """Whether its elements follow one another."""
        expected = contiguous_strides(self.shape)
        return all(extent == 1 or own == other for extent, own, other in zip(self.shape, self.strides, expected, strict=True))


class DeviceProperties:
    """hipDeviceProp_t, filled by hipGetDeviceProperties."""

    def __init__(self) -> None:
        self.multiProcessorCount = 0
        self.warpSize = 64
        self.maxSharedMemoryPerMultiProcessor = 0


class StringStream:
    """A std::stringstream that is written to."""

    def __init__(self) -> None:
        self._text = ""

    def put(self, value: Any) -> StringStream:
        """Append what `<<` shows of a number or a string; itself."""
        self._text += str(int(value) if isinstance(value, bool) else value)
        return self

    def str(self) -> str:
        """What was written so far."""
        return self._text


ADDRESS = Opaque("address")

_TENSOR_METHODS = {
    "size": LONG,
    "stride": LONG,
    "dim": LONG,
    "numel": LONG,
    "itemsize": ULONG,
    "element_size": ULONG,
    "data_ptr": ADDRESS,
    "is_contiguous": BOOL,
}
_TENSOR_CODE = {"element_size": "{0}.itemsize()", "scalar_type": "{0}.dtype()"}
_DTYPE = Opaque("at::ScalarType")

TORCH_TENSOR = Class(
    {**_TENSOR_METHODS, "dtype": _DTYPE, "scalar_type": _DTYPE, "is_cuda": BOOL}, code={**_TENSOR_CODE, "is_cuda": "{0}.is_gpu"}
)
AITER_TENSOR = Class({**_TENSOR_METHODS, "dtype": INT}, {"device_id": INT, "ndim": INT, "is_gpu": BOOL}, code=_TENSOR_CODE)

_PROPERTIES = Class(members={"multiProcessorCount": INT, "warpSize": INT, "maxSharedMemoryPerMultiProcessor": ULONG})

_HIP_RESULT = Opaque("hipError_t")

FUNCTIONS: Mapping[str, tuple[str, Any]] = {
    "hipGetDevice": ("hip_get_device", _HIP_RESULT),
    "hipSetDevice": ("hip_set_device", _HIP_RESULT),
    "hipGetDeviceProperties": ("hip_get_device_properties", _HIP_RESULT),
    "at::hip::getCurrentHIPStream": ("current_stream", Opaque("hipStream_t")),
    "aiter::getCurrentHIPStream": ("current_stream", Opaque("hipStream_t")),
    "get_gpu_arch": ("get_gpu_arch", STRING),
    "std::getenv": ("getenv", Pointer(Opaque("std::string"))),
    "getenv": ("getenv", Pointer(Opaque("std::string"))),
    "std::atoi": ("atoi", INT),
    "atoi": ("atoi", INT),
    "opus::get_warp_size": ("wave_lanes", INT),
    "ck_tile::get_warp_size": ("wave_lanes", INT),
    "device_of": ("device_of", Opaque("at::Device")),
    "fprintf": ("ignored", INT),
    "toString": ("dtype_text", STRING),
    "AiterDtype_to_str": ("dtype_text", STRING),
    "log2f": ("log2f", Opaque("float result")),
}

SURROUNDINGS_TYPES: Mapping[str, Any] = {
    "hipDevice_t": INT,
    "torch::Tensor": Opaque("torch::Tensor"),
    "at::Tensor": Opaque("torch::Tensor"),
    "aiter_tensor_t": Opaque("aiter_tensor_t"),
    "AiterTensor": Opaque("AiterTensor"),
    "hipStream_t": Opaque("hipStream_t"),
    "hipDeviceProp_t": Opaque("hipDeviceProp_t"),
    "at::ScalarType": _DTYPE,
    "torch::ScalarType": _DTYPE,
    "dim3": Opaque("dim3"),
}

CONSTANTS: Mapping[str, tuple[str, Any]] = {
    f"{space}::{name}": (repr(dtype), _DTYPE)
    for space in ("at::ScalarType", "torch::ScalarType", "torch")
    for name, dtype in TORCH_DTYPES.items()
} | {
    **{f"at::k{name}": (repr(dtype), _DTYPE) for name, dtype in TORCH_DTYPES.items()},
    "stderr": ("None", Pointer(Opaque("FILE"))),
}

GUARDS = frozenset(
    (
        "at::hip::OptionalHIPGuardMasqueradingAsCUDA",
        "at::cuda::OptionalCUDAGuard",
        "at::DeviceGuard",
        "c10::hip::OptionalHIPGuardMasqueradingAsCUDA",
        "HipDeviceGuard",
    )
)


def surroundings(more: Surroundings | None = None) -> Surroundings:
    """What any of AITER's host functions finds, and what one of its files finds besides."""
    more = more or Surroundings()
    return Surroundings(
        functions={**FUNCTIONS, **more.functions},
        constants={**CONSTANTS, **more.constants},
        classes={
            "torch::Tensor": TORCH_TENSOR,
            "aiter_tensor_t": AITER_TENSOR,
            "AiterTensor": AITER_TENSOR,
            "hipDeviceProp_t": _PROPERTIES,
            "std::stringstream": Class({"str": STRING}, code={"operator<<": "{0}.put({1})"}),
            **more.classes,
        },
        made={
            "hipDeviceProp_t": "DeviceProperties",
            "dim3": "dim3",
            "std::stringstream": "StringStream",
            **more.made,
        },
        types={**SURROUNDINGS_TYPES, **more.types},
        ignored=GUARDS | more.ignored,
    )


def python_names(arch: Arch, compute_units: int, environment: Mapping[str, str]) -> dict[str, Any]:
    """Python for the names of FUNCTIONS, for one GPU and one environment."""

    def properties(into: DeviceProperties, device: int) -> int:
        into.multiProcessorCount = compute_units
        into.maxSharedMemoryPerMultiProcessor = LDS_BYTES[arch]
        return 0

    def device(into: Any) -> int:
        into.value = 0
        return 0

    return {
        "hip_get_device": device,
        "hip_set_device": lambda number: 0,
        "hip_get_device_properties": properties,
        "current_stream": lambda: 0,
        "get_gpu_arch": lambda: arch.value,
        "getenv": environment.get,
        "atoi": atoi,
        "device_of": lambda tensor: 0,
        "wave_lanes": lambda: 64,
        "dim3": lambda x, y=1, z=1: (x, y, z),
        "ignored": lambda *_: 0,
        "StringStream": StringStream,
        "DeviceProperties": DeviceProperties,
    }


def atoi(text: str) -> int:
    """The C function: digits at the start, 0 where there are none."""
    found = 0
    sign = 1
    stripped = text.lstrip()
    if stripped[:1] in ("+", "-"):
        sign = -1 if stripped[0] == "-" else 1
        stripped = stripped[1:]
    for each in stripped:
        if not each.isdigit():
            break
        found = found * 10 + int(each)
    return sign * found


__all__ = ["MACROS", "UNIFORM", "VOID", "WAVE", "Address", "Tensor", "python_names", "surroundings"]
