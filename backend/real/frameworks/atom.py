"""Drives ATOM's MLA backend: AiterMLAMetadataBuilder of `aiter_mla.py` plans, MLAAttention of `attention_mla.py` runs.

Either file may be the one under test; the other is then sliced out of the same tree. The driver plays ModelRunner: it owns
block tables, KV cache and the rows of a batch; and the indexer of a model that has one: it writes the lists of all rows, end
to end. A step is a decode of one row a request, of `draft_tokens` rows where the model drafts (each after the first with one
draft of the last rejected), or a batch of prompts. q is of the KV cache's type in ATOM, whatever a scenario says.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from backend.aiter.arguments import Int32Array, TargetGpu
from backend.case import NUM_CU, QK_HEAD_DIM, V_HEAD_DIM
from backend.errors import CannotRunError, NoSuchStepError
from backend.real.aiter_ops import AiterSource, Handlers
from backend.real.frameworks.atom_objects import NOPE, ROPE, AtomState
from backend.real.frameworks.fetch import BackendSource
from backend.real.frameworks.framework_run import FrameworkRun
from backend.real.frameworks.process import CapturedGraph, Process, process
from backend.real.frameworks.record import Phase, Recording
from backend.real.frameworks.recorder import NotCaptured, Positions, Truth
from backend.real.frameworks.scenarios import BackendConfig, Scenario, Step, StepKind
from backend.real.observe import words_read
from backend.real.python.poison import Declared
from backend.serving.sparse import UNUSED, lists_of_rows

BUILDER, LAYER = "atom.model_ops.attentions.aiter_mla", "atom.model_ops.attention_mla"

KINDS = (StepKind.DECODE, StepKind.TARGET_VERIFY, StepKind.PREFILL)


class AtomDriver:
    """Runs scenarios against one source; parsed definitions are kept between them."""

    def __init__(self, source: BackendSource, aiter: AiterSource) -> None:
        self.source = source
        self.aiter = aiter

    def run(self, scenario: Scenario, handlers: Handlers, environment: Mapping[str, str] | None = None) -> Recording:
        """Run a scenario in a fresh process; `environment`: ATOM_ and AITER_ variables to set."""
        state = AtomState(scenario)
        if any(config.kv_heads is not None for config in scenario.backends):
            raise NoSuchStepError("ATOM's MLA backend has no ordinary attention; leave kv_heads out")
        if any(config.context_parallel > 1 for config in scenario.backends) and state.is_sparse:
            raise NoSuchStepError(
                "context-parallel ranks of a model with an indexer are not driven; leave context_parallel out"
            )
        if any(not name.startswith(("ATOM_", "AITER_")) for name, _ in scenario.environment):
            raise NoSuchStepError("ATOM reads no variable of other frameworks; leave environment out")
        if scenario.needed_context > scenario.model_context:
            raise NoSuchStepError("ATOM ends a request with its drafts at the context's end; leave longer ones out")
        for step in scenario.steps:
            if not step.kv_lens:
                raise NoSuchStepError("an idle rank of ATOM runs no attention; leave steps without requests out")
            if step.kind is StepKind.DECODE and 0 in step.kv_lens:
                raise NoSuchStepError("ATOM decodes no request without tokens; leave steps with one out")
            if step.kind not in KINDS:
                raise NoSuchStepError(
                    f"a step of the kind {step.kind.value} of ATOM is not driven; allowed: {', '.join(KINDS)}"
                )
            if step.kind is StepKind.DECODE and (scenario.backends[step.backend].draft_tokens or 1) > 1:
                raise NoSuchStepError("a model of ATOM's that drafts decodes all of its rows; leave draft_tokens out")
        device = TargetGpu(scenario.arch, scenario.num_cu or NUM_CU[scenario.arch])
        source, aiter, wanted = self.source, self.aiter, environment or {}
        with process(source, aiter, device, handlers, state.fakes(), wanted, of_aiter=state.of_aiter()) as running:
            return AtomRun(running, scenario, state).everything()


@dataclass(slots=True, eq=False)
class BuiltAtom:
    """A model runner with its builder, its layer and the layer's cache. table: KV row of each token of each request.

    lists: int32, the indexer's, empty without one.
    """

    runner: Any
    builder: Any
    layer: Any
    cache: torch.Tensor
    table: Positions
    lists: torch.Tensor
    graphs: list[CapturedGraph] = field(default_factory=list)


class AtomRun(FrameworkRun):
    """One scenario in one process."""

    def __init__(self, running: Process, scenario: Scenario, state: AtomState) -> None:
        super().__init__(running, scenario)
        self.state = state
        self.modules = {name: importlib.import_module(name) for name in (BUILDER, LAYER)}

    def _turn_to(self, config: BackendConfig) -> None:
        self.state.config = config

    def _class(self, module: str, name: str) -> Any:
        found = getattr(self.modules[module], name)
        if not isinstance(found, type):
            raise CannotRunError(f"{module}: has no class {name}; declare what it misses ({found!r})")
        return found

    def _build(self, at: int) -> BuiltAtom:
        config, state = self.scenario.backends[at], self.state
        layer = self._class(LAYER, "MLAAttention")(**state.layer_arguments(config, self._class(LAYER, "MLAModules")))
        layer.W_K, layer.W_K_scale = torch.empty((config.num_head, V_HEAD_DIM, NOPE)), None
        layer.W_V, layer.W_V_scale = torch.empty((config.num_head, NOPE, V_HEAD_DIM)), None
        runner: Any = state.runner(config, self.modules[BUILDER].CpuGpuBuffer)
        runner.config.compilation_config.static_forward_context["layer_0"] = Declared("layer_0", impl=layer)
        builder = self._class(BUILDER, "AiterMLAMetadataBuilder")(runner)
        rows, dtype = runner.max_bs, builder.dtype_kv
        stride = state.context
        cache = torch.empty(((rows + 1) * stride, 1, QK_HEAD_DIM), dtype=dtype, device="cuda")
        table = stride * (1 + np.arange(rows, dtype=np.int64)[:, None]) + np.arange(stride)
        lists = layer.sparse_kv_indices_buffer if state.is_sparse else torch.empty(0, dtype=torch.int32, device="cuda")
        return BuiltAtom(runner, builder, layer, cache, table, lists)

    def _rows_a_request(self, which: int) -> int:
        return self.scenario.backends[which].draft_tokens or 1

    def _capture_all(self) -> None:
        for which, config in enumerate(self.scenario.backends):
            self._turn_to(config)
            for kind in {step.kind for step in self.scenario.steps if step.backend == which and step.graph}:
                for batch in sorted(set(config.graph_batches), reverse=True):
                    self.recorder.guarded(-1, Phase.CAPTURE, which, kind, self._capture, which, kind, batch)

    def _capture(self, which: int, kind: StepKind, batch: int) -> None:
        built, each = self.backends[which], self._rows_a_request(which)
        variables = built.runner.forward_vars
        for name in ("kv_indptr", "sparse_kv_indptr") if self.state.is_sparse else ("kv_indptr",):
            variables[name].gpu.zero_()
        self._rows_of_queries(built, batch, each, batch)
        variables["cu_seqlens_q"].copy_to_gpu(batch + 1)
        metadata, context = built.builder.build_for_cudagraph_capture(batch)
        with self.running.gpu.capture(), self.running.operations.capture() as operations:
            self._forward(built, metadata, context.positions, batch * each, is_prefill=False)
        decodes = self.recorder.taken()
        built.graphs.append(CapturedGraph(batch, decodes, operations))
        self._record(-1, which, Phase.CAPTURE, kind, decodes, (), (), batch)

    @staticmethod
    def _rows_of_queries(built: BuiltAtom, count: int, each: int, batch: int) -> None:
        """cu_seqlens_q as ModelRunner keeps it: what pads a graph has no rows."""
        rows = built.runner.forward_vars["cu_seqlens_q"].np
        rows[: batch + 1] = np.minimum(np.arange(batch + 1), count) * each

    def _scheduled(self, which: int, kv_lens: tuple[int, ...], **fields: Any) -> Declared:
        """ATOM's ScheduledBatch."""
        config, table = self.scenario.backends[which], self.backends[which].table
        page = config.page_size
        held = [-(-length // (page * config.context_parallel)) for length in kv_lens]
        return Declared(
            "batch",
            req_ids=list(range(len(kv_lens))),
            context_lens=np.array(kv_lens, dtype=np.int32),
            block_tables=[(table[at, : count * page : page] // page).tolist() for at, count in enumerate(held)],
            last_block_num_tokens=[(length - 1) % page + 1 for length in kv_lens],
            is_first_decode_without_local_prefill=[False] * len(kv_lens),
            is_dummy_run=False,
            state_maintenance_ops=Declared(
                "state_maintenance_ops", relocations=[], checkpoint_stores=[], checkpoint_restores=[]
            ),
            **fields,
        )

    def _step(self, at: int, step: Step) -> None:
        which, count = step.backend, len(step.kv_lens)
        built, each = self.backends[which], self._rows_a_request(which)
        if step.kind is StepKind.PREFILL:
            self._prefill(at, step)
            return
        kv_lens = tuple(length + (each if step.kind is StepKind.TARGET_VERIFY else 0) for length in step.kv_lens)
        fitting = [graph for graph in built.graphs if graph.batch >= count]
        if step.graph and not fitting:
            raise NotCaptured("no graph takes this batch: its capture failed")
        graph = min(fitting, key=lambda each: each.batch) if step.graph else None
        batch = graph.batch if graph is not None else count
        self._rows_of_queries(built, count, each, batch)
        one = np.array([length < self.state.context for length in kv_lens], np.int32)
        rejected = built.runner.tokenID_processor.num_rejected = one if each > 1 and at else None
        asked = kv_lens if rejected is None else tuple((kv_lens + rejected).tolist())
        scheduled = self._scheduled(which, asked, total_seqs_num_decode=count, total_tokens_num_prefill=0)
        metadata, positions = built.builder.build(batch=scheduled, bs=batch)
        rows = (each,) * count
        self._index(which, kv_lens, rows)
        if graph is None:
            self._forward(built, metadata, positions, count * each, is_prefill=False)
            self._record(at, which, Phase.EAGER, step.kind, self.recorder.taken(), kv_lens, rows, 0)
            return
        for operation in graph.operations:
            self.running.operations.replay(operation)
        self._record(at, which, Phase.REPLAY, step.kind, graph.decodes, kv_lens, rows, batch - count)

    def _prefill(self, at: int, step: Step) -> None:
        """Prompts with keys of all heads, or, of a model with an indexer and longer ones, by lists."""
        which, rows = step.backend, step.query_lens or step.kv_lens
        built, count = self.backends[which], len(rows)
        cached = [length - new for length, new in zip(step.kv_lens, rows, strict=True)]
        built.runner.forward_vars["cu_seqlens_q"].np[1 : count + 1] = np.cumsum(rows)
        counts = {"total_seqs_num_prefill": count, "total_tokens_num_prefill": sum(rows), "num_cached_tokens": cached}
        metadata, positions = built.builder.build(batch=self._scheduled(which, step.kv_lens, **counts), bs=count)
        self._index(which, step.kv_lens, rows)
        self._forward(built, metadata, positions, sum(rows), is_prefill=True)
        self._record(at, which, Phase.EAGER, step.kind, self.recorder.taken(), step.kv_lens, rows, 0)

    def _index(self, which: int, kv_lens: tuple[int, ...], rows: tuple[int, ...]) -> None:
        """What the indexer writes: the KV rows of each q row's list, end to end."""
        built = self.backends[which]
        if self.state.is_sparse:
            slots = self._listed(which, StepKind.DECODE, kv_lens, rows, 0).slots
            built.lists.fill_(UNUSED)
            built.lists[: slots.size] = torch.from_numpy(slots)

    def _forward(self, built: BuiltAtom, metadata: Any, positions: Any, tokens: int, is_prefill: bool) -> None:
        context = Declared("context", is_prefill=is_prefill, is_dummy_run=False)
        caches = {"layer_0": Declared("layer_0", k_cache=built.cache)}
        self.state.forward = Declared("forward_context", attn_metadata=metadata, context=context, kv_cache_data=caches)
        q, latent, rope = (
            torch.empty((tokens, *shape), dtype=torch.bfloat16, device="cuda") for shape in ((1536,), (V_HEAD_DIM,), (1, ROPE))
        )
        built.layer.forward(q, latent, rope, positions=positions)

    def _listed(self, which: int, kind: StepKind, kv_lens: tuple[int, ...], rows: tuple[int, ...], padded: int) -> Truth:
        requests = np.repeat(np.arange(len(rows)), rows)
        return Truth.of_rows(kind, requests, lists_of_rows(kv_lens, rows), self.backends[which].table, padded, 0)

    def _record(
        self,
        at: int,
        which: int,
        phase: Phase,
        kind: StepKind,
        decodes: list[Any],
        kv_lens: tuple[int, ...],
        rows: tuple[int, ...],
        padded: int,
    ) -> None:
        """ATOM pads with requests of no rows and no tokens; what the backend makes of one's tokens is read off the call."""
        config = self.scenario.backends[which]
        if self.state.is_sparse:
            listed = self._listed(which, kind, kv_lens, rows, padded * self._rows_a_request(which))
            self.recorder.record(at, which, phase, kind, decodes, lambda call: listed)
            return
        held = config.held(kv_lens)
        parts = [self.backends[which].table[row, :length] for row, length in enumerate(held)]
        slots: Int32Array = np.concatenate(parts).astype(np.int32) if parts else np.empty(0, np.int32)

        def truth(call: int) -> Truth:
            ends = words_read(decodes[call].call.arguments["kv_indptr"])
            return Truth(kind, held, rows, padded, int(ends[-1] - ends[-2]) if padded and ends.size > 1 else 0, slots)

        self.recorder.record(at, which, phase, kind, decodes, truth)
