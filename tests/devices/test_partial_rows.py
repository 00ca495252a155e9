"""Partial rows: what stage 1 really stores is held against what the merge reads, by the model and by machine code."""

from __future__ import annotations

from pathlib import Path as FilePath

import pytest

from backend.aiter.codefiles import open_source
from backend.call import Call
from backend.case import Case, DType, MetadataMode
from backend.devices import outputs, second_stage
from backend.devices.accesses import NOTHING
from backend.devices.cdna.device import CdnaDevice
from backend.fate import Fate
from backend.findings import FindingKind, Party
from backend.host import BuiltIn
from backend.observation import ViolationKind
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


AFTER_AN_EMPTY_ITEM = Case(48, (0, 700), release="2026-08", backend="direct", mode=MetadataMode.FAST, num_cu=8)
"""The second workgroup's items: one without tokens, which ends it, then a piece of the next request, which nobody computes."""


def test_a_piece_behind_an_item_without_tokens_is_merged_and_nobody_stored_it() -> None:
    cause = Path().run(AFTER_AN_EMPTY_ITEM).cause
    assert cause is not None
    assert (cause.kind, cause.party, cause.tensor) == (FindingKind.UNWRITTEN_READ, Party.KERNEL, "logits")
    assert cause.evidence["first_offset"] == 0
    assert cause.evidence["end_offset"] == 16 * 512 * 4
    for sound in ({"kv_lens": (1, 700)}, {"kv_lens": (700, 0)}, BF16):
        assert Path().run(AFTER_AN_EMPTY_ITEM.replace(**sound)).fate is Fate.CLEAN


@pytest.mark.checkout
def test_the_machine_sees_the_same_of_persistent_kernels(aiter_checkout: FilePath) -> None:
    source = open_source(f"{aiter_checkout}@e4048607a5")
    machine = Path(BuiltIn(source), CdnaDevice(source))
    assert machine.run(AFTER_AN_EMPTY_ITEM).cause == Path(BuiltIn(source)).run(AFTER_AN_EMPTY_ITEM).cause
    assert machine.run(AFTER_AN_EMPTY_ITEM.replace(kv_lens=(1, 700))).fate is Fate.CLEAN


def test_log_sum_exps_are_held_against_the_merge_too() -> None:
    call = Path().call(AFTER_AN_EMPTY_ITEM.replace(kv_lens=(700,)))
    assert isinstance(call, Call)
    whole = second_stage.run(call, record=False).partials
    assert set(whole) == {"logits", "attn_lse"}
    assert outputs.unwritten_partials(call, whole.__getitem__, whole) is None
    missing = outputs.unwritten_partials(call, {**whole, "attn_lse": NOTHING}.__getitem__, whole)
    assert missing is not None
    assert (missing.kind, missing.tensor, missing.first_offset) == (ViolationKind.UNWRITTEN, "attn_lse", 0)
