"""Triton kernels of a script: every lane held against the kernel's own tensors, and done where memory is mapped."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from backend.findings import Finding, FindingKind, Party, Severity
from backend.real.script.hardware import Hardware
from backend.real.torch_shim import Allocations, host
from backend.real.triton_shim import KernelGuard

JUDGED_ELSEWHERE = frozenset({"_fwd_kernel_stage2_asm"})
"""The merge of AITER's decode: the second stage of a decode call, whose accesses the devices judge."""


class MappedGuard(KernelGuard):
    """See the module. found: told of each finding."""

    def __init__(self, allocations: Allocations, hardware: Hardware, found: Callable[[Finding], None]) -> None:
        super().__init__(allocations)
        self._hardware = hardware
        self._found = found
        self._extents: list[tuple[int, int]] = []

    def enter_kernel(self, name: str, tensors: list[torch.Tensor]) -> None:
        """Remember where the kernel's tensors lie."""
        super().enter_kernel(name, tensors)
        self._extents = []
        for tensor in tensors:
            plain = host(tensor)
            reach = sum((size - 1) * stride for size, stride in zip(plain.shape, plain.stride(), strict=True))
            nbytes = (reach + 1) * plain.element_size() if plain.numel() else 0
            self._extents.append((plain.data_ptr(), plain.data_ptr() + nbytes))

    def inside(self, addresses: Any, nbytes: int, active: Any, is_write: bool) -> Any:
        """Mask of the active lanes that memory is there for."""
        wanted = addresses[active].astype(np.int64).ravel()
        if wanted.size == 0:
            return active
        within = np.zeros(wanted.size, bool)
        for begin, end in self._extents:
            within |= (wanted >= begin) & (wanted + nbytes <= end)
        if within.all():
            return active
        stray = wanted[~within]
        self._tell(stray, nbytes, is_write)
        there = within.copy()
        for place in np.flatnonzero(~within):
            address = int(wanted[place])
            there[place] = self._hardware.memory.holds(address) and self._hardware.memory.holds(address + nbytes - 1)
            if not there[place]:
                self._hardware.abort(address, f"Triton kernel {self.kernel} {'writes' if is_write else 'reads'} there")
        kept = active.copy()
        kept[active] = there
        return kept

    def _tell(self, stray: Any, nbytes: int, is_write: bool) -> None:
        if self.kernel in JUDGED_ELSEWHERE:
            return
        first = int(stray.min())
        near = max((extent for extent in self._extents if extent[0] <= first), default=None)
        past = first - near[1] if near is not None else 0
        verb = "writes" if is_write else "reads"
        message = (
            f"{verb} {nbytes * len(stray)} bytes outside of its tensors, the first {past} bytes past the end of the nearest"
        )
        kind = FindingKind.OUT_OF_BOUNDS_WRITE if is_write else FindingKind.OUT_OF_BOUNDS_READ
        severity = Severity.WRITE if is_write else Severity.READ
        self._found(
            Finding(kind, severity, Party.CALLER, f"Triton kernel {self.kernel}", "", message, {"bytes_past_end": past})
        )
