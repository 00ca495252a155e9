"""vLLM's rule for MLA models on AITER (v1/attention/backends/mla/rocm_aiter_mla.py), and what it was before two fixes."""

from __future__ import annotations

from dataclasses import dataclass

from backend.case import Case, MetadataMode
from backend.serving.policy import CaseRefused, Choice, LastPageLens, refuse_options

KV_GRANULARITY = 16

MIN_METADATA_HEADS = 16
"""Below this vLLM hands over no metadata and AITER runs non-persistent."""

REASONS = {"return_lse": "vLLM asks for it under decode context parallelism only, which this rule is not of"}
"""Options of the call that vLLM does not use here, and why; see refuse_options."""

DEFAULT_MAX_NUM_SEQS = 256


@dataclass(frozen=True)
class RocmAiterMla:
    """The rule as a function of a Case: always fast_mode, causal, no split cap, page 1.

    sizes_for_capture: whether buffers cover the largest captured graph too (since vllm#41016), or max_num_seqs alone.
    last_page_lens: what it writes there (the sequence length before vllm#31282).
    """

    sizes_for_capture: bool = True
    last_page_lens: LastPageLens = LastPageLens.TOKENS_IN_LAST_PAGE

    def __call__(self, case: Case) -> Choice:
        """The choice for a case; raises CaseRefused for what vLLM does not take."""
        if case.page_size != 1:
            raise CaseRefused(f"page size {case.page_size}: vLLM's AITER MLA backend has block size 1")
        if case.query_lens is not None and set(case.query_lens) != {case.max_seqlen_q}:
            raise CaseRefused("query lengths that differ: vLLM's AITER MLA backend decodes uniform batches")
        refuse_options(case, "vLLM", REASONS)
        if min(case.kv_lens) < case.max_seqlen_q:
            raise CaseRefused("a request shorter than its own rows: kv_lens include this step's tokens")
        run_batch = case.graph_batch or case.batch
        max_num_seqs = case.max_batch or max(run_batch, DEFAULT_MAX_NUM_SEQS)
        allocated = max(max_num_seqs, run_batch) if self.sizes_for_capture else max_num_seqs
        mode = MetadataMode.NON_PERSISTENT if case.num_head < MIN_METADATA_HEADS else MetadataMode.FAST
        return Choice(
            mode=case.mode if case.mode is not None else mode,
            num_head=case.num_head,
            head_repeat=1,
            max_split_per_batch=None,
            kernel_page_size=1,
            sizing_batch=allocated,
            sizing_max_seqlen_q=case.max_seqlen_q,
            metadata_q_dtype=case.q_dtype,
            metadata_kv_dtype=case.kv_dtype,
            kv_granularity=KV_GRANULARITY,
            is_causal=True,
            padding_kv_len=case.max_seqlen_q,
            last_page_lens=self.last_page_lens,
            index_batch=allocated,
        )


VLLM = RocmAiterMla()
VLLM_BEFORE_41016 = RocmAiterMla(sizes_for_capture=False)
VLLM_BEFORE_31282 = RocmAiterMla(last_page_lens=LastPageLens.WHOLE_SEQUENCE)
