"""Tensors on "cuda" live on the CPU, say cuda, are all known, and everything is put back."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
import torch

from backend.real.torch_shim import RESERVED_ONLY_BYTES, Allocations, CudaTensor, GpuFacts, VirtualGpu, host


@pytest.fixture
def gpu() -> Iterator[VirtualGpu]:
    with VirtualGpu(GpuFacts("gfx942", 304, "AMD Instinct MI300X")) as opened:
        yield opened


def test_factories_and_results_say_cuda(gpu: VirtualGpu) -> None:
    made = torch.arange(6, dtype=torch.int32, device="cuda").view(2, 3)
    for tensor in (made, made + 1, made[0], made.cumsum(0), torch.zeros_like(made), made.new_empty(3), made.float(), made.T):
        assert isinstance(tensor, CudaTensor)
        assert tensor.is_cuda
        assert tensor.device == torch.device("cuda", 0)
        assert str(tensor.device.type) == "cuda"
    assert torch.tensor([1, 2], device=made.device).is_cuda
    assert torch.zeros(2, device=torch.device("cuda", 0)).is_cuda
    assert torch.ones(2).cuda().is_cuda
    assert torch.ones(2).to("cuda", torch.int32).dtype is torch.int32


def test_what_is_made_on_the_cpu_stays_there(gpu: VirtualGpu) -> None:
    made = torch.arange(3, device="cuda")
    for tensor in (torch.arange(3), made.cpu(), made.to("cpu"), torch.zeros(3, device="cpu"), made.to(torch.ones(1))):
        assert not tensor.is_cuda
        assert tensor.device.type == "cpu"
    assert made.cpu().numpy().tolist() == [0, 1, 2]
    with pytest.raises(TypeError, match=r"can't convert cuda:0 device type tensor to numpy"):
        made.numpy()
    assert (made.tolist(), int(made[2]), made.sum().item()) == ([0, 1, 2], 2, 3)


def test_a_number_is_a_device_of_the_gpu_and_pinned_memory_is_memory(gpu: VirtualGpu) -> None:
    made = torch.ones(2)
    assert made.to(torch.cuda.current_device(), non_blocking=True).is_cuda
    assert made.pin_memory().tolist() == [1, 1]


def test_a_copy_to_the_cpu_is_a_copy(gpu: VirtualGpu) -> None:
    made = torch.zeros(2, device="cuda")
    copies = made.cpu(), made.to("cpu"), made.to(device="cpu")
    made.fill_(5)
    assert [copy.tolist() for copy in copies] == [[0, 0]] * 3


def test_fresh_integer_memory_is_filled(gpu: VirtualGpu) -> None:
    assert torch.empty(3, dtype=torch.int32, device="cuda").tolist() == [-1515870811] * 3
    assert torch.empty((2, 2), dtype=torch.uint64, device="cuda").view(torch.uint8).unique().tolist() == [0xA5]
    assert torch.zeros(3, dtype=torch.int32, device="cuda").new_empty(2).tolist() == [-1515870811] * 2
    assert torch.empty(0, dtype=torch.int32, device="cuda").tolist() == []


def test_views_lead_to_their_allocation(gpu: VirtualGpu) -> None:
    base = torch.zeros(100, dtype=torch.int32, device="cuda")
    other = torch.zeros(100, dtype=torch.int32, device="cuda")
    known = gpu.allocations.of(base)
    assert known.nbytes == 400
    for view in (base[3:7], base.view(10, 10)[2], base.as_strided((2,), (50,)), base.detach()):
        assert gpu.allocations.of(view) == known
    assert gpu.allocations.of(other).tag != known.tag
    assert gpu.allocations.of(base + 1).tag != known.tag
    base.add_(1)
    assert gpu.allocations.of(base) == known


_KEPT = torch.zeros(1)


class Piece:
    """As much of a tensor as `Allocations.made` looks at, at a chosen place."""

    def __init__(self, begin: int, end: int) -> None:
        self.begin, self.end = begin, end

    def _weak_ref(self) -> int:
        """Of memory that lives as long as this module: these pieces are not freed, only overlapped."""
        reference: int = _KEPT.untyped_storage()._weak_ref()
        return reference

    def untyped_storage(self) -> Piece:
        return self

    def data_ptr(self) -> int:
        return self.begin

    def nbytes(self) -> int:
        return self.end - self.begin


def test_memory_that_is_used_again_has_one_owner() -> None:
    """Of two storages that overlap the older is gone: none may stay inside, below or across a new one."""
    allocations = Allocations()
    for begin, end in ((1000, 1100), (1100, 1200), (1200, 1300), (1400, 1500)):
        allocations.made(Piece(begin, end))  # type: ignore[arg-type]
    big = allocations.made(Piece(1050, 1250))  # type: ignore[arg-type]
    assert allocations.before(1049) is None
    assert [allocations.before(address) for address in (1050, 1150, 1299)] == [big] * 3
    small = allocations.made(Piece(1120, 1130))  # type: ignore[arg-type]
    assert allocations.before(1119) is None
    assert allocations.before(1125) == small
    rest = allocations.before(1450)
    assert rest is not None
    assert (rest.address, rest.nbytes) == (1400, 100)


def test_listeners_hear_of_each_allocation(gpu: VirtualGpu) -> None:
    heard: list[int] = []
    gpu.allocations.listeners.append(lambda allocation: heard.append(allocation.nbytes))
    torch.empty(8, dtype=torch.int32, device="cuda")
    torch.empty(8, dtype=torch.int32)
    torch.zeros(4, dtype=torch.int32, device="cuda")[1:]
    assert heard == [32, 16]


def test_large_float_buffers_take_address_space_only(gpu: VirtualGpu) -> None:
    rows = 64 * RESERVED_ONLY_BYTES // (4 * 512)
    logits = torch.empty((rows, 1, 1, 512), dtype=torch.float32, device="cuda")
    assert logits.shape == (rows, 1, 1, 512)
    assert gpu.allocations.of(logits).nbytes == 64 * RESERVED_ONLY_BYTES
    assert host(logits)[-1, 0, 0, -1] == 0
    assert torch.empty_like(logits).is_cuda


def test_the_gpu_is_as_described(gpu: VirtualGpu) -> None:
    properties = torch.cuda.get_device_properties(torch.cuda.current_device())
    assert (properties.multi_processor_count, properties.gcnArchName.split(":")[0]) == (304, "gfx942")
    assert torch.cuda.is_available()
    assert torch.version.hip is not None
    assert not torch.cuda.is_current_stream_capturing()
    with gpu.capture():
        assert torch.cuda.is_current_stream_capturing()
    torch.cuda.synchronize()
    event = torch.cuda.Event(enable_timing=True)
    event.record()
    assert event.elapsed_time(torch.cuda.Event()) > 0


def test_default_device(gpu: VirtualGpu) -> None:
    torch.set_default_device("cuda")
    assert torch.zeros(2).is_cuda
    assert torch.randn(2).is_cuda
    assert not torch.zeros(2, device="cpu").is_cuda
    torch.set_default_device(None)
    assert not torch.zeros(2).is_cuda


def test_float8_and_copies(gpu: VirtualGpu) -> None:
    q = torch.randn(4, 8, device="cuda").to(torch.float8_e4m3fnuz)
    assert q.is_cuda
    assert q.repeat_interleave(2, dim=1).shape == (4, 16)
    assert torch.cat([q, q]).dtype is torch.float8_e4m3fnuz


def test_everything_is_put_back() -> None:
    before = (torch.cuda.is_available, torch.version.hip, torch.compile, torch.cuda.Event)
    with pytest.raises(ZeroDivisionError), VirtualGpu(GpuFacts("gfx950", 256)):
        1 / 0  # noqa: B018
    assert (torch.cuda.is_available, torch.version.hip, torch.compile, torch.cuda.Event) == before
    assert not torch.zeros(1).is_cuda


def test_what_the_gpu_did_can_be_done_again_into_the_same_memory(gpu: VirtualGpu) -> None:
    """As a graph's replay: results are where later operations of the capture read them, and writes in place go there again."""
    lists = torch.tensor([[3, -1], [4, 5]], device="cuda")
    ends = torch.zeros(3, dtype=torch.int32, device="cuda")
    kept: list[Callable[[], None]] = []
    gpu.launched = kept.append
    counts = (lists != -1).sum(dim=1)
    ends[1:] = torch.cumsum(counts, dim=0)
    longest, at = counts.max(dim=0)
    gpu.launched = None
    lists.copy_(torch.tensor([[1, 2], [-1, -1]]))
    assert (counts.tolist(), ends.tolist(), longest.item()) == ([1, 2], [0, 1, 3], 2)
    for again in kept:
        again()
    assert (counts.tolist(), ends.tolist(), longest.item(), at.item()) == ([2, 0], [0, 2, 2], 2, 0)
