"""get_mla_metadata_v1 as a value of a release: a function, or the planners that are built in by rules of the release's own.

What a planner needs to run (numba) is imported when one runs: a decision table is made without.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from backend.aiter.arguments import BufferSizes, Int32Array, PlanArguments, TargetGpu
from backend.aiter.rules import PlannerRules
from backend.errors import UsageError

if TYPE_CHECKING:
    from backend.aiter.planners.result import Plan

Planning = Callable[[TargetGpu, PlanArguments, BufferSizes], "Plan"]
"""What get_mla_metadata_v1 does to buffers of these sizes."""


def plan(planning: Planning, device: TargetGpu, arguments: PlanArguments, allocated: BufferSizes) -> Plan:
    """What get_mla_metadata_v1 does by `planning` to buffers of `allocated` words.

    Raises UsageError for what no caller can hand over (no sequence, arrays that are not int32), and what
    `planning` raises.
    """
    _check_usage(arguments)
    return planning(device, arguments, allocated)


def _check_usage(arguments: PlanArguments) -> None:
    for name in ("qo_indptr", "kv_indptr", "kv_last_page_lens"):
        values: Int32Array = getattr(arguments, name)
        if values.dtype != np.int32 or values.ndim != 1 or not values.flags.c_contiguous:
            raise UsageError.not_allowed(name, f"{values.dtype} of shape {values.shape}", "contiguous int32, one dimension")
    if arguments.kv_indptr.size < 2 or arguments.qo_indptr.size < 2:
        raise UsageError.not_allowed("indptr", arguments.kv_indptr.size, "at least one sequence (two entries)")
    if arguments.kv_granularity < 1 or arguments.page_size < 1:
        raise UsageError.not_allowed("kv_granularity, page_size", (arguments.kv_granularity, arguments.page_size), ">= 1")


@dataclass(frozen=True, slots=True)
class BuiltInPlanning:
    """The planners that are built in, by these rules. It is called like the function (see `Planning`)."""

    rules: PlannerRules

    def __call__(self, device: TargetGpu, arguments: PlanArguments, allocated: BufferSizes) -> Plan:
        """What is planned; see backend.aiter.planners.run.plan_by_rules."""
        from backend.aiter.planners.run import plan_by_rules

        return plan_by_rules(self.rules, device, arguments, allocated)
