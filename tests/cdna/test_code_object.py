"""Code objects: what llvm-readelf and llvm-objdump -D say of a file, and every way in which a file can be wrong."""

from __future__ import annotations

import dataclasses
import random
import struct
import sys
from pathlib import Path

import pytest
from code_object_files import triton_files, wheel_file, wheel_files

from backend.cdna.code_object import Argument, Denormals, load_code_object
from backend.cdna.machine import Machine, MachineLaunch
from backend.cdna.memory import AddressSpace
from backend.errors import CannotRunError, UnmodelledError, UsageError

HAND_WRITTEN = "gfx942/mla_a8w8_qh16_qseqlen1_gqaratio16_ps.co"
HAND_WRITTEN_NAME = "_ZN5aiter36mla_a8w8_qh16_qseqlen1_gqaratio16_psE"


def test_hand_written_kernel() -> None:
    """Expected values: llvm-objdump -D -j .rodata and llvm-readelf -n of the file."""
    code_object = load_code_object(wheel_file(HAND_WRITTEN))
    assert code_object.arch == "gfx942"
    kernel = code_object.kernel(HAND_WRITTEN_NAME)
    assert kernel.kernarg_size == 288  # the descriptor says 0
    assert kernel.lds_size == 65536
    assert (kernel.vgpr_count, kernel.agpr_count) == (256, 256)
    assert (kernel.user_sgpr_count, kernel.has_kernarg_pointer, kernel.kernarg_preload_length) == (2, True, 0)
    assert (kernel.workgroup_id_x, kernel.workgroup_id_y, kernel.workgroup_id_z) == (True, True, True)
    assert kernel.work_item_id_mode == 0
    assert kernel.max_workgroup_size == 256
    assert kernel.private_segment_size == 0
    mode = kernel.float_mode
    assert (mode.denormals_32, mode.denormals_16_64) == (Denormals.FLUSH, Denormals.KEEP)
    assert (mode.round_32, mode.round_16_64, mode.ieee, mode.dx10_clamp, mode.fp16_overflow) == (0, 0, False, False, False)
    names = [argument.name for argument in kernel.arguments if argument.name != "pad"]
    assert names[:4] == ["ptr_R", "ptr_LSE", "ptr_Q", "ptr_KV"]
    assert kernel.arguments[2] == Argument("ptr_LSE", 16, 8, "global_buffer")


def test_compiled_kernel() -> None:
    """Expected values: llvm-objdump -D -j .rodata and llvm-readelf -n of the file."""
    kernel = load_code_object(triton_files()["attention_fp8_gfx950"]).kernel("paged_attention")
    assert kernel.arch == "gfx950"
    assert (kernel.kernarg_size, kernel.lds_size, kernel.private_segment_size) == (80, 0, 0)
    assert (kernel.vgpr_count, kernel.agpr_count) == (156, 4)
    assert (kernel.kernarg_preload_length, kernel.kernarg_preload_offset, kernel.user_sgpr_count) == (14, 0, 16)
    assert (kernel.workgroup_id_x, kernel.workgroup_id_y, kernel.workgroup_id_z) == (True, True, False)
    assert kernel.float_mode.denormals_32 is Denormals.KEEP
    assert kernel.float_mode.ieee
    assert len(kernel.text) < 30_000
    assert kernel.text[-4:] == struct.pack("<I", 0xBF810000)  # s_endpgm: the symbol's size ends there, not the section


@pytest.mark.parametrize("name", sorted(wheel_files()))
def test_wheel_loads_and_the_text_is_the_section(name: str) -> None:
    code_object = load_code_object(wheel_file(name))
    (kernel,) = code_object.kernels
    assert code_object.arch == name.split("/")[0]
    assert kernel.text in wheel_file(name)
    assert len(kernel.text) % 4 == 0
    assert kernel.kernarg_size > 100
    assert kernel.arguments[-1].offset + kernel.arguments[-1].size <= kernel.kernarg_size


def test_frozen() -> None:
    kernel = load_code_object(wheel_file(HAND_WRITTEN)).kernels[0]
    with pytest.raises(dataclasses.FrozenInstanceError):
        kernel.lds_size = 0  # type: ignore[misc]


def test_unknown_kernel_names_those_there_are() -> None:
    with pytest.raises(UsageError, match=HAND_WRITTEN_NAME):
        load_code_object(wheel_file(HAND_WRITTEN)).kernel("mla")


@pytest.mark.parametrize("length", [0, 3, 16, 63, 64, 100, 1000, 4000, 5000, 10000, 20000])
def test_truncated(length: int) -> None:
    with pytest.raises(CannotRunError, match=r"needed|truncated"):
        load_code_object(wheel_file(HAND_WRITTEN)[:length])


def test_git_lfs_pointer() -> None:
    with pytest.raises(CannotRunError, match="LFS"):
        load_code_object(b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n")


def test_another_machine() -> None:
    with pytest.raises(CannotRunError, match="EM_AMDGPU"):
        load_code_object(Path(sys.executable).resolve().read_bytes())


def flags_of(content: bytes) -> int:
    return int.from_bytes(content[48:52], "little")


def test_another_architecture_is_named() -> None:
    content = bytearray(triton_files()["merge_bf16_gfx950"])
    content[48:52] = (flags_of(content) & ~0xFF | 0x3F).to_bytes(4, "little")  # gfx90a
    with pytest.raises(CannotRunError, match="modelled: gfx942 and gfx950"):
        load_code_object(bytes(content))


PROPERTIES = 56
"""Offset of kernel_code_properties in the descriptor (LLVM's AMDGPU guide, "Kernel Descriptor")."""


@pytest.mark.parametrize(("bit", "what"), [(0, "private segment buffer"), (2, "queue pointer"), (10, "32 lanes")])
def test_launch_state_that_is_not_modelled_refuses_the_kernel_and_not_the_file(bit: int, what: str) -> None:
    content = bytearray(wheel_file(HAND_WRITTEN))
    descriptor = 0x12C0  # its address is its offset in this file
    assert struct.unpack_from("<H", content, descriptor + PROPERTIES) == (8,)
    struct.pack_into("<H", content, descriptor + PROPERTIES, 8 | 1 << bit)
    (kernel,) = load_code_object(bytes(content)).kernels
    assert what in kernel.unmodelled
    with pytest.raises(UnmodelledError, match=what):
        Machine(kernel).run(MachineLaunch((1, 1, 1), (64, 1, 1), bytes(16)), AddressSpace())


def test_user_registers_follow_one_another_in_the_order_of_the_bits() -> None:
    """A dispatch packet pointer comes before the kernarg pointer and a dispatch id behind it, two registers each."""
    content = bytearray(wheel_file(HAND_WRITTEN))
    struct.pack_into("<H", content, 0x12C0 + PROPERTIES, 1 << 1 | 1 << 3 | 1 << 4)
    (kernel,) = load_code_object(bytes(content)).kernels
    assert kernel.user_registers == (("dispatch packet pointer", 0), ("kernarg pointer", 2), ("dispatch id", 4))
    assert kernel.unmodelled == ""


def test_changed_bytes_never_give_another_error() -> None:
    """Bytes of headers, note, symbols and descriptor changed at random: loads, or says that it cannot."""
    content = wheel_file(HAND_WRITTEN)
    choose = random.Random(7)
    refused = 0
    for _ in range(100):
        changed = bytearray(content)
        for _ in range(choose.randrange(1, 4)):
            changed[choose.randrange(0x1400)] = choose.randrange(256)
        try:
            load_code_object(bytes(changed))
        except CannotRunError:
            refused += 1
    assert refused > 30
