"""A stand-in for the real aiter, for tests of device rocm without a GPU: same calls, plain attention on CPU tensors.

It behaves like aiter and the ROCm runtime in what matters to a caller: a fault prints the runtime's line and ends in SIGABRT, a
hang does not return, a lack of memory is torch's exception. Which of these a call does is told by its page size (see mla.py).
"""

import types

import torch

from . import mla  # noqa: F401

__version__ = "stand-in"

dtypes = types.SimpleNamespace(fp8=torch.float8_e4m3fn, bf16=torch.bfloat16)

PLANS = []


def get_mla_metadata_info_v1(
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
    return [
        (2, torch.uint64),
        (9, torch.int32),
        ((16, 8), torch.int32),
        (5, torch.int32),
        ((4, 2), torch.int32),
        (8, torch.int32),
    ]


def get_mla_metadata_v1(
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
    assert work_info_set.shape == (16, 8)
    PLANS.append(num_heads_per_head_k)


def mla_decode_stage1_asm_fwd(Q, KV, qo_indptr, splitData, output):  # noqa: N803
    """Only what a wrapper of it can see."""
