"""decode_update_mla_metadata_v1, AITER's own kernel that brings a plan up to the next step, between planning and decode."""

from __future__ import annotations

from pathlib import Path

import pytest

from backend.case import Arch
from backend.child.tree import Limits
from backend.findings import FindingKind, Party
from backend.real.script.messages import Options
from reprod.verify import verify
from tests.reprod.contract_script import PREAMBLE

pytestmark = pytest.mark.checkout

STEPS = """
from aiter.ops.attention import decode_update_mla_metadata_v1

def step(number):
    return kv + number * torch.arange(3, dtype=torch.int32, device="cuda")

def update(lengths):
    last = torch.ones(2, dtype=torch.int32, device="cuda")
    decode_update_mla_metadata_v1(two, lengths, last, 16, 1, True, work[0], work[2], work[1], *work[3:], dtype_q=dtypes.fp8,
                                  dtype_kv=dtypes.fp8)

work = planned(two, kv)
"""


@pytest.mark.parametrize(
    ("text", "kinds"),
    [
        ("update(step(1)); decode(two, step(1), work)", set()),
        ("decode(two, step(1), work)", {FindingKind.PLAN_MISMATCH}),
        ("update(step(1)); update(step(2)); decode(two, step(1), work)", {FindingKind.BEYOND_SEQUENCE}),
    ],
    ids=["once a step", "forgotten", "twice"],
)
def test_a_plan_that_is_updated(text: str, kinds: set[FindingKind], tmp_path: Path, aiter_checkout: Path) -> None:
    file = tmp_path / "script.py"
    file.write_text(PREAMBLE + STEPS + text, encoding="utf-8")
    options = Options(Arch.GFX950, f"{aiter_checkout}@e4048607a5")
    done = verify(file, (), options, Limits(seconds=300.0, memory=8 << 30), captured=True)
    found = [seen.finding for seen in done.findings]
    assert done.could_not_run is None, done.output
    assert {each.kind for each in found} >= kinds
    assert bool(found) == bool(kinds)
    assert {each.party for each in found} == ({Party.CALLER} if kinds else set())
