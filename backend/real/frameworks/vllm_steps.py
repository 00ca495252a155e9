"""What every attention backend of vLLM's is driven through: its builder is handed the release's own description of a batch.

vLLM's own operator registry (torch.ops.vllm) leads to the implementing functions of the same source. A step is a decode of one
row a request, of `draft_tokens` rows (speculative verification), or a batch of prompts, in which requests of few rows come
first; the other kinds of sglang's are not vLLM's.
"""

from __future__ import annotations

import abc
import contextlib
import dataclasses
import importlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch

from backend.errors import CannotRunError, NoSuchStepError
from backend.real.frameworks.cache_arguments import NOWHERE
from backend.real.frameworks.fetch import BackendSource
from backend.real.frameworks.framework_run import ForwardPass
from backend.real.frameworks.process import Process, call_by_name
from backend.real.frameworks.record import Phase
from backend.real.frameworks.recorder import NotSelectedError
from backend.real.frameworks.scenarios import BackendConfig, Scenario, Step, StepKind
from backend.real.frameworks.table_run import TableDriver, TableRun
from backend.real.frameworks.vllm_objects import VllmState

OLD_OPERATORS = "vllm.attention.ops.rocm_aiter_mla"
"""The module that older releases register the operator of decode in."""

COMMON = ("vllm.v1.attention.backend", "vllm.v1.attention.backends.utils")
"""Modules that define CommonAttentionMetadata, newest first."""


class VllmFileDriver(TableDriver):
    """Runs scenarios against one source, of any of vLLM's files."""

    name = "vLLM"
    others = ("flashinfer", "vllm_flash_attn", "flash_attn", "amdsmi", "cbor2", "msgspec")
    prefixes = ("VLLM_",)
    takes_flags = False

    def around(self) -> contextlib.AbstractContextManager[None]:
        """With the operators that vLLM registers."""
        return _operators(self.source)

    def _check(self, scenario: Scenario) -> None:
        super()._check(scenario)
        if scenario.flags and not self.takes_flags:
            raise NoSuchStepError("no server argument chooses kernels of vLLM's backends; leave flags out")


class _Operators:
    """A namespace of torch.ops whose operators are found by name."""

    def __init__(self, find: Callable[[str], Any]) -> None:
        self._find = find

    def __getattr__(self, name: str) -> Any:
        return self._find(name)


@contextlib.contextmanager
def _operators(source: BackendSource) -> Iterator[None]:
    """torch.ops.vllm.NAME as vLLM registers it: the function _NAME_impl of vllm/_aiter_ops.py, in older releases the one of
    OLD_OPERATORS, whose name has no rocm_aiter_. AITER's are functions of its package, of the cache what stands for them."""
    is_old = source.tree.index(OLD_OPERATORS) is not None

    def registered(name: str) -> Any:
        if is_old:
            return getattr(importlib.import_module(OLD_OPERATORS), f"{name.removeprefix('rocm_aiter_')}_impl")
        return getattr(importlib.import_module("vllm._aiter_ops"), f"_{name}_impl")

    spaces = {
        "vllm": registered,
        "aiter": lambda name: getattr(importlib.import_module("aiter"), name),
        "_C_cache_ops": lambda name: getattr(importlib.import_module("vllm._C_cache_ops"), name),
    }
    before = {name: torch.ops.__dict__[name] for name in spaces if name in torch.ops.__dict__}
    torch.ops.__dict__.update({name: _Operators(find) for name, find in spaces.items()})
    try:
        yield
    finally:
        for name in spaces:
            del torch.ops.__dict__[name]
        torch.ops.__dict__.update(before)


@dataclass(slots=True, eq=False)
class VllmBatch:
    """Tensors of a batch: a forward pass' own, or those that graphs of one kind are captured on; replays write into them."""

    query_start_loc: torch.Tensor
    seq_lens: torch.Tensor
    block_table: torch.Tensor
    slot_mapping: torch.Tensor

    def first(self, requests: int, rows: int) -> VllmBatch:
        """Those of the first requests."""
        parts = self.query_start_loc[: requests + 1], self.seq_lens[:requests], self.block_table[:requests]
        return VllmBatch(*parts, self.slot_mapping[:rows])


@dataclass(slots=True, eq=False)
class BuiltBackend:
    """A built pair of builder and implementation, with the layer and its KV cache."""

    builder: Any
    impl: Any
    layer: Any
    kv_cache: torch.Tensor


class VllmFileRun(TableRun):
    """One scenario in one process. What one of vLLM's files does otherwise is a method of its own."""

    builder_class: ClassVar[str]
    impl_class: ClassVar[str]
    backend_class: ClassVar[str]

    def __init__(self, running: Process, scenario: Scenario, state: VllmState) -> None:
        super().__init__(running, scenario, state)
        self.inputs: dict[tuple[int, StepKind], VllmBatch] = {}

    @abc.abstractmethod
    def _forward_all(self, which: int, metadata: Any, rows: tuple[int, ...]) -> int:
        """The layer's attention to a batch of prompts; gives how many requests, the first of it, are decoded."""

    def _named(self, name: str) -> Any:
        names = self.running.module._names
        if name not in names:
            raise CannotRunError(f"{self.running.source.target.filename}: has no class {name}")
        return names[name]

    def _select(self, backend: Any, known: dict[str, Any]) -> None:
        """As vLLM takes a backend that is asked for by name: its class says why it does not serve a configuration."""
        if not hasattr(backend, "validate_configuration"):
            return
        platform = self.running.module.current_platform
        known = {
            "dtype": torch.bfloat16,
            "kv_cache_dtype": self.state.cache_dtype,
            "block_size": self.state.config.page_size,
            **dict.fromkeys(("has_sink", "use_mm_prefix", "use_per_head_quant_scales", "use_sparse"), False),
            "device_capability": platform.get_device_capability(),
            "attn_type": "decoder",
            "use_dcp": self.state.config.context_parallel > 1,
            **known,
        }
        reasons = call_by_name(backend.validate_configuration, known, f"{self.backend_class}.validate_configuration")
        if reasons:
            raise NotSelectedError(f"{backend.get_name()} is not valid for this configuration: {', '.join(reasons)}")

    def _builder(self, spec: Any, vllm_config: Any) -> Any:
        known = {
            "kv_cache_spec": spec,
            "layer_names": ["layer"],
            "vllm_config": vllm_config,
            "device": torch.device("cuda", 0),
        }
        builder = call_by_name(self._named(self.builder_class), known, f"{self.builder_class}.__init__")
        rows, decoded = self.state.config.draft_tokens or 1, getattr(builder, "reorder_batch_threshold", None)
        if decoded is not None and rows > decoded:
            raise NoSuchStepError(
                f"{self.builder_class} of this vLLM decodes {decoded} row(s) a request; leave draft_tokens out"
            )
        return builder

    def _captured(self, which: int, kind: StepKind, batch: int) -> Any:
        config, each = self.scenario.backends[which], self._rows_a_request(which, kind)
        inputs = self.inputs.get((which, kind)) or self.inputs.setdefault((which, kind), self._inputs(which, config, each))
        inputs.query_start_loc[: batch + 1] = torch.arange(0, batch * each + 1, each, dtype=torch.int32)
        inputs.seq_lens.fill_(each)
        common = self._common(which, inputs.first(batch, batch * each), each, self.state.context)
        return self.backends[which].builder.build_for_cudagraph_capture(common)

    def _inputs(self, which: int, config: BackendConfig, each: int) -> VllmBatch:
        rows, pages = config.max_batch, self.tables[which].table(0).shape[1]
        return VllmBatch(
            query_start_loc=torch.zeros(rows + 1, dtype=torch.int32, device="cuda"),
            seq_lens=torch.zeros(rows, dtype=torch.int32, device="cuda"),
            block_table=torch.zeros((rows, pages), dtype=torch.int32, device="cuda"),
            slot_mapping=torch.zeros(rows * each, dtype=torch.int64, device="cuda"),
        )

    def _planned(self, made: ForwardPass) -> Any:
        which, count = made.which, len(made.kv_lens)
        each = self._rows_a_request(which, made.kind)
        if made.phase is Phase.EAGER:
            batch = self._batch(which, made.kv_lens, made.rows)
        else:
            inputs, padded = self.inputs[which, made.kind], count + made.padded
            inputs.query_start_loc[: count + 1] = torch.arange(0, count * each + 1, each, dtype=torch.int32)
            inputs.query_start_loc[count + 1 :] = count * each
            inputs.seq_lens[:count] = torch.tensor(made.kv_lens, dtype=torch.int32)
            inputs.seq_lens[count:] = 0
            inputs.block_table[:count] = torch.from_numpy(self.tables[which].table(count))
            inputs.slot_mapping[: count * each] = torch.from_numpy(self.tables[which].new(made.kv_lens, made.rows))
            inputs.slot_mapping[count * each :] = NOWHERE
            batch = inputs.first(padded, padded * each)
        return self.backends[which].builder.build(0, self._common(which, batch, each, max(made.kv_lens)))

    def _prefill(self, at: int, step: Step) -> None:
        """Prompts behind what is cached of them, then whole ones; requests of few rows come first, as vLLM orders them."""
        which, rows = step.backend, step.query_lens or step.kv_lens
        few = getattr(self.backends[which].builder, "reorder_batch_threshold", None) or 1
        whole = [new == length for new, length in zip(rows, step.kv_lens, strict=True)]
        order = sorted(range(len(rows)), key=lambda place: (rows[place] > few, whole[place], rows[place]))
        rows, kv_lens = tuple(rows[place] for place in order), tuple(step.kv_lens[place] for place in order)
        requests = tuple(step.requests[place] for place in order if step.requests)
        self.tables[which].seat(requests, kv_lens, self.scenario.alive(which, at))
        common = self._common(which, self._batch(which, kv_lens, rows), max(rows), max(kv_lens))
        decoded = self._forward_all(which, self.backends[which].builder.build(0, common), rows)
        decodes = self.recorder.taken()
        self._record(ForwardPass(at, which, Phase.EAGER, step.kind, decodes, kv_lens[:decoded], rows[:decoded]))

    def _batch(self, which: int, kv_lens: tuple[int, ...], rows: tuple[int, ...]) -> VllmBatch:
        return VllmBatch(
            query_start_loc=torch.tensor(np.cumsum((0, *rows)), dtype=torch.int32).to("cuda"),
            seq_lens=torch.tensor(kv_lens, dtype=torch.int32, device="cuda"),
            block_table=torch.from_numpy(self.tables[which].table(len(rows))).to("cuda"),
            slot_mapping=torch.from_numpy(self.tables[which].new(kv_lens, rows)).to("cuda"),
        )

    def _common(self, which: int, batch: VllmBatch, each: int, longest: int) -> Any:
        """The release's own CommonAttentionMetadata, with those of its fields that a batch has. each: rows of the longest."""
        seq_lens, ends = batch.seq_lens.cpu(), batch.query_start_loc.cpu()
        declared = next(
            found for name in COMMON if isinstance(found := importlib.import_module(name).CommonAttentionMetadata, type)
        )
        known = {
            "query_start_loc": batch.query_start_loc,
            "query_start_loc_cpu": ends,
            "seq_lens": batch.seq_lens,
            "seq_lens_cpu": seq_lens,
            "_seq_lens_cpu": seq_lens.clone(),
            "seq_lens_cpu_upper_bound": seq_lens.clone(),
            "num_computed_tokens_cpu": seq_lens - torch.diff(ends),
            "_num_computed_tokens_cpu": seq_lens - torch.diff(ends),
            "dcp_local_seq_lens": batch.seq_lens // self.scenario.backends[which].context_parallel,
            "num_reqs": int(batch.seq_lens.shape[0]),
            "num_actual_tokens": int(batch.slot_mapping.shape[0]),
            "max_query_len": each,
            "max_seq_len": longest,
            "block_table_tensor": batch.block_table,
            "slot_mapping": batch.slot_mapping,
            "causal": True,
        }
        names = {f.name for f in dataclasses.fields(declared)}
        return declared(**{name: value for name, value in known.items() if name in names})
