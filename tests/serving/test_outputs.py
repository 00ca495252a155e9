"""What a backend gives its caller is held against what its decode call computed, row by row and head by head."""

from __future__ import annotations

import pytest
import torch

from backend.devices.kinds import open_device
from backend.real.aiter_ops import OpCall
from backend.real.frameworks.fetch import open_source
from backend.real.frameworks.outputs import MARKS, computed, mark, misplaced
from backend.real.frameworks.scenarios import BackendConfig, Scenario, Step, StepKind
from fuzz.gate.judge import Judge
from tests.kept_sources import KeptSources

SOURCE = "sglang==0.5.13"


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float8_e4m3fn, torch.float8_e4m3fnuz])
def test_rows_and_heads_are_told_apart(dtype: torch.dtype) -> None:
    q, o = torch.empty((MARKS, 8, 576), dtype=dtype), torch.zeros((MARKS, 8, 512), dtype=torch.bfloat16)
    mark(q)
    assert "row 1, head 0" in misplaced(o, q)
    computed(OpCall("mla_decode_fwd", {"q": q, "o": o}, ()))
    assert misplaced(o, q) == misplaced(o.view(MARKS, -1), q) == ""
    assert "another head's" in misplaced(o.flip(1), q)
    assert "another row's" in misplaced(o.roll(1, 0), q)
    assert misplaced(None, q) == misplaced(o[:3], q) == "", "which says nothing of its rows"


EDITS = {
    "as it is": ("", ""),
    "the first heads of o": ("o[:, :: self.head_repeat_factor, :]", "o[:, : self.num_head, :]"),
    "heads repeated as a whole": (
        "q.repeat_interleave(self.head_repeat_factor, dim=1)",
        "q.repeat(1, self.head_repeat_factor, 1)",
    ),
}


@pytest.mark.parametrize("edit", EDITS)
def test_heads_of_others_are_blamed(edit: str, kept_sources: KeptSources) -> None:
    """Of 8 heads, which a kernel of 16 computes, in each way that decodes; no memory is wrong of either."""
    config = BackendConfig(8, max_requests=8, graph_batches=(4,))
    steps = (
        Step(StepKind.DECODE, (5, 33)),
        Step(StepKind.DECODE, (5, 33, 9), graph=True),
        Step(StepKind.TARGET_VERIFY, (5, 33), backend=1),
        Step(StepKind.DRAFT_EXTEND, (5, 33), backend=1),
    )
    life = Scenario(edit, (config, BackendConfig(8, draft_tokens=4, max_requests=8)), steps)
    old, new = EDITS[edit]
    text = open_source(SOURCE).target.text
    assert old in text
    with kept_sources.open(SOURCE, text=text.replace(old, new) if old else None) as session:
        seen = Judge(open_device("model", None)).judged(life, session.run(life))
    expected = {"arguments/forward_decode/o", "arguments/forward_extend/o"} if old else set()
    assert {each.signature for each in seen.sightings} == expected
