"""Settings in a log: a server's command line, its arguments as it prints them, a configuration, a test's own print.

One row a setting, with every name under which it is met. Values are taken as they stand; what they mean is evidence.py's.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from reprod.diagnose.facts import Topic

SETTINGS: dict[Topic, tuple[str, ...]] = {
    Topic.MODEL: ("model_path", "model-path", "model", "model_tag", "served_model_name"),
    Topic.TENSOR_PARALLEL: ("tp_size", "tp-size", "tensor_parallel_size", "tensor-parallel-size", "tp"),
    Topic.DATA_PARALLEL: ("dp_size", "dp-size", "data_parallel_size", "data-parallel-size", "dp"),
    Topic.DP_ATTENTION: ("enable_dp_attention", "enable-dp-attention"),
    Topic.KV_DTYPE: (
        "kv_cache_dtype",
        "kv-cache-dtype",
        "kv_dtype",
        "kvtype",
        "kv.dtype",
        "kv_buffer.dtype",
        "dtype_kv",
        "kvd",
    ),
    Topic.Q_DTYPE: ("q_dtype", "qtype", "q.dtype", "dtype_q"),
    Topic.PAGE_SIZE: ("page_size", "page-size", "block_size", "block-size"),
    Topic.DRAFT_TOKENS: ("speculative_num_draft_tokens", "speculative-num-draft-tokens"),
    Topic.SPECULATIVE_TOKENS: ("num_speculative_tokens", "num_spec_tokens", "num-speculative-tokens"),
    Topic.MAX_REQUESTS: ("max_running_requests", "max-running-requests", "max_num_seqs", "max-num-seqs"),
    Topic.GRAPH_BATCHES: (
        "cuda_graph_max_bs",
        "cuda-graph-max-bs",
        "cuda_graph_bs",
        "max_cudagraph_capture_size",
        "cudagraph_capture_sizes",
        "cuda_graph_sizes",
    ),
    Topic.GRAPHS_OFF: ("disable_cuda_graph", "disable-cuda-graph", "enforce_eager", "enforce-eager"),
    Topic.ATTENTION: ("attention_backend", "attention-backend", "decode_attention_backend", "decode-attention-backend"),
    Topic.POOL_TOKENS: ("max_total_num_tokens", "max_total_tokens", "max-total-tokens", "num_slots"),
    Topic.BATCH: ("batch_size", "batch", "bs", "num_reqs", "running_bs"),
    Topic.KV_LENS: ("seq_lens", "kv_lens", "seqlens", "kv_len", "ctx_len", "context_len", "ctx_lens", "seq_lens_cpu"),
    Topic.HEADS: ("nhead", "num_heads", "num_head", "num_q_heads", "gqa_ratio", "n_head", "heads_per_rank", "nheads"),
    Topic.ALL_HEADS: ("num_attention_heads",),
    Topic.QUERY_ROWS: ("max_seqlen_q", "max_seqlen_qo", "qlen", "decode_qlen", "mtp", "uni_seqlen_qo", "max_q_len"),
    Topic.ROPE_DIM: ("qk_rope_head_dim",),
    Topic.LATENT_DIM: ("kv_lora_rank",),
    Topic.LSE: ("return_lse",),
    Topic.FIRST_PAGE: ("page_id", "max_page_id", "max_block_id", "slot"),
}

FLAGS = (Topic.DP_ATTENTION, Topic.GRAPHS_OFF, Topic.LSE)
"""Settings that stand on a command line without a value."""

_NAMES = {name: topic for topic, names in SETTINGS.items() for name in names}

_BRACKETS = r"\[[\d,\s]*\]"
_SETTING = re.compile(
    r"(?<![\w.-])(?P<dashes>-{0,2})(?P<quote>['\"]?)"
    rf"(?P<name>{'|'.join(sorted(map(re.escape, _NAMES), key=len, reverse=True))})"
    r"(?P=quote)(?:\s*(?P<mark>=|:|,)\s*|\s+|$)"
    rf"(?:tensor\(\s*)?(?P<value>{_BRACKETS}|['\"][^'\"]*['\"]|[^\s,;)}}\]'\"]+)?",
    re.IGNORECASE,
)

_MOST = 256
"""Settings of one line that are looked at."""


def settings_of(line: str) -> Iterator[tuple[Topic, str]]:
    """(topic, value) of each setting in a line. A bare word followed by a bare word is prose, not a setting."""
    for count, found in enumerate(_SETTING.finditer(line)):
        if count == _MOST:
            return
        topic = _NAMES[found["name"].lower()]
        dashes, mark, value = found["dashes"], found["mark"], (found["value"] or "").strip("'\"")
        if not dashes and mark not in ("=", ":") and not (mark == "," and found["quote"]):
            continue
        if topic in FLAGS and (not value or value.startswith("-") or mark is None):
            value = "True"
        if not value or value in ("None", "null", "auto") or (value.startswith("-") and not dashes):
            continue
        if topic is Topic.MODEL and mark is not None and len(value) < 3:
            continue
        yield topic, value
