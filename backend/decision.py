"""The Decision: what a serving backend hands to AITER for one Case. Knows no planner and no launcher.

A policy makes it from a Case (backend/serving); a recording of a real backend file makes it from what the file did.
"""

from __future__ import annotations

from dataclasses import dataclass

from backend.aiter.arguments import DecodeArguments, PlanArguments, SizingArguments
from backend.case import Case, MetadataMode


@dataclass(frozen=True, slots=True, eq=False)
class Decision:
    """The three calls of one decode step and what the backend knows of the batch.

    kv_lens, query_lens: KV tokens and q rows of every request that is run, graph padding included, so that
    len(kv_lens) is the batch that the kernels see; the first case.batch of them are the case's own.
    head_repeat: how often q's heads are repeated to reach the kernel's minimum (4 heads: 4, 8 heads: 2).
    sizing and planning are None exactly where mode is NON_PERSISTENT; decode.metadata is always None here (AITER's
    host side fills it from what sizing says).
    """

    case: Case
    mode: MetadataMode
    kv_lens: tuple[int, ...]
    query_lens: tuple[int, ...]
    head_repeat: int
    sizing: SizingArguments | None
    planning: PlanArguments | None
    decode: DecodeArguments


@dataclass(frozen=True, slots=True)
class Refused:
    """The backend itself does not take this case (sglang raises for 12 heads): counted, not a finding."""

    case: Case
    reason: str
