"""Models that are served through MLA decode: query heads and the widths of their rows, one row each.

The widths are what a model's configuration calls kv_lora_rank and qk_rope_head_dim; AITER's kernels have
512 + 64 in their code.
"""

from __future__ import annotations

from dataclasses import dataclass

from backend.case import QK_HEAD_DIM, V_HEAD_DIM
from backend.errors import UsageError


@dataclass(frozen=True, slots=True)
class Model:
    """heads: query heads, all ranks together. kv_lora_rank, qk_rope_head_dim: elements of a KV token."""

    name: str
    heads: int
    kv_lora_rank: int = V_HEAD_DIM
    qk_rope_head_dim: int = QK_HEAD_DIM - V_HEAD_DIM


MODELS = (
    Model("deepseek-r1", 128),
    Model("deepseek-v3.2", 128),
    Model("kimi-k2", 64),
    Model("kimi-k3", 96),
    Model("kimi-linear", 32),
    Model("glm-5", 64),
    Model("glm-5.3-flash", 64, qk_rope_head_dim=0),  # rope-free: rows of 512 (vllm#53963)
)

MODEL_NAMES = ", ".join(model.name for model in MODELS)


def model_named(name: str) -> Model:
    """The model of that name; raises UsageError for an unknown one."""
    for model in MODELS:
        if model.name == name:
            return model
    raise UsageError.not_allowed("model", name, MODEL_NAMES, "or give --heads, --kv-lora-rank and --qk-rope-head-dim")
