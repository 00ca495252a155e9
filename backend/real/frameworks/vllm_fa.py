"""Drives vLLM's real `rocm_aiter_fa.py`, its backend of ordinary attention (MHA, GQA): AiterFlashAttentionMetadataBuilder plans
a batch, AiterFlashAttentionImpl runs it.

Of its kernels those of Triton in the file itself run here; AITER's calls are judged by their arguments. Before a forward pass
the rows of its tokens are written in each way that the file has. A step is one of vLLM's, or the draft model's decodes of one
row a request, one after the other.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any, ClassVar

import torch

from backend.case import Arch, DType
from backend.errors import CannotRunError, NoSuchStepError
from backend.real.frameworks.framework_run import ForwardPass
from backend.real.frameworks.process import Process, call_by_name
from backend.real.frameworks.record import Phase
from backend.real.frameworks.scenarios import BackendConfig, Scenario, Step, StepKind
from backend.real.frameworks.vllm_objects import Attention, OrdinaryState, VllmState
from backend.real.frameworks.vllm_steps import BuiltBackend, VllmFileDriver, VllmFileRun

PAGE = 16
"""Tokens of a page, or a divisor: AiterFlashAttentionBackend.get_supported_kernel_block_sizes of 0.33.0."""


class VllmFaDriver(VllmFileDriver):
    """Runs scenarios against one source; parsed definitions are kept between them."""

    environment: ClassVar[Mapping[str, str]] = {"VLLM_ROCM_USE_AITER": "1", "VLLM_ROCM_USE_AITER_MHA": "1"}
    kinds = (*VllmFileDriver.kinds, StepKind.MULTI_STEP_DRAFT)
    is_ordinary = True
    takes_flags = True

    def state(self, scenario: Scenario) -> VllmState:
        """What stands for the rest of vLLM; raises NoSuchStepError for a scenario that the file has no part in."""
        if any(config.context_parallel > 1 for config in scenario.backends):
            raise NoSuchStepError("context-parallel ranks of ordinary attention are not driven; leave context_parallel out")
        if any(config.page_size % PAGE for config in scenario.backends):
            raise NoSuchStepError(f"vLLM gives this backend pages of {PAGE} tokens or a multiple; give such a page_size")
        if any(step.graph and step.kind is StepKind.MULTI_STEP_DRAFT for step in scenario.steps):
            raise NoSuchStepError("graphs of a draft model of vLLM's are not driven; leave graph out")
        if scenario.arch is Arch.GFX942 and any(config.kv_dtype is DType.FP8 for config in scenario.backends):
            raise CannotRunError(
                "the file's kernels over an fp8 cache of gfx942 do not run: Triton's interpreter has no float8_e4m3fnuz; "
                "give --arch gfx950, or a bf16 cache"
            )
        return OrdinaryState(scenario)

    def life(self, running: Process, scenario: Scenario, state: VllmState) -> VllmFileRun:
        """A scenario in the process that was started for it."""
        return OrdinaryRun(running, scenario, state)


class OrdinaryRun(VllmFileRun):
    """One scenario in one process."""

    builder_class = "AiterFlashAttentionMetadataBuilder"
    impl_class = "AiterFlashAttentionImpl"
    backend_class = "AiterFlashAttentionBackend"

    def _build(self, at: int) -> BuiltBackend:
        config, state, backend = self.scenario.backends[at], self.state, self._named(self.backend_class)
        chosen = {"head_size": config.head_dim, "use_mla": False, "has_sliding_window": state.window is not None}
        self._select(backend, chosen)
        spec = self._spec(config, backend)
        cache = self._cache(at, config, backend, spec)
        impl = call_by_name(self._named(self.impl_class), self._impl_arguments(config), f"{self.impl_class}.__init__")
        scales: dict[str, Any] = dict.fromkeys(("_q_scale", "_k_scale", "_v_scale"), torch.ones(1, device="cuda"))
        scales |= dict.fromkeys(("_k_scale_cpu", "_v_scale_cpu"), torch.ones(1))
        scales |= dict.fromkeys(("_k_scale_float", "_v_scale_float"), 1.0)
        unshared: dict[str, Any] = {"kv_sharing_target_layer_name": None, "kv_cache_update_bypass": False}
        layer = Attention("layer", [], layer_name="layer", impl=impl, kv_cache=cache, **scales, **unshared)
        vllm_config = state.vllm_config()
        vllm_config.compilation_config.static_forward_context = {"layer": layer}
        return BuiltBackend(self._builder(spec, vllm_config), impl, layer, cache)

    def _spec(self, config: BackendConfig, backend: Any) -> Any:
        """The release's own description of the layer's KV cache, as the backend wants it."""
        known = {
            "block_size": config.page_size,
            "num_kv_heads": config.kv_heads,
            "head_size": config.head_dim,
            "dtype": torch.uint8 if config.kv_dtype is DType.FP8 else torch.bfloat16,
            **dict.fromkeys(("use_mla", "is_draft"), False),
        }
        spec = call_by_name(importlib.import_module("vllm.v1.kv_cache_interface").FullAttentionSpec, known, "FullAttentionSpec")
        return backend.customize_spec(spec) if hasattr(backend, "customize_spec") else spec

    def _cache(self, at: int, config: BackendConfig, backend: Any, spec: Any) -> torch.Tensor:
        """The cache as the backend gives its shape, or [blocks, head slots, tokens, content] in memory as it prefers."""
        pages = self.tables[at].pages
        if hasattr(backend, "get_kv_cache_shape"):
            shape = backend.get_kv_cache_shape(pages, config.page_size, config.kv_heads, config.head_dim)
            return torch.empty(shape, dtype=spec.dtype, device="cuda")
        order = backend.supported_kv_cache_layouts()[0].name.replace("L", "")
        content = spec.state_content_size_bytes // spec.dtype.itemsize
        sizes = {"B": pages, "H": spec.num_heads, "N": config.page_size, "C": content}
        made = torch.empty([sizes[each] for each in order], dtype=spec.dtype, device="cuda")
        return made.permute([order.index(each) for each in "BHNC"])

    def _impl_arguments(self, config: BackendConfig) -> dict[str, Any]:
        return {
            "num_heads": config.num_head,
            "head_size": config.head_dim,
            "scale": config.head_dim**-0.5,
            "num_kv_heads": config.kv_heads,
            "alibi_slopes": None,
            "sliding_window": self.state.window,
            "kv_cache_dtype": self.state.cache_dtype,
        }

    def _step(self, at: int, step: Step) -> None:
        if step.kind is StepKind.MULTI_STEP_DRAFT:
            self._draft(at, step)
        else:
            super()._step(at, step)

    def _draft(self, at: int, step: Step) -> None:
        """Decodes of a draft model, each with one token more, planned without a look at lengths on the CPU."""
        which, rows = step.backend, (1,) * len(step.kv_lens)
        builder, drafts = self.backends[which].builder, self.scenario.backends[which].draft_tokens or 1
        reach = tuple(length + drafts for length in step.kv_lens)
        self.tables[which].seat(step.requests, reach, self.scenario.alive(which, at))
        for ahead in range(1, drafts):
            kv_lens = tuple(length + ahead for length in step.kv_lens)
            common = self._common(which, self._batch(which, kv_lens, rows), 1, max(kv_lens))
            self._forward(which, builder.build_for_drafting(common, draft_index=ahead), len(rows))
        self._record(ForwardPass(at, which, Phase.EAGER, step.kind, self.recorder.taken(), step.kv_lens, rows))

    def _forward(self, which: int, metadata: Any, rows: int) -> None:
        config, built = self.scenario.backends[which], self.backends[which]
        keys = built.impl.num_kv_heads
        q, k, v, out = (
            torch.empty((rows, heads, config.head_dim), dtype=torch.bfloat16, device="cuda")
            for heads in (config.num_head, keys, keys, config.num_head)
        )
        known = {
            "layer": built.layer,
            "query": q,
            "key": k,
            "value": v,
            "kv_cache": built.kv_cache,
            "attn_metadata": metadata,
            "output": out,
        }
        self._store(built.impl, known, metadata.slot_mapping)
        call_by_name(built.impl.forward, known, f"{self.impl_class}.forward")

    def _store(self, impl: Any, known: dict[str, Any], slots: torch.Tensor) -> None:
        """Keys and values of a pass into the cache: by the file's own method where it has one, then by those that a compiled
        model fuses with what comes before it."""
        query, key, rows = known["query"], known["key"], known["query"].shape[0]
        angles = torch.empty((self.state.context, query.shape[2]), dtype=torch.bfloat16, device="cuda")
        more = {
            **known,
            "slot_mapping": slots,
            "layer_slot_mapping": slots,
            "positions": torch.zeros(rows, dtype=torch.int64, device="cuda"),
            "cos_sin_cache": angles,
            "is_neox": True,
            "qkv": torch.empty((rows, query.shape[1] + 2 * key.shape[1], query.shape[2]), dtype=query.dtype, device="cuda"),
            "q_out": query,
            "k_out": key,
            **dict.fromkeys(("q_weight", "k_weight"), angles[0]),
            "rms_norm_eps": 1e-6,
        }
        for name, asked in WAYS.items():
            if hasattr(impl, name) and (asked is None or getattr(impl, asked)()):
                call_by_name(getattr(impl, name), more, f"{self.impl_class}.{name}")

    def _forward_all(self, which: int, metadata: Any, rows: tuple[int, ...]) -> int:
        self._forward(which, metadata, sum(rows))
        return 0


WAYS = {
    "do_kv_cache_update": None,
    "do_rope_and_kv_cache_update": "fused_rope_kvcache_supported",
    "do_qk_norm_rope_kvcache_update": "fused_qk_norm_rope_kvcache_supported",
}
"""Methods that write the KV cache, by what says that they may be called."""
