"""Drives vLLM's real `rocm_aiter_mla_sparse.py`: each q row attends to a list of at most TOPK tokens, which the indexer chose.

The driver plays the indexer too: before a forward pass it writes the lists of all rows, -1 behind their ends. To AITER each row
is a request of its own, of as many tokens as its list has, so that is what a recorded step says.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import torch

from backend.case import QK_HEAD_DIM, V_HEAD_DIM
from backend.errors import NoSuchStepError
from backend.real.frameworks.framework_run import ForwardPass
from backend.real.frameworks.process import Process
from backend.real.frameworks.record import Phase
from backend.real.frameworks.scenarios import BackendConfig, Scenario
from backend.real.frameworks.vllm import VllmDriver, VllmRun
from backend.real.frameworks.vllm_objects import VllmState
from backend.real.frameworks.vllm_steps import VllmBatch
from backend.real.python.poison import Declared
from backend.serving.sparse import TOPK, UNUSED, lists_of_rows


class _NoGroups:
    """SparseMLAIndexGroupBuilder: layers that share converted lists, which the backend has no part in."""

    def __init__(self, buffer: torch.Tensor) -> None: ...

    def register_layer(self, *args: Any, **kwargs: Any) -> tuple[None, int]:
        """No group of its own."""
        return None, 0


class SparseState(VllmState):
    """What the sparse backend asks for besides: a model with an indexer."""

    def fakes(self) -> dict[str, Any]:
        """What vLLM's code asks of its process, by bare name."""
        return {
            **super().fakes(),
            "get_tensor_model_parallel_world_size": lambda: 1,
            "get_compress_ratios": lambda config: None,
            "SparseMLAIndexGroupBuilder": _NoGroups,
            "concat_mla_q": lambda nope, rope, out: None,
            "scaled_fp8_quant": self._quantised,
        }

    def _quantised(self, given: torch.Tensor, scale: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """scaled_fp8_quant, of which only shape and type matter."""
        return torch.empty(given.shape, dtype=self.fp8, device="cuda"), scale

    def vllm_config(self) -> Declared:
        """A configuration whose model has an indexer."""
        made = super().vllm_config()
        made.model_config.hf_text_config.index_topk = TOPK
        made.model_config.model_arch_config = Declared("model_arch_config", total_num_attention_heads=self.config.num_head)
        made.attention_config.hisparse_config = None
        made.attention_config.sparse_mla_force_mqa = False
        return made


class VllmSparseDriver(VllmDriver):
    """Runs scenarios against one source; parsed definitions are kept between them."""

    def state(self, scenario: Scenario) -> VllmState:
        """What stands for the rest of vLLM."""
        if any(config.context_parallel > 1 for config in scenario.backends):
            raise NoSuchStepError("vLLM's sparse MLA backend serves no context-parallel ranks; leave context_parallel out")
        return SparseState(scenario)

    def life(self, running: Process, scenario: Scenario, state: VllmState) -> VllmRun:
        """A scenario in the process that was started for it."""
        return SparseRun(running, scenario, state)


class SparseRun(VllmRun):
    """One scenario in one process. lists: int32 [rows, TOPK], tokens of a row's request by position; all layers share it."""

    builder_class = "ROCMAiterMLASparseMetadataBuilder"
    impl_class = "ROCMAiterMLASparseImpl"
    backend_class = "ROCMAiterMLASparseBackend"
    is_sparse = True

    def __init__(self, running: Process, scenario: Scenario, state: VllmState) -> None:
        super().__init__(running, scenario, state)
        rows = state.vllm_config().scheduler_config.max_num_batched_tokens
        self.lists = torch.full((rows, TOPK), UNUSED, dtype=torch.int32, device="cuda")

    def _impl_arguments(self, config: BackendConfig) -> dict[str, Any]:
        indexer = Declared("indexer", topk_indices_buffer=self.lists)
        return {**super()._impl_arguments(config), "indexer": indexer, "topk_indices_buffer": self.lists}

    def _layer_attributes(self) -> dict[str, Any]:
        def concatenated(nope: torch.Tensor, rope: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
            shape = (*nope.shape[:-1], nope.shape[-1] + rope.shape[-1])
            return torch.empty(shape, dtype=self.state.fp8, device="cuda")

        return {**super()._layer_attributes(), "_decode_concat_quant_fp8_op": concatenated}

    def _queries(self, config: BackendConfig, tokens: int) -> Any:
        """The two parts of q, which the file joins itself."""
        parts = (V_HEAD_DIM, QK_HEAD_DIM - V_HEAD_DIM)
        return tuple(torch.empty((tokens, config.num_head, width), dtype=torch.bfloat16, device="cuda") for width in parts)

    def _absorbed(self, metadata: Any, requests: int) -> int:
        """All of a batch whose longest prompt has more tokens than a list."""
        dense = metadata.prefill is None or metadata.prefill.use_dense_mha
        return metadata.num_decodes if dense else requests

    def _common(self, which: int, batch: VllmBatch, each: int, longest: int) -> Any:
        """The batch, and the lists that the indexer chooses for its rows."""
        rows = torch.diff(batch.query_start_loc.cpu()).tolist()
        for at, chosen in enumerate(lists_of_rows(tuple(batch.seq_lens.tolist()), tuple(rows))):
            self.lists[at] = UNUSED
            self.lists[at, : len(chosen)] = torch.from_numpy(chosen.astype(np.int32))
        return super()._common(which, batch, each, longest)

    def _record(self, made: ForwardPass) -> None:
        if made.phase is not Phase.CAPTURE:
            self._record_lists(made)
            return
        each = self._rows_a_request(made.which, made.kind)  # of requests that have these for a context, in block 0
        own = (each,) * made.padded
        table = np.tile(np.arange(each) % self.scenario.backends[made.which].page_size, (made.padded, 1))
        self._record_lists(dataclasses.replace(made, kv_lens=own, rows=own, padded=0), table)
