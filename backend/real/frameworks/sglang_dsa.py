"""Drives sglang's real `dsa_backend.py` by AITER's kernels: each q row attends to a list of at most TOPK tokens.

The driver plays the indexer too: before a forward pass it writes the lists of all rows, -1 behind their ends, as KV rows or,
where the backend does not take its top-k fused, by position. To AITER each row is a request of its own, of as many tokens as
its list has, so that is what a recorded step says.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from backend.case import QK_HEAD_DIM, DType
from backend.errors import NoSuchStepError
from backend.real.frameworks.process import Process, call_by_name
from backend.real.frameworks.record import Phase
from backend.real.frameworks.recorder import Positions, Truth
from backend.real.frameworks.scenarios import Scenario, StepKind
from backend.real.frameworks.sglang import SglangDriver, SglangRun
from backend.real.frameworks.sglang_objects import PREFILL_HEAD_DIM, Batch, ForwardTensors, SglangState
from backend.real.observe import DecodeSeen
from backend.real.python.poison import Declared
from backend.serving.sparse import TOPK, UNUSED, lists_of_rows


def _copied(*given: Any) -> None:
    """fused_metadata_copy_multi_cuda: eight tensors or None, then eight each of three backends that get a copy, then sizes."""
    source, *backends = (given[at : at + 8] for at in range(0, 32, 8))
    for tensors in backends:
        for tensor, content in zip(tensors, source, strict=True):
            if content is not None:
                tensor[tuple(map(slice, content.shape))].copy_(content)


class DsaState(SglangState):
    """What the DSA backend asks for besides: a model with an indexer, AITER chosen for its attention."""

    def fakes(self) -> dict[str, Any]:
        """What sglang's code asks of its process, by bare name."""
        return {
            **super().fakes(),
            "get_exec": lambda: Declared(
                "get_exec()",
                deterministic=Declared("get_exec().deterministic", enable_deterministic_inference=False),
                features=Declared("get_exec().features", enable_memory_saver=False),
                kernel=Declared("get_exec().kernel", **self._kernels()),
                overlap=Declared("get_exec().overlap", enable_two_batch_overlap=False),
            ),
            "get_schedule": lambda: Declared("get_schedule()", page_size=self.config.page_size, enable_mixed_chunk=False),
            "fused_metadata_copy_multi_cuda": _copied,
            "plan_topk_v2": lambda lengths: torch.empty_like(lengths),
            "get_disagg": lambda: Declared("get_disagg()", disaggregation_mode="null"),
            "get_platform": lambda: Declared("get_platform()", is_sm100=False),
            "get_spec": lambda: Declared("get_spec()", **self.speculation(), speculative_dsa_topk_backend="sgl-kernel"),
        }

    def _kernels(self) -> dict[str, Any]:
        """AITER's for decode. Beside Triton's for prompts, ROCm's default, the model hands over q in the cache's type, beside
        AITER's in bf16 (_skip_rope_for_dsa_tilelang_fused of forward_mla_rocm.py)."""
        prefill = "triton" if self.config.q_dtype is DType.FP8 else "aiter"
        return {
            "dsa_prefill_backend": prefill,
            "dsa_decode_backend": "aiter",
            "dsa_topk_backend": "sgl-kernel",
            "dsa_triton_union": 0,
            **dict(self.scenario.flags),
        }


class SglangDsaDriver(SglangDriver):
    """Runs scenarios against one source; parsed definitions are kept between them."""

    def state(self, scenario: Scenario) -> SglangState:
        """What stands for the rest of sglang."""
        if any(config.kv_heads is not None for config in scenario.backends):
            raise NoSuchStepError("sglang's DSA backend has no ordinary attention; leave kv_heads out")
        if any(config.branches > 1 for config in scenario.backends):
            raise NoSuchStepError("draft trees of sglang's DSA backend are not driven; leave branches out")
        if any(not name.startswith("dsa_") for name, _ in scenario.flags):
            raise NoSuchStepError("sglang's DSA backend takes server arguments of its own alone, dsa_...; leave others out")
        return DsaState(scenario)

    def life(self, running: Process, scenario: Scenario, state: SglangState) -> SglangRun:
        """A scenario in the process that was started for it."""
        return DsaRun(running, scenario, state)


class DsaRun(SglangRun):
    """One scenario in one process. lists: int32 [rows, TOPK] that all backends are handed."""

    backend_class = "DeepseekSparseAttnBackend"
    draft_class = "DeepseekSparseAttnMultiStepBackend"

    def __init__(self, running: Process, scenario: Scenario, state: SglangState) -> None:
        super().__init__(running, scenario, state)
        steps = [max(sum(step.query_lens or step.kv_lens), len(step.kv_lens) * 64) for step in scenario.steps]
        captured = [config.max_batch * (config.draft_tokens or 1) for config in scenario.backends]
        self.lists = torch.full((max((*steps, *captured)), TOPK), UNUSED, dtype=torch.int32, device="cuda")

    def _model_runner(self, at: int) -> Declared:
        made: Any = super()._model_runner(at)
        made.hisparse_coordinator = None
        made.max_running_requests = self.scenario.backends[at].max_requests
        made.model_config.hf_config = Declared(
            "hf_config", architectures=["DeepseekV32ForCausalLM"], index_topk=TOPK, index_kpool=1
        )
        made.model_config.qk_nope_head_dim = PREFILL_HEAD_DIM
        pool = made.token_to_kv_pool
        pool.dsa_kv_cache_store_fp8 = False
        pool.kv_cache_dim = QK_HEAD_DIM
        pool.dtype = made.kv_cache_dtype
        pool.set_mla_kv_buffer = lambda layer, where, latent, rope: None
        runner: Declared = made
        return runner

    def _lists(self, batch: Batch) -> list[Positions]:
        """The tokens of each q row by position in its request."""
        return lists_of_rows(batch.kv_lens, batch.query_lens)

    def _index(self, which: int, batch: Batch, padded: int = 0) -> None:
        """The lists of a batch; a row of padding attends to one token, KV row 0."""
        backend = self.backends[which]
        one = backend.attn_backends[0] if batch.kind is StepKind.MULTI_STEP_DRAFT else backend
        requests, table = np.repeat(batch.rows, batch.query_lens), self.pools[which].table
        self.lists.fill_(UNUSED)
        lists = self._lists(batch)
        for at, (request, chosen) in enumerate(zip(requests, lists, strict=True)):
            entries = table[request, chosen] if one.use_fused_topk else chosen
            self.lists[at, : len(chosen)] = torch.from_numpy(entries.astype(np.int32))
        self.lists[len(lists) : len(lists) + padded * self._rows_a_request(which, batch.kind), 0] = 0

    def _forward_batch(self, which: int, kind: StepKind, tensors: ForwardTensors, query_lens: tuple[int, ...]) -> Any:
        made = super()._forward_batch(which, kind, tensors, query_lens)
        made.extend_num_tokens = sum(query_lens)
        return made

    def _forward(self, backend: Any, which: int, kind: StepKind, tokens: int, forward_batch: Any) -> Any:
        """As the model's layer does: an fp8 q in one, its KV written before; or its parts, with the KV to be written."""
        extends = kind not in (StepKind.DECODE, StepKind.MULTI_STEP_DRAFT)
        layer = self.pools[which].layer
        known = {"layer": layer, "forward_batch": forward_batch, "topk_indices": self.lists[:tokens]}
        q_dtype = self.state.dtype(self.scenario.backends[which].q_dtype)
        q = torch.empty((tokens, layer.tp_q_head_num, layer.head_dim), dtype=q_dtype, device="cuda")
        known |= {"q": q, "q_rope": None, "k": None, "v": None, "k_rope": None, "save_kv_cache": False}
        if q_dtype == torch.bfloat16 or kind in (StepKind.DRAFT_EXTEND, StepKind.PREFILL):
            known |= {"q": q[..., : layer.v_head_dim].contiguous(), "q_rope": q[..., layer.v_head_dim :].contiguous()}
        if q_dtype == torch.bfloat16:
            k = torch.empty((tokens, 1, layer.head_dim), dtype=torch.bfloat16, device="cuda")
            latent, rope = k[..., : layer.v_head_dim], k[..., layer.v_head_dim :]
            known |= {"k": latent, "v": latent, "k_rope": rope, "save_kv_cache": True}
        backend.get_indexer_metadata(layer.layer_id, forward_batch)
        if kind is StepKind.DRAFT_EXTEND:
            backend.prepare_mtp_seed_indices(self.lists[:tokens], forward_batch.forward_mode)
        name = "forward_extend" if extends else "forward_decode"
        return call_by_name(getattr(backend, name), known, f"{self.backend_class}.{name}")

    def _prefill(self, at: int, which: int, batch: Batch, forward_batch: Any) -> None:
        """Short prompts with keys of all heads, whole; longer ones by lists."""
        prefix = self._prompts(batch, forward_batch)
        backend, pool, tokens = self.backends[which], self.pools[which], sum(batch.query_lens)
        backend.init_forward_metadata(forward_batch)
        if backend.use_mha:
            layer, rows = pool.prefill_layer, tokens + sum(prefix)
            q = torch.empty((tokens, layer.tp_q_head_num, layer.qk_head_dim), dtype=torch.bfloat16, device="cuda")
            k = torch.empty((rows, layer.tp_k_head_num, layer.qk_head_dim), dtype=torch.bfloat16, device="cuda")
            known = {"q": q, "k": k, "v": k[..., : layer.v_head_dim], "layer": layer, "forward_batch": forward_batch}
            call_by_name(backend.forward_extend, {**known, "save_kv_cache": False}, f"{self.backend_class}.forward_extend")
        else:
            self._forward(backend, which, batch.kind, tokens, forward_batch)
        self._record(at, which, Phase.EAGER, batch, self.recorder.taken(), padded=0, fill=0)

    def _record(
        self, at: int, which: int, phase: Phase, batch: Batch, decodes: list[DecodeSeen], padded: int, fill: int
    ) -> None:
        """Each q row as a request of one row, and padding as many rows as a request has."""
        requests, table = np.repeat(batch.rows, batch.query_lens), self.pools[which].table
        padding = padded * self._rows_a_request(which, batch.kind)
        truth = Truth.of_rows(batch.kind, requests, self._lists(batch), table, padding, 1 if padding else 0)
        self.recorder.record(at, which, phase, batch.kind, decodes, lambda call: truth)
