"""The child of device `rocm`: the real aiter, by its public calls alone, on the tensors that the backend would hand it.

Started as `python -m backend.devices.gpu.rocm_worker [--cpu]`. Where tensors lie is said before each launch, those that
mla_decode_fwd allocates itself included: aiter's stage-1 op is wrapped, which is also where ranks meet. `--cpu` runs the same
on CPU tensors with whatever package is called aiter, for tests.
"""

from __future__ import annotations

import inspect
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch

from backend.aiter.arguments import INDEX_TENSORS, DecodeArguments
from backend.case import Arch, DType, OutputType
from backend.child.messages import Payload
from backend.child.process_end import EndKind, failure_of
from backend.child.serve import Reporter, serve
from backend.child.supervisor import RANK_VARIABLE
from backend.codec import from_plain
from backend.decision import Decision
from backend.devices.gpu.numbers import BF16_P, FP8_P, Outputs
from backend.devices.gpu.values import KV_STREAM, QUERY_STREAM, RAW_TYPE, fill, is_fnuz
from backend.words import number_of

STAGE_1_OP = "mla_decode_stage1_asm_fwd"

BUFFERS = ("work_metadata_ptrs", "work_indptr", "work_info_set", "reduce_indptr", "reduce_final_map", "reduce_partial_map")
"""In the order in which get_mla_metadata_info_v1 returns their shapes."""

SYNONYMS = {
    "work_info": "work_info_set",  # release 2025-11
    "work_meta_data": "work_metadata_ptrs",  # mla_decode_fwd
}
"""Parameters of aiter under a name of ours."""


def arguments_for(function: Callable[..., Any], values: Mapping[str, Any], neutral: Mapping[str, Any]) -> dict[str, Any]:
    """The values by the parameter names of `function`, in its order, which differs between releases.

    neutral: values of which a release without the parameter behaves as if it were given. Raises TypeError for any other value
    that the function has no parameter for, and for a parameter without a value or default.
    """
    found = {}
    for name, parameter in inspect.signature(function).parameters.items():
        ours = SYNONYMS.get(name, name)
        if ours in values:
            found[name] = values[ours]
        elif parameter.default is inspect.Parameter.empty and parameter.kind is parameter.POSITIONAL_OR_KEYWORD:
            raise TypeError(f"{function.__name__} of the installed aiter wants {name!r}, which is not known here")
    taken = {SYNONYMS.get(name, name) for name in found}
    for name in [name for name in values if name not in taken]:
        value = values[name]
        if not (name in neutral and (neutral[name] is value or neutral[name] == value)):
            raise TypeError(f"{function.__name__} of the installed aiter has no argument {name!r} (here {value!r:.60})")
    return found


def call_with(function: Callable[..., Any], values: Mapping[str, Any], neutral: Mapping[str, Any]) -> Any:
    """Calls it the way that serving code does: required arguments by position, since a compiled op may name them otherwise."""
    named = arguments_for(function, values, neutral)
    parameters = inspect.signature(function).parameters
    required = [named.pop(name) for name in list(named) if parameters[name].default is inspect.Parameter.empty]
    return function(*required, **named)


class RocmWorker:
    """Runs decisions through aiter on the rank's GPU."""

    def __init__(self, cpu: bool) -> None:
        import aiter

        self._aiter = aiter
        self._cpu = cpu
        self._device = torch.device("cpu")
        if cpu:
            return
        if not torch.cuda.is_available() or torch.version.hip is None:
            raise RuntimeError("no AMD GPU: this torch has no HIP device")
        rank = int(os.environ.get(RANK_VARIABLE, "0"))
        self._device = torch.device("cuda", rank % torch.cuda.device_count())
        torch.cuda.set_device(self._device)

    def facts(self) -> Mapping[str, Any]:
        """Says the device and the versions."""
        facts = {
            "hardware": not self._cpu,
            "device": "CPU, a stand-in for aiter",
            "torch": torch.__version__,
            "aiter": getattr(self._aiter, "__version__", "of unknown version"),
        }
        if not self._cpu:
            properties = torch.cuda.get_device_properties(self._device)
            facts |= {
                "device": f"{properties.name} {properties.gcnArchName}",
                "arch": properties.gcnArchName.partition(":")[0],
                "num_cu": properties.multi_processor_count,
                "rocm": torch.version.hip,
                "visible": os.environ.get("HIP_VISIBLE_DEVICES", "all"),
            }
        return facts

    def run(self, payload: Payload, reporter: Reporter) -> Mapping[str, Any]:
        """One decision: sizing, planning, decode, numbers."""
        decision = from_plain(Decision, payload["decision"])
        notes = self._fits(decision)
        batch = _Batch(decision, self._device, int(payload["seed"]))
        tensors = batch.tensors
        reporter.ranges([_range(name, tensor) for name, tensor in tensors.items()])
        launched: list[float] = []
        if decision.sizing is not None and decision.planning is not None:
            buffers = self._buffers(decision)
            reporter.ranges([_range(name, tensor) for name, tensor in (tensors | buffers).items()])
            self._plan(decision, batch, buffers)
            self._synchronize()
        else:
            buffers = {}

        def before_launch(seen: Mapping[str, torch.Tensor]) -> None:
            reporter.ranges([_range(name, tensor) for name, tensor in (tensors | buffers | dict(seen)).items()])
            self._synchronize()
            reporter.meet()
            launched.append(time.monotonic())

        with self._stage1_seen(before_launch):
            self._decode(decision, batch, buffers)
        self._synchronize()
        return {"numbers": batch.comparison(), "launched_at": launched[0] if launched else time.monotonic(), "notes": notes}

    def failure(self, error: Exception) -> EndKind:
        """By the message, which is the runtime's."""
        return failure_of(str(error))

    def _fits(self, decision: Decision) -> list[str]:
        """Notes on what this GPU is not; raises where the case asks for another architecture."""
        case, facts = decision.case, self.facts()
        arch, num_cu = facts.get("arch", case.arch), facts.get("num_cu", case.compute_units)
        if arch != case.arch:
            raise RuntimeError(f"the case asks for {case.arch}, this GPU is {arch}")
        if decision.topk:
            raise RuntimeError("the case asks for lists of tokens (topk), which this device has no reference for")
        if decision.decode.o_dtype is not OutputType.BF16:
            raise RuntimeError(f"the case asks for o in {decision.decode.o_dtype}, this device hands over bf16")
        if num_cu != case.compute_units:
            return [
                f"planned by aiter for this GPU's {number_of(num_cu, 'compute unit')}, not for the case's {case.compute_units}"
            ]
        return []

    def _dtype(self, dtype: DType) -> torch.dtype:
        found: torch.dtype = self._aiter.dtypes.fp8 if dtype is DType.FP8 else torch.bfloat16
        return found

    def _buffers(self, decision: Decision) -> dict[str, torch.Tensor]:
        sizing = decision.sizing
        assert sizing is not None
        values = {
            "batch_size": sizing.batch,
            "max_seqlen_qo": sizing.max_seqlen_q,
            "num_head_qo": sizing.num_head,
            "q_dtype": self._dtype(sizing.q_dtype),
            "kv_dtype": self._dtype(sizing.kv_dtype),
            "is_sparse": sizing.is_sparse,
            "fast_mode": sizing.fast_mode,
            "intra_batch_mode": sizing.intra_batch_mode,
        }
        if sizing.num_kv_splits is not None:
            values["num_kv_splits"] = sizing.num_kv_splits
        neutral = {"intra_batch_mode": False, "num_kv_splits": sizing.num_kv_splits}
        shapes = call_with(self._aiter.get_mla_metadata_info_v1, values, neutral)
        return {
            name: torch.empty(shape, dtype=dtype, device=self._device)
            for name, (shape, dtype) in zip(BUFFERS, shapes, strict=True)
        }

    def _plan(self, decision: Decision, batch: _Batch, buffers: Mapping[str, torch.Tensor]) -> None:
        planning = decision.planning
        assert planning is not None
        values = {
            "seqlens_qo_indptr": batch.tensors["qo_indptr"],
            "seqlens_kv_indptr": batch.tensors["kv_indptr"],
            "kv_last_page_lens": batch.tensors["kv_last_page_lens"],
            "num_heads_per_head_k": planning.num_heads_per_head_k,
            "num_heads_k": planning.num_heads_k,
            "is_causal": planning.is_causal,
            **buffers,
            "page_size": planning.page_size,
            "kv_granularity": planning.kv_granularity,
            "max_seqlen_qo": planning.max_seqlen_qo,
            "uni_seqlen_qo": planning.uni_seqlen_qo,
            "fast_mode": planning.fast_mode,
            "topk": planning.topk,
            "max_split_per_batch": planning.max_split_per_batch,
            "intra_batch_mode": planning.intra_batch_mode,
            "dtype_q": self._dtype(planning.q_dtype),
            "dtype_kv": self._dtype(planning.kv_dtype),
            **({"is_cp_round_robin": True} if planning.is_cp_round_robin else {}),
        }
        # 2025-11 asks for neither: its planner looks at no page size, no page length and no dtype.
        neutral = {name: values[name] for name in ("kv_last_page_lens", "dtype_q", "dtype_kv")}
        call_with(self._aiter.get_mla_metadata_v1, values, {**neutral, "page_size": 1, "intra_batch_mode": False})

    def _decode(self, decision: Decision, batch: _Batch, buffers: Mapping[str, torch.Tensor]) -> None:
        decode, tensors = decision.decode, batch.tensors
        one = torch.ones(1, dtype=torch.float32, device=self._device)
        values: dict[str, Any] = {
            "q": tensors["q"].view(self._dtype(decode.q_dtype)),
            "kv_buffer": tensors["kv_buffer"].view(self._dtype(decode.kv_dtype)),
            "o": tensors["o"].view(torch.bfloat16),
            **{name: tensors[name] for name in INDEX_TENSORS},
            "max_seqlen_q": decode.max_seqlen_q,
            "page_size": decode.page_size,
            "num_kv_splits": decode.num_kv_splits,
            **({} if decode.sm_scale is None else {"sm_scale": decode.sm_scale}),
            **buffers,
            "q_scale": one if decode.q_scale and decode.q_dtype is DType.FP8 else None,
            "kv_scale": one if decode.kv_scale and DType.FP8 in (decode.q_dtype, decode.kv_dtype) else None,
            "intra_batch_mode": decode.intra_batch_mode,
            "return_lse": decode.return_lse,
            **self._group(batch, decode),
            **dict(decode.options),
        }
        # 2025-11 takes the page size from kv_buffer's shape.
        neutral = {"page_size": decode.page_size, "intra_batch_mode": False, "return_lse": False}
        from aiter import mla

        call_with(mla.mla_decode_fwd, values, neutral)

    @staticmethod
    def _group(batch: _Batch, decode: DecodeArguments) -> dict[str, Any]:
        """Arguments of a rank of a context-parallel group, which releases before 2026-08 do not take."""
        if decode.g_kv_indptr is None:
            return {}
        return {
            "g_kv_indptr": batch.tensors["g_kv_indptr"],
            "cp_world_size": decode.cp_world_size,
            "cp_rank": decode.cp_rank,
        }

    @contextmanager
    def _stage1_seen(self, before: Callable[[Mapping[str, torch.Tensor]], None]) -> Iterator[None]:
        """Calls `before` with the tensors of the stage-1 op by its parameters' names, just before it is launched."""
        real = getattr(self._aiter, STAGE_1_OP)

        def seen(*given: Any, **named: Any) -> Any:
            names = [*inspect.signature(real).parameters][: len(given)]
            together = {**dict(zip(names, given, strict=True)), **named}
            own = {
                "Q": "q",
                "KV": "kv_buffer",
                "splitData": "logits",
                "splitLse": "attn_lse",
                "output": "o",
                "lse": "final_lse",
            }
            before({own.get(name, name): value for name, value in together.items() if isinstance(value, torch.Tensor)})
            return real(*given, **named)

        setattr(self._aiter, STAGE_1_OP, seen)
        try:
            yield
        finally:
            setattr(self._aiter, STAGE_1_OP, real)

    def _synchronize(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)


class _Batch:
    """The caller's tensors of a decision, filled; and what o should be."""

    def __init__(self, decision: Decision, device: torch.device, seed: int) -> None:
        decode = decision.decode
        self._decision = decision
        self._fnuz = is_fnuz(Arch(decision.case.arch))
        q = torch.empty((decode.q_rows, decode.num_head, decode.qk_head_dim), dtype=RAW_TYPE[decode.q_dtype], device=device)
        kv_shape = (decode.kv_pages, decode.page_size, 1, decode.qk_head_dim)
        kv = torch.empty(kv_shape, dtype=RAW_TYPE[decode.kv_dtype], device=device)
        fill(q, decode.q_dtype, self._fnuz, seed, QUERY_STREAM)
        fill(kv, decode.kv_dtype, self._fnuz, seed, KV_STREAM)
        o = torch.full((decode.q_rows, decode.num_head, decode.v_head_dim), -1, dtype=torch.int16, device=device)
        names = (*INDEX_TENSORS, *(("g_kv_indptr",) if decode.g_kv_indptr is not None else ()))
        indices = {name: torch.from_numpy(getattr(decode, name).copy()).to(device) for name in names}
        self.tensors: dict[str, torch.Tensor] = {"q": q, "kv_buffer": kv, "o": o, **indices}

    def comparison(self) -> dict[str, Any]:
        """Fields of Numbers. Rows that still hold what o was filled with count as not written."""
        decision, decode = self._decision, self._decision.decode
        outputs = Outputs(
            self.tensors["q"],
            self.tensors["kv_buffer"].view(-1, decode.qk_head_dim),
            self.tensors["kv_indices"].long(),
            self.tensors["o"],
            None,
            decode.page_size,
            decision.kv_lens,
            decision.query_lens,
            decode.q_dtype,
            decode.kv_dtype,
            self._fnuz,
            decision.visible(),
            decode.sm_scale,
        )
        return outputs.compared(FP8_P if DType.FP8 in (decode.q_dtype, decode.kv_dtype) else BF16_P)


def _range(name: str, tensor: torch.Tensor) -> tuple[str, int, int]:
    return name, tensor.data_ptr(), tensor.numel() * tensor.element_size()


if __name__ == "__main__":
    serve(lambda: RocmWorker("--cpu" in sys.argv))
