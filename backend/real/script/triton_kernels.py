"""Triton kernels of a script on the machine: every instruction, on the bytes of the tensors, every access held against them.

An access outside of the kernel's own tensors that stays in mapped memory is done, and found; one that leaves mapped memory
aborts as on hardware. A kernel's own tensors are its arguments, and the allocations whose addresses it is given as numbers
or in a tensor of 64-bit integers (tables of pointers). Knows nothing of Triton; what is launched is a TritonLaunch.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from functools import lru_cache
from typing import Any

import numpy as np
import torch

from backend.cdna.code_object import Kernel
from backend.cdna.machine import Machine, MachineLaunch
from backend.cdna.memory import AddressSpace, Paging
from backend.cdna.record import RecordOptions
from backend.cdna.result import AccessKind, BadAccess, MachineEnd, Mode, RunResult
from backend.errors import AiterfuzzError, CannotRunError
from backend.findings import Finding, FindingKind, Party, Severity
from backend.real.device_memory import Mapped
from backend.real.script.gpu import ScriptGpu
from backend.real.script.hardware import Hardware
from backend.real.script.timeline import Access, GpuWork
from backend.real.script.triton_driver import TritonLaunch
from backend.real.torch_shim import extent, host
from backend.words import number_of

JUDGED_ELSEWHERE = frozenset({"_fwd_kernel_stage2_asm"})
"""The merge of AITER's decode: the second stage of a decode call, whose accesses the devices judge."""

TABLE_LIMIT = 1 << 20
"""Elements of a tensor of 64-bit integers up to which it is searched for addresses."""

INSTRUCTION_LIMIT = 500_000_000
"""Wave instructions of a workgroup after which a kernel is taken for a hang."""

STRAY, LEFT = AccessKind.PAGE_NOT_ALLOWED, (AccessKind.OUT_OF_BOUNDS, AccessKind.NULL)
"""How the machine tells of an access between tensors, and of one that begins in a tensor or mapped memory and leaves it."""

Extent = tuple[int, int, str]
"""First address, address behind the last one, tensor."""


class TritonKernels:
    """Runs launches, and counts them. found: told of each finding. notice: told why something could not be run."""

    def __init__(
        self, gpu: ScriptGpu, hardware: Hardware, found: Callable[[Finding], None], notice: Callable[[str], None]
    ) -> None:
        self._gpu = gpu
        self._hardware = hardware
        self._found = found
        self._notice = notice
        self.launches = 0

    def launch(self, launch: TritonLaunch) -> None:
        """Runs a launch to its end, at once or when a graph is replayed. Raises what the machine raises for what it has no
        model of, once it has been noticed."""

        bare = dataclasses.replace(launch, tensors=())  # a graph that is captured keeps no tensor alive

        def run(given: Mapping[str, Any]) -> None:
            try:
                self._run(dataclasses.replace(bare, tensors=tuple(given["tensors"])))
            except AiterfuzzError as error:
                self._notice(f"Triton kernel {bare.name}: {error}")
                raise

        self._gpu.timeline.do(GpuWork(f"Triton kernel {launch.name}", {"tensors": list(launch.tensors)}, lambda given: (), run))

    def _run(self, launch: TritonLaunch) -> None:
        self.launches += 1
        extents = list(self._extents(launch))
        space = AddressSpace()
        for mapped in self._hardware.memory.segments():
            _add_segment(space, mapped, extents)
        asked = MachineLaunch(launch.grid, (launch.threads, 1, 1), launch.kernarg, dynamic_lds=launch.lds)
        tensors = [(name, tensor) for name, tensor in launch.tensors if isinstance(tensor, torch.Tensor) and tensor.numel()]
        own = frozenset(f"{begin:#x}" for begin, end in _joined(extents, 0, 1 << 63))
        record = RecordOptions(touched=own)
        result = _machine(launch.kernel).run(asked, space, Mode.FULL, record=record, max_instructions=INSTRUCTION_LIMIT)
        accesses = [each for name, tensor in tensors for each in self._accesses(name, tensor, result)]
        self._gpu.timeline.did(f"Triton kernel {launch.name}", accesses, self._gpu.timeline.current)
        if launch.name not in JUDGED_ELSEWHERE:
            self._tell(launch.name, result, extents)
        for bad in result.bad_accesses:
            self._abort_where_unmapped(launch.name, bad)
        if result.outcome is MachineEnd.LIMIT:
            raise CannotRunError(
                f"not at its end after {number_of(result.executed, 'wave instruction')} (a hang, or it waits for another)"
            )

    def _accesses(self, name: str, tensor: torch.Tensor, result: RunResult) -> Iterator[Access]:
        """What the launch read and wrote of a tensor: what was touched of the region that it lies in."""
        start, count = host(tensor).data_ptr(), host(tensor).untyped_storage().nbytes()
        for touched, is_write in ((result.log.touched_read, False), (result.log.touched_write, True)):
            for region, stretches in touched.items():
                ranges = stretches + int(region, 16)
                ranges = ranges[(ranges[:, 1] > start) & (ranges[:, 0] < start + count)]
                if len(ranges):
                    yield self._gpu.access(tensor, is_write, name, ranges)

    def _extents(self, launch: TritonLaunch) -> Iterator[Extent]:
        """Where the kernel's own tensors lie."""
        addresses = set(launch.numbers)
        for name, tensor in launch.tensors:
            if not isinstance(tensor, torch.Tensor):
                addresses.add(tensor.data_ptr())
                continue
            plain = host(tensor)
            yield *extent(plain), name
            if plain.dtype in (torch.int64, torch.uint64) and plain.numel() <= TABLE_LIMIT:
                addresses |= set(plain.reshape(-1).tolist())
        for address in addresses:
            known = self._gpu.allocations.before(address) if address > 0 else None
            if known is not None and address < known.address + known.nbytes:
                yield known.address, known.address + known.nbytes, f"the allocation at {known.address:#x}"

    def _tell(self, kernel: str, result: RunResult, extents: list[Extent]) -> None:
        """A finding for each tensor that was left, by reads and by writes."""
        first_of = {(bad.kind, bad.pc): bad for bad in reversed(result.bad_accesses)}
        left: dict[tuple[bool, str], tuple[int, int, int]] = {}
        for total in result.totals:
            bad = first_of.get((total.kind, total.pc))
            if bad is None or total.kind not in (STRAY, *LEFT):
                continue
            begin, end, name = min(extents, key=lambda extent: _distance(extent, total.lowest), default=(0, 0, ""))
            past = total.lowest - end if total.lowest >= begin else total.lowest - begin
            lanes, lowest, where = left.get((bad.is_write, name), (0, total.lowest, past))
            if total.lowest < lowest:
                lowest, where = total.lowest, past
            left[bad.is_write, name] = (lanes + total.lanes * bad.size, lowest, where)
        for (is_write, name), (nbytes, _, past) in left.items():
            self._found(_finding(kernel, is_write, name, nbytes, past))

    def _abort_where_unmapped(self, kernel: str, bad: BadAccess) -> None:
        if bad.kind is AccessKind.LDS_OUT_OF_BOUNDS:
            raise CannotRunError(f"{bad.text} at pc {bad.pc:#x} leaves LDS at {bad.address:#x}")
        memory = self._hardware.memory
        for address in (bad.address, bad.lowest, bad.highest_end - 1):
            if not memory.holds(address):
                verb = "writes" if bad.is_write else "reads"
                where = f"pc {bad.pc:#x}, workgroup {bad.workgroup}, wave {bad.wave}"
                self._hardware.abort(address, f"Triton kernel {kernel} {verb} there: {bad.text} at {where}")
                return


def _distance(extent: Extent, address: int) -> int:
    begin, end, _ = extent
    return max(begin - address, address - end + 1, 0)


def _finding(kernel: str, is_write: bool, tensor: str, nbytes: int, past: int) -> Finding:
    kind = FindingKind.OUT_OF_BOUNDS_WRITE if is_write else FindingKind.OUT_OF_BOUNDS_READ
    severity = Severity.WRITE if is_write else Severity.READ
    behind = f"{number_of(past, 'byte')} past the end of" if past >= 0 else f"{number_of(-past, 'byte')} before"
    where = f"the first {behind} {tensor}" if tensor else "and has none"
    message = f"{'writes' if is_write else 'reads'} {number_of(nbytes, 'byte')} outside of its tensors, {where}"
    return Finding(kind, severity, Party.CALLER, f"Triton kernel {kernel}", tensor, message, {"bytes_past_end": past})


@lru_cache(maxsize=64)
def _machine(kernel: Kernel) -> Machine:
    return Machine(kernel)


def _add_segment(space: AddressSpace, mapped: Mapped, extents: list[Extent]) -> None:
    """A mapped segment as regions: the kernel's tensors, and what lies between them, which nobody is allowed to touch.

    An access to the latter is done and told; one that begins in a tensor and leaves it reads what is there.
    """
    start, stop = mapped.segment.base, mapped.segment.end
    at = start
    for begin, end in _joined(extents, start, stop):
        if at < begin:
            _add_region(space, mapped, at, begin, False)
        _add_region(space, mapped, begin, end, True)
        at = end
    if at < stop:
        _add_region(space, mapped, at, stop, False)


def _add_region(space: AddressSpace, mapped: Mapped, begin: int, end: int, is_own: bool) -> None:
    paging = None if is_own else Paging(end - begin, np.zeros((1, 1), np.bool_))
    content = mapped.content[begin - mapped.segment.base :]
    spill = mapped.segment.end - end
    space.add_array(f"{begin:#x}", content, writable=True, base=begin, paging=paging, spill=spill)


def _joined(extents: list[Extent], start: int, stop: int) -> list[tuple[int, int]]:
    """The parts of [start, stop) that extents cover, in order; those that touch or overlap are one."""
    joined: list[tuple[int, int]] = []
    for begin, end, _ in sorted(extents):
        begin, end = max(begin, start), min(end, stop)
        if begin >= end:
            continue
        if joined and begin <= joined[-1][1]:
            joined[-1] = (joined[-1][0], max(end, joined[-1][1]))
        else:
            joined.append((begin, end))
    return joined
