"""A rule of one's own: what a serving backend would hand to AITER if it padded every rank to 64 heads.

    aiterfuzz run --backend examples/rules/pads_to_sixty_four.py --heads 48 --q-dtype fp8 --kv-dtype fp8 --cases 200
    aiterfuzz gate examples/rules/pads_to_sixty_four.py --base sglang-27188

The function is called `policy` (or named: `file.py:name`). It answers for one Case, which holds the shape and the batch, and
raises CaseRefused for what the backend would not take. Index tensors, lengths and padding rows are made from the case.
"""

from backend.case import Case, DType, MetadataMode
from backend.serving.policy import CaseRefused, Choice

KERNEL_HEADS = 64


def policy(case: Case) -> Choice:
    """Fast metadata for 64 heads, whatever the rank has; raises CaseRefused for more heads and for types that differ."""
    if case.num_head > KERNEL_HEADS:
        raise CaseRefused(f"{case.num_head} heads a rank: at most {KERNEL_HEADS}")
    if case.q_dtype is not case.kv_dtype or case.q_dtype is not DType.FP8:
        raise CaseRefused("an fp8 KV cache, and q in fp8 with it")
    return Choice(
        mode=MetadataMode.FAST,
        num_head=KERNEL_HEADS,  # what planner and kernel are told of; the heads above case.num_head are padding
        head_repeat=1,  # 4 heads repeated to 16 would be 4
        max_split_per_batch=32 if case.max_seqlen_q > 1 else 64,
        kernel_page_size=1,  # the kernel sees tokens, whatever the pool's pages hold
        sizing_batch=case.max_batch or case.graph_batch or case.batch,  # what the six metadata buffers are sized for
        sizing_max_seqlen_q=case.max_seqlen_q,
        metadata_q_dtype=case.q_dtype,  # what the planner is told; the founding kind of fault is to tell it otherwise
        metadata_kv_dtype=case.kv_dtype,
        kv_granularity=16,
        is_causal=True,
        padding_kv_len=max(1, case.max_seqlen_q),  # KV tokens of a graph's padding rows: never fewer than their query rows
    )
