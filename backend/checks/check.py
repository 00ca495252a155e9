"""All checks of a case, causes first. Each check is a function of a Call or an Observation that returns findings."""

from __future__ import annotations

from backend.call import Call
from backend.checks.contract import check_caller, check_head_width, check_kernel_exists, check_sizing
from backend.checks.coverage import check_coverage
from backend.checks.memory import check_violations
from backend.checks.numerics import check_disagreements, check_end, check_final_lse, check_numbers, check_rank_without_tokens
from backend.checks.plan import check_backward_items, check_pieces, check_planner_memory, check_rejected
from backend.checks.planned_for import (
    blamed,
    check_index_tensors,
    check_output_type,
    check_plan_is_used,
    check_planned_for,
    check_view_of_o,
)
from backend.findings import Finding, in_causal_order
from backend.observation import Observation

_CALL_CHECKS = (
    check_caller,
    check_sizing,
    check_planned_for,
    check_plan_is_used,
    check_output_type,
    check_view_of_o,
    check_index_tensors,
    check_head_width,
    check_rejected,
    check_kernel_exists,
    check_planner_memory,
    check_pieces,
)


def check_call(call: Call) -> tuple[Finding, ...]:
    """What is wrong with a call before it reaches a device."""
    return in_causal_order(blamed([finding for one in _CALL_CHECKS for finding in one(call)]))


def check(observation: Observation) -> tuple[Finding, ...]:
    """What is wrong with a call and with what a device saw of it."""
    call = observation.call
    findings = [finding for one in _CALL_CHECKS for finding in one(call)]
    findings += check_coverage(call)
    findings += check_backward_items(observation)
    findings += check_final_lse(call)
    findings += check_rank_without_tokens(call)
    findings += check_violations(observation)
    findings += check_end(observation)
    findings += check_numbers(observation)
    findings += check_disagreements(observation)
    return in_causal_order(blamed(findings))
