"""What vLLM's backends ask of the rest of vLLM: platform, configuration, layer. Declared objects by vLLM's names.

Nothing here decides anything.
"""

from __future__ import annotations

import contextlib
import logging
from types import SimpleNamespace
from typing import Any

import torch
import triton
import triton.language

from backend.case import NUM_CU, QK_HEAD_DIM, V_HEAD_DIM, Arch, DType
from backend.errors import NoSuchStepError
from backend.real.frameworks.framework_run import FrameworkState
from backend.real.frameworks.scenarios import Scenario
from backend.real.python.poison import Declared

QK_NOPE_HEAD_DIM = 128
"""DeepSeek's MLA dimensions that only shape prefill."""


ANNOTATION_CLASSES = ("VllmConfig", "ModelConfig", "CacheConfig", "SpeculativeConfig", "ParallelConfig", "AttentionConfig")
"""Configuration classes that appear in signatures only; their definitions need packages that are not installed."""


class _Logger(logging.LoggerAdapter):  # type: ignore[type-arg]
    """vLLM's logger has *_once methods."""

    def __getattr__(self, name: str) -> Any:
        if name.endswith("_once"):
            return getattr(self, name.removesuffix("_once"))
        raise AttributeError(name)


class VllmState(FrameworkState):
    """What any file asks for."""

    def __init__(self, scenario: Scenario) -> None:
        super().__init__(scenario)
        self.fp8 = torch.float8_e4m3fnuz if scenario.arch is Arch.GFX942 else torch.float8_e4m3fn
        self.context = scenario.model_context

    def dtype(self, dtype: DType) -> torch.dtype:
        return self.fp8 if dtype is DType.FP8 else torch.bfloat16

    @property
    def cache_dtype(self) -> str:
        """What vLLM calls the type of the KV cache: its --kv-cache-dtype."""
        return "fp8" if self.config.kv_dtype is DType.FP8 else "auto"

    def fakes(self) -> dict[str, Any]:
        """By bare name: what vLLM's code asks of its platform and configuration."""
        is_gfx950 = self.scenario.arch is Arch.GFX950
        num_cu = self.scenario.num_cu or NUM_CU[self.scenario.arch]
        platform = Declared(
            "current_platform",
            fp8_dtype=lambda: self.fp8,
            is_fp8_fnuz=lambda: not is_gfx950,
            is_cuda=lambda: False,
            is_rocm=lambda: True,
            is_xpu=lambda: False,
            is_cpu=lambda: False,
            is_tpu=lambda: False,
            is_cuda_alike=lambda: True,
            num_compute_units=lambda device_id=0: num_cu,
            dispatch_key="CUDA",
            device_type="cuda",
            is_device_capability=lambda capability, device_id=0: capability == (95 if is_gfx950 else 94),
            is_device_capability_family=lambda capability, device_id=0: capability // 10 == 9,
            get_device_capability=lambda device_id=0: SimpleNamespace(major=9, minor=5 if is_gfx950 else 4),
        )
        return {
            **{name: type(name, (), {}) for name in ANNOTATION_CLASSES},
            "current_platform": platform,
            "_GCN_ARCH": self.scenario.arch.value,
            "on_gfx950": lambda: is_gfx950,
            "on_gfx942": lambda: not is_gfx950,
            "on_mi3xx": lambda: True,
            "on_gfx9": lambda: True,
            "is_aiter_found_and_supported": lambda: True,
            "is_aiter_found": lambda: True,
            "IS_AITER_FOUND": True,
            "init_logger": lambda name: _Logger(logging.getLogger(name), {}),
            "has_flashinfer": lambda: False,
            "get_flash_attn_version": lambda *args, **kwargs: None,
            "is_vllm_fa": False,
            "_DecodeConcatQuantFP8": lambda **options: Declared("_DecodeConcatQuantFP8()"),
            "GroupShape": type("GroupShape", (), {"PER_TENSOR": (-1, -1), "PER_TOKEN": (1, -1)}),
            "has_nvidia_artifactory": lambda: False,
            "get_current_vllm_config": self.vllm_config,
            "get_current_vllm_config_or_none": self.vllm_config,
            "get_num_attention_heads_from_layers": lambda vllm_config, layer_names: self.config.num_head,
            "get_dcp_group": lambda: Declared(
                "get_dcp_group()", world_size=self.config.context_parallel, rank_in_group=self.config.context_parallel - 1
            ),
            "MLADCPManager": type("MLADCPManager", (), {"init_kv_gather": lambda self, workspace, rows: None}),
            "backend_supports_prefill_query_quantization": lambda *args, **kwargs: False,
            "current_workspace_manager": lambda: Declared(
                "current_workspace_manager()",
                get_simultaneous=lambda *specs: [torch.empty(s, dtype=d, device="cuda") for s, d in specs],
            ),
            "gpu_sync_allowed": contextlib.nullcontext,
            "PIN_MEMORY": False,
            "async_tensor_h2d": lambda data, device=None, dtype=None: torch.as_tensor(data, dtype=dtype).to(device),
            "merge_attn_states": lambda **tensors: None,
            "triton": triton,
            "tl": triton.language,
            "HAS_TRITON": True,
            "deprecated": lambda *args, **kwargs: lambda function: function,
        }

    def _layer(self, prefill_backend: Declared) -> Declared:
        return Declared(
            "layer",
            prefill_backend=prefill_backend,
            num_heads=self.config.num_head,
            q_lora_rank=1536,
            kv_lora_rank=V_HEAD_DIM,
            qk_nope_head_dim=QK_NOPE_HEAD_DIM,
            qk_rope_head_dim=QK_HEAD_DIM - V_HEAD_DIM,
            v_head_dim=QK_NOPE_HEAD_DIM,
            non_causal_multi_token_decode=False,
        )

    def vllm_config(self) -> Declared:
        config = self.config
        dims = Declared(
            "hf_text_config",
            q_lora_rank=1536,
            kv_lora_rank=V_HEAD_DIM,
            qk_nope_head_dim=QK_NOPE_HEAD_DIM,
            qk_rope_head_dim=QK_HEAD_DIM - V_HEAD_DIM,
            v_head_dim=QK_NOPE_HEAD_DIM,
            num_attention_heads=config.num_head,
        )
        model = Declared(
            "model_config",
            dtype=torch.bfloat16,
            max_model_len=self.context,
            hf_text_config=dims,
            hf_config=dims,
            get_num_attention_heads=lambda parallel_config: config.num_head,
            get_head_size=lambda: QK_HEAD_DIM,
        )
        parallel = Declared(
            "parallel_config",
            decode_context_parallel_size=config.context_parallel,
            prefill_context_parallel_size=1,
            cp_kv_cache_interleave_size=1,
            dcp_kv_cache_interleave_size=1,
            tensor_parallel_size=1,
        )
        speculative = None
        if config.draft_tokens is not None and config.draft_tokens > 1:
            speculative = Declared(
                "speculative_config", method="mtp", num_speculative_tokens=config.draft_tokens - 1, parallel_drafting=False
            )
        graphs = bool(config.graph_batches)
        prefill_backend = Declared("prefill_backend", clone=lambda: Declared("prefill_backend"))
        return Declared(
            "vllm_config",
            model_config=model,
            parallel_config=parallel,
            speculative_config=speculative,
            scheduler_config=Declared(
                "scheduler_config",
                max_num_seqs=max(config.max_requests, config.max_batch),
                max_num_batched_tokens=8192,
                enable_chunked_prefill=True,
            ),
            cache_config=Declared(
                "cache_config",
                cache_dtype=self.cache_dtype,
                block_size=config.page_size,
                num_gpu_blocks=config.max_requests,
                enable_prefix_caching=False,
            ),
            compilation_config=Declared(
                "compilation_config",
                cudagraph_mode=Declared("cudagraph_mode", has_full_cudagraphs=lambda: graphs),
                static_forward_context={"layer": self._layer(prefill_backend)},
            ),
            attention_config=Declared(
                "attention_config",
                use_prefill_query_quantization=False,
                use_cudnn_prefill=False,
                use_trtllm_ragged_deepseek_prefill=False,
                disable_flashinfer_prefill=True,
                mla_prefill_backend=None,
            ),
        )


WINDOW = "sliding_window"
"""The flag that gives a scenario's model a window: a token attends to so many, itself among them."""


class Attention(Declared):
    """vLLM's layer of ordinary attention, which the builder looks for among all layers."""


class OrdinaryState(VllmState):
    """What the backend asks for besides: a model with key heads of its own. window: its layers', None without."""

    def __init__(self, scenario: Scenario) -> None:
        super().__init__(scenario)
        flags = dict(scenario.flags)
        if set(flags) - {WINDOW} or not flags.get(WINDOW, "1").isdecimal():
            raise NoSuchStepError(f"vLLM's models are told by the flag {WINDOW}=TOKENS alone; leave other flags out")
        self.window = int(flags[WINDOW]) if flags else None

    def fakes(self) -> dict[str, Any]:
        """What vLLM's code asks of its process, by bare name."""
        return {
            **super().fakes(),
            "Attention": Attention,
            "get_cdna_version": lambda: 4 if self.fp8 is torch.float8_e4m3fn else 3,
            "convert_fp8": lambda out, given, scale, kind: None,
            "get_layers_from_vllm_config": lambda config, kind, names=None: config.compilation_config.static_forward_context,
        }

    def vllm_config(self) -> Declared:
        """A configuration whose model has such layers."""
        made, config = super().vllm_config(), self.config
        made.model_config.get_num_kv_heads = lambda parallel_config: config.kv_heads
        made.model_config.get_head_size = lambda: config.head_dim
        return made
