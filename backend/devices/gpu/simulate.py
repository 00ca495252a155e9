"""Our Triton kernels as CDNA machine code on the simulated machine, on the very tensors and values that a GPU would get.

One source, two processors: what differs beyond rounding is an error of the machine, of the compiler or of the kernel. This is
how the machine is held against silicon. Slow: full mode executes every instruction.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from backend.case import Arch
from backend.cdna.code_object import load_code_object
from backend.cdna.machine import Machine, MachineLaunch
from backend.cdna.memory import AddressSpace
from backend.cdna.result import BadAccess, Mode, Schedule
from backend.devices.cuda.compile import Compiled, Variant, compiled_for, grid_for, kernels_for, scalars_for, variant_for
from backend.devices.cuda.kernel_run import KernelRun
from backend.devices.gpu.decode import Decode
from backend.devices.gpu.values import is_fnuz

WRITTEN = ("o", "logits", "attn_lse", "final_lse")


@dataclass(frozen=True, slots=True, eq=False)
class Simulated:
    """decode: holds the outputs (`outputs`, `comparison`). bad: accesses outside of tensors or to what may not be written."""

    decode: Decode
    bad: tuple[BadAccess, ...]
    instructions: int


def simulate(kernel_run: KernelRun, arch: Arch, schedule: Schedule = Schedule.ROUND_ROBIN) -> Simulated:
    """Runs stage 1 and the merge of a run. Raises UnmodelledError where the machine has no model of an instruction."""
    decode = Decode(kernel_run, torch.device("cpu"), separate=True, fnuz=is_fnuz(arch))
    space = AddressSpace()
    addresses: dict[str, int] = {}
    for name, _, size in decode.memory.ranges():
        array = decode.memory.tensor(name, torch.uint8).numpy()
        addresses[name] = space.add_array(name, array, writable=name in WRITTEN).base
        assert size == array.size
    variant = variant_for(kernel_run, arch)
    bad: list[BadAccess] = []
    instructions = 0
    for kernel in kernels_for(kernel_run):
        made = compiled_for(arch, kernel, variant)
        result = _run(kernel_run, kernel, variant, made, addresses, space, schedule)
        bad += result.bad_accesses
        instructions += result.executed
    return Simulated(decode, tuple(bad), instructions)


def _run(
    kernel_run: KernelRun,
    kernel: str,
    variant: Variant,
    made: Compiled,
    addresses: Mapping[str, int],
    space: AddressSpace,
    schedule: Schedule,
) -> Any:
    machine = Machine(load_code_object(made.code_object).kernel(made.symbol))
    launch = MachineLaunch(
        grid=grid_for(kernel_run, kernel, variant),
        block=(made.threads, 1, 1),
        kernarg=kernarg_bytes(made, addresses, scalars_for(kernel_run, variant)),
        dynamic_lds=made.lds,
    )
    return machine.run(launch, space, Mode.FULL, schedule)


def kernarg_bytes(made: Compiled, addresses: Mapping[str, int], scalars: Mapping[str, int | float]) -> bytes:
    """The argument segment; a tensor that the launch does not have, and what the runtime fills in, are null."""
    segment = bytearray(made.segment)
    for argument in made.kernargs:
        kind, _, name = argument.value.partition(" ")
        if kind == "tensor":
            struct.pack_into("<Q", segment, argument.offset, addresses.get(name, 0))
        elif kind == "scalar":
            value = scalars[name]
            struct.pack_into("<f" if isinstance(value, float) else "<i", segment, argument.offset, value)
    return bytes(segment)
