"""The Case: what is tried. The vocabulary that everything else speaks.

This module knows no policy, no planner and no device. A case is made of what a serving engineer would say of a
batch: heads per rank, lengths, page size, dtypes, the GPU, the release of AITER and the backend whose rule decides the rest.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from enum import StrEnum
from operator import attrgetter
from typing import Any

from backend.case_fields import CaseField, fields_of, limited, row
from backend.errors import UsageError
from backend.words import number_of


class Arch(StrEnum):
    """GPU architecture, as LLVM names it. gfx942: MI300X; gfx950: MI355X."""

    GFX942 = "gfx942"
    GFX950 = "gfx950"


class DType(StrEnum):
    """Element type of q or of the KV cache. fp8 is e4m3fnuz on gfx942 and e4m3fn (OCP) on gfx950; both 1 byte."""

    BF16 = "bf16"
    FP8 = "fp8"

    @property
    def itemsize(self) -> int:
        """The bytes that an element takes."""
        return 1 if self is DType.FP8 else 2


class OutputType(StrEnum):
    """Element type of o. AITER's kernels write bf16 whatever it is; the second stage converts to the types that it takes."""

    BF16 = "bf16"
    FP16 = "fp16"
    FP8 = "fp8"
    FP32 = "fp32"


class MetadataMode(StrEnum):
    """How work is planned, by the flags that a backend hands to AITER (fast_mode, intra_batch_mode, ps)."""

    NON_PERSISTENT = "non-persistent"  # no metadata: grid over batch and splits
    FAKE = "fake"  # persistent kernel, planner v1_0 (intra_batch_mode)
    GREEDY = "greedy"  # persistent kernel, planner v1_1
    FAST = "fast"  # persistent kernel, planner v1_2 (fast_mode)


class PageOrder(StrEnum):
    """Which physical pages of the pool the requests hold, in the order of their tokens."""

    SEQUENTIAL = "sequential"  # first_page, first_page + 1, ...
    REVERSED = "reversed"  # the same pages, handed out from the last to the first


NUM_CU: dict[Arch, int] = {Arch.GFX942: 304, Arch.GFX950: 256}
"""Compute units of a whole GPU in SPX mode: MI300X and MI355X (AITER reads them from the device)."""

QK_HEAD_DIM = 576
"""Elements of a q row for one head and of a KV token: 512 latent + 64 rope (DeepSeek MLA). AITER's kernels have it in their
code: they read as much whatever the tensors hold."""

V_HEAD_DIM = 512
"""Elements of an o row for one head; V is the first 512 of a KV token. In the kernels' code too."""

RELEASES = ("2025-11", "2026-06", "2026-08")
"""Releases of AITER whose host rules are built in; see backend/aiter/release.py."""


MAX_KV_LEN = 1 << 22
"""Longest request tried: 4 Mi tokens, above every model's context and below where int32 indptrs of a batch overflow."""

PAGE_SIZES = (1, 2, 4, 8, 16, 32, 64, 128, 256)
"""Tokens a page that AITER's launcher can tell a kernel, which is told the logarithm."""

HEAD_COUNTS = (1, 2, 4, 8, 16, 32, 48, 64, 80, 96, 112, 128)
"""Heads a rank that models and tensor parallelism lead to; sglang takes 4, 8 and the multiples of 16 of these."""


@dataclass(frozen=True, slots=True)
class Case:
    """One batch of MLA decode, as a serving backend would meet it. What each field means stands in its row.

    kv_lens has one entry a request, at least one request, each in [0, MAX_KV_LEN]; query_lens as many, each in
    [0, max_seqlen_q] and not all of them 0; graph_batch is at least as large as the batch. The pool of KV pages ends with
    the last page held.
    Raises UsageError for a value that is not allowed.
    """

    num_head: int = row(
        text="query heads of this rank as the model has them, before any padding",
        least=1,
        most=1024,
        steps=HEAD_COUNTS,
        formerly="--heads",
        special=True,
        shrunk=3,
    )
    kv_lens: tuple[int, ...] = row(text="KV tokens of each request, this step's included", special=True, shrunk=None)
    max_seqlen_q: int = row(
        1,
        "query rows a request: 1 in plain decode, the number of draft tokens under MTP",
        least=1,
        most=64,
        formerly="--qlen",
        special=True,
        shrunk=None,
    )
    query_lens: tuple[int, ...] | None = row(
        None,
        "rows of each request where they differ (ragged), 0 of one that has none in this step",
        word="rows",
        special=True,
        shrunk=None,
    )
    page_size: int = row(
        1,
        "tokens a KV page",
        choices=PAGE_SIZES,
        allowed="a power of two in 1..256",
        steps=PAGE_SIZES,
        word="page",
        special=True,
        shrunk=4,
    )
    q_dtype: DType = row(DType.FP8, "what q really holds", special=True, shrunk=1)  # noqa: RUF009  (a field, like the others)
    kv_dtype: DType = row(DType.FP8, "what the KV cache really holds", special=True, shrunk=2)  # noqa: RUF009
    arch: Arch = row(Arch.GFX950, "the GPU", special=True, shrunk=None)  # noqa: RUF009
    num_cu: int = row(
        0,
        "compute units; 0: the whole GPU",
        least=0,
        most=1024,
        allowed="0 (the whole GPU) or 1..1024",
        formerly="--cus",
        word="CUs",
        stands_after="mode",
        special=True,
        shrunk=7,
    )
    release: str = row("2026-06", "release of AITER", choices=RELEASES, special=True, shrunk=None)
    backend: str = row("sglang-27188", "whose rule decides", special=True, shrunk=None)
    mode: MetadataMode | None = row(  # noqa: RUF009
        None, "metadata mode to force, to try what a rule would bring; none: the backend decides", special=True, shrunk=8
    )
    graph_batch: int | None = row(
        None,
        "batch of the captured graph that this batch is replayed in; none: eager",
        least=1,
        most=65536,
        word="graph",
        special=True,
        shrunk=None,
    )
    max_batch: int | None = row(
        None,
        "batch that a framework allocates its buffers for (max_num_seqs); none: as captured or run",
        least=1,
        most=65536,
        word="max_batch",
        special=True,
        shrunk=None,
    )
    first_page: int = row(
        0, "id of the first physical page held", least=0, most=2**31 - 1, allowed="0..2^31-1", special=True, shrunk=6
    )
    page_order: PageOrder = row(  # noqa: RUF009
        PageOrder.SEQUENTIAL,
        "which physical pages the requests hold, in the order of their tokens",
        word="pages",
        stands_after="return_lse",
        special=True,
        shrunk=5,
    )
    return_lse: bool = row(
        False,
        "ask for the log-sum-exp of each row too, as context parallelism needs it (2026 on)",
        formerly="--lse",
        shrunk=9,
    )
    causal: bool = row(
        True,
        "whether a row is hidden from the tokens behind its own (an argument of mla_decode_fwd in 2026-08)",
        argument="causal",
    )
    num_kv_splits: int = row(
        0, "KV splits that mla_decode_fwd is asked for; 0: as the backend's rule does", least=0, most=1024, word="num_kv_splits"
    )
    q_scale: bool = row(True, "whether the scale of an fp8 q is handed over", word="q_scale")
    kv_scale: bool = row(True, "whether the scale of KV is handed over, where q or KV is fp8", word="kv_scale")
    sm_scale: int = row(
        100,
        "softmax scale, per cent of 1 / sqrt(elements of a q row); models with YaRN send more",
        least=1,
        most=1000,
        word="sm_scale %",
    )
    logit_cap: int = row(0, "cap of the logits, which AITER refuses; 0: none", least=0, most=1000, argument="logit_cap")
    topk: int = row(
        0,
        "tokens that each query row attends to at most, from a list of its own (sparse attention); 0: all",
        least=0,
        most=65536,
    )
    cp_world_size: int = row(
        0,
        "ranks of a context-parallel group, to which KV is dealt token by token (2026-08 on); 0: no group",
        least=0,
        most=64,
        word="ranks",
    )
    cp_rank: int = row(
        0,
        "which rank of the group this is: it holds every cp_world_size-th token, from token cp_rank of a request on",
        least=0,
        most=63,
        below="cp_world_size",
        word="rank",
    )
    spare_indices: int = row(
        0, "entries of kv_indices behind the last that is used, which hold -1", least=0, most=65536, word="spare indices"
    )
    o_dtype: OutputType = row(  # noqa: RUF009
        OutputType.BF16, "element type of the output tensor that the caller hands over", word="o"
    )
    kv_lora_rank: int = row(
        V_HEAD_DIM, "latent elements of a KV token, which are V, and of an o row", least=16, most=1024, of_model=True
    )
    qk_rope_head_dim: int = row(
        QK_HEAD_DIM - V_HEAD_DIM, "rope elements behind the latent ones; 0: rope-free", least=0, most=256, of_model=True
    )
    padded_heads: int = row(
        0,
        "query heads that AITER is told of at least: a model's fewer ones (12, say) are padded with heads that nobody reads",
        least=0,
        most=1024,
        steps=(0, *HEAD_COUNTS),
        word="padded to heads",
    )
    q_gap: int = row(
        0,
        "elements between the rows of q that are not its own, as in a view of a larger tensor; AITER takes q without any",
        least=0,
        most=65536,
        word="gaps in q",
    )
    o_gap: int = row(
        0,
        "elements between the rows of o that are not its own; a kernel that writes o itself knows nothing of them",
        least=0,
        most=65536,
        word="gaps in o",
    )
    kv_gap: int = row(
        0,
        "elements between the pages of the pool that are not its own, as where the pages of several layers alternate",
        least=0,
        most=65536,
        word="gaps in the pool",
    )

    def __post_init__(self) -> None:
        for name, check in _LIMITED:
            check(getattr(self, name))
        batch = len(self.kv_lens)
        _require("kv_lens", self.kv_lens, batch >= 1, "one length a request, at least one request")
        _require("kv_lens", self.kv_lens, all(0 <= n <= MAX_KV_LEN for n in self.kv_lens), f"lengths in 0..{MAX_KV_LEN}")
        if self.query_lens is not None:
            fits = len(self.query_lens) == batch and all(0 <= n <= self.max_seqlen_q for n in self.query_lens)
            allowed = f"{number_of(batch, 'entry')} in 0..max_seqlen_q={self.max_seqlen_q}, not all of them 0"
            _require("query_lens", self.query_lens, fits and any(self.query_lens), allowed)
        for name, limit in _BELOW:
            most = max(getattr(self, limit) - 1, 0)
            _require(name, getattr(self, name), getattr(self, name) <= most, f"0..{most}, with {limit} {getattr(self, limit)}")
        _require("graph_batch", self.graph_batch, self.graph_batch is None or self.graph_batch >= batch, f">= batch {batch}")

    @property
    def batch(self) -> int:
        """The number of requests in the batch."""
        return len(self.kv_lens)

    @property
    def compute_units(self) -> int:
        """CUs that the planner is told of."""
        return self.num_cu or NUM_CU[self.arch]

    @property
    def qk_head_dim(self) -> int:
        """Elements of a q row for one head and of a KV token."""
        return self.kv_lora_rank + self.qk_rope_head_dim

    def rows(self) -> tuple[int, ...]:
        """Query rows of each request."""
        return self.query_lens if self.query_lens is not None else (self.max_seqlen_q,) * self.batch

    def options(self) -> tuple[CaseField, ...]:
        """The ordinary fields that are not neutral, in their order."""
        values = _ordinary_values(self)
        return () if values == _NEUTRAL else tuple(e for e, value in zip(ORDINARY, values, strict=True) if value != e.neutral)

    def with_field(self, name: str, value: object) -> Case:
        """A copy with one field changed, and what must stay below it brought there."""
        changes: dict[str, Any] = {name: value, **{each: getattr(self, each) for each, limit in _BELOW if limit == name}}
        keep_below(changes)
        return self.replace(**changes)

    def replace(self, **changes: object) -> Case:
        """A copy with some fields changed; raises UsageError where the result is not a valid case."""
        return dataclasses.replace(self, **changes)  # type: ignore[arg-type]


def keep_below(fields: dict[str, Any]) -> None:
    """Brings what must stay below another field's value there. fields: of a case by name, those left out being neutral."""
    for name, limit in _BELOW:
        if name in fields:
            fields[name] %= max(fields.get(limit, 0), 1)


def _require(field: str, given: object, holds: bool, allowed: str) -> None:
    if not holds:
        raise UsageError.not_allowed(f"case field {field}", given, allowed)


FIELDS: tuple[CaseField, ...] = fields_of(Case)
"""The rows of a Case, in the order of its fields."""

ORDINARY: tuple[CaseField, ...] = tuple(each for each in FIELDS if each.ordinary)
"""Those that are drawn by themselves, over the values that a specification names."""

_ordinary_values = attrgetter(*(each.name for each in ORDINARY))
_NEUTRAL = tuple(each.neutral for each in ORDINARY)

_LIMITED = limited(FIELDS)
_BELOW = tuple((each.name, each.below) for each in FIELDS if each.below)
