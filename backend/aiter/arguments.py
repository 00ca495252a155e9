"""What a serving backend hands to AITER: one record for each of the three public calls of an MLA decode step.

These are plain arguments, as recorded or as decided; nothing here computes. Arrays are int32, one-dimensional, C-contiguous
and must not be written to by whoever receives them.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from backend.case import QK_HEAD_DIM, V_HEAD_DIM, Arch, DType, MetadataMode, OutputType

Int32Array = npt.NDArray[np.int32]


@dataclass(frozen=True, slots=True)
class SizingArguments:
    """Arguments of `aiter.get_mla_metadata_info_v1`, the call that says how large the six metadata buffers must be.

    max_split_per_batch: the planner's cap, known to the sizing of 2026-08 only; AITER's default -1 where a caller leaves it
    out, as sglang and vLLM do.
    """

    batch: int
    max_seqlen_q: int
    num_head: int
    q_dtype: DType
    kv_dtype: DType
    is_sparse: bool
    fast_mode: bool
    num_kv_splits: int | None
    intra_batch_mode: bool
    max_split_per_batch: int = -1


@dataclass(frozen=True, slots=True)
class BufferSizes:
    """int32 words of each metadata buffer, except work_metadata (2 x u64: 4 words). Exclusive ends."""

    work_indptr: int  # num_cu + 1
    work_info_set: int  # 8 words an item
    reduce_indptr: int
    reduce_final_map: int  # 2 words a row
    reduce_partial_map: int


@dataclass(frozen=True, slots=True, eq=False)
class PlanArguments:
    """Arguments of `aiter.get_mla_metadata_v1`, the call that fills the six buffers.

    qo_indptr, kv_indptr: [batch + 1]; kv_last_page_lens: [batch]. kv_indptr counts pages.
    is_cp_round_robin: KV is dealt to the ranks of a context-parallel group token by token, so that a tile's end says nothing
    of what its last query may see; an argument of 2026-08 on.
    """

    qo_indptr: Int32Array
    kv_indptr: Int32Array
    kv_last_page_lens: Int32Array
    num_heads_per_head_k: int
    num_heads_k: int
    is_causal: bool
    page_size: int
    kv_granularity: int
    max_seqlen_qo: int
    uni_seqlen_qo: int
    topk: int
    fast_mode: bool
    max_split_per_batch: int
    intra_batch_mode: bool
    q_dtype: DType
    kv_dtype: DType
    is_cp_round_robin: bool = False

    @property
    def mode(self) -> MetadataMode:
        """Which planner the two flags ask for; fast_mode goes first."""
        if self.fast_mode:
            return MetadataMode.FAST
        return MetadataMode.FAKE if self.intra_batch_mode else MetadataMode.GREEDY


INDEX_TENSORS = ("qo_indptr", "kv_indptr", "kv_indices", "kv_last_page_lens")
"""Of every decode call, whose kernels read int32 words from their addresses on."""

SCALES = ("q_scale", "kv_scale")
"""Tensors that hold one factor each, of which kernels are told the address."""

STRIDED = "strided"
"""What an index tensor is called whose elements do not lie one behind the other."""


@dataclass(frozen=True, eq=False)  # no slots: what is derived is kept
class DecodeArguments:
    """Arguments of `aiter.mla.mla_decode_fwd`, tensors by shape and dtype, index tensors by content.

    q: [q_rows, num_head, qk_head_dim] of q_dtype; o: [output_rows, num_head, v_head_dim] of o_dtype;
    kv_buffer: [kv_pages, page_size, 1, qk_head_dim] of kv_dtype. q_gap, o_gap, kv_gap: elements between their rows or pages
    that are not theirs (views of larger tensors).
    metadata: sizes of the six tensors as allocated by the caller, None for a non-persistent call.
    num_kv_splits: None lets AITER choose. page_size: second dimension of kv_buffer.
    q_scale, kv_scale: whether they are handed over; where no type is fp8 it makes no difference.
    g_kv_indptr, cp_world_size, cp_rank: of a rank of a context-parallel group, whose kv_indptr and kv_indices name the tokens
    that it holds (token j of them is token j * cp_world_size + cp_rank of the request); g_kv_indptr counts all tokens, None
    for a call of no such rank. Arguments of 2026-08 on.
    sm_scale: softmax scale; None: 1 / sqrt(qk_head_dim).
    o_rows: rows of o where they are not q's. AITER makes its partial rows and final_lse for as many, and looks at q's nowhere.
    o_heads: heads of o where they are not q's: AITER does not look, and what is then stored where is not modelled.
    not_words: index tensors that are not 32-bit integers one behind the other, as (name, dtype or STRIDED), and scales that are
    not float32; their content here is what lies from their addresses on, which is what AITER reads.
    options: further keyword arguments, those alone that differ from AITER's defaults, as (name, value).
    """

    q_rows: int
    num_head: int
    kv_pages: int
    page_size: int
    q_dtype: DType
    kv_dtype: DType
    qo_indptr: Int32Array
    kv_indptr: Int32Array
    kv_indices: Int32Array
    kv_last_page_lens: Int32Array
    max_seqlen_q: int
    metadata: BufferSizes | None
    num_kv_splits: int | None
    intra_batch_mode: bool
    return_lse: bool = False
    options: tuple[tuple[str, object], ...] = ()
    q_scale: bool = True
    kv_scale: bool = True
    qk_head_dim: int = QK_HEAD_DIM
    v_head_dim: int = V_HEAD_DIM
    o_dtype: OutputType = OutputType.BF16
    g_kv_indptr: Int32Array | None = None
    cp_world_size: int = 1
    cp_rank: int = 0
    sm_scale: float | None = None
    q_gap: int = 0
    o_gap: int = 0
    kv_gap: int = 0
    not_words: tuple[tuple[str, str], ...] = ()
    o_rows: int | None = None
    o_heads: int | None = None

    @property
    def output_rows(self) -> int:
        """Rows of o: those of q where o_rows says nothing else."""
        return self.q_rows if self.o_rows is None else self.o_rows

    def with_metadata(self, metadata: BufferSizes | None) -> DecodeArguments:
        """The same call with metadata tensors of these sizes; as dataclasses.replace, in a tenth of its time."""
        made = object.__new__(DecodeArguments)
        made.__dict__.update(self.__dict__, metadata=metadata)
        return made

    @cached_property
    def named_pages(self) -> tuple[int, int]:
        """The lowest and the highest entry of kv_indices, which has one at least."""
        return int(self.kv_indices.min()), int(self.kv_indices.max())

    @property
    def softmax_scale(self) -> float:
        """What the scores are multiplied by."""
        return self.qk_head_dim**-0.5 if self.sm_scale is None else self.sm_scale

    def option(self, name: str, default: object) -> object:
        """The value of a keyword argument; `default` is AITER's own."""
        return next((value for given, value in self.options if given == name), default)

    @property
    def page_bytes(self) -> int:
        """Bytes from page to page of the pool, s_Bs of the kernel; of a pool without pages too."""
        return (self.page_size * self.qk_head_dim + self.kv_gap) * self.kv_dtype.itemsize

    @property
    def token_bytes(self) -> int:
        """Bytes of a token of the pool."""
        return self.qk_head_dim * self.kv_dtype.itemsize


@dataclass(frozen=True, slots=True)
class TargetGpu:
    """The GPU as AITER's host code sees it."""

    arch: Arch
    num_cu: int

    @property
    def lds_bytes(self) -> int:
        """Local memory of a compute unit (hipDeviceProp_t.maxSharedMemoryPerMultiProcessor)."""
        return LDS_BYTES[self.arch]


LDS_BYTES = {Arch.GFX942: 65536, Arch.GFX950: 163840}
"""Local memory of a compute unit, bytes."""
