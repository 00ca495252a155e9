"""mla_decode_fwd of the stand-in. The page size says how it behaves."""

import os
import sys
import time

import torch

FAULTS, HANGS, LACKS_MEMORY, DIES, WRONG, REFUSES = 2, 4, 8, 16, 32, 64
"""Page sizes with a behaviour of their own; 1: right."""


def mla_decode_fwd(
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
    import aiter

    if page_size == REFUSES:
        raise AssertionError("nhead=3 not supported")
    if page_size == LACKS_MEMORY:
        raise torch.OutOfMemoryError("HIP out of memory. Tried to allocate 64.00 GiB. GPU 0 has a total capacity of 191.98 GiB")
    logits = torch.empty(4, dtype=torch.float32)
    aiter.mla_decode_stage1_asm_fwd(q, kv_buffer, qo_indptr, logits, o)
    if page_size == FAULTS:
        # The page of q's last byte: on a heap of small tensors what lies past it is another one's.
        address = (q.data_ptr() + q.numel() * q.element_size() - 1) // 4096 * 4096
        print(
            f"Memory access fault by GPU node-2 (Agent handle: 0x5581e3d0) on address {address:#x}. "
            "Reason: Page not present or supervisor privilege.",
            file=sys.stderr,
            flush=True,
        )
        os.abort()
    if page_size == HANGS:
        time.sleep(3600)
    if page_size == DIES:
        os.abort()
    for request in range(len(qo_indptr) - 1):
        begin, end = int(kv_indptr[request]), int(kv_indptr[request + 1])
        pages = kv_indices[begin:end].long()
        length = (end - begin - 1) * page_size + int(kv_last_page_lens[request])
        kv = kv_buffer[pages].reshape(-1, 576)[:length].double()
        first, last = int(qo_indptr[request]), int(qo_indptr[request + 1])
        for row in range(first, last):
            seen = kv[: length - (last - 1 - row) - (3 if page_size == WRONG else 0)]
            weight = torch.softmax(q[row].double() @ seen.T / 24.0, 1)
            o[row] = (weight @ seen[:, :512]).to(torch.bfloat16)
    return None, None
