"""What sglang's backend asks of the rest of sglang: parallel state, server arguments, model runner, request and KV pools.

Declared objects and plain functions, by the names that sglang's code uses. Nothing here decides anything.
"""

from __future__ import annotations

import importlib
from collections.abc import Collection
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from backend.aiter.arguments import Int32Array
from backend.case import QK_HEAD_DIM, V_HEAD_DIM, Arch, DType
from backend.real.frameworks.framework_run import FrameworkState
from backend.real.frameworks.process import CapturedGraph
from backend.real.frameworks.scenarios import BackendConfig, Scenario, StepKind
from backend.real.frameworks.seats import Seats
from backend.real.python.poison import Declared


@dataclass(slots=True, eq=False)
class Batch:
    """A batch as the driver knows it.

    seq_lens: what sglang calls so (target_verify: without the draft tokens). kv_lens, query_lens: what is attended to.
    rows: rows of the request pool.
    """

    kind: StepKind
    seq_lens: tuple[int, ...]
    kv_lens: tuple[int, ...]
    query_lens: tuple[int, ...]
    rows: tuple[int, ...]

    def positions(self) -> torch.Tensor:
        """Position of each q row's token; drafting goes on behind what there is."""
        if self.kind is StepKind.MULTI_STEP_DRAFT:
            return torch.tensor(self.seq_lens).repeat_interleave(torch.tensor(self.query_lens))
        pairs = zip(self.kv_lens, self.query_lens, strict=True)
        return torch.tensor([max(0, length - rows + row) for length, rows in pairs for row in range(rows)])

    def tree(self, config: BackendConfig, ahead: int) -> tuple[list[int], list[npt.NDArray[np.int64]]]:
        """Of a draft step that has `ahead` tokens of each branch, for each branch of each request, one of its own to AITER:
        the row of the request pool, and its tokens by position in that row's table.
        """
        branches = [(at, number) for at in range(len(self.rows)) for number in range(config.branches)]
        own = [config.branch(self.seq_lens[at], number) + np.arange(ahead) for at, number in branches]
        lists = [np.concatenate((np.arange(self.seq_lens[at]), end)) for (at, _), end in zip(branches, own, strict=True)]
        return [self.rows[at] for at, _ in branches], lists


@dataclass(slots=True, eq=False)
class ForwardTensors:
    """Per-request tensors of a forward pass: its own, or slices of a graph's inputs."""

    req_pool_indices: torch.Tensor
    seq_lens: torch.Tensor
    seq_lens_cpu: torch.Tensor
    seq_lens_sum: int
    positions: torch.Tensor


@dataclass(slots=True, eq=False)
class SglangGraphInputs:
    """Tensors that graphs of one kind are captured on; replays write into them, and leave what they do not write."""

    req_pool_indices: torch.Tensor
    seq_lens: torch.Tensor
    seq_lens_cpu: torch.Tensor
    positions: torch.Tensor
    fill: int
    graphs: list[CapturedGraph] = field(default_factory=list)


class SglangState(FrameworkState):
    """What any file asks for."""

    def __init__(self, scenario: Scenario) -> None:
        super().__init__(scenario)
        self.fp8 = torch.float8_e4m3fnuz if scenario.arch is Arch.GFX942 else torch.float8_e4m3fn

    def dtype(self, dtype: DType) -> torch.dtype:
        return self.fp8 if dtype is DType.FP8 else torch.bfloat16

    def fakes(self) -> dict[str, Any]:
        """By bare name: what sglang's code asks of its process."""
        is_gfx950 = self.scenario.arch is Arch.GFX950
        ranks: dict[str, Any] = dict.fromkeys(("attn_tp_size", "attn_dcp_size", "attn_cp_size", "tp_size"), 1)
        ranks |= dict.fromkeys(("attn_tp_rank", "attn_dcp_rank", "tp_rank"), 0)
        return {
            "fp8_dtype": self.fp8,
            "is_fp8_fnuz": lambda: not is_gfx950,
            "is_gfx95_supported": lambda: is_gfx950,
            "get_attention_tp_size": lambda: 1,
            "get_attention_tp_rank": lambda: 0,
            "is_dp_attention_enabled": lambda: self.config.dp_attention,
            "get_parallel": lambda: Declared("get_parallel()", **ranks),
            "get_schedule": lambda: Declared("get_schedule()", page_size=self.config.page_size),
            "get_spec": lambda: Declared("get_spec()", **self.speculation()),
            "get_global_server_args": self.server_args,
            "get_server_args": self.server_args,
            "scaled_fp8_quant": self._quantised,
        }

    def _quantised(self, given: torch.Tensor, scale: torch.Tensor | None = None) -> tuple[torch.Tensor, torch.Tensor]:
        """scaled_fp8_quant, of which only shape and type matter."""
        made = torch.empty(given.shape, dtype=self.fp8, device="cuda")
        return made, torch.ones(1, dtype=torch.float32, device="cuda") if scale is None else scale

    def speculation(self) -> dict[str, Any]:
        draft = self.config.draft_tokens
        return {
            "speculative_num_draft_tokens": draft,
            "speculative_num_steps": None if draft is None else max(1, draft - 1),
            "speculative_eagle_topk": None if draft is None else self.config.branches,
            "speculative_algorithm": None if draft is None else "EAGLE",
            "speculative_attention_mode": "prefill",
        }

    def server_args(self) -> Declared:
        fp8 = self.config.kv_dtype is DType.FP8
        return Declared(
            "server_args",
            page_size=self.config.page_size,
            kv_cache_dtype="fp8_e4m3" if fp8 else "auto",
            enable_dp_attention=self.config.dp_attention,
            attention_backend="aiter",
            decode_attention_backend="aiter",
            disable_cuda_graph=not self.config.graph_batches,
            **self.speculation(),
        )


PREFILL_HEAD_DIM = 128
"""Of k without rope, and of v, where a layer's keys are expanded from the latent: DeepSeek's qk_nope_head_dim, v_head_dim."""


class Projection:
    """kv_b_proj: latents (tokens, 512) to keys and values (tokens, heads * 256), of which only the shape matters."""

    weight = Declared("kv_b_proj.weight", dtype=torch.bfloat16)

    def __init__(self, heads: int) -> None:
        self._heads = heads

    def __call__(self, latent: torch.Tensor) -> tuple[torch.Tensor, None]:
        shape = latent.shape[0], self._heads * 2 * PREFILL_HEAD_DIM
        return torch.zeros(shape, dtype=torch.bfloat16, device="cuda"), None


def _buffers(config: BackendConfig, rows: int, kv_dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    """A layer's keys and values: of MLA the latents, of which the values are a part; else two buffers."""
    if config.kv_heads is None:
        latents = torch.empty((rows, 1, QK_HEAD_DIM), dtype=kv_dtype, device="cuda")
        return latents, latents[..., :V_HEAD_DIM]
    shape = rows, config.kv_heads, config.head_dim
    return torch.empty(shape, dtype=kv_dtype, device="cuda"), torch.empty(shape, dtype=kv_dtype, device="cuda")


class RequestPool:
    """Requests and their KV rows: request row r, token t lies in KV row table[r, t]; no two share one, row 0 is padding's.

    slack: tokens that a row of the table has beyond the context.
    """

    def __init__(self, config: BackendConfig, context: int, slack: int, kv_dtype: torch.dtype) -> None:
        self.context = context
        page, width = config.page_size, context + slack
        stride = -(-width // page) * page
        total = page + config.max_requests * stride
        self.table = page + stride * np.arange(config.max_requests, dtype=np.int64)[:, None] + np.arange(width)
        self.seats = Seats(page, list(range(config.max_requests)), list(range(1, total // page)))
        self.req_to_token = torch.zeros((config.max_requests, width), dtype=torch.int32, device="cuda")
        keys, values = _buffers(config, total, kv_dtype)
        probes: list[str] = []
        self.requests = Declared("req_to_token_pool", probes, size=config.max_requests, req_to_token=self.req_to_token)
        self.kv = Declared(
            "token_to_kv_pool",
            probes,
            size=total,
            page_size=page,
            get_key_buffer=lambda layer_id: keys,
            get_value_buffer=lambda layer_id: values,
            get_kv_buffer=lambda layer_id: (keys, values),
        )
        self.layer = Declared(
            "layer",
            probes,
            layer_id=0,
            tp_q_head_num=config.num_head,
            tp_k_head_num=keys.shape[1],
            tp_v_head_num=keys.shape[1],
            qk_head_dim=keys.shape[-1],
            head_dim=keys.shape[-1],
            v_head_dim=values.shape[-1],
            scaling=keys.shape[-1] ** -0.5,
            logit_cap=0.0,
            k_scale=None,
            v_scale=None,
            is_cross_attention=False,
            sliding_window_size=-1,
        )

        heads, rope = config.num_head, QK_HEAD_DIM - V_HEAD_DIM
        self.prefill_layer = Declared(
            "layer",
            probes,
            **{
                **self.layer.__dict__,
                "tp_k_head_num": heads,
                "tp_v_head_num": heads,
                "qk_head_dim": PREFILL_HEAD_DIM + rope,
                "head_dim": PREFILL_HEAD_DIM + rope,
                "v_head_dim": PREFILL_HEAD_DIM,
                "kv_b_proj": Projection(heads),
            },
        )

    def seat(self, requests: tuple[int, ...], kept: tuple[int, ...], reach: tuple[int, ...], alive: Collection[int]) -> None:
        """Give numbered requests KV rows as far as they reach; what others had, and drafts behind what is kept, is free."""
        self.seats.release(alive)
        self.seats.trim(requests, kept)
        self.seats.take(requests, reach)
        for request, length in zip(requests, reach, strict=True):
            self.table[self.seats.rows[request], :length] = self.seats.slots(request)[:length]

    def take(self, kv_lens: tuple[int, ...], requests: tuple[int, ...] = ()) -> tuple[int, ...]:
        """Pool rows for a batch, their tables filled as far as the requests reach; what lies beyond stays as it was.

        requests: that have a seat; without, the first rows.
        """
        rows = tuple(self.seats.rows[each] for each in requests) or tuple(reversed(range(len(kv_lens))))
        for row, length in zip(rows, kv_lens, strict=True):
            self.req_to_token[row, :length] = torch.from_numpy(self.table[row, :length].astype(np.int32))
        return rows

    def slots(self, rows: tuple[int, ...], kv_lens: tuple[int, ...]) -> Int32Array:
        """KV rows of the requests' tokens, request by request."""
        parts = [self.table[row, :length] for row, length in zip(rows, kv_lens, strict=True)]
        return np.concatenate(parts).astype(np.int32) if parts else np.empty(0, np.int32)

    def read_source(self, plan: Any = None, *, req_pool_indices: Any, **others: Any) -> Any:
        """The passthrough of sglang's KVIndexTranslator: request rows as they are."""
        return SimpleNamespace(
            ids=self.req_to_token,
            row_ids=req_pool_indices,
            row_stride=self.req_to_token.stride(0),
            entry_page_size=1,
            is_translated=False,
            v2p=None,
        )

    def pack_read_stream(
        self,
        plan: Any,
        *,
        req_pool_indices: torch.Tensor,
        seq_lens: torch.Tensor,
        indptr: torch.Tensor,
        out: torch.Tensor,
        **others: Any,
    ) -> bool:
        """KVIndexTranslator's for a static pool: `out` gets the KV rows, request by request; they are not translated."""
        rows, begins = req_pool_indices.tolist(), indptr.tolist()
        for row, length, begin in zip(rows, seq_lens.tolist(), begins, strict=False):
            out[begin : begin + length] = self.req_to_token[row, :length].to(out.dtype)
        return False


def model_runner(state: SglangState, pool: RequestPool, architectures: Any, probes: list[str]) -> Declared:
    """sglang's ModelRunner for the backend that `state` is at. architectures: the release's AttentionArch."""
    config = state.config
    model_config = Declared(
        "model_config",
        probes,
        dtype=torch.bfloat16,
        is_multimodal=False,
        num_attention_heads=config.num_head,
        head_dim=256 if config.kv_heads is None else config.head_dim,
        v_head_dim=128 if config.kv_heads is None else config.head_dim,
        kv_lora_rank=V_HEAD_DIM,
        qk_rope_head_dim=QK_HEAD_DIM - V_HEAD_DIM,
        attention_arch=architectures.MLA if config.kv_heads is None else architectures.MHA,
        context_len=pool.context,
        get_num_kv_heads=lambda tp_size: config.kv_heads or config.num_head,
    )
    return Declared(
        "model_runner",
        probes,
        model_config=model_config,
        server_args=state.server_args(),
        device="cuda",
        gpu_id=0,
        dtype=torch.bfloat16,
        kv_cache_dtype=state.dtype(config.kv_dtype),
        page_size=config.page_size,
        sliding_window_size=None,
        is_draft_worker=config.is_draft,
        spec_algorithm=Declared("spec_algorithm", probes, is_frozen_kv_mtp=lambda: False),
        decode_attention_backend_str="aiter",
        prefill_attention_backend_str="aiter",
        req_to_token_pool=pool.requests,
        token_to_kv_pool=pool.kv,
        token_to_kv_pool_allocator=Declared("token_to_kv_pool_allocator", probes, get_kvcache=lambda: pool.kv),
        kv_index_translator=Declared(
            "kv_index_translator", probes, read_source=pool.read_source, pack_read_stream=pool.pack_read_stream
        ),
    )


def draft_input_class() -> Any:
    """The release's own class that describes a draft batch."""
    eagle_info = importlib.import_module("sglang.srt.speculative.eagle_info")
    for name in ("EagleDraftExtendInput", "EagleDraftInput"):
        found = getattr(eagle_info, name)
        if isinstance(found, type):
            return found
    return getattr(eagle_info, name)
