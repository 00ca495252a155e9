"""The Decision: what a serving backend hands to AITER for one Case. Knows no planner and no launcher.

A policy makes it from a Case (backend/serving); a recording of a real backend file makes it from what the file did.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from backend.aiter.arguments import DecodeArguments, Int32Array, PlanArguments, SizingArguments
from backend.case import Case, MetadataMode


@dataclass(frozen=True, eq=False)  # no slots: what is derived is kept
class Decision:
    """The three calls of one decode step and what the backend knows of the batch.

    kv_lens, query_lens: KV tokens and q rows of every request that is run, graph padding included, so that
    len(kv_lens) is the batch that the kernels see; the first case.batch of them are the case's own. Of a rank of a
    context-parallel group kv_lens are the tokens that it holds.
    topk: 0, or the entries of kv_indices that each query row has for its list; every row is then a request of one row.
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
    topk: int = 0

    @cached_property
    def tokens(self) -> npt.NDArray[np.int64]:
        """kv_lens as an array: [batch] int64."""
        return np.asarray(self.kv_lens, np.int64)

    @cached_property
    def rows(self) -> npt.NDArray[np.int64]:
        """query_lens as an array: [batch] int64."""
        return np.asarray(self.query_lens, np.int64)

    @property
    def list_indptr(self) -> Int32Array:
        """Where the pages of each request begin in kv_indices: [requests + 1] or as many as the caller's kv_indptr has.

        Of lists shorter than topk the last entries are nobody's.
        """
        if not self.topk:
            return self.decode.kv_indptr
        return np.arange(len(self.kv_lens) + 1, dtype=np.int32) * np.int32(self.topk)

    def visible(self, fold: int = 1) -> npt.NDArray[np.int64]:
        """How many tokens of its request each query row sees, from the first on: [rows] of all requests, one after the other.

        fold: how many times each request's rows stand there, one time after the other.

        Under the causal mask row r of n sees all but the last n - 1 - r. A rank of a context-parallel group sees of the tokens
        that it holds those that are not behind the row's own place among all tokens.
        """
        decode, rows, tokens = self.decode, np.repeat(self.rows, fold), np.repeat(self.tokens, fold)
        if not decode.option("causal", default=True):
            return np.repeat(tokens, rows)
        if decode.g_kv_indptr is None:
            return seen_under_mask(tokens, rows)
        seen = seen_under_mask(np.repeat(np.diff(decode.g_kv_indptr), fold), rows)
        return np.clip((seen - 1 - decode.cp_rank) // decode.cp_world_size + 1, 0, np.repeat(tokens, rows))

    @property
    def held_pages(self) -> Int32Array:
        """The entries of kv_indices that are a request's, in their order."""
        indices = self.decode.kv_indices
        if not self.topk:
            return indices[: max(int(self.decode.kv_indptr[-1]), 0)]
        place = np.arange(len(indices)) % self.topk
        return indices[place < np.repeat(self.tokens, self.topk)[: len(indices)]]


def seen_under_mask(tokens: npt.ArrayLike, rows: npt.ArrayLike) -> npt.NDArray[np.int64]:
    """Tokens that each row sees: row r of n sees all but the last n - 1 - r of its request's; [all rows] int64."""
    each, length = np.asarray(rows, np.int64), np.asarray(tokens, np.int64)
    row = np.arange(each.sum()) - np.repeat(np.cumsum(each) - each, each)
    seen: npt.NDArray[np.int64] = np.maximum(np.repeat(length - each + 1, each) + row, 0)
    return seen


@dataclass(frozen=True, slots=True)
class Refused:
    """The backend itself does not take this case (sglang raises for 12 heads): counted, not a finding."""

    case: Case
    reason: str
