"""The Case: what is tried. The vocabulary that everything else speaks.

This module knows no policy, no planner and no device. A case is made of what a serving engineer would say of a
batch: heads per rank, lengths, page size, dtypes, the GPU, the release of AITER and the backend whose rule decides the rest.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from enum import StrEnum

from backend.errors import UsageError


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
        """Bytes an element."""
        return 1 if self is DType.FP8 else 2


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
"""Elements of a q row for one head and of a KV token: 512 latent + 64 rope (DeepSeek MLA)."""

V_HEAD_DIM = 512
"""Elements of an o row for one head; V is the first 512 of a KV token."""

RELEASES = ("2025-11", "2026-06", "2026-08")
"""Releases of AITER whose host rules are built in; see backend/aiter/release.py."""


@dataclass(frozen=True, slots=True)
class Case:
    """One batch of MLA decode, as a serving backend would meet it.

    num_head: query heads of this rank as the model has them (before any padding), at least 1.
    kv_lens: KV tokens of each request, this step's included; one entry a request, at least one request, each >= 0.
    max_seqlen_q: query rows of a request (1 in plain decode, the number of draft tokens under MTP), >= 1.
    query_lens: rows of each request where they differ (ragged), each in [1, max_seqlen_q]; None: all max_seqlen_q.
    page_size: tokens a KV page; q_dtype, kv_dtype: what the tensors really hold.
    num_cu: compute units; 0 means the whole GPU of `arch`.
    mode: None lets the backend decide; otherwise the metadata mode is forced, to try what a rule would bring.
    graph_batch: batch size of the captured graph that this batch is replayed in, >= len(kv_lens); None: eager.
    max_batch: the batch that a framework allocates its buffers for (max_num_seqs), None: as captured or run.
    first_page: id of the first physical page held; first_page + pages held is the size of the pool.
    return_lse: whether the log-sum-exp of each row is asked for too, as context parallelism needs it (2026 on).
    """

    num_head: int
    kv_lens: tuple[int, ...]
    max_seqlen_q: int = 1
    query_lens: tuple[int, ...] | None = None
    page_size: int = 1
    q_dtype: DType = DType.FP8
    kv_dtype: DType = DType.FP8
    arch: Arch = Arch.GFX950
    num_cu: int = 0
    release: str = "2026-06"
    backend: str = "sglang-27188"
    mode: MetadataMode | None = None
    graph_batch: int | None = None
    max_batch: int | None = None
    first_page: int = 0
    page_order: PageOrder = PageOrder.SEQUENTIAL
    return_lse: bool = False

    def __post_init__(self) -> None:
        _require("num_head", self.num_head, 1 <= self.num_head <= 1024, "1..1024")
        _require("kv_lens", self.kv_lens, len(self.kv_lens) >= 1, "one length a request, at least one request")
        _require("kv_lens", self.kv_lens, all(0 <= n <= MAX_KV_LEN for n in self.kv_lens), f"lengths in 0..{MAX_KV_LEN}")
        _require("max_seqlen_q", self.max_seqlen_q, 1 <= self.max_seqlen_q <= 64, "1..64")
        _require("page_size", self.page_size, self.page_size in (1, 2, 4, 8, 16, 32, 64, 128, 256), "a power of two in 1..256")
        _require("num_cu", self.num_cu, 0 <= self.num_cu <= 1024, "0 (the whole GPU) or 1..1024")
        _require("release", self.release, self.release in RELEASES, ", ".join(RELEASES))
        _require("first_page", self.first_page, 0 <= self.first_page < 2**31, "0..2^31-1")
        batch = len(self.kv_lens)
        if self.query_lens is not None:
            fits = len(self.query_lens) == batch and all(1 <= n <= self.max_seqlen_q for n in self.query_lens)
            _require("query_lens", self.query_lens, fits, f"{batch} entries in 1..max_seqlen_q={self.max_seqlen_q}")
        for name in ("graph_batch", "max_batch"):
            value = getattr(self, name)
            _require(name, value, value is None or (1 <= value <= 65536), "null or 1..65536")
        _require("graph_batch", self.graph_batch, self.graph_batch is None or self.graph_batch >= batch, f">= batch {batch}")

    @property
    def batch(self) -> int:
        """Number of requests."""
        return len(self.kv_lens)

    @property
    def compute_units(self) -> int:
        """CUs that the planner is told of."""
        return self.num_cu or NUM_CU[self.arch]

    def rows(self) -> tuple[int, ...]:
        """Query rows of each request."""
        return self.query_lens if self.query_lens is not None else (self.max_seqlen_q,) * self.batch

    def replace(self, **changes: object) -> Case:
        """A copy with some fields changed; raises UsageError where the result is not a valid case."""
        return dataclasses.replace(self, **changes)  # type: ignore[arg-type]


MAX_KV_LEN = 1 << 22
"""Longest request tried: 4 Mi tokens, above every model's context and below where int32 indptrs of a batch overflow."""


def _require(field: str, given: object, holds: bool, allowed: str) -> None:
    if not holds:
        raise UsageError.not_allowed(f"case field {field}", given, allowed)
