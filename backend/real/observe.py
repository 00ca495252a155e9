"""Watches the three public calls of AITER and turns them into arguments of this project, tensors tagged by allocation.

Knows nothing of the framework that makes the calls.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from backend.aiter.arguments import (
    INDEX_TENSORS,
    STRIDED,
    BufferSizes,
    DecodeArguments,
    Int32Array,
    PlanArguments,
    SizingArguments,
    TargetGpu,
)
from backend.aiter.release import release as named
from backend.aiter.splits import SplitsAsked, choose_splits
from backend.aiter.tensors import gap_between_rows
from backend.case import FIELDS, DType, OutputType
from backend.errors import UnmodelledError
from backend.real.aiter_ops import DECODING, PLANNING, SIZING, UPDATING, OpCall
from backend.real.noted_call import PassedBuffer, SourceLine
from backend.real.torch_shim import Allocation, Allocations
from backend.words import number_of

PLANNING_ROLES = {
    "work_metadata_ptrs": "work_metadata",
    "work_indptr": "work_indptr",
    "work_info_set": "work_info_set",
    "work_info": "work_info_set",
    "reduce_indptr": "reduce_indptr",
    "reduce_final_map": "reduce_final_map",
    "reduce_partial_map": "reduce_partial_map",
}
"""Parameter of get_mla_metadata_v1 -> role (`work_info` in release 2025-11)."""

DECODING_ROLES = {"work_meta_data": "work_metadata"} | {
    role: role for role in ("work_indptr", "work_info_set", "reduce_indptr", "reduce_final_map", "reduce_partial_map")
}
"""Parameter of mla_decode_fwd -> role."""


@dataclass(slots=True, eq=False)
class SizingSeen:
    """A sizing call that was seen."""

    arguments: SizingArguments
    line: SourceLine | None


@dataclass(slots=True, eq=False)
class PlanSeen:
    """A planning call that was seen. is_updated: the plan was brought up to a later step, which `arguments` are of. on_host: as
    `on_host` says of its tensors."""

    arguments: PlanArguments
    buffers: tuple[PassedBuffer, ...]
    line: SourceLine | None
    ignored: tuple[str, ...]
    is_updated: bool = False
    on_host: tuple[str, ...] = ()


@dataclass(slots=True, eq=False)
class DecodeSeen:
    """One decode call. The tensors are kept, so that a graph's replay reads them again.

    splits: KV splits that AITER's own Python handed to stage 1, None where none of it runs.
    """

    call: OpCall
    line: SourceLine | None
    splits: int | None = None


@dataclass(slots=True)
class CallWatcher:
    """Observer of the public calls; `decodes` is emptied by whoever drives. splits: see DecodeSeen, of the last call.

    computed: told of each decode call once it is done.
    """

    allocations: Allocations
    target_file: str
    splits: Callable[[], int | None] = lambda: None
    computed: Callable[[OpCall], None] = lambda call: None
    decodes: list[DecodeSeen] = field(default_factory=list)
    sizings: list[SizingSeen] = field(default_factory=list)
    _filled: dict[int, PlanSeen] = field(default_factory=dict)
    _sized: dict[int, SizingSeen] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.allocations.listeners.append(self._allocated)

    def entered(self, call: OpCall) -> None:
        """Note a call with what its tensors hold now."""
        line = self._line()
        if call.name == SIZING:
            self.sizings.append(SizingSeen(sizing_arguments(call.arguments), line))
        elif call.name == PLANNING:
            buffers = self._buffers(call.arguments, PLANNING_ROLES)
            seen = PlanSeen(plan_arguments(call.arguments), buffers, line, call.ignored, on_host=on_host(call.arguments))
            self._plan(seen)
        elif call.name == UPDATING:
            self._updated(call.arguments, line)
        elif call.name == DECODING:
            self.decodes.append(DecodeSeen(call, line))

    def planned_again(self, operation: OpCall) -> None:
        """A replay plans by a captured operation, with what its tensors hold now."""
        buffers = self._buffers(operation.arguments, PLANNING_ROLES)
        seen = self.plan_of(buffers)
        if seen is not None:
            self._plan(dataclasses.replace(seen, arguments=plan_arguments(operation.arguments), buffers=buffers))

    def _updated(self, given: Mapping[str, Any], line: SourceLine | None) -> None:
        """A plan is brought up to the next step, of one row a request."""
        buffers = self._buffers(given, PLANNING_ROLES)
        seen = self.plan_of(buffers)
        if seen is None:
            return
        arguments = dataclasses.replace(
            seen.arguments,
            qo_indptr=words_read(given["seqlens_qo_indptr"]),
            kv_indptr=words_read(given["seqlens_kv_indptr"]),
            kv_last_page_lens=words_read(given["kv_last_page_lens"]),
            num_heads_per_head_k=int(given["num_heads_per_head_k"]),
            q_dtype=element_type(given["dtype_q"]),
            kv_dtype=element_type(given["dtype_kv"]),
            max_seqlen_qo=1,
            uni_seqlen_qo=1,
        )
        self._plan(PlanSeen(arguments, buffers, line, seen.ignored, is_updated=True))

    def metadata_words(self, seen: DecodeSeen) -> dict[str, Int32Array] | None:
        """What the metadata buffers of a decode call hold now, where they were updated since they were planned; else None."""
        plan = self.plan_of(self.decode_buffers(seen))
        if plan is None or not plan.is_updated:
            return None
        return metadata_words(seen.call.arguments)

    def _plan(self, seen: PlanSeen) -> None:
        for buffer in seen.buffers:
            self._filled[buffer.tag] = seen

    def left(self, call: OpCall, result: Any) -> None:
        """Of a decode call, the splits that were made of it."""
        del result
        if call.name == DECODING and self.decodes:
            self.decodes[-1].splits = self.splits()
            self.computed(call)

    def decode_buffers(self, seen: DecodeSeen) -> tuple[PassedBuffer, ...]:
        """The metadata buffers of a decode call; empty without persistent metadata."""
        return self._buffers(seen.call.arguments, DECODING_ROLES)

    def plan_of(self, buffers: tuple[PassedBuffer, ...]) -> PlanSeen | None:
        """The last plan that filled the buffer passed as work_info_set, or any of them."""
        ordered = sorted(buffers, key=lambda b: b.role != "work_info_set")
        return next((self._filled[b.tag] for b in ordered if b.tag in self._filled), None)

    def filled_apart(self, buffers: tuple[PassedBuffer, ...]) -> tuple[str, ...]:
        """Roles of buffers that another planning call filled than the one of `plan_of`."""
        plan = self.plan_of(buffers)
        return tuple(b.role for b in buffers if self._filled.get(b.tag, plan) is not plan)

    def sizing_of(self, buffers: tuple[PassedBuffer, ...]) -> SizingSeen | None:
        """The sizing call after which the buffers were allocated."""
        ordered = sorted(buffers, key=lambda b: b.role != "work_info_set")
        return next((self._sized[b.tag] for b in ordered if b.tag in self._sized), None)

    def _allocated(self, allocation: Allocation) -> None:
        if self.sizings:
            self._sized[allocation.tag] = self.sizings[-1]

    def _buffers(self, arguments: Mapping[str, Any], roles: Mapping[str, str]) -> tuple[PassedBuffer, ...]:
        present = [(role, arguments[name]) for name, role in roles.items() if arguments.get(name) is not None]
        return tuple(self._buffer(role, tensor) for role, tensor in present)

    def _buffer(self, role: str, tensor: torch.Tensor) -> PassedBuffer:
        allocation = self.allocations.of(tensor)
        with torch._C.DisableTorchFunction():
            return PassedBuffer(
                role=role,
                tag=allocation.tag,
                offset=tensor.data_ptr() - allocation.address,
                words=tensor.numel() * tensor.element_size() // 4,
                allocated_words=allocation.nbytes // 4,
                dtype=str(tensor.dtype).removeprefix("torch."),
            )

    def _line(self) -> SourceLine | None:
        return line_in(self.target_file)


def line_in(file: str) -> SourceLine | None:
    """The innermost frame of the running call that lies in the file."""
    frame = sys._getframe(1)
    while frame is not None:
        if frame.f_code.co_filename == file:
            return SourceLine(file, frame.f_lineno, frame.f_code.co_name)
        frame = frame.f_back  # type: ignore[assignment]
    return None


def metadata_words(given: Mapping[str, Any]) -> dict[str, Int32Array] | None:
    """What the metadata buffers of a decode call hold now, by role; None for a non-persistent call."""
    if given.get("work_meta_data") is None:
        return None
    roles = (role for role in DECODING_ROLES.values() if role != "work_metadata")
    return {role: words_read(given[role]) for role in roles if given.get(role) is not None}


def element_type(dtype: torch.dtype | None) -> DType:
    """This project's name of a torch dtype; UnmodelledError for others (AITER's MLA kernels know no further ones)."""
    if dtype is torch.bfloat16 or dtype is None:
        return DType.BF16
    if dtype in (torch.float8_e4m3fn, torch.float8_e4m3fnuz):
        return DType.FP8
    raise UnmodelledError(f"element type {dtype}: MLA decode is modelled for bfloat16 and float8_e4m3 only")


def output_type(dtype: torch.dtype) -> OutputType:
    """This project's name of o's torch dtype; UnmodelledError for one that no backend allocates."""
    named = {torch.bfloat16: OutputType.BF16, torch.float16: OutputType.FP16, torch.float32: OutputType.FP32}
    if dtype in (torch.float8_e4m3fn, torch.float8_e4m3fnuz):
        return OutputType.FP8
    if dtype not in named:
        raise UnmodelledError(f"o of type {dtype}: known are {', '.join(OutputType)}")
    return named[dtype]


def words_read(tensor: torch.Tensor, at_least: int = 0) -> Int32Array:
    """The int32 words that a kernel finds from the tensor's address on, as many as the tensor has elements.

    A tensor that is strided, or of another integer type, is read as the kernel would read it: as plain int32 memory.
    at_least: read that many, as far as the allocation reaches.
    """
    with torch._C.DisableTorchFunction():
        raw = torch.empty(0, dtype=torch.uint8).set_(tensor.untyped_storage())
        begin = tensor.data_ptr() - raw.data_ptr()
        end = min(begin + 4 * max(tensor.numel(), at_least), raw.numel() // 4 * 4)
        words: Int32Array = raw[begin:end].numpy().view(np.int32).copy()
    return words


def on_host(given: Mapping[str, Any]) -> tuple[str, ...]:
    """Names of a call's tensors that lie in the host's memory, whose addresses a kernel takes for the GPU's."""
    return tuple(name for name, value in given.items() if torch.is_tensor(value) and not value.is_cuda)


def sizing_arguments(given: Mapping[str, Any]) -> SizingArguments:
    """SizingArguments of a call, whichever release declares it."""
    splits = given.get("num_kv_splits")
    return SizingArguments(
        batch=int(given["batch_size"]),
        max_seqlen_q=int(given["max_seqlen_qo"]),
        num_head=int(given["num_head_qo"]),
        q_dtype=element_type(given["q_dtype"]),
        kv_dtype=element_type(given["kv_dtype"]),
        is_sparse=bool(given["is_sparse"]),
        fast_mode=bool(given["fast_mode"]),
        num_kv_splits=None if splits is None else int(splits),
        intra_batch_mode=bool(given.get("intra_batch_mode", False)),
        max_split_per_batch=int(given.get("max_split_per_batch", -1)),
    )


def plan_arguments(given: Mapping[str, Any]) -> PlanArguments:
    """PlanArguments of a call, index tensors by their present content."""
    _require_modelled(PLANNING, given, {"mla_version": 0, "num_heads_k": 1})
    for side in ("q", "kv"):
        if given.get(f"dtype_{side}_rope") is not None:  # None: as the part without rope
            _require_modelled(PLANNING, given, {f"dtype_{side}_rope": given.get(f"dtype_{side}_nope")})
    last_page_lens = given.get("kv_last_page_lens")
    qo_indptr = words_read(given["seqlens_qo_indptr"])
    return PlanArguments(
        qo_indptr=qo_indptr,
        kv_indptr=words_read(given["seqlens_kv_indptr"]),
        kv_last_page_lens=np.ones(qo_indptr.size - 1, np.int32) if last_page_lens is None else words_read(last_page_lens),
        num_heads_per_head_k=int(given["num_heads_per_head_k"]),
        num_heads_k=int(given["num_heads_k"]),
        is_causal=bool(given["is_causal"]),
        page_size=int(given.get("page_size", 1)),
        kv_granularity=int(given["kv_granularity"]),
        max_seqlen_qo=int(given["max_seqlen_qo"]),
        uni_seqlen_qo=int(given["uni_seqlen_qo"]),
        topk=int(given["topk"]),
        fast_mode=bool(given["fast_mode"]),
        max_split_per_batch=int(given["max_split_per_batch"]),
        intra_batch_mode=bool(given.get("intra_batch_mode", False)),
        q_dtype=_planned_type(given, "q"),
        kv_dtype=_planned_type(given, "kv"),
        is_cp_round_robin=bool(given.get("is_cp_round_robin", False)),
    )


def _planned_type(given: Mapping[str, Any], side: str) -> DType:
    """dtype_q or dtype_kv; from 2026-08 on two parts of it, and by number where the compiled operation is called."""
    for name in (f"dtype_{side}_nope", f"dtype_{side}"):
        value = given.get(name)
        if isinstance(value, int):
            return _NUMBERED_TYPES[value]
        if value is not None:
            return element_type(value)
    return DType.BF16


_NUMBERED_TYPES = {0: DType.FP8, 3: DType.BF16}
"""AiterDtype (csrc/include/aiter_enum.h)."""


def decode_arguments(given: Mapping[str, Any], replayed: bool = False) -> DecodeArguments:
    """DecodeArguments of a call, index tensors by their present content.

    replayed: the call is a graph's. Its tensors were sliced for the batch of the capture, and a replay reads through the
    same address as far as its own kv_indptr says; so kv_indices is taken that far, where the allocation has it.
    """
    _require_modelled(DECODING, given, {"nhead_kv": 1, "num_kv_splits_indptr": None})
    q, kv = given["q"], given["kv_buffer"]
    if given.get("page_size", kv.shape[1]) != kv.shape[1]:
        raise UnmodelledError(
            f"{DECODING}(page_size={given['page_size']}): kv_buffer {tuple(kv.shape)} has pages of "
            f"{number_of(kv.shape[1], 'token')}; only "
            "a page size that is its own is modelled"
        )
    o = given["o"]
    if o.dim() != 3:
        raise UnmodelledError(f"{DECODING}(o={tuple(o.shape)}): only [rows, {q.shape[1]}, width] is modelled, for q's heads")
    q_dtype, kv_dtype, kv_scale = element_type(q.dtype), element_type(kv.dtype), given.get("kv_scale")
    needs_scales = q_dtype is DType.FP8
    splits = given.get("num_kv_splits")
    qo_indptr = words_read(given["qo_indptr"])
    kv_indptr = words_read(given["kv_indptr"])[: qo_indptr.size]  # the batch is qo_indptr's (aiter/mla.py)
    reach = int(kv_indptr[-1]) if replayed and kv_indptr.size else 0
    return DecodeArguments(
        q_rows=int(q.shape[0]),
        num_head=int(q.shape[1]),
        kv_pages=int(kv.shape[0]),
        page_size=int(kv.shape[1]),
        q_dtype=q_dtype,
        kv_dtype=kv_dtype,
        qo_indptr=qo_indptr,
        kv_indptr=kv_indptr,
        kv_indices=words_read(given["kv_indices"], reach),
        kv_last_page_lens=words_read(given["kv_last_page_lens"]),
        max_seqlen_q=int(given["max_seqlen_q"]),
        metadata=_metadata_sizes(given),
        num_kv_splits=None if splits is None else int(splits),
        intra_batch_mode=bool(given.get("intra_batch_mode", False)),
        return_lse=bool(given.get("return_lse", False)),
        q_scale=is_there(given.get("q_scale")) or not needs_scales,
        kv_scale=(is_there(kv_scale) if needs_scales else kv_scale is not None) or DType.FP8 not in (q_dtype, kv_dtype),
        qk_head_dim=int(kv.shape[-1]),
        v_head_dim=int(o.shape[-1]),
        o_dtype=output_type(o.dtype),
        g_kv_indptr=None if given.get("g_kv_indptr") is None else words_read(given["g_kv_indptr"]),
        cp_world_size=int(given.get("cp_world_size", 1)),
        cp_rank=int(given.get("cp_rank", 0)),
        sm_scale=None if given.get("sm_scale") is None else float(given["sm_scale"]),
        not_words=tuple(_not_words(given)),
        o_rows=None if o.shape[0] == q.shape[0] else int(o.shape[0]),
        o_heads=None if o.shape[1] == q.shape[1] else int(o.shape[1]),
        q_gap=_gap(q),
        o_gap=_gap(o),
        kv_gap=_gap(kv),
        options=tuple(
            (field.argument, given[field.argument])
            for field in FIELDS
            if field.argument and given.get(field.argument, field.neutral) != field.neutral
        ),
    )


def _not_words(given: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Of the index tensors and scales of a decode call those that AITER reads otherwise than their caller does."""
    types = element_type(given["q"].dtype), element_type(given["kv_buffer"].dtype)
    for name, is_read in (("q_scale", types[0] is DType.FP8), ("kv_scale", DType.FP8 in types)):
        scale = given.get(name)
        if is_read and scale is not None and scale.dtype is not torch.float32:
            yield name, str(scale.dtype).removeprefix("torch.")
    for name in (*INDEX_TENSORS, "g_kv_indptr"):
        tensor = given.get(name)
        if tensor is None or not tensor.numel():
            continue
        size = tensor.element_size()
        lower_half = size == 8 and tensor.numel() == 1  # of one number, which is the word that is read
        if tensor.is_floating_point() or (size != 4 and not lower_half):
            yield name, str(tensor.dtype).removeprefix("torch.")
        elif not tensor.is_contiguous():
            yield name, STRIDED


def is_there(scale: torch.Tensor | None) -> bool:
    """Whether a scale is handed over; AITER tells one without elements, whose address is null, as one that is not."""
    return scale is not None and scale.numel() > 0


def _gap(tensor: torch.Tensor) -> int:
    """Elements between the rows of a tensor that are not its own; 0 for one that is laid out in no such way."""
    return gap_between_rows(tuple(tensor.shape), tuple(tensor.stride())) or 0


def _require_modelled(function: str, given: Mapping[str, Any], alone: Mapping[str, Any]) -> None:
    """Raises UnmodelledError for an argument of which only one value is modelled, so that none is dropped. alone: by name."""
    for name, value in alone.items():
        found = given.get(name, value)
        if found is not value and (torch.is_tensor(found) or found != value):
            shown = f"a tensor of {tuple(found.shape)}" if torch.is_tensor(found) else repr(found)
            raise UnmodelledError(f"{function}({name}={shown}): only {value!r} is modelled")


def captured_splits(release: str, device: TargetGpu, seen: DecodeSeen) -> int | None:
    """KV splits that a captured non-persistent call has for good: AITER chose them at capture, by the tensors' sizes then.

    Those of its own Python where that ran, else those of a release. None for a persistent call, one that asks for a number
    itself, and one that AITER refuses.
    """
    given = seen.call.arguments
    if given.get("work_meta_data") is not None or given.get("num_kv_splits") is not None:
        return None
    if seen.splits is not None:
        return seen.splits
    q = given["q"]
    asked = SplitsAsked(
        num_cu=device.num_cu,
        requested=None,
        batch=int(given["qo_indptr"].shape[0]) - 1,
        total_kv=int(given["kv_indices"].shape[0]),
        num_head=int(q.shape[1]),
        max_seqlen_q=int(given["max_seqlen_q"]),
        q_dtype=element_type(q.dtype),
    )
    chosen = choose_splits(named(release).splits, asked)
    return None if isinstance(chosen, str) else chosen


def _metadata_sizes(given: Mapping[str, Any]) -> BufferSizes | None:
    if given.get("work_meta_data") is None:
        return None
    missing = [name for name in DECODING_ROLES if given.get(name) is None]
    if missing:
        raise UnmodelledError(f"{DECODING}({missing[0]}=None) with work_meta_data: only all six metadata tensors are modelled")

    def words(name: str) -> int:
        tensor = given.get(name)
        return 0 if tensor is None else int(tensor.numel())

    return BufferSizes(
        work_indptr=words("work_indptr"),
        work_info_set=words("work_info_set"),
        reduce_indptr=words("reduce_indptr"),
        reduce_final_map=words("reduce_final_map"),
        reduce_partial_map=words("reduce_partial_map"),
    )
