"""AITER's compiled operations done for real on the virtual GPU, with the accesses that leave their tensors.

The planners' stores go to the addresses that they compute; stage 1 is the machine code where there is a code object, and
attention.py otherwise; the reduction is merge.py. Without AITER's own Python mla_decode_fwd is served whole.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from backend.aiter.arguments import BufferSizes, TargetGpu
from backend.aiter.codefiles import CodeSource
from backend.aiter.launch import Launch, Refusal, launch
from backend.aiter.reduction import SecondStageKind
from backend.aiter.release import release as release_named
from backend.host import Host
from backend.real.aiter_ops import DECODING, PLANNING, REDUCE, SIZING, OpCall
from backend.real.handlers import (
    PLANNERS,
    STAGE_1,
    PlannerHandlers,
    check_logit_cap,
    check_metadata,
    check_planned_tensors,
    failed_check,
)
from backend.real.observe import PLANNING_ROLES, decode_arguments, plan_arguments
from backend.real.script import attention, machine
from backend.real.script.hardware import Hardware
from backend.real.script.merge import MergeCall
from backend.real.script.prefill import Prefill
from backend.real.script.stage1 import Stage1, has_rules_for, stage1_of
from backend.real.script.tensors import placed
from backend.real.script.timeline import Access, GpuWork
from backend.real.theirs import says
from backend.words import number_of

INT32 = 4


class ScriptOperations:
    """Handlers (backend.real.aiter_ops) for one AITER, device and GPU memory.

    host: AITER's host side. release: the built-in one that decides where the host is none of its own. code: where code objects
    are, None: stage 1 in numbers. launches: stage-1 launches done. do: has work done, at once or when a graph is replayed;
    accesses: what a call reads and writes.
    """

    def __init__(self, hardware: Hardware, host: Host, release: str, device: TargetGpu, code: CodeSource | None) -> None:
        self.hardware = hardware
        self.host = host
        self.release = release_named(release)
        self.device = device
        self.code = code
        self.launches = 0
        self.prefill = Prefill()
        self.prefill.have_done = self._have_done
        self.do: Callable[[GpuWork], Any] = lambda work: work.run(work.given)
        self.accesses: Callable[[str, Mapping[str, Any]], Sequence[Access]] = lambda name, given: ()
        self._sizes = PlannerHandlers(host, release, device)

    def serves(self, name: str) -> bool:
        """The operations of MLA decode, and those of prefill."""
        return name in (SIZING, DECODING, STAGE_1, REDUCE) or name in PLANNERS or self.prefill.serves(name)

    def handle(self, call: OpCall) -> Any:
        """Does the operation and gives its result."""
        if self.prefill.serves(call.name):
            return self.prefill.handle(call)
        if call.name == SIZING:
            return self._sizes.handle(call)
        if call.name in PLANNERS:
            check_planned_tensors(call.arguments, self.host.planning_check_ends(self.release.name))
            return self._have_done(PLANNING, call.arguments, self._plan)
        if call.name == STAGE_1:
            return self._stage1(call.arguments)
        if call.name == REDUCE:
            return self._reduce(call.arguments)
        return self._decode(call.arguments)

    def _have_done(self, name: str, given: Mapping[str, Any], run: Callable[[Mapping[str, Any]], None]) -> None:
        self.do(GpuWork(name, given, functools.partial(self.accesses, name), run))

    def _plan(self, given: Mapping[str, Any]) -> None:
        tensors = {role: placed(role, given[name]) for name, role in PLANNING_ROLES.items() if given.get(name) is not None}
        words = {role: tensor.nbytes // INT32 for role, tensor in tensors.items()}
        sizes = BufferSizes(*(words[role] for role in _BUFFERS))
        planned = self.host.plan(self.release.name, self.device, plan_arguments(given), sizes)
        if planned.rejected is not None:
            raise failed_check(f"get_mla_metadata_v1: {planned.rejected}", planned.ends_process)
        pointers = np.array([tensors["work_indptr"].address, tensors["work_info_set"].address], np.uint64)
        self.hardware.write(tensors["work_metadata"].address, pointers.view(np.uint8), "the planner writes work_metadata")
        stage = f"planner {planned.planner}"
        for read in planned.reads_past_end:
            if read.array in _INDICES:
                self._stray_read(placed(read.array, given[_INDICES[read.array]]), read.index, stage)
        for name, buffer in planned.buffers.items():
            base = tensors[name].address
            for begin, end in _runs(buffer.marks):
                at = INT32 * (buffer.first + begin)
                why = f"{stage} writes {number_of(end - begin, 'word')} from {tensors[name].offset(at)}"
                past = max(INT32 * buffer.allocated - at, 0)
                cut = min(begin + past // INT32, end)
                for first, last in ((begin, cut), (cut, end)):  # in bounds first, so that a fault names the first stray word
                    content = np.ascontiguousarray(buffer.image[first:last]).view(np.uint8)
                    where = INT32 * (buffer.first + first)
                    outside = f"{stage} writes {number_of(last - first, 'word')} from {tensors[name].offset(where)}"
                    self.hardware.write(base + where, content, outside if first == cut else why)

    def _stray_read(self, tensor: Any, index: int, stage: str) -> None:
        self.hardware.read(tensor.address + INT32 * index, INT32, f"{stage} reads {tensor.offset(INT32 * index)}")

    def _stage1(self, given: Mapping[str, Any]) -> None:
        launcher = self.host.launcher(has_rules=given.get("g_kv_indptr") is None and has_rules_for(given["KV"].dtype))
        made = stage1_of(self.release, self.device, self.code, given, launcher)
        self._have_done(STAGE_1, given, lambda _: self._launch(made))

    def _launch(self, made: Stage1) -> None:
        self.launches += 1
        if self.code is None:
            attention.run(self.hardware, made)
        else:
            machine.run(self.hardware, self.code, self.device.arch, made)

    def _reduce(self, given: Mapping[str, Any]) -> None:
        _require_maps(given)
        reduction = MergeCall.of(self.release, self.device, given)
        self._have_done(REDUCE, given, lambda _: reduction.run(self.hardware))

    def _decode(self, given: Mapping[str, Any]) -> tuple[Any, Any]:
        """mla_decode_fwd by this project's fold and launch rules: (logits, final_lse or None)."""
        check_logit_cap(given)
        check_metadata(given)
        asked = decode_arguments(given)
        made = launch(self.release, self.device, asked)
        if isinstance(made, Refusal):
            raise failed_check(f"{made.raised_by}: {made.reason}", made.ends_process)
        q, o = _folded(given["q"], made, asked.qk_head_dim), _folded(given["o"], made, asked.v_head_dim)
        logits, lse = (_empty(made, name) for name in ("logits", "attn_lse"))
        final_lse = _empty(made, "final_lse") if "final_lse" in made.tensors else None
        splits = torch.zeros(len(given["qo_indptr"]), dtype=torch.int32, device="cuda")
        stage1 = {
            "Q": q, "KV": given["kv_buffer"], "kv_page_indices": given["kv_indices"], "splitData": logits, "splitLse": lse,
            "output": o, "lse": final_lse, "softmax_scale": asked.softmax_scale, "page_size": given["kv_buffer"].shape[1],
            "num_kv_splits_indptr": None if made.persistent else splits,
            "causal": asked.option("causal", default=True),
        }  # fmt: skip
        same = ("qo_indptr", "kv_indptr", "kv_last_page_lens", "work_meta_data", "work_indptr", "work_info_set", "q_scale")
        stage1 |= {name: given[name] for name in (*same, "kv_scale", "max_seqlen_q")}
        if not made.persistent:
            stage1 |= dict.fromkeys(("work_meta_data", "work_indptr", "work_info_set"))
        self._stage1(stage1)
        if made.second_stage.kind is SecondStageKind.REDUCE:
            maps = {name: given[name] for name in MAPS}
            reduced = {"partial_output": logits, "partial_lse": lse, "final_output": o, "final_lse": final_lse, **maps}
            reduced |= {"max_seqlen_q": made.max_seqlen_q, "num_kv_splits": given.get("num_kv_splits")}
            self._reduce(reduced)
        if made.q_copied:
            given["o"].copy_(_unfolded(o, made, given["o"].shape))
        return logits, final_lse if final_lse is None else _unfolded(final_lse, made, given["o"].shape[:2])


def _require_maps(given: Mapping[str, Any]) -> None:
    """aiter/jit/core.py, of every compiled operation: an argument that is declared as a tensor must be one."""
    missing = next((name for name in MAPS if given.get(name) is None), None)
    if missing is not None:
        says(TypeError(f"{REDUCE}: {missing} needs to be <class 'torch.Tensor'> but got <class 'NoneType'>"))


MAPS = ("reduce_indptr", "reduce_final_map", "reduce_partial_map")
_BUFFERS = ("work_indptr", "work_info_set", "reduce_indptr", "reduce_final_map", "reduce_partial_map")
_INDICES = {
    "qo_indptr": "seqlens_qo_indptr",
    "kv_indptr": "seqlens_kv_indptr",
    "kv_last_page_lens": "kv_last_page_lens",
}
"""Array of a StrayRead -> parameter of get_mla_metadata_v1."""


def _runs(marks: np.ndarray) -> list[tuple[int, int]]:
    """Stretches [begin, end) of marked words."""
    edges = np.flatnonzero(np.diff(np.concatenate(([0], marks != 0, [0])).astype(np.int8)))
    return [(int(begin), int(end)) for begin, end in edges.reshape(-1, 2)]


def _empty(made: Launch, name: str) -> torch.Tensor:
    return torch.empty(made.tensors[name].shape, dtype=torch.float32, device="cuda")


def _folded(tensor: torch.Tensor, made: Launch, width: int) -> torch.Tensor:
    """[rows, heads, width] as the kernel gets it: groups of heads as rows of their own, each group's queries side by side."""
    heads, fold, qlen = made.heads_in_kernel, made.fold, made.max_seqlen_q
    if fold == 1:
        return tensor
    if not made.q_copied:
        return tensor.view(-1, heads, width)
    return tensor.reshape(-1, qlen, fold, heads, width).permute(0, 2, 1, 3, 4).contiguous().view(-1, heads, width)


def _unfolded(tensor: torch.Tensor, made: Launch, shape: Any) -> torch.Tensor:
    if made.fold == 1 or not made.q_copied:
        return tensor.view(shape)
    heads, fold, qlen = made.heads_in_kernel, made.fold, made.max_seqlen_q
    rest = tensor.shape[2:]
    back = tensor.view(-1, fold, qlen, heads, *rest)
    return back.permute(0, 2, 1, *range(3, back.dim())).reshape(shape)
