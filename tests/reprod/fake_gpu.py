"""Runs repro scripts where there is no GPU: torch's "cuda" tensors live on the CPU, and `aiter` is a fake of ours.

Reads one JSON object a line, {"release", "behaviour", "script", "arguments"}, and answers each with {"code", "output"}. Started
once for many scripts, because importing torch takes seconds.

The fake computes plain attention under AITER's signatures, so that what is tested is the script: its calls, its checks and its
exit codes. "behaviour" is a comma-separated list of: right, overrun (o past its end), planner (reduce_indptr past its end),
before (o before its start), wrong (one row doubled), nan (the last row left out), lost (each row's last token), no-lse
(final_lse left out), unless-fast (the others only without fast_mode), no-gpu (nothing is faked).
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import runpy
import sys
import traceback
import types
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

BEHAVIOUR: set[str] = set()

FAST_MODE: list[bool] = []


class CudaIsTheCpu(TorchFunctionMode):
    """device="cuda" means the CPU."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if str(kwargs.get("device")).startswith("cuda"):
            kwargs["device"] = "cpu"
        return func(*args, **kwargs)


def does(behaviour: str) -> bool:
    spared = "unless-fast" in BEHAVIOUR and FAST_MODE and FAST_MODE[-1]
    return behaviour in BEHAVIOUR and not spared


def write_outside(tensor: torch.Tensor, words: int, before: bool = False) -> None:
    """Writes `words` elements right after the tensor's last one, or right before its first."""
    start = tensor.storage_offset() - words if before else tensor.storage_offset() + tensor.numel()
    tensor.as_strided((words,), (1,), start).fill_(7)


def sizes(batch: int, rows: int, heads: int) -> tuple[tuple[Any, torch.dtype], ...]:
    tiles = batch * max(rows * heads // 128, 1)
    words = torch.int32
    return (
        (2, torch.uint64),
        (257, words),
        ((tiles * 256, 8), words),
        (tiles + 1, words),
        ((tiles, 2), words),
        (tiles * 256, words),
    )


def fill(work_indptr: torch.Tensor, reduce_indptr: torch.Tensor) -> None:
    work_indptr.zero_()
    work_indptr[-1] = 1
    if does("planner"):
        write_outside(reduce_indptr, 3)


def info_2025(batch_size, max_seqlen_qo, num_head_qo, q_dtype, kv_dtype, is_sparse, fast_mode=True):  # type: ignore[no-untyped-def]
    FAST_MODE.append(fast_mode)
    return sizes(batch_size, max_seqlen_qo, num_head_qo)


def info_2026(  # type: ignore[no-untyped-def]
    batch_size,
    max_seqlen_qo,
    num_head_qo,
    q_dtype,
    kv_dtype,
    is_sparse,
    fast_mode=True,
    num_kv_splits=32,
    intra_batch_mode=False,
):
    FAST_MODE.append(fast_mode)
    assert not (fast_mode and intra_batch_mode)
    return sizes(batch_size, max_seqlen_qo, num_head_qo)


def plan_2025(  # type: ignore[no-untyped-def]
    seqlens_qo_indptr,
    seqlens_kv_indptr,
    num_heads_per_head_k,
    num_heads_k,
    is_causal,
    work_metadata_ptrs,
    work_indptr,
    work_info,
    reduce_indptr,
    reduce_final_map,
    reduce_partial_map,
    kv_granularity=16,
    max_seqlen_qo=-1,
    uni_seqlen_qo=-1,
    fast_mode=True,
    topk=-1,
    max_split_per_batch=-1,
):
    assert (work_metadata_ptrs.dtype, work_indptr.dim(), work_info.dim()) == (torch.uint64, 1, 2)
    fill(work_indptr, reduce_indptr)


def plan_2026(  # type: ignore[no-untyped-def]
    seqlens_qo_indptr,
    seqlens_kv_indptr,
    kv_last_page_lens,
    num_heads_per_head_k,
    num_heads_k,
    is_causal,
    work_metadata_ptrs,
    work_info_set,
    work_indptr,
    reduce_indptr,
    reduce_final_map,
    reduce_partial_map,
    page_size=1,
    kv_granularity=16,
    max_seqlen_qo=-1,
    uni_seqlen_qo=-1,
    fast_mode=True,
    topk=-1,
    max_split_per_batch=-1,
    intra_batch_mode=False,
    dtype_q=None,
    dtype_kv=None,
):
    assert (work_metadata_ptrs.dtype, work_indptr.dim(), work_info_set.dim()) == (torch.uint64, 1, 2)
    assert dtype_q in (torch.bfloat16, torch.float8_e4m3fn)
    fill(work_indptr, reduce_indptr)


def attention(q, kv_buffer, o, qo_indptr, kv_indptr, kv_indices, kv_last_page_lens, sm_scale, lse=None):  # type: ignore[no-untyped-def]
    """What the kernel should do, in float32 through the page table."""
    page = kv_buffer.shape[1]
    for request in range(len(qo_indptr) - 1):
        first, end = int(qo_indptr[request]), int(qo_indptr[request + 1])
        pages = kv_indices[int(kv_indptr[request]) : int(kv_indptr[request + 1])].long()
        length = (len(pages) - 1) * page + int(kv_last_page_lens[request])
        kv = kv_buffer.view(torch.uint8)[pages].view(kv_buffer.dtype).flatten(0, 2)[:length].float()
        for row in range(first, end):
            seen = kv[: length - (end - first) + (row - first) + 1]
            if does("lost"):
                seen = seen[:-1]
            scores = q[row].float() @ seen.T * sm_scale
            weights = torch.softmax(scores, dim=1)
            if lse is not None:
                lse[row] = torch.logsumexp(scores, dim=1)
            o[row] = (weights @ seen[:, :512]).to(o.dtype)
    if does("overrun"):
        write_outside(o, 512)
    if does("before"):
        write_outside(o, 256, before=True)
    if does("wrong"):
        o[0] *= 2
    if does("nan"):
        o[-1] = float("nan")


def decode_2025(  # type: ignore[no-untyped-def]
    q,
    kv_buffer,
    o,
    qo_indptr,
    kv_indptr,
    kv_indices,
    kv_last_page_lens,
    max_seqlen_q,
    sm_scale=None,
    logit_cap=0.0,
    num_kv_splits=None,
    num_kv_splits_indptr=None,
    work_meta_data=None,
    work_indptr=None,
    work_info_set=None,
    reduce_indptr=None,
    reduce_final_map=None,
    reduce_partial_map=None,
    q_scale=None,
    kv_scale=None,
):
    attention(q, kv_buffer, o, qo_indptr, kv_indptr, kv_indices, kv_last_page_lens, sm_scale)


def decode_2026(  # type: ignore[no-untyped-def]
    q,
    kv_buffer,
    o,
    qo_indptr,
    kv_indptr,
    kv_indices,
    kv_last_page_lens,
    max_seqlen_q,
    page_size=1,
    nhead_kv=1,
    sm_scale=None,
    logit_cap=0.0,
    num_kv_splits=None,
    num_kv_splits_indptr=None,
    work_meta_data=None,
    work_indptr=None,
    work_info_set=None,
    reduce_indptr=None,
    reduce_final_map=None,
    reduce_partial_map=None,
    q_scale=None,
    kv_scale=None,
    intra_batch_mode=False,
    return_logits=False,
    return_lse=False,
):
    assert page_size == kv_buffer.shape[1]
    final_lse = torch.empty((q.shape[0], q.shape[1]), dtype=torch.float32) if return_lse else None
    written = None if does("no-lse") else final_lse
    attention(q, kv_buffer, o, qo_indptr, kv_indptr, kv_indices, kv_last_page_lens, sm_scale, written)
    return None, final_lse


def modules(release: str) -> None:
    aiter, mla, dtypes = types.ModuleType("aiter"), types.ModuleType("aiter.mla"), types.ModuleType("aiter.dtypes")
    old = release.startswith("2025")
    aiter.__file__ = __file__
    aiter.__path__ = []  # type: ignore[attr-defined]
    dtypes.fp8, dtypes.bf16 = torch.float8_e4m3fn, torch.bfloat16  # type: ignore[attr-defined]
    aiter.dtypes = dtypes  # type: ignore[attr-defined]
    aiter.get_mla_metadata_info_v1 = info_2025 if old else info_2026  # type: ignore[attr-defined]
    aiter.get_mla_metadata_v1 = plan_2025 if old else plan_2026  # type: ignore[attr-defined]
    mla.mla_decode_fwd = decode_2025 if old else decode_2026  # type: ignore[attr-defined]
    sys.modules.update({"aiter": aiter, "aiter.mla": mla, "aiter.dtypes": dtypes})


REAL = {name: getattr(torch.cuda, name) for name in ("is_available", "get_device_properties", "synchronize", "device_count")}


def run(release: str, behaviour: str, script: str, arguments: list[str]) -> tuple[int, str]:
    """Exit code and output of one script."""
    BEHAVIOUR.clear()
    BEHAVIOUR.update(behaviour.split(","))
    FAST_MODE.clear()
    sys.argv = [script, *arguments]
    properties = types.SimpleNamespace(name="fake", gcnArchName="gfx950:sramecc+:xnack-", multi_processor_count=256)
    faked = "no-gpu" not in BEHAVIOUR
    fakes = {
        "is_available": lambda: True,
        "get_device_properties": lambda device: properties,
        "synchronize": lambda: None,
        "device_count": lambda: 2,
    }
    for name, function in (fakes if faked else REAL).items():
        setattr(torch.cuda, name, function)
    modules(release)
    output = io.StringIO()
    with contextlib.redirect_stdout(output), contextlib.redirect_stderr(output):
        try:
            with CudaIsTheCpu() if faked else contextlib.nullcontext():
                runpy.run_path(script, run_name="__main__")
            code = 0
        except SystemExit as ended:
            code = ended.code if isinstance(ended.code, int) else 1
        except Exception:
            traceback.print_exc()
            code = 70
    return code, output.getvalue()


if __name__ == "__main__":
    # What a script's own processes say must not get between the answers.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    for line in sys.stdin:
        asked = json.loads(line)
        code, output = run(asked["release"], asked["behaviour"], asked["script"], asked["arguments"])
        print(json.dumps({"code": code, "output": output}), file=answers, flush=True)
