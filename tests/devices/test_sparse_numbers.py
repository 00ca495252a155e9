"""Decode over lists of tokens (topk), on AITER's machine code: within the budget, and the model sees the same accesses."""

from __future__ import annotations

from pathlib import Path as FilePath

import pytest

from backend.aiter.codefiles import open_source
from backend.call import Call
from backend.case import Arch, Case, DType
from backend.devices.cdna.device import CdnaDevice
from backend.devices.model.device import ModelDevice
from backend.devices.two_devices import differences
from backend.host import BuiltIn
from backend.path import Path

REVISION = "e4048607a5"
LISTS = Case(16, (1, 2047, 2048, 2049), topk=2048, backend="direct", release="2026-08")
"""Lists of one token, and on both sides of where they are full."""

KERNELS = [
    *((Arch.GFX950, heads, dtype, rows) for heads in (16, 32, 64, 128) for dtype in DType for rows in (1, 2)),
    *((Arch.GFX942, 16, dtype, 1) for dtype in DType),
]


@pytest.mark.checkout
@pytest.mark.parametrize(("arch", "heads", "dtype", "rows"), KERNELS, ids=str)
def test_lists_of_tokens(arch: Arch, heads: int, dtype: DType, rows: int, aiter_checkout: FilePath) -> None:
    source = open_source(f"{aiter_checkout}@{REVISION}")
    case = LISTS.replace(arch=arch, num_head=heads, q_dtype=dtype, kv_dtype=dtype, max_seqlen_q=rows)
    call = Path(BuiltIn(source)).call(case)
    assert isinstance(call, Call)
    numbers = CdnaDevice(source, numbers=True).observe(call).numbers
    assert numbers is not None
    assert numbers.compared == 4 * rows * heads
    assert (numbers.not_a_number, numbers.unwritten, numbers.outside) == (0, 0, 0)
    seen = CdnaDevice(source, record=True).observe(call)
    assert seen.violations == ()
    assert differences(seen, ModelDevice(record=True).observe(call)) == []
