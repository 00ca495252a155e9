"""Tensors of a launch with poisoned red zones on both sides, in one allocation; what changed in the zones after a launch.

Poison is the byte 0xFF: NaN in fp8, bf16 and float32, -1 in int32. A write into a zone shows as a changed byte (the NaN that a
GPU computes is another one); a read from the zone of a float tensor shows as a NaN in the output, and an index read from the
zone of an int tensor leads to a zone again. Knows no kernel and no plan.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import torch

POISON = 0xFF

ALIGNMENT = 256
"""Bytes; what the allocators of CUDA and HIP give at least."""

SMALLEST_ZONE = 1 << 16
LARGEST_ZONE = 1 << 27


@dataclass(frozen=True, slots=True)
class Wanted:
    """A tensor to be placed. size: bytes; item: bytes of an element; reach: how many times its own size an overrun may be and
    still be caught whole."""

    name: str
    size: int
    item: int = 4
    reach: int = 0


@dataclass(frozen=True, slots=True)
class Placed:
    """Where it lies: `begin`, `end` in the arena, exclusive; zones [low, begin) and [end, high). item: bytes of an element."""

    name: str
    item: int
    low: int
    begin: int
    end: int
    high: int


@dataclass(frozen=True, slots=True)
class Damage:
    """Elements of one zone that changed, in bytes. Offsets from the tensor's start: first inclusive, end exclusive; count."""

    tensor: str
    first: int
    end: int
    count: int


class GuardedMemory:
    """One arena. The zones stay as they were found at `seal`, or `damage` says where not."""

    def __init__(self, wanted: Iterable[Wanted], device: torch.device) -> None:
        self._placed: dict[str, Placed] = {}
        at = 0
        for one in wanted:
            after = min(max(SMALLEST_ZONE, one.reach * one.size), LARGEST_ZONE)
            begin = _aligned(at + SMALLEST_ZONE)
            end = begin + one.size
            high = _aligned(end + after)
            self._placed[one.name] = Placed(one.name, one.item, at, begin, end, high)
            at = high
        # An arena of its own allocation: torch's allocator rounds up to 2 MiB, which is left as slack at the end.
        self._bytes = torch.full((at,), POISON, dtype=torch.uint8, device=device)
        self._sealed: dict[str, tuple[torch.Tensor, torch.Tensor]] = {}
        self._sums: dict[str, int] = {}

    @property
    def size(self) -> int:
        """Bytes of the arena."""
        return self._bytes.numel()

    def ranges(self) -> list[tuple[str, int, int]]:
        """(name, address, bytes) of each tensor."""
        base = self._bytes.data_ptr()
        return [(one.name, base + one.begin, one.end - one.begin) for one in self._placed.values()]

    def tensor(self, name: str, dtype: torch.dtype) -> torch.Tensor:
        """A flat view of a tensor."""
        one = self._placed[name]
        return self._bytes[one.begin : one.end].view(dtype)

    def write(self, name: str, first: int, data: torch.Tensor) -> None:
        """Puts bytes at offset `first` from the tensor's start; they may reach into its zones (a planner that overruns does
        so) and are cut where the zones end."""
        one, raw = self._placed[name], _raw(data)
        begin = max(one.begin + first, one.low)
        end = min(one.begin + first + raw.numel(), one.high)
        if begin < end:
            skip = begin - (one.begin + first)
            self._bytes[begin:end] = raw[skip : skip + end - begin].to(self._bytes.device)

    def seal(self, read_only: Iterable[str], overrun: Iterable[str]) -> None:
        """Remembers how things are before the launch. overrun: tensors whose zones are not all poison any more."""
        self._remember(overrun)
        self._sums = dict(zip(read_only, self._checksums(read_only), strict=True))

    def damage(self) -> list[Damage]:
        """What a launch changed in the zones, and takes it as the new state, so that the next launch is told apart."""
        zones = [(one, side) for one in self._placed.values() for side in (0, 1)]
        touched = torch.stack([self._differs(one, side).any() for one, side in zones]).tolist()
        found = []
        for (one, side), is_touched in zip(zones, touched, strict=True):
            if not is_touched:
                continue
            where = self._differs(one, side).nonzero().view(-1)
            base = (one.low if side == 0 else one.end) - one.begin
            first, last = int(where[0]) * one.item, int(where[-1]) * one.item
            found.append(Damage(one.name, base + first, base + last + one.item, where.numel() * one.item))
        self._remember({damage.tensor for damage in found})
        return found

    def overwritten(self) -> list[str]:
        """Read-only tensors whose contents changed since `seal`."""
        names = list(self._sums)
        return [name for name, total in zip(names, self._checksums(names), strict=True) if total != self._sums[name]]

    def _remember(self, names: Iterable[str]) -> None:
        for name in names:
            one = self._placed[name]
            self._sealed[name] = (self._bytes[one.low : one.begin].clone(), self._bytes[one.end : one.high].clone())

    def _differs(self, one: Placed, side: int) -> torch.Tensor:
        """By elements: the NaN that a GPU computes shares bytes with poison (0x7FFF in bf16), but is not the same number."""
        now = self._bytes[one.low : one.begin] if side == 0 else self._bytes[one.end : one.high]
        sealed = self._sealed.get(one.name)
        words = now.view(_WORD[one.item])
        return words != (-1 if sealed is None else sealed[side].view(_WORD[one.item]))

    def _checksums(self, names: Iterable[str]) -> list[int]:
        sums = [self._checksum(self._placed[name]) for name in names]
        return torch.stack(sums).tolist() if sums else []

    def _checksum(self, one: Placed) -> torch.Tensor:
        """Sum of the words, each by an odd factor of its place, wrapping; the last bytes by themselves."""
        whole = (one.end - one.begin) // 4 * 4
        words = self._bytes[one.begin : one.begin + whole].view(torch.int32)
        total = torch.zeros((), dtype=torch.int64, device=self._bytes.device)
        for begin in range(0, words.numel(), _CHUNK):
            part = words[begin : begin + _CHUNK].long()
            place = torch.arange(begin, begin + part.numel(), device=self._bytes.device) * 2 + 1
            total = total + (part * place).sum()
        return total + self._bytes[one.begin + whole : one.end].sum()


_CHUNK = 1 << 24

_WORD = {1: torch.int8, 2: torch.int16, 4: torch.int32}
"""Integer type of an element by its size; all-ones is -1."""


def _raw(data: torch.Tensor) -> torch.Tensor:
    """The bytes of a tensor; torch views no empty one as bytes."""
    return data.contiguous().view(-1).view(torch.uint8) if data.numel() else data.new_empty(0, dtype=torch.uint8)


def _aligned(offset: int) -> int:
    return -(-offset // ALIGNMENT) * ALIGNMENT


class SeparateMemory:
    """The same tensors, each an allocation of its own and without zones: for a checker of memory that knows allocations only
    (compute-sanitizer, with PYTORCH_NO_CUDA_MEMORY_CACHING=1 and padding of its own)."""

    def __init__(self, wanted: Iterable[Wanted], device: torch.device) -> None:
        self._tensors = {
            one.name: torch.full((one.size,), POISON, dtype=torch.uint8, device=device) for one in wanted if one.size
        }

    @property
    def size(self) -> int:
        """Bytes of all tensors."""
        return sum(tensor.numel() for tensor in self._tensors.values())

    def ranges(self) -> list[tuple[str, int, int]]:
        """(name, address, bytes) of each tensor."""
        return [(name, tensor.data_ptr(), tensor.numel()) for name, tensor in self._tensors.items()]

    def tensor(self, name: str, dtype: torch.dtype) -> torch.Tensor:
        """A flat view of a tensor."""
        return self._tensors[name].view(dtype)

    def write(self, name: str, first: int, data: torch.Tensor) -> None:
        """Puts bytes at offset `first`, as far as they lie inside."""
        tensor, raw = self._tensors[name], _raw(data)
        begin, end = max(first, 0), min(first + raw.numel(), tensor.numel())
        if begin < end:
            tensor[begin:end] = raw[begin - first : end - first].to(tensor.device)

    def seal(self, read_only: Iterable[str], overrun: Iterable[str]) -> None:
        """Does nothing: there is nothing to remember."""

    def damage(self) -> list[Damage]:
        """None: there are no zones."""
        return []

    def overwritten(self) -> list[str]:
        """None: not looked at."""
        return []


Memory = GuardedMemory | SeparateMemory
