"""torch tensors of the virtual GPU as kernels get them (an address, sizes), and numbers as their bytes. Knows no operation."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from backend.errors import UnmodelledError
from backend.real.device_memory import Bytes
from backend.real.torch_shim import host

QUIET_NAN = 0x7FC0_0000
"""What AMD's vector units make of an invalid operation; its upper half is the same in bfloat16."""

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class PlacedTensor:
    """One tensor argument of a kernel. nbytes: of the logical tensor, which is contiguous."""

    name: str
    address: int
    nbytes: int
    shape: tuple[int, ...]
    dtype: torch.dtype

    def offset(self, begin: int) -> str:
        """A byte offset from its start in words."""
        if begin >= self.nbytes:
            return f"{self.name} + {begin:,} bytes, {begin - self.nbytes:,} bytes past its end"
        return f"{self.name} + {begin:,} bytes" if begin >= 0 else f"{self.name} - {-begin:,} bytes, before its start"


def placed(name: str, tensor: torch.Tensor) -> PlacedTensor:
    """Where a tensor lies; UnmodelledError for one that is not contiguous, which AITER's launchers do not take either."""
    plain = host(tensor)
    if not plain.is_contiguous():
        raise UnmodelledError(
            f"tensor {name}: given strides {plain.stride()} for shape {tuple(plain.shape)}; allowed: contiguous"
        )
    return PlacedTensor(name, plain.data_ptr(), plain.numel() * plain.element_size(), tuple(plain.shape), plain.dtype)


def floats(raw: Bytes, dtype: torch.dtype) -> Floats:
    """Numbers of any floating-point type as float32."""
    with torch._C.DisableTorchFunction():
        values: Floats = torch.frombuffer(bytearray(raw.tobytes()), dtype=dtype).to(torch.float32).numpy()
    return values


def raw(values: npt.NDArray[np.floating], dtype: torch.dtype) -> Bytes:
    """The bytes of numbers rounded to a 2- or 4-byte type (to nearest even). A NaN is the GPU's, positive and quiet."""
    with torch._C.DisableTorchFunction():
        made = torch.from_numpy(np.array(values, np.float32, copy=True, order="C").reshape(-1)).to(dtype)
        words = made.view(torch.int32 if dtype is torch.float32 else torch.int16)
        words[made.isnan()] = 0x7E00 if dtype is torch.float16 else QUIET_NAN >> (32 - 8 * dtype.itemsize)
        content: Bytes = made.view(torch.uint8).numpy()
    return content
