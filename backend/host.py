"""From a Decision to a Call: sizing, planning and launching by the rules of the case's release, in AITER's order."""

from __future__ import annotations

import dataclasses

from backend.aiter.arguments import BufferSizes, Device, PlanArguments, SizingArguments
from backend.aiter.codefiles import CodeSource
from backend.aiter.launch import Refusal, launch
from backend.aiter.planners import Plan, plan
from backend.aiter.release import release
from backend.aiter.sizing import buffer_sizes, refusal
from backend.call import Call
from backend.decision import Decision


def call(decision: Decision, source: CodeSource | None = None) -> Call:
    """What AITER would do with the backend's three calls.

    source: where code objects and a kernel table are looked up; None takes the release's built-in table.
    """
    case = decision.case
    device, rules = Device(case.arch, case.compute_units), release(case.release)
    allocated: BufferSizes | None = None
    needed: BufferSizes | None = None
    planned: Plan | None = None
    if decision.sizing is not None and decision.planning is not None:
        reason = refusal(rules, device, decision.sizing)
        if reason is not None:
            refused = Refusal("get_mla_metadata_info_v1", reason)
            return Call(decision, device, None, None, None, decision.decode, refused)
        allocated = buffer_sizes(rules, device, decision.sizing)
        wanted = sizing_of(decision.planning, decision.sizing)
        needed = allocated if wanted == decision.sizing else buffer_sizes(rules, device, wanted)
        planned = plan(rules, device, decision.planning, allocated)
    decode = dataclasses.replace(decision.decode, metadata=allocated)
    return Call(decision, device, allocated, needed, planned, decode, launch(rules, device, decode, source))


def sizing_of(planning: PlanArguments, given: SizingArguments) -> SizingArguments:
    """The sizing call that matches the planning call; the split cap is the planner's where it has one."""
    return SizingArguments(
        batch=len(planning.qo_indptr) - 1,
        max_seqlen_q=planning.max_seqlen_qo,
        num_head=planning.num_heads_per_head_k * planning.num_heads_k,
        q_dtype=planning.q_dtype,
        kv_dtype=planning.kv_dtype,
        is_sparse=planning.topk >= 0,
        fast_mode=planning.fast_mode,
        num_kv_splits=planning.max_split_per_batch if planning.max_split_per_batch > 0 else given.num_kv_splits,
        intra_batch_mode=planning.intra_batch_mode,
    )
