"""Memory of the virtual GPU: where torch's allocator puts tensors, what is mapped, what is given back."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

SCRIPT = """
import gc
import pytest, torch
from backend.real.allocator import LARGE_SEGMENT, MIN_BLOCK, SMALL_SEGMENT
from backend.real.device_memory import DeviceMemory, UnmappedError
from backend.real.torch_shim import CudaTensor, GpuFacts, VirtualGpu, host

memory = DeviceMemory(1 << 40)
"""
"""Segments lie at fixed addresses, so each test has a process of its own."""


def passes(text: str) -> None:
    done = subprocess.run([sys.executable, "-c", SCRIPT + text], cwd=Path(__file__).parents[2], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_tensors_lie_as_torchs_allocator_has_them() -> None:
    passes("""
with VirtualGpu(GpuFacts("gfx950", 256), memory):
    first = torch.zeros(3, dtype=torch.int32, device="cuda")
    second = torch.ones(200, device="cuda")
    third = second + 1
    assert second.data_ptr() - first.data_ptr() == MIN_BLOCK
    assert third.data_ptr() - second.data_ptr() == 2 * MIN_BLOCK  # 800 bytes
    large = torch.zeros(2 << 20, dtype=torch.uint8, device="cuda")
    assert [mapped.segment.size for mapped in memory.segments()] == [LARGE_SEGMENT, SMALL_SEGMENT]
    assert third.tolist() == [2.0] * 200
    values, places = torch.arange(6, device="cuda").view(2, 3).max(0)
    assert values.tolist() == [3, 4, 5]
    for made in (values, places, first[1:], third.to(torch.bfloat16), torch.ones(2).cuda(), torch.split(second, 50)[1]):
        assert memory.holds(made.data_ptr())
    for kept in (torch.zeros(2), first.cpu(), third.to("cpu")):
        assert not memory.holds(kept.data_ptr())
""")


def test_what_is_written_past_a_tensor_lands_in_its_neighbour() -> None:
    passes("""
with VirtualGpu(GpuFacts("gfx950", 256), memory):
    first, second = torch.zeros(128, device="cuda"), torch.zeros(128, device="cuda")
    memory.bytes_at(first.data_ptr() + 512, 4)[:] = 0x42
    assert host(second).view(torch.int32)[0] == 0x42424242
    end = memory.segments()[0].segment.end
    with pytest.raises(UnmappedError) as raised:
        memory.bytes_at(end - 4, 8)
    assert raised.value.address == end
    with pytest.raises(UnmappedError):
        memory.bytes_at(16, 4)
""")


def test_memory_is_given_back_when_its_last_view_goes() -> None:
    passes("""
with VirtualGpu(GpuFacts("gfx950", 256), memory):
    made = torch.zeros(1 << 20, device="cuda")
    address, held = made.data_ptr(), memory.allocated
    view = made[5:]
    del made
    gc.collect()
    assert memory.allocated == held
    del view
    gc.collect()
    assert memory.allocated == 0
    assert torch.zeros(1 << 20, device="cuda").data_ptr() == address
    assert torch.cuda.max_memory_allocated() == held
""")


def test_fresh_memory_is_no_number_and_there_is_an_end_of_it() -> None:
    passes("""
with VirtualGpu(GpuFacts("gfx950", 256), memory):
    used = torch.ones(100, device="cuda")
    del used
    gc.collect()
    assert torch.empty(100, device="cuda").isnan().all()
    assert torch.empty(4, dtype=torch.int32, device="cuda").tolist() == [-1515870811] * 4
    with pytest.raises(MemoryError, match="HIP out of memory"):
        torch.empty(1 << 40, dtype=torch.float32, device="cuda")
""")
