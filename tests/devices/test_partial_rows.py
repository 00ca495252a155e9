"""Partial rows: what stage 1 really stores is held against what the merge reads, by the model and by machine code."""

from __future__ import annotations

import dataclasses
from pathlib import Path as FilePath

import pytest

from backend.aiter.codefiles import code_path, installed_wheel, open_code, open_source
from backend.call import Call
from backend.case import Arch, Case, DType, MetadataMode
from backend.cdna.code_object import load_code_object
from backend.cdna.decode import decode
from backend.cdna.instruction import Instruction
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


WHEEL = installed_wheel()
PERSISTENT = "mla_a8w8_qh16_qseqlen1_gqaratio16_ps.co"
SPLIT_AND_WHOLE = Case(16, (700, 40), release="2025-11", backend="direct", mode=MetadataMode.FAST, num_cu=4)
"""A request in pieces, whose rows are merged, and one that is stored into o directly."""

S_NOP = (0xBF80_0000).to_bytes(4, "little")


def stores() -> list[Instruction]:
    """Each instruction of the kernel that stores to memory."""
    kernel = load_code_object(open_code(WHEEL, Arch.GFX950, PERSISTENT)).kernels[0]
    return [each for each in decode(kernel.text, kernel.arch) if "_store_" in each.mnemonic]


@dataclasses.dataclass(frozen=True)
class Without:
    """The wheel's files, the kernel without one instruction."""

    pc: int
    size: int
    label: str = "the wheel, spoilt"

    def has(self, path: str) -> bool:
        return WHEEL.has(path)

    def read(self, path: str) -> bytes | None:
        content = WHEEL.read(path)
        if content is None or path != code_path(Arch.GFX950, PERSISTENT):
            return content
        at = content.index(load_code_object(content).kernels[0].text) + self.pc
        return content[:at] + S_NOP * (self.size // 4) + content[at + self.size :]


def test_every_store_that_a_kernel_lacks_is_missed() -> None:
    """Of o as a row that nobody writes, of partial rows and their log-sum-exp where they are merged; and none otherwise."""
    assert Path(BuiltIn(WHEEL), CdnaDevice(WHEEL)).run(SPLIT_AND_WHOLE).fate is Fate.CLEAN
    missed = {}
    for store in stores():
        found = Path(BuiltIn(WHEEL), CdnaDevice(Without(store.pc, store.size))).run(SPLIT_AND_WHOLE).findings
        assert [(each.party, each.stage) for each in found] == [(Party.KERNEL, PERSISTENT)], store
        missed[store.pc] = (found[0].kind, found[0].tensor)
    assert len(missed) == 17
    assert set(missed.values()) == {
        (FindingKind.ROW_NOT_WRITTEN, "o"),
        (FindingKind.UNWRITTEN_READ, "logits"),
        (FindingKind.UNWRITTEN_READ, "attn_lse"),
    }
