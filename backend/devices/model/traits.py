"""What the model knows of one kernel beyond its kernargs: a row of a table that was drawn from runs of its machine code.

The table (traits.csv, by the git object id of the code object) says what the binary does, not what it should do. `python -m
backend.experiments.kernel_traits` draws it. A packed row is one head of one query: what the rows of a kernel's tile are.
"""

from __future__ import annotations

import csv
from collections.abc import Callable
from dataclasses import dataclass, fields
from enum import StrEnum
from functools import cache
from importlib.resources import files
from typing import Any

import numpy as np

from backend.case import QK_HEAD_DIM
from backend.errors import CannotRunError

UNLIMITED = 1 << 30

HALF_MENDED = 56
"""See KernelTraits.page_bits: v_mul_u32_u24 left for the low half of a product whose high half is v_mul_hi_u32's."""


class KernelPaging(StrEnum):
    """What a kernel takes a KV position of its work for."""

    INDEX = "index"  # an entry of kv_indices: the first token of that page, whatever the page size
    PAGE = "page"  # an entry of kv_indices: that whole page
    TOKEN = "token"  # a token: entry kv_begin >> s_log2_plen of kv_indices, that page's tokens from its first on, then the next


class Backward(StrEnum):
    """What a persistent kernel makes of an item whose KV ends before it begins."""

    EMPTY = "empty"  # the same as of one without KV
    HANG = "hang"  # its loop counts down from nearly 2^32
    TILE = "tile"  # it runs one tile, whose entries of kv_indices nothing limits


class Single(StrEnum):
    """What a non-persistent kernel does with one split."""

    PARTIAL = "partial"  # fp32 rows and their log-sum-exp, as with many
    BF16 = "bf16"  # bf16 rows to logits, no log-sum-exp
    RP = "ptr_RP"  # bf16 rows through ptr_RP, no log-sum-exp


class Layout(StrEnum):
    """Where a non-persistent kernel puts the packed rows of split z of S of a request of H heads whose first token is f."""

    TOKEN = "token"  # token t at ((f + t) * S + z) * H, what the second stage reads
    SPLIT = "split"  # f * S * H + z * s_MQA, then all rows of the request: the same for one query only
    SPACED = "spaced"  # f * S * H, then all rows, whatever the split, and no further than the request's splits reach
    PLAIN = "plain"  # f * H, then all rows, whatever the split


@dataclass(frozen=True, slots=True)
class RowRule:
    """How many packed rows are touched for a piece of work that has n of them: n, but at least `least` and at most `most`.

    Written in the table as "item" (n), "N" (always N), "<=N", or "s_MQA" (always as many as that kernarg says).
    """

    least: int = 0
    most: int = UNLIMITED
    by_kernarg: bool = False

    @classmethod
    def parse(cls, text: str) -> RowRule:
        """From the table; raises CannotRunError for what is none of these."""
        if text == "item":
            return cls()
        if text == "s_MQA":
            return cls(by_kernarg=True)
        number = text.removeprefix("<=")
        if not number.isdecimal():
            raise CannotRunError(f"traits.csv: given a row rule {text!r}; allowed: item, s_MQA, N, <=N")
        return cls(0 if text != number else int(number), int(number))

    def __str__(self) -> str:
        if self.by_kernarg:
            return "s_MQA"
        if self.most == UNLIMITED:
            return "item"
        return str(self.most) if self.least else f"<={self.most}"

    def bounds(self, s_mqa: int) -> tuple[int, int]:
        """Least and most packed rows at a launch."""
        return (s_mqa, s_mqa) if self.by_kernarg else (self.least, self.most)


@dataclass(frozen=True, slots=True)
class KernelTraits:
    """Measured behaviour of a code object. The defaults are those of a kernel that was never measured.

    blob_id: git object id. arch, code_object: for readers of the table.
    q_rows, o_rows, partial_rows, lse_rows, final_lse_rows: packed rows of q read, and of o, logits, attn_lse and final_lse
    written. q_slack: bytes of q that loads reach beyond the last row; q_slack_clamped: up to the end of the request's rows.
    stops_at_empty: a work item without KV ends its workgroup, so that the items behind it are not done; otherwise it is
    skipped. backward: see Backward.
    token_bytes: bytes of a token that are read. tile: KV positions that are fetched at a time; positions past the end of the
    work are clamped to page 0, which is fetched. ahead: a further tile is fetched always.
    rows_of_s_mqa: of a persistent kernel: a query has as many packed rows as s_MQA says, not as q has heads.
    paging: see KernelPaging. page_bits: bits that page_id * stride keeps (32; 24: of the page id, and 32 of the product;
    HALF_MENDED: all, but the low 32 are worked out from 24 bits of the page id).
    Non-persistent kernels only: q_by_request, rows_by_request: rows of q read and rows written for request b begin at b *
    max_seqlen_q, not at qo_indptr[b]. q_by_stride: a row of q is as long as s_Q_Bs says, not as in the kernel's code.
    x_rows: packed rows from one workgroup to the next in x, 0: as the launcher counts them (sub_q). causal: a tile's KV ends
    where its last query's does. single: see Single. layout, lse_layout: see Layout. reads_last_page_lens, reads_qo_indptr:
    whether those are read, given that their kernarg is; of a persistent kernel the latter stands for g_kv_indptr too.
    low_words: kernargs of which only the low four bytes are read. runs_without_rows: what a request without query rows asks of
    q and the KV pool is fetched all the same.
    """

    blob_id: str = ""
    arch: str = ""
    code_object: str = ""
    q_rows: RowRule = RowRule()
    q_slack: int = 0
    q_slack_clamped: bool = True
    o_rows: RowRule = RowRule()
    partial_rows: RowRule = RowRule()
    lse_rows: RowRule = RowRule()
    final_lse_rows: RowRule = RowRule()
    stops_at_empty: bool = True
    backward: Backward = Backward.EMPTY
    token_bytes: int = 0
    tile: int = 64
    ahead: bool = False
    paging: KernelPaging = KernelPaging.INDEX
    page_bits: int = 64
    q_by_request: bool = False
    q_by_stride: bool = False
    rows_by_request: bool = False
    causal: bool = False
    single: Single = Single.PARTIAL
    x_rows: int = 0
    layout: Layout = Layout.TOKEN
    lse_layout: Layout = Layout.TOKEN
    reads_last_page_lens: bool = False
    reads_qo_indptr: bool = True
    low_words: str = ""
    rows_of_s_mqa: bool = False
    runs_without_rows: bool = False

    def bytes_of_token(self, itemsize: int) -> int:
        """Bytes of a token that are read; a kernel that was never measured reads them all. itemsize: of the pool's elements."""
        return self.token_bytes or QK_HEAD_DIM * itemsize


UNMEASURED = KernelTraits()
"""Of a code object that was not measured."""

COLUMNS = tuple(field.name for field in fields(KernelTraits))

_READERS: dict[str, Callable[[str], object]] = {
    "RowRule": RowRule.parse,
    "int": int,
    "bool": lambda text: text == "1",
    "str": str,
    "KernelPaging": KernelPaging,
    "Single": Single,
    "Layout": Layout,
    "Backward": Backward,
}


def to_row(traits: KernelTraits) -> dict[str, str]:
    """A row of the table."""
    values = {name: getattr(traits, name) for name in COLUMNS}
    return {name: str(int(value)) if isinstance(value, bool) else str(value) for name, value in values.items()}


def from_row(row: dict[str, str]) -> KernelTraits:
    """The traits of a row of the table."""
    values: dict[str, Any] = {field.name: _READERS[str(field.type)](row[field.name]) for field in fields(KernelTraits)}
    return KernelTraits(**values)


def read_table() -> dict[str, KernelTraits]:
    """All measured kernels, by blob id, as the file has them now."""
    text = files(__package__).joinpath("traits.csv").read_text(encoding="utf-8")
    rows = csv.DictReader(line for line in text.splitlines() if not line.startswith("#"))
    return {row["blob_id"]: from_row(row) for row in rows}


def page_begins(page: int, stride: int, page_bits: int) -> int:
    """The byte of the pool that a kernel takes a page to begin at: of page * stride it may keep some bits (page_bits) alone."""
    product = page * stride
    if page_bits == 24:
        return int(((page & 0xFFFFFF) * stride) & np.int64(0xFFFFFFFF))
    if page_bits == 32:
        return int(product & np.int64(0xFFFFFFFF))
    if page_bits == HALF_MENDED:
        return int((product >> 32 << 32) + (((page & 0xFFFFFF) * stride) & np.int64(0xFFFFFFFF)))
    return product


@cache
def traits_table() -> dict[str, KernelTraits]:
    """The table, read once."""
    return read_table()


def traits(blob_id: str | None) -> KernelTraits:
    """The traits of a code object; defaults where it was not measured."""
    return traits_table().get(blob_id or "", UNMEASURED)
