"""Shapes and element types of the tensors of a launch."""

from __future__ import annotations

from enum import StrEnum
from math import prod
from typing import NamedTuple

from backend.case import DType, OutputType


class ElementType(StrEnum):
    """Element types of the tensors of a launch."""

    FP8 = "fp8"
    BF16 = "bf16"
    F16 = "f16"
    F32 = "f32"
    I32 = "i32"
    U64 = "u64"

    @property
    def itemsize(self) -> int:
        """The bytes that an element takes."""
        return _ITEM_SIZE[self]


_ITEM_SIZE = {
    ElementType.FP8: 1,
    ElementType.BF16: 2,
    ElementType.F16: 2,
    ElementType.F32: 4,
    ElementType.I32: 4,
    ElementType.U64: 8,
}

ELEMENT_OF = {DType.FP8: ElementType.FP8, DType.BF16: ElementType.BF16}
"""Element type of q or KV of a case."""

ELEMENT_OF_OUTPUT = {
    OutputType.BF16: ElementType.BF16,
    OutputType.FP16: ElementType.F16,
    OutputType.FP8: ElementType.FP8,
    OutputType.FP32: ElementType.F32,
}
"""Element type of o of a case."""


class TensorSpec(NamedTuple):
    """A contiguous tensor of a launch. shape: elements a dimension."""

    shape: tuple[int, ...]
    dtype: ElementType

    @property
    def nbytes(self) -> int:
        """Bytes of the logical tensor."""
        return prod(self.shape) * self.dtype.itemsize


def contiguous_strides(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Strides of a tensor whose elements follow one another, in elements."""
    strides = [1] * len(shape)
    for dim in range(len(shape) - 2, -1, -1):
        strides[dim] = strides[dim + 1] * max(1, shape[dim + 1])
    return tuple(strides)
