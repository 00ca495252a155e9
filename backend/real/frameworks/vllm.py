"""Drives vLLM's real `rocm_aiter_mla.py`: AiterMLAMetadataBuilder plans a batch, AiterMLAImpl runs it."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any, ClassVar

import torch

from backend.case import QK_HEAD_DIM, V_HEAD_DIM, DType
from backend.errors import NoSuchStepError
from backend.real.frameworks.process import Process, call_by_name, first_method
from backend.real.frameworks.scenarios import BackendConfig, Scenario
from backend.real.frameworks.vllm_objects import QK_NOPE_HEAD_DIM, VllmState
from backend.real.frameworks.vllm_steps import BuiltBackend, VllmFileDriver, VllmFileRun
from backend.real.python.poison import Declared

PROMPTS = "vllm.v1.attention.backends.mla.prefill.aiter_flash_attn"
"""The module, from 0.25 on, whose AiterFlashAttnPrefillBackend runs prompts."""


class VllmDriver(VllmFileDriver):
    """Runs scenarios against one source; parsed definitions are kept between them."""

    environment: ClassVar[Mapping[str, str]] = {"VLLM_ROCM_USE_AITER": "1", "VLLM_ROCM_USE_AITER_MLA": "1"}

    def state(self, scenario: Scenario) -> VllmState:
        """What stands for the rest of vLLM; raises NoSuchStepError for a scenario that the file has no part in."""
        return VllmState(scenario)

    def life(self, running: Process, scenario: Scenario, state: VllmState) -> VllmRun:
        """A scenario in the process that was started for it."""
        return VllmRun(running, scenario, state)


class _Decompression:
    """kv_b_proj: from rows of kv_lora_rank to `width` elements, those without position and the values of every head."""

    def __init__(self, width: int) -> None:
        self.weight = torch.empty(0, dtype=torch.bfloat16)
        self._width = width

    def __call__(self, rows: torch.Tensor) -> tuple[torch.Tensor, None]:
        return torch.empty((rows.shape[0], self._width), dtype=torch.bfloat16, device="cuda"), None


class VllmRun(VllmFileRun):
    """One scenario in one process. What vLLM's sparse file does otherwise is a method of its own."""

    builder_class = "AiterMLAMetadataBuilder"
    impl_class = "AiterMLAImpl"
    backend_class = "AiterMLABackend"
    is_sparse = False

    def _build(self, at: int) -> BuiltBackend:
        config, state = self.scenario.backends[at], self.state
        chosen = {"head_size": QK_HEAD_DIM, "use_mla": True, "use_sparse": self.is_sparse}
        self._select(self.running.module._names.get(self.backend_class), chosen)
        vllm_config = state.vllm_config()
        spec = Declared(
            "kv_cache_spec",
            block_size=config.page_size,
            num_kv_heads=1,
            head_size=QK_HEAD_DIM,
            dtype=state.dtype(config.kv_dtype) if config.kv_dtype is DType.BF16 else torch.uint8,
            page_size_bytes=config.page_size * QK_HEAD_DIM * config.kv_dtype.itemsize,
            cache_dtype_str=vllm_config.cache_config.cache_dtype,
        )
        (attention,) = vllm_config.compilation_config.static_forward_context.values()
        if self.running.source.tree.index(PROMPTS) is not None:
            attention.prefill_backend = self._prompts(config, vllm_config)
        if config.context_parallel > 1:
            attention.dcp_manager = self.running.module.MLADCPManager()
        impl = attention.impl = self._named(self.impl_class)(**self._impl_arguments(config))
        builder = self._builder(spec, vllm_config)
        if config.context_parallel > 1 and not getattr(impl, "can_return_lse_for_decode", False):
            raise NoSuchStepError(
                f"{self.impl_class} of this vLLM serves no context-parallel ranks; leave context_parallel out"
            )
        impl.dcp_world_size = config.context_parallel
        shape = self.tables[at].pages, config.page_size, QK_HEAD_DIM
        cache = torch.empty(shape, dtype=state.dtype(config.kv_dtype), device="cuda")
        return BuiltBackend(builder, impl, Declared("layer", **self._layer_attributes()), cache)

    def _layer_attributes(self) -> dict[str, Any]:
        one = torch.ones(1, dtype=torch.float32, device="cuda")
        return {"_q_scale": one, "_k_scale": one, "_v_scale": one, "_q_scale_float": 1.0, "_k_scale_float": 1.0}

    def _prompts(self, config: BackendConfig, vllm_config: Declared) -> Any:
        """vLLM's own backend of prompts: flash_attn_varlen_func of AITER."""
        module = importlib.import_module(PROMPTS)
        return module.AiterFlashAttnPrefillBackend(
            num_heads=config.num_head,
            scale=QK_HEAD_DIM**-0.5,
            kv_lora_rank=V_HEAD_DIM,
            qk_nope_head_dim=QK_NOPE_HEAD_DIM,
            qk_rope_head_dim=QK_HEAD_DIM - V_HEAD_DIM,
            v_head_dim=QK_NOPE_HEAD_DIM,
            vllm_config=vllm_config,
        )

    def _impl_arguments(self, config: BackendConfig) -> dict[str, Any]:
        rope = QK_HEAD_DIM - V_HEAD_DIM
        return {
            "num_heads": config.num_head,
            "head_size": QK_HEAD_DIM,
            "scale": QK_HEAD_DIM**-0.5,
            "num_kv_heads": 1,
            "alibi_slopes": None,
            "sliding_window": None,
            "kv_cache_dtype": self.state.cache_dtype,
            "logits_soft_cap": None,
            "attn_type": "decoder",
            "kv_sharing_target_layer_name": None,
            "q_lora_rank": 1536,
            "kv_lora_rank": V_HEAD_DIM,
            "qk_nope_head_dim": QK_NOPE_HEAD_DIM,
            "qk_rope_head_dim": rope,
            "qk_head_dim": QK_NOPE_HEAD_DIM + rope,
            "v_head_dim": QK_NOPE_HEAD_DIM,
            "kv_b_proj": _Decompression(config.num_head * 2 * QK_NOPE_HEAD_DIM),
        }

    def _forward_all(self, which: int, metadata: Any, rows: tuple[int, ...]) -> int:
        decoded = self._absorbed(metadata, len(rows))
        tokens = sum(rows[:decoded])
        if decoded:
            self._forward(which, metadata, tokens)
        if decoded < len(rows):
            self._forward_prompts(which, metadata, sum(rows) - tokens)
        return decoded

    def _absorbed(self, metadata: Any, requests: int) -> int:
        """Requests, the first of a batch, that go through the latent cache as decode does; the others' keys are expanded."""
        decodes: int = metadata.num_decodes
        return decodes

    def _forward_prompts(self, which: int, metadata: Any, tokens: int) -> None:
        config, built = self.scenario.backends[which], self.backends[which]

        def rows(*shape: int) -> torch.Tensor:
            return torch.empty((tokens, *shape), dtype=torch.bfloat16, device="cuda")

        rope = QK_HEAD_DIM - V_HEAD_DIM
        known = {
            "q": rows(config.num_head, QK_NOPE_HEAD_DIM + rope),
            "kv_c_normed": rows(V_HEAD_DIM),
            "k_pe": rows(1, rope),
            "kv_c_and_k_pe_cache": built.kv_cache,
            "attn_metadata": metadata,
            "k_scale": built.layer._k_scale,
            "output": rows(config.num_head * QK_NOPE_HEAD_DIM),
        }
        name = first_method(built.impl, ("forward_mha", "_forward_prefill"), self.impl_class)
        call_by_name(getattr(built.impl, name), known, f"{self.impl_class}.{name}")

    def _forward(self, which: int, metadata: Any, rows: int) -> None:
        config, built = self.scenario.backends[which], self.backends[which]
        q = self._queries(config, rows)
        known = {"q": q, "kv_c_and_k_pe_cache": built.kv_cache, "attn_metadata": metadata, "layer": built.layer}
        name = first_method(built.impl, ("forward_mqa", "_forward_decode"), self.impl_class)
        method, who = getattr(built.impl, name), f"{self.impl_class}.{name}"
        if isinstance(q, tuple):  # which the file joins by an operator that is not run: no mark comes through
            call_by_name(method, known, who)
            return
        self._held(name, q, lambda: call_by_name(method, known, who), lambda made: made[0] if isinstance(made, tuple) else made)

    def _queries(self, config: BackendConfig, tokens: int) -> Any:
        """q of a decode, as the layer hands it over."""
        shape = tokens, config.decoded_heads, QK_HEAD_DIM
        return torch.empty(shape, dtype=self.state.dtype(config.q_dtype), device="cuda")
