"""From a call of `mla_decode_fwd` to the kernel launch that AITER makes of it, or to why it makes none.

Fold, kernel, grid, kernargs, tensors as stage 1 sees them, and the second stage. Nothing here depends on what index tensors
contain, only on their lengths, so that all but the shapes is remembered from call to call. Sources: aiter/mla.py and
csrc/py_itfs_cu/asm_mla.cu of each release. It knows nothing of what a kernel then touches.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

from backend.aiter.arguments import INDEX_TENSORS, SCALES, BufferSizes, DecodeArguments, TargetGpu
from backend.aiter.codefiles import CodeSource
from backend.aiter.fold import FoldedHeads, fold_heads
from backend.aiter.kernargs import Kernarg, KernargValue, layout, pack
from backend.aiter.kernel_rules import KernelKey
from backend.aiter.kernels import KernelChoice, NoKernel, TableKey, choose_kernel, source_table
from backend.aiter.reduction import SecondStage, SecondStageKind, reduce_stage
from backend.aiter.release import PublicCalls, Release
from backend.aiter.rules import Unfolded
from backend.aiter.splits import SplitsAsked, choose_splits
from backend.aiter.tensors import ELEMENT_OF, ELEMENT_OF_OUTPUT, NO_VIEW, ElementType, TensorSpec
from backend.case import Arch, DType
from backend.errors import UnmodelledError
from backend.words import number_of

BLOCK = (256, 1, 1)
"""Threads of a workgroup: 4 waves of 64."""


OPTIONS = frozenset({"causal", "logit_cap"})
"""Options of the call (DecodeArguments.options) that this module has rules for; any other is not dropped but not modelled."""


@dataclass(frozen=True, slots=True)
class Launch:
    """Stage 1 as launched; not to be written to, mappings included.

    symbol: kernel in the ELF; code_object: file name below hsa/<arch>/mla; blob_id: its git object id, where known.
    persistent: as launched, which is not always as asked (2026-08 leaves persistent mode at large batches).
    max_seqlen_q: of the call. grid: workgroups; block: threads. tensors: as stage 1 sees them, folded; q_copied: q is a
    rearranged copy then, and o is rearranged back afterwards. num_kv_splits: second dimension of logits.
    sub_q, s_mqa: see kernel_rules.Route. shadowed: see KernelChoice. raises_afterwards: why mla_decode_fwd raises although
    it has launched both stages.
    """

    release: Release
    symbol: str
    code_object: str
    blob_id: str | None
    arch: Arch
    persistent: bool
    fold: int
    heads_in_kernel: int
    max_seqlen_q: int
    q_copied: bool
    grid: tuple[int, int, int]
    block: tuple[int, int, int]
    sub_q: int
    s_mqa: int
    kernargs: tuple[Kernarg, ...]
    tensors: Mapping[str, TensorSpec]
    num_kv_splits: int
    second_stage: SecondStage
    shadowed: tuple[str, ...] = ()
    raises_afterwards: str | None = None

    @property
    def v_head_dim(self) -> int:
        """Elements of a row of o and of logits for one head, as the tensors have them."""
        return self.tensors["o"].shape[-1]

    @property
    def aliases(self) -> Mapping[str, str]:
        """Tensors that are views of another tensor's memory, by name."""
        return {"logits": "o"} if self.second_stage.logits_is_o else {}


@dataclass(frozen=True, slots=True)
class Refusal:
    """AITER raises instead of launching. raised_by: its function; missing_key: what the kernel table lacks, if that is why.

    ends_process: AITER does not raise but ends the process (std::abort, exit or a signal), which no caller can catch.
    """

    raised_by: str
    reason: str
    missing_key: TableKey | None = None
    ends_process: bool = False


def kernarg_bytes(launch: Launch, addresses: Mapping[str, int], unset: int = 0) -> bytes:
    """The launch's kernel argument segment. addresses: of each tensor of launch.tensors, in bytes; logits may be left out where
    they alias o. unset: the byte that fills what the launcher never sets (padding; in 2025-11 some fields too)."""
    for name, target in launch.aliases.items():
        if target in addresses:
            addresses = {**addresses, name: addresses[target]}
    return pack(launch.kernargs, addresses, unset)


def launch(
    release: Release,
    device: TargetGpu,
    arguments: DecodeArguments,
    source: CodeSource | None = None,
    folded: FoldedHeads | None = None,
) -> Launch | Refusal:
    """What `mla_decode_fwd` launches. source: where the code object must be found; its own kernel table, if any, is used.
    folded: the fold of a revision whose rule is not built in; None: by the release's rule.

    The six metadata tensors are those of `arguments.metadata`. What
    AITER does by environment variable only (AITER_ENABLE_EXPERIMENTAL, AITER_MLA_USE_OPUS, ...) is off.
    """
    for name, value in arguments.options:
        if name not in OPTIONS:
            raise UnmodelledError(f"mla_decode_fwd({name}={value!r}): what it does is not modelled")
    cap = arguments.option("logit_cap", default=0)
    if isinstance(cap, int | float) and cap > 0:
        return Refusal("mla_decode_fwd", f"asserts: logit_cap={cap!r} is not support yet")
    batch = len(arguments.qo_indptr) - 1
    metadata = arguments.metadata
    if metadata is not None and release.decode.leaves_persistent_mode(device, arguments, batch):
        metadata = None
    splits: int | str = 1 if metadata is not None else _splits(release, device, arguments, batch)
    if isinstance(splits, str):
        return Refusal("mla_decode_fwd", splits)
    ragged = metadata is not None and arguments.max_seqlen_q > 0 and arguments.q_rows % arguments.max_seqlen_q != 0
    if ragged and not _folds_ragged(release, device, arguments):
        reason = f"q.reshape: {arguments.q_rows} rows do not divide into groups of {number_of(arguments.max_seqlen_q, 'query')}"
        return Refusal("mla_decode_fwd", reason)
    shape = _Shape(
        num_head=arguments.num_head,
        q_dtype=arguments.q_dtype,
        kv_dtype=arguments.kv_dtype,
        max_seqlen_q=arguments.max_seqlen_q,
        page_size=arguments.page_size,
        persistent=metadata is not None,
        splits=splits,
        return_lse=arguments.return_lse,
        intra_batch_mode=arguments.intra_batch_mode,
        causal=bool(arguments.option("causal", default=True)),
        q_scale=arguments.q_scale,
        kv_scale=arguments.kv_scale,
        qk_head_dim=arguments.qk_head_dim,
        round_robin=arguments.g_kv_indptr is not None,
        cp_world_size=arguments.cp_world_size,
        cp_rank=arguments.cp_rank,
        scale=arguments.softmax_scale,
        page_bytes=arguments.page_bytes,
        q_is_apart=arguments.q_gap > 0 and arguments.q_rows > 1,
        o_is_apart=arguments.o_gap > 0 and arguments.output_rows > 1,
    )
    plan = _plan(release, device, source, shape, folded)
    if isinstance(plan, Refusal):
        return plan
    if plan.folded.fold > 1 and arguments.output_rows != arguments.q_rows:
        rows = f"{number_of(arguments.q_rows, 'row')} of q and {arguments.output_rows} of o"
        return Refusal("mla_decode_fwd", f"q.view: {rows} do not fold alike")
    if metadata is None:
        return _split_launch(release, device, arguments, plan, batch, splits)
    return _persistent_launch(release, device, arguments, metadata, plan)


def _splits(release: Release, device: TargetGpu, arguments: DecodeArguments, batch: int) -> int | str:
    asked = SplitsAsked(
        num_cu=device.num_cu,
        requested=arguments.num_kv_splits,
        batch=batch,
        total_kv=len(arguments.kv_indices),
        num_head=arguments.num_head,
        max_seqlen_q=arguments.max_seqlen_q,
        q_dtype=arguments.q_dtype,
    )
    return choose_splits(release.splits, asked)


def _folds_ragged(release: Release, device: TargetGpu, arguments: DecodeArguments) -> bool:
    """Whether q can be rearranged although its rows are no multiple of max_seqlen_q; true where it is not rearranged at all.

    The last dimension of the reshape is inferred, so that what is left over may go into it: scrambled, but accepted.
    """
    folded = fold_heads(
        release.fold, device, arguments.q_dtype, arguments.kv_dtype, arguments.num_head, arguments.max_seqlen_q, persistent=True
    )
    return folded is None or not folded.copied or _reshapes(arguments, arguments.qk_head_dim)


def _reshapes(arguments: DecodeArguments, row_elements: int) -> bool:
    grouped = arguments.q_rows // arguments.max_seqlen_q * arguments.max_seqlen_q
    return grouped > 0 and arguments.q_rows * row_elements % grouped == 0


def _raises_afterwards(release: Release, arguments: DecodeArguments, folded: FoldedHeads, partial_rows: int) -> str | None:
    """Undoing the fold, after both stages have been launched."""
    if folded.fold == 1:
        return None
    if release.decode.unfolded is Unfolded.LOGITS_BY_VIEW:
        unfolds = partial_rows % folded.fold == 0
        return None if unfolds else f"logits.view: {partial_rows} partial rows do not divide by the fold {folded.fold}"
    if not folded.copied or arguments.q_rows % arguments.max_seqlen_q == 0:
        return None
    if not _reshapes(arguments, arguments.v_head_dim):
        return f"o.reshape: {arguments.q_rows} rows do not divide into groups of {number_of(arguments.max_seqlen_q, 'query')}"
    return "final_lse.reshape: rows do not divide into groups of queries" if arguments.return_lse else None


class _Shape(NamedTuple):
    """A call without its batch."""

    num_head: int
    q_dtype: DType
    kv_dtype: DType
    max_seqlen_q: int
    page_size: int
    persistent: bool
    splits: int
    return_lse: bool
    intra_batch_mode: bool
    causal: bool
    q_scale: bool
    kv_scale: bool
    qk_head_dim: int
    round_robin: bool
    cp_world_size: int
    cp_rank: int
    scale: float
    page_bytes: int
    q_is_apart: bool
    o_is_apart: bool


@dataclass(frozen=True, slots=True)
class _Plan:
    """What does not depend on how many requests there are."""

    folded: FoldedHeads
    kernel: KernelChoice
    kernargs: tuple[Kernarg, ...]
    logits_is_o: bool
    mgc: int


@lru_cache(maxsize=16384)
def _plan(
    release: Release, device: TargetGpu, source: CodeSource | None, shape: _Shape, folded: FoldedHeads | None
) -> _Plan | Refusal:
    heads, queries = shape.num_head, shape.max_seqlen_q
    if shape.return_lse and not release.has_return_lse:
        return Refusal("mla_decode_fwd", f"release {release.name} has no argument return_lse")
    if shape.intra_batch_mode and not release.has_v1_0:
        return Refusal("mla_decode_fwd", f"release {release.name} has no argument intra_batch_mode")
    if folded is None:
        folded = fold_heads(release.fold, device, shape.q_dtype, shape.kv_dtype, heads, queries, shape.persistent)
    if folded is None:
        return Refusal("mla_decode_fwd", f"asserts: {number_of(heads, 'head')} and max_seqlen_q {queries} are not supported")
    if folded.fold > 1 and (shape.o_is_apart or (shape.q_is_apart and not folded.copied)):
        return Refusal("mla_decode_fwd", f"RuntimeError: {NO_VIEW}")
    key = KernelKey(
        q_dtype=shape.q_dtype,
        kv_dtype=shape.kv_dtype,
        gqa_ratio=folded.heads_in_kernel,
        persistent=shape.persistent,
        max_seqlen_q=queries,
        return_lse=shape.return_lse,
        causal=shape.causal,
        round_robin=shape.round_robin,
    )
    table = None if source is None else source_table(source, device.arch)
    if not shape.causal and not (release.launcher.asks_for_causal if table is None else table.causal):
        label = f"release {release.name}" if table is None else table.label
        return Refusal("mla_decode_fwd", f"{label} has no argument causal")
    has_ranks = release.public_calls is PublicCalls.CONTEXT_PARALLEL
    if not has_ranks and (shape.round_robin or (shape.cp_world_size, shape.cp_rank) != (1, 0)):
        return Refusal("mla_decode_fwd", f"release {release.name} has no arguments g_kv_indptr, cp_world_size, cp_rank")
    ends = release.launcher.checks_end_process
    if shape.round_robin and not 0 <= shape.cp_rank < shape.cp_world_size:
        reason = "cp_rank must be in [0, cp_world_size) when g_kv_indptr is provided"
        return Refusal("mla_decode_stage1_asm_fwd", reason, ends_process=ends)
    if shape.q_is_apart and not folded.copied:
        return Refusal("mla_decode_stage1_asm_fwd", "only support Q.is_contiguous() for now", ends_process=ends)
    missing = _missing_scale(release, shape)
    if missing is not None:
        return Refusal("mla_decode_stage1_asm_fwd", missing, ends_process=ends)
    kernel = choose_kernel(release, device, key, table, source)
    if isinstance(kernel, NoKernel):
        launched = "" if key.gqa_ratio == heads else f"{number_of(heads, 'head')} launched as {key.gqa_ratio}: "
        return Refusal("mla_decode_stage1_asm_fwd", launched + kernel.reason, kernel.missing_key, ends_process=ends)
    values = kernarg_values(release, key, kernel, shape.page_size, shape.splits, shape.qk_head_dim)
    values |= {
        "s_Bs": shape.page_bytes,
        "s_cp_world_size": max(shape.cp_world_size, 1),
        "s_cp_rank": max(shape.cp_rank, 0),
        "scalar": shape.scale,
    }
    if shape.kv_dtype is DType.FP8 and shape.q_dtype is not DType.FP8 and not shape.kv_scale:
        values["ptr_KVSCALE"] = 0  # the launcher leaves it null, and no kernel asks
    return _Plan(
        folded=folded,
        kernel=kernel,
        kernargs=layout(release.kernarg_size, values),
        logits_is_o=not shape.persistent and shape.splits == 1 and release.decode.logits_are_o(key),
        mgc=0 if shape.persistent else release.decode.least_split_tokens(key),
    )


def _missing_scale(release: Release, shape: _Shape) -> str | None:
    """Why the launcher raises for a scale that is not handed over; None where it does not look, or all are there."""
    checks = release.launcher.fp8_q_needs_scales
    if shape.q_dtype is DType.FP8 and not (shape.q_scale and shape.kv_scale):
        return "fp8 Q requires q_scale and kv_scale" if checks else "std::bad_optional_access (q_scale, kv_scale)"
    if shape.kv_dtype is DType.FP8 and not shape.kv_scale and not checks:
        return "std::bad_optional_access (kv_scale)"
    return None


def kernarg_values(
    release: Release, key: KernelKey, kernel: KernelChoice, page_size: int, splits: int, qk_head_dim: int
) -> dict[str, KernargValue]:
    """What the launcher puts into each field, by name. qk_head_dim: elements of a row of q and of a KV token, as they are."""
    unset: KernargValue = 0 if release.kernargs_zeroed else None
    fp8_q, fp8_kv = key.q_dtype is DType.FP8, key.kv_dtype is DType.FP8
    # 2026 passes o to persistent kernels only (aiter#2983 is about a kernel that stores through it nevertheless).
    passes_o = key.persistent or release.launcher.always_passes_o
    return {
        "ptr_R": "logits",
        "ptr_LSE": "attn_lse",
        "ptr_Q": "q",
        "ptr_KV": "kv_buffer",
        "ptr_LTP": "kv_indptr",
        "ptr_LTD": "kv_indices",
        "ptr_LTL": "kv_last_page_lens",
        "scalar": 1.0 / qk_head_dim**0.5,
        "s_MQA": kernel.s_mqa,
        "s_kv_split": splits,
        "s_Q_Bs": key.gqa_ratio * qk_head_dim * key.q_dtype.itemsize * key.max_seqlen_q,
        "s_Bs": page_size * qk_head_dim * key.kv_dtype.itemsize,
        "s_log2_plen": page_size.bit_length() - 1,
        "ptr_QTP": "qo_indptr",
        "ptr_STP": "work_meta_data" if key.persistent else "num_kv_splits_indptr",
        "ptr_RP": "o" if passes_o else 0,
        "ptr_QSCALE": "q_scale" if fp8_q else unset,
        "ptr_KVSCALE": "kv_scale" if fp8_q or fp8_kv else unset,
        "out_16_nosplit": splits if passes_o else release.launcher.out_16_nosplit(splits),
        "ptr_LSEP": "final_lse" if key.return_lse else 0,
        "ptr_GKVTP": "g_kv_indptr" if key.round_robin else 0,
        "s_cp_world_size": 1,
        "s_cp_rank": 0,
    }


def _persistent_launch(
    release: Release, device: TargetGpu, arguments: DecodeArguments, metadata: BufferSizes, plan: _Plan
) -> Launch:
    heads, rows = plan.folded.heads_in_kernel, arguments.output_rows * plan.folded.fold
    partial_rows = metadata.reduce_partial_map * arguments.max_seqlen_q
    tensors = {
        "logits": TensorSpec((partial_rows, 1, heads, arguments.v_head_dim), ElementType.F32),
        "attn_lse": TensorSpec((partial_rows, 1, heads, 1), ElementType.F32),
        "work_meta_data": _WORK_META_DATA,
        "work_indptr": TensorSpec((metadata.work_indptr,), ElementType.I32),
        "work_info_set": TensorSpec((metadata.work_info_set // 8, 8), ElementType.I32),
        "reduce_indptr": TensorSpec((metadata.reduce_indptr,), ElementType.I32),
        "reduce_final_map": TensorSpec((metadata.reduce_final_map // 2, 2), ElementType.I32),
        "reduce_partial_map": TensorSpec((metadata.reduce_partial_map,), ElementType.I32),
    }
    _add_call_tensors(tensors, arguments, rows, heads)
    # 2025-11 allocates and writes final_lse whether it is asked for or not.
    stores_lse = arguments.return_lse or not release.has_return_lse
    extra = {}
    if stores_lse and not arguments.return_lse:
        extra["final_lse"] = TensorSpec((rows, heads), ElementType.F32)
    max_splits = device.num_cu
    if release.decode.reduces_by_splits and arguments.num_kv_splits is not None:
        max_splits = max(max_splits, arguments.num_kv_splits)
    second = reduce_stage(
        release,
        device,
        heads,
        metadata.reduce_indptr - 1,
        max_splits,
        arguments.max_seqlen_q,
        stores_lse,
        arguments.v_head_dim,
        arguments.o_dtype,
        extra,
    )
    return _launch(
        release,
        device,
        arguments,
        plan,
        persistent=True,
        grid=(metadata.work_indptr - 1, 1, 1),
        tensors=tensors,
        splits=1,
        second=second,
        raises_afterwards=_raises_afterwards(release, arguments, plan.folded, partial_rows),
    )


def _split_launch(
    release: Release, device: TargetGpu, arguments: DecodeArguments, plan: _Plan, batch: int, splits: int
) -> Launch:
    heads, rows = arguments.num_head, arguments.output_rows
    logits_type = ELEMENT_OF_OUTPUT[arguments.o_dtype] if plan.logits_is_o else ElementType.F32
    tensors = {
        "logits": TensorSpec((rows, splits, heads, arguments.v_head_dim), logits_type),
        "attn_lse": TensorSpec((rows, splits, heads, 1), ElementType.F32),
        "num_kv_splits_indptr": TensorSpec((batch + 1,), ElementType.I32),
    }
    _add_call_tensors(tensors, arguments, rows, heads)
    extra = {}
    if release.decode.counts_valid_splits and not plan.logits_is_o:
        extra["valid_split_count"] = TensorSpec((batch,), ElementType.I32)
    merges_always = arguments.max_seqlen_q == 1 and heads in release.decode.merging_heads
    second = SecondStage(
        kind=SecondStageKind.NONE if plan.logits_is_o else SecondStageKind.TRITON,
        num_head=heads,
        max_splits=splits,
        mgc=plan.mgc,
        merges_tokens=release.reduction.merges_tokens,
        logits_is_o=plan.logits_is_o,
        maybe_final_out=not merges_always,
        stores_lse=arguments.return_lse and not plan.logits_is_o,
        tensors=extra,
    )
    tiles_x = (arguments.max_seqlen_q * heads + plan.kernel.sub_q - 1) // plan.kernel.sub_q
    return _launch(
        release,
        device,
        arguments,
        plan,
        persistent=False,
        grid=(tiles_x, batch, splits),
        tensors=tensors,
        splits=splits,
        second=second,
    )


_WORK_META_DATA = TensorSpec((2,), ElementType.U64)
_SCALE = TensorSpec((1,), ElementType.F32)


def _add_call_tensors(tensors: dict[str, TensorSpec], arguments: DecodeArguments, rows: int, heads: int) -> None:
    """The caller's tensors, as viewed by the kernel, in mla_decode_fwd's order."""
    q_rows = rows - arguments.output_rows + arguments.q_rows  # where they differ, nothing is folded
    tensors["q"] = TensorSpec((q_rows, heads, arguments.qk_head_dim), ELEMENT_OF[arguments.q_dtype])
    o_gap = arguments.o_gap if arguments.output_rows > 1 else 0
    tensors["o"] = TensorSpec((rows, heads, arguments.v_head_dim), ELEMENT_OF_OUTPUT[arguments.o_dtype], o_gap)
    pool = (arguments.kv_pages, arguments.page_size, 1, arguments.qk_head_dim)
    tensors["kv_buffer"] = TensorSpec(pool, ELEMENT_OF[arguments.kv_dtype], arguments.kv_gap if arguments.kv_pages > 1 else 0)
    tensors |= {name: TensorSpec((len(getattr(arguments, name)),), ElementType.I32) for name in INDEX_TENSORS}
    tensors |= dict.fromkeys(SCALES, _SCALE)
    if arguments.return_lse:
        tensors["final_lse"] = TensorSpec((rows, heads), ElementType.F32)
    if arguments.g_kv_indptr is not None:
        tensors["g_kv_indptr"] = TensorSpec((len(arguments.g_kv_indptr),), ElementType.I32)


def _launch(
    release: Release,
    device: TargetGpu,
    arguments: DecodeArguments,
    plan: _Plan,
    *,
    persistent: bool,
    grid: tuple[int, int, int],
    tensors: dict[str, TensorSpec],
    splits: int,
    second: SecondStage,
    raises_afterwards: str | None = None,
) -> Launch:
    kernel, folded = plan.kernel, plan.folded
    return Launch(
        release=release,
        symbol=kernel.symbol,
        code_object=kernel.code_object,
        blob_id=kernel.blob_id,
        arch=device.arch,
        persistent=persistent,
        fold=folded.fold,
        heads_in_kernel=folded.heads_in_kernel,
        max_seqlen_q=arguments.max_seqlen_q,
        q_copied=folded.copied,
        grid=grid,
        block=BLOCK,
        sub_q=kernel.sub_q,
        s_mqa=kernel.s_mqa,
        kernargs=plan.kernargs,
        tensors=tensors,
        num_kv_splits=splits,
        second_stage=second,
        shadowed=kernel.shadowed,
        raises_afterwards=raises_afterwards,
    )
