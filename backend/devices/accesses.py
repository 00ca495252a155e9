"""Byte ranges that a kernel touches, and what of them breaks the bounds of a tensor. Knows no kernel."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numba
import numpy as np
import numpy.typing as npt

from backend.aiter.tensors import TensorSpec
from backend.observation import ByteRanges, Footprint, Violation, ViolationKind

Int64Array = npt.NDArray[np.int64]

INT32 = 4
FLOAT32 = 4
BF16 = 2
"""Bytes an element."""

NOTHING: ByteRanges = np.zeros((0, 2), np.int64)
"""No bytes."""

ITEM_BYTES = 32
"""A work item: 8 x int32."""


@dataclass(frozen=True, slots=True, eq=False)
class Accesses:
    """Ranges of one tensor, all read or all written by one stage. tensor: "" for what is accessed through a null pointer.

    begin, end: [n] byte offsets from the tensor's start, end exclusive; an empty range (end <= begin) touches nothing.
    source: [n] index of the work item (or of the reduce tile, or request) behind each range, None where there is none.
    why: the address as an expression over kernargs and work-item fields.
    """

    tensor: str
    is_write: bool
    begin: Int64Array
    end: Int64Array
    source: Int64Array | None
    why: str


@dataclass(frozen=True, slots=True, eq=False)
class Planes:
    """Ranges of several tensors, one of each for each piece of work, so that all can be judged in one pass.

    tensors: name, whether it is written, and why, of each plane; begin, end: [planes, work] as in Accesses; source: [work].
    """

    tensors: tuple[tuple[str, bool, str], ...]
    begin: Int64Array
    end: Int64Array
    source: Int64Array

    def accesses(self) -> list[Accesses]:
        """The planes one by one, without those that touch nothing."""
        planes = zip(self.tensors, self.begin, self.end, strict=True)
        return [
            Accesses(name, is_write, begin, end, self.source, why)
            for (name, is_write, why), begin, end in planes
            if (end > begin).any()
        ]

    def written(self, tensor: str) -> ByteRanges:
        """Bytes of a tensor that are written, sorted, disjoint and not touching."""
        of = [plane for plane, (name, is_write, _) in enumerate(self.tensors) if name == tensor and is_write]
        begin, end = self.begin[of].ravel(), self.end[of].ravel()
        return merge(begin[end > begin], end[end > begin])

    def inside(self, tensors: Mapping[str, TensorSpec]) -> bool:
        """Whether nothing leaves its tensor."""
        sizes = np.array([tensors[name].nbytes if name in tensors else 0 for name, _, _ in self.tensors], np.int64)
        return bool(_inside(self.begin, self.end, sizes))


@numba.njit(cache=True, nogil=True)
def _inside(begin: Int64Array, end: Int64Array, sizes: Int64Array) -> bool:
    for plane in range(len(begin)):
        size = sizes[plane]
        for i in range(begin.shape[1]):
            if end[plane, i] > begin[plane, i] and (end[plane, i] > size or begin[plane, i] < 0):
                return False
    return True


def out_of_bounds(accesses: Accesses, size: int, stage: str, items: npt.NDArray[np.int32] | None) -> Violation | None:
    """The ranges that leave a tensor of `size` bytes, as one violation; None where none does."""
    count, at, lowest, highest = _scan(accesses.begin, accesses.end, size)
    if not count:
        return None
    if accesses.begin[at] < 0:
        first, last, extent = int(accesses.begin[at]), min(int(accesses.end[at]), 0), -lowest
    else:
        first, last, extent = max(int(accesses.begin[at]), size), highest, highest - size
    index = int(accesses.source[at]) if accesses.source is not None else None
    item = tuple(int(v) for v in items[index]) if items is not None and index is not None and index < len(items) else None
    return Violation(
        kind=ViolationKind.OUT_OF_BOUNDS,
        stage=stage,
        tensor=accesses.tensor,
        is_write=accesses.is_write,
        first_offset=first,
        end_offset=last,
        extent=extent,
        count=count,
        why=accesses.why,
        work_item_index=index,
        work_item=item,
    )


def bounds(
    accesses: Sequence[Accesses], tensors: Mapping[str, TensorSpec], stage: str, items: npt.NDArray[np.int32] | None
) -> list[Violation]:
    """All violations of bounds of one stage."""
    found = (
        out_of_bounds(one, tensors[one.tensor].nbytes, stage, items) if one.tensor else _through_null(one, stage)
        for one in accesses
    )
    return [violation for violation in found if violation is not None]


def _through_null(accesses: Accesses, stage: str) -> Violation | None:
    used = accesses.end > accesses.begin
    if not used.any():
        return None
    first = int(accesses.begin[int(np.argmax(used))])
    last, count = int(accesses.end[used].max()), int(np.count_nonzero(used))
    return Violation(ViolationKind.NULL, stage, "", accesses.is_write, first, last, 0, count, accesses.why)


def footprint_of(accesses: Sequence[Accesses], tensors: Mapping[str, TensorSpec]) -> Footprint:
    """The bytes inside each tensor that these accesses touch; what lies outside is a violation. A tensor without a spec is
    taken whole."""
    reads: dict[str, ByteRanges] = {}
    writes: dict[str, ByteRanges] = {}
    for name, is_write in {(one.tensor, one.is_write) for one in accesses if one.tensor}:
        touched = union([one for one in accesses if (one.tensor, one.is_write) == (name, is_write)])
        if name in tensors:
            touched = np.clip(touched, 0, tensors[name].nbytes)
            touched = touched[touched[:, 1] > touched[:, 0]]
        if len(touched):
            (writes if is_write else reads)[name] = touched
    return Footprint(reads, writes)


@numba.njit(cache=True, nogil=True)
def _scan(begin: Int64Array, end: Int64Array, size: int) -> tuple[int, int, int, int]:
    """How many ranges leave [0, size), the first of them, and the lowest begin and highest end among them."""
    count, at = 0, 0
    lowest, highest = np.int64(0), np.int64(size)
    for i in range(len(begin)):
        if end[i] > begin[i] and (end[i] > size or begin[i] < 0):
            if count == 0:
                at = i
            count += 1
            lowest, highest = min(lowest, begin[i]), max(highest, end[i])
    return count, at, int(lowest), int(highest)


def union(accesses: Sequence[Accesses]) -> ByteRanges:
    """All bytes touched, as sorted, disjoint ranges that do not touch each other."""
    if not accesses:
        return np.zeros((0, 2), np.int64)
    begin = np.concatenate([a.begin for a in accesses])
    end = np.concatenate([a.end for a in accesses])
    return merge(begin[end > begin], end[end > begin])


def merge(begin: Int64Array, end: Int64Array) -> ByteRanges:
    """Sorted union of the ranges [begin, end)."""
    if (begin[1:] < begin[:-1]).any():
        order = np.argsort(begin, kind="stable")
        begin, end = begin[order], end[order]
    made: ByteRanges = _merge_sorted(np.ascontiguousarray(begin), np.ascontiguousarray(end))
    return made


@numba.njit(cache=True, nogil=True)
def _merge_sorted(begin: Int64Array, end: Int64Array) -> ByteRanges:
    found = np.empty((len(begin), 2), np.int64)
    count = 0
    for i in range(len(begin)):
        if count and begin[i] <= found[count - 1, 1]:
            found[count - 1, 1] = max(found[count - 1, 1], end[i])
        else:
            found[count, 0], found[count, 1] = begin[i], end[i]
            count += 1
    return found[:count]


@numba.njit(cache=True, nogil=True)
def subtract(left: ByteRanges, right: ByteRanges) -> ByteRanges:
    """The bytes of `left` that are not in `right`; both sorted, disjoint and not touching, as what is returned."""
    rest = np.empty((len(left) + len(right), 2), np.int64)
    count = first = 0
    for i in range(len(left)):
        at, end = left[i, 0], left[i, 1]
        while first < len(right) and right[first, 1] <= at:
            first += 1
        k = first
        while k < len(right) and right[k, 0] < end:
            if right[k, 0] > at:
                rest[count, 0], rest[count, 1] = at, right[k, 0]
                count += 1
            at = max(at, right[k, 1])
            k += 1
        if at < end:
            rest[count, 0], rest[count, 1] = at, end
            count += 1
    return rest[:count]
