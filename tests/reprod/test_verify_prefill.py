"""Prefill among streams and graphs: what it reads and writes is ordered like any other work of the GPU, and done again."""

from __future__ import annotations

from pathlib import Path

import pytest

from backend.case import Arch
from backend.child.tree import Limits
from backend.findings import FindingKind, Party
from backend.real.script.messages import Options
from reprod.verify import Verification, verify

pytestmark = pytest.mark.checkout

PREFILL = """
import torch, aiter

def words(*numbers):
    return torch.tensor(numbers, dtype=torch.int32, device="cuda")

pool = torch.randn(16, 1, 1, 576, device="cuda").to(torch.bfloat16)
q = torch.randn(5, 16, 576, device="cuda").to(torch.bfloat16)
o = torch.full((5, 16, 512), torch.nan, device="cuda", dtype=torch.bfloat16)
new = torch.randn(4, 1, 1, 576, device="cuda").to(torch.bfloat16)
rows, tokens, last = words(0, 2, 5), words(0, 4, 9), words(1, 1)
pages = words(3, 1, 4, 0, 5, 9, 2, 6, 8)
side, graph = torch.cuda.Stream(), torch.cuda.CUDAGraph()

def attend():
    aiter.mla_prefill_asm_fwd(q, pool, rows, tokens, pages, last, 3, 0.04, o.unsqueeze(1), total)

total = torch.empty(5, 1, 16, 1, device="cuda")
torch.cuda.synchronize()
"""


def verified(text: str, tmp_path: Path, checkout: Path) -> Verification:
    file = tmp_path / "script.py"
    file.write_text(PREFILL + text, encoding="utf-8")
    options = Options(Arch.GFX942, f"{checkout}@e4048607a5")
    return verify(file, (), options, Limits(seconds=300.0, memory=8 << 30), captured=True)


@pytest.mark.parametrize(
    ("slots", "edge", "raced"),
    [
        ("0:4", "pass", True),
        ("0:4", "torch.cuda.current_stream().wait_stream(side)", False),
        ("10:14", "pass", False),  # pages of nobody in this batch
    ],
)
def test_kv_stored_on_another_stream_without_an_edge(
    slots: str, edge: str, raced: bool, tmp_path: Path, aiter_checkout: Path
) -> None:
    text = (
        f"with torch.cuda.stream(side):\n    pool[{slots}] = new\n{edge}\nattend()\nprint('written', bool(o.isfinite().all()))"
    )
    done = verified(text, tmp_path, aiter_checkout)
    assert "written True" in done.output
    found = {(seen.finding.kind, seen.finding.party, seen.finding.tensor) for seen in done.findings}
    assert found == ({(FindingKind.STREAM_RACE, Party.CALLER, "kv_buffer")} if raced else set()), done.output


def test_a_graph_does_it_again_on_the_memory_as_it_is_then(tmp_path: Path, aiter_checkout: Path) -> None:
    text = """
with torch.cuda.graph(graph):
    attend()
assert o.isnan().all(), "a capture does nothing"
q.copy_(q.flip(1))
graph.replay()
replayed = o.clone()
attend()
print("the same", torch.equal(replayed, o) and bool(o.isfinite().all()))
"""
    done = verified(text, tmp_path, aiter_checkout)
    assert "the same True" in done.output
    assert done.findings == ()
