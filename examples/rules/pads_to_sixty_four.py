"""A rule of one's own: what a serving backend would hand to AITER if it padded every rank to 64 heads.

    aiterfuzz run --backend examples/rules/pads_to_sixty_four.py --heads 48 --q-dtype fp8 --kv-dtype fp8 --cases 200
    aiterfuzz gate examples/rules/pads_to_sixty_four.py --base sglang-27188

The function is called `policy` (or named: `file.py:name`). It answers for one Case, which holds the shape and the batch, and
raises CaseRefused for what the backend would not take. Index tensors, lengths and padding rows are made from the case, so is
whatever the Choice leaves out. `aiterfuzz rule new` writes one to begin with.
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
        max_split_per_batch=32 if case.max_seqlen_q > 1 else 64,
    )
