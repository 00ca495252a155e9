"""Tensors that are a shape, strides, a dtype and a name, with torch's rules for views; for Python host code without torch."""

from __future__ import annotations

import math
from typing import Any

from backend.aiter.tensors import NO_VIEW, contiguous_strides, viewed_strides
from backend.errors import CannotRunError

ITEM_SIZES = {
    "fp8": 1,
    "uint8": 1,
    "int8": 1,
    "bf16": 2,
    "fp16": 2,
    "fp32": 4,
    "int32": 4,
    "uint32": 4,
    "int64": 8,
    "uint64": 8,
}
"""Bytes of an element by dtype."""


class HostCodeError(CannotRunError):
    """The revision's function uses something that is not provided for; the message names it. Such a revision is skipped."""


class RefusedByHostCode(Exception):  # noqa: N818 - an answer, not an error
    """The revision's own code raises; the text is what a caller sees."""


class ShapedTensor:
    """A tensor without elements. name: whose memory it is; a view has the name of what it is a view of."""

    device = "cuda"
    is_cuda = True

    def __init__(self, shape: tuple[int, ...], dtype: str, name: str = "", strides: tuple[int, ...] | None = None) -> None:
        self.shape = tuple(shape)
        self.dtype = dtype
        self.name = name
        self.strides = contiguous_strides(self.shape) if strides is None else strides
        self.copied = False

    @property
    def ndim(self) -> int:
        """The number of dimensions."""
        return len(self.shape)

    def dim(self) -> int:
        """The number of dimensions."""
        return len(self.shape)

    def size(self, dim: int | None = None) -> Any:
        """One extent, or all."""
        return self.shape if dim is None else self.shape[dim]

    def numel(self) -> int:
        """The number of elements."""
        return math.prod(self.shape)

    def element_size(self) -> int:
        """Bytes of an element."""
        return ITEM_SIZES[self.dtype]

    def stride(self, dim: int | None = None) -> Any:
        """Elements between neighbours in a dimension, or in all."""
        return self.strides if dim is None else self.strides[dim]

    def is_contiguous(self) -> bool:
        """Whether its elements follow one another."""
        expected = contiguous_strides(self.shape)
        pairs = zip(self.shape, self.strides, expected, strict=True)
        return self.numel() == 0 or all(extent == 1 or own == other for extent, own, other in pairs)

    def view(self, *shape: Any) -> ShapedTensor:
        """The same elements in another shape; one extent may be -1. Raises RefusedByHostCode as torch raises."""
        wanted = self._wanted("view", shape)
        strides = viewed_strides(self.shape, self.strides, wanted)
        if strides is None:
            raise RefusedByHostCode(f"RuntimeError: {NO_VIEW}")
        return self._made(wanted, strides)

    def reshape(self, *shape: Any) -> ShapedTensor:
        """A view where one can be, a copy of the elements otherwise."""
        wanted = self._wanted("reshape", shape)
        strides = viewed_strides(self.shape, self.strides, wanted)
        made = self._made(wanted, contiguous_strides(wanted) if strides is None else strides)
        made.copied = self.copied or strides is None
        return made

    def permute(self, *dims: int) -> ShapedTensor:
        """Dimensions in another order."""
        return self._made(tuple(self.shape[dim] for dim in dims), tuple(self.strides[dim] for dim in dims))

    def transpose(self, first: int, second: int) -> ShapedTensor:
        """Two dimensions changed for each other."""
        order = list(range(self.ndim))
        order[first], order[second] = order[second], order[first]
        return self.permute(*order)

    def contiguous(self) -> ShapedTensor:
        """Itself, or a copy whose elements follow one another."""
        if self.is_contiguous():
            return self
        made = self._made(self.shape, contiguous_strides(self.shape))
        made.copied = True
        return made

    def copy_(self, other: ShapedTensor, *_: Any) -> ShapedTensor:
        """Itself, with the elements of another."""
        return self

    def set_(self, other: ShapedTensor) -> ShapedTensor:
        """Itself, with the memory and shape of another."""
        self.shape, self.strides, self.name = other.shape, other.strides, other.name
        return self

    def _made(self, shape: tuple[int, ...], strides: tuple[int, ...]) -> ShapedTensor:
        made = ShapedTensor(shape, self.dtype, self.name, strides)
        made.copied = self.copied
        return made

    def _wanted(self, method: str, shape: tuple[Any, ...]) -> tuple[int, ...]:
        wanted = tuple(shape[0]) if len(shape) == 1 and isinstance(shape[0], (tuple, list)) else tuple(shape)
        check_extents(method, wanted)
        known = math.prod(extent for extent in wanted if extent != -1)
        whole = known and self.numel() % known == 0
        if (-1 in wanted and not whole) or (-1 not in wanted and known != self.numel()):
            raise RefusedByHostCode(f"RuntimeError: shape '{list(wanted)}' is invalid for input of size {self.numel()}")
        return tuple(self.numel() // known if extent == -1 else extent for extent in wanted)

    def __getattr__(self, name: str) -> Any:
        raise HostCodeError(f"a tensor's {name!r} is not provided for")


def check_extents(method: str, shape: tuple[Any, ...]) -> None:
    """Raise as torch does for an extent that is no integer."""
    for place, extent in enumerate(shape):
        if not isinstance(extent, int):
            kind = type(extent).__name__
            raise RefusedByHostCode(
                f"TypeError: {method}(): argument 'size' failed to unpack the object at pos {place + 1} "
                f'with error "type must be tuple of ints,but got {kind}"'
            )
