"""Memory that torch has freed is no memory of the virtual GPU: a stray access there is outside, not inside a stale tensor."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from backend.real.torch_shim import Allocations  # noqa: E402


def test_a_freed_storage_is_no_allocation() -> None:
    allocations = Allocations()
    kept = torch.empty(1000, dtype=torch.uint8)
    freed = torch.empty(1 << 20, dtype=torch.uint8)
    below = allocations.made(kept)
    above = allocations.made(freed)
    assert allocations.before(above.address + 10) == above
    del freed
    found = allocations.before(above.address + 10)
    assert found is None or found == below
    assert allocations.of(kept) == below


def test_a_storage_made_again_at_the_address_is_another() -> None:
    allocations = Allocations()
    first = torch.empty(1 << 22, dtype=torch.uint8)
    tag, address = allocations.made(first).tag, first.data_ptr()
    del first
    again = torch.empty(1 << 22, dtype=torch.uint8)
    if again.data_ptr() != address:
        pytest.skip("the allocator gave other memory")
    assert allocations.of(again).tag != tag
