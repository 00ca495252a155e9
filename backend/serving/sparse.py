"""Sparse attention: a list of tokens for each query row in place of all tokens of its request, as AITER's planner lays it out.

Row r has topk entries of kv_indices for its list, from r * topk on, of which min(kv_len, topk) are used and the rest hold -1;
kv_indptr counts all tokens of a request. (op_tests/test_mla_sparse.py and the sparse path of v1_2_device.cuh.) Frameworks that
pack their lists end to end and do not name topk when planning make plain calls of one row a request. Knows no backend.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from backend.decision import Decision

TOPK = 2048
"""Tokens that a row attends to at most in the models that are served (index_topk of DeepSeek-V3.2 and GLM-5)."""

UNUSED = -1
"""What the entries of a list hold that no token is chosen for."""


def with_lists(decision: Decision, topk: int) -> Decision:
    """The calls of a persistent decision in fast mode with page size 1, its kv_indices a page table, as sparse ones."""
    planning, sizing, decode = decision.planning, decision.sizing, decision.decode
    assert planning is not None
    assert sizing is not None
    lens = np.repeat(decision.kv_lens, decision.query_lens)
    starts = np.repeat(decode.kv_indptr[:-1], decision.query_lens)
    lists = np.full((len(lens), topk), UNUSED, np.int32)
    for row, (length, start) in enumerate(zip(lens.tolist(), starts.tolist(), strict=True)):
        chosen = chosen_tokens(length, topk)
        lists[row, : len(chosen)] = decode.kv_indices[start + chosen]
    return dataclasses.replace(
        decision,
        kv_lens=tuple(np.minimum(lens, topk).tolist()),
        query_lens=(1,) * len(lens),
        sizing=dataclasses.replace(sizing, is_sparse=True),
        planning=dataclasses.replace(planning, topk=topk, max_seqlen_qo=1, uni_seqlen_qo=1),
        decode=dataclasses.replace(decode, kv_indices=lists.reshape(-1), max_seqlen_q=1),
        topk=topk,
    )


def chosen_tokens(length: int, topk: int) -> np.ndarray:
    """The tokens of a request of `length` that a row's list names, ascending and spread evenly: [min(length, topk)] int64."""
    count = min(length, topk)
    return np.arange(count, dtype=np.int64) * length // max(count, 1)


def lists_of_rows(kv_lens: Sequence[int], query_lens: Sequence[int], topk: int = TOPK) -> list[np.ndarray]:
    """The tokens that each row attends to, by position in its request, request by request: of those that the row sees.

    kv_lens, query_lens: tokens and q rows of each request; its last row sees all of its tokens, each before one less.
    """
    pairs = zip(kv_lens, query_lens, strict=True)
    return [chosen_tokens(length - count + row + 1, topk) for length, count in pairs for row in range(count)]
