"""What a child is told of one Call for our own kernels: sizes, index tensors as the planner left them, and what is right.

Plain data from a Call, JSON both ways; imports neither torch nor triton. Index tensors and plan go as base64 of int32 words,
from the first to the last word written, so that a planner's overrun lies in the red zones as it would lie in memory.
"""

from __future__ import annotations

import base64
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from backend.aiter.arguments import INDEX_TENSORS, Int32Array
from backend.aiter.planners.branches import Branch
from backend.call import Call
from backend.case import QK_HEAD_DIM, V_HEAD_DIM, DType, OutputType
from backend.decision import seen_under_mask
from backend.errors import UnmodelledError


@dataclass(frozen=True, slots=True)
class Words:
    """int32 words. first: word of the tensor, counted from its start, that data begins with (negative: before it)."""

    first: int
    data: str

    @classmethod
    def of(cls, words: Int32Array, first: int = 0) -> Words:
        """Takes the words of an array."""
        return cls(first, base64.b64encode(np.ascontiguousarray(words, "<i4").tobytes()).decode())

    @property
    def array(self) -> Int32Array:
        """The words as a read-only array."""
        return np.frombuffer(base64.b64decode(self.data), "<i4")


@dataclass(frozen=True, slots=True)
class KernelRun:
    """One launch and its merge. heads, fold, rows: as the kernel sees them (q: [rows, heads, 576]).

    sizes: bytes of each tensor. words: contents of the index tensors and, for a persistent call, of the plan's buffers.
    uniform: every request has max_seqlen_q queries. ends_per_query: each item is one query and ends where that query may see
    to (v1_0 for 128 heads; AITER's kernels without a mask rely on it), so that no row hides anything.
    programs: workgroups of a persistent launch (compute units planned for).
    tiles: reduce tiles. splits, min_split: of a call without a plan. kv_lens, query_lens: what the case says.
    """

    seed: int
    q_dtype: DType
    kv_dtype: DType
    heads: int
    fold: int
    rows: int
    q_copied: bool
    max_seqlen_q: int
    uniform: bool
    ends_per_query: bool
    page_size: int
    persistent: bool
    programs: int
    tiles: int
    splits: int
    min_split: int
    logits_is_o: bool
    stores_lse: bool
    sizes: Mapping[str, int]
    words: Mapping[str, Words]
    kv_lens: tuple[int, ...]
    query_lens: tuple[int, ...]

    @property
    def visible(self) -> npt.NDArray[np.int64]:
        """See Decision.visible; this kernel hides by the causal mask alone."""
        return seen_under_mask(self.kv_lens, self.query_lens)

    @property
    def queries_that_hide(self) -> int:
        """The kernel's uniform_queries, n: row r hides the last n - 1 - r % n tokens of its request. 0: by qo_indptr."""
        if self.ends_per_query:
            return 1
        return self.max_seqlen_q if self.uniform else 0


def tensor_sizes(call: Call) -> dict[str, int]:
    """Bytes of each tensor that has memory of its own."""
    launch, stage = call.launched, call.launched.second_stage
    sizes = {name: spec.nbytes for name, spec in launch.tensors.items() if name not in launch.aliases}
    if stage.stores_lse and "final_lse" not in sizes:
        sizes["final_lse"] = stage.tensors["final_lse"].nbytes
    return sizes


def kernel_run_of(call: Call, seed: int = 0) -> KernelRun:
    """The run of our kernels for a call that has a launch and whose plan, if it has one, was not rejected.

    Raises UnmodelledError for what our own kernel is not made for.
    """
    launch, decode, decision = call.launched, call.decode, call.decision
    if (
        (decode.qk_head_dim, decode.v_head_dim) != (QK_HEAD_DIM, V_HEAD_DIM)
        or decode.options
        or decode.g_kv_indptr is not None
        or decode.sm_scale is not None
        or not (decode.q_scale and decode.kv_scale)
        or decode.o_dtype is not OutputType.BF16
        or decision.topk
        or launch.tensors["o"].gap
        or launch.tensors["kv_buffer"].gap
    ):
        raise UnmodelledError(
            f"our own kernel is for rows of {QK_HEAD_DIM} and {V_HEAD_DIM} under the causal mask, with scales, o in "
            "bf16 and all tokens of a request, on no rank of a group, by the usual softmax scale, without gaps between rows"
        )
    stage = launch.second_stage
    words = {name: Words.of(getattr(decode, name)) for name in INDEX_TENSORS}
    if launch.persistent:
        assert call.plan is not None
        words |= {name: Words.of(buffer.image, buffer.first) for name, buffer in call.plan.buffers.items()}
    else:
        batch = len(decode.qo_indptr) - 1
        words["num_kv_splits_indptr"] = Words.of(np.arange(batch + 1, dtype=np.int32) * np.int32(launch.num_kv_splits))
    return KernelRun(
        seed=seed,
        q_dtype=decode.q_dtype,
        kv_dtype=decode.kv_dtype,
        heads=launch.heads_in_kernel,
        fold=launch.fold,
        rows=decode.q_rows * launch.fold,
        q_copied=launch.q_copied,
        max_seqlen_q=launch.max_seqlen_q,
        uniform=set(decision.query_lens) == {launch.max_seqlen_q},
        ends_per_query=call.plan is not None and bool(call.plan.branches & Branch.PER_QUERY_ENDS),
        page_size=decode.page_size,
        persistent=launch.persistent,
        programs=launch.grid[0],
        tiles=stage.tiles,
        splits=launch.num_kv_splits,
        min_split=max(stage.mgc, 1),
        logits_is_o=stage.logits_is_o,
        stores_lse=stage.stores_lse,
        sizes=tensor_sizes(call),
        words=words,
        kv_lens=decision.kv_lens,
        query_lens=decision.query_lens,
    )
