"""Arguments of AITER's sizing and planning calls for tests, in the order in which a reader thinks of them."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from backend.aiter.arguments import BufferSizes, PlanArguments, SizingArguments, TargetGpu
from backend.aiter.planners import Plan, PlannerName, plan
from backend.aiter.release import release as named
from backend.aiter.sizing import buffer_sizes
from backend.case import Arch, DType

DATA = Path(__file__).parent.parent / "data"
MI355X = TargetGpu(Arch.GFX950, 256)
MI300X = TargetGpu(Arch.GFX942, 304)
FP8, BF16 = DType.FP8, DType.BF16

FLAGS = {PlannerName.V1_0: (False, True), PlannerName.V1_1: (False, False), PlannerName.V1_2: (True, False)}
"""fast_mode, intra_batch_mode of each planner."""


def indptr(lengths: list[int]) -> np.ndarray:
    return np.concatenate(([0], np.cumsum(lengths))).astype(np.int32)


def planning(planner: PlannerName, heads: int, kv_lens: list[int], **changes: Any) -> PlanArguments:
    """One query a sequence, page 1, granularity 16, fp8, at most 64 pieces, unless `changes` say otherwise."""
    queries = changes.pop("queries", 1)
    query_lens = changes.pop("query_lens", [queries] * len(kv_lens))
    fast_mode, intra_batch_mode = FLAGS[planner]
    arguments: dict[str, Any] = {
        "qo_indptr": indptr(query_lens),
        "kv_indptr": indptr(kv_lens),
        "kv_last_page_lens": np.ones(len(kv_lens), np.int32),
        "num_heads_per_head_k": heads,
        "num_heads_k": 1,
        "is_causal": False,
        "page_size": 1,
        "kv_granularity": 16,
        "max_seqlen_qo": queries,
        "uni_seqlen_qo": queries,
        "topk": -1,
        "fast_mode": fast_mode,
        "max_split_per_batch": 64,
        "intra_batch_mode": intra_batch_mode,
        "q_dtype": FP8,
        "kv_dtype": FP8,
    }
    return PlanArguments(**(arguments | changes))


def sizing(arguments: PlanArguments, **changes: Any) -> SizingArguments:
    """The sizing call of a caller that makes no mistake."""
    values: dict[str, Any] = {
        "batch": len(arguments.kv_indptr) - 1,
        "max_seqlen_q": arguments.max_seqlen_qo,
        "num_head": arguments.num_heads_per_head_k,
        "q_dtype": arguments.q_dtype,
        "kv_dtype": arguments.kv_dtype,
        "is_sparse": arguments.topk >= 0,
        "fast_mode": arguments.fast_mode,
        "num_kv_splits": arguments.max_split_per_batch,
        "intra_batch_mode": arguments.intra_batch_mode,
    }
    return SizingArguments(**(values | changes))


def planned(release: str, device: TargetGpu, arguments: PlanArguments) -> Plan:
    """Size by AITER's rule, then plan."""
    rules = named(release)
    return plan(rules.planners, device, arguments, buffer_sizes(rules.sizing, device, sizing(arguments)))


class Recorded:
    """One recorded call of a real planner (see tests/data/PLANNERS.md)."""

    def __init__(self, line: dict[str, Any]) -> None:
        fields = dict(line["args"])
        self.release = named(line["release"])
        self.planner = PlannerName(line["planner"])
        self.device = TargetGpu(Arch(fields.pop("arch")), fields.pop("num_cu"))
        for name in ("qo_indptr", "kv_indptr", "kv_last_page_lens"):
            fields[name] = np.array(fields[name], np.int32)
        fields |= {"q_dtype": DType(fields["q_dtype"]), "kv_dtype": DType(fields["kv_dtype"])}
        fast_mode, intra_batch_mode = FLAGS[self.planner]
        self.arguments = PlanArguments(fast_mode=fast_mode, intra_batch_mode=intra_batch_mode, **fields)
        self.rejected: bool = line.get("rejected", False)
        self.allocated = BufferSizes(1, 8, 1, 2, 1) if self.rejected else BufferSizes(**line["allocated"])
        self.written: dict[str, list[tuple[int, list[int]]]] = line.get("written", {})
        self.past_end: dict[str, int] = line.get("past_end") or {}
        self.before_start: dict[str, int] = line.get("before_start") or {}


def recorded(name: str) -> Iterator[Recorded]:
    with gzip.open(DATA / name, "rt") as file:
        for line in file:
            yield Recorded(json.loads(line))
