"""A tree with the files, classes and methods of ATOM's that its driver uses, written for tests."""

from __future__ import annotations

from pathlib import Path

BUILDER = "atom/model_ops/attentions/aiter_mla.py"
LAYER = "atom/model_ops/attention_mla.py"

_FILES = {
    "atom/utils/__init__.py": """
import torch


class CpuGpuBuffer:
    def __init__(self, *size, dtype, device):
        self.cpu = torch.zeros(*size, dtype=dtype, device="cpu", pin_memory=True)
        self.gpu = torch.zeros_like(self.cpu, device=device)
        self.np = self.cpu.numpy()

    def copy_to_gpu(self, count):
        return self.gpu[:count].copy_(self.cpu[:count], non_blocking=True)
""",
    BUILDER: """
from types import SimpleNamespace

import numpy as np
import torch
from aiter import dtypes, get_mla_metadata_info_v1, get_mla_metadata_v1

from atom.utils import CpuGpuBuffer

ROLES = ("work_meta_data", "work_indptr", "work_info_set", "reduce_indptr", "reduce_final_map", "reduce_partial_map")
ORDER = ("work_meta_data", "work_info_set", "work_indptr", *ROLES[3:])


class AiterMLAMetadataBuilder:
    def __init__(self, model_runner):
        self.runner, self.vars = model_runner, model_runner.forward_vars
        config = model_runner.config
        self.heads = max(config.hf_config.num_attention_heads, 16)
        self.dtype_kv = dtypes.d_dtypes[config.kv_cache_dtype]
        self.rows = model_runner.num_spec_tokens + 1
        sizes = get_mla_metadata_info_v1(
            model_runner.max_bs, self.rows, self.heads, self.dtype_kv, self.dtype_kv, is_sparse=False, fast_mode=True
        )
        self.metadata = {
            role: torch.empty(size, dtype=dtype, device="cuda") for role, (size, dtype) in zip(ROLES, sizes, strict=True)
        }
        count = model_runner.max_bs
        for name, size in (("kv_indptr", count + 1), ("cu_seqlens_q", count + 1), ("kv_last_page_lens", count)):
            self.vars[name] = CpuGpuBuffer(size, dtype=torch.int32, device="cuda")
        self.indices = torch.zeros(count * config.max_model_len, dtype=torch.int32, device="cuda")

    def build(self, batch, bs):
        if batch.total_tokens_num_prefill > 0:
            raise ValueError("no prompts in a small ATOM")
        lens = batch.context_lens.copy()
        if self.runner.tokenID_processor.num_rejected is not None:
            lens -= self.runner.tokenID_processor.num_rejected
        page = self.runner.block_size
        ends, pages = self.vars["kv_indptr"].np, self.vars["kv_last_page_lens"].np
        ends[1 : len(lens) + 1] = np.cumsum(lens)
        ends[len(lens) + 1 : bs + 1] = ends[len(lens)]
        pages[: len(lens)], pages[len(lens) : bs] = 1, 0
        slots = [block * page + at for blocks in batch.block_tables for block in blocks for at in range(page)]
        starts = np.cumsum([0, *(len(blocks) * page for blocks in batch.block_tables)])
        kept = np.concatenate([slots[start : start + length] for start, length in zip(starts, lens)])
        beside, stream = self.runner.async_execute_stream, torch.cuda.current_stream()
        beside.wait_stream(stream)
        with torch.cuda.stream(beside):
            self.indices[: len(kept)] = torch.from_numpy(kept.astype(np.int32))
        stream.wait_stream(beside)
        return self._planned(bs), None

    def build_for_cudagraph_capture(self, bs):
        return self._planned(bs), SimpleNamespace(positions=None)

    def _planned(self, bs):
        counts = {"cu_seqlens_q": bs + 1, "kv_indptr": bs + 1, "kv_last_page_lens": bs}
        qo, kv, last = (self.vars[name].copy_to_gpu(count) for name, count in counts.items())
        get_mla_metadata_v1(
            qo, kv, last, self.heads, 1, True, *(self.metadata[role] for role in ORDER),
            kv_granularity=16, max_seqlen_qo=self.rows, uni_seqlen_qo=self.rows, fast_mode=1,
            max_split_per_batch=16, dtype_q=self.dtype_kv, dtype_kv=self.dtype_kv,
        )
        tensors = {"qo": qo, "kv": kv, "last": last, "indices": self.indices, "work": self.metadata}
        return SimpleNamespace(**tensors, rows=self.rows, q=self.dtype_kv)
""",
    LAYER: """
from dataclasses import dataclass
from typing import Any

import torch
from aiter.mla import mla_decode_fwd

from atom.utils.forward_context import get_forward_context


@dataclass
class MLAModules:
    q_lora_rank: Any
    kv_lora_rank: Any
    qk_nope_head_dim: Any
    qk_rope_head_dim: Any
    qk_head_dim: Any
    v_head_dim: Any
    rotary_emb: Any
    q_proj: Any
    kv_b_proj: Any
    o_proj: Any
    indexer: Any
    is_sparse: bool = False
    topk_tokens: Any = None


class MLAAttention:
    def __init__(self, num_heads, kv_cache_dtype, mla_modules, **others):
        self.repeat = max(16 // num_heads, 1)
        self.heads, self.scale = num_heads, torch.ones(1, dtype=torch.float32)

    def forward(self, query, k_nope, k_rope, positions=None):
        context = get_forward_context()
        plan, cache = context.attn_metadata, context.kv_cache_data["layer_0"].k_cache
        return self._forward_decode(torch.empty((query.shape[0], self.heads, 576), dtype=plan.q, device="cuda"), cache, plan)

    def _v_up_proj_and_o_proj(self, x):
        return x.reshape(x.shape[0], -1)

    def _forward_decode(self, q, cache, plan):
        q = q.repeat_interleave(self.repeat, dim=1)
        o = torch.empty((*q.shape[:2], 512), dtype=torch.bfloat16, device="cuda")
        mla_decode_fwd(
            q, cache.view(-1, 1, 1, 576), o, plan.qo, plan.kv, plan.indices, plan.last, plan.rows, num_kv_splits=16,
            sm_scale=0.1, q_scale=self.scale, kv_scale=self.scale, **plan.work,
        )
        return self._v_up_proj_and_o_proj(o[:, :: self.repeat])
""",
}


def small_atom(folder: Path) -> Path:
    """The tree, in a folder that is there."""
    for name, text in _FILES.items():
        file = folder / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    return folder
