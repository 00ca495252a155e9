"""torch tensors of the virtual GPU as kernels get them (an address, sizes), and numbers as their bytes. Knows no operation."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from backend.aiter.tensors import gap_between_rows
from backend.errors import UnmodelledError
from backend.real.device_memory import Bytes
from backend.real.torch_shim import host
from backend.words import counted

QUIET_NAN = 0x7FC0_0000
"""What AMD's vector units make of an invalid operation; its upper half is the same in bfloat16."""

Floats = npt.NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class PlacedTensor:
    """One tensor argument of a kernel. nbytes: from its first byte to behind its last; row_bytes: from one of its rows to the
    next; head_bytes: from one head of a row to the next, None where rows are contiguous."""

    name: str
    address: int
    nbytes: int
    shape: tuple[int, ...]
    dtype: torch.dtype
    row_bytes: int
    head_bytes: int | None = None

    def stretches(self, row: int) -> Iterator[tuple[int, slice]]:
        """Where a row lies: byte offsets from the tensor's start, each with the bytes of the row that are there."""
        size = math.prod(self.shape[1:]) * self.dtype.itemsize
        part = size if self.head_bytes is None else size // self.shape[1]
        for head in range(size // part):
            yield row * self.row_bytes + head * (self.head_bytes or 0), slice(head * part, (head + 1) * part)

    def offset(self, begin: int) -> str:
        """A byte offset from its start in words."""
        if begin >= self.nbytes:
            return f"{self.name} + {counted(begin, 'byte')}, {counted(begin - self.nbytes, 'byte')} past its end"
        return (
            f"{self.name} + {counted(begin, 'byte')}"
            if begin >= 0
            else f"{self.name} - {counted(-begin, 'byte')}, before its start"
        )


def placed(name: str, tensor: torch.Tensor) -> PlacedTensor:
    """Where a tensor lies; UnmodelledError for one whose rows are not contiguous, or not one behind the other.

    Of o alone, [rows, heads, width], heads may lie anywhere, as the merge takes its strides.
    """
    plain = host(tensor)
    shape, strides, item = tuple(plain.shape), plain.stride(), plain.element_size()
    gap = gap_between_rows(shape, tuple(strides))
    if gap is None and name == "o" and len(shape) == 3 and strides[2] == 1 and min(strides) > 0:
        end = sum((extent - 1) * stride for extent, stride in zip(shape, strides, strict=True)) + 1
        apart = (strides[0] * item, strides[1] * item)
        return PlacedTensor(name, plain.data_ptr(), end * item, shape, plain.dtype, *apart)
    if gap is None:
        raise UnmodelledError(f"tensor {name}: given strides {strides} for shape {shape}; allowed: contiguous rows")
    row = plain.numel() // shape[0] if shape and shape[0] else 0
    size = plain.numel() + (gap * (shape[0] - 1) if gap else 0)
    return PlacedTensor(name, plain.data_ptr(), size * item, shape, plain.dtype, (row + gap) * item)


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
