"""Drives ATOM's MLA backend: AiterMLAMetadataBuilder of `aiter_mla.py` plans, MLAAttention of `attention_mla.py` runs.

Either file may be the one under test; the other is then sliced out of the same tree. The driver plays the indexer too, of a
model that has one: it writes the lists of all rows, end to end. A step is a decode of one row a request, of `draft_tokens` rows
where the model drafts (each after the first with one draft of the last rejected), the draft model's passes behind a
verification, or a batch of prompts. q is of the KV cache's type in ATOM, whatever a scenario says.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from backend.case import QK_HEAD_DIM, V_HEAD_DIM
from backend.errors import CannotRunError, NoSuchStepError
from backend.real.frameworks.atom_drafts import Drafting
from backend.real.frameworks.atom_objects import NOPE, ROPE, AtomState, hold_output, scheduled_batch
from backend.real.frameworks.framework_run import ForwardPass
from backend.real.frameworks.process import Process
from backend.real.frameworks.record import Phase
from backend.real.frameworks.scenarios import Scenario, Step, StepKind
from backend.real.frameworks.table_run import TableDriver, TableRun
from backend.real.python.poison import Declared
from backend.serving.sparse import UNUSED

BUILDER, LAYER = "atom.model_ops.attentions.aiter_mla", "atom.model_ops.attention_mla"


class AtomDriver(TableDriver):
    """Runs scenarios against one source; parsed definitions are kept between them."""

    name = "ATOM"
    kinds = (*TableDriver.kinds, StepKind.MULTI_STEP_DRAFT)
    prefixes = ("ATOM_",)

    def state(self, scenario: Scenario) -> AtomState:
        """What stands for the rest of ATOM; raises NoSuchStepError for a scenario that the file has no part in."""
        state = AtomState(scenario)
        if any(config.context_parallel > 1 for config in scenario.backends) and state.is_sparse:
            raise NoSuchStepError(
                "context-parallel ranks of a model with an indexer are not driven; leave context_parallel out"
            )
        for step in scenario.steps:
            if step.kind is StepKind.DECODE and 0 in step.kv_lens:
                raise NoSuchStepError("ATOM decodes no request without tokens; leave steps with one out")
            if step.kind is StepKind.DECODE and (scenario.backends[step.backend].draft_tokens or 1) > 1:
                raise NoSuchStepError("a model of ATOM's that drafts decodes all of its rows; leave draft_tokens out")
            if step.kind is StepKind.MULTI_STEP_DRAFT and scenario.backends[step.backend].is_draft:
                raise NoSuchStepError("a draft model of ATOM's shares its target's backend; leave is_draft out")
            if step.kind is StepKind.MULTI_STEP_DRAFT and step.graph:
                raise NoSuchStepError("ATOM captures no graph of a draft model's later passes; leave graph out")
            if step.kind is StepKind.MULTI_STEP_DRAFT and scenario.backends[step.backend].context_parallel > 1:
                raise NoSuchStepError("draft models of context-parallel ranks are not driven; leave context_parallel out")
        return state

    def life(self, running: Process, scenario: Scenario, state: AtomState) -> AtomRun:
        """A scenario in the process that was started for it."""
        return AtomRun(running, scenario, state)


@dataclass(slots=True, eq=False)
class BuiltAtom:
    """A model runner with its builder, its layer and the layer's cache. lists: int32, the indexer's, empty without one."""

    runner: Any
    builder: Any
    layer: Any
    cache: torch.Tensor
    lists: torch.Tensor

    def rows_of_queries(self, count: int, each: int, batch: int) -> Any:
        """cu_seqlens_q as ModelRunner keeps it: what pads a graph has no rows."""
        ends = self.runner.forward_vars["cu_seqlens_q"]
        ends.np[: batch + 1] = np.minimum(np.arange(batch + 1), count) * each
        return ends


class AtomRun(TableRun):
    """One scenario in one process."""

    def __init__(self, running: Process, scenario: Scenario, state: AtomState) -> None:
        super().__init__(running, scenario, state)
        self.modules = {name: importlib.import_module(name) for name in (BUILDER, LAYER)}

    def _class(self, module: str, name: str) -> Any:
        found = getattr(self.modules[module], name)
        if not isinstance(found, type):
            raise CannotRunError(f"{module}: has no class {name}; declare what it misses ({found!r})")
        return found

    def _build(self, at: int) -> BuiltAtom:
        config, state = self.scenario.backends[at], self.state
        with torch.device("cuda"):  # the default while a model is loaded (model_runner.py)
            layer = self._class(LAYER, "MLAAttention")(**state.layer_arguments(config, self._class(LAYER, "MLAModules")))
        layer.W_K, layer.W_K_scale = torch.empty((config.num_head, V_HEAD_DIM, NOPE)), None
        layer.W_V, layer.W_V_scale = torch.empty((config.num_head, NOPE, V_HEAD_DIM)), None
        hold_output(layer, self._held)
        runner: Any = state.runner(config, self.modules[BUILDER].CpuGpuBuffer)
        runner.config.compilation_config.static_forward_context["layer_0"] = Declared("layer_0", impl=layer)
        builder = self._class(BUILDER, "AiterMLAMetadataBuilder")(runner)
        rows = self.tables[at].pages * config.page_size
        cache = torch.empty((rows, 1, QK_HEAD_DIM), dtype=builder.dtype_kv, device="cuda")
        lists = layer.sparse_kv_indices_buffer if state.is_sparse else torch.empty(0, dtype=torch.int32, device="cuda")
        return BuiltAtom(runner, builder, layer, cache, lists)

    def _captured(self, which: int, kind: StepKind, batch: int) -> Any:
        built = self.backends[which]
        for name in ("kv_indptr", "sparse_kv_indptr") if self.state.is_sparse else ("kv_indptr",):
            built.runner.forward_vars[name].gpu.zero_()
        built.rows_of_queries(batch, self._rows_a_request(which, kind), batch).copy_to_gpu(batch + 1)
        metadata, context = built.builder.build_for_cudagraph_capture(batch)
        return metadata, context.positions

    def _scheduled(self, which: int, kv_lens: tuple[int, ...], **fields: Any) -> Declared:
        return scheduled_batch(self.scenario.backends[which], self.tables[which].table(len(kv_lens)), kv_lens, **fields)

    def _planned(self, made: ForwardPass) -> Any:
        which, count, batch = made.which, len(made.kv_lens), len(made.kv_lens) + made.padded
        built, each = self.backends[which], self._rows_a_request(which, made.kind)
        built.rows_of_queries(count, each, batch)
        one = np.array([length < self.state.context for length in made.kv_lens], np.int32)
        rejected = built.runner.tokenID_processor.num_rejected = one if each > 1 and made.at else None
        asked = made.kv_lens if rejected is None else tuple((made.kv_lens + rejected).tolist())
        scheduled = self._scheduled(which, asked, total_seqs_num_decode=count, total_tokens_num_prefill=0)
        metadata = built.builder.build(batch=scheduled, bs=batch)
        self._index(made)
        return metadata

    def _step(self, at: int, step: Step) -> None:
        if step.kind is StepKind.MULTI_STEP_DRAFT:
            self._draft(at, step)
        else:
            super()._step(at, step)

    def _draft(self, at: int, step: Step) -> None:
        """Passes of the draft model behind a verification: the first of all of its rows, then of one row a request."""
        which, each, count = step.backend, self._rows_a_request(step.backend, step.kind), len(step.kv_lens)
        kv_lens = tuple(length + each for length in step.kv_lens)
        self.tables[which].seat(step.requests, tuple(length + each for length in kv_lens), self.scenario.alive(which, at))
        made = ForwardPass(at, which, Phase.EAGER, step.kind, [], kv_lens, (each,) * count)
        metadata, positions = self._planned(made)
        self._pass(made, (metadata, positions))
        drafting = Drafting(self.backends[which], metadata, kv_lens, each)
        for _ in range(each - 2):
            metadata = drafting.next()
            later = ForwardPass(at, which, Phase.EAGER, step.kind, [], drafting.kv_lens, (1,) * count)
            self._index(later)
            self._pass(later, (metadata, drafting.positions))

    def _pass(self, made: ForwardPass, metadata: Any, is_prefill: bool = False) -> None:
        self._forward(made.which, metadata, sum(made.rows), is_prefill)
        made.decodes.extend(self.recorder.taken())
        self._record(made)

    def _prefill(self, at: int, step: Step) -> None:
        """Prompts with keys of all heads, or, of a model with an indexer and longer ones, by lists."""
        which, rows = step.backend, step.query_lens or step.kv_lens
        built, count = self.backends[which], len(rows)
        cached = [length - new for length, new in zip(step.kv_lens, rows, strict=True)]
        self.tables[which].seat(step.requests, step.kv_lens, self.scenario.alive(which, at))
        built.runner.forward_vars["cu_seqlens_q"].np[1 : count + 1] = np.cumsum(rows)
        counts = {"total_seqs_num_prefill": count, "total_tokens_num_prefill": sum(rows), "num_cached_tokens": cached}
        metadata = built.builder.build(batch=self._scheduled(which, step.kv_lens, **counts), bs=count)
        made = ForwardPass(at, which, Phase.EAGER, step.kind, [], step.kv_lens, rows)
        self._index(made)
        self._pass(made, metadata, is_prefill=True)

    def _index(self, made: ForwardPass) -> None:
        """What the indexer writes: the KV rows of each q row's list, end to end."""
        lists = self.backends[made.which].lists
        if self.state.is_sparse:
            slots = self._listed(made, self.tables[made.which].rows).slots
            lists.fill_(UNUSED)
            lists[: slots.size] = torch.from_numpy(slots)

    def _forward(self, which: int, metadata: Any, rows: int, is_prefill: bool = False) -> None:
        built, (planned, positions) = self.backends[which], metadata
        context = Declared("context", is_prefill=is_prefill, is_dummy_run=False)
        caches = {"layer_0": Declared("layer_0", k_cache=built.cache)}
        self.state.forward = Declared("forward_context", attn_metadata=planned, context=context, kv_cache_data=caches)
        q, latent, rope = (
            torch.empty((rows, *shape), dtype=torch.bfloat16, device="cuda") for shape in ((1536,), (V_HEAD_DIM,), (1, ROPE))
        )
        built.layer.forward(q, latent, rope, positions=positions)

    def _record(self, made: ForwardPass) -> None:
        if self.state.is_sparse:
            self._record_lists(made)
        else:
            super()._record(made)
