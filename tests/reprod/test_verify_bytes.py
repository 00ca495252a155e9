"""KV handed over as bytes, in rows of a width of their own: AITER's own text says what is launched, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest

from backend.case import Arch
from backend.real.script.messages import Options
from tests.reprod.contract_script import PREAMBLE, forked

PAGES_OF_BYTES = """
PAGE = 64
kv, last = indptr(3, 2), torch.tensor([20, 64], dtype=torch.int32, device="cuda")
q = torch.zeros(2, 16, 576, device="cuda", dtype=torch.bfloat16)
pool = torch.zeros(8, PAGE, 1, WIDTH, device="cuda", dtype=TYPE)
o = torch.zeros(2, 16, 512, device="cuda", dtype=torch.bfloat16)
indices = torch.arange(8, dtype=torch.int32, device="cuda")
sizes = aiter.get_mla_metadata_info_v1(2, 1, 16, torch.bfloat16, dtypes.fp8, is_sparse=False, fast_mode=True)
work = [torch.empty(size, dtype=kind, device="cuda") for size, kind in sizes]
aiter.get_mla_metadata_v1(two, kv, last, 16, 1, True, work[0], work[2], work[1], *work[3:], page_size=PAGE, kv_granularity=16,
                          max_seqlen_qo=1, uni_seqlen_qo=1, fast_mode=True, dtype_q=torch.bfloat16, dtype_kv=dtypes.fp8)
mla_decode_fwd(q, pool, o, two, kv, indices, last, 1, page_size=PAGE, sm_scale=0.04, kv_scale=ONE, **dict(zip(NAMES, work)))
print("after the call")
"""


@pytest.mark.checkout
@pytest.mark.parametrize("kind", ["torch.uint8", "torch.int8"])
@pytest.mark.parametrize("arch", Arch)
def test_bytes_are_launched_or_refused_as_aiter_does(arch: Arch, kind: str, tmp_path: Path, aiter_checkout: Path) -> None:
    """gfx942 has a kernel for them, of which nothing is judged; gfx950 has none. AITER asks for no width of theirs."""
    file = tmp_path / "script.py"
    file.write_text(PREAMBLE + f"WIDTH, TYPE = 656, {kind}\n" + PAGES_OF_BYTES, encoding="utf-8")
    done = forked(file, options=Options(arch, f"{aiter_checkout}@e4048607a5"))
    assert done.findings == ()
    if arch is Arch.GFX942:
        assert "after the call" in done.output
        assert f"element type {kind}: MLA decode is modelled for" in str(done.could_not_run)
    else:
        assert done.code == 134, done.output
        assert "cannot get heuristic kernel! q_type:bf16 kv_type:byte gqa:16 ps:1" in done.output
        assert "only support head_size" not in done.output


def test_without_aiters_text_they_cannot_be_simulated(tmp_path: Path) -> None:
    file = tmp_path / "script.py"
    file.write_text(PREAMBLE + "WIDTH, TYPE = 656, torch.uint8\n" + PAGES_OF_BYTES, encoding="utf-8")
    done = forked(file, options=Options(Arch.GFX942, release="2026-08"))
    assert "element type torch.uint8: MLA decode is modelled for" in str(done.could_not_run)
    assert "only support head_size" not in done.output
