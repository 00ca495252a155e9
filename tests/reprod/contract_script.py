"""What scripts of a decode call begin with, and how they are run."""

from __future__ import annotations

from pathlib import Path

from backend.case import Arch
from backend.child.tree import Limits
from backend.real.script.messages import Options
from reprod.verify import Verification, verify

PREAMBLE = """
import sys
import torch, aiter
from aiter import dtypes
from aiter.mla import mla_decode_fwd

ONE = torch.ones(1, device="cuda")
NAMES = ["work_meta_data", "work_indptr", "work_info_set", "reduce_indptr", "reduce_final_map", "reduce_partial_map"]

def indptr(*lengths):
    return torch.tensor([0, *lengths], device="cuda").cumsum(0).to(torch.int32)

def planned(qo, kv, rows=1, buffers=None):
    sizes = aiter.get_mla_metadata_info_v1(len(qo) - 1, rows, 16, dtypes.fp8, dtypes.fp8, is_sparse=False, fast_mode=True)
    buffers = buffers or [torch.empty(size, dtype=kind, device="cuda") for size, kind in sizes]
    last = torch.ones(len(qo) - 1, dtype=torch.int32, device="cuda")
    aiter.get_mla_metadata_v1(qo, kv, last, 16, 1, True, buffers[0], buffers[2], buffers[1], *buffers[3:], kv_granularity=16,
                              max_seqlen_qo=rows, uni_seqlen_qo=rows, fast_mode=True, dtype_q=dtypes.fp8, dtype_kv=dtypes.fp8)
    return buffers

def decode(qo, kv, buffers, o_type=torch.bfloat16, last=None, indices=None, **given):
    slots = 4096
    q = torch.zeros(int(qo[-1]), 16, 576, device="cuda").to(dtypes.fp8)
    pool = torch.zeros(slots, 1, 1, 576, device="cuda").to(dtypes.fp8)
    o = torch.empty(int(qo[-1]), 16, 512, device="cuda", dtype=o_type)
    indices = torch.arange(slots, dtype=torch.int32, device="cuda") if indices is None else indices
    last = torch.ones(len(qo) - 1, dtype=torch.int32, device="cuda") if last is None else last
    scales = dict(q_scale=ONE, kv_scale=ONE) | given
    mla_decode_fwd(q, pool, o, qo, kv, indices, last, 1, sm_scale=0.04, **dict(zip(NAMES, buffers)), **scales)

def refused(call):
    try:
        call()
    except RuntimeError as error:
        print("refused:", error)

two, kv = indptr(1, 1), indptr(700, 500)
"""


def run(tmp_path: Path, text: str, release: str = "2026-06") -> Verification:
    file = tmp_path / "script.py"
    file.write_text(PREAMBLE + text, encoding="utf-8")
    return verify(file, (), Options(Arch.GFX950, release=release), Limits(seconds=300.0, memory=8 << 30), captured=True)
