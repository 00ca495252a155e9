"""The contract of a serving policy, and the assembly of its choice into AITER's three calls.

A policy answers one question: for this case, which flags and sizes does the backend hand to AITER? It is a function
`(Case) -> Choice` that raises `CaseRefused` for what the backend does not take. Everything that follows from the
batch alone (index tensors, padding rows) is built here, the same way for every policy; what would take gigabytes or minutes to
build is not modelled, which is known before anything of it is.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple, TypeVar

import numpy as np

from backend.aiter.arguments import DecodeArguments, Int32Array, PlanArguments, SizingArguments
from backend.aiter.release import release
from backend.aiter.splits import SplitsAsked, choose_splits
from backend.case import Case, DType, MetadataMode, PageOrder
from backend.decision import Decision, Refused
from backend.errors import UnmodelledError
from backend.serving.sparse import UNUSED, with_lists
from backend.words import counted

OWN_RULE_ADVICE = "or your own as module:name, path/to/file.py[:name] (a function of a Case that returns a Choice) or rule.toml"
"""How a rule is named that is not built in."""


class LastPageLens(StrEnum):
    """What the backend writes into kv_last_page_lens."""

    TOKENS_IN_LAST_PAGE = "tokens in the last page"  # in [1, page_size], as AITER wants it
    WHOLE_SEQUENCE = "sequence length"  # vllm#31282


class CaseRefused(Exception):  # noqa: N818  (it is an answer of the policy, not an error of the program)
    """Raised by a policy for a case that its backend does not take; the message is the reason."""


@dataclass(frozen=True, slots=True)
class Choice:
    """What a backend decides for a case; the names are those of AITER's and sglang's arguments.

    A rule names what it decides: the mode, and whatever else it does not leave as the case has it (None) or as serving
    backends have it (any other default).

    num_head: heads that planner and kernel are told of, after padding. None: case.num_head.
    head_repeat: how often each head of q is repeated on the way to num_head.
    max_split_per_batch: also handed to mla_decode_fwd as num_kv_splits; None lets AITER choose, which fake mode cannot.
    kernel_page_size: page size of the KV view that the kernel sees; 1 where the backend flattens its pages to tokens.
    sizing_batch, sizing_max_seqlen_q: what the six buffers are sized for. None: case.max_batch, the graph's batch or the batch
    that runs, the first that there is; case.max_seqlen_q.
    metadata_q_dtype, metadata_kv_dtype: the dtypes that the metadata calls are told, which need not be what q and the KV cache
    hold. None: what they hold.
    padding_kv_len: kv length that graph padding rows carry. None: their query rows, the least that is a request.
    index_batch: batch that the caller's own kv_indptr is allocated for; None: as many as are run.
    passes_page_size: whether the planner is told kernel_page_size (sglang does not: 1).
    captured_index_entries: entries of kv_indices while the graph was captured, by which AITER chose the splits of a
    non-persistent call for every replay; None: it chooses by the batch that runs.
    """

    mode: MetadataMode
    num_head: int | None = None
    head_repeat: int = 1
    max_split_per_batch: int | None = 64
    kernel_page_size: int = 1
    sizing_batch: int | None = None
    sizing_max_seqlen_q: int | None = None
    metadata_q_dtype: DType | None = None
    metadata_kv_dtype: DType | None = None
    kv_granularity: int = 16
    is_causal: bool = True
    padding_kv_len: int | None = None
    last_page_lens: LastPageLens = LastPageLens.TOKENS_IN_LAST_PAGE
    index_batch: int | None = None
    passes_page_size: bool = False
    captured_index_entries: int | None = None


class _Settled(NamedTuple):
    """What a choice comes to for its case where it leaves something as the case has it; the names are a Choice's."""

    num_head: int
    sizing_batch: int
    sizing_max_seqlen_q: int
    metadata_q_dtype: DType
    metadata_kv_dtype: DType
    padding_kv_len: int


def _settled(case: Case, choice: Choice) -> _Settled:
    return _Settled(
        num_head=_heads(case, choice),
        sizing_batch=_either(choice.sizing_batch, case.max_batch or case.graph_batch or case.batch),
        sizing_max_seqlen_q=_either(choice.sizing_max_seqlen_q, case.max_seqlen_q),
        metadata_q_dtype=_either(choice.metadata_q_dtype, case.q_dtype),
        metadata_kv_dtype=_either(choice.metadata_kv_dtype, case.kv_dtype),
        padding_kv_len=_either(choice.padding_kv_len, case.max_seqlen_q),
    )


def _heads(case: Case, choice: Choice) -> int:
    return max(_either(choice.num_head, case.num_head), case.padded_heads)


T = TypeVar("T")


def _either(chosen: T | None, of_case: T) -> T:
    return of_case if chosen is None else chosen


Policy = Callable[[Case], Choice]


def refuse_options(case: Case, framework: str, reasons: Mapping[str, str]) -> None:
    """Raises CaseRefused for an option of the call that a framework does not use, so that none is dropped silently.

    reasons: by field of a Case, why not; a field without one is refused in general words.
    """
    for field in case.options():
        if not field.of_model:
            general = f"{framework} leaves it at {field.neutral}"
            raise CaseRefused(f"{field.name}: {reasons.get(field.name, general)}")


def decide(policy: Policy, case: Case) -> Decision | Refused:
    """What the policy's backend hands to AITER for the case. Raises UnmodelledError where that is too much to run here."""
    try:
        choice = policy(case)
    except CaseRefused as refusal:
        return Refused(case, str(refusal))
    settled = _settled(case, choice)
    sized_for = max(settled.sizing_batch * settled.sizing_max_seqlen_q, settled.num_head, choice.max_split_per_batch or 0)
    require_feasible(case, choice.kernel_page_size, settled.padding_kv_len, sized_for)
    return _assembled(case, choice, settled)


def _assembled(case: Case, choice: Choice, settled: _Settled) -> Decision:
    """Builds the index tensors of the batch and AITER's three calls from a choice."""
    padding = (case.graph_batch or case.batch) - case.batch
    whole_lens = case.kv_lens + (settled.padding_kv_len,) * padding
    kv_lens = of_rank(whole_lens, case)
    query_lens = case.rows() + (case.max_seqlen_q,) * padding
    page = choice.kernel_page_size
    lens = np.asarray(kv_lens, np.int64)
    pages = lens if page == 1 else (lens + (page - 1)) // page
    qo_indptr = _indptr(np.asarray(query_lens, np.int64))
    kv_indptr = _indptr(pages)
    if choice.index_batch is not None and choice.index_batch + 1 < len(kv_indptr):
        kv_indptr = kv_indptr[: choice.index_batch + 1]  # what slicing a shorter allocation yields
    total_pages = int(pages.sum())
    last_page_lens = _last_page_lens(lens, pages, page, choice.last_page_lens)
    decode = DecodeArguments(
        q_rows=int(qo_indptr[-1]),
        num_head=settled.num_head,
        kv_pages=case.first_page + total_pages,
        page_size=page,
        q_dtype=case.q_dtype,
        kv_dtype=case.kv_dtype,
        qo_indptr=qo_indptr,
        kv_indptr=kv_indptr,
        kv_indices=_with_spare(_page_table(case, total_pages), case.spare_indices),
        kv_last_page_lens=last_page_lens,
        max_seqlen_q=case.max_seqlen_q,
        metadata=None,
        num_kv_splits=case.num_kv_splits or _captured_splits(case, choice) or choice.max_split_per_batch,
        intra_batch_mode=choice.mode is MetadataMode.FAKE,
        return_lse=case.return_lse,
        q_scale=case.q_scale,
        kv_scale=case.kv_scale,
        qk_head_dim=case.qk_head_dim,
        v_head_dim=case.kv_lora_rank,
        o_dtype=case.o_dtype,
        g_kv_indptr=_indptr(np.asarray(whole_lens, np.int64)) if case.cp_world_size else None,
        cp_world_size=case.cp_world_size or 1,
        cp_rank=case.cp_rank,
        sm_scale=None if case.sm_scale == 100 else case.sm_scale / 100 * case.qk_head_dim**-0.5,
        options=tuple((field.argument, getattr(case, field.name)) for field in case.options() if field.argument),
        q_gap=case.q_gap,
        o_gap=case.o_gap,
        kv_gap=case.kv_gap,
    )
    if choice.mode is MetadataMode.NON_PERSISTENT:
        return Decision(case, choice.mode, kv_lens, query_lens, choice.head_repeat, None, None, decode)
    sizing = SizingArguments(
        batch=settled.sizing_batch,
        max_seqlen_q=settled.sizing_max_seqlen_q,
        num_head=settled.num_head,
        q_dtype=settled.metadata_q_dtype,
        kv_dtype=settled.metadata_kv_dtype,
        is_sparse=False,
        fast_mode=choice.mode is MetadataMode.FAST,
        num_kv_splits=choice.max_split_per_batch,
        intra_batch_mode=choice.mode is MetadataMode.FAKE,
    )
    planning = PlanArguments(
        qo_indptr=qo_indptr,
        kv_indptr=kv_indptr,
        kv_last_page_lens=last_page_lens,
        num_heads_per_head_k=settled.num_head,
        num_heads_k=1,
        is_causal=choice.is_causal and case.causal,
        page_size=page if choice.passes_page_size else 1,
        kv_granularity=choice.kv_granularity,
        max_seqlen_qo=case.max_seqlen_q,
        uni_seqlen_qo=case.max_seqlen_q if case.query_lens is None else -1,
        topk=-1,
        fast_mode=sizing.fast_mode,
        max_split_per_batch=-1 if choice.max_split_per_batch is None else choice.max_split_per_batch,
        intra_batch_mode=sizing.intra_batch_mode,
        q_dtype=settled.metadata_q_dtype,
        kv_dtype=settled.metadata_kv_dtype,
        is_cp_round_robin=case.cp_world_size > 0,
    )
    decision = Decision(case, choice.mode, kv_lens, query_lens, choice.head_repeat, sizing, planning, decode)
    return with_lists(decision, case.topk) if case.topk else decision


def of_rank(lengths: tuple[int, ...], case: Case) -> tuple[int, ...]:
    """Tokens of each request that the case's rank holds, of all its tokens: every cp_world_size-th, from token cp_rank on."""
    world, rank = case.cp_world_size or 1, case.cp_rank
    if (world, rank) == (1, 0):
        return lengths
    return tuple(max(length - rank + world - 1, 0) // world for length in lengths)


def _captured_splits(case: Case, choice: Choice) -> int | None:
    """KV splits that a captured non-persistent call keeps; None where nothing was captured, or AITER refuses at capture."""
    if choice.captured_index_entries is None or choice.mode is not MetadataMode.NON_PERSISTENT:
        return None
    asked = SplitsAsked(
        num_cu=case.compute_units,
        requested=choice.max_split_per_batch,
        batch=case.graph_batch or case.batch,
        total_kv=choice.captured_index_entries,
        num_head=_heads(case, choice),
        max_seqlen_q=case.max_seqlen_q,
        q_dtype=case.q_dtype,
    )
    chosen = choose_splits(release(case.release).splits, asked)
    return None if isinstance(chosen, str) else chosen


def _indptr(counts: np.ndarray) -> Int32Array:
    indptr = np.zeros(len(counts) + 1, np.int32)
    indptr[1:] = counts.cumsum()  # a third of the time of a sum into int32
    return indptr


def _page_table(case: Case, total_pages: int) -> Int32Array:
    ids = _iota(total_pages)
    if case.first_page:
        ids = ids + np.int32(case.first_page)
    return ids[::-1].copy() if case.page_order is PageOrder.REVERSED else ids


def _with_spare(indices: Int32Array, spare: int) -> Int32Array:
    return np.concatenate((indices, np.full(spare, UNUSED, np.int32))) if spare else indices


_IOTA = np.zeros(0, np.int32)


def _iota(count: int) -> Int32Array:
    """0 .. count-1, a read-only view of one shared array: page tables of a batch can be megabytes and most start at 0."""
    global _IOTA
    if len(_IOTA) < count:
        grown = np.arange(max(count, 1 << 16), dtype=np.int32)
        grown.flags.writeable = False
        _IOTA = grown
    return _IOTA[:count]


def _last_page_lens(lens: np.ndarray, pages: np.ndarray, page: int, rule: LastPageLens) -> Int32Array:
    if rule is LastPageLens.WHOLE_SEQUENCE:
        return lens.astype(np.int32)
    if page == 1:
        return np.ones(len(lens), np.int32)
    return np.where(pages > 0, lens - (pages - 1) * page, min(1, page)).astype(np.int32)


MOST_ENTRIES = 1 << 27
"""Of the index tensors: 2.7 GB, and some ten seconds. A batch of 32 requests of MAX_KV_LEN tokens has as many."""

MOST_ROWS = 1 << 22
"""Query rows, padding included."""

BYTES_AN_ENTRY, BYTES_A_ROW = 21, 400
"""Resident at the most, measured on the device model."""


def require_feasible(case: Case, page: int, padding_kv_len: int, sized_for: int) -> None:
    """Raises UnmodelledError, with an estimate, for what would take gigabytes or minutes to run.

    page: tokens of a page as the kernel sees it; lists of a sparse case count with the pages. padding_kv_len: tokens of a
    padding row. sized_for: rows that buffers are sized for, or what else a rule chooses that grows them.
    """
    batch, longest = case.graph_batch or case.batch, max(max(case.kv_lens), padding_kv_len)
    most_rows = batch * case.max_seqlen_q
    if batch * -(-longest // page) + most_rows * case.topk <= MOST_ENTRIES and max(most_rows, sized_for) <= MOST_ROWS:
        return  # it would do if all were as long as the longest
    padding = batch - case.batch
    rows = sum(case.rows()) + padding * case.max_seqlen_q
    entries = sum(-(-length // page) for length in case.kv_lens) + padding * -(-padding_kv_len // page) + rows * case.topk
    rows = max(rows, sized_for)
    if entries <= MOST_ENTRIES and rows <= MOST_ROWS:
        return
    gigabytes = (entries * BYTES_AN_ENTRY + rows * BYTES_A_ROW) / 1e9
    raise UnmodelledError(
        f"too much work: {counted(entries, 'page')} of {counted(page, 'token')} and {counted(rows, 'row')} would take about "
        f"{gigabytes:,.1f} GB; up to "
        f"{MOST_ENTRIES:,} pages and {MOST_ROWS:,} rows are run: give fewer or shorter requests, or larger pages"
    )
