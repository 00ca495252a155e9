"""Drives sglang's real `aiter_backend.py`: builds AiterAttnBackend, runs its forward passes, captures and replays graphs.

The driver plays ModelRunner and the graph runner: it owns the request pool, the KV pool and the graph's input buffers,
and knows which KV rows each request holds. Everything that decides is the file's own code; names that differ between
releases are looked up (`call_by_name`, `first_method`), never guessed by version.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
from typing import Any

import torch

from backend.case import DType
from backend.errors import CannotRunError, NoSuchStepError
from backend.real.frameworks.framework_run import FrameworkDriver, FrameworkRun, smallest
from backend.real.frameworks.outputs import mark, misplaced
from backend.real.frameworks.process import CapturedGraph, Process, call_by_name, first_method
from backend.real.frameworks.record import ArgumentFault, Phase
from backend.real.frameworks.recorder import NotCaptured, Truth
from backend.real.frameworks.scenarios import BackendConfig, Scenario, Step, StepKind
from backend.real.frameworks.sglang_objects import (
    Batch,
    ForwardTensors,
    RequestPool,
    SglangGraphInputs,
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


class SglangDriver(FrameworkDriver):
    """Runs scenarios against one source; parsed definitions are kept between them."""

    name = "sglang"
    others = ("sgl_kernel", "flashinfer", "vllm")
    prefixes = ("SGLANG_", "SGL_")

    def state(self, scenario: Scenario) -> SglangState:
        """What stands for the rest of sglang; raises NoSuchStepError for a scenario that the file has no part in."""
        if scenario.flags:
            raise NoSuchStepError("no server argument chooses kernels of sglang's aiter backend; leave flags out")
        return SglangState(scenario)

    def life(self, running: Process, scenario: Scenario, state: SglangState) -> SglangRun:
        """A scenario in the process that was started for it."""
        return SglangRun(running, scenario, state)

    def _check(self, scenario: Scenario) -> None:
        super()._check(scenario)
        if any(config.context_parallel > 1 for config in scenario.backends):
            raise NoSuchStepError("context-parallel ranks of sglang are not driven; leave context_parallel out")
        drafts = (step.backend for step in scenario.steps if step.kind is StepKind.MULTI_STEP_DRAFT)
        if not all(scenario.backends[at].is_draft for at in drafts):
            raise NoSuchStepError("a draft model of sglang's has backends of its own; give is_draft")


class SglangRun(FrameworkRun):
    """One scenario in one process. What other files of sglang's do otherwise is a method of its own."""

    backend_class = "AiterAttnBackend"
    draft_class = "AiterMultiStepDraftBackend"

    def __init__(self, running: Process, scenario: Scenario, state: SglangState) -> None:
        super().__init__(running, scenario, state)
        self.modes = running.module.ForwardMode
        self.pools = [self._pool(config) for config in scenario.backends]
        self.graphs: dict[tuple[int, StepKind], SglangGraphInputs] = {}

    def _pool(self, config: BackendConfig) -> RequestPool:
        """As sglang sizes it where the context is known: 4 tokens and the drafts beyond (model_runner_kv_cache_mixin.py)."""
        slack = 4 + (config.draft_tokens or 0) if self.scenario.context else 0
        tree = config.drafted_to(config.page_size - 1) if config.branches > 1 else 0
        return RequestPool(config, self.scenario.model_context, max(slack, tree), self.state.dtype(config.kv_dtype))

    def _build(self, at: int) -> Any:
        config = self.scenario.backends[at]
        name = self.draft_class if config.is_draft else self.backend_class
        namespace = self.running.module._names
        if name not in namespace:
            raise CannotRunError(f"{self.running.source.target.filename}: has no class {name}; is it that backend of sglang's?")
        spec = self.state.speculation()
        known = {
            "model_runner": self._model_runner(at),
            "skip_prefill": False,
            "topk": config.branches,
            "speculative_num_steps": spec["speculative_num_steps"],
        }
        return call_by_name(namespace[name], known, f"{name}.__init__")

    def _model_runner(self, at: int) -> Declared:
        return model_runner(self.state, self.pools[at], self.running.module.AttentionArch, self.running.packages.probes)

    def _index(self, which: int, batch: Batch, padded: int = 0) -> None:
        """What the model does for a batch before its attention, its padding included."""

    def _indexed(self, tokens: int) -> dict[str, Any]:
        """What it hands its attention besides, for as many q rows."""
        return {}

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

    def _step(self, at: int, step: Step) -> None:
        batch = self._batch(at, step)
        if step.graph:
            self._replay(at, step.backend, batch)
        else:
            self._eager(at, step.backend, batch)

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
        mark(q)
        before = len(self.running.watcher.decodes)
        made = call_by_name(getattr(backend, name), known, f"{self.backend_class}.{name}")
        wrong = misplaced(made, q) if len(self.running.watcher.decodes) == before + 1 else ""
        if wrong:
            self.running.operations.by_arguments.append((name, (ArgumentFault("o", wrong, is_write=False),), None))
        return made

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

    def _capture_all(self) -> None:
        """Capture every graph that the steps use, each backend's sizes from the largest down, before any step."""
        for which, config in enumerate(self.scenario.backends):
            if not config.graph_batches:
                continue
            self.state.config = config
            used = dict.fromkeys(s.kind for s in self.scenario.steps if s.backend == which and s.graph)
            kinds = list(used) or [self._usual_kind(config)]
            each = max(self._rows_a_request(which, kind) for kind in kinds)
            known = {"max_bs": config.max_batch, "max_num_tokens": config.max_batch * each}
            failed = len(self.recorder.failed)
            method, name = self.backends[which].init_cuda_graph_state, f"{self.backend_class}.init_cuda_graph_state"
            self.recorder.guarded(-1, Phase.CAPTURE, which, kinds[0], call_by_name, method, known, name)
            for kind in kinds if len(self.recorder.failed) == failed else ():
                self.recorder.guarded(-1, Phase.CAPTURE, which, kind, self._capture_kind, which, kind)

    @staticmethod
    def _usual_kind(config: BackendConfig) -> StepKind:
        if config.is_draft:
            return StepKind.MULTI_STEP_DRAFT
        return StepKind.DECODE if config.draft_tokens is None else StepKind.TARGET_VERIFY

    def _rows_a_request(self, which: int, kind: StepKind) -> int:
        config = self.scenario.backends[which]
        if kind in (StepKind.DECODE, StepKind.MULTI_STEP_DRAFT):
            return config.branches
        return config.draft_tokens or 1

    def _capture_kind(self, which: int, kind: StepKind) -> None:
        config, backend = self.scenario.backends[which], self.backends[which]
        each = self._rows_a_request(which, kind)
        holder = backend.attn_backends[0] if kind is StepKind.MULTI_STEP_DRAFT else backend
        fill = int(holder.get_cuda_graph_seq_len_fill_value())
        inputs = self.graphs[which, kind] = SglangGraphInputs(
            req_pool_indices=torch.zeros(config.max_batch, dtype=torch.int64, device="cuda"),
            seq_lens=torch.full((config.max_batch,), fill, dtype=torch.int32, device="cuda"),
            seq_lens_cpu=torch.full((config.max_batch,), fill, dtype=torch.int32),
            positions=torch.zeros(config.max_batch * each, dtype=torch.int64, device="cuda"),
            fill=fill,
        )
        for batch in sorted(set(config.graph_batches), reverse=True):
            self.recorder.guarded(-1, Phase.CAPTURE, which, kind, self._capture_one, which, kind, inputs, batch)

    def _capture_one(self, which: int, kind: StepKind, inputs: SglangGraphInputs, batch: int) -> None:
        backend = self.backends[which]
        each = self._rows_a_request(which, kind)
        nobody = Batch(kind, (), (), (), ())
        self._index(which, nobody, padded=batch)
        forward_batch = self._graph_batch(which, kind, inputs, batch, batch * inputs.fill)
        self._graph_metadata(backend, kind, forward_batch, batch, in_capture=True)
        inner = backend.attn_backends if kind is StepKind.MULTI_STEP_DRAFT else [backend]
        with self.running.gpu.capture(), self.running.operations.capture() as operations:
            for one in inner:
                self._forward(one, which, kind, batch * each, forward_batch)
        decodes = self.recorder.taken()
        inputs.graphs.append(CapturedGraph(batch, decodes, operations))
        added = each if kind is StepKind.TARGET_VERIFY else 0
        self._record(-1, which, Phase.CAPTURE, nobody, decodes, padded=batch, fill=inputs.fill + added)

    def _graph_batch(
        self,
        which: int,
        kind: StepKind,
        inputs: SglangGraphInputs,
        batch: int,
        seq_lens_sum: int,
        query_lens: tuple[int, ...] = (),
    ) -> Any:
        """A batch on the graph's inputs. query_lens: rows of the real requests; padding has a request's usual number."""
        each = self._rows_a_request(which, kind)
        tensors = ForwardTensors(
            req_pool_indices=inputs.req_pool_indices[:batch],
            seq_lens=inputs.seq_lens[:batch],
            seq_lens_cpu=inputs.seq_lens_cpu[:batch],
            seq_lens_sum=seq_lens_sum,
            positions=inputs.positions[: batch * each],
        )
        return self._forward_batch(which, kind, tensors, query_lens + (each,) * (batch - len(query_lens)))

    def _graph_metadata(self, backend: Any, kind: StepKind, forward_batch: Any, batch: int, in_capture: bool) -> None:
        """The release's metadata method for capture or replay: one of two older ones, or the newer pair."""
        older = "init_forward_metadata_capture_cuda_graph" if in_capture else "init_forward_metadata_replay_cuda_graph"
        name = first_method(backend, ("init_forward_metadata_out_graph", older), self.backend_class)
        known = {
            "forward_batch": forward_batch,
            "in_capture": in_capture,
            "bs": batch,
            "num_tokens": int(forward_batch.input_ids.shape[0]),
            "req_pool_indices": forward_batch.req_pool_indices,
            "seq_lens": forward_batch.seq_lens,
            "seq_lens_sum": forward_batch.seq_lens_sum,
            "seq_lens_cpu": forward_batch.seq_lens_cpu,
            "encoder_lens": None,
            "forward_mode": forward_batch.forward_mode,
            "spec_info": forward_batch.spec_info,
        }
        call_by_name(getattr(backend, name), known, f"{self.backend_class}.{name}")
        if name == "init_forward_metadata_out_graph":
            backend.init_forward_metadata_in_graph(forward_batch)

    def _replay(self, at: int, which: int, batch: Batch) -> None:
        inputs = self.graphs.get((which, batch.kind))
        if inputs is None:
            raise NotCaptured("no graph takes this batch: its capture failed")
        graph = smallest(inputs.graphs, len(batch.rows))
        count = len(batch.rows)
        if graph.batch != count:
            inputs.seq_lens.fill_(inputs.fill)
            inputs.seq_lens_cpu.fill_(inputs.fill)
            inputs.positions.zero_()
        inputs.req_pool_indices[:count] = torch.tensor(batch.rows, dtype=torch.int64)
        inputs.seq_lens[:count] = torch.tensor(batch.seq_lens, dtype=torch.int32)
        inputs.seq_lens_cpu[:count] = torch.tensor(batch.seq_lens, dtype=torch.int32)
        inputs.positions[: sum(batch.query_lens)] = batch.positions()
        total = sum(batch.seq_lens) + (graph.batch - count) * inputs.fill
        forward_batch = self._graph_batch(which, batch.kind, inputs, graph.batch, total, batch.query_lens)
        self._graph_metadata(self.backends[which], batch.kind, forward_batch, graph.batch, in_capture=False)
        self._index(which, batch, padded=graph.batch - count)
        for operation in graph.operations:
            self.running.operations.replay(operation)
        added = self._rows_a_request(which, batch.kind) if batch.kind is StepKind.TARGET_VERIFY else 0
        self._record(at, which, Phase.REPLAY, batch, graph.decodes, padded=graph.batch - count, fill=inputs.fill + added)

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
