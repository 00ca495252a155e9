"""A caller that hands the case to AITER as it stands, as AITER's op tests do: every mode, page size and ragged lengths."""

from __future__ import annotations

from backend.case import QK_HEAD_DIM, Case, MetadataMode
from backend.serving.policy import CaseRefused, Choice


def direct(case: Case) -> Choice:
    """The choice for a case: case.mode (fast where None), true dtypes, true page size, buffers for the batch that runs."""
    mode = case.mode or MetadataMode.FAST
    if case.topk and (mode is not MetadataMode.FAST or case.page_size > 1 or case.query_lens is not None or case.spare_indices):
        raise CaseRefused(
            "topk: lists of tokens are planned in fast mode alone, of pages of one token, with as many rows for every request"
        )
    if case.cp_world_size and (case.page_size > 1 or case.topk):
        raise CaseRefused("cp_world_size: tokens are dealt to ranks one by one, so a page holds one, and no list names them")
    if case.kv_gap and case.qk_head_dim != QK_HEAD_DIM:
        raise CaseRefused(
            f"kv_gap: what kernels made for rows of {QK_HEAD_DIM} read of a gap behind shorter ones is not told from the page"
        )
    splits = {MetadataMode.FAKE: DIRECT_FAKE_SPLITS}.get(mode)
    return Choice(
        mode=mode,
        num_head=case.num_head,
        head_repeat=1,
        max_split_per_batch=splits,
        kernel_page_size=case.page_size,
        sizing_batch=case.max_batch or case.graph_batch or case.batch,
        sizing_max_seqlen_q=case.max_seqlen_q,
        metadata_q_dtype=case.q_dtype,
        metadata_kv_dtype=case.kv_dtype,
        kv_granularity=max(case.page_size, 16),
        is_causal=case.max_seqlen_q > 1,
        padding_kv_len=case.max_seqlen_q,
        passes_page_size=True,
    )


DIRECT_FAKE_SPLITS = 64
"""Split cap handed over in fake mode, where AITER's sizing needs one; sglang's plain-decode value."""
