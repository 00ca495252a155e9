"""The forward passes of sglang's attention backends: a batch and its KV rows, the release's own ForwardBatch, calls by layer.

The driver plays ModelRunner: it owns the request pool and the KV pool, and knows which KV rows each request holds. Names that
differ between releases are looked up, never guessed by version.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
from typing import Any

import torch

from backend.case import DType
from backend.errors import NoSuchStepError
from backend.real.frameworks.framework_run import FrameworkRun
from backend.real.frameworks.process import Process, call_by_name
from backend.real.frameworks.record import Phase
from backend.real.frameworks.recorder import Truth
from backend.real.frameworks.scenarios import BackendConfig, Scenario, Step, StepKind
from backend.real.frameworks.sglang_objects import (
    Batch,
    ForwardTensors,
    RequestPool,
    SglangState,
    draft_input_class,
    model_runner,
)
from backend.real.observe import DecodeSeen
from backend.real.python.poison import Declared

FORWARD_MODES = {
    StepKind.DECODE: ("DECODE",),
    StepKind.PREFILL: ("EXTEND",),
    StepKind.TARGET_VERIFY: ("TARGET_VERIFY",),
    StepKind.DRAFT_EXTEND: ("DRAFT_EXTEND_V2", "DRAFT_EXTEND"),
    StepKind.MULTI_STEP_DRAFT: ("DECODE",),
}
"""Names of sglang's ForwardMode for a step, newest first."""


class SglangForward(FrameworkRun):
    """What one scenario does in forward passes. What other files of sglang's do otherwise is a method of its own."""

    backend_class = "AiterAttnBackend"

    def __init__(self, running: Process, scenario: Scenario, state: SglangState) -> None:
        super().__init__(running, scenario, state)
        self.modes = running.module.ForwardMode
        self.pools = [self._pool(config) for config in scenario.backends]

    def _pool(self, config: BackendConfig) -> RequestPool:
        """As sglang sizes it where the context is known: 4 tokens and the drafts beyond (model_runner_kv_cache_mixin.py)."""
        slack = 4 + (config.draft_tokens or 0) if self.scenario.context else 0
        tree = config.drafted_to(config.page_size - 1) if config.branches > 1 else 0
        return RequestPool(config, self.scenario.model_context, max(slack, tree), self.state.dtype(config.kv_dtype))

    def _model_runner(self, at: int) -> Declared:
        return model_runner(self.state, self.pools[at], self.running.module.AttentionArch, self.running.packages.probes)

    def _index(self, which: int, batch: Batch, padded: int = 0) -> None:
        """What the model does for a batch before its attention, its padding included."""

    def _indexed(self, tokens: int) -> dict[str, Any]:
        """What it hands its attention besides, for as many q rows."""
        return {}

    def _rows_a_request(self, which: int, kind: StepKind) -> int:
        config = self.scenario.backends[which]
        if kind in (StepKind.DECODE, StepKind.MULTI_STEP_DRAFT):
            return config.branches
        return config.draft_tokens or 1

    def _batch(self, at: int, step: Step) -> Batch:
        """Give the requests their KV rows, as the framework's allocator would have."""
        drafts = self.scenario.backends[step.backend].draft_tokens or 1
        count = len(step.kv_lens)
        if step.kind is StepKind.TARGET_VERIFY:
            kv_lens, query_lens = tuple(n + drafts for n in step.kv_lens), (drafts,) * count
        elif step.kind is StepKind.DRAFT_EXTEND:
            kv_lens, query_lens = step.kv_lens, step.query_lens or (drafts,) * count
        elif step.kind is StepKind.PREFILL:
            kv_lens, query_lens = step.kv_lens, step.query_lens or step.kv_lens
        else:
            kv_lens, query_lens = step.kv_lens, (self._rows_a_request(step.backend, step.kind),) * count
        pool, reach = self.pools[step.backend], kv_lens
        if step.kind is StepKind.MULTI_STEP_DRAFT:
            reach = tuple(map(self.scenario.backends[step.backend].drafted_to, kv_lens))
        if step.requests:
            pool.seat(step.requests, step.kv_lens, reach, self.scenario.alive(step.backend, at))
        rows = pool.take(reach, step.requests)
        return Batch(step.kind, step.kv_lens, kv_lens, query_lens, rows)

    def _eager(self, at: int, which: int, batch: Batch) -> None:
        backend = self.backends[which]
        self._index(which, batch)
        tensors = ForwardTensors(
            req_pool_indices=torch.tensor(batch.rows, dtype=torch.int64, device="cuda"),
            seq_lens=torch.tensor(batch.seq_lens, dtype=torch.int64, device="cuda"),
            seq_lens_cpu=torch.tensor(batch.seq_lens),
            seq_lens_sum=sum(batch.seq_lens),
            positions=batch.positions().to("cuda"),
        )
        forward_batch = self._forward_batch(which, batch.kind, tensors, batch.query_lens)
        if batch.kind is StepKind.PREFILL:
            self._prefill(at, which, batch, forward_batch)
            return
        backend.init_forward_metadata(forward_batch)
        inner = backend.attn_backends if batch.kind is StepKind.MULTI_STEP_DRAFT else [backend]
        for one in inner:
            self._forward(one, which, batch.kind, sum(batch.query_lens), forward_batch)
        self._record(at, which, Phase.EAGER, batch, self.recorder.taken(), padded=0, fill=0)

    @staticmethod
    def _prompts(batch: Batch, forward_batch: Any) -> list[int]:
        """Tells a forward pass of prompts how many rows and how many cached tokens each has; the latter."""
        prefix = [kv - rows for kv, rows in zip(batch.kv_lens, batch.query_lens, strict=True)]
        forward_batch.extend_seq_lens = torch.tensor(batch.query_lens, dtype=torch.int32, device="cuda")
        forward_batch.extend_seq_lens_cpu = list(batch.query_lens)
        forward_batch.extend_prefix_lens = torch.tensor(prefix, dtype=torch.int32, device="cuda")
        forward_batch.extend_prefix_lens_cpu = prefix
        return prefix

    def _prefill(self, at: int, which: int, batch: Batch, forward_batch: Any) -> None:
        """A prefill as sglang's MLA layers make it: heads of 192 and 128; behind a prefix of a bf16 cache, absorbed too."""
        prefix = self._prompts(batch, forward_batch)
        backend, config, pool = self.backends[which], self.scenario.backends[which], self.pools[which]
        backend.init_forward_metadata(forward_batch)
        tokens, name = sum(batch.query_lens), f"{self.backend_class}.forward_extend"
        absorbed = any(prefix) and config.kv_dtype is DType.BF16
        layers = (pool.prefill_layer, pool.layer) if absorbed else (pool.prefill_layer,)
        for layer in layers if config.kv_heads is None else (pool.layer,):
            q = torch.empty((tokens, config.num_head, layer.qk_head_dim), dtype=torch.bfloat16, device="cuda")
            k = torch.empty((tokens, layer.tp_k_head_num, layer.qk_head_dim), dtype=torch.bfloat16, device="cuda")
            v = k[..., : layer.v_head_dim]
            known = {"q": q, "k": k, "v": v, "layer": layer, "forward_batch": forward_batch, "save_kv_cache": False}
            call_by_name(backend.forward_extend, known, name)
        if any(prefix) and config.kv_heads is None and hasattr(backend, "init_mha_chunk_metadata"):
            self._chunked_prefill(backend, pool.prefill_layer, forward_batch, prefix, tokens)
        self._record(at, which, Phase.EAGER, batch, self.recorder.taken(), padded=0, fill=0)

    def _chunked_prefill(self, backend: Any, layer: Any, forward_batch: Any, prefix: list[int], tokens: int) -> None:
        """The same prompts with their prefix apart: attention among the new tokens, then to the prefix, here one chunk."""
        ends = torch.tensor(list(itertools.accumulate(prefix, initial=0)), dtype=torch.int32, device="cuda")
        chunk = {
            "num_prefix_chunks": 1,
            "prefix_chunk_idx": 0,
            "prefix_chunk_cu_seq_lens": [ends],
            "prefix_chunk_max_seq_lens": [max(prefix)],
            "prefix_chunk_seq_lens_cpu": torch.tensor([prefix], dtype=torch.int32),
            "prefix_chunk_has_zero_kv": [not all(prefix)],
            "prefix_chunk_num_tokens": [sum(prefix)],
            "mha_return_lse": True,
        }
        for name, value in chunk.items():
            setattr(forward_batch, name, value)
        backend.init_mha_chunk_metadata(forward_batch)
        q = torch.empty((tokens, layer.tp_q_head_num, layer.qk_head_dim), dtype=torch.bfloat16, device="cuda")
        for attends_prefix, rows in ((False, tokens), (True, sum(prefix))):
            forward_batch.attn_attend_prefix_cache = attends_prefix
            k = torch.empty((rows, layer.tp_k_head_num, layer.qk_head_dim), dtype=torch.bfloat16, device="cuda")
            v = k[..., : layer.v_head_dim]
            known = {"q": q, "k": k, "v": v, "layer": layer, "forward_batch": forward_batch, "save_kv_cache": False}
            call_by_name(backend.forward_extend, known, f"{self.backend_class}.forward_extend")

    def _forward(self, backend: Any, which: int, kind: StepKind, tokens: int, forward_batch: Any) -> Any:
        config, layer = self.scenario.backends[which], self.pools[which].layer
        q_dtype = self.state.dtype(config.q_dtype) if config.kv_heads is None else torch.bfloat16
        q = torch.empty((tokens, config.num_head, layer.qk_head_dim), dtype=q_dtype, device="cuda")
        k = torch.empty((tokens, layer.tp_k_head_num, layer.qk_head_dim), dtype=torch.bfloat16, device="cuda")
        known = {
            "q": q,
            "k": k,
            "v": k[..., : layer.v_head_dim],
            "layer": layer,
            "forward_batch": forward_batch,
            "save_kv_cache": False,
            **self._indexed(tokens),
        }
        name = "forward_decode" if kind in (StepKind.DECODE, StepKind.MULTI_STEP_DRAFT) else "forward_extend"
        return self._held(name, q, lambda: call_by_name(getattr(backend, name), known, f"{self.backend_class}.{name}"))

    def _forward_batch(self, which: int, kind: StepKind, tensors: ForwardTensors, query_lens: tuple[int, ...]) -> Any:
        """The release's own ForwardBatch, with those of its fields that a decode step has."""
        pool, config = self.pools[which], self.scenario.backends[which]
        tokens = sum(query_lens)
        known = {
            "forward_mode": self._mode(kind, config, query_lens),
            "batch_size": len(query_lens),
            "input_ids": torch.zeros(tokens, dtype=torch.int64, device="cuda"),
            "req_pool_indices": tensors.req_pool_indices,
            "seq_lens": tensors.seq_lens,
            "seq_lens_cpu": tensors.seq_lens_cpu,
            "seq_lens_sum": tensors.seq_lens_sum,
            "out_cache_loc": torch.zeros(tokens, dtype=torch.int64, device="cuda"),
            "positions": tensors.positions,
            "spec_info": self._spec_info(kind, config, query_lens, int(tensors.seq_lens_cpu.sum())),
            "req_to_token_pool": pool.requests,
            "token_to_kv_pool": pool.kv,
            "attn_backend": None,
        }
        if kind is StepKind.DRAFT_EXTEND:
            known["extend_seq_lens"] = torch.tensor(query_lens, dtype=torch.int32, device="cuda")
            known["extend_seq_lens_cpu"] = list(query_lens)
            known["extend_prefix_lens_cpu"] = [0] * len(query_lens)
        declared = self.running.module.ForwardBatch
        names = {f.name for f in dataclasses.fields(declared)}
        return declared(**{name: value for name, value in known.items() if name in names})

    def _mode(self, kind: StepKind, config: BackendConfig, query_lens: tuple[int, ...]) -> Any:
        """The ForwardMode of a step. Draft extension has two: for a fixed number of rows, and an older one for any."""
        names = FORWARD_MODES[kind]
        if kind is StepKind.DRAFT_EXTEND:
            fixed = all(rows == config.draft_tokens for rows in query_lens)
            handled = "is_draft_extend_v2" in self.running.source.target.text
            names = tuple(name for name in names if name != "DRAFT_EXTEND_V2" or (fixed and handled))
        for name in names:
            if hasattr(self.modes, name):
                return getattr(self.modes, name)
        raise NoSuchStepError(
            f"sglang's ForwardMode has none of {', '.join(names)}; {kind} of {query_lens} rows cannot be driven"
        )

    def _spec_info(self, kind: StepKind, config: BackendConfig, query_lens: tuple[int, ...], kv_tokens: int) -> Any:
        if kind in (StepKind.DECODE, StepKind.PREFILL):
            return None
        drafts = config.draft_tokens or 1
        mask = None if config.kv_heads is None else drafts * (kv_tokens + drafts * len(query_lens))
        accepted = torch.tensor(query_lens, dtype=torch.int32, device="cuda")
        info = Declared(
            "spec_info",
            self.running.packages.probes,
            draft_token_num=drafts,
            num_tokens_per_req=drafts,
            num_accept_tokens=accepted,
            num_correct_drafts=accepted - 1,
            accept_length=accepted,
            custom_mask=None if mask is None else torch.ones(mask, dtype=torch.bool, device="cuda"),
            kv_indptr=None,
            kv_indices=None,
        )
        if kind is StepKind.DRAFT_EXTEND:
            described = functools.partial(draft_input_class().generate_attn_arg_prefill, info)
            info.__dict__["generate_attn_arg_prefill"] = described
        return info

    def _record(
        self, at: int, which: int, phase: Phase, batch: Batch, decodes: list[DecodeSeen], padded: int, fill: int
    ) -> None:
        """Hand the calls to the recorder with what is known of each: in draft step i, a request has i more tokens."""
        drafting, table = batch.kind is StepKind.MULTI_STEP_DRAFT, self.pools[which].table

        def truth(call: int) -> Truth:
            ahead = call + 1 if drafting else 0
            if (config := self.scenario.backends[which]).branches > 1:
                rows, lists = batch.tree(config, ahead)
                fill_of_branch = ahead if padded else 0
                return Truth.of_rows(batch.kind, rows, lists, table, padded * config.branches, fill_of_branch)
            kv_lens = tuple(length + ahead for length in batch.kv_lens)
            return Truth(
                kind=batch.kind,
                kv_lens=kv_lens,
                query_lens=batch.query_lens,
                padded=padded,
                padded_kv_len=0 if not padded else ahead if drafting else fill,
                slots=self.pools[which].slots(batch.rows, kv_lens),
            )

        self.recorder.record(at, which, phase, batch.kind, decodes, truth)
