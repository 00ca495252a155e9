"""What a caller can do about a fault of its own: other arguments for the same batch, tried on the model before they are told.

Knows decisions and how a path runs one; nothing of how a script or a text tells of it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from backend.aiter.arguments import Int32Array
from backend.decision import Decision
from backend.outcome import Outcome


class DecisionRunner(Protocol):
    """What is needed of a backend.path.Path."""

    def run_decision(self, decision: Decision) -> Outcome:
        """The outcome of a decision."""
        ...


@dataclass(frozen=True, slots=True)
class Fix:
    """Arguments under which the same batch is silent. difference: from the caller's, in a few words."""

    difference: str
    decision: Decision


def fix_of(outcome: Outcome, path: DecisionRunner) -> Fix | None:
    """The first of the known remedies that makes the batch silent; None where none does (the fault is not the caller's)."""
    if outcome.decision is None:
        return None
    for difference, decision in _remedies(outcome.decision):
        tried = path.run_decision(decision)
        if tried.refused is None and not tried.findings:
            return Fix(difference, decision)
    return None


def _remedies(decision: Decision) -> Iterator[tuple[str, Decision]]:
    if decision.sizing is not None and decision.planning is not None:
        if not decision.planning.fast_mode:
            yield "fast_mode=True, intra_batch_mode=False", _fast(decision)
        if decision.planning.q_dtype is not decision.decode.q_dtype:
            yield "the metadata told the dtype that q has", _typed(decision)
        yield "buffers sized for what runs", _sized(decision)
    yield "kv_last_page_lens in [1, page_size]", _last_pages(decision)


def _fast(decision: Decision) -> Decision:
    assert decision.sizing is not None
    assert decision.planning is not None
    return dataclasses.replace(
        decision,
        sizing=dataclasses.replace(decision.sizing, fast_mode=True, intra_batch_mode=False),
        planning=dataclasses.replace(decision.planning, fast_mode=True, intra_batch_mode=False),
        decode=dataclasses.replace(decision.decode, intra_batch_mode=False),
    )


def _typed(decision: Decision) -> Decision:
    assert decision.sizing is not None
    assert decision.planning is not None
    q_dtype = decision.decode.q_dtype
    return dataclasses.replace(
        decision,
        sizing=dataclasses.replace(decision.sizing, q_dtype=q_dtype),
        planning=dataclasses.replace(decision.planning, q_dtype=q_dtype),
    )


def _sized(decision: Decision) -> Decision:
    assert decision.sizing is not None
    assert decision.planning is not None
    batch, rows = len(decision.kv_lens), decision.planning.max_seqlen_qo
    kv_indptr = np.zeros(batch + 1, np.int32)
    np.cumsum(_pages(decision), out=kv_indptr[1:])
    return dataclasses.replace(
        decision,
        sizing=dataclasses.replace(decision.sizing, batch=batch, max_seqlen_q=rows),
        planning=dataclasses.replace(decision.planning, kv_indptr=kv_indptr),
        decode=dataclasses.replace(decision.decode, kv_indptr=kv_indptr),
    )


def _last_pages(decision: Decision) -> Decision:
    lens = decision.tokens
    page = decision.decode.page_size
    last = np.where(lens > 0, lens - (_pages(decision) - 1) * page, 1).astype(np.int32)
    planning = decision.planning and dataclasses.replace(decision.planning, kv_last_page_lens=last)
    return dataclasses.replace(decision, planning=planning, decode=dataclasses.replace(decision.decode, kv_last_page_lens=last))


def _pages(decision: Decision) -> Int32Array:
    """KV pages of each request that runs."""
    page = decision.decode.page_size
    pages: Int32Array = np.asarray([-(-length // page) for length in decision.kv_lens], np.int32)
    return pages
