"""get_mla_metadata_v1 as a value of a release: a function, or the planners that are built in by rules of the release's own.

What a planner needs to run (numba) is imported when one runs: a decision table is made without.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from backend.aiter.arguments import BufferSizes, PlanArguments, TargetGpu
from backend.aiter.planner_rules import PlannerRules

if TYPE_CHECKING:
    from backend.aiter.planners.result import Plan

Planning = Callable[[TargetGpu, PlanArguments, BufferSizes], "Plan"]
"""What get_mla_metadata_v1 does to buffers of these sizes."""


@dataclass(frozen=True, slots=True)
class BuiltInPlanning:
    """The planners that are built in, by these rules. It is called like the function (see `Planning`)."""

    rules: PlannerRules

    def __call__(self, device: TargetGpu, arguments: PlanArguments, allocated: BufferSizes) -> Plan:
        """What is planned; see backend.aiter.planners.run.plan_by_rules."""
        from backend.aiter.planners.run import plan_by_rules

        return plan_by_rules(self.rules, device, arguments, allocated)
