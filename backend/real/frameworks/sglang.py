"""Drives sglang's real `aiter_backend.py`: builds AiterAttnBackend, has it make forward passes, captures and replays graphs.

Here it plays the graph runner too, which owns the graphs' input buffers. Everything that decides is the file's own code; names
that differ between releases are looked up (`call_by_name`, `first_method`), never guessed by version.
"""

from __future__ import annotations

from typing import Any

import torch

from backend.errors import CannotRunError, NoSuchStepError
from backend.real.frameworks.framework_run import FrameworkDriver, smallest
from backend.real.frameworks.process import CapturedGraph, Process, call_by_name, first_method
from backend.real.frameworks.record import Phase
from backend.real.frameworks.recorder import NotCaptured
from backend.real.frameworks.scenarios import BackendConfig, Scenario, Step, StepKind
from backend.real.frameworks.sglang_forward import SglangForward
from backend.real.frameworks.sglang_objects import Batch, ForwardTensors, SglangGraphInputs, SglangState


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


class SglangRun(SglangForward):
    """One scenario in one process."""

    draft_class = "AiterMultiStepDraftBackend"

    def __init__(self, running: Process, scenario: Scenario, state: SglangState) -> None:
        super().__init__(running, scenario, state)
        self.graphs: dict[tuple[int, StepKind], SglangGraphInputs] = {}

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

    def _step(self, at: int, step: Step) -> None:
        batch = self._batch(at, step)
        if step.graph:
            self._replay(at, step.backend, batch)
        else:
            self._eager(at, step.backend, batch)

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
