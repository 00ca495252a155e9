"""Drives vLLM's real `rocm_aiter_mla.py`: AiterMLAMetadataBuilder plans a batch, AiterMLAImpl runs it.

The driver plays the model runner: it owns block table, KV cache and the graph's input buffers. vLLM's own operator
registry (torch.ops.vllm) leads to the implementing functions of the same source. A step is a decode of one row a request, of
`draft_tokens` rows (speculative verification), or a batch of prompts, in which requests of one row are decoded first; the other
kinds of sglang's are not vLLM's.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from backend.aiter.arguments import Int32Array, TargetGpu
from backend.case import NUM_CU, QK_HEAD_DIM, V_HEAD_DIM, DType
from backend.errors import CannotRunError, NoSuchStepError
from backend.real.aiter_ops import AiterSource, Handlers
from backend.real.frameworks.fetch import BackendSource
from backend.real.frameworks.framework_run import FrameworkRun
from backend.real.frameworks.process import CapturedGraph, Process, call_by_name, first_method, process
from backend.real.frameworks.record import Phase, Recording
from backend.real.frameworks.recorder import NotCaptured, NotSelectedError, Truth
from backend.real.frameworks.scenarios import BackendConfig, Scenario, Step, StepKind
from backend.real.frameworks.seats import Seats
from backend.real.frameworks.vllm_objects import QK_NOPE_HEAD_DIM, VllmState
from backend.real.observe import DecodeSeen, words_read
from backend.real.python.modules import Root
from backend.real.python.poison import Declared

KINDS = (StepKind.DECODE, StepKind.TARGET_VERIFY, StepKind.PREFILL)

PROMPTS = "vllm.v1.attention.backends.mla.prefill.aiter_flash_attn"
"""The module, from 0.25 on, whose AiterFlashAttnPrefillBackend runs prompts."""

OLD_OPERATORS = "vllm.attention.ops.rocm_aiter_mla"
"""The module that older releases register the operator of decode in."""

COMMON = ("vllm.v1.attention.backend", "vllm.v1.attention.backends.utils")
"""Modules that define CommonAttentionMetadata, newest first."""


class VllmDriver:
    """Runs scenarios against one source; parsed definitions are kept between them."""

    def __init__(self, source: BackendSource, aiter: AiterSource) -> None:
        self.source = source
        self.aiter = aiter

    def state(self, scenario: Scenario) -> VllmState:
        """What stands for the rest of vLLM; raises NoSuchStepError for a scenario that the file has no part in."""
        return VllmState(scenario)

    def life(self, running: Process, scenario: Scenario, state: VllmState) -> VllmRun:
        """A scenario in the process that was started for it."""
        return VllmRun(running, scenario, state)

    def run(self, scenario: Scenario, handlers: Handlers, environment: Mapping[str, str] | None = None) -> Recording:
        """Run a scenario in a fresh process; `environment`: VLLM_ and AITER_ variables to set."""
        if any(config.kv_heads is not None for config in scenario.backends):
            raise NoSuchStepError("vLLM's MLA backend has no ordinary attention; leave kv_heads out")
        if scenario.flags:
            raise NoSuchStepError("no server argument chooses kernels of vLLM's MLA backends; leave flags out")
        if any(name.startswith("SGLANG_") for name, _ in scenario.environment):
            raise NoSuchStepError("vLLM reads no variable of sglang's; leave environment out")
        if scenario.needed_context > scenario.model_context:
            raise NoSuchStepError("vLLM ends a request with its drafts at the context's end; leave longer ones out")
        if not all(step.kv_lens for step in scenario.steps):
            raise NoSuchStepError("an idle rank of vLLM runs no attention; leave steps without requests out")
        for step in scenario.steps:
            if step.kind not in KINDS:
                raise NoSuchStepError(f"vLLM has no step of the kind {step.kind.value}; allowed: {', '.join(KINDS)}")
        device = TargetGpu(scenario.arch, scenario.num_cu or NUM_CU[scenario.arch])
        state = self.state(scenario)
        wanted = {"VLLM_ROCM_USE_AITER": "1", "VLLM_ROCM_USE_AITER_MLA": "1", **(environment or {})}
        with (
            process(self.source, self.aiter, device, handlers, state.fakes(), wanted, _other_roots()) as running,
            _operators(self.source),
        ):
            return self.life(running, scenario, state).everything()


def _other_roots() -> list[Root]:
    """Packages that vLLM imports and that are not installed: they are asked for, and never decide."""
    return [Root(name, None) for name in ("flashinfer", "vllm_flash_attn", "flash_attn", "amdsmi", "cbor2", "msgspec")]


@contextlib.contextmanager
def _operators(source: BackendSource) -> Iterator[None]:
    """torch.ops.vllm.NAME as vLLM registers it: the function _NAME_impl of vllm/_aiter_ops.py, in older releases the one of
    OLD_OPERATORS, whose name has no rocm_aiter_."""
    is_old = source.tree.index(OLD_OPERATORS) is not None

    class Operators:
        def __getattr__(self, name: str) -> Any:
            if is_old:
                return getattr(importlib.import_module(OLD_OPERATORS), f"{name.removeprefix('rocm_aiter_')}_impl")
            return getattr(importlib.import_module("vllm._aiter_ops"), f"_{name}_impl")

    before = torch.ops.__dict__.get("vllm")
    torch.ops.__dict__["vllm"] = Operators()
    try:
        yield
    finally:
        if before is None:
            del torch.ops.__dict__["vllm"]
        else:
            torch.ops.__dict__["vllm"] = before


@dataclass(slots=True, eq=False)
class VllmGraphInputs:
    """Tensors that graphs of one kind are captured on; replays write into them."""

    query_start_loc: torch.Tensor
    seq_lens: torch.Tensor
    block_table: torch.Tensor
    slot_mapping: torch.Tensor
    graphs: list[CapturedGraph] = field(default_factory=list)


@dataclass(slots=True, eq=False)
class BuiltBackend:
    """A built pair of builder and implementation, with its KV cache. table: KV rows by place in the batch and token."""

    builder: Any
    impl: Any
    layer: Any
    kv_cache: torch.Tensor
    table: np.ndarray[Any, np.dtype[np.int64]]
    seats: Seats

    def seat(self, requests: tuple[int, ...], kv_lens: tuple[int, ...], alive: Collection[int]) -> None:
        """Give numbered requests blocks as far as they reach; what others had is free before. requests: none are numbered where
        it is empty, and the table stays as it is."""
        if not requests:
            return
        self.seats.release(alive)
        self.seats.take(requests, kv_lens)
        for place, request in enumerate(requests):
            slots = self.seats.slots(request)
            self.table[place, : len(slots)] = slots


class _Decompression:
    """kv_b_proj: from rows of kv_lora_rank to `width` elements, those without position and the values of every head."""

    def __init__(self, width: int) -> None:
        self.weight = torch.empty(0, dtype=torch.bfloat16)
        self._width = width

    def __call__(self, rows: torch.Tensor) -> tuple[torch.Tensor, None]:
        return torch.empty((rows.shape[0], self._width), dtype=torch.bfloat16, device="cuda"), None


class VllmRun(FrameworkRun):
    """One scenario in one process. What other files of vLLM's do otherwise is a method of its own."""

    builder_class = "AiterMLAMetadataBuilder"
    impl_class = "AiterMLAImpl"
    backend_class = "AiterMLABackend"
    is_sparse = False

    def __init__(self, running: Process, scenario: Scenario, state: VllmState) -> None:
        super().__init__(running, scenario)
        self.state = state
        self.graphs: dict[tuple[int, StepKind], VllmGraphInputs] = {}

    def _turn_to(self, config: BackendConfig) -> None:
        self.state.config = config

    def _capture_all(self) -> None:
        for which, config in enumerate(self.scenario.backends):
            kinds = dict.fromkeys(s.kind for s in self.scenario.steps if s.backend == which and s.graph)
            for kind in kinds:
                self.state.config = config
                self.graphs[which, kind] = self._inputs(which, config, kind)
                for batch in sorted(set(config.graph_batches), reverse=True):
                    self.recorder.guarded(-1, Phase.CAPTURE, which, kind, self._capture, which, kind, batch)

    def _build(self, at: int) -> BuiltBackend:
        config = self.scenario.backends[at]
        names = self.running.module._names
        self._select(names.get(self.backend_class), config)
        for needed in (self.builder_class, self.impl_class):
            if needed not in names:
                raise CannotRunError(f"{self.running.source.target.filename}: has no class {needed}")
        vllm_config = self.state.vllm_config()
        spec = Declared(
            "kv_cache_spec",
            block_size=config.page_size,
            num_kv_heads=1,
            head_size=QK_HEAD_DIM,
            dtype=self.state.dtype(config.kv_dtype) if config.kv_dtype is DType.BF16 else torch.uint8,
            page_size_bytes=config.page_size * QK_HEAD_DIM * config.kv_dtype.itemsize,
            cache_dtype_str=vllm_config.cache_config.cache_dtype,
        )
        known = {
            "kv_cache_spec": spec,
            "layer_names": ["layer"],
            "vllm_config": vllm_config,
            "device": torch.device("cuda", 0),
        }
        (attention,) = vllm_config.compilation_config.static_forward_context.values()
        if self.running.source.tree.index(PROMPTS) is not None:
            attention.prefill_backend = self._prompts(config, vllm_config)
        if config.context_parallel > 1:
            attention.dcp_manager = self.running.module.MLADCPManager()
        impl = attention.impl = names[self.impl_class](**self._impl_arguments(config))
        builder = call_by_name(names[self.builder_class], known, f"{self.builder_class}.__init__")
        rows, decoded = config.draft_tokens or 1, getattr(builder, "reorder_batch_threshold", None)
        if decoded is not None and rows > decoded:
            raise NoSuchStepError(
                f"{self.builder_class} of this vLLM decodes {decoded} row(s) a request; leave draft_tokens out"
            )
        if config.context_parallel > 1 and not getattr(impl, "can_return_lse_for_decode", False):
            raise NoSuchStepError(
                f"{self.impl_class} of this vLLM serves no context-parallel ranks; leave context_parallel out"
            )
        impl.dcp_world_size = config.context_parallel
        stride = -(-self.state.context // config.page_size) * config.page_size
        rows = max(config.max_requests, config.max_batch)
        blocks = (rows + 1) * stride // config.page_size
        cache = torch.empty((blocks, config.page_size, QK_HEAD_DIM), dtype=self.state.dtype(config.kv_dtype), device="cuda")
        layer = Declared("layer", **self._layer_attributes(config))
        table = stride * (1 + np.arange(rows, dtype=np.int64)[:, None]) + np.arange(stride)
        seats = Seats(config.page_size, list(range(rows)), list(range(1, blocks)))
        return BuiltBackend(builder, impl, layer, cache, table, seats)

    def _layer_attributes(self, config: BackendConfig) -> dict[str, Any]:
        one = torch.ones(1, dtype=torch.float32, device="cuda")
        return {"_q_scale": one, "_k_scale": one, "_v_scale": one, "_q_scale_float": 1.0, "_k_scale_float": 1.0}

    def _select(self, backend: Any, config: BackendConfig) -> None:
        """As vLLM takes a backend that is asked for by name: its class says why it does not serve a configuration."""
        if not hasattr(backend, "validate_configuration"):
            return
        known = {
            "head_size": QK_HEAD_DIM,
            "dtype": torch.bfloat16,
            "kv_cache_dtype": "fp8" if config.kv_dtype is DType.FP8 else "auto",
            "block_size": config.page_size,
            "use_mla": True,
            **dict.fromkeys(("has_sink", "use_mm_prefix", "use_per_head_quant_scales"), False),
            "use_sparse": self.is_sparse,
            "device_capability": self.running.module.current_platform.get_device_capability(),
            "attn_type": "decoder",
            "use_dcp": config.context_parallel > 1,
        }
        reasons = call_by_name(backend.validate_configuration, known, f"{self.backend_class}.validate_configuration")
        if reasons:
            raise NotSelectedError(f"{backend.get_name()} is not valid for this configuration: {', '.join(reasons)}")

    def _prompts(self, config: BackendConfig, vllm_config: Declared) -> Any:
        """vLLM's own backend of prompts: flash_attn_varlen_func of AITER."""
        module = importlib.import_module(PROMPTS)
        return module.AiterFlashAttnPrefillBackend(
            num_heads=config.num_head,
            scale=QK_HEAD_DIM**-0.5,
            kv_lora_rank=V_HEAD_DIM,
            qk_nope_head_dim=QK_NOPE_HEAD_DIM,
            qk_rope_head_dim=QK_HEAD_DIM - V_HEAD_DIM,
            v_head_dim=QK_NOPE_HEAD_DIM,
            vllm_config=vllm_config,
        )

    def _impl_arguments(self, config: BackendConfig) -> dict[str, Any]:
        rope = QK_HEAD_DIM - V_HEAD_DIM
        return {
            "num_heads": config.num_head,
            "head_size": QK_HEAD_DIM,
            "scale": QK_HEAD_DIM**-0.5,
            "num_kv_heads": 1,
            "alibi_slopes": None,
            "sliding_window": None,
            "kv_cache_dtype": "fp8" if config.kv_dtype is DType.FP8 else "auto",
            "logits_soft_cap": None,
            "attn_type": "decoder",
            "kv_sharing_target_layer_name": None,
            "q_lora_rank": 1536,
            "kv_lora_rank": V_HEAD_DIM,
            "qk_nope_head_dim": QK_NOPE_HEAD_DIM,
            "qk_rope_head_dim": rope,
            "qk_head_dim": QK_NOPE_HEAD_DIM + rope,
            "v_head_dim": QK_NOPE_HEAD_DIM,
            "kv_b_proj": _Decompression(config.num_head * 2 * QK_NOPE_HEAD_DIM),
        }

    def _rows_a_request(self, which: int, kind: StepKind) -> int:
        return 1 if kind is StepKind.DECODE else self.scenario.backends[which].draft_tokens or 1

    def _inputs(self, which: int, config: BackendConfig, kind: StepKind) -> VllmGraphInputs:
        rows, each = config.max_batch, self._rows_a_request(which, kind)
        blocks = self.backends[which].table.shape[1] // config.page_size
        return VllmGraphInputs(
            query_start_loc=torch.zeros(rows + 1, dtype=torch.int32, device="cuda"),
            seq_lens=torch.zeros(rows, dtype=torch.int32, device="cuda"),
            block_table=torch.zeros((rows, blocks), dtype=torch.int32, device="cuda"),
            slot_mapping=torch.zeros(rows * each, dtype=torch.int64, device="cuda"),
        )

    def _blocks(self, which: int, count: int) -> torch.Tensor:
        page = self.scenario.backends[which].page_size
        return torch.from_numpy((self.backends[which].table[:count, ::page] // page).astype(np.int32))

    def _step(self, at: int, step: Step) -> None:
        if step.kind is StepKind.PREFILL:
            self._prefill(at, step)
            return
        which, each = step.backend, self._rows_a_request(step.backend, step.kind)
        added = each if step.kind is StepKind.TARGET_VERIFY else 0
        kv_lens = tuple(length + added for length in step.kv_lens)
        self.backends[which].seat(step.requests, kv_lens, self.scenario.alive(which, at))
        if step.graph:
            self._replay(at, which, step.kind, kv_lens, each)
            return
        count = len(kv_lens)
        built = self.backends[which]
        common = self._common(
            query_start_loc=torch.arange(0, count * each + 1, each, dtype=torch.int32).to("cuda"),
            seq_lens=torch.tensor(kv_lens, dtype=torch.int32, device="cuda"),
            block_table=self._blocks(which, count).to("cuda"),
            slot_mapping=torch.zeros(count * each, dtype=torch.int64, device="cuda"),
            each=each,
            longest=max(kv_lens),
            parallel=self.scenario.backends[which].context_parallel,
        )
        metadata = built.builder.build(0, common)
        self._forward(which, metadata, count * each)
        self._record(at, which, Phase.EAGER, step.kind, self.recorder.taken(), kv_lens, (each,) * count, 0)

    def _prefill(self, at: int, step: Step) -> None:
        """Prompts, whole or behind what is cached of them; requests of few rows come first, as vLLM's scheduler orders them."""
        which, built = step.backend, self.backends[step.backend]
        rows = step.query_lens or step.kv_lens
        order = sorted(range(len(rows)), key=lambda place: rows[place])
        rows, kv_lens = tuple(rows[place] for place in order), tuple(step.kv_lens[place] for place in order)
        requests = tuple(step.requests[place] for place in order if step.requests)
        built.seat(requests, kv_lens, self.scenario.alive(which, at))
        common = self._common(
            query_start_loc=torch.tensor(np.cumsum((0, *rows)), dtype=torch.int32).to("cuda"),
            seq_lens=torch.tensor(kv_lens, dtype=torch.int32, device="cuda"),
            block_table=self._blocks(which, len(rows)).to("cuda"),
            slot_mapping=torch.zeros(sum(rows), dtype=torch.int64, device="cuda"),
            each=max(rows),
            longest=max(kv_lens),
        )
        metadata = built.builder.build(0, common)
        decoded = self._absorbed(metadata, len(rows))
        tokens = sum(rows[:decoded])
        if decoded:
            self._forward(which, metadata, tokens)
        if decoded < len(rows):
            self._forward_prompts(which, metadata, sum(rows) - tokens)
        decodes = self.recorder.taken()
        self._record(at, which, Phase.EAGER, step.kind, decodes, kv_lens[:decoded], rows[:decoded], 0)

    def _absorbed(self, metadata: Any, requests: int) -> int:
        """Requests, the first of a batch, that go through the latent cache as decode does; the others' keys are expanded."""
        decodes: int = metadata.num_decodes
        return decodes

    def _forward_prompts(self, which: int, metadata: Any, tokens: int) -> None:
        config, built = self.scenario.backends[which], self.backends[which]

        def rows(*shape: int) -> torch.Tensor:
            return torch.empty((tokens, *shape), dtype=torch.bfloat16, device="cuda")

        rope = QK_HEAD_DIM - V_HEAD_DIM
        known = {
            "q": rows(config.num_head, QK_NOPE_HEAD_DIM + rope),
            "kv_c_normed": rows(V_HEAD_DIM),
            "k_pe": rows(1, rope),
            "kv_c_and_k_pe_cache": built.kv_cache,
            "attn_metadata": metadata,
            "k_scale": built.layer._k_scale,
            "output": rows(config.num_head * QK_NOPE_HEAD_DIM),
        }
        name = first_method(built.impl, ("forward_mha", "_forward_prefill"), self.impl_class)
        call_by_name(getattr(built.impl, name), known, f"{self.impl_class}.{name}")

    def _common(
        self,
        query_start_loc: torch.Tensor,
        seq_lens: torch.Tensor,
        block_table: torch.Tensor,
        slot_mapping: torch.Tensor,
        each: int,
        longest: int,
        parallel: int = 1,
    ) -> Any:
        """The release's own CommonAttentionMetadata, with those of its fields that a batch has. each: rows of the longest."""
        rows = torch.diff(query_start_loc.cpu())
        declared = next(
            found for each in COMMON if isinstance(found := importlib.import_module(each).CommonAttentionMetadata, type)
        )
        known = {
            "query_start_loc": query_start_loc,
            "query_start_loc_cpu": query_start_loc.cpu(),
            "seq_lens": seq_lens,
            "seq_lens_cpu": seq_lens.cpu(),
            "_seq_lens_cpu": seq_lens.cpu(),
            "seq_lens_cpu_upper_bound": seq_lens.cpu(),
            "num_computed_tokens_cpu": seq_lens.cpu() - rows,
            "_num_computed_tokens_cpu": seq_lens.cpu() - rows,
            "dcp_local_seq_lens": seq_lens // parallel,
            "num_reqs": int(seq_lens.shape[0]),
            "num_actual_tokens": int(slot_mapping.shape[0]),
            "max_query_len": each,
            "max_seq_len": longest,
            "block_table_tensor": block_table,
            "slot_mapping": slot_mapping,
            "causal": True,
        }
        names = {f.name for f in dataclasses.fields(declared)}
        return declared(**{name: value for name, value in known.items() if name in names})

    def _forward(self, which: int, metadata: Any, tokens: int) -> None:
        config, built = self.scenario.backends[which], self.backends[which]
        q = self._queries(config, tokens)
        known = {"q": q, "kv_c_and_k_pe_cache": built.kv_cache, "attn_metadata": metadata, "layer": built.layer}
        name = first_method(built.impl, ("forward_mqa", "_forward_decode"), self.impl_class)
        call_by_name(getattr(built.impl, name), known, f"{self.impl_class}.{name}")

    def _queries(self, config: BackendConfig, tokens: int) -> Any:
        """q of a decode, as the layer hands it over."""
        shape = tokens, config.decoded_heads, QK_HEAD_DIM
        return torch.empty(shape, dtype=self.state.dtype(config.q_dtype), device="cuda")

    def _graph_common(self, which: int, kind: StepKind, batch: int, longest: int) -> Any:
        inputs, each = self.graphs[which, kind], self._rows_a_request(which, kind)
        return self._common(
            query_start_loc=inputs.query_start_loc[: batch + 1],
            seq_lens=inputs.seq_lens[:batch],
            block_table=inputs.block_table[:batch],
            slot_mapping=inputs.slot_mapping[: batch * each],
            each=each,
            longest=longest,
            parallel=self.scenario.backends[which].context_parallel,
        )

    def _capture(self, which: int, kind: StepKind, batch: int) -> None:
        inputs, each = self.graphs[which, kind], self._rows_a_request(which, kind)
        inputs.query_start_loc[: batch + 1] = torch.arange(0, batch * each + 1, each, dtype=torch.int32)
        inputs.seq_lens.fill_(each)
        metadata = self.backends[which].builder.build_for_cudagraph_capture(self._graph_common(which, kind, batch, each))
        with self.running.gpu.capture(), self.running.operations.capture() as operations:
            self._forward(which, metadata, batch * each)
        decodes = self.recorder.taken()
        inputs.graphs.append(CapturedGraph(batch, decodes, operations))
        self._record(-1, which, Phase.CAPTURE, kind, decodes, (), (), batch)

    def _replay(self, at: int, which: int, kind: StepKind, kv_lens: tuple[int, ...], each: int) -> None:
        inputs, count = self.graphs[which, kind], len(kv_lens)
        fitting = [graph for graph in inputs.graphs if graph.batch >= count]
        if not fitting:
            raise NotCaptured("no graph takes this batch: its capture failed")
        graph = min(fitting, key=lambda g: g.batch)
        inputs.query_start_loc[: count + 1] = torch.arange(0, count * each + 1, each, dtype=torch.int32)
        inputs.query_start_loc[count + 1 :] = count * each
        inputs.seq_lens[:count] = torch.tensor(kv_lens, dtype=torch.int32)
        inputs.seq_lens[count:] = 0
        inputs.block_table[:count] = self._blocks(which, count)
        self.backends[which].builder.build(0, self._graph_common(which, kind, graph.batch, max(kv_lens, default=0)))
        for operation in graph.operations:
            self.running.operations.replay(operation)
        self._record(at, which, Phase.REPLAY, kind, graph.decodes, kv_lens, (each,) * count, graph.batch - count)

    def _record(
        self,
        at: int,
        which: int,
        phase: Phase,
        kind: StepKind,
        decodes: list[DecodeSeen],
        kv_lens: tuple[int, ...],
        rows: tuple[int, ...],
        padded: int,
    ) -> None:
        """vLLM pads with empty requests; what the backend makes of one is read off the call (nothing, or its q rows)."""
        kv_lens = self.scenario.backends[which].held(kv_lens)
        slots = self._slots(which, kv_lens)

        def truth(call: int) -> Truth:
            ends = words_read(decodes[call].call.arguments["kv_indptr"])
            fill = int(ends[-1] - ends[-2]) if padded and ends.size > 1 else 0
            return Truth(kind, kv_lens, rows, padded, fill, slots)

        self.recorder.record(at, which, phase, kind, decodes, truth)

    def _slots(self, which: int, kv_lens: tuple[int, ...]) -> Int32Array:
        parts = [self.backends[which].table[row, :length] for row, length in enumerate(kv_lens)]
        return np.concatenate(parts).astype(np.int32) if parts else np.empty(0, np.int32)
