"""Serves AITER's compiled operations by a host: sizes, planners into the real buffers, decode as a no-op.

The planners write what fits into the tensors that the backend passed, so that metadata lives on across steps as in the
framework's process, stale contents included. What they would write past an end is not written; whoever checks the step
plans again from the recorded arguments and sees it. Decode kernels change no metadata and are left to the devices.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from backend.aiter.arguments import BufferSizes, TargetGpu
from backend.aiter.planners.update import heads_apart, updated
from backend.aiter.release import release
from backend.aiter.sizing import buffer_sizes, refusal
from backend.case import DType
from backend.fate import ENDS_PROCESS
from backend.host import BuiltIn, Host
from backend.real.aiter_ops import DECODING, PLANNING, REDUCE, SIZING, UPDATING, OpCall
from backend.real.observe import PLANNING_ROLES, element_type, plan_arguments, sizing_arguments, words_read
from backend.real.torch_shim import host

STAGE_1 = "mla_decode_stage1_asm_fwd"

SILENT = frozenset({DECODING, STAGE_1, REDUCE, "_fwd_kernel_stage2_asm"})
"""Operations that read metadata and write outputs only; their results steer nothing in a backend's host code."""


PLANNERS = frozenset({PLANNING, "_get_mla_metadata_v1_impl"})
"""The planning operation; 2026-08 has a Python function of the public name in front of it."""


class AiterRefuses(Exception):  # noqa: N818 - an answer of AITER's
    """AITER's host code raises. The message: the function, and its own words."""


class AiterAsserts(AiterRefuses, AssertionError):  # noqa: N818
    """It does so by an assertion, as its Python does."""


class AiterChecks(AiterRefuses, RuntimeError):  # noqa: N818
    """It does so by a check of its C++, which reaches Python as a RuntimeError."""


ABORTED = 134
"""Exit code of a process that ends with std::abort(), as a shell tells of it."""


class AiterEndsProcess(BaseException):
    """AITER's host code ends the process, which no `except Exception` of a caller keeps alive. status: its exit code.

    The message: as of AiterRefuses, and that it ends the process.
    """

    def __init__(self, message: str, status: int = ABORTED) -> None:
        super().__init__(f"{message}{ENDS_PROCESS}")
        self.status = status


SAYS_NO = (AiterRefuses, AiterEndsProcess)
"""What AITER's host code ends a call with."""


def failed_check(message: str, ends_process: bool, status: int = ABORTED) -> AiterChecks | AiterEndsProcess:
    """What a check of AITER's C++ raises: an exception of Python, or the end of the process."""
    return AiterEndsProcess(message, status) if ends_process else AiterChecks(message)


def check_logit_cap(given: Mapping[str, Any]) -> None:
    """aiter/mla.py, mla_decode_fwd, where none of its Python runs: it asserts that logits are not capped."""
    cap = given.get("logit_cap", 0)
    if cap > 0:
        raise AiterAsserts(f"mla_decode_fwd: logit_cap={cap!r} is not support yet")


def check_planned_tensors(given: Mapping[str, Any], ends: bool) -> None:
    """csrc/kernels/mla/metadata.cu, get_mla_metadata_v1: what it asks of its index tensors before any planner runs.

    ends: whether a failed check ends the process; see Host.planning_check_ends.
    """
    for name in ("seqlens_qo_indptr", "seqlens_kv_indptr", "kv_last_page_lens"):
        tensor = given.get(name)
        if tensor is None:
            continue
        if tensor.stride(0) != 1:
            raise failed_check(f"{PLANNING}: {name} should be continuous!", ends)
        if tensor.dtype is not torch.int32:
            raise failed_check(f"{PLANNING}: {name}'s element type should be int!", ends)


def check_metadata(given: Mapping[str, Any]) -> None:
    """aiter/mla.py, mla_decode_fwd, where none of its Python runs: metadata comes with the maps of its reduction."""
    for name in ("reduce_partial_map", "reduce_indptr", "reduce_final_map"):
        if given.get("work_meta_data") is not None and given.get(name) is None:
            raise AiterRefuses(f"mla_decode_fwd: {name} is None, beside metadata that needs it")


class PlannerHandlers:
    """Handlers for one device and AITER.

    host: whose planners write. release: the built-in one that decides where the host is none of its own. fills: whether
    planning writes the buffers (not needed for decisions).
    """

    def __init__(self, host: Host, release: str, device: TargetGpu, fills: bool = True) -> None:
        self.host = host
        self.release = release
        self.device = device
        self.fills = fills

    def serves(self, name: str) -> bool:
        """The operations of MLA decode."""
        return name in (SIZING, UPDATING) or name in SILENT or name in PLANNERS

    def handle(self, call: OpCall) -> Any:
        """Do the operation on the call's tensors."""
        if call.name == SIZING:
            return self._sizes(call)
        if call.name in PLANNERS:
            check_planned_tensors(call.arguments, self.host.planning_check_ends(self.release))
            if self.fills:
                self._plan(call)
        if call.name == UPDATING and self.fills:
            self._update(call)
        if call.name in (DECODING, STAGE_1):
            check_logit_cap(call.arguments)
            self._check_scales(call)
        if call.name == DECODING:
            check_metadata(call.arguments)
        return self._decoded(call) if call.name == DECODING else None

    @staticmethod
    def _decoded(call: OpCall) -> tuple[None, torch.Tensor | None]:
        """Partial results, which nobody looks at, and the log-sum-exp of each row and head where it is asked for."""
        if not call.arguments.get("return_lse"):
            return None, None
        return None, torch.empty(call.arguments["q"].shape[:2], dtype=torch.float32, device="cuda")

    def _check_scales(self, call: OpCall) -> None:
        """asm_mla.cu, mla_decode_stage1_asm_fwd: where q is fp8, both scales are handed to the kernel."""
        given = call.arguments
        q = given.get("q", given.get("Q"))
        if not isinstance(self.host, BuiltIn):
            return  # a revision's own launcher says no, when the step is judged
        if q is None or not release(self.release).launcher.fp8_q_needs_scales or element_type(q.dtype) is not DType.FP8:
            return
        if given.get("q_scale") is None or given.get("kv_scale") is None:
            ends = release(self.release).launcher.checks_end_process
            raise failed_check(f"{STAGE_1}: fp8 Q requires q_scale and kv_scale", ends)

    def _sizes(self, call: OpCall) -> tuple[Any, ...]:
        arguments = sizing_arguments(call.arguments)
        reason = refusal(release(self.release).sizing, self.device, arguments)
        if reason is not None:
            raise AiterAsserts(f"get_mla_metadata_info_v1: {reason}")
        sizes = buffer_sizes(release(self.release).sizing, self.device, arguments)
        return (
            (2, torch.uint64),
            (sizes.work_indptr, torch.int32),
            ((sizes.work_info_set // 8, 8), torch.int32),
            (sizes.reduce_indptr, torch.int32),
            ((sizes.reduce_final_map // 2, 2), torch.int32),
            (sizes.reduce_partial_map, torch.int32),
        )

    def _update(self, call: OpCall) -> None:
        given = call.arguments
        held = {role: host(given[name]).view(-1) for name, role in PLANNING_ROLES.items() if name in given}
        words = {role: tensor.numpy() for role, tensor in held.items() if role != "work_metadata"}
        dtypes = element_type(given["dtype_q"]), element_type(given["dtype_kv"])
        apart = heads_apart(given["num_heads_per_head_k"], self.device.arch, dtypes, given["max_seqlen_qo"])
        rejected = given.get("num_reject_tokens")
        ends = words_read(given["seqlens_kv_indptr"])
        for role, content in updated(words, ends, apart, None if rejected is None else words_read(rejected)).items():
            held[role].copy_(torch.from_numpy(content))

    def _plan(self, call: OpCall) -> None:
        tensors = {role: call.arguments[name] for name, role in PLANNING_ROLES.items() if name in call.arguments}
        sizes = BufferSizes(
            work_indptr=tensors["work_indptr"].numel(),
            work_info_set=tensors["work_info_set"].numel(),
            reduce_indptr=tensors["reduce_indptr"].numel(),
            reduce_final_map=tensors["reduce_final_map"].numel(),
            reduce_partial_map=tensors["reduce_partial_map"].numel(),
        )
        planned = self.host.plan(self.release, self.device, plan_arguments(call.arguments), sizes)
        if planned.rejected is not None:
            raise failed_check(f"get_mla_metadata_v1: {planned.rejected}", planned.ends_process)
        for name, buffer in planned.buffers.items():
            target = host(tensors[name]).view(-1)
            low, high = max(buffer.first, 0), min(buffer.last + 1, buffer.allocated)
            if low < high:
                words = torch.from_numpy(buffer.image[low - buffer.first : high - buffer.first])
                written = torch.from_numpy(buffer.marks[low - buffer.first : high - buffer.first]).bool()
                target[low:high][written] = words[written]
