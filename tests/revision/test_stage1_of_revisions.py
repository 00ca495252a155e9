"""Stage 1 of a script at a revision of AITER: by its own launcher, which is a built-in release's where that is the same."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import pytest
import torch

from backend.aiter.arguments import TargetGpu
from backend.aiter.codefiles import open_source
from backend.aiter.kernargs import FIELDS, SLOT
from backend.aiter.release import release
from backend.aiter.text.launcher import Launcher
from backend.case import Arch
from backend.real.handlers import AiterEndsProcess
from backend.real.script.stage1 import Stage1, stage1_of
from backend.revision.revision import Revision

pytestmark = pytest.mark.checkout

GPU = TargetGpu(Arch.GFX950, 256)
RULES = release("2026-06")


def revision(checkout: Path, name: str) -> Revision:
    return Revision(open_source(f"{checkout}@{name}"))


def own(host: Revision) -> Launcher:
    return host._launcher


def asked(heads: int, queries: int, dtype: torch.dtype, persistent: bool) -> dict[str, Any]:
    """The arguments of mla_decode_stage1_asm_fwd for one request of 40 tokens, in the order of its declaration in 2026-06."""
    ints = {name: torch.zeros(size, dtype=torch.int32) for name, size in (("qo_indptr", 2), ("kv_indptr", 2), ("tokens", 40))}
    rows = queries
    return {
        "Q": torch.zeros(rows, heads, 576).to(dtype),
        "KV": torch.zeros(40, 1, 1, 576).to(dtype),
        "qo_indptr": ints["qo_indptr"],
        "kv_indptr": ints["kv_indptr"],
        "kv_page_indices": ints["tokens"],
        "kv_last_page_lens": torch.ones(1, dtype=torch.int32),
        "num_kv_splits_indptr": None if persistent else torch.zeros(2, dtype=torch.int32),
        "work_meta_data": torch.zeros(2, dtype=torch.uint64) if persistent else None,
        "work_indptr": torch.zeros(257, dtype=torch.int32) if persistent else None,
        "work_info_set": torch.zeros((8, 8), dtype=torch.int32) if persistent else None,
        "max_seqlen_q": queries,
        "page_size": 1,
        "nhead_kv": 1,
        "softmax_scale": 0.125,
        "splitData": torch.zeros(rows, 1, heads, 512),
        "splitLse": torch.zeros(rows, 1, heads, 1),
        "output": torch.zeros(rows, heads, 512, dtype=torch.bfloat16),
        "lse": None,
        "q_scale": torch.ones(1),
        "kv_scale": torch.ones(1),
    }


def field(launched: Stage1, name: str) -> int:
    (value,) = struct.unpack_from("<I", launched.kernarg, SLOT * FIELDS.index(name))
    return int(value)


@pytest.mark.parametrize("persistent", [True, False])
@pytest.mark.parametrize(
    ("heads", "queries", "dtype"),
    [(16, 1, torch.bfloat16), (16, 4, torch.float8_e4m3fn), (128, 1, torch.float8_e4m3fn), (32, 2, torch.bfloat16)],
)
def test_the_text_of_a_release_launches_as_its_rules_do(
    heads: int, queries: int, dtype: torch.dtype, persistent: bool, aiter_checkout: Path
) -> None:
    host = revision(aiter_checkout, RULES.commit)
    assert host.launcher(has_rules=True) is None, "the rules are the text's, and stand for it"
    given = asked(heads, queries, dtype, persistent)
    if heads == 32 and not persistent:
        pytest.skip("no such kernel in 2026-06")
    by_rules = stage1_of(RULES, GPU, host.source, given)
    by_text = stage1_of(RULES, GPU, host.source, given, own(host))
    assert by_text == by_rules


def test_a_revision_launches_by_its_own_text(aiter_checkout: Path) -> None:
    """7d604afe5 sets out_16_nosplit for a single split, 2988812e134a never: one line of the launcher."""
    given = asked(16, 4, torch.float8_e4m3fn, persistent=False)
    host = revision(aiter_checkout, "7d604afe5")
    assert host.launcher(has_rules=True) is own(host)
    ours, theirs = stage1_of(RULES, GPU, host.source, given), stage1_of(RULES, GPU, host.source, given, own(host))
    assert (field(ours, "out_16_nosplit"), field(theirs, "out_16_nosplit")) == (0, 1)
    assert theirs.code_object == ours.code_object


def test_a_launcher_that_aborts_ends_the_process(aiter_checkout: Path) -> None:
    given = asked(24, 1, torch.float8_e4m3fn, persistent=True)
    with pytest.raises(AiterEndsProcess) as ended:
        stage1_of(RULES, GPU, None, given, own(revision(aiter_checkout, "7d604afe5")))
    assert ended.value.status == 134
    raising = revision(aiter_checkout, "v0.1.9")
    older = {name: value for name, value in given.items() if name not in ("page_size", "nhead_kv", "lse")}
    with pytest.raises(RuntimeError, match="mla_decode_stage1_asm_fwd"):
        stage1_of(RULES, GPU, None, older, own(raising))
