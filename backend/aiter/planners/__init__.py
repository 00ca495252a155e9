"""AITER's metadata planners, release by release: `plan` is what get_mla_metadata_v1 does to a caller's five buffers.

Source: csrc/kernels/mla/metadata.cu and csrc/kernels/mla/metadata/ of each release. Knows neither serving backends nor
kernels that read a plan. The compiled planners are in v1_0.py, v1_1.py, v1_2.py (2026), v1_2_parallel.py (2026-08) and
v1_2_first.py (2025-11); the rules that they are launched by in rules.py.
"""

from __future__ import annotations

from backend.aiter.planners.branches import Branch
from backend.aiter.planners.result import Overrun, Plan, PlannedBuffer, PlannerName, StrayRead
from backend.aiter.planners.run import planner_for
from backend.aiter.planning import plan
from backend.cxx.arithmetic import POISON

__all__ = [
    "POISON",
    "Branch",
    "Overrun",
    "Plan",
    "PlannedBuffer",
    "PlannerName",
    "StrayRead",
    "plan",
    "planner_for",
]
