"""What the runtime gives a kernel besides its arguments: hidden arguments, the dispatch packet, the object's constants.

LLVM's "User Guide for AMDGPU Backend", "Code Object V5 Metadata" (hidden arguments), and HSA's kernel dispatch packet.
Knows a kernel's metadata and its launch, not what the kernel does.
"""

from __future__ import annotations

import struct

import numpy as np
from numpy.typing import NDArray

from backend.cdna.code_object import Argument, Kernel
from backend.cdna.execute.layout import APERTURES
from backend.cdna.memory import AddressSpace
from backend.cdna.program import IMAGE_BASE, Program

Grid = tuple[int, int, int]
_GETPC = "s_getpc_b64"
_PACKET = struct.Struct("<HHHHHHIIIIIQQQQ")
_KERNEL_DISPATCH = 2 | 1 << 8 | 1 << 9 | 1 << 11
"""Header of the packet: its type, and barriers and fences as runtimes set them."""


def _hidden(argument: Argument, grid: Grid, block: Grid, dynamic_lds: int) -> int | None:
    """Value of a hidden argument, None for what stays as it was given."""
    kind = argument.kind.removeprefix("hidden_")
    for axis, name in enumerate("xyz"):
        if kind == f"block_count_{name}":
            return grid[axis]
        if kind == f"group_size_{name}":
            return block[axis]
        if kind in (f"remainder_{name}", f"global_offset_{name}"):
            return 0
    return {
        "grid_dims": 3 if grid[2] * block[2] > 1 else 2 if grid[1] * block[1] > 1 else 1,
        "dynamic_lds_size": dynamic_lds,
        "shared_base": APERTURES[0] >> 32,
        "private_base": APERTURES[2] >> 32,
    }.get(kind)


def with_hidden_arguments(kernel: Kernel, kernarg: bytes, grid: Grid, block: Grid, dynamic_lds: int) -> NDArray[np.uint8]:
    """The argument segment with the hidden arguments that follow from the launch; those that are pointers stay as given.

    grid: workgroups, block: work-items of one.
    """
    needed = max((each.offset + each.size for each in kernel.arguments if each.kind.startswith("hidden_")), default=0)
    segment = bytearray(kernarg.ljust(needed, b"\0"))
    for each in kernel.arguments:
        value = _hidden(each, grid, block, dynamic_lds) if each.kind.startswith("hidden_") else None
        if value is not None:
            segment[each.offset : each.offset + each.size] = value.to_bytes(each.size, "little")
    return np.frombuffer(bytes(segment), np.uint8).copy()


def dispatch_packet(kernel: Kernel, kernarg_address: int, grid: Grid, block: Grid, dynamic_lds: int) -> NDArray[np.uint8]:
    """The 64 bytes of the packet that launches the kernel; grid in it counts work-items."""
    items = [count * size for count, size in zip(grid, block, strict=True)]
    lds = kernel.lds_size + dynamic_lds
    private = kernel.private_segment_size
    packet = _PACKET.pack(
        _KERNEL_DISPATCH, 3, *block, 0, *items, private, lds, IMAGE_BASE + kernel.entry, kernarg_address, 0, 0
    )
    return np.frombuffer(packet, np.uint8).copy()


def add_image(space: AddressSpace, kernel: Kernel, program: Program) -> list[str]:
    """Regions for the object's constants and variables, where a program asks for its own address. Returns their names.

    Variables begin each launch as the file has them.
    """
    if not kernel.segments or not any(instruction.mnemonic == _GETPC for instruction in program.instructions):
        return []
    names = []
    for number, segment in enumerate(kernel.segments):
        content = bytearray(segment.content)
        for offset, address in segment.relocations:
            struct.pack_into("<Q", content, offset, IMAGE_BASE + address)
        name = f"code object segment {number}"
        memory = np.frombuffer(bytes(content), np.uint8).copy()
        space.add_array(name, memory, writable=segment.writable, base=IMAGE_BASE + segment.address)
        names.append(name)
    return names
