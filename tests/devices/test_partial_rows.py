"""Partial rows: what stage 1 really stores is held against what the merge reads, by the model and by machine code."""

from __future__ import annotations

from pathlib import Path as FilePath

import pytest

from backend.aiter.codefiles import open_source
from backend.case import Case, DType, MetadataMode
from backend.devices.cdna.device import CdnaDevice
from backend.fate import Fate
from backend.findings import FindingKind, Party
from backend.host import BuiltIn
from backend.path import Path

BF16 = {"q_dtype": DType.BF16, "kv_dtype": DType.BF16}
PIECES = Case(32, (17,), release="2026-08", backend="direct", mode=MetadataMode.NON_PERSISTENT).replace(**BF16)
"""Two pieces of 16 tokens to the merge, one of 32 to the kernel (entry O6)."""

EMPTY_BETWEEN = Case(16, (700, 0, 330), 2, release="2026-08", backend="direct", mode=MetadataMode.FAST)


def test_rows_that_nobody_stored_are_merged() -> None:
    cause = Path().run(PIECES).cause
    assert cause is not None
    assert (cause.kind, cause.party, cause.tensor) == (FindingKind.UNWRITTEN_READ, Party.KERNEL, "logits")
    for whole in ({"kv_lens": (16,)}, {"num_head": 16}):
        assert Path().run(PIECES.replace(**whole)).fate is Fate.CLEAN


@pytest.mark.checkout
@pytest.mark.parametrize("length", [17, 16])
def test_the_machine_sees_which_rows_were_stored(length: int, aiter_checkout: FilePath) -> None:
    source = open_source(f"{aiter_checkout}@e4048607a5")
    found = Path(BuiltIn(source), CdnaDevice(source)).run(PIECES.replace(kv_lens=(length,))).findings
    assert [each.kind for each in found] == ([FindingKind.UNWRITTEN_READ] if length == 17 else [])


def test_an_empty_request_is_not_taken_for_the_next_one() -> None:
    """It needs no rows and no tokens, and what is behind it keeps its own."""
    assert Path().run(EMPTY_BETWEEN).fate is Fate.CLEAN
    assert Path().run(EMPTY_BETWEEN.replace(kv_lens=(0, 0, 330))).fate is Fate.CLEAN
    assert Path().run(EMPTY_BETWEEN.replace(kv_lens=(1, 0, 330))).cause is not None  # one token for two rows
