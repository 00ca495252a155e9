"""sglang's rule for MLA models on AITER (`AiterAttnBackend`, python/sglang/srt/layers/attention/aiter_backend.py).

Only the decision: which flags and sizes reach AITER. The head gate is data, so that the rule before and after
sglang#27188 are two values of one class.
"""

from __future__ import annotations

from dataclasses import dataclass

from backend.case import Case, DType, MetadataMode
from backend.serving.policy import CaseRefused, Choice, refuse_options
from backend.words import number_of

MIN_KERNEL_HEADS = 16
"""AITER's kernels take at least 16 heads; sglang repeats q's heads up to it (`num_head_padded`)."""

REASONS = {"return_lse": "sglang asks for it under decode context parallelism only, which this rule is not of"}
"""Options of the call that sglang does not use here, and why; see refuse_options."""

MAX_HEADS = 128

MAX_SPLITS = 64
"""`max_split_per_batch` in plain decode, by `AiterAttnBackend.__init__`."""

MAX_SPLITS_SPECULATIVE = 32
"""The same with speculative decoding (MTP)."""

MIN_KV_GRANULARITY = 16
"""`kv_granularity=max(page_size, 16)` in `make_mla_meta_data`."""

MAX_DRAFT_TOKENS = 8
"""Most draft tokens that a served MLA model uses."""

CONTEXT_LEN = 163840
"""`context_len` of DeepSeek-R1 (max_position_embeddings): graphs are captured on kv_indices of that many entries a request."""


@dataclass(frozen=True)
class AiterMlaBackend:
    """The rule as a function of a Case, whose rows a request are one (plain decode) or the draft tokens (target_verify).

    fast_heads: the gate: head counts for which the constructor sets fast_mode and clears intra_batch_mode.
    padding_kv_len: KV tokens of graph padding rows, None: the rule since sglang#20841. There a padding row has the sequence
    length 1, or the draft tokens with speculation, and verification adds the draft tokens to every row, padding included.
    context_len: of the model, in tokens; it fixes the splits of a captured non-persistent call.
    """

    fast_heads: frozenset[int]
    padding_kv_len: int | None = None
    context_len: int = CONTEXT_LEN

    def __call__(self, case: Case) -> Choice:
        """The choice for a case; raises CaseRefused for what sglang does not take."""
        self._refuse(case)
        num_head = max(MIN_KERNEL_HEADS, case.num_head)
        mode = case.mode if case.mode is not None else self.mode(case.num_head, case.kv_dtype)
        persistent = mode is not MetadataMode.NON_PERSISTENT
        speculative = case.max_seqlen_q > 1
        return Choice(
            mode=mode,
            num_head=num_head,
            head_repeat=num_head // case.num_head if case.num_head < MIN_KERNEL_HEADS else 1,
            max_split_per_batch=(MAX_SPLITS_SPECULATIVE if speculative else MAX_SPLITS) if persistent else None,
            kernel_page_size=1,
            sizing_batch=case.max_batch or case.graph_batch or case.batch,
            sizing_max_seqlen_q=case.max_seqlen_q,
            metadata_q_dtype=case.kv_dtype,
            metadata_kv_dtype=case.kv_dtype,
            kv_granularity=max(case.page_size, MIN_KV_GRANULARITY),
            is_causal=False,
            padding_kv_len=self._padding_kv_len(case),
            captured_index_entries=self._captured_index_entries(case),
        )

    def mode(self, num_head: int, kv_dtype: DType) -> MetadataMode:
        """The metadata mode by the constructor's gate (steps 3 and 4 of its rule)."""
        fast = num_head in self.fast_heads
        if max(MIN_KERNEL_HEADS, num_head) in (16, 128) and kv_dtype is not DType.FP8:
            return MetadataMode.NON_PERSISTENT
        return MetadataMode.FAST if fast else MetadataMode.FAKE

    def _padding_kv_len(self, case: Case) -> int:
        """`get_cuda_graph_seq_len_fill_value`, and what `init_forward_metadata_replay_cuda_graph` adds to it."""
        if self.padding_kv_len is not None:
            return self.padding_kv_len
        return 1 if case.max_seqlen_q == 1 else 2 * case.max_seqlen_q

    def _captured_index_entries(self, case: Case) -> int | None:
        """Entries of `cuda_graph_kv_indices`. A request longer than the context is one of a model with more."""
        if case.graph_batch is None:
            return None
        drafts = case.max_seqlen_q if case.max_seqlen_q > 1 else 0
        return (case.max_batch or case.graph_batch) * (max(self.context_len, *case.kv_lens) + drafts)

    @staticmethod
    def _refuse(case: Case) -> None:
        heads = case.num_head
        if not (heads in (4, 8) or (heads % 16 == 0 and heads <= MAX_HEADS)):
            raise CaseRefused(f"{number_of(heads, 'head')} a rank: sglang takes 4, 8 or a multiple of 16 up to {MAX_HEADS}")
        if case.query_lens is not None and set(case.query_lens) != {case.max_seqlen_q}:
            raise CaseRefused("query lengths that differ: sglang decodes and verifies a uniform number of rows a request")
        refuse_options(case, "sglang", REASONS)
        if case.max_seqlen_q > MAX_DRAFT_TOKENS:
            raise CaseRefused(
                f"{number_of(case.max_seqlen_q, 'row')} a request: at most {MAX_DRAFT_TOKENS} draft tokens are served"
            )
        if min(case.kv_lens) < case.max_seqlen_q:
            raise CaseRefused("a request shorter than its own rows: kv_lens include this step's tokens")
        if case.max_batch is not None and case.max_batch < (case.graph_batch or case.batch):
            raise CaseRefused("max_batch below the batch that runs: sglang sizes graph buffers by the largest captured batch")
        if case.max_batch is not None and case.graph_batch is None:
            raise CaseRefused("max_batch without a graph: eager buffers are sized for the exact batch")


SGLANG_BEFORE_20399 = AiterMlaBackend(fast_heads=frozenset())
SGLANG_BEFORE_27188 = AiterMlaBackend(fast_heads=frozenset({32, 128}))
SGLANG_27188 = AiterMlaBackend(fast_heads=frozenset({32, 64, 128}))
SGLANG_BEFORE_20841 = AiterMlaBackend(fast_heads=frozenset({32, 128}), padding_kv_len=1)
"""Padding as its draft-extend graphs had it, which add nothing to the fill of 1; in verification it was 1 + draft tokens."""
