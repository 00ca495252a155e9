"""What ATOM's MLA backend asks of the rest of ATOM: configuration, groups of ranks, the model around the attention layer.

Declared objects by ATOM's names. Nothing here decides anything.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch

from backend.aiter.arguments import Int32Array
from backend.case import QK_HEAD_DIM, V_HEAD_DIM, DType
from backend.errors import NoSuchStepError
from backend.real.frameworks.framework_run import FrameworkState
from backend.real.frameworks.scenarios import BackendConfig, Scenario, StepKind
from backend.real.python.poison import Declared
from backend.serving.sparse import TOPK

NOPE, ROPE = 128, QK_HEAD_DIM - V_HEAD_DIM
"""Elements of a head without position and with it, as DeepSeek has them; values of a head are NOPE wide too."""

MODEL = "index_topk"
"""The flag that gives a scenario's model an indexer: lists of so many tokens a row, TOPK being all that is driven."""


class LinearLayer:
    """A linear layer: rows of as many elements as are asked for, whatever goes in. weight: of no meaning, [width, rank]."""

    def __init__(self, width: int, rank: int = V_HEAD_DIM) -> None:
        self.weight = torch.empty((width, rank), dtype=torch.bfloat16, device="cuda")
        self.weight_scale = None

    def __call__(self, rows: torch.Tensor, x_scale: Any = None) -> torch.Tensor:
        return torch.empty((rows.shape[0], self.weight.shape[0]), dtype=torch.bfloat16, device="cuda")


class Rotation:
    """rotary_emb, whose angles have no meaning here."""

    rotary_dim = ROPE
    is_neox_style = False

    def __init__(self) -> None:
        self.cos_cache = self.sin_cache = torch.empty((1, 1, 1, ROPE // 2), dtype=torch.bfloat16, device="cuda")

    def __call__(self, positions: torch.Tensor, q: torch.Tensor, k: torch.Tensor) -> None: ...


class AtomState(FrameworkState):
    """What either file asks for. forward: the forward pass that runs."""

    def __init__(self, scenario: Scenario) -> None:
        super().__init__(scenario)
        flags = dict(scenario.flags)
        if flags not in ({}, {MODEL: str(TOPK)}):
            raise NoSuchStepError(f"ATOM's models are told by the flag {MODEL}={TOPK} alone; leave other flags out")
        self.is_sparse = bool(flags)
        self.forward: Declared | None = None
        largest = max(config.page_size for config in scenario.backends)
        self.context = -(-scenario.model_context // largest) * largest
        prompts = [sum(step.query_lens or step.kv_lens) for step in scenario.steps if step.kind is StepKind.PREFILL]
        decodes = [max(each.max_requests, each.max_batch) * (each.draft_tokens or 1) for each in scenario.backends]
        self.tokens = max((*prompts, *decodes, 64))

    def fakes(self) -> dict[str, Any]:
        """By bare name: what ATOM's code asks of its process."""
        ranks = self._ranks
        return {
            "get_current_atom_config": self.atom_config,
            "get_forward_context": lambda: self.forward,
            "get_pcp_world_size": lambda: 1,
            "pcp_is_enabled": lambda: False,
            "tbo_enabled": lambda: False,
            "use_triton_gemm": lambda: False,
            "mark_trace": lambda function=None, **options: function if function is not None else lambda each: each,
            "dcp_all_gather_query_heads": lambda group, q: q.repeat(1, ranks(), 1),
            "cp_lse_ag_out_rs": lambda o, lse, group, ctx=None: o[:, : self.config.num_head].contiguous(),
            "CPTritonContext": lambda: Declared("CPTritonContext()"),
            "merge_attn_states": lambda **tensors: None,
        }

    def of_aiter(self) -> dict[str, Any]:
        """By bare name: groups of ranks, and the product of heads with a weight of the layer's, [heads, out, in]."""
        ranks = self._ranks
        return {
            "get_tp_group": lambda: Declared("get_tp_group()", world_size=1, rank_in_group=0),
            "get_dp_group": lambda: Declared("get_dp_group()", world_size=8 if self.config.dp_attention else 1),
            "get_dcp_group": lambda: Declared(
                "get_dcp_group()",
                world_size=ranks(),
                rank_in_group=ranks() - 1,
                all_gather=lambda rows, dim=0: torch.cat([rows] * ranks(), dim),
            ),
            "batched_gemm_a8w8_a_per_token_group_prequant_w_per_batched_tensor_quant": lambda x, w, *args, **options: (
                torch.empty((x.shape[1], x.shape[0], w.shape[1]), dtype=torch.bfloat16, device="cuda")
            ),
        }

    def _ranks(self) -> int:
        return self.config.context_parallel

    def atom_config(self) -> Declared:
        """ATOM's configuration of the backend that is being built or run."""
        config = self.config
        model = Declared(
            "hf_config",
            num_attention_heads=config.num_head,
            hidden_size=7168,
            qk_nope_head_dim=NOPE,
            qk_rope_head_dim=ROPE,
            v_head_dim=NOPE,
            index_topk=TOPK,
            index_head_dim=128,
        )
        return Declared(
            "atom_config",
            hf_config=model,
            kv_cache_dtype="fp8" if config.kv_dtype is DType.FP8 else "bf16",
            kv_cache_block_size=config.page_size,
            torch_dtype=torch.bfloat16,
            max_model_len=self.context,
            attn_prefill_chunk_size=256,
            decode_context_parallel_size=config.context_parallel,
            enable_tbo=False,
            enable_tbo_decode=False,
            enable_rapidserve=False,
            compilation_config=Declared("compilation_config", static_forward_context={}),
        )

    def runner(self, config: BackendConfig, buffer: Any) -> Declared:
        """ModelRunner of a backend. buffer: ATOM's CpuGpuBuffer."""
        drafts = (config.draft_tokens or 1) - 1
        variables: dict[str, Any] = {"positions": buffer(self.tokens, dtype=torch.int64, device=torch.device("cuda"))}
        made = Declared(
            "model_runner",
            block_size=config.page_size,
            device=torch.device("cuda", 0),
            config=self.atom_config(),
            kv_cache_dtype="fp8" if config.kv_dtype is DType.FP8 else "bf16",
            max_bs=max(config.max_requests, config.max_batch),
            max_num_batched_tokens=self.tokens,
            forward_vars=variables,
            is_deepseek_v32=self.is_sparse,
            num_spec_tokens=drafts,
            async_execute_stream=torch.cuda.Stream(),  # type: ignore[no-untyped-call]
            tokenID_processor=Declared("tokenID_processor", num_rejected=None),
        )
        if drafts:
            made.__dict__["drafter"] = Declared("drafter", mtp_k=drafts)
            variables["mtp_k"] = drafts
        return made

    def layer_arguments(self, config: BackendConfig, modules: Any) -> dict[str, Any]:
        """What MLAAttention is built with. modules: ATOM's MLAModules."""
        heads, indexer = config.num_head, None
        if self.is_sparse:
            indexer = Declared("indexer", topk_tokens=TOPK, sparse_kv_indices_buffer=None)
        return {
            "num_heads": heads,
            "head_dim": QK_HEAD_DIM,
            "scale": (NOPE + ROPE) ** -0.5,
            "num_kv_heads": 1,
            "kv_cache_dtype": "fp8" if config.kv_dtype is DType.FP8 else "bf16",
            "mla_modules": modules(
                q_lora_rank=1536,
                kv_lora_rank=V_HEAD_DIM,
                qk_nope_head_dim=NOPE,
                qk_rope_head_dim=ROPE,
                qk_head_dim=NOPE + ROPE,
                v_head_dim=NOPE,
                rotary_emb=Rotation(),
                q_proj=LinearLayer(heads * (NOPE + ROPE)),
                kv_b_proj=LinearLayer(heads * 2 * NOPE),
                o_proj=LinearLayer(7168),
                indexer=indexer,
                is_sparse=self.is_sparse,
                topk_tokens=TOPK,
            ),
        }


def scheduled_batch(config: BackendConfig, pages: Int32Array, kv_lens: tuple[int, ...], **fields: Any) -> Declared:
    """ATOM's ScheduledBatch. pages: of each request, [requests, pages of a context]; fields: what a decode or prompts have."""
    page = config.page_size
    held = [-(-length // (page * config.context_parallel)) for length in kv_lens]
    maintenance: dict[str, Any] = dict.fromkeys(("relocations", "checkpoint_stores", "checkpoint_restores"), ())
    return Declared(
        "batch",
        req_ids=list(range(len(kv_lens))),
        context_lens=np.array(kv_lens, dtype=np.int32),
        block_tables=[own[:count].tolist() for own, count in zip(pages, held, strict=True)],
        last_block_num_tokens=[(length - 1) % page + 1 for length in kv_lens],
        is_first_decode_without_local_prefill=[False] * len(kv_lens),
        is_dummy_run=False,
        state_maintenance_ops=Declared("state_maintenance_ops", [], **maintenance),
        **fields,
    )


def hold_output(layer: Any, held: Callable[..., Any]) -> None:
    """What a layer decodes is held as it comes to the projection of values, or as the layer merges it over ranks. held: see
    FrameworkRun."""
    if not (hasattr(layer, "_forward_decode") and hasattr(layer, "_v_up_proj_and_o_proj")):
        return  # as of another revision
    decode, project = layer._forward_decode, layer._v_up_proj_and_o_proj
    given: list[Any] = []

    def projected(x: Any) -> Any:
        given.append(x)
        return project(x)

    def decoded(q: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        given.clear()
        return held("_forward_decode", q, lambda: decode(q, *args, **kwargs), lambda made: given[0] if given else made[0])

    layer._forward_decode, layer._v_up_proj_and_o_proj = decoded, projected
