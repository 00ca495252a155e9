"""The recordings in tests/data/revisions, line by line."""

from __future__ import annotations

import json
import lzma
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from backend.aiter.arguments import BufferSizes, DecodeArguments, PlanArguments, SizingArguments, TargetGpu
from backend.case import Arch, DType
from backend.revision.tensors import ShapedTensor

FOLDER = Path(__file__).parents[1] / "data" / "revisions"

REVISIONS = ("v0.1.9", "v0.1.10.post3", "a6bb49937", "v0.1.13.post1", "7d604afe5", "9127c94a1", "v0.1.16.post5", "v0.1.19")


@cache
def lines(name: str) -> list[dict[str, Any]]:
    """All lines of planners or launches."""
    with lzma.open(FOLDER / f"{name}.jsonl.xz", "rt", encoding="utf-8") as stream:
        return [json.loads(line) for line in stream]


def of(name: str, revision: str) -> list[dict[str, Any]]:
    """Lines of one revision."""
    return [line for line in lines(name) if line["rev"] == revision]


def device(arguments: dict[str, Any]) -> TargetGpu:
    """The GPU of a call."""
    return TargetGpu(Arch(arguments["arch"]), arguments["num_cu"])


def _dtype(name: str | None) -> DType:
    return DType.BF16 if name is None else DType(name)


def plan_arguments(line: dict[str, Any]) -> PlanArguments:
    """Arguments of get_mla_metadata_v1."""
    given = line["args"]
    arrays = {name: np.array(given[name], np.int32) for name in ("qo_indptr", "kv_indptr", "kv_last_page_lens")}
    names = (
        "num_heads_per_head_k",
        "num_heads_k",
        "is_causal",
        "page_size",
        "kv_granularity",
        "max_seqlen_qo",
        "uni_seqlen_qo",
    )
    return PlanArguments(
        **arrays,
        **{name: given[name] for name in (*names, "topk", "max_split_per_batch")},
        fast_mode=line["planner"] == "v1_2",
        intra_batch_mode=line["planner"] == "v1_0",
        q_dtype=_dtype(given["q_dtype"]),
        kv_dtype=_dtype(given["kv_dtype"]),
        is_cp_round_robin=bool(given.get("is_cp_round_robin")),
    )


def more_arguments(line: dict[str, Any]) -> dict[str, Any]:
    """Arguments that newer revisions have."""
    names = ("mla_version", "dtype_q_rope", "dtype_kv_rope")
    return {name: line["args"][name] for name in names if line["args"].get(name) is not None}


def sizing_arguments(line: dict[str, Any]) -> SizingArguments:
    """Arguments of get_mla_metadata_info_v1."""
    given = line["sizing"]
    return SizingArguments(
        batch=given["batch_size"],
        max_seqlen_q=given["max_seqlen_qo"],
        num_head=given["num_head_qo"],
        q_dtype=_dtype(given["q_dtype"]),
        kv_dtype=_dtype(given["kv_dtype"]),
        is_sparse=given["is_sparse"],
        fast_mode=given["fast_mode"],
        num_kv_splits=given["num_kv_splits"],
        intra_batch_mode=given["intra_batch_mode"],
        max_split_per_batch=given["max_split_per_batch"],
    )


RECORDED_WORDS = 160
"""Characters of a planner's refusal that the recordings kept."""


def same_words(said: str | None, reason: str) -> bool:
    """Whether a planner refuses in the recorded words, as far as those were kept; they begin with the check's name."""
    words = reason.removeprefix("TORCH_CHECK: ")
    return said is not None and (said == words or (len(reason) == RECORDED_WORDS and said.startswith(words)))


def written(line: dict[str, Any], buffer: str) -> dict[int, int]:
    """Words that a recorded planner wrote to a buffer, by number."""
    runs = line["written"].get(buffer, [])
    return {first + place: value for first, values in runs for place, value in enumerate(values)}


def decode_arguments(line: dict[str, Any]) -> DecodeArguments:
    """Arguments of mla_decode_fwd."""
    case = line["case"]
    page, queries, batch = case["page_size"], case["max_seqlen_q"], len(case["kv_lens"])
    kv_indptr = np.cumsum([0] + [-(-tokens // page) for tokens in case["kv_lens"]]).astype(np.int32)
    pages = int(kv_indptr[-1])
    options: list[tuple[str, object]] = [(name, case[name]) for name in ("cp_world_size", "cp_rank", "causal") if name in case]
    if case.get("g_kv_indptr"):
        options.append(("g_kv_indptr", ShapedTensor((batch + 1,), "int32", "g_kv_indptr")))
    return DecodeArguments(
        q_rows=batch * queries,
        num_head=case["nhead"],
        kv_pages=pages,
        page_size=page,
        q_dtype=DType(case["q_dtype"]),
        kv_dtype=DType(case["kv_dtype"]),
        qo_indptr=(np.arange(batch + 1) * queries).astype(np.int32),
        kv_indptr=kv_indptr,
        kv_indices=np.zeros(pages, np.int32),
        kv_last_page_lens=np.ones(batch, np.int32),
        max_seqlen_q=queries,
        metadata=BufferSizes(**case["metadata"]) if case.get("metadata") else None,
        num_kv_splits=case["num_kv_splits"],
        intra_batch_mode=case["persistent"] and case["mode"] == "v1_0",
        return_lse=case["return_lse"],
        options=tuple(options),
    )
