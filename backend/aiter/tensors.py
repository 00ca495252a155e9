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
    """A tensor of a launch. shape: elements a dimension. gap: elements between one row (of the first dimension) and the next
    that are not its own, as in a view of a larger tensor; rows themselves are contiguous."""

    shape: tuple[int, ...]
    dtype: ElementType
    gap: int = 0

    @property
    def nbytes(self) -> int:
        """Bytes from the first element to behind the last, gaps between included."""
        elements = prod(self.shape)
        if self.gap and elements:
            elements += self.gap * (self.shape[0] - 1)
        return elements * self.dtype.itemsize

    @property
    def row_bytes(self) -> int:
        """Bytes from the begin of a row to the begin of the next."""
        return (prod(self.shape[1:]) + self.gap) * self.dtype.itemsize


NO_VIEW = "view size is not compatible with input tensor's size and stride"
"""What torch raises of a view that takes a copy."""


def contiguous_strides(shape: tuple[int, ...]) -> tuple[int, ...]:
    """Strides of a tensor whose elements follow one another, in elements."""
    strides = [1] * len(shape)
    for dim in range(len(shape) - 2, -1, -1):
        strides[dim] = strides[dim + 1] * max(1, shape[dim + 1])
    return tuple(strides)


def viewed_strides(shape: tuple[int, ...], strides: tuple[int, ...], wanted: tuple[int, ...]) -> tuple[int, ...] | None:
    """Strides of the same elements, in elements, in another shape of as many; None where that takes a copy (torch's rule)."""
    if 0 in shape:
        return contiguous_strides(wanted)
    runs: list[tuple[int, int]] = []  # from the last dimension on: elements that are evenly apart, and how far
    for extent, stride in zip(reversed(shape), reversed(strides), strict=True):
        if extent > 1 and runs and stride == runs[-1][0] * runs[-1][1]:
            runs[-1] = (runs[-1][0] * extent, runs[-1][1])
        elif extent > 1:
            runs.append((extent, stride))
    found: list[int] = []
    left, step, ahead = 1, 1, iter(runs)
    for extent in reversed(wanted):
        if extent > 1 and left == 1:
            left, step = next(ahead)
        if left % extent:
            return None
        found.append(step)
        left, step = left // extent, step * extent
    return tuple(reversed(found))


def gap_between_rows(shape: tuple[int, ...], strides: tuple[int, ...]) -> int | None:
    """TensorSpec.gap of a tensor with these strides; None where it is no tensor with contiguous rows one behind the other."""
    row = tuple(zip(shape[1:], strides[1:], contiguous_strides(shape)[1:], strict=True))
    if 0 in shape or any(extent > 1 and stride != expected for extent, stride, expected in row):
        return 0 if 0 in shape else None
    gap = strides[0] - prod(shape[1:]) if shape and shape[0] > 1 else 0
    return gap if gap >= 0 else None
