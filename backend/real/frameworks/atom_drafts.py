"""The decodes of ATOM's draft model, which shares the target's builder and plan: EagleProposer of
atom/spec_decode/eagle_proposer.py (ROCm/ATOM ffdf3bb5d), the part of it that touches metadata.

The first pass has all rows of the verification before it; then a request has one row, and what was rejected is none of its
tokens any more.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

MANY_HEADS = 32
"""Heads of which EagleProposer has no plan brought up to date, but plans anew."""


class Drafting:
    """Metadata of one batch from verification on. kv_lens: tokens of the requests in the next pass; each: rows of a request."""

    def __init__(self, built: Any, metadata: Any, kv_lens: tuple[int, ...], each: int) -> None:
        self._builder, self._variables, self._metadata = built.builder, built.runner.forward_vars, metadata
        self._each, self._passes = each, 0
        self._rejected = np.arange(len(kv_lens), dtype=np.int32) % 2
        self.kv_lens = tuple((np.array(kv_lens) - self._rejected).tolist())
        self.positions = torch.tensor(self.kv_lens, dtype=torch.int64, device="cuda")

    def next(self) -> Any:
        """The metadata of the next pass, of one more token a request."""
        variables, metadata, count = self._variables, self._metadata, len(self.kv_lens)
        if not self._passes:
            self._to_one_row(count)
        self.kv_lens = tuple(length + 1 for length in self.kv_lens)
        metadata.max_seqlen_k += 1
        updates = self._builder.num_attention_heads != MANY_HEADS
        planned = self._builder.prepare_mtp_decode(
            count,
            self._each if updates else 1,
            metadata.max_seqlen_k,
            self.positions,
            only_update=updates,
            num_reject_tokens=torch.from_numpy(self._rejected).to("cuda") if not self._passes else None,
            update_context_lens=True,
            positions_out=self.positions,
        )
        metadata.__dict__.update(planned)
        metadata.slot_mapping[:] = variables["kv_indices"].gpu[variables["kv_indptr"].gpu[1 : count + 1] - 1]
        self._passes += 1
        return metadata

    def _to_one_row(self, count: int) -> None:
        variables, metadata = self._variables, self._metadata
        metadata.max_seqlen_q = 1
        for name, held in (("cu_seqlens_q", count + 1), ("slot_mapping", count), ("kv_indptr", count + 1)):
            setattr(metadata, name, variables[name].gpu[:held])
        metadata.kv_indices = variables["kv_indices"].gpu
        metadata.kv_last_page_lens = variables["kv_last_page_lens"].gpu[:count]
        metadata.block_tables, metadata.context_lens = (
            variables[name].gpu[:count] for name in ("block_tables", "context_lens")
        )
        if "sparse_kv_indptr" in variables:
            metadata.sparse_kv_indptr = variables["sparse_kv_indptr"].gpu[: count + 1]
            metadata.sparse_kv_last_page_lens = variables["sparse_kv_last_page_lens"].gpu[:count]
        variables["cu_seqlens_q"].gpu[: count + 1] = torch.arange(count + 1, dtype=torch.int32)
        variables["kv_indptr"].gpu[1 : count + 1] -= torch.from_numpy(np.cumsum(self._rejected).astype(np.int32))
